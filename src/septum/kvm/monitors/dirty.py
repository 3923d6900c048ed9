# SPDX-License-Identifier: GPL-2.0-only
"""No guest write to a dirty-logged slot gets lost (I22)."""

from __future__ import annotations

from typing import Final

from septum.kvm.monitors.base import Monitor
from septum.kvm.spte import (
    PG_LEVEL_4K,
    PT_WRITABLE_MASK,
    VMX_EPT_DIRTY_BIT,
    is_last_spte,
    is_shadow_present_pte,
)
from septum.kvm.view import Entry, SpteChange, View
from septum.machine import Cell

__all__ = ["NoLostDirty"]

_ARMING: Final = PT_WRITABLE_MASK | VMX_EPT_DIRTY_BIT


class NoLostDirty(Monitor):
    """Ghost state per GFN: *unreported*, a write after which no GET or CLEAR that took the
    page has returned (userspace copies the page only then); *stale*, (vCPU, GFN) cached
    as writable from before W or D was cleared."""

    id = "I22"
    statement = (
        "A guest write to a dirty-logged page is in the bitmap or a CPU's log, or was before a "
        "GET or CLEAR that took the page returned; then no CPU has an older writable "
        "translation of it, and no leaf lets a write to an unmarked page pass unseen."
    )
    judged = "the return of GET, CLEAR and of enabling the log; settled"
    source = "facts/kvm-tdp-mmu.md 4.14, docs/model.md; Linux kvm_get_dirty_log_protect()"
    example = "GET clears W and does not flush: a CPU goes on writing through its TLB"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        m = view.m
        self.armed = Cell(m, "I22 armed", frozenset(view.logged()))
        self.stale = Cell(m, "I22 stale", frozenset())
        self._unreported: dict[int, Cell] = {}

    def _cell(self, gfn: int) -> Cell:
        cell = self._unreported.get(gfn)
        if cell is None:
            cell = self._unreported[gfn] = Cell(self.view.m, f"I22 unreported {gfn:x}", False)
        return cell

    def on_guest_access(self, vcpu: int, gfn: int, pfn: int, access: str) -> None:
        if access == "write" and gfn in self.armed.peek():
            self._cell(gfn).poke(True)

    def on_spte(self, change: SpteChange) -> None:
        entry = change.entry
        if entry.table.is_mirror or not is_last_spte(change.old, entry.level):
            return
        if change.old & ~change.new & _ARMING:
            pages = range(entry.gfn, entry.gfn + self.view.geometry.pages_per_level(entry.level))
            cached = {pair for pair in self.view.cached_writable() if pair[1] in pages}
            if cached:
                self.stale.poke(self.stale.peek() | cached)

    def on_direct_tlb_flushed(self, vcpu: int) -> None:
        stale = self.stale.peek()
        if any(pair[0] == vcpu for pair in stale):
            self.stale.poke(frozenset(pair for pair in stale if pair[0] != vcpu))

    def _rearmed(self, gfns: tuple[int, ...], what: str) -> None:
        stale = self.stale.peek() & set(self.view.cached_writable())
        for vcpu, gfn in sorted(stale):
            if gfn in gfns:
                self.report(f"{what} has returned, vCPU {vcpu} may still write gfn {gfn:x} unseen")

    def on_dirty_log_taken(self, gfns: tuple[int, ...]) -> None:
        for gfn in gfns:
            self._cell(gfn).poke(False)
        self._rearmed(gfns, "GET or CLEAR of the dirty log")

    def on_dirty_log_enabled(self, gfns: tuple[int, ...]) -> None:
        self.armed.poke(self.armed.peek() | set(gfns))
        self._rearmed(tuple(g for g in gfns if not self.view.marked_dirty(g)), "enabling the log")

    def on_dirty_log_disabled(self, gfns: tuple[int, ...]) -> None:
        self.armed.poke(self.armed.peek() - set(gfns))
        for gfn in gfns:
            self._cell(gfn).poke(False)

    def settled(self) -> None:
        armed = self.armed.peek()
        if not armed:
            return
        for gfn in sorted(armed):
            if self._cell(gfn).peek() and not self.view.marked_dirty(gfn):
                self.report(f"a write to gfn {gfn:x} is neither reported nor marked")
        invalid = {root.name for root in self.view.roots() if root.invalid}
        root = ""
        for entry in self.view.entries():
            root = entry.table.name if entry.table.is_root else root
            if root not in invalid and self._silent(entry):
                pages = self.view.geometry.pages_per_level(entry.level)
                for gfn in armed.intersection(range(entry.gfn, entry.gfn + pages)):
                    if not self.view.marked_dirty(gfn):
                        self.report(f"gfn {gfn:x} is not marked, and writable unseen")

    def _silent(self, entry: Entry) -> bool:
        """A leaf through which the guest writes (from its second write on) unseen."""
        value = entry.value
        if not is_shadow_present_pte(value) or not is_last_spte(value, entry.level):
            return False
        if not value & PT_WRITABLE_MASK:
            return False
        if self.view.uses_pml() and entry.level == PG_LEVEL_4K:
            return bool(value & VMX_EPT_DIRTY_BIT)
        return True
