# SPDX-License-Identifier: GPL-2.0-only
"""From a line to a statement.

Everything is checked before anything runs: names, levels, options.  An error tells the
column and what was expected there.  Definitions (`page`, `gpa`, `td NAME`) take effect
for the lines that follow, so a `Parser` carries the names from line to line.
"""

from __future__ import annotations

import re
from typing import Final

from septum.machine.geometry import Geometry
from septum.tdx.config import Conditions
from septum.tdx.console.calls import CALLS, CallForm, Operand, resolve_call
from septum.tdx.console.directives import DIRECTIVES, Reader, nothing_more
from septum.tdx.console.expect import Expectation, parse_expectation
from septum.tdx.console.lexer import ARROW, LEVELS, ScriptError, Word, split
from septum.tdx.console.names import Names, nearest
from septum.tdx.console.statement import Call, GuestEvent, Platform, Show, Statement, Views
from septum.tdx.regs import REGISTERS

__all__ = ["GUEST_EVENTS", "STATEMENTS", "Parser"]

GUEST_EVENTS: Final = ("touch", "read", "interrupt", "ept-violation")
STATEMENTS: Final = (*DIRECTIVES, "guest", "show")
_REPEAT: Final = re.compile(r"[xX](\d{1,9})")
_MAX_REPEAT: Final = 1 << 18
_OPTIONS: Final = ("version", "intr", "rip", "tsc", "pconfig")
_PCONFIG: Final = ("busy", "entropy")


class Parser:
    """Reads line after line; `names` and `platform` are what earlier lines defined."""

    def __init__(self, names: Names | None = None, platform: Platform | None = None) -> None:
        self.names = names or Names()
        self.platform = platform or Platform()

    def parse(self, text: str) -> Statement | None:
        """The statement of one line, None for an empty one.

        :raises ScriptError: with its column.
        """
        words = split(text)
        if not words:
            return None
        end = words[-1].column + len(words[-1].text)
        first = words[0]
        directive = DIRECTIVES.get(first.text.lower())
        if directive is not None:
            reader = Reader(self.names, self.platform, words[1:], end)
            statement = directive(reader)
            self.names, self.platform = reader.names, reader.platform
            return statement
        body, expected = _cut(words)
        reader = Reader(self.names, self.platform, body[1:], end)
        expect = None
        if expected is not None:
            expect = parse_expectation(expected, reader.value, end)
        if first.text.lower() == "guest":
            return _guest(reader, expect)
        if first.text.lower() in ("show", *Views):
            return _show(first, reader, expected)
        return _call(_form(first), reader, expect)


def _cut(words: list[Word]) -> tuple[list[Word], list[Word] | None]:
    """The words before ``->``, and those after it (None: there is none)."""
    for at, word in enumerate(words):
        if word.text == ARROW:
            return words[:at] or [word], words[at + 1 :]
    return words, None


def _form(word: Word) -> CallForm:
    calls = resolve_call(word.text)
    if len(calls) == 1:
        return CALLS[calls[0]]
    if calls:
        raise ScriptError(f"{word.shown()} may be {' or '.join(calls)}", word.column)
    what = "call" if "." in word.text or "_" in word.text else "call or statement"
    raise ScriptError(f"unknown {what} {word.shown()}{_nearest_call(word.text)}", word.column)


def _nearest_call(text: str) -> str:
    """Calls and statements nearly called ``text``; people also write PAGE.AGU or AGU."""
    meant = {name: name for name in (*CALLS, *STATEMENTS, *Views)}
    for name in CALLS:
        parts = name.split(".")
        for at in range(1, len(parts)):
            meant.setdefault(".".join(parts[at:]), name)
    hint = nearest(text, list(meant))
    if not hint:
        return ""
    found = hint.removeprefix(" (nearest: ").removesuffix(")").split(", ")
    return f" (nearest: {', '.join(dict.fromkeys(meant[name] for name in found))})"


# --- calls -----------------------------------------------------------------------------------


def _call(form: CallForm, reader: Reader, expect: Expectation | None) -> Call:
    """Operands, registers, options of a SEAMCALL or TDCALL."""
    regs: dict[str, int] = {}
    explicit: dict[str, int] = {}
    seen: dict[str, int] = {}
    flags = {word: (register, bits) for word, register, bits in form.flags}
    options = _Options(form)
    positional = list(form.positional)
    for word in reader.words:
        key, equals, text = word.text.partition("=")
        key = key.lower()
        if word.text.startswith("@"):
            options.lp = reader.lp(word)
        elif found := _REPEAT.fullmatch(word.text):
            options.count = _count(form, word, int(found[1]))
        elif word.text.lower() in flags:
            register, bits = flags[word.text.lower()]
            regs[register] = regs.get(register, 0) | bits
        elif word.text.lower() == "no_entropy":
            options.no_entropy = True
        elif equals:
            after = Word(text, word.column + len(key) + 1)
            if key in REGISTERS:
                explicit[key] = reader.value(after)
            elif key == "td" and form.td:
                explicit[form.td] = reader.value(after) | regs.get(form.td, 0)
            else:
                options.take(key, word, after, reader)
        elif positional:
            operand = positional.pop(0)
            value = _operand(operand, word, reader)
            seen[operand.kind] = value
            regs[operand.register] = regs.get(operand.register, 0) | value
        else:
            raise ScriptError(f"expected {_after(form)}, not {word.shown()}", word.column)
    _missing(form, positional, explicit, reader.end)
    for operand in positional:
        if operand.optional:
            regs.setdefault(operand.register, operand.default)
    if form.td and form.td not in explicit:
        td = reader.names.value("td")
        assert td is not None
        regs[form.td] = regs.get(form.td, 0) | td
    regs.update(explicit)
    return Call(
        form,
        regs,
        options.lp,
        options.version,
        options.conditions(),
        options.count,
        _strides(form, seen) if options.count > 1 else {},
        expect,
    )


