# SPDX-License-Identifier: GPL-2.0-only
"""Patterns that are legal line by line, but that somebody should look at: a fault that is
taken again and again, an entry that is zapped again and again.

The bounds are chosen, not derived: a busy host may pass them with nothing wrong.  So they
are notices of the result, never findings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from septum.trace.events import (
    Event,
    FastPageFault,
    MarkMmioSpte,
    PageFault,
    SetSpte,
)
from septum.trace.rules import Where
from septum.trace.text import task_name

__all__ = ["AGAIN", "STORM", "Notices"]

AGAIN: Final = 16
"""Faults of one vCPU on one page in a row, none of which ends in a mapping."""
STORM: Final = 64
"""Zaps of one entry within one second."""
_SHOWN: Final = 4
_RESERVED: Final = 1 << 3
"""PFERR_RSVD_MASK: an access to MMIO, which faults each time."""
_TASKS: Final = 4096


@dataclass(slots=True)
class Run:
    """Faults of a task on one page since its last one on another, or its last mapping."""

    comm: str
    pid: int
    gfn: int
    line: int
    begin: float
    end: float
    count: int = 1

    @property
    def text(self) -> str:
        took = 1000 * (self.end - self.begin)
        where = f"{task_name(self.comm)}-{self.pid} on gfn {self.gfn:x}"
        return f"{where}, {self.count} times from line {self.line} on, {took:.1f} ms"


class Notices:
    """Feed every line; `notes` is the result."""

    def __init__(self) -> None:
        self._runs: dict[int, Run] = {}
        self._ended = 0
        self._longest: Run | None = None
        self._zaps: dict[int, int] = {}
        self._since = 0.0
        self._storms: dict[int, tuple[int, int]] = {}
        """Entry -> most zaps within a second, and the line of the last."""

    def other(self, at: Where, event: Event) -> None:
        kind = type(event)
        if isinstance(event, PageFault):
            self._fault(at, event)
        elif kind is SetSpte or kind is MarkMmioSpte or _mapped(event):
            self._end(self._runs.pop(at.pid, None))

    def _fault(self, at: Where, event: PageFault) -> None:
        gfn = event.address >> 12
        run = self._runs.get(at.pid)
        if run is None or run.gfn != gfn or event.error_code & _RESERVED:
            self._end(run)
            if len(self._runs) >= _TASKS:
                self._runs.clear()
            self._runs[at.pid] = Run(at.comm, at.pid, gfn, at.line, at.time, at.time)
            return
        run.count += 1
        run.end = at.time

    def _end(self, run: Run | None) -> None:
        """It was mapped, or its vCPU went on to another page: another vCPU mapped it."""
        if run is None or run.count < AGAIN:
            return
        self._ended += 1
        if self._longest is None or run.count > self._longest.count:
            self._longest = run

    def zapped(self, at: Where, gfn: int, level: int) -> None:
        """A present leaf became non-present."""
        if not self._since <= at.time < self._since + 1:
            self._zaps.clear()
            self._since = at.time
        key = gfn << 3 | level
        count = self._zaps[key] = self._zaps.get(key, 0) + 1
        if count >= STORM and count > self._storms.get(key, (0, 0))[0]:
            self._storms[key] = (count, at.line)

    @property
    def notes(self) -> list[str]:
        stuck = [run for run in self._runs.values() if run.count >= AGAIN]
        storms = sorted(self._storms.items(), key=lambda item: -item[1][0])
        texts = [
            f"a fault that never resolves, up to the end of the recording: {run.text}"
            for run in stuck[:_SHOWN]
        ]
        if self._longest is not None:
            texts.append(
                f"{_faults(self._ended)} taken {AGAIN} times or more in a row before it was"
                f" resolved (KVM retries while an MMU notifier works); most: {self._longest.text}"
            )
        texts += [
            f"zap storm: gfn {key >> 3:x} level {key & 7} was zapped {count} times within a"
            f" second, up to line {line}"
            for key, (count, line) in storms[:_SHOWN]
        ]
        more = max(len(stuck) - _SHOWN, 0) + max(len(storms) - _SHOWN, 0)
        return [*texts, f"{more} more such faults and zap storms"] if more else texts


def _faults(count: int) -> str:
    return "1 fault was" if count == 1 else f"{count} faults were each"


def _mapped(event: Event) -> bool:
    return isinstance(event, FastPageFault) and (event.fixed or event.spurious)
