# SPDX-License-Identifier: GPL-2.0-only
"""What monitors may see of direct roots, dirty logs, NX huge pages and table pages.

Part of `septum.kvm.view.View`; every read belongs to the event at which a monitor judges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from septum.kvm.slot_structs import KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS
from septum.kvm.spte import MMIO_SPTE_GEN_MASK, get_mmio_spte_generation, is_mmio_spte
from septum.kvm.structs import KVM_REQ_TLB_FLUSH, OUTSIDE_GUEST_MODE

if TYPE_CHECKING:
    from septum.kvm.structs import Kvm, KvmMemorySlot, Vcpu

__all__ = ["DirectView", "KvmDirectView", "NxTable", "NxView"]


@dataclass(frozen=True, slots=True)
class NxTable:
    """A table on the list of possible NX huge pages."""

    name: str
    disallowed: bool


@dataclass(frozen=True, slots=True)
class NxView:
    """possible_nx_huge_pages[KVM_TDP_MMU] and nx_lpage_splits."""

    listed: tuple[NxTable, ...]
    nr_pages: int
    splits: int


class DirectView(Protocol):
    """See the module."""

    def backing_pfn(self, gfn: int) -> int:
        """The page that a direct leaf of ``gfn`` should map; 0: it should not exist."""
        ...

    def has_memslot(self, gfn: int) -> bool:
        """A slot that userspace knows to be in effect: no update is in progress."""
        ...

    def mmio_is_current(self, value: int) -> bool:
        """The value is an MMIO SPTE that KVM would still believe."""
        ...

    def nx(self) -> NxView: ...
    def logged(self) -> tuple[int, ...]:
        """GFNs of dirty-logged slots."""
        ...

    def marked_dirty(self, gfn: int) -> bool:
        """In the slot's bitmap, or in the PML buffer of a CPU."""
        ...

    def uses_pml(self) -> bool: ...
    def cached_writable(self) -> list[tuple[int, int]]:
        """(vCPU, GFN): translations with which a CPU may write without telling anybody."""
        ...

    def is_traced(self, index: int) -> bool:
        """Both changes of a table's entry and lines about it are told."""
        ...

    def table_pages(self) -> list[tuple[int, str, bool]]:
        """Every page that KVM has allocated for tables and not freed: PFN, name, and
        whether a root leads to it.  Empty while RCU callbacks are yet to run."""
        ...


class KvmDirectView:
    """`DirectView` over `Kvm`."""

    kvm: Kvm

    def _slot(self, gfn: int) -> KvmMemorySlot | None:
        return next((slot for slot in self.kvm.slots if gfn in slot), None)

    def backing_pfn(self, gfn: int) -> int:
        slot = self._slot(gfn)
        if slot is None or slot.invalid or self.kvm.mem_attr(gfn).peek():
            return 0
        return self.kvm.host.hva.peek(slot.hva(gfn))

    def has_memslot(self, gfn: int) -> bool:
        generation = self.kvm.memslots_generation.peek()
        return self._slot(gfn) is not None and not generation & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS

    def mmio_is_current(self, value: int) -> bool:
        generation: int = self.kvm.memslots_generation.peek()
        return (
            not self.kvm.has_mirrored_tdp
            and is_mmio_spte(self.kvm, value)
            and get_mmio_spte_generation(value) == generation & MMIO_SPTE_GEN_MASK
        )

    def nx(self) -> NxView:
        kvm = self.kvm
        pages = [kvm.mmu_pages[pfn] for pfn in kvm.possible_nx_huge_pages.peek()]
        listed = tuple(NxTable(sp.name, bool(sp.nx_huge_page_disallowed.peek())) for sp in pages)
        return NxView(listed, int(kvm.nx_nr_pages.peek()), int(kvm.nx_lpage_splits.peek()))

    def logged(self) -> tuple[int, ...]:
        return tuple(
            gfn
            for slot in self.kvm.slots
            if slot.logged
            for gfn in range(slot.base_gfn, slot.base_gfn + slot.npages)
        )

    def marked_dirty(self, gfn: int) -> bool:
        slot = self._slot(gfn)
        if slot is not None and slot.dirty_bitmap.peek() >> (gfn - slot.base_gfn) & 1:
            return True
        return any(gfn in vcpu.pml.peek() for vcpu in self.kvm.vcpus)

    def is_traced(self, index: int) -> bool:
        return True

    def uses_pml(self) -> bool:
        return self.kvm.features.pml

    def cached_writable(self) -> list[tuple[int, int]]:
        return [
            (vcpu.id, gfn)
            for vcpu in self.kvm.vcpus
            if not self._flushes_before_entry(vcpu)
            for gfn in sorted(vcpu.guest.writable.peek())
        ]

    def _flushes_before_entry(self, vcpu: Vcpu) -> bool:
        """Outside the guest, with the request pending that it services before it enters."""
        outside = vcpu.mode.peek() == OUTSIDE_GUEST_MODE
        return bool(outside and vcpu.requests.peek() & KVM_REQ_TLB_FLUSH)

    def table_pages(self) -> list[tuple[int, str, bool]]:
        if self.kvm.m.rcu.v:
            return []
        reachable: set[int] = set()
        external: set[int] = set()
        todo = list(self.kvm.tdp_mmu_roots.peek())
        while todo:
            pfn = todo.pop()
            reachable.add(pfn)
            sp = self.kvm.mmu_pages[pfn]
            external.add(sp.external_spt.peek())
            todo += sp.children(self.kvm)
        out = []
        for pfn, owner in self.kvm.host.table_pages():
            if owner == "spt" and not self.kvm.mmu_pages[pfn].spt.freed:
                out.append((pfn, f"table {self.kvm.mmu_pages[pfn].name}", pfn in reachable))
            elif owner == "external_spt":
                out.append((pfn, f"S-EPT page {pfn:x}", pfn in external))
        return out
