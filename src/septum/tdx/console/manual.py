# SPDX-License-Identifier: GPL-2.0-only
"""Help texts: calls, status codes, statements.

A call's text is its handler's docstring (so it is next to the code that it describes),
followed by what tables say: the states in which it is allowed and every status it can
return.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

from septum.tdx.console import directives, expect
from septum.tdx.console.calls import CALLS, resolve_call
from septum.tdx.console.lexer import number
from septum.tdx.console.names import nearest
from septum.tdx.handlers import handler_doc
from septum.tdx.sept import ALLOWED
from septum.tdx.state import OP_STATES
from septum.tdx.status import NAMES, VALUES, Operand, decode, is_error, status_class

__all__ = ["TOPICS", "call_manual", "errors_of", "overview", "status_manual", "topic"]

_WIDTH: Final = 78
_ERRORS: Final = 34  # the column of the errors in a list of checks
_PAGE: Final = (
    "OPERAND_INVALID",
    "OPERAND_ADDR_RANGE_ERROR",
    "OPERAND_BUSY",
    "PAGE_METADATA_INCORRECT",
)
_TD_STATE: Final = ("TD_FATAL", "TD_KEYS_NOT_CONFIGURED", "TDCS_NOT_ALLOCATED")
_ANY_PAGE: Final = re.compile(r"\.\.\.\|(\w+)")
_STATUS: Final = re.compile(r"\b([A-Z][A-Z0-9_]{4,})(?:\|(\w+)(?:\.\.(\w+))?)?")


def _fill(text: str, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        _WIDTH,
        initial_indent=first,
        subsequent_indent=rest or " " * len(first),
        break_on_hyphens=False,
    )


# --- calls -----------------------------------------------------------------------------------


def call_manual(name: str) -> str:
    """Everything about a call: how to write it, inputs, checks in order with their errors,
    effects, allowed states, source."""
    form = CALLS[name]
    kind = "TDCALL" if form.guest else "SEAMCALL"
    lines = [f"{name}  ({kind} leaf {form.number})"]
    body = handler_doc(name).split("\n\n")
    lines += _fill(body[0])
    lines += ["", *_fill(form.usage(), "Script   ")]
    for paragraph in body[1:]:
        lines.append("")
        lines += _checks(paragraph) if paragraph.startswith("Checks") else _fill(paragraph)
    lines += ["", *_states(name)]
    lines += _fill(", ".join(errors_of(name)) or "none", "Errors   ")
    return "\n".join(lines)


def _checks(paragraph: str) -> list[str]:
    """The list of checks, and what its short forms stand for."""
    lines: list[str] = []
    for line in paragraph.split("\n"):
        lines += _check_line(line)
    if _ANY_PAGE.search(paragraph):
        lines += _fill(
            "OPERAND_INVALID (alignment, HKID bits), OPERAND_ADDR_RANGE_ERROR (in no TDMR),"
            " OPERAND_BUSY (its PAMT entries: 1G, 2M, 4K), PAGE_METADATA_INCORRECT (its type)",
            "  ... is, in order: ",
            "    ",
        )
    if "TD state" in paragraph:
        lines += _fill(", ".join(_td_state(paragraph)), "  TD state is, in order: ", "    ")
    if "details" in paragraph:
        lines += _fill("RCX is the entry, RDX its level and state", "  details: ")
    return lines


def _check_line(line: str) -> list[str]:
    """A check and its error, in two columns where both fit."""
    indent = len(line) - len(line.lstrip())
    left, _, right = line.strip().partition("  ")
    if not right:
        return _fill(line, " " * indent, " " * (indent + 2))
    head = " " * indent + left
    column = " " * _ERRORS
    if len(head) < _ERRORS:
        return _fill(right, f"{head:<{_ERRORS}}", column)
    return [*_fill(left, " " * indent, " " * (indent + 2)), *_fill(right, column)]


def _td_state(paragraph: str) -> tuple[str, ...]:
    busy = ("OPERAND_BUSY|OP_STATE",) if re.search(r"OP_STATE[^,\n]*, shared", paragraph) else ()
    return (*_TD_STATE, *busy, "OP_STATE_INCORRECT")


def _states(name: str) -> Iterator[str]:
    if name in OP_STATES:
        yield from _fill(", ".join(s.name for s in sorted(OP_STATES[name])), "OP_STATE ")
    if name in ALLOWED:
        yield from _fill(", ".join(s.name for s in sorted(ALLOWED[name])), "Entry    ")


@cache
def errors_of(name: str) -> tuple[str, ...]:
    """Every status but success that the call's checks name, in their order."""
    found: dict[str, None] = {}
    for paragraph in handler_doc(name).split("\n\n"):
        if not paragraph.startswith("Checks"):
            continue
        for line in paragraph.split("\n"):
            if operand := _ANY_PAGE.search(line):
                found.update((f"{code}|{operand[1]}", None) for code in _PAGE)
            if "TD state" in line:
                found.update((code, None) for code in _td_state(paragraph))
            found.update((status, None) for status in _named(line))
    return tuple(found)


def _named(line: str) -> Iterator[str]:
    for code, first, last in _STATUS.findall(line):
        if f"TDX_{code}" not in VALUES:
            continue
        if last:
            numbers = range(int(Operand[first]), int(Operand[last]) + 1)
            yield from (f"{code}|{Operand(n).name}" for n in numbers)
        else:
            yield f"{code}|{first}" if first else code


# --- status codes ------------------------------------------------------------------------------


