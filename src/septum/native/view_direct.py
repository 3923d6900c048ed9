# SPDX-License-Identifier: GPL-2.0-only
"""`DirectView` over a compiled kernel: memslots, dirty logs, NX huge pages, cached walks.

What lies in structures of the kernel is looked up by the glue (``c/slots.c``, ``c/fields.c``).
Of the pages below an entry only those that the scenario uses are followed.
"""

from __future__ import annotations

from typing import Final

from septum.kvm.spte import is_last_spte, is_shadow_present_pte, spte_to_pfn
from septum.kvm.structs import OUTSIDE_GUEST_MODE
from septum.kvm.view_base import BaseView, Table
from septum.kvm.view_direct import NxTable, NxView
from septum.native.image import ARENA, FIRST_PFN
from septum.native.kernel import Kernel

__all__ = ["NativeDirectView"]

_LOGGED, _DIRTY, _IN_EFFECT = 1, 2, 4
_NO_MORE: Final = 0


class NativeDirectView(BaseView):
    """The part of `NativeView` that direct roots need."""

    kvm: Kernel
    watched: frozenset[int]

    @property
    def kernel(self) -> Kernel:
        return self.kvm

    # --- memslots and dirty logs -------------------------------------------------------------

    def backing_pfn(self, gfn: int) -> int:
        return self.kernel.image.look("septum_backing", gfn)

    def _slot_state(self, gfn: int) -> int:
        return self.kernel.image.look("septum_slot_state", gfn)

    def _look_at(self, function: str, argument: int = 0) -> None:
        """A word whose address the glue knows is read in this step: others may write it."""
        addr = self.kernel.image.look(function, argument)
        if addr:
            self.kernel.objects.cell(addr).peek()

    def has_memslot(self, gfn: int) -> bool:
        self._look_at("septum_slots_word")
        self._look_at("septum_generation_word")
        return bool(self._slot_state(gfn) & _IN_EFFECT)

    def mmio_is_current(self, value: int) -> bool:
        if self.kernel.module is not None:  # a TD's are never believed
            return False
        return bool(self.kernel.image.look("septum_mmio_is_current", value))

    def logged(self) -> tuple[int, ...]:
        return tuple(g for g in sorted(self.kernel.gfns) if self._slot_state(g) & _LOGGED)

    def marked_dirty(self, gfn: int) -> bool:
        self._look_at("septum_slots_word")
        self._look_at("septum_dirty_word", gfn)
        if self._slot_state(gfn) & _DIRTY:
            return True
        return any(gfn in vcpu.pml.peek() for vcpu in self.kernel.vcpus)

    def is_traced(self, index: int) -> bool:
        """Writes of the others are told only if tasks share the entry (``c/memory.c``)."""
        return index in self.watched

    def uses_pml(self) -> bool:
        return self.kernel.features.pml

    def cached_writable(self) -> list[tuple[int, int]]:
        return [
            (vcpu.id, gfn)
            for vcpu in self.kernel.vcpus
            if not self._flushes(vcpu.id)
            for gfn in sorted(vcpu.guest.writable.peek())
        ]

    def _flushes(self, vcpu: int) -> bool:
        """Outside the guest, with the request pending that it services before it enters."""
        kernel = self.kernel
        base = kernel.vcpu_struct(vcpu)
        for name in ("kvm_vcpu.mode", "kvm_vcpu.requests"):
            kernel.member(name, base).peek()
        outside = kernel.value("kvm_vcpu.mode", base) & 0xFFFFFFFF == OUTSIDE_GUEST_MODE
        flush = kernel.fields["value.KVM_REQ_TLB_FLUSH"][0]
        return outside and bool(kernel.value("kvm_vcpu.requests", base) >> flush & 1)

    # --- NX huge pages ------------------------------------------------------------------------

    def nx(self) -> NxView:
        kernel = self.kernel
        listed: list[NxTable] = []
        while len(listed) < 64:
            sp = kernel.image.look("septum_nx_listed", len(listed))
            if sp == _NO_MORE:
                break
            disallowed = kernel.value("kvm_mmu_page.nx_huge_page_disallowed", sp) & 0xFF
            page = kernel.value("kvm_mmu_page.spt", sp)
            name = kernel.objects.cell(page).name.partition("[")[0]
            listed.append(NxTable(name, bool(disallowed)))
        splits = kernel.value("kvm.stat.nx_lpage_splits")
        return NxView(tuple(listed), kernel.image.look("septum_nx_count", 0), splits)

    # --- walks --------------------------------------------------------------------------------

    def vcpu_root(self, vcpu: int) -> str:
        """Only the vCPU's own thread changes it, and not while it is in the guest."""
        for v in self.kernel.vcpus:
            if self.kernel.tdvpr(v.id) == vcpu and v.root_hpa.v != (1 << 64) - 1:
                return self.kernel.mmu_pages[v.root_hpa.v >> 12].name
        return ""

    def is_linked(self, table: Table) -> bool:
        kernel = self.kernel
        page = ARENA + (table.pfn - FIRST_PFN << 12)
        for _ in range(self.geometry.levels + 1):
            sp = kernel.sp_of(page)
            if not sp:
                return False
            parent = kernel.value("kvm_mmu_page.ptep", sp)
            if not parent:
                return True
            value = kernel.objects.cell(parent).peek()
            if not is_shadow_present_pte(value) or spte_to_pfn(value) != _pfn(page):
                return False
            page = parent & ~0xFFF
        return False

    def walks_through(self, gfn: int, level: int, value: int) -> list[tuple[int, int, bool]]:
        if not is_shadow_present_pte(value):
            return []
        pfn = spte_to_pfn(value)
        span = self.geometry.pages_per_level(level)
        first = gfn & ~self.kernel.gfn_direct_bits
        below = [g for g in sorted(self.kernel.gfns) if first <= g < first + span]
        if is_last_spte(value, level):
            return [(g, pfn + g - first, False) for g in below]
        out = [(first, pfn, True)]
        page = ARENA + (pfn - FIRST_PFN << 12)
        if not self.kernel.sp_of(page):
            return out
        span = self.geometry.pages_per_level(level - 1)
        for start in sorted({g // span * span for g in below}):
            index = self.geometry.index(start, level - 1)
            entry = self.kernel.objects.cell(page + 8 * index).peek()
            out += self.walks_through(start, level - 1, self.kernel.value_of(entry))
        return out


def _pfn(page: int) -> int:
    return (page - ARENA >> 12) + FIRST_PFN
