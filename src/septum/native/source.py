# SPDX-License-Identifier: GPL-2.0-only
"""Which atomic instruction an announced access is, from the code that follows it."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from septum.native.symbols import Lines

__all__ = ["lost", "rmw_name"]

_WINDOW: Final = 96
# opcode bytes after lock and REX prefixes -> name
_OPCODES: Final = (
    (b"\x0f\xb1", "cmpxchg"),
    (b"\x0f\xb0", "cmpxchg"),
    (b"\x0f\xc1", "fetch_add"),
    (b"\x0f\xba", "bit_op"),
    (b"\x0f\xab", "bit_op"),
    (b"\x0f\xb3", "bit_op"),
    (b"\xff", "add"),
    (b"\x83", "add"),
    (b"\x81", "add"),
    (b"\x01", "add"),
    (b"\x29", "add"),
    (b"\x80", "bit_op"),
    (b"\x08", "bit_op"),
    (b"\x09", "fetch_or"),
    (b"\x21", "fetch_and"),
)


@cache
def rmw_name(pc: int) -> str:
    """The name of the read-modify-write behind ``pc``: cmpxchg, xchg, add, ...; rmw if
    the code does not say."""
    code = ctypes.string_at(pc, _WINDOW)
    for at in range(_WINDOW - 4):
        if code[at] == 0xF0:  # lock
            skip = at + 1
            if 0x40 <= code[skip] < 0x50:
                skip += 1
            for opcode, name in _OPCODES:
                if code.startswith(opcode, skip):
                    return name
        elif 0x40 <= code[at] < 0x50 and code[at + 1] == 0x87 and code[at + 2] >> 6 != 3:
            return "xchg"
    return "rmw"


def lost(lines: Lines, pc: int) -> tuple[str, ...]:
    """What happened when a cmpxchg of an SPTE found another value, in words for must_occur."""
    functions = [frame.function for frame in lines.frames(pc)]
    if any(name.startswith(("fast_page_fault", "fast_pf_fix_direct")) for name in functions):
        return "an SPTE cmpxchg lost", "the fast path lost its cmpxchg"
    return ("an SPTE cmpxchg lost",)
