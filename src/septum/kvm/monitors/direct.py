# SPDX-License-Identifier: GPL-2.0-only
"""Direct roots: writable bits (I13), NX accounting (I15), roots (I16), stale mappings (I19),
freed pages (I25)."""

from __future__ import annotations

from collections.abc import Iterable

from septum.kvm.monitors.base import Monitor
from septum.kvm.spte import (
    EPT_SPTE_HOST_WRITABLE,
    is_last_spte,
    is_mmu_writable_spte,
    is_shadow_present_pte,
    is_writable_pte,
    spte_to_pfn,
)
from septum.kvm.view import Entry, SpteChange, Translation, View
from septum.machine import Cell

__all__ = ["FreedPagesUnmapped", "NxAccounting", "RootFlags", "StaleMappings", "WritableBits"]


class WritableBits(Monitor):
    """MMU-writable means that a write needs nobody's leave but the fast path's, so write
    tracking is its business: of (Host, MMU, W) a tracked GFN has 100 or 000 (facts 1.3)."""

    id = "I13"
    statement = (
        "In every leaf, MMU-writable implies Host-writable, and W implies MMU-writable; once a "
        "GFN is write-tracked no direct leaf of it is or becomes W or MMU-writable, and no CPU "
        "may still write through its TLB."
    )
    judged = "every store to an SPTE; the return of kvm_write_track_add_gfn()"
    source = (
        "facts/kvm-tdp-mmu.md 1.3, 1.4, 7(a) I13; Linux spte.h check_spte_writable_invariants(), "
        "page_track.c __kvm_write_track_add_gfn()"
    )
    example = "the fast path makes a write-tracked page writable"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.tracked = Cell(view.m, "I13 tracked", frozenset())

    def on_spte(self, change: SpteChange) -> None:
        new, entry = change.new, change.entry
        if not is_shadow_present_pte(new) or not is_last_spte(new, entry.level):
            return
        if is_mmu_writable_spte(new):
            if not new & EPT_SPTE_HOST_WRITABLE:
                self.report(f"gfn {entry.gfn:x}: MMU-writable, but not Host-writable: {new:x}")
        elif is_writable_pte(new):
            self.report(f"gfn {entry.gfn:x}: writable, but not MMU-writable: {new:x}")
        if not entry.table.is_mirror:
            self._tracked(entry, new)

    def _tracked(self, entry: Entry, value: int) -> None:
        if not is_mmu_writable_spte(value) and not is_writable_pte(value):
            return
        pages = range(entry.gfn, entry.gfn + self.view.geometry.pages_per_level(entry.level))
        for gfn in sorted(self.tracked.peek().intersection(pages)):
            self.report(f"gfn {gfn:x} is write-tracked, its leaf may become writable: {value:x}")

    def on_write_tracked(self, gfn: int) -> None:
        self.tracked.poke(self.tracked.peek() | {gfn})
        invalid = {root.name for root in self.view.roots() if root.invalid}
        for entry in self.view.entries():
            if entry.table.is_mirror or entry.table.root in invalid:
                continue
            if is_shadow_present_pte(entry.value) and is_last_spte(entry.value, entry.level):
                self._tracked(entry, entry.value)
        for vcpu, cached in self.view.cached_writable():
            if cached == gfn:
                self.report(f"gfn {gfn:x} is write-tracked, vCPU {vcpu} may still write it")


class NxAccounting(Monitor):
    id = "I15"
    statement = (
        "The list of possible NX huge pages has nr_pages members, as many as nx_lpage_splits "
        "says; each is linked, and its table has nx_huge_page_disallowed set."
    )
    judged = "settled"
    source = "facts/kvm-tdp-mmu.md 4.17, 7(b) I15; Linux mmu.c track_possible_nx_huge_page()"
    example = "a removed table stays on the list"

    def settled(self) -> None:
        nx = self.view.nx()
        if nx.nr_pages != len(nx.listed):
            self.report(f"nr_pages is {nx.nr_pages}, {len(nx.listed)} tables are listed")
        if nx.splits != len(nx.listed):
            self.report(f"nx_lpage_splits is {nx.splits}, {len(nx.listed)} tables are listed")
        if nx.listed:
            linked = {entry.table.name for entry in self.view.entries()}
            for table in nx.listed:
                if not table.disallowed:
                    self.report(f"{table.name} is listed, but huge pages are not disallowed")
                if table.name not in linked:
                    self.report(f"{table.name} is listed, but not linked")


