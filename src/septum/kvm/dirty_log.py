# SPDX-License-Identifier: GPL-2.0-only
"""The dirty log: enabling, disabling, GET and CLEAR (facts 4.14; kvm_main.c, mmu.c, x86.c).

Writes are caught by D bits that the CPU logs (PML), else by write protection: the fault
marks the page.  *Legacy* mode: GET takes the bitmap and re-arms what it took.  *Manual
protect*: GET copies, CLEAR takes.  *Init-set*: all bits are set at first, and nothing is
protected before it is cleared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from septum.kvm.bug import WARN_ON, lockdep_assert_held, lockdep_assert_held_write
from septum.kvm.spte import PG_LEVEL_2M, PG_LEVEL_4K
from septum.kvm.structs import (
    KVM_MEM_LOG_DIRTY_PAGES,
    Kvm,
    KvmMemorySlot,
)
from septum.kvm.tdp_iter import gfn_round_for_level

__all__ = ["FUNCTIONS"]


def mark_page_dirty_in_slot(kvm: Kvm, slot: KvmMemorySlot | None, gfn: int) -> None:
    """``slot``: the copy that the caller looked up."""
    if slot is not None and slot.logged:
        slot.dirty_bitmap.fetch_or(1 << (gfn - slot.base_gfn))


def gfns_of(slot: KvmMemorySlot, mask: int) -> tuple[int, ...]:
    return tuple(slot.base_gfn + i for i in range(slot.npages) if mask >> i & 1)


# --- taking the log -------------------------------------------------------------------------


def kvm_arch_sync_dirty_log(kvm: Kvm) -> None:
    """The CPU's buffers are emptied at every VM exit: kick running vCPUs out."""
    if kvm.features.pml:
        for vcpu in kvm.vcpus:
            kvm.fn.kvm_vcpu_kick(vcpu)


def kvm_arch_mmu_enable_log_dirty_pt_masked(
    kvm: Kvm, slot: KvmMemorySlot, gfn_offset: int, mask: int
) -> None:
    """Re-arm the GFNs of ``mask`` (bit 0: ``gfn_offset``).  The caller flushes."""
    fn = kvm.fn
    lockdep_assert_held_write(kvm.mmu_lock, "kvm_arch_mmu_enable_log_dirty_pt_masked")
    base = slot.base_gfn + gfn_offset
    if kvm.features.init_set:
        # Huge pages were left writable: the log needs 4K pages from now on.
        start = base + (mask & -mask).bit_length() - 1
        end = base + mask.bit_length() - 1
        if kvm.features.eager_split:
            fn.kvm_mmu_try_split_huge_pages(kvm, slot, start, end + 1, PG_LEVEL_4K)
        fn.kvm_mmu_slot_gfn_write_protect(kvm, slot, start, PG_LEVEL_2M)
        if gfn_round_for_level(kvm, start, PG_LEVEL_2M) != gfn_round_for_level(
            kvm, end, PG_LEVEL_2M
        ):
            fn.kvm_mmu_slot_gfn_write_protect(kvm, slot, end, PG_LEVEL_2M)
    fn.kvm_tdp_mmu_clear_dirty_pt_masked(kvm, slot, base, mask, not kvm.features.pml)


def kvm_get_dirty_log_protect(kvm: Kvm, slot: KvmMemorySlot) -> int:
    """KVM_GET_DIRTY_LOG; the bits that userspace gets.  slots_lock is held."""
    lockdep_assert_held(kvm.slots_lock, "kvm_get_dirty_log_protect")
    kvm.fn.kvm_arch_sync_dirty_log(kvm)
    if kvm.features.manual:
        return int(slot.dirty_bitmap.read())
    mask = 0
    kvm.mmu_lock.write_lock()
    if slot.dirty_bitmap.read():
        mask = slot.dirty_bitmap.xchg(0)
        kvm.fn.kvm_arch_mmu_enable_log_dirty_pt_masked(kvm, slot, 0, mask)
    kvm.mmu_lock.write_unlock()
    if mask:
        kvm.fn.kvm_flush_remote_tlbs(kvm)
        kvm.m.emit("dirty_log_taken", gfns_of(slot, mask))
    return mask


