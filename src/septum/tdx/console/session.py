# SPDX-License-Identifier: GPL-2.0-only
"""Executes statements on a `TdxModule`, one after the other.

A statement that cannot be done (an LP that is in the guest makes no SEAMCALL) changes
nothing.  So does one that is interrupted.  `undo` goes back statement by statement, by
the machine's journal.  A call that the module refuses is not such an error: its status is
the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from septum.machine import Halt, Machine
from septum.machine.geometry import PAGE_SHIFT, Geometry
from septum.tdx.build import make_td
from septum.tdx.config import Config, TdParams
from septum.tdx.console.expect import Ending, spell
from septum.tdx.console.lexer import ARROW, ScriptError, level_name, split
from septum.tdx.console.names import Names, layout_of, table_pages
from septum.tdx.console.parser import Parser
from septum.tdx.console.statement import (
    Call,
    Define,
    GuestEvent,
    HoldLock,
    MakeTables,
    MakeTd,
    Platform,
    Show,
    Statement,
)
from septum.tdx.dump import tdrs
from septum.tdx.module import TdxModule
from septum.tdx.pamt import PageType
from septum.tdx.presets import Locks
from septum.tdx.profiles import find_profile
from septum.tdx.regs import REGISTERS, GuestResult, Result
from septum.tdx.sept import RWX
from septum.tdx.status import decode

__all__ = ["Done", "Outcome", "Session"]

_GUEST_REGISTERS = ("rcx", "rdx", "r8", "r9")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a statement did.

    :ivar ending: how a call or guest event ended; None for other statements.
    :ivar lp: where it ran.
    :ivar inputs: a call's registers (those of the last repetition).
    :ivar ran: how many repetitions ran.
    :ivar flush: the LP's translations were flushed.
    :ivar hpa: of a guest's access.
    :ivar tables: S-EPT pages that a fixture added.
    :ivar got: whether a lock was got.
    :ivar findings: what the machine reported meanwhile.
    :ivar met: whether the expectation was met; True without one.
    """

    statement: Statement
    ending: Ending | None = None
    lp: int = 0
    inputs: dict[str, int] = field(default_factory=dict)
    ran: int = 1
    flush: bool = False
    hpa: int = 0
    tables: tuple[int, ...] = ()
    got: bool = True
    findings: tuple[str, ...] = ()
    met: bool = True


@dataclass(frozen=True, slots=True)
class _Before:
    """What `undo` goes back to."""

    module: TdxModule
    mark: int
    findings: int
    names: Names
    platform: Platform
    holds: tuple[tuple[object, ...], ...]
    stopped: str


@dataclass(frozen=True, slots=True)
class Done:
    """An executed statement."""

    text: str
    outcome: Outcome
    before: _Before

    def line(self) -> str:
        """As a script line that expects what happened."""
        words = [word.text for word in split(self.text)]
        if ARROW in words:
            words = words[: words.index(ARROW)]
        if self.outcome.ending is not None:
            words += [ARROW, spell(self.outcome.ending)]
        return " ".join(words)


