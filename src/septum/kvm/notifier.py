# SPDX-License-Identifier: GPL-2.0-only
"""``mmu_invalidate_*``, unmapping on behalf of others, guest_memfd, memory attributes.

Facts 4.7, 4.11, 5.5; virt/kvm/{kvm_main,guest_memfd}.c.  An invalidation is: one section
of mmu_lock held for write with begin, range_add, unmap and flush; then the owner changes
its own state (page cache, attributes); then a second section with end.  A fault that used
the owner's old state sees in_progress or another sequence count under mmu_lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from errno import EINVAL
from typing import Any, Final

from septum.kvm.bug import WARN_ON, lockdep_assert_held, lockdep_assert_held_write
from septum.kvm.roots import KVM_FILTER_PRIVATE, KVM_FILTER_SHARED
from septum.kvm.structs import (
    KVM_MEMORY_ATTRIBUTE_PRIVATE,
    KVM_MEMSLOT_INVALID,
    Kvm,
    KvmMemorySlot,
)
from septum.kvm.x86 import KVM_BUG_ON
from septum.kvm.zap import KvmGfnRange

__all__ = ["FUNCTIONS"]


# --- mmu_invalidate_* -------------------------------------------------------------------


def kvm_mmu_invalidate_begin(kvm: Kvm) -> None:
    """Count and range in one step: whoever reads them without mmu_lock takes a hint, and
    looks again under the lock (docs/fidelity.md)."""
    lockdep_assert_held_write(kvm.mmu_lock, "kvm_mmu_invalidate_begin")
    in_progress = kvm.mmu_invalidate_in_progress
    with kvm.m.step("mmu_invalidate_begin", in_progress.name):
        n = in_progress.peek() + 1
        in_progress.poke(n)
        if n == 1:
            kvm.mmu_invalidate_range.poke(None)


def kvm_mmu_invalidate_range_add(kvm: Kvm, start: int, end: int) -> None:
    """One merged range for all invalidations in progress."""
    lockdep_assert_held_write(kvm.mmu_lock, "kvm_mmu_invalidate_range_add")
    WARN_ON(
        not kvm.mmu_invalidate_in_progress.peek(),
        kvm,
        "kvm_mmu_invalidate_range_add",
        "no invalidation in progress",
    )
    merged = kvm.mmu_invalidate_range.peek()
    if merged is not None:
        start, end = min(start, merged[0]), max(end, merged[1])
    kvm.mmu_invalidate_range.write((start, end))


def kvm_mmu_invalidate_end(kvm: Kvm) -> None:
    """The count first: a fault that sees in_progress 0 must see the new count."""
    lockdep_assert_held_write(kvm.mmu_lock, "kvm_mmu_invalidate_end")
    in_progress = kvm.mmu_invalidate_in_progress
    with kvm.m.step("mmu_invalidate_end", in_progress.name):
        kvm.mmu_invalidate_seq.poke(kvm.mmu_invalidate_seq.peek() + 1)
        n = in_progress.peek() - 1
        in_progress.poke(n)
    KVM_BUG_ON(n < 0, kvm, "kvm_mmu_invalidate_end", "mmu_invalidate_in_progress < 0")


def mmu_invalidate_retry_gfn(kvm: Kvm, mmu_seq: int, gfn: int) -> bool:
    """Under mmu_lock: is what the fault looked up since ``mmu_seq`` out of date?"""
    lockdep_assert_held(kvm.mmu_lock, "mmu_invalidate_retry_gfn")
    m = kvm.m
    if kvm.mmu_invalidate_in_progress.peek():
        merged = kvm.mmu_invalidate_range.peek()
        if WARN_ON(merged is None, kvm, "mmu_invalidate_retry_gfn", "in progress without a range"):
            m.blame(kvm.mmu_invalidate_in_progress)
            return True
        if merged[0] <= gfn < merged[1]:
            m.blame(kvm.mmu_invalidate_in_progress)
            m.reach("an invalidation in progress forced a retry")
            return True
    if kvm.mmu_invalidate_seq.peek() != mmu_seq:
        m.blame(kvm.mmu_invalidate_seq, changed=True)
        m.reach("mmu_seq forced a retry")
        return True
    return False


def mmu_invalidate_retry_gfn_unsafe(kvm: Kvm, mmu_seq: int, gfn: int) -> bool:
    """The same without the lock: a hint that saves work, so its three reads are one step
    (docs/fidelity.md)."""
    m = kvm.m
    with m.step("mmu_invalidate_retry_gfn_unsafe", kvm.mmu_invalidate_in_progress.name):
        if kvm.mmu_invalidate_in_progress.peek():
            merged = kvm.mmu_invalidate_range.peek()
            if merged is not None and merged[0] <= gfn < merged[1]:
                m.blame(kvm.mmu_invalidate_in_progress)
                return True
        if kvm.mmu_invalidate_seq.peek() != mmu_seq:
            m.blame(kvm.mmu_invalidate_seq, changed=True)
            return True
    return False


# --- unmapping ----------------------------------------------------------------------------


def kvm_mmu_unmap_gfn_range(kvm: Kvm, range: KvmGfnRange) -> bool:
    """range_add, then kvm_unmap_gfn_range()."""
    kvm.fn.kvm_mmu_invalidate_range_add(kvm, range.start, range.end)
    return bool(kvm.fn.kvm_unmap_gfn_range(kvm, range))


def kvm_unmap_gfn_range(kvm: Kvm, range: KvmGfnRange) -> bool:
    if not kvm.mmu_invalidate_in_progress.peek():
        lockdep_assert_held(kvm.slots_lock, "kvm_unmap_gfn_range")
    return bool(kvm.fn.kvm_tdp_mmu_unmap_gfn_range(kvm, range, False))


def slots_of(kvm: Kvm, start: int, end: int) -> Iterator[tuple[KvmMemorySlot, int, int]]:
    """Each memslot that overlaps [start, end), with the overlap."""
    for slot in kvm.slots:
        first, last = max(start, slot.base_gfn), min(end, slot.base_gfn + slot.npages)
        if first < last:
            yield slot, first, last


def unmap_and_flush(kvm: Kvm, start: int, end: int, attr_filter: int) -> None:
    """Unmap the overlap with each slot; flush before mmu_lock is dropped."""
    flush = False
    for slot, first, last in slots_of(kvm, start, end):
        flush |= kvm.fn.kvm_mmu_unmap_gfn_range(kvm, KvmGfnRange(slot, first, last, attr_filter))
    if flush:
        kvm.fn.kvm_flush_remote_tlbs(kvm)


def kvm_zap_gfn_range(kvm: Kvm, start: int, end: int) -> None:
    """Zap leafs of all valid roots in one (yielding) section with begin and end."""
    token = kvm.srcu.read_lock()
    kvm.mmu_lock.write_lock()
    kvm.fn.kvm_mmu_invalidate_begin(kvm)
    kvm.fn.kvm_mmu_invalidate_range_add(kvm, start, end)
    if kvm.fn.kvm_tdp_mmu_zap_leafs(kvm, start, end, False):
        kvm.fn.kvm_flush_remote_tlbs_range(kvm, start, end - start)
    kvm.fn.kvm_mmu_invalidate_end(kvm)
    kvm.mmu_lock.write_unlock()
    kvm.srcu.read_unlock(token)


# --- guest_memfd --------------------------------------------------------------------------


def kvm_gmem_invalidate_begin(kvm: Kvm, start: int, end: int) -> None:
    kvm.mmu_lock.write_lock()
    kvm.fn.kvm_mmu_invalidate_begin(kvm)
    unmap_and_flush(kvm, start, end, KVM_FILTER_PRIVATE)
    kvm.mmu_lock.write_unlock()


def kvm_gmem_invalidate_end(kvm: Kvm, start: int, end: int) -> None:
    kvm.mmu_lock.write_lock()
    kvm.fn.kvm_mmu_invalidate_end(kvm)
    kvm.mmu_lock.write_unlock()


def kvm_gmem_punch_hole(kvm: Kvm, start: int, end: int) -> None:
    """fallocate(PUNCH_HOLE): unmap, give the pages back, end (facts 5.5)."""
    kvm.invalidate_lock.lock()
    kvm.fn.kvm_gmem_invalidate_begin(kvm, start, end)
    for gfn in range(start, end):
        kvm.host.gmem.truncate(gfn)
    kvm.fn.kvm_gmem_invalidate_end(kvm, start, end)
    kvm.invalidate_lock.unlock()


def kvm_gmem_release(kvm: Kvm) -> None:
    """The last reference to the file is gone: unmap all of it, without truncation."""
    kvm.slots_lock.lock()
    kvm.invalidate_lock.lock()
    for slot in kvm.slots:
        start, end = slot.base_gfn, slot.base_gfn + slot.npages
        kvm.fn.kvm_gmem_invalidate_begin(kvm, start, end)
        kvm.fn.kvm_gmem_invalidate_end(kvm, start, end)
    kvm.invalidate_lock.unlock()
    kvm.slots_lock.unlock()


# --- memory attributes ----------------------------------------------------------------------


def kvm_get_memory_attributes(kvm: Kvm, gfn: int) -> int:
    """xa_load(&kvm->mem_attr_array, gfn), lockless."""
    attributes: int = kvm.mem_attr(gfn).read()
    return attributes


def kvm_mem_is_private(kvm: Kvm, gfn: int) -> bool:
    return bool(kvm.fn.kvm_get_memory_attributes(kvm, gfn) & KVM_MEMORY_ATTRIBUTE_PRIVATE)


def kvm_vm_set_mem_attributes(kvm: Kvm, start: int, end: int, attributes: int) -> int:
    """KVM_SET_MEMORY_ATTRIBUTES: unmap the *old* side, store, end (facts 4.11)."""
    kvm.trace("kvm_vm_set_mem_attributes", start=start, end=end, attributes=attributes)
    if start >= end:
        return -EINVAL
    words = [kvm.mem_attr(gfn) for gfn in range(start, end)]
    kvm.slots_lock.lock()
    # Written under slots_lock only.
    if any(word.peek() != attributes for word in words):
        to_private = attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE
        kvm.mmu_lock.write_lock()
        kvm.fn.kvm_mmu_invalidate_begin(kvm)
        unmap_and_flush(kvm, start, end, KVM_FILTER_SHARED if to_private else KVM_FILTER_PRIVATE)
        kvm.mmu_lock.write_unlock()
        for word in words:
            word.write(attributes)
        kvm.mmu_lock.write_lock()
        kvm.fn.kvm_mmu_invalidate_end(kvm)
        kvm.mmu_lock.write_unlock()
    kvm.slots_lock.unlock()
    return 0


# --- memslots -------------------------------------------------------------------------------


def kvm_delete_memslot(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """Install the INVALID copy, wait for SRCU readers, unmap both sides, drop the slot.

    A TD never takes the fast zap path (facts 4.10); gmem is unbound, not truncated.
    """
    kvm.slots_lock.lock()
    slot.flags.write(slot.flags.peek() | KVM_MEMSLOT_INVALID)
    kvm.srcu.synchronize()
    kvm.mmu_lock.write_lock()
    range_ = KvmGfnRange(
        slot,
        slot.base_gfn,
        slot.base_gfn + slot.npages,
        KVM_FILTER_PRIVATE | KVM_FILTER_SHARED,
    )
    if kvm.fn.kvm_unmap_gfn_range(kvm, range_):
        kvm.fn.kvm_flush_remote_tlbs(kvm)
    kvm.mmu_lock.write_unlock()
    slot.flags.write(None)
    kvm.slots_lock.unlock()


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        kvm_delete_memslot,
        kvm_get_memory_attributes,
        kvm_gmem_invalidate_begin,
        kvm_gmem_invalidate_end,
        kvm_gmem_punch_hole,
        kvm_gmem_release,
        kvm_mem_is_private,
        kvm_mmu_invalidate_begin,
        kvm_mmu_invalidate_end,
        kvm_mmu_invalidate_range_add,
        kvm_mmu_unmap_gfn_range,
        kvm_unmap_gfn_range,
        kvm_vm_set_mem_attributes,
        kvm_zap_gfn_range,
        mmu_invalidate_retry_gfn,
        mmu_invalidate_retry_gfn_unsafe,
    )
}
