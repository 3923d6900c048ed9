# SPDX-License-Identifier: GPL-2.0-only
"""What a statement did, in words of at most 78 columns.

The first line of a call is its status or event.  Registers follow that the call changed
and that are not 0, then what they mean: the entry that an error shows, who delays
tracking, why the guest left.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Final

from septum.tdx.console.expect import Ending
from septum.tdx.console.lexer import level_name
from septum.tdx.console.names import Names
from septum.tdx.console.session import Outcome, Session
from septum.tdx.console.statement import (
    Call,
    Define,
    GuestEvent,
    HoldLock,
    MakeTables,
    MakeTd,
    Platform,
    Show,
)
from septum.tdx.enter import EXIT_EPT_VIOLATION, EXIT_EXTERNAL_INTERRUPT, EXIT_TDCALL
from septum.tdx.guest import EEQ_ACCEPT, EEQ_ATTR_WR, EEQ_PENDING
from septum.tdx.pamt import SIZE_NAMES, PageType
from septum.tdx.profiles import find_profile
from septum.tdx.regs import REGISTERS
from septum.tdx.sept import NULL_PA, PS, PUBLIC_STATES, hpa_of
from septum.tdx.show import show_locks, show_pamt, show_td, show_tree, show_vcpus
from septum.tdx.status import (
    TDX_GPA_RANGE_ALREADY_BLOCKED,
    TDX_INTERRUPTED_RESTARTABLE,
    TDX_PREVIOUS_TLB_EPOCH_BUSY,
    TDX_TLB_TRACKING_NOT_DONE,
    is_error,
    status_class,
)

__all__ = ["INDENT", "WIDTH", "explain", "view"]

WIDTH: Final = 78
INDENT: Final = 6  # of these lines in the output of a script
_EXITS: Final = {
    EXIT_EXTERNAL_INTERRUPT: "external interrupt",
    EXIT_EPT_VIOLATION: "EPT violation",
    EXIT_TDCALL: "TDCALL",
}
_EEQ: Final = {
    EEQ_ACCEPT: "the guest wanted to ACCEPT",
    EEQ_ATTR_WR: "the guest wanted to write attributes",
    EEQ_PENDING: "the page is PENDING",
}
_VECTORS: Final = {
    20: "the page is PENDING; TDG.VP.VEINFO.GET tells the guest more",
    8: "a second #VE before TDG.VP.VEINFO.GET read the first",
}
_METADATA: Final = ("TDH.PHYMEM.PAGE.RDMD", "TDH.PHYMEM.PAGE.RECLAIM")


def explain(session: Session, outcome: Outcome, *, registers: bool = False) -> list[str]:
    """Lines about a statement just executed.

    :param registers: show every register of a call, in and out.
    """
    lines: list[str] = []
    for paragraph in _paragraphs(session, outcome, registers):
        for line in paragraph.split("\n"):
            indent = " " * (len(line) - len(line.lstrip()) + 2)
            lines += textwrap.wrap(
                line,
                WIDTH - INDENT,
                subsequent_indent=indent,
                break_on_hyphens=False,
                replace_whitespace=False,
                drop_whitespace=True,
            ) or [""]
    return lines


def _paragraphs(session: Session, outcome: Outcome, registers: bool) -> Iterator[str]:
    match outcome.statement:
        case Show(what, td):
            yield view(session, what, td)
        case Define(values):
            for name, value in values:
                yield f"{name} = {value:#x}"
        case Platform() as platform:
            yield _platform(platform)
        case MakeTd() as made:
            yield _td(session, made, outcome)
        case MakeTables():
            yield _tables(session.names, outcome) or "nothing was missing"
        case HoldLock() as hold:
            yield _hold(hold, outcome)
        case _:
            yield from _ended(session, outcome, registers)


# --- calls and guest events --------------------------------------------------------------------


def _ended(session: Session, outcome: Outcome, registers: bool) -> Iterator[str]:
    ending = outcome.ending
    assert ending is not None
    if registers and isinstance(outcome.statement, Call):
        yield _registers_in(outcome.statement, outcome)
    yield _headline(session, ending, outcome)
    shown = _registers_out(session.names, ending, outcome, registers)
    if shown:
        yield shown
    yield from _notes(session, ending, outcome)
    for finding in outcome.findings:
        yield f"finding {finding}"
    statement = outcome.statement
    if not outcome.met and isinstance(statement, Call | GuestEvent) and statement.expect:
        yield f"NOT AS EXPECTED: {statement.expect.text}"


def _headline(session: Session, ending: Ending, outcome: Outcome) -> str:
    text = str(ending)
    if is_error(ending.rax):
        text += f"  {ending.rax:#x}"
    if ending.event == "ok":
        page, offset = session.names.page(outcome.hpa & ~0xFFF), outcome.hpa & 0xFFF
        text += f"  at {outcome.hpa:#x} ({page}{f'+{offset:#x}' if offset else ''})"
    extras: list[str] = []
    statement = outcome.statement
    if isinstance(statement, Call):
        if statement.count > 1:
            extras.append(f"call {outcome.ran} of {statement.count}")
        if ending.event == "td-entry":
            extras.append(f"LP {outcome.lp} is in the guest")
    if outcome.flush:
        extras.append("the LP's translations were flushed")
    return f"{text}  ({'; '.join(extras)})" if extras else text


def _registers_in(call: Call, outcome: Outcome) -> str:
    rax = call.form.number | call.version << 16
    given = outcome.inputs
    shown = [f"rax={rax:#x}", *(f"{n}={given[n]:#x}" for n in REGISTERS if n in given)]
    return f"in   {' '.join(shown)}  LP {outcome.lp}"


def _registers_out(names: Names, ending: Ending, outcome: Outcome, every: bool) -> str:
    """The registers that the call changed."""
    inputs = outcome.inputs
    changed = {
        name: value
        for name, value in ending.regs.items()
        if (value if ending.event or not inputs else value != inputs.get(name, 0))
    }
    if ending.event in ("td-entry", "inject", "retry", "ok"):
        changed = {}
    if every:
        return f"out  {_list(changed)}" if changed else ""
    metadata = isinstance(outcome.statement, Call) and outcome.statement.form.name in _METADATA
    return _list({n: v for n, v in changed.items() if v}, None if metadata else names)


def _list(regs: dict[str, int], names: Names | None = None) -> str:
    words: list[str] = []
    for register, value in regs.items():
        text = f"{register}={value:#x}"
        if value == NULL_PA:
            text = f"{register}=NULL_PA"
        elif names is not None and register in ("rcx", "rdx") and names.page(value) != hex(value):
            text += f" ({names.page(value)})"
        words.append(text)
    return " ".join(words)


def _notes(session: Session, ending: Ending, outcome: Outcome) -> Iterator[str]:
    statement = outcome.statement
    if ending.event == "halt":
        yield f"the module has stopped: {session.stopped}"
    elif ending.event == "td-exit":
        yield _exit(ending)
    elif ending.event == "inject":
        yield _VECTORS[ending.vector]
    elif ending.event == "retry":
        yield "interrupted: the guest repeats the TDCALL"
    elif isinstance(statement, Call):
        yield from _call_notes(session, statement, ending, outcome)


def _exit(ending: Ending) -> str:
    reason = ending.rax & 0xFFFF
    text = f"the guest left: {_EXITS.get(reason, f'exit reason {reason}')}"
    if reason == EXIT_EPT_VIOLATION:
        access = "write" if ending.regs["rcx"] & 2 else "read"
        eeq = _EEQ.get(ending.regs["rdx"] & 0xF, "")
        text += f" at GPA {ending.regs['r8']:#x} ({access}{'; ' + eeq if eeq else ''})"
    return text


def _call_notes(session: Session, call: Call, ending: Ending, outcome: Outcome) -> Iterator[str]:
    name, regs, code = call.form.name, ending.regs, status_class(ending.rax)
    if name == "TDH.VP.ENTER" and ending.rax == EXIT_EPT_VIOLATION:
        yield (
            f"not entered: the EPT violation at GPA {regs['r8']:#x} still stands (zero-step"
            " mitigation)"
        )
    elif name in _METADATA and (not ending.rax or regs["rcx"] not in (0, outcome.inputs["rcx"])):
        yield _metadata(session.names, regs)
    elif code in (TDX_TLB_TRACKING_NOT_DONE, TDX_PREVIOUS_TLB_EPOCH_BUSY):
        yield _tracking(session, call, outcome, code)
    elif _shows_entry(call, ending, outcome):
        yield _entry(session.names, regs["rcx"], regs["rdx"])


def _metadata(names: Names, regs: Mapping[str, int]) -> str:
    kind, size = regs["rcx"], regs["r8"]
    text = PageType(kind).name if kind in set(PageType) else str(kind)
    owner = f" of {names.page(regs['rdx'])}" if regs["rdx"] else ""
    owner += " (stale)" if owner and kind == PageType.NDA else ""
    wide = SIZE_NAMES[size] if size < len(SIZE_NAMES) else str(size)
    return f"PT_{text}{owner}, {wide}"


def _shows_entry(call: Call, ending: Ending, outcome: Outcome) -> bool:
    """RCX and RDX hold details of an S-EPT entry."""
    name, code = call.form.name, status_class(ending.rax)
    if not name.startswith("TDH.MEM.") and name != "TDH.MR.EXTEND":
        return False
    if code == TDX_INTERRUPTED_RESTARTABLE or not call.form.td or name == "TDH.MEM.TRACK":
        return False
    error = ending.rax >> 63 or code == TDX_GPA_RANGE_ALREADY_BLOCKED
    if not error and name != "TDH.MEM.SEPT.RD":
        return False
    rcx, rdx = ending.regs["rcx"], ending.regs["rdx"]
    return bool(rcx | rdx) and rdx >> 18 == 0 and rdx != outcome.inputs.get("rdx")


def _entry(names: Names, rcx: int, rdx: int) -> str:
    state = PUBLIC_STATES.get(rdx >> 8 & 0xFF)
    page = f" of {names.page(hpa_of(rcx))}" if rcx & PS else ""
    told = state.name if state is not None else f"state {rdx >> 8}"
    return f"entry: {told}{page} at {level_name(rdx & 7)}"


def _tracking(session: Session, call: Call, outcome: Outcome, code: int) -> str:
    """Who must leave the guest before tracking is done."""
    module = session.module
    td = module.td(outcome.inputs.get(call.form.td, 0) & ~0xFFF)
    epoch = td.epoch.v
    before = td.refcounts[(epoch - 1) & 1].v
    inside = f"{before} vCPU{'s' if before != 1 else ''} in the guest since epoch {epoch - 1}"
    if code == TDX_PREVIOUS_TLB_EPOCH_BUSY:
        return f"TD_EPOCH is {epoch}; {inside}"
    rcx = outcome.inputs.get("rcx", 0)
    spot = module.peek_sept(td.hpa, rcx & ~0xFFF, rcx & 7)
    at = hpa_of(spot.raw)
    size = spot.level if spot.raw & PS else 0
    blocked = module.pamt.entry(at & -(1 << module.pamt.shift[size]), size).bepoch.v
    if blocked >= epoch:
        return f"blocked in epoch {blocked}, TD_EPOCH is {epoch}: TDH.MEM.TRACK has not run since"
    return f"blocked in epoch {blocked}, TD_EPOCH is {epoch}: {inside}"


# --- fixtures and views ------------------------------------------------------------------------


def _platform(platform: Platform) -> str:
    profile = find_profile(platform.profile)
    return (
        f"{platform.lps} LPs, {platform.packages} packages, {platform.levels} levels,"
        f" GPAW {platform.gpaw}, module {profile}"
    )


def _td(session: Session, made: MakeTd, outcome: Outcome) -> str:
    vcpus = f"{made.vcpus} vCPU{'s' if made.vcpus != 1 else ''}"
    tables = _tables(session.names, outcome)
    return f"{made.name}: {made.state}, {vcpus}" + (f"; {tables}" if tables else "")


def _tables(names: Names, outcome: Outcome) -> str:
    pages = " ".join(names.page(page) for page in outcome.tables)
    return f"S-EPT pages added: {pages}" if pages else ""


def _hold(hold: HoldLock, outcome: Outcome) -> str:
    if not hold.acquire:
        return "dropped"
    return "held" if outcome.got else "busy: not got"


def view(session: Session, what: str, td: int) -> str:
    """A part of the state, as ``show`` prints it."""
    module, name = session.module, session.names.page
    texts = {
        "tree": lambda: f"S-EPT of {name(td)}\n{show_tree(module, td, name)}",
        "state": lambda: show_td(module, td, name),
        "vcpus": lambda: show_vcpus(module, td, name),
        "pamt": lambda: show_pamt(module, name),
        "locks": lambda: show_locks(module, td, name),
        "names": lambda: _names(session.names),
    }
    if what != "all":
        return texts[what]()
    parts = ("state", "vcpus", "tree", "locks")
    return "\n".join(texts[part]() for part in parts)


def _names(names: Names) -> str:
    tables = (("page", names.pages), ("gpa", names.gpas))
    lines = [f"{kind} {n} = {v:#x}" for kind, table in tables for n, v in table.items()]
    lines += [f"td {td} = {names.value(td):#x}" for td in names.tds]
    return "\n".join(
        [*lines, "and tdcx0.., vcpu0.., s0.. (S-EPT pages), p0.. (4K pages), m0.. (2M pages)"]
    )