class RootFlags(Monitor):
    id = "I16"
    statement = (
        "A root scheduled for zapping is invalid, and none is left when a fast zap returns; "
        "after the VM's destruction there is no root and no linked table."
    )
    judged = "the end of a fast zap, the end of the VM; settled"
    source = "facts/kvm-tdp-mmu.md 2.3, 7(b) I16; Linux kvm_tdp_mmu_zap_invalidated_roots()"
    example = "the flag is set, but the root stays valid: vCPUs go on filling it"

    def settled(self) -> None:
        for root in self.view.roots():
            if root.scheduled and not root.invalid:
                self.report(f"root {root.name} is scheduled for zapping, but valid", root.name)

    def on_zap_all_fast_done(self) -> None:
        for root in self.view.roots():
            if root.scheduled:
                self.report(f"root {root.name} is still scheduled for zapping", root.name)

    def on_mmu_destroyed(self) -> None:
        for root in self.view.roots():
            self.report(f"root {root.name} outlives the VM", root.name)
        if self.view.tdp_mmu_pages():
            self.report(f"{self.view.tdp_mmu_pages()} tables outlive the VM")


class StaleMappings(Monitor):
    id = "I19"
    statement = (
        "Every leaf of a valid direct root maps the page that its memslot yields; an MMIO SPTE "
        "that KVM would believe has no memslot, nor has a GFN whose access is emulated as MMIO."
    )
    judged = "settled; every access emulated as MMIO"
    source = "facts/kvm-tdp-mmu.md 1.2, 4.7, 7(b) I19; Linux mmu.c is_page_fault_stale()"
    example = "an MMIO SPTE of an old memslot generation is believed"

    def on_mmio_emulated(self, vcpu: int, gfn: int) -> None:
        if self.view.has_memslot(gfn):
            self.report(f"gfn {gfn:x} has a memslot, but vCPU {vcpu}'s access is emulated as MMIO")

    def settled(self) -> None:
        invalid = {root.name for root in self.view.roots() if root.invalid}
        root = ""
        for entry in self.view.entries():
            if entry.table.is_root:
                root = entry.table.name
            if entry.table.is_mirror or root in invalid:
                continue
            if is_shadow_present_pte(entry.value):
                if is_last_spte(entry.value, entry.level):
                    self._leaf(entry.gfn, spte_to_pfn(entry.value), self._pages(entry.level))
            elif self.view.mmio_is_current(entry.value) and self.view.has_memslot(entry.gfn):
                self.report(f"gfn {entry.gfn:x} has a memslot and a valid MMIO SPTE")

    def _pages(self, level: int) -> Iterable[int]:
        return range(self.view.geometry.pages_per_level(level))

    def _leaf(self, gfn: int, pfn: int, pages: Iterable[int]) -> None:
        for n in pages:
            backing = self.view.backing_pfn(gfn + n)
            if backing != pfn + n:
                self.report(
                    f"gfn {gfn + n:x} is mapped to pfn {pfn + n:x}, its memslot has {backing:x}"
                )


class FreedPagesUnmapped(Monitor):
    """An invalid root counts: its leafs are still written back to their pages when they are
    zapped, and a vCPU may still have it loaded (tdp_mmu.c tdp_mmu_zap_root(),
    __kvm_mmu_zap_all_fast_back_half())."""

    id = "I25"
    statement = (
        "A page that its owner has given back to the host is mapped by no leaf of a direct root, "
        "valid or invalid."
    )
    judged = "every page given back to the host, every store that makes a leaf reachable"
    source = (
        "facts/kvm-tdp-mmu.md 2.3, 4.10; Linux include/linux/mmu_notifier.h "
        "invalidate_range_start(), tdp_mmu.c kvm_tdp_mmu_unmap_gfn_range(), tdp_mmu_zap_root()"
    )
    example = "the MMU notifier leaves out invalid roots: a fast zap has yet to zap them"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.leafs: dict[int, Cell] = {}
        for entry in view.entries():
            if is_last_spte(entry.value, entry.level) and not entry.table.is_mirror:
                for walk in view.walks(entry, entry.value):
                    cell = self._leafs(walk.pfn)
                    cell.set(cell.v + 1)

    def _leafs(self, pfn: int) -> Cell:
        """How many GFNs of direct roots map the page."""
        cell = self.leafs.get(pfn)
        if cell is None:
            cell = self.leafs[pfn] = Cell(self.view.m, f"I25 leafs of page {pfn:x}", 0)
        return cell

    def on_walks(self, gained: frozenset[Translation], lost: frozenset[Translation]) -> None:
        for walk in sorted(lost):
            if not walk.table:
                self._leafs(walk.pfn).bump(-1)
        for walk in sorted(gained):
            if not walk.table:
                self._leafs(walk.pfn).bump(1)
                if self.view.page_is_free(walk.pfn):
                    self.report(f"{_mapping(walk)}, which the host has back")

    def on_page_freed(self, pfn: int) -> None:
        if not self._leafs(pfn).peek():
            return
        for entry in self.view.entries():
            if is_last_spte(entry.value, entry.level) and not entry.table.is_mirror:
                for walk in self.view.walks(entry, entry.value):
                    if walk.pfn == pfn:
                        self.report(f"page {pfn:x} is freed, {_mapping(walk)}")


def _mapping(walk: Translation) -> str:
    return f"the direct root {walk.root} maps gfn {walk.gfn:x} to page {walk.pfn:x}"
