# SPDX-License-Identifier: GPL-2.0-only
"""Pages of the kernel's trace ring buffer (kernel/trace/ring_buffer.c,
include/linux/ring_buffer.h): a page's bytes to its events.

A page is: u64 time stamp, a commit word (bytes used, two flags of missed events), data.
An event is: 5 bits type_len, 27 bits time delta, data.  Little endian only: KVM's TDP MMU
runs on x86.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from struct import Struct, error
from typing import Final

__all__ = ["PageLayout", "RawEvent", "page_events"]

_COMMIT_MASK: Final = (1 << 27) - 1
_MISSED_EVENTS: Final = 1 << 31
_MISSED_STORED: Final = 1 << 30
_TYPE_PADDING: Final = 29
_TYPE_TIME_EXTEND: Final = 30
_TYPE_TIME_STAMP: Final = 31
_TS_SHIFT: Final = 27
_TS_MSB: Final = 0xF8 << 56
"""The absolute time stamp has 59 bits; the others come from the page's."""

_u32 = Struct("<I").unpack_from
_u64 = Struct("<Q").unpack_from


RawEvent = tuple[int, int, int, int, bytes, int]
"""time, CPU, missed, event type, page, offset of the data in it.  ``missed``: events lost
before this one, -1 if some and not how many, else 0.  A plain tuple: there are millions."""


@dataclass(frozen=True, slots=True)
class PageLayout:
    """The file's header_page."""

    size: int = 4096
    commit_at: int = 8
    commit_size: int = 8
    data_at: int = 16


def page_events(page: bytes, cpu: int, layout: PageLayout) -> list[RawEvent]:
    """The data events of one page.  A page that is cut or damaged ends early."""
    out: list[RawEvent] = []
    with suppress(error, IndexError):
        _collect(page, cpu, layout, out.append)
    return out


def _collect(page: bytes, cpu: int, layout: PageLayout, add: Callable[[RawEvent], None]) -> None:
    (time,) = _u64(page, 0)
    (commit,) = (_u64 if layout.commit_size == 8 else _u32)(page, layout.commit_at)
    at = layout.data_at
    end = min(at + (commit & _COMMIT_MASK), len(page))
    missed = 0
    if commit & _MISSED_EVENTS:
        missed = _u64(page, end)[0] if commit & _MISSED_STORED else -1
    base = time & _TS_MSB
    while at < end:
        (head,) = _u32(page, at)
        kind, delta = head & 31, head >> 5
        at += 4
        if 0 < kind < _TYPE_PADDING:
            data, at = at, at + 4 * kind
        elif kind == 0:
            data, at = at + 4, at + (_u32(page, at)[0] + 3 & ~3)
        elif kind == _TYPE_PADDING:
            if delta == 0:
                return  # nothing more on this page
            time += delta
            at += _u32(page, at)[0]
            continue
        else:
            delta += _u32(page, at)[0] << _TS_SHIFT
            at += 4
            time = base | delta if kind == _TYPE_TIME_STAMP else time + delta
            continue
        time += delta
        add((time, cpu, missed, page[data] | page[data + 1] << 8, page, data))
        missed = 0
