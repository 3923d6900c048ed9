# SPDX-License-Identifier: GPL-2.0-only
"""What fast_page_fault lines say about lines that cleared W.

A fault that was *fixed* found its old value, without W, in the entry and set W by cmpxchg
(fast_pf_fix_direct_spte(), mmu.c; facts 4.13).  Two of them on one entry have a change that
cleared W between them.  No lock orders their lines, and a vCPU may be preempted between its
store and its line; but a store never comes before the line that its task wrote before it.
So the store of a line lies between that line of its task and its own, and two stores are
ordered only if these spans, `_SKEW` wider, do not overlap.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from septum.kvm.shadow import ShadowTables
from septum.kvm.spte import PT_WRITABLE_MASK, is_shadow_present_pte, spte_to_pfn
from septum.trace.events import FastPageFault, SpteChanged
from septum.trace.rules import Finding, Where, finding_at

__all__ = ["FastFaults"]

_SKEW: Final = 0.001
"""Seconds by which clocks of CPUs may differ; recorded: 545 us (6.12)."""


@dataclass(slots=True)
class Due:
    """A change that cleared W is missing, unless its line comes late."""

    gfn: int
    time: float
    seq: int
    finding: Finding


class FastFaults:
    """Feed every change and every fast_page_fault line; `expire` gives the findings."""

    def __init__(self, tables: ShadowTables) -> None:
        self.tables = tables
        self.one_space = True
        """All changes so far are of address space 0: the line does not name its own."""
        self._fixed: dict[int, float] = {}
        """By GFN: when W was last set, if no change of the entry may have come after."""
        self._changed: dict[int, float] = {}
        """By GFN whose last change cleared W: when that was logged."""
        self._before: dict[int, float] = {}
        """By task: when it wrote its last line."""
        self._due: deque[Due] = deque()

    def lost(self) -> None:
        self._fixed.clear()
        self._changed.clear()
        self._before.clear()
        self._due.clear()

    def line(self, at: Where) -> None:
        """Any line of KVM: after its own use."""
        self._before[at.pid] = at.time

    def changed(self, at: Where, event: SpteChanged) -> None:
        as_id, gfn, level, _, new = event
        if as_id:
            self.one_space = False
        if level > 1:
            return
        if not new & PT_WRITABLE_MASK:
            if self._due:
                self._excuse(at, gfn)
            if is_shadow_present_pte(new):
                self._changed[gfn] = at.time
                self._fixed.pop(gfn, None)
                return
        if gfn in self._changed:
            del self._changed[gfn]
            self._fixed.pop(gfn, None)

    def _excuse(self, at: Where, gfn: int) -> None:
        """A change that may be older than its line, and than the fault that missed it."""
        before = self._before.get(at.pid, 0.0)
        for due in [due for due in self._due if due.gfn == gfn]:
            if before - _SKEW <= due.time:
                self._due.remove(due)

    def fault(self, at: Where, event: FastPageFault, seq: int, *, closed: bool) -> None:
        gfn, old = event.gva >> 12, event.old_spte
        since = self._before.get(at.pid)
        known = self._fixed.pop(gfn, None)
        if not event.fixed or since is None or at.time.is_integer():
            return  # a clock that prints whole numbers does not count seconds
        if not self._one_entry(gfn, old):
            return
        if known is not None and closed and known + _SKEW < since:
            text = (
                f"fast_page_fault: gfn {gfn:x} had no W ({old:x}), but a fault had set it at"
                f" {known:.6f} and no line cleared it since"
            )
            self._due.append(Due(gfn, at.time, seq, finding_at("FAULT-fast", at, text)))
        if self._changed.get(gfn, at.time) + _SKEW < since:
            self._fixed[gfn] = at.time

    def _one_entry(self, gfn: int, old: int) -> bool:
        """Whether exactly one known entry can be meant, with the page of ``old``."""
        tables = self.tables
        group = tables.groups.get(tables.key(0, gfn, 1), ())
        if not self.one_space or len(group) != 1 or old & PT_WRITABLE_MASK:
            return False
        last = group[0].value(tables.index(gfn, 1))
        present = is_shadow_present_pte(last) and is_shadow_present_pte(old)
        return present and group[0].complete and spte_to_pfn(last) == spte_to_pfn(old)

    @property
    def waiting(self) -> bool:
        return bool(self._due)

    def expire(self, limit: int) -> list[Finding]:
        """The findings of faults from before change number ``limit``."""
        found = []
        while self._due and self._due[0].seq <= limit:
            found.append(self._due.popleft().finding)
        return found
