# SPDX-License-Identifier: GPL-2.0-only
"""Plain text in columns: the few tools that all reports share.

Everything here is a pure function of its arguments.  `WIDTH` is what a mail and a kernel
log allow.  Text from outside (names in a counterexample file, messages, paths) passes
through `clean`, so that a terminal never sees a control character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "WIDTH",
    "Paint",
    "clean",
    "columns",
    "command",
    "duration",
    "facts",
    "field",
    "fill",
    "number",
    "plain",
    "shorten",
    "steps",
]

WIDTH = 78

Paint = Callable[[str, str], str]
"""``paint(kind, text)`` adds colour and must not change the visible text."""


def plain(kind: str, text: str) -> str:
    """The `Paint` without colour."""
    return text


def clean(text: object) -> str:
    """One line of printable characters."""
    words = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "?" for c in words)


def shorten(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters, its middle left out if need be."""
    if len(text) <= width:
        return text
    if width <= 4:
        return text[:width]
    tail = (width - 2) // 3
    return f"{text[: width - 2 - tail]}..{text[len(text) - tail :]}"


def fill(text: str, width: int, *, first: str = "", rest: str | None = None) -> list[str]:
    """Lines of at most ``width`` characters; a long word is broken after ``_ . / :``.

    :param first: put before the first line.
    :param rest: put before all others (default: blanks as long as ``first``).
    """
    if rest is None:
        rest = " " * len(first)
    lines: list[str] = []
    line = first
    used = False
    for word in text.split():
        gap = 1 if used else 0
        while len(line) + gap + len(word) > width:
            room = width - len(rest)
            if used and len(word) <= room:
                lines.append(line)
                line, used, gap = rest, False, 0
                continue
            take = _break_at(word, width - len(line) - gap)
            if take == 0:
                if used:
                    lines.append(line)
                    line, used, gap = rest, False, 0
                    continue
                take = max(width - len(line), 1)
            lines.append(line + " " * gap + word[:take])
            word = word[take:]
            line, used, gap = rest, False, 0
        if word:
            line += " " * gap + word
            used = True
    if used or not lines:
        lines.append(line.rstrip() if not used else line)
    return lines


def _break_at(word: str, room: int) -> int:
    """Where a long word may be broken so that the head fits: after its last separator."""
    for i in range(min(room, len(word)), 2, -1):
        if word[i - 1] in "_./:,-":
            return i
    return 0


def columns(
    rows: Iterable[Sequence[str]],
    *,
    indent: str = "",
    gap: str = "  ",
    right: Sequence[int] = (),
    widths: Sequence[int] = (),
    paint: Callable[[int, str], str] | None = None,
) -> list[str]:
    """Rows of cells as aligned lines.

    :param right: columns to align right.
    :param widths: least widths; the widest cell decides beyond them.
    :param paint: colours a cell after it was padded: ``paint(column, padded)``.
    """
    table = [list(row) for row in rows]
    n = max((len(row) for row in table), default=0)
    size = [
        max([len(row[i]) for row in table if i < len(row)] + [widths[i] if i < len(widths) else 0])
        for i in range(n)
    ]
    lines = []
    for row in table:
        cells = []
        for i, cell in enumerate(row):
            last = i == len(row) - 1
            text = cell.rjust(size[i]) if i in right else cell if last else cell.ljust(size[i])
            cells.append(paint(i, text) if paint is not None else text)
        lines.append((indent + gap.join(cells)).rstrip())
    return lines


def field(name: str, text: str, *, width: int = WIDTH, label: int = 12) -> list[str]:
    """A named line of a header, wrapped under itself."""
    return fill(clean(text), width, first=f"  {name:<{label}}", rest=" " * (label + 2))


def facts(pairs: Iterable[tuple[str, str]], *, width: int = WIDTH, label: int = 12) -> list[str]:
    """Several `field` in order; those without a text are left out."""
    return [
        line for name, text in pairs if text for line in field(name, text, width=width, label=label)
    ]


def number(n: int, noun: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def steps(n: int) -> str:
    """How folded steps are shown."""
    return f"({number(n, 'step')})"


def duration(seconds: float) -> str:
    """Seconds for people: ``0.04s``, ``12.3s``, ``4m07s``, ``2h05m``, ``4d04h``."""
    if seconds < 1:
        return f"{seconds:.2f}s"
    if seconds < 100:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 100 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


_UNSAFE = re.compile(r"[^A-Za-z0-9_./@%+=:,-]")


def command(words: Sequence[str], *, width: int = WIDTH, indent: str = "  ") -> list[str]:
    """A shell command that can be copied.  What does not fit is continued after a
    backslash, at the start of the next line where a word is broken."""
    lines: list[str] = []
    line = indent
    empty = True
    for word in words:
        safe = _UNSAFE.sub(lambda m: "\\" + m[0], clean(word)) or "''"
        if not empty and len(line) + 1 + len(safe) > width - 2:
            lines.append(line + " \\")
            line, empty = indent + "  ", True
        text = safe if empty else " " + safe
        while len(line) + len(text) > width - 2:
            cut = width - 1 - len(line)
            if text[cut - 1] == "\\":
                cut -= 1  # keep an escaped character together
            lines.append(line + text[:cut] + "\\")
            line, text = "", text[cut:]
        line += text
        empty = False
    lines.append(line)
    return lines