def kvm_clear_dirty_log_protect(kvm: Kvm, slot: KvmMemorySlot, mask: int) -> int:
    """KVM_CLEAR_DIRTY_LOG of the pages in ``mask``; those that were dirty."""
    lockdep_assert_held(kvm.slots_lock, "kvm_clear_dirty_log_protect")
    kvm.fn.kvm_arch_sync_dirty_log(kvm)
    kvm.mmu_lock.write_lock()
    if mask:
        mask &= slot.dirty_bitmap.fetch_and(~mask)
        if mask:
            kvm.fn.kvm_arch_mmu_enable_log_dirty_pt_masked(kvm, slot, 0, mask)
    kvm.mmu_lock.write_unlock()
    if mask:
        kvm.fn.kvm_flush_remote_tlbs(kvm)
        kvm.m.emit("dirty_log_taken", gfns_of(slot, mask))
    return mask


# --- eager split ------------------------------------------------------------------------------


def kvm_mmu_try_split_huge_pages(
    kvm: Kvm, slot: KvmMemorySlot, start: int, end: int, target_level: int
) -> None:
    """Under mmu_lock held for write, which the split drops to allocate."""
    lockdep_assert_held_write(kvm.mmu_lock, "kvm_mmu_try_split_huge_pages")
    kvm.fn.kvm_tdp_mmu_try_split_huge_pages(kvm, slot, start, end, target_level, False)


def kvm_mmu_slot_try_split_huge_pages(kvm: Kvm, slot: KvmMemorySlot, target_level: int) -> None:
    kvm.mmu_lock.read_lock()
    end = slot.base_gfn + slot.npages
    kvm.fn.kvm_tdp_mmu_try_split_huge_pages(kvm, slot, slot.base_gfn, end, target_level, True)
    kvm.mmu_lock.read_unlock()


# --- enabling and disabling -------------------------------------------------------------------


def kvm_mmu_slot_apply_flags(kvm: Kvm, old: KvmMemorySlot, new: KvmMemorySlot) -> None:
    """Flags only; after ``new`` is in use and no reader has ``old`` any more."""
    fn = kvm.fn
    if WARN_ON(
        old.logged == new.logged, kvm, "kvm_mmu_slot_apply_flags", "dirty logging is not toggled"
    ):
        return
    if not new.logged:
        fn.kvm_mmu_recover_huge_pages(kvm, new)
        return
    if kvm.features.init_set:
        return
    if kvm.features.eager_split:
        fn.kvm_mmu_slot_try_split_huge_pages(kvm, new, PG_LEVEL_4K)
    if kvm.features.pml:
        fn.kvm_mmu_slot_leaf_clear_dirty(kvm, new)
        fn.kvm_mmu_slot_remove_write_access(kvm, new, PG_LEVEL_2M)
    else:
        fn.kvm_mmu_slot_remove_write_access(kvm, new, PG_LEVEL_4K)
    fn.kvm_flush_remote_tlbs(kvm)


def kvm_set_log_dirty(kvm: Kvm, number: int, on: bool) -> None:
    """KVM_SET_USER_MEMORY_REGION that toggles KVM_MEM_LOG_DIRTY_PAGES and nothing else."""
    kvm.slots_lock.lock()
    old = next((slot for slot in kvm.slots if slot.id == number), None)
    if old is not None and old.logged != on:
        if on:  # kvm_alloc_dirty_bitmap(); nobody looks at the bitmap of an unlogged slot
            old.dirty_bitmap.init((1 << old.npages) - 1 if kvm.features.init_set else 0)
        new = replace(old, flags=old.flags ^ KVM_MEM_LOG_DIRTY_PAGES)
        kvm.fn.kvm_set_memslot(kvm, old, new)
        gfns = tuple(range(old.base_gfn, old.base_gfn + old.npages))
        kvm.m.emit("dirty_log_enabled" if on else "dirty_log_disabled", gfns)
    kvm.slots_lock.unlock()


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        kvm_arch_mmu_enable_log_dirty_pt_masked,
        kvm_arch_sync_dirty_log,
        kvm_clear_dirty_log_protect,
        kvm_get_dirty_log_protect,
        kvm_mmu_slot_apply_flags,
        kvm_mmu_slot_try_split_huge_pages,
        kvm_mmu_try_split_huge_pages,
        kvm_set_log_dirty,
        mark_page_dirty_in_slot,
    )
}
