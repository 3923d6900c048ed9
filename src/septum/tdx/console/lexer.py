# SPDX-License-Identifier: GPL-2.0-only
"""A script line as words with their columns; numbers and expressions.

Words are separated by blanks.  A word that begins with ``#`` starts a comment.  ``->`` is
a word of its own even when something is glued to it.  An expression is a sum of names
and numbers, each with an optional factor: ``G+2M``, ``p0+3*4K``, ``0x40000000``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = ["LEVELS", "ScriptError", "Word", "level_name", "number", "split", "value_of"]

LEVELS: Final = ("4K", "2M", "1G", "512G", "256T")
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_NUMBER: Final = re.compile(r"(0[xX][0-9a-fA-F]+|0|[1-9]\d*)([KMGTkmgt]?)")
_WORDS: Final = re.compile(r"->|(?:(?!->)\S)+")
_MAX_DIGITS: Final = 30
ARROW: Final = "->"


class ScriptError(ValueError):
    """A line that cannot be understood or done.

    :ivar line: from 1; 0 if there is no file.
    :ivar column: from 1; 0: the line as a whole.
    """

    def __init__(self, message: str, column: int = 0, line: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.column = column
        self.line = line

    def at(self, line: int) -> ScriptError:
        """The same error on that line."""
        return ScriptError(self.message, self.column, line)

    def __str__(self) -> str:
        place = [str(n) for n in (self.line, self.column) if n]
        return ": ".join([":".join(place), self.message] if place else [self.message])


class Word(NamedTuple):
    """A word and the column (from 1) of its first character."""

    text: str
    column: int

    def shown(self) -> str:
        """Quoted for a message, bounded."""
        text = self.text if len(self.text) <= 40 else f"{self.text[:37]}..."
        return ascii(text)


def split(line: str) -> list[Word]:
    """The words of a line without its comment."""
    words: list[Word] = []
    for found in _WORDS.finditer(line):
        at = found.start()
        if found[0].startswith("#") and (at == 0 or line[at - 1].isspace()):
            break
        words.append(Word(found[0], at + 1))
    return words


def number(text: str) -> int | None:
    """``512``, ``0x1000``, ``4K``, ``2M``; None if it is no number."""
    found = _NUMBER.fullmatch(text)
    if found is None or len(text) > _MAX_DIGITS:
        return None
    return int(found[1], 0) * _UNITS[found[2].upper()]


def level_name(level: int) -> str:
    """``4K``, ``2M``, ...; the number where there is no such level."""
    return LEVELS[level] if 0 <= level < len(LEVELS) else str(level)


def value_of(word: Word, names: Callable[[str], int | None], suggest: Callable[[str], str]) -> int:
    """The value of an expression, below 2^64.

    :param suggest: a hint for an unknown name.
    :raises ScriptError: at the part that is wrong.
    """
    total = 0
    column = word.column
    for term in word.text.split("+"):
        factor = 1
        body = term
        head, star, rest = term.partition("*")
        if star:
            first = number(head)
            if first is None:
                raise ScriptError(f"expected a number before '*', not {head!a}", column)
            factor, body = first, rest
        found = number(body)
        if found is None:
            found = names(body)
        if found is None:
            if not body:
                raise ScriptError("expected a number or a name here", column)
            shown = Word(body, column).shown()
            raise ScriptError(f"unknown name {shown}{suggest(body)}", column)
        total += factor * found
        column += len(term) + 1
    if total >> 64:
        raise ScriptError(f"{word.shown()} does not fit into 64 bits", word.column)
    return total
