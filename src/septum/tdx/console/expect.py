# SPDX-License-Identifier: GPL-2.0-only
"""Expectations: what a script says a call returns.

``-> [EVENT] [STATUS] [REGISTER=VALUE]...``

STATUS is a name with or without ``TDX_``, with its operand, exit reason or level after
``|``: ``TDX_OPERAND_BUSY|SEPT_TREE``, ``SUCCESS``, ``PAGE_SIZE_MISMATCH|2M``,
``SUCCESS|48``; or 64 bits as a number.  An error without an operand means any operand.

EVENT is how VP.ENTER or something in the guest ended: ``td-entry``, ``td-exit``,
``resume``, ``retry``, ``ok``, ``inject VE`` or ``inject DF``, or ``halt`` where the module
itself stops.  Without an event a status means a call that returned to its caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from septum.tdx.console.lexer import LEVELS, ScriptError, Word, number
from septum.tdx.console.names import nearest
from septum.tdx.status import (
    NAMES,
    TDX_PAGE_ALREADY_ACCEPTED,
    TDX_PAGE_SIZE_MISMATCH,
    TDX_SUCCESS,
    VALUES,
    Operand,
    decode,
    is_error,
    status_class,
)

__all__ = ["EVENTS", "Ending", "Expectation", "parse_expectation", "spell"]

EVENTS: Final = ("td-entry", "td-exit", "resume", "retry", "ok", "inject", "halt")
VECTORS: Final = {"DF": 8, "VE": 20}
_VECTOR_NAMES: Final = {number: name for name, number in VECTORS.items()}
# Events after which RAX means something to the caller.
_RETURNED: Final = ("", "resume", "td-entry")
_WITHOUT_STATUS: Final = ("retry", "ok", "inject", "halt")
_LEVEL_CODES: Final = (TDX_PAGE_ALREADY_ACCEPTED, TDX_PAGE_SIZE_MISMATCH)
_REGISTERS: Final = ("rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended: event ("" for a plain SEAMCALL), RAX, vector, registers."""

    event: str
    rax: int
    vector: int
    regs: Mapping[str, int]

    def __str__(self) -> str:
        """As `spell`, for people."""
        if self.event == "inject":
            return f"inject #{_VECTOR_NAMES.get(self.vector, self.vector)}"
        if self.event in _WITHOUT_STATUS or self.event == "td-entry":
            return self.event
        return f"{self.event} {decode(self.rax)}" if self.event == "td-exit" else decode(self.rax)


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is expected; None: not said."""

    text: str
    event: str | None = None
    code: int | None = None
    operand: int | None = None
    vector: int | None = None
    regs: tuple[tuple[str, int], ...] = ()

    def met(self, ending: Ending) -> bool:
        """Whether the call ended so."""
        if self.event is None:
            if self.code is not None and ending.event not in _RETURNED:
                return False
        elif self.event != ending.event:
            return False
        if self.vector is not None and self.vector != ending.vector:
            return False
        if self.code is not None and not self._status_met(ending.rax):
            return False
        return all(ending.regs.get(name) == value for name, value in self.regs)

    def _status_met(self, rax: int) -> bool:
        if self.code != status_class(rax):
            return False
        if self.operand is not None:
            return self.operand == rax & 0xFFFFFFFF
        return is_error(rax) or rax & 0xFFFFFFFF == 0 or self.event == "td-exit"


def spell(ending: Ending) -> str:
    """The expectation that this ending meets."""
    if ending.event == "inject":
        return f"inject {_VECTOR_NAMES.get(ending.vector, str(ending.vector))}"
    if ending.event in _WITHOUT_STATUS or ending.event == "td-entry":
        return ending.event
    prefix = "td-exit " if ending.event == "td-exit" else ""
    code, low = status_class(ending.rax), ending.rax & 0xFFFFFFFF
    if code not in NAMES:
        return f"{prefix}{ending.rax:#x}"
    text = decode(ending.rax)
    for phrase in ("exit reason ", "level "):
        text = text.replace(phrase, "")
    if code in _LEVEL_CODES and low < len(LEVELS):
        text = f"{NAMES[code]}|{LEVELS[low]}"
    return prefix + text


def parse_expectation(words: list[Word], value: Callable[[Word], int], end: int) -> Expectation:
    """The words after ``->``.

    :param value: evaluates an expression.
    :param end: the column behind the line, for what is missing.
    """
    if not words:
        raise ScriptError("expected a status or an event after '->'", end)
    event: str | None = None
    code: int | None = None
    operand: int | None = None
    vector: int | None = None
    regs: list[tuple[str, int]] = []
    rest = list(words)
    if rest[0].text.lower() in EVENTS:
        event = rest.pop(0).text.lower()
        if event == "inject" and rest:
            vector = _vector(rest.pop(0))
    if rest and "=" not in rest[0].text:
        if event in _WITHOUT_STATUS:
            raise ScriptError(f"expected nothing after '{event}'", rest[0].column)
        code, operand = _status(rest.pop(0))
    for word in rest:
        name, equals, text = word.text.partition("=")
        if not equals or name.lower() not in _REGISTERS:
            raise ScriptError(
                f"expected REGISTER=VALUE ({', '.join(_REGISTERS)}), not {word.shown()}",
                word.column,
            )
        regs.append((name.lower(), value(Word(text, word.column + len(name) + 1))))
    said = " ".join(word.text for word in words)
    return Expectation(said, event, code, operand, vector, tuple(regs))


def _vector(word: Word) -> int:
    name = word.text.upper().lstrip("#")
    if name in VECTORS:
        return VECTORS[name]
    if name.isdecimal() and int(name) in _VECTOR_NAMES:
        return int(name)
    raise ScriptError(f"expected VE or DF, not {word.shown()}", word.column)


def _status(word: Word) -> tuple[int, int | None]:
    name, bar, part = word.text.partition("|")
    plain = number(name)
    if plain is not None and not bar:
        if plain >> 64:
            raise ScriptError(f"{word.shown()} does not fit into 64 bits", word.column)
        return status_class(plain), plain & 0xFFFFFFFF
    full = name.upper()
    if not full.startswith("TDX_"):
        full = f"TDX_{full}"
    code = VALUES.get(full)
    if code is None:
        shown = Word(name, 0).shown()
        hint = nearest(full, [*VALUES, *EVENTS]).replace("TDX_", "")
        raise ScriptError(f"expected a status or an event, not {shown}{hint}", word.column)
    if not bar:
        return code, None
    column = word.column + len(name) + 1
    if code in _LEVEL_CODES and part.upper() in LEVELS:
        return code, LEVELS.index(part.upper())
    if part.upper() in Operand.__members__:
        return code, int(Operand[part.upper()])
    low = number(part)
    if low is None or low >> 32 or (code in _LEVEL_CODES and low >= len(LEVELS)):
        if code in _LEVEL_CODES:
            what = f"a level ({', '.join(LEVELS)})"
        elif code == TDX_SUCCESS:
            what = "an exit reason, a number"
        else:
            what = "an operand"
        hint = nearest(part, list(Operand.__members__))
        raise ScriptError(f"expected {what} after '|', not {Word(part, 0).shown()}{hint}", column)
    return code, low