class Session:
    """One platform and what was done to it.

    :ivar done: the statements that changed something, in order.
    :ivar stopped: why the module has stopped, or "".
    """

    def __init__(self) -> None:
        self.names = Names()
        self.platform = Platform()
        self.module = _module(self.platform)
        self.done: list[Done] = []
        self.holds: tuple[tuple[object, ...], ...] = ()
        self.stopped = ""

    # --- running ---------------------------------------------------------------------

    def run(self, text: str) -> Outcome | None:
        """Parse and execute one line.

        :raises ScriptError: nothing was changed.
        """
        parser = Parser(self.names, self.platform)
        statement = parser.parse(text)
        if statement is None:
            return None
        return self.execute(text, statement, parser.names)

    def execute(self, text: str, statement: Statement, names: Names) -> Outcome:
        """Execute a statement, after which ``names`` hold.

        :raises ScriptError: nothing was changed.
        """
        before = self._before()
        try:
            outcome = self._execute(statement)
        except BaseException:
            self._restore(before)
            raise
        self.names = names
        if not isinstance(statement, Show):
            self.done.append(Done(text, outcome, before))
        return outcome

    def _execute(self, statement: Statement) -> Outcome:
        match statement:
            case Call():
                return self._call(statement)
            case GuestEvent():
                return self._guest(statement)
            case Platform():
                return self._set_platform(statement)
            case MakeTd():
                return self._make_td(statement)
            case MakeTables():
                pages = tuple(self._make_tables(statement.td, statement.gpa, statement.level))
                return Outcome(statement, tables=pages)
            case HoldLock():
                return self._lock(statement)
            case Define() | Show():
                return Outcome(statement)

    def _before(self) -> _Before:
        m = self.module.m
        return _Before(
            self.module,
            m.mark(),
            len(m.findings),
            self.names,
            self.platform,
            self.holds,
            self.stopped,
        )

    def _restore(self, before: _Before) -> None:
        self.module = before.module
        self.module.m.rewind(before.mark)
        del self.module.m.findings[before.findings :]
        self.names = before.names
        self.platform = before.platform
        self.holds = before.holds
        self.stopped = before.stopped

    def undo(self) -> str | None:
        """Take the last statement back; its text, None if there is none."""
        if not self.done:
            return None
        last = self.done.pop()
        self._restore(last.before)
        return " ".join(word.text for word in split(last.text))

    def script(self) -> str:
        """What was done, as a script that expects the same results."""
        return "".join(f"{done.line()}\n" for done in self.done)

    def tds(self) -> list[int]:
        """TDR pages of the TDs that exist."""
        return tdrs(self.module)

    # --- who runs where --------------------------------------------------------------

    def in_guest(self) -> list[int]:
        """LPs on which a vCPU is in the guest."""
        lps = range(self.platform.lps)
        return [lp for lp in lps if self.module.lp(lp).guest.v is not None]

    def host_lp(self, wanted: int | None = None) -> int:
        """The LP that makes a SEAMCALL."""
        inside = self.in_guest()
        if wanted is None:
            free = [lp for lp in range(self.platform.lps) if lp not in inside]
            if not free:
                raise ScriptError("every LP is in the guest: guest interrupt @lp0 ends that")
            return free[0]
        if wanted in inside:
            vcpu = self.names.page(self.module.lp(wanted).guest.v)
            raise ScriptError(
                f"LP {wanted} is in the guest ({vcpu}) and makes no SEAMCALL:"
                f" use another, or first guest interrupt @lp{wanted}"
            )
        return wanted

    def guest_lp(self, wanted: int | None) -> int:
        """The LP on which something happens in the guest."""
        inside = self.in_guest()
        if wanted is not None and wanted in inside:
            return wanted
        if wanted is None and len(inside) == 1:
            return inside[0]
        if wanted is None and inside:
            raise ScriptError(f"which LP? {' or '.join(f'@lp{lp}' for lp in inside)}")
        where = f" @lp{wanted}" if wanted is not None else ""
        raise ScriptError(f"no vCPU is in the guest there: TDH.VP.ENTER vcpu0{where} comes first")

    def _runs(self) -> None:
        if self.stopped:
            raise ScriptError(f"the module has stopped ({self.stopped}): undo goes back")

    # --- calls -----------------------------------------------------------------------

    def _call(self, call: Call) -> Outcome:
        self._runs()
        lp = self.guest_lp(call.lp) if call.form.guest else self.host_lp(call.lp)
        seen = len(self.module.m.findings)
        regs = dict(call.regs)
        ran = 0
        flush = False
        while True:
            ran += 1
            ending, flushed = self._once(call, regs, lp)
            flush = flush or flushed
            if ran == call.count or ending.rax or ending.event in ("halt", "td-exit", "retry"):
                break
            for register, stride in call.strides.items():
                regs[register] = (regs.get(register, 0) + stride) & 0xFFFFFFFFFFFFFFFF
        return Outcome(
            call,
            ending,
            lp,
            regs,
            ran,
            flush,
            findings=self._findings(seen),
            met=call.expect is None or call.expect.met(ending),
        )

    def _once(self, call: Call, regs: dict[str, int], lp: int) -> tuple[Ending, bool]:
        """One call; whether it flushed."""
        try:
            if call.form.guest:
                return _guest_ending(
                    self.module.tdcall(call.form.number, regs, lp, call.cond)
                ), False
            leaf = call.form.number | call.version << 16
            result = self.module.seamcall(leaf, regs, lp, call.cond)
            return _ending(result), result.flush
        except Halt:
            return self._halted(), False

    def _halted(self) -> Ending:
        self.stopped = self.module.m.findings[-1].message
        return Ending("halt", 0, 0, {})

    def _findings(self, since: int) -> tuple[str, ...]:
        return tuple(f"{f.rule}: {f.message}" for f in self.module.m.findings[since:])

    def _guest(self, event: GuestEvent) -> Outcome:
        self._runs()
        lp = self.guest_lp(event.lp)
        if event.gpa >> PAGE_SHIFT >> self.module.geometry.gfn_bits:
            raise ScriptError(f"the guest's tables do not reach GPA {event.gpa:#x}")
        seen = len(self.module.m.findings)
        hpa = 0
        try:
            result = self._happen(event, lp)
            ending, hpa = _guest_ending(result), result.hpa
        except Halt:
            ending = self._halted()
        except ValueError as error:
            raise ScriptError(str(error)) from None
        return Outcome(
            event,
            ending,
            lp,
            hpa=hpa,
            findings=self._findings(seen),
            met=event.expect is None or event.expect.met(ending),
        )

    def _happen(self, event: GuestEvent, lp: int) -> GuestResult:
        if event.kind == "interrupt":
            return self.module.guest_interrupt(lp, event.cond)
        if event.kind == "ept-violation":
            return self.module.guest_ept_violation(lp, event.gpa, event.cond)
        return self.module.guest_access(lp, event.gpa, event.kind == "touch", event.cond)

    # --- fixtures --------------------------------------------------------------------

    def _set_platform(self, platform: Platform) -> Outcome:
        if any(not isinstance(done.outcome.statement, Define | Platform) for done in self.done):
            raise ScriptError("'platform' comes before every call and fixture")
        self.platform = platform
        self.module = _module(platform)
        return Outcome(platform)

    def _make_td(self, made: MakeTd) -> Outcome:
        self._runs()
        layout = layout_of(made.slot)
        if self.module.pamt.leaf(layout.tdr).type is PageType.TDR:
            raise ScriptError(f"there is a TD {made.name} already")
        if inside := self.in_guest():
            raise ScriptError(f"'td' needs every LP: LP {inside[0]} is in the guest")
        params = self.module.td_params
        params[0] = TdParams(made.max_vcpus, made.hp_lock_timeout, made.pending_ve_disable)
        try:
            built = make_td(
                self.module,
                made.vcpus,
                made.state,
                hkid=made.hkid,
                layout=layout,
                associate=made.associate,
            )
        except RuntimeError as error:
            raise ScriptError(f"the TD cannot be built: {error}") from None
        finally:
            del params[0]
        pages = [page for gpa in made.tables for page in self._make_tables(built.tdr, gpa, 0)]
        return Outcome(made, tables=tuple(pages))

    def _make_tables(self, tdr: int, gpa: int, level: int) -> Iterator[int]:
        """SEPT.ADD from the top down to the table that holds the entry."""
        self._runs()
        module = self.module
        if self.module.pamt.leaf(tdr).type is not PageType.TDR or not module.td(tdr).sept_root:
            raise ScriptError(f"{self.names.page(tdr)} is no TD with an S-EPT")
        if not module.gpa_valid(gpa):
            raise ScriptError(f"GPA {gpa:#x} is shared or too wide")
        lp = self.host_lp()
        for at in range(module.sept.top, level, -1):
            if module.peek_sept(tdr, gpa, at).raw & RWX:
                continue
            page = self._free_table()
            base = gpa & -module.geometry.bytes_per_level(at + 1)
            result = module.tdh_mem_sept_add(tdr, base, at, page, lp=lp)
            if result.rax:
                raise ScriptError(
                    f"TDH.MEM.SEPT.ADD {base:#x} {level_name(at)} returned {decode(result.rax)}"
                )
            yield page

    def _free_table(self) -> int:
        for page in table_pages():
            if self.module.pamt.leaf(page).type is PageType.NDA:
                return page
        raise ScriptError("no page is left for the S-EPT")

    # --- locks -----------------------------------------------------------------------

    def _lock(self, hold: HoldLock) -> Outcome:
        self._runs()
        self._lock_exists(hold)
        inputs: dict[str, object] = {
            "lock": hold.lock,
            "op": "acquire" if hold.acquire else "release",
            "mode": hold.mode,
            "agent": hold.mode,
            **hold.where,
        }
        key = hold.key()
        if not hold.acquire and key not in self.holds:
            raise ScriptError("nobody holds that: 'drop' is written like its 'hold'")
        got = bool(Locks(self.module, hold.td).run(inputs)["ok"])
        if hold.acquire and got:
            self.holds = (*self.holds, key)
        elif not hold.acquire:
            at = self.holds.index(key)
            self.holds = self.holds[:at] + self.holds[at + 1 :]
        return Outcome(hold, got=got)

    def _lock_exists(self, hold: HoldLock) -> None:
        hpa = hold.where.get("hpa")
        if isinstance(hpa, int) and self.module.config.tdmr_of(hpa) is None:
            raise ScriptError(f"{hpa:#x} is in no TDMR, so it has no PAMT entry")
        gpa, level = hold.where.get("gpa"), hold.where.get("level")
        if isinstance(gpa, int) and isinstance(level, int):
            if not self.module.td(hold.td).sept_root or not self.module.gpa_valid(gpa):
                raise ScriptError(f"no S-EPT translates GPA {gpa:#x}")
            found = self.module.peek_sept(hold.td, gpa, level).level
            if found != level:
                raise ScriptError(f"the walk to {gpa:#x} ends at {level_name(found)}")


def _module(platform: Platform) -> TdxModule:
    profile = find_profile(platform.profile)
    assert profile is not None
    return TdxModule(
        Machine(),
        Geometry(levels=platform.levels, shared=51 if platform.gpaw else 47),
        profile,
        Config(lps=platform.lps, packages=platform.packages),
    )


def _ending(result: Result) -> Ending:
    regs = {name: getattr(result, name) for name in REGISTERS}
    return Ending(result.event, result.rax, 0, regs)


def _guest_ending(result: GuestResult) -> Ending:
    regs = {name: getattr(result, name) for name in _GUEST_REGISTERS}
    return Ending(result.event, result.rax, result.vector, regs)