def status_manual(text: str) -> str | None:
    """A status by name or number: its value and who returns it; None if it is none."""
    rax = number(text)
    if rax is None:
        name, _, part = text.upper().partition("|")
        code = VALUES.get(name if name.startswith("TDX_") else f"TDX_{name}")
        if code is None or (part and part not in Operand.__members__):
            return None
        rax = code | (int(Operand[part]) if part else 0)
        said = bool(part)
    else:
        said = bool(rax & 0xFFFFFFFF)
    code = status_class(rax)
    if rax >> 64 or code not in NAMES:
        return None
    short = NAMES[code].removeprefix("TDX_")
    kind = "an error" if is_error(rax) else "informational" if code else "success"
    head = decode(rax) if said else NAMES[code]
    wanted = decode(rax).removeprefix("TDX_") if said else short
    callers = [c for c in CALLS if any(_same(e, wanted, said) for e in errors_of(c))]
    lines = [f"{head} = {rax:#018x}, {kind}"]
    if callers:
        lines += _fill(", ".join(callers), "Returned by ", "  ")
    return "\n".join(lines)


def _same(error: str, wanted: str, said: bool) -> bool:
    return error == wanted if said else error.partition("|")[0] == wanted


# --- topics ------------------------------------------------------------------------------------


def _prose(doc: str | None) -> str:
    """A docstring's paragraphs; one that begins with an arrow stays as it is."""
    lines: list[str] = []
    for paragraph in (doc or "").replace("``", "").strip().split("\n\n"):
        lines += ["", *([paragraph] if paragraph.startswith("->") else _fill(paragraph))]
    return "\n".join(lines[1:])


def _rows(doc: str | None) -> list[str]:
    """The two-column table in a docstring."""
    head, rule, rest = (doc or "").partition("\n=")
    lines = (rule + rest).strip().split("\n")
    column = lines[0].index(" ") + 1
    rows: list[tuple[str, str]] = []
    for line in lines[1:-1]:
        left, right = line[:column].replace("``", "").strip(), line[column:].replace("``", "")
        rows.append((left, right.strip()))
    width = max(len(left) for left, _ in rows) + 2
    return [*_fill(head), "", *(f"{left:<{width}}{right}" for left, right in rows)]


def _script() -> str:
    return "\n".join(
        [
            "A script is one call a line; # begins a comment.",
            "",
            "  TDH.MEM.PAGE.AUG G 4K p0 @lp1 -> SUCCESS",
            "",
            "call       any spelling (tdh_mem_page_aug), or its end (PAGE.AUG, aug)",
            "operands   see help CALL; a sum of names and numbers: G+2M, p0+3*4K",
            "level      4K 2M 1G 512G 256T, or the module's number (0 is 4K)",
            "@lp1       the LP; default the lowest that is not in the guest, for guest",
            "           calls the one that is",
            "td=b       another TD's TDR page; default td",
            "rcx=VALUE  a register as it is, instead of what operands give",
            "version=1  the leaf's version",
            "intr=1     an interrupt is pending from that interrupt test of the call on",
            "rip= tsc=  the guest's RIP; the time-stamp counter",
            "no_entropy pconfig=busy|entropy",
            "           RDSEED or PCONFIG fails",
            "x512       so many calls in a row; GPA and page go on by the level's size",
            "-> STATUS  what is expected (help expect)",
            "",
            "guest touch GPA      the guest writes there and misses its TLB; also",
            "guest read GPA       a read, guest ept-violation GPA, guest interrupt",
            "show [WHAT]          tree, state, vcpus, pamt, locks, names or all",
        ]
    )


def _expect() -> str:
    return _prose(expect.__doc__)


def _fixtures() -> str:
    return "\n".join(
        [
            *_rows(directives.__doc__),
            "",
            *_fill(
                f"LOCK is {', '.join(directives.LOCKS)}. wbcache takes a package, pamt and"
                " pamt-walk PAGE [SIZE], sept-entry GPA LEVEL. MODE is shared or exclusive, of a"
                " sept-entry host or guest."
            ),
        ]
    )


TOPICS: Final[dict[str, Callable[[], str]]] = {
    "script": _script,
    "expect": _expect,
    "fixtures": _fixtures,
}


def overview() -> str:
    """Calls by group and the topics."""
    groups: dict[str, list[str]] = {}
    for name in CALLS:
        head, _, tail = name.partition(".")
        group, _, rest = tail.partition(".")
        groups.setdefault(f"{head}.{group}", []).append(rest)
    lines = [
        line
        for group, names in groups.items()
        for line in _fill(" ".join(names), f"  {group + '.':<12} ")
    ]
    return "\n".join(
        [
            "Calls (help CALL explains one: inputs, checks in order, effects, errors)",
            *lines,
            "",
            f"Topics: {', '.join(TOPICS)}; also help STATUS (name or number)",
        ]
    )


def topic(word: str) -> str:
    """The help text for a call, a topic or a status.

    :raises KeyError: its argument says what there is instead.
    """
    if word.lower() in TOPICS:
        return TOPICS[word.lower()]()
    if word.lower() in directives.DIRECTIVES:
        return _fixtures()
    calls = resolve_call(word)
    if len(calls) == 1:
        return call_manual(calls[0])
    if calls:
        raise KeyError(f"{word} may be {' or '.join(calls)}")
    status = status_manual(word)
    if status is not None:
        return status
    known = [*CALLS, *TOPICS, *directives.DIRECTIVES, *(n[4:] for n in VALUES)]
    raise KeyError(f"no help on {word[:40]!a}{nearest(word, known)}")
