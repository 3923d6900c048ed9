# SPDX-License-Identifier: GPL-2.0-only
"""Private or shared: KVM_SET_MEMORY_ATTRIBUTES (facts/kvm-tdp-mmu.md 4.11, 5.5).

Follows ``virt/kvm/kvm_main.c`` and ``arch/x86/kvm/mmu/mmu.c``.  Under slots_lock: start,
add and unmap the *old* side of every overlapping slot, flush; store the attributes; end,
and look again which huge ranges have mixed attributes.  mmu_lock is taken only if a slot
overlaps.

``KVM_LPAGE_MIXED_FLAG`` of a range says that its pages do not all have one attribute: it
can then not be mapped by one huge page.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL
from typing import Any, Final

from septum.kvm.bug import lockdep_assert_held, lockdep_assert_held_write
from septum.kvm.roots import KVM_FILTER_PRIVATE, KVM_FILTER_SHARED
from septum.kvm.spte import PG_LEVEL_2M
from septum.kvm.structs import KVM_MEMORY_ATTRIBUTE_PRIVATE, Kvm, KvmMemorySlot
from septum.kvm.zap import KvmGfnRange

__all__ = ["FUNCTIONS"]


def kvm_get_memory_attributes(kvm: Kvm, gfn: int) -> int:
    """xa_load(&kvm->mem_attr_array, gfn), lockless."""
    attributes: int = kvm.mem_attr(gfn).read()
    return attributes


def kvm_mem_is_private(kvm: Kvm, gfn: int) -> bool:
    return bool(kvm.fn.kvm_get_memory_attributes(kvm, gfn) & KVM_MEMORY_ATTRIBUTE_PRIVATE)


def kvm_range_has_memory_attributes(kvm: Kvm, start: int, end: int, attributes: int) -> bool:
    """Under slots_lock, which every store holds."""
    return all(kvm.mem_attr(gfn).peek() == attributes for gfn in range(start, end))


def kvm_vm_set_mem_attributes(kvm: Kvm, start: int, end: int, attributes: int) -> int:
    """KVM_SET_MEMORY_ATTRIBUTES for the GFNs [start, end)."""
    if start >= end:
        return -EINVAL
    fn = kvm.fn
    kvm.trace("kvm_vm_set_mem_attributes", start=start, end=end, attributes=attributes)
    kvm.slots_lock.lock()
    if not fn.kvm_range_has_memory_attributes(kvm, start, end, attributes):
        fn.kvm_pre_set_memory_attributes(kvm, start, end, attributes)
        for gfn in range(start, end):
            kvm.mem_attr(gfn).write(attributes)
        fn.kvm_post_set_memory_attributes(kvm, start, end, attributes)
    kvm.slots_lock.unlock()
    kvm.m.emit("handed_over")
    return 0


def _overlaps(kvm: Kvm, start: int, end: int) -> list[tuple[KvmMemorySlot, int, int]]:
    """Each slot that overlaps [start, end), with the overlap.  slots_lock is held."""
    clipped = (
        (slot, max(start, slot.base_gfn), min(end, slot.base_gfn + slot.npages))
        for slot in kvm.slots
    )
    return [(slot, first, last) for slot, first, last in clipped if first < last]


def kvm_pre_set_memory_attributes(kvm: Kvm, start: int, end: int, attributes: int) -> None:
    """kvm_handle_gfn_range() before the store: one section with start, adds and unmaps."""
    overlaps = _overlaps(kvm, start, end)
    if not overlaps:
        return
    fn = kvm.fn
    flush = False
    kvm.mmu_lock.write_lock()
    fn.kvm_mmu_invalidate_start(kvm)
    for slot, first, last in overlaps:
        fn.kvm_mmu_invalidate_range_add(kvm, first, last)
        flush |= fn.kvm_arch_pre_set_memory_attributes(kvm, slot, first, last, attributes)
    if flush:
        fn.kvm_flush_remote_tlbs(kvm)
    kvm.mmu_lock.write_unlock()


def kvm_arch_pre_set_memory_attributes(
    kvm: Kvm, slot: KvmMemorySlot, start: int, end: int, attributes: int
) -> bool:
    """Keep huge pages out of the partly converted ranges at both ends; unmap exactly the
    range, on the side that it has until now."""
    fn = kvm.fn
    for level in range(PG_LEVEL_2M, kvm.max_hugepage_level + 1):
        pages = kvm.pages_per_hpage[level]
        head, tail = start & -pages, (end - 1) & -pages
        if (head != start or head + pages > end) and _may_be_huge(slot, head, level, pages):
            fn.kvm_mmu_invalidate_range_add(kvm, head, head + pages)
        if tail != head and tail + pages > end and _may_be_huge(slot, tail, level, pages):
            fn.kvm_mmu_invalidate_range_add(kvm, tail, tail + pages)
    to_private = attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE
    attr_filter = KVM_FILTER_SHARED if to_private else KVM_FILTER_PRIVATE
    return bool(fn.kvm_unmap_gfn_range(kvm, KvmGfnRange(slot, start, end, attr_filter)))


def kvm_post_set_memory_attributes(kvm: Kvm, start: int, end: int, attributes: int) -> None:
    """kvm_handle_gfn_range() after the store: end, then the MIXED flags."""
    overlaps = _overlaps(kvm, start, end)
    if not overlaps:
        return
    kvm.mmu_lock.write_lock()
    kvm.fn.kvm_mmu_invalidate_end(kvm)
    for slot, first, last in overlaps:
        kvm.fn.kvm_arch_post_set_memory_attributes(kvm, slot, first, last, attributes)
    kvm.mmu_lock.write_unlock()


def kvm_arch_post_set_memory_attributes(
    kvm: Kvm, slot: KvmMemorySlot, start: int, end: int, attributes: int
) -> None:
    """Lower levels first: the upper ones use their result."""
    lockdep_assert_held_write(kvm.mmu_lock, "kvm_arch_post_set_memory_attributes")
    lockdep_assert_held(kvm.slots_lock, "kvm_arch_post_set_memory_attributes")
    for level in range(PG_LEVEL_2M, kvm.max_hugepage_level + 1):
        pages = kvm.pages_per_hpage[level]
        for gfn in range(start & -pages, end, pages):
            if start <= gfn and gfn + pages <= end:
                slot.arch.mixed(gfn, level).poke(False)
            elif slot.base_gfn <= gfn and gfn + pages <= slot.base_gfn + slot.npages:
                uniform = kvm.fn.hugepage_has_attrs(kvm, slot, gfn, level, attributes)
                slot.arch.mixed(gfn, level).poke(not uniform)


def hugepage_test_mixed(slot: KvmMemorySlot, gfn: int, level: int) -> bool:
    """``gfn`` begins a range of ``level``.  mmu_lock is held."""
    return bool(slot.arch.mixed(gfn, level).peek())


def _may_be_huge(slot: KvmMemorySlot, gfn: int, level: int, pages: int) -> bool:
    """The range lies in the slot and has one attribute."""
    inside = slot.base_gfn <= gfn and gfn + pages <= slot.base_gfn + slot.npages
    return inside and not hugepage_test_mixed(slot, gfn, level)


def hugepage_has_attrs(
    kvm: Kvm, slot: KvmMemorySlot, gfn: int, level: int, attributes: int
) -> bool:
    """Whether every page of the range has ``attributes``."""
    pages = kvm.pages_per_hpage[level]
    if level == PG_LEVEL_2M:
        return bool(kvm.fn.kvm_range_has_memory_attributes(kvm, gfn, gfn + pages, attributes))
    return not any(
        hugepage_test_mixed(slot, lower, level - 1) or kvm.mem_attr(lower).peek() != attributes
        for lower in range(gfn, gfn + pages, kvm.pages_per_hpage[level - 1])
    )


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        hugepage_has_attrs,
        hugepage_test_mixed,
        kvm_arch_post_set_memory_attributes,
        kvm_arch_pre_set_memory_attributes,
        kvm_get_memory_attributes,
        kvm_mem_is_private,
        kvm_post_set_memory_attributes,
        kvm_pre_set_memory_attributes,
        kvm_range_has_memory_attributes,
        kvm_vm_set_mem_attributes,
    )
}
