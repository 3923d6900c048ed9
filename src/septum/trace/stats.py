# SPDX-License-Identifier: GPL-2.0-only
"""What happened, counted: installs, zaps by cause, splits, collapses, retries; and the
activity over time and GFNs for plots.

A line does not say why a leaf goes.  The cause is what the task announced before: an MMU
notifier range, a fast zap, an NX recovery worker's name; else it is a memslot change, a
teardown or something unrecorded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from septum.kvm.spte import PT_PAGE_SIZE_MASK, SPTE_MMU_PRESENT_MASK
from septum.kvm.versions import FROZEN_VALUES
from septum.trace.events import (
    Event,
    PageFault,
    PrepareZapPage,
    SpteChanged,
    UnmapHvaRange,
    ZapAllFast,
)
from septum.trace.notices import Notices
from septum.trace.rules import Where

__all__ = ["REGION_BITS", "Stats"]

REGION_BITS: Final = 9
"""The heat map counts changes per 2M of GFNs."""
_KIND: Final = SPTE_MMU_PRESENT_MASK | PT_PAGE_SIZE_MASK
_SOON: Final = 0.01
"""Seconds between a notifier's line and its zaps, or two of its zaps."""
_NOTIFIER: Final = "MMU notifier"
_FAST: Final = "fast zap"
_OTHER: Final = "memslot, teardown or unrecorded"
_NX: Final = "NX recovery"
_REMOVED: Final = "with a table that is removed"


@dataclass(slots=True)
class Stats:
    """Feed every line; `summary` is the result."""

    changes: dict[tuple[int, int, int, str], int] = field(default_factory=dict)
    faults: int = 0
    zaps: int = 0
    heat: dict[int, int] = field(default_factory=dict)
    """Changes since the last sample, by GFN >> REGION_BITS."""
    notices: Notices = field(default_factory=Notices)
    _causes: dict[int, tuple[str, float]] = field(default_factory=dict)
    """By task: what it announced, and when it last did something for it."""

    def other(self, at: Where, event: Event) -> None:
        kind = type(event)
        self.notices.other(at, event)
        if kind is PageFault:
            self.faults += 1
            self._causes.pop(at.pid, None)
        elif kind is UnmapHvaRange:
            self._causes[at.pid] = (_NOTIFIER, at.time)
        elif kind is ZapAllFast:
            self._causes[at.pid] = (_FAST, at.time)
        elif kind is not PrepareZapPage:
            self._causes.pop(at.pid, None)

    def changed(self, at: Where, event: SpteChanged) -> None:
        _, gfn, level, old, new = event
        cause = ""
        if old & SPTE_MMU_PRESENT_MASK and not new & SPTE_MMU_PRESENT_MASK:
            self.zaps += 1
            if level == 1 or old & PT_PAGE_SIZE_MASK:
                self.notices.zapped(at, gfn, level)
            if new in FROZEN_VALUES:
                cause = _REMOVED
            else:
                cause = self._cause(at, event)
        key = (old & _KIND, new & _KIND, level, cause)
        self.changes[key] = self.changes.get(key, 0) + 1
        region = gfn >> REGION_BITS
        self.heat[region] = self.heat.get(region, 0) + 1

    def _cause(self, at: Where, event: SpteChanged) -> str:
        """A notifier zaps leafs at once, never tables (facts 4.8)."""
        cause, since = self._causes.get(at.pid, ("", 0.0))
        if cause == _NOTIFIER:
            table = event.level > 1 and not event.old_spte & PT_PAGE_SIZE_MASK
            if table or at.time - since > _SOON:
                del self._causes[at.pid]
                cause = ""
        if cause:
            self._causes[at.pid] = (cause, at.time)
            return cause
        return _NX if "nx-lpage" in at.comm else _OTHER

    def take_heat(self) -> dict[int, int]:
        heat, self.heat = self.heat, {}
        return heat

    def summary(self, events: dict[str, int]) -> dict[str, dict[str, int]]:
        """Counts by heading, then by what."""
        out: dict[str, dict[str, int]] = {
            "faults": _faults(events),
            "installs": {},
            "zaps": {},
            "changes of shape": {},
            "changes of bits": {},
        }
        names = {1: "4K", 2: "2M", 3: "1G", 4: "512G", 5: "256T"}
        for (old, new, level, cause), count in self.changes.items():
            was, now = _shape(old, level), _shape(new, level)
            name = names.get(level, str(level))
            if was == "none" and now == "none":
                where, what = "changes of bits", "empty or MMIO entries"
            elif was == "none" and now == "leaf":
                where, what = "installs", f"{name} leafs"
            elif was == "none":
                where, what = "installs", "tables"
            elif now == "none":
                thing = f"{name} leafs" if was == "leaf" else "tables"
                where, what = "zaps", f"{thing}: {cause}"
            elif was == now:
                where, what = "changes of bits", f"{name} leafs"
            else:
                where = "changes of shape"
                what = f"splits of {name}" if now == "table" else f"collapses to {name}"
            out[where][what] = out[where].get(what, 0) + count
        return out


def _shape(kind: int, level: int) -> str:
    if not kind & SPTE_MMU_PRESENT_MASK:
        return "none"
    return "leaf" if level == 1 or kind & PT_PAGE_SIZE_MASK else "table"


def _faults(events: dict[str, int]) -> dict[str, int]:
    """From the counts of lines.  A map attempt ends in a set_spte or mark_mmio line, or in
    nothing: then it is retried, or it was spurious (7.3)."""
    found = {
        "exits (kvm_page_fault)": events.get("kvm_page_fault", 0),
        "fast (fast_page_fault)": events.get("fast_page_fault", 0),
        "map attempts (kvm_mmu_spte_requested)": events.get("kvm_mmu_spte_requested", 0),
        "mapped (kvm_mmu_set_spte)": events.get("kvm_mmu_set_spte", 0),
        "MMIO (mark_mmio_spte)": events.get("mark_mmio_spte", 0),
    }
    asked = found["map attempts (kvm_mmu_spte_requested)"]
    done = found["mapped (kvm_mmu_set_spte)"] + found["MMIO (mark_mmio_spte)"]
    if asked and done:
        found["retried or spurious"] = max(asked - done, 0)
    return {name: count for name, count in found.items() if count}
