# SPDX-License-Identifier: GPL-2.0-only
"""Taking W or D from direct leafs, and tracking writes to a GFN (facts 4.14).

Whole slots are visited under mmu_lock held for read, with cmpxchg and retry; single GFNs
under mmu_lock held for write.  All of it visits valid roots, the mirror's too: only
``check_memory_region_flags()`` keeps dirty logging away from guest_memfd slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from septum.kvm.bug import WARN_ON, goto_retry, lockdep_assert_held_read, lockdep_assert_held_write
from septum.kvm.roots import (
    KVM_VALID_ROOTS,
    for_each_tdp_mmu_root,
    for_each_tdp_mmu_root_yield_safe,
)
from septum.kvm.spte import (
    EPT_SPTE_MMU_WRITABLE,
    PG_LEVEL_4K,
    PT_WRITABLE_MASK,
    VMX_EPT_DIRTY_BIT,
    is_last_spte,
    is_shadow_present_pte,
    spte_ad_enabled,
    sptep_to_sp,
)
from septum.kvm.structs import Kvm, KvmMemorySlot, KvmMmuPage
from septum.kvm.tdp_iter import TdpIter, for_each_tdp_pte_min_level, kvm_gfn_root_bits
from septum.kvm.tdp_mmu import trace_kvm_tdp_mmu_spte_changed
from septum.kvm.x86 import KVM_BUG_ON

__all__ = ["FUNCTIONS", "KVM_MAX_HUGEPAGE_LEVEL"]

KVM_MAX_HUGEPAGE_LEVEL: Final = 3


def _is_leaf(iter: TdpIter) -> bool:
    return is_shadow_present_pte(iter.old_spte) and is_last_spte(iter.old_spte, iter.level)


def dirty_bit_of(kvm: Kvm, root: KvmMmuPage, wrprot: bool = False) -> int:
    """W if writes must be caught by faults, else D (tdp_mmu_need_write_protect())."""
    return PT_WRITABLE_MASK if wrprot or root.role.ad_disabled else VMX_EPT_DIRTY_BIT


# --- a slot, mmu_lock for read ------------------------------------------------------------


def wrprot_gfn_range(kvm: Kvm, root: KvmMmuPage, start: int, end: int, min_level: int) -> bool:
    fn = kvm.fn
    name = "wrprot_gfn_range"
    if KVM_BUG_ON(min_level > KVM_MAX_HUGEPAGE_LEVEL, kvm, name, "level"):
        return False
    spte_set = False
    failures = 0
    kvm.rcu.read_lock()
    iter = TdpIter(kvm, root, min_level, start, kvm_gfn_root_bits(kvm, root))
    while iter.valid and iter.gfn < end:
        if (
            not fn.tdp_mmu_iter_cond_resched(kvm, iter, False, True)
            and _is_leaf(iter)
            and iter.old_spte & PT_WRITABLE_MASK
        ):
            if fn.tdp_mmu_set_spte_atomic(kvm, iter, iter.old_spte & ~PT_WRITABLE_MASK):
                failures = goto_retry(kvm, name, failures)
                continue  # the same entry, from the yield test on
            spte_set = True
        iter.next()
    kvm.rcu.read_unlock()
    return spte_set


def kvm_tdp_mmu_wrprot_slot(kvm: Kvm, slot: KvmMemorySlot, min_level: int) -> bool:
    lockdep_assert_held_read(kvm.mmu_lock, "kvm_tdp_mmu_wrprot_slot")
    spte_set = False
    for root in for_each_tdp_mmu_root_yield_safe(kvm, KVM_VALID_ROOTS, slot.as_id):
        spte_set |= kvm.fn.wrprot_gfn_range(
            kvm, root, slot.base_gfn, slot.base_gfn + slot.npages, min_level
        )
    return spte_set


def clear_dirty_gfn_range(kvm: Kvm, root: KvmMmuPage, start: int, end: int) -> None:
    fn = kvm.fn
    name = "clear_dirty_gfn_range"
    dbit = dirty_bit_of(kvm, root)
    failures = 0
    kvm.rcu.read_lock()
    iter = TdpIter(kvm, root, PG_LEVEL_4K, start, kvm_gfn_root_bits(kvm, root))
    while iter.valid and iter.gfn < end:
        if _is_leaf(iter) and not fn.tdp_mmu_iter_cond_resched(kvm, iter, False, True):
            WARN_ON(
                dbit == VMX_EPT_DIRTY_BIT and not spte_ad_enabled(iter.old_spte),
                kvm,
                name,
                "D of an SPTE without A/D bits",
            )
            if iter.old_spte & dbit and fn.tdp_mmu_set_spte_atomic(
                kvm, iter, iter.old_spte & ~dbit
            ):
                failures = goto_retry(kvm, name, failures)
                continue  # the same entry, from the present test on
        iter.next()
    kvm.rcu.read_unlock()


def kvm_tdp_mmu_clear_dirty_slot(kvm: Kvm, slot: KvmMemorySlot) -> None:
    lockdep_assert_held_read(kvm.mmu_lock, "kvm_tdp_mmu_clear_dirty_slot")
    for root in for_each_tdp_mmu_root_yield_safe(kvm, KVM_VALID_ROOTS, slot.as_id):
        kvm.fn.clear_dirty_gfn_range(kvm, root, slot.base_gfn, slot.base_gfn + slot.npages)


# --- single GFNs, mmu_lock for write --------------------------------------------------------


def clear_dirty_pt_masked(kvm: Kvm, root: KvmMmuPage, gfn: int, mask: int, wrprot: bool) -> None:
    """4K leafs only.  The caller flushes; no yield, no handle_changed_spte()."""
    name = "clear_dirty_pt_masked"
    dbit = dirty_bit_of(kvm, root, wrprot)
    lockdep_assert_held_write(kvm.mmu_lock, name)
    kvm.rcu.read_lock()
    first = gfn + (mask & -mask).bit_length() - 1
    for iter in for_each_tdp_pte_min_level(kvm, root, PG_LEVEL_4K, first, gfn + 64):
        if not _is_leaf(iter):
            continue
        if not mask:
            break
        bit = 1 << (iter.gfn - gfn) if iter.gfn >= gfn else 0
        if iter.level > PG_LEVEL_4K or not mask & bit:
            continue
        mask &= ~bit
        if not iter.old_spte & dbit:
            continue
        iter.old_spte = kvm.fn.tdp_mmu_clear_spte_bits(
            kvm, iter.sptep, iter.old_spte, dbit, iter.level
        )
        sp = sptep_to_sp(iter.sptep)
        new_spte = iter.old_spte & ~dbit
        trace_kvm_tdp_mmu_spte_changed(kvm, sp, iter.gfn, iter.level, iter.old_spte, new_spte)
    kvm.rcu.read_unlock()


def kvm_tdp_mmu_clear_dirty_pt_masked(
    kvm: Kvm, slot: KvmMemorySlot, gfn: int, mask: int, wrprot: bool
) -> None:
    for root in for_each_tdp_mmu_root(kvm, slot.as_id, KVM_VALID_ROOTS):
        kvm.fn.clear_dirty_pt_masked(kvm, root, gfn, mask, wrprot)


def write_protect_gfn(kvm: Kvm, root: KvmMmuPage, gfn: int, min_level: int) -> bool:
    """W and MMU-writable: neither the CPU nor the fast path may write.  Caller flushes."""
    if KVM_BUG_ON(min_level > KVM_MAX_HUGEPAGE_LEVEL, kvm, "write_protect_gfn", "level"):
        return False
    spte_set = False
    kvm.rcu.read_lock()
    for iter in for_each_tdp_pte_min_level(kvm, root, min_level, gfn, gfn + 1):
        if not _is_leaf(iter):
            continue
        new_spte = iter.old_spte & ~(PT_WRITABLE_MASK | EPT_SPTE_MMU_WRITABLE)
        if new_spte == iter.old_spte:
            break
        kvm.fn.tdp_mmu_iter_set_spte(kvm, iter, new_spte)
        spte_set = True
    kvm.rcu.read_unlock()
    return spte_set


def kvm_tdp_mmu_write_protect_gfn(kvm: Kvm, slot: KvmMemorySlot, gfn: int, min_level: int) -> bool:
    lockdep_assert_held_write(kvm.mmu_lock, "kvm_tdp_mmu_write_protect_gfn")
    spte_set = False
    for root in for_each_tdp_mmu_root(kvm, slot.as_id, KVM_VALID_ROOTS):
        spte_set |= kvm.fn.write_protect_gfn(kvm, root, gfn, min_level)
    return spte_set


def kvm_mmu_slot_gfn_write_protect(kvm: Kvm, slot: KvmMemorySlot, gfn: int, min_level: int) -> bool:
    return bool(kvm.fn.kvm_tdp_mmu_write_protect_gfn(kvm, slot, gfn, min_level))


# --- write tracking -------------------------------------------------------------------------


def mmu_try_to_unsync_pages(kvm: Kvm, fault: Any) -> int:
    """-EPERM (here 1) if the GFN is write-tracked; without shadow pages else 0."""
    return int(kvm.fn.kvm_gfn_is_write_tracked(kvm, fault))


def kvm_write_track_add_gfn(kvm: Kvm, slot: KvmMemorySlot, gfn: int) -> None:
    """Count, no huge pages, write-protect, flush: one section of mmu_lock for write."""
    token = kvm.srcu.read_lock()
    kvm.mmu_lock.write_lock()
    kvm.fn.__kvm_write_track_add_gfn(kvm, slot, gfn)
    kvm.mmu_lock.write_unlock()
    kvm.srcu.read_unlock(token)
    kvm.m.emit("write_tracked", gfn)


def __kvm_write_track_add_gfn(kvm: Kvm, slot: KvmMemorySlot, gfn: int) -> None:
    name = "__kvm_write_track_add_gfn"
    lockdep_assert_held_write(kvm.mmu_lock, name)
    if KVM_BUG_ON(not kvm.features.write_tracking, kvm, name, "nobody tracks writes"):
        return
    count = kvm.gfn_write_track(gfn)
    count.write(count.peek() + 1)
    if kvm.fn.kvm_mmu_slot_gfn_write_protect(kvm, slot, gfn, PG_LEVEL_4K):
        kvm.fn.kvm_flush_remote_tlbs(kvm)


# --- callers ----------------------------------------------------------------------------------


def kvm_mmu_slot_remove_write_access(kvm: Kvm, slot: KvmMemorySlot, start_level: int) -> None:
    kvm.mmu_lock.read_lock()
    kvm.fn.kvm_tdp_mmu_wrprot_slot(kvm, slot, start_level)
    kvm.mmu_lock.read_unlock()


def kvm_mmu_slot_leaf_clear_dirty(kvm: Kvm, slot: KvmMemorySlot) -> None:
    kvm.mmu_lock.read_lock()
    kvm.fn.kvm_tdp_mmu_clear_dirty_slot(kvm, slot)
    kvm.mmu_lock.read_unlock()


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        __kvm_write_track_add_gfn,
        clear_dirty_gfn_range,
        clear_dirty_pt_masked,
        kvm_mmu_slot_gfn_write_protect,
        kvm_mmu_slot_leaf_clear_dirty,
        kvm_mmu_slot_remove_write_access,
        kvm_tdp_mmu_clear_dirty_pt_masked,
        kvm_tdp_mmu_clear_dirty_slot,
        kvm_tdp_mmu_write_protect_gfn,
        kvm_tdp_mmu_wrprot_slot,
        kvm_write_track_add_gfn,
        mmu_try_to_unsync_pages,
        write_protect_gfn,
        wrprot_gfn_range,
    )
}
