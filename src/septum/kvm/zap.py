# SPDX-License-Identifier: GPL-2.0-only
"""Zapping, unmapping, ageing and splitting ranges (facts 4.8, 4.9, 4.11, 4.12, 4.15)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from septum.kvm.bug import WARN_ON, goto_retry, lockdep_assert_held_write
from septum.kvm.roots import (
    KVM_INVALID_ROOTS,
    KVM_VALID_ROOTS,
    for_each_tdp_mmu_root,
    for_each_tdp_mmu_root_yield_safe,
    kvm_gfn_range_filter_to_root_types,
    root_is_invalid,
)
from septum.kvm.spte import (
    PG_LEVEL_1G,
    PG_LEVEL_2M,
    PG_LEVEL_4K,
    SHADOW_NONPRESENT_VALUE,
    is_accessed_spte,
    is_last_spte,
    is_shadow_present_pte,
    make_huge_spte,
    spte_to_child_sp,
)
from septum.kvm.structs import Kvm, KvmMemorySlot, KvmMmuPage
from septum.kvm.tdp_iter import (
    TdpIter,
    for_each_tdp_pte,
    for_each_tdp_pte_min_level,
    kvm_mmu_max_gfn,
)

__all__ = ["FUNCTIONS", "KvmGfnRange"]


@dataclass(frozen=True, slots=True)
class KvmGfnRange:
    """``struct kvm_gfn_range``: [start, end) of one slot, and which side of it."""

    slot: KvmMemorySlot
    start: int
    end: int
    attr_filter: int
    may_block: bool = True


def tdp_mmu_zap_leafs(
    kvm: Kvm, root: KvmMmuPage, start: int, end: int, can_yield: bool, flush: bool
) -> bool:
    """Zap every leaf that overlaps [start, end); tables stay.  Returns "flush needed"."""
    end = min(end, kvm_mmu_max_gfn(kvm) + 1)
    lockdep_assert_held_write(kvm.mmu_lock, "tdp_mmu_zap_leafs")
    kvm.rcu.read_lock()
    for iter in for_each_tdp_pte_min_level(kvm, root, PG_LEVEL_4K, start, end):
        if can_yield and kvm.fn.tdp_mmu_iter_cond_resched(kvm, iter, flush, False):
            flush = False
            continue
        if not is_shadow_present_pte(iter.old_spte) or not is_last_spte(iter.old_spte, iter.level):
            continue
        kvm.fn.tdp_mmu_iter_set_spte(kvm, iter, SHADOW_NONPRESENT_VALUE)
        # vCPUs flush when they drop an invalid root.
        if not root_is_invalid(kvm, root):
            flush = True
    kvm.rcu.read_unlock()
    return flush


def kvm_tdp_mmu_zap_leafs(kvm: Kvm, start: int, end: int, flush: bool) -> bool:
    lockdep_assert_held_write(kvm.mmu_lock, "kvm_tdp_mmu_zap_leafs")
    for root in for_each_tdp_mmu_root_yield_safe(kvm, KVM_VALID_ROOTS):
        flush = kvm.fn.tdp_mmu_zap_leafs(kvm, root, start, end, True, flush)
    return flush


def kvm_tdp_mmu_unmap_gfn_range(kvm: Kvm, range: KvmGfnRange, flush: bool) -> bool:
    types = kvm_gfn_range_filter_to_root_types(kvm, range.attr_filter) | KVM_INVALID_ROOTS
    for root in for_each_tdp_mmu_root_yield_safe(kvm, types, range.slot.as_id):
        flush = kvm.fn.tdp_mmu_zap_leafs(kvm, root, range.start, range.end, range.may_block, flush)
    return flush


# --- whole roots and subtrees -------------------------------------------------------------


def tdp_mmu_zap_root(kvm: Kvm, root: KvmMmuPage, shared: bool) -> None:
    """Bottom up, so that no pass takes too long; no TLB flush."""
    WARN_ON(not root.tdp_mmu_root_count.read(), kvm, "tdp_mmu_zap_root", "root without reference")
    kvm.rcu.read_lock()
    levels = [] if kvm.prove_mmu else [PG_LEVEL_4K, PG_LEVEL_2M]
    for level in sorted({*levels, PG_LEVEL_1G, root.role.level}):
        if level <= root.role.level:
            kvm.fn.__tdp_mmu_zap_root(kvm, root, shared, level)
    kvm.rcu.read_unlock()


def __tdp_mmu_zap_root(kvm: Kvm, root: KvmMmuPage, shared: bool, zap_level: int) -> None:
    fn = kvm.fn
    end = kvm_mmu_max_gfn(kvm) + 1
    failures = 0
    iter = TdpIter(kvm, root, zap_level, 0, 0)  # no GFN bits: both halves of a TD's root
    while iter.valid and iter.gfn < end:
        if (
            not fn.tdp_mmu_iter_cond_resched(kvm, iter, False, shared)
            and is_shadow_present_pte(iter.old_spte)
            and iter.level <= zap_level
        ):
            if not shared:
                fn.tdp_mmu_iter_set_spte(kvm, iter, SHADOW_NONPRESENT_VALUE)
            elif fn.tdp_mmu_set_spte_atomic(kvm, iter, SHADOW_NONPRESENT_VALUE):
                failures = goto_retry(kvm, "__tdp_mmu_zap_root", failures)
                continue  # iter.old_spte is current again
        iter.next()


def tdp_mmu_set_one_spte(kvm: Kvm, iter: TdpIter, new_spte: int, shared: bool) -> int:
    """The setter that goes with how mmu_lock is held."""
    if shared:
        return int(kvm.fn.tdp_mmu_set_spte_atomic(kvm, iter, new_spte))
    kvm.fn.tdp_mmu_iter_set_spte(kvm, iter, new_spte)
    return 0


def tdp_mmu_zap_table(kvm: Kvm, root: KvmMmuPage, gfn: int, level: int, shared: bool) -> int:
    """What ``__tdp_mmu_zap_root`` with ``level`` does to one entry: zap a table and all
    below it.  -EBUSY if the entry changed meanwhile."""
    ret = 0
    kvm.rcu.read_lock()
    for iter in for_each_tdp_pte_min_level(kvm, root, level, gfn, gfn + 1):
        if iter.level == level and is_shadow_present_pte(iter.old_spte):
            ret = tdp_mmu_set_one_spte(kvm, iter, SHADOW_NONPRESENT_VALUE, shared)
    kvm.rcu.read_unlock()
    return ret


def tdp_mmu_merge_table(kvm: Kvm, root: KvmMmuPage, gfn: int, level: int, shared: bool) -> int:
    """Replace a table by the huge leaf that its first leaf begins (facts 4.16, without
    the search for candidates).  -EBUSY if the entry changed meanwhile."""
    ret = 0
    kvm.rcu.read_lock()
    for iter in for_each_tdp_pte_min_level(kvm, root, level, gfn, gfn + 1):
        if iter.level != level or not is_shadow_present_pte(iter.old_spte):
            continue
        if not is_last_spte(iter.old_spte, level):
            small_spte = spte_to_child_sp(kvm, iter.old_spte).spt.word(0).read()
            if is_shadow_present_pte(small_spte):
                new_spte = make_huge_spte(kvm, small_spte, level)
                ret = tdp_mmu_set_one_spte(kvm, iter, new_spte, shared)
        break
    kvm.rcu.read_unlock()
    return ret


# --- split --------------------------------------------------------------------------------


def kvm_tdp_mmu_try_split_huge_pages(
    kvm: Kvm, slot: KvmMemorySlot, start: int, end: int, target_level: int, shared: bool
) -> None:
    for root in for_each_tdp_mmu_root_yield_safe(kvm, KVM_VALID_ROOTS, slot.as_id):
        if kvm.fn.tdp_mmu_split_huge_pages_root(kvm, root, start, end, target_level, shared):
            kvm.fn.kvm_tdp_mmu_put_root(kvm, root)
            break


# --- ageing -------------------------------------------------------------------------------


def kvm_tdp_mmu_age_gfn_range(kvm: Kvm, range: KvmGfnRange, test_only: bool = False) -> bool:
    """Without mmu_lock: RCU only.  "Young" even if the cmpxchg is lost (facts 4.12)."""
    young = False
    kvm.rcu.read_lock()
    types = kvm_gfn_range_filter_to_root_types(kvm, range.attr_filter)
    for root in for_each_tdp_mmu_root(kvm, range.slot.as_id, types):
        for iter in for_each_tdp_pte(kvm, root, range.start, range.end):
            spte = iter.old_spte
            if not is_shadow_present_pte(spte) or not is_last_spte(spte, iter.level):
                continue
            if not is_accessed_spte(spte):
                continue
            young = True
            if test_only:
                break
            kvm.fn.kvm_tdp_mmu_age_spte(kvm, iter)
        if young and test_only:
            break
    kvm.rcu.read_unlock()
    return young


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        __tdp_mmu_zap_root,
        kvm_tdp_mmu_age_gfn_range,
        kvm_tdp_mmu_try_split_huge_pages,
        kvm_tdp_mmu_unmap_gfn_range,
        kvm_tdp_mmu_zap_leafs,
        tdp_mmu_merge_table,
        tdp_mmu_zap_leafs,
        tdp_mmu_zap_root,
        tdp_mmu_zap_table,
    )
}