class _Options:
    """The options of one call."""

    def __init__(self, form: CallForm) -> None:
        self.form = form
        self.lp: int | None = None
        self.count = 1
        self.version = 0
        self.intr: int | None = None
        self.rip: int | None = None
        self.tsc = 0
        self.pconfig = ""
        self.no_entropy = False

    def take(self, key: str, word: Word, after: Word, reader: Reader) -> None:
        """One ``key=value``."""
        if key == "version" and not self.form.guest:
            self.version = reader.number(after, "a version", 0, 255)
        elif key == "intr":
            self.intr = reader.number(after, "the number of an interrupt test", 1, 1 << 20)
        elif key == "rip":
            self.rip = reader.value(after)
        elif key == "tsc":
            self.tsc = reader.value(after)
        elif key == "pconfig":
            if after.text not in _PCONFIG:
                raise ScriptError(f"expected busy or entropy, not {after.shown()}", after.column)
            self.pconfig = after.text
        else:
            known = [*_OPTIONS, *REGISTERS, "td"]
            hint = nearest(key, known)
            raise ScriptError(
                f"expected {_after(self.form)}, not {word.shown()}{hint}", word.column
            )

    def conditions(self) -> Conditions:
        return Conditions(self.intr, self.no_entropy, self.pconfig, self.rip, self.tsc)


def _after(form: CallForm) -> str:
    """What may follow the operands."""
    words = ["'@lpN'", *(f"'{word}'" for word, _, _ in form.flags)]
    words += ["'td='"] if form.td else []
    words += ["'xN'"] if form.repeatable else []
    return ", ".join([*words, "REGISTER=VALUE, an option or '->'"])


def _operand(operand: Operand, word: Word, reader: Reader) -> int:
    if operand.kind == "level":
        return reader.level(word)
    if word.text.upper() in LEVELS and operand.kind in ("gpa", "page", "vcpu"):
        raise ScriptError(f"expected {_what(operand)}, not the level {word.text}", word.column)
    return reader.value(word)


def _what(operand: Operand) -> str:
    return {
        "gpa": "a GPA (a number, G, or a name of yours)",
        "page": "a page (p0, m0, s0, a number, or a name of yours)",
        "vcpu": "a vCPU (vcpu0)",
        "level": f"a level ({', '.join(LEVELS)} or a number)",
    }.get(operand.kind, operand.kind.upper())


def _missing(form: CallForm, left: list[Operand], explicit: dict[str, int], end: int) -> None:
    """Operands may be left out if they are optional or their register is given."""
    for operand in left:
        if not operand.optional and operand.register not in explicit:
            raise ScriptError(f"expected {_what(operand)}: {form.usage()}", end)


def _count(form: CallForm, word: Word, count: int) -> int:
    if not form.repeatable:
        raise ScriptError(f"{form.name} has no address that 'xN' could step", word.column)
    if not 1 <= count <= _MAX_REPEAT:
        raise ScriptError(f"expected x1 to x{_MAX_REPEAT}, not {word.shown()}", word.column)
    return count


def _strides(form: CallForm, seen: dict[str, int]) -> dict[str, int]:
    """How far each repetition goes on: by the size of the level; a table page is 4K."""
    size = Geometry(levels=5).bytes_per_level(min(seen.get("level", 0), 4) + 1)
    strides: dict[str, int] = {}
    for operand in form.positional:
        if operand.kind == "gpa":
            strides[operand.register] = size
        elif operand.kind == "page":
            strides[operand.register] = size if form.name == "TDH.MEM.PAGE.AUG" else 0x1000
    return strides


# --- the guest, views ------------------------------------------------------------------------


def _guest(reader: Reader, expect: Expectation | None) -> GuestEvent:
    """``guest touch GPA [@lpN] [rip=N] [-> ...]``."""
    kinds = ", ".join(GUEST_EVENTS)
    if not reader.words:
        raise ScriptError(f"expected what the guest does: {kinds}", reader.end)
    first, *words = reader.words
    kind = first.text.lower()
    if kind not in GUEST_EVENTS:
        hint = nearest(kind, GUEST_EVENTS)
        raise ScriptError(f"expected {kinds}, not {first.shown()}{hint}", first.column)
    gpa: int | None = None
    lp: int | None = None
    rip: int | None = None
    for word in words:
        if word.text.startswith("@"):
            lp = reader.lp(word)
        elif word.text.lower().startswith("rip="):
            rip = reader.value(Word(word.text[4:], word.column + 4))
        elif gpa is None and kind != "interrupt":
            gpa = reader.value(word)
        else:
            raise ScriptError(f"expected '@lpN', 'rip=' or '->', not {word.shown()}", word.column)
    if gpa is None and kind != "interrupt":
        raise ScriptError("expected a GPA", reader.end)
    return GuestEvent(kind, gpa or 0, lp, Conditions(rip=rip), expect)


def _show(first: Word, reader: Reader, expected: list[Word] | None) -> Show:
    """``show [VIEW] [td=NAME]``, or the view alone."""
    if expected is not None:
        raise ScriptError("'show' returns no status to expect", reader.end)
    words = list(reader.words)
    what = "tree" if first.text.lower() == "show" else first.text.lower()
    if first.text.lower() == "show" and words and "=" not in words[0].text:
        word = words.pop(0)
        what = word.text.lower()
        if what not in Views:
            raise ScriptError(
                f"expected {', '.join(Views)}, not {word.shown()}{nearest(what, Views)}",
                word.column,
            )
    td = reader.take_td(words)
    nothing_more(words)
    return Show(what, td)
