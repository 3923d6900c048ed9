# SPDX-License-Identifier: GPL-2.0-only
"""Huge page recovery: tables become huge leafs again when a dirty log ends (facts 4.16)."""

from __future__ import annotations

from collections.abc import Callable
from errno import EAGAIN, ENOENT
from typing import Any, Final

from septum.kvm.bug import WARN_ON, goto_retry, lockdep_assert_held_read
from septum.kvm.roots import KVM_VALID_ROOTS, for_each_tdp_mmu_root_yield_safe
from septum.kvm.spte import (
    PG_LEVEL_2M,
    is_last_spte,
    is_shadow_present_pte,
    make_huge_spte,
    spte_to_child_sp,
)
from septum.kvm.structs import Kvm, KvmMemorySlot, KvmMmuPage
from septum.kvm.tdp_iter import TdpIter, for_each_tdp_pte, kvm_gfn_root_bits
from septum.kvm.tdp_mmu import need_resched
from septum.kvm.wrprot import KVM_MAX_HUGEPAGE_LEVEL

__all__ = ["FUNCTIONS"]


def tdp_mmu_make_huge_spte(kvm: Kvm, parent: TdpIter) -> tuple[int, int]:
    """``(0, huge_spte)`` from the first leaf below; -ENOENT: there is none; -EAGAIN: a
    reschedule is due (asked on the *parent* iterator, for its forward progress)."""
    table = spte_to_child_sp(kvm, parent.old_spte)
    end = parent.gfn + kvm.pages_per_hpage[parent.level]
    for iter in for_each_tdp_pte(kvm, table, parent.gfn, end):
        if not is_shadow_present_pte(iter.old_spte) or not is_last_spte(iter.old_spte, iter.level):
            continue
        if parent.next_last_level_gfn != parent.yielded_gfn and need_resched(kvm):
            return -EAGAIN, 0
        return 0, make_huge_spte(kvm, iter.old_spte, parent.level)
    return -ENOENT, 0


def recoverable(kvm: Kvm, slot: KvmMemorySlot, iter: TdpIter) -> bool:
    """A table whose range lies in the slot and may be one huge page."""
    if iter.level > KVM_MAX_HUGEPAGE_LEVEL or not is_shadow_present_pte(iter.old_spte):
        return False
    if is_last_spte(iter.old_spte, iter.level) or iter.gfn not in slot:
        return False
    return bool(kvm.fn.kvm_mmu_max_mapping_level(kvm, None, slot, iter.gfn) >= iter.level)


def recover_huge_pages_range(kvm: Kvm, root: KvmMmuPage, slot: KvmMemorySlot) -> None:
    """The flush at the end is inside the RCU section: the tables are freed after both."""
    fn = kvm.fn
    name = "recover_huge_pages_range"
    if WARN_ON(slot.logged, kvm, name, "the slot is dirty-tracked"):
        return
    flush = False
    failures = 0
    kvm.rcu.read_lock()
    bits = kvm_gfn_root_bits(kvm, root)
    iter = TdpIter(kvm, root, PG_LEVEL_2M, slot.base_gfn, bits)
    while iter.valid and iter.gfn < slot.base_gfn + slot.npages:
        if fn.tdp_mmu_iter_cond_resched(kvm, iter, flush, True):
            flush = False
        elif recoverable(kvm, slot, iter):
            r, huge_spte = fn.tdp_mmu_make_huge_spte(kvm, iter)
            if r == -EAGAIN:
                continue  # from the yield test on
            if not r:
                if fn.tdp_mmu_set_spte_atomic(kvm, iter, huge_spte):
                    failures = goto_retry(kvm, name, failures)
                    continue
                flush = True
                kvm.m.reach("a table became a huge leaf again")
        iter.next()
    if flush:
        fn.kvm_flush_remote_tlbs(kvm)
    kvm.rcu.read_unlock()


def kvm_tdp_mmu_recover_huge_pages(kvm: Kvm, slot: KvmMemorySlot) -> None:
    lockdep_assert_held_read(kvm.mmu_lock, "kvm_tdp_mmu_recover_huge_pages")
    for root in for_each_tdp_mmu_root_yield_safe(kvm, KVM_VALID_ROOTS, slot.as_id):
        kvm.fn.recover_huge_pages_range(kvm, root, slot)


def kvm_mmu_recover_huge_pages(kvm: Kvm, slot: KvmMemorySlot) -> None:
    kvm.mmu_lock.read_lock()
    kvm.fn.kvm_tdp_mmu_recover_huge_pages(kvm, slot)
    kvm.mmu_lock.read_unlock()


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        kvm_mmu_recover_huge_pages,
        kvm_tdp_mmu_recover_huge_pages,
        recover_huge_pages_range,
        tdp_mmu_make_huge_spte,
    )
}
