# SPDX-License-Identifier: GPL-2.0-only
"""Words of an image by names that mean the same in another process, and, as far as symbols
and the order of allocations stay what they are, in another build."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import cache

from septum.native.image import ARENA, ONLY_FREED, Image

__all__ = ["united", "word_address", "word_name"]

_MEMORY = "memory"
_FREE = "@free"


@cache
def _symbols(image: Image) -> list[tuple[int, str]]:
    first, end = image.symbols["septum_data"], image.symbols["septum_data_end"]
    return sorted((at, name) for name, at in image.symbols.items() if first <= at < end)


def word_name(image: Image, addr: int, writer: int = -1) -> str:
    """``symbol+offset``, or ``memory+offset`` in the allocators' memory (hexadecimal); with
    ``@task`` if only that one writes it, ``@free`` if its page is freed and nobody does."""
    by = _FREE if writer == ONLY_FREED else f"@{writer}" if writer >= 0 else ""
    if addr >= ARENA:
        return f"{_MEMORY}+{addr - ARENA:x}{by}"
    symbols = _symbols(image)
    at, name = symbols[bisect_right(symbols, (addr, "\x7f")) - 1]
    return f"{name}+{addr - at:x}{by}"


def united(words: Iterable[str]) -> tuple[str, ...]:
    """What several searches have learned: one writes a word here, another one there."""
    writers: dict[str, set[str]] = {}
    for word in words:
        name, _, by = word.partition("@")
        writers.setdefault(name, set()).add(by)
    one = ((name, by.pop() if len(by) == 1 else "") for name, by in writers.items())
    return tuple(sorted(f"{name}@{by}" if by else name for name, by in one))


def word_address(image: Image, word: str) -> tuple[int, int] | None:
    """The address, and who writes it, as `Image.share` is told; None if the image has no such
    symbol."""
    freed = word.endswith(_FREE)
    word, _, by = word.partition("@")
    name, _, offset = word.rpartition("+")
    try:
        number, writer = int(offset, 16), ONLY_FREED if freed else int(by or -1)
    except ValueError:
        return None
    start = ARENA if name == _MEMORY else image.symbols.get(name)
    return None if start is None else (start + number, writer)
