# SPDX-License-Identifier: GPL-2.0-only
"""Words of an image by names that mean the same in another process, and, as far as symbols
and the order of allocations stay what they are, in another build."""

from __future__ import annotations

from bisect import bisect_right
from functools import cache

from septum.native.image import ARENA, Image

__all__ = ["word_address", "word_name"]

_MEMORY = "memory"


@cache
def _symbols(image: Image) -> list[tuple[int, str]]:
    first, end = image.symbols["septum_data"], image.symbols["septum_data_end"]
    return sorted((at, name) for name, at in image.symbols.items() if first <= at < end)


def word_name(image: Image, addr: int) -> str:
    """``symbol+offset``, or ``memory+offset`` in the allocators' memory (hexadecimal)."""
    if addr >= ARENA:
        return f"{_MEMORY}+{addr - ARENA:x}"
    symbols = _symbols(image)
    at, name = symbols[bisect_right(symbols, (addr, "\x7f")) - 1]
    return f"{name}+{addr - at:x}"


def word_address(image: Image, word: str) -> int | None:
    """The address; None if the image has no such symbol."""
    name, _, offset = word.rpartition("+")
    try:
        number = int(offset, 16)
    except ValueError:
        return None
    start = ARENA if name == _MEMORY else image.symbols.get(name)
    return None if start is None else start + number
