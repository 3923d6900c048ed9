# SPDX-License-Identifier: GPL-2.0-only
"""Who holds which lock when, from the footprints of an execution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from septum.machine import Event
from septum.machine.dependency import (
    EXCL,
    EXCL_REL,
    SHARED,
    SHARED_REL,
    TRY_EXCL,
    TRY_SHARED,
)

__all__ = ["Held", "holders"]

_TAKEN: Final = {SHARED: "shared", TRY_SHARED: "shared", EXCL: "exclusive", TRY_EXCL: "exclusive"}
_RELEASED: Final = (SHARED_REL, EXCL_REL)


@dataclass(frozen=True, slots=True)
class Held:
    """A lock that a task takes at step ``begin`` and has until before step ``end``."""

    lock: str
    task: int
    mode: str
    begin: int
    end: int


def holders(events: Sequence[Event]) -> list[Held]:
    """Every hold, in the order in which the locks were taken."""
    taken: dict[tuple[str, int], tuple[int, str]] = {}
    out: list[Held] = []
    for at, event in enumerate(events):
        for lock, kind in event.acc:
            key = (lock, event.task)
            if kind in _TAKEN:
                taken.setdefault(key, (at, _TAKEN[kind]))
            elif kind in _RELEASED and key in taken:
                begin, mode = taken.pop(key)
                out.append(Held(lock, event.task, mode, begin, at + 1))
    out += [
        Held(lock, task, mode, begin, len(events)) for (lock, task), (begin, mode) in taken.items()
    ]
    return sorted(out, key=lambda h: (h.begin, h.lock))
