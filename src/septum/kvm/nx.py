# SPDX-License-Identifier: GPL-2.0-only
"""NX huge pages (iTLB multihit) and their recovery (facts 4.5 steps 3a and 3g, 4.17).

With the mitigation a huge page is never executable.  A fetch makes KVM use small pages;
the table is remembered, so that the recovery worker can zap it and a later access that
does not fetch gets the huge page back.  List, counter and statistics are protected by
tdp_mmu_pages_lock; ``nx_huge_page_disallowed`` is also read without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from septum.kvm.bug import WARN_ON, lockdep_assert_held_read
from septum.kvm.spte import (
    PG_LEVEL_4K,
    SHADOW_NONPRESENT_VALUE,
    is_large_pte,
    is_last_spte,
    is_shadow_present_pte,
    spte_to_child_sp,
)
from septum.kvm.structs import Kvm, KvmMemorySlot, KvmMmuPage
from septum.kvm.tdp_iter import TdpIter
from septum.kvm.tdp_mmu import need_resched

if TYPE_CHECKING:
    from septum.kvm.mmu import KvmPageFault

__all__ = ["FUNCTIONS"]

nx_huge_pages_recovery_ratio: Final = 1  # of the default 60: every listed table is due


def disallowed_hugepage_adjust(kvm: Kvm, fault: KvmPageFault, spte: int, cur_level: int) -> None:
    """A table that exists because of a fetch is not replaced: go one level down."""
    if cur_level <= PG_LEVEL_4K or cur_level != fault.goal_level:
        return
    if not is_shadow_present_pte(spte) or is_large_pte(spte):
        return
    if spte_to_child_sp(kvm, spte).nx_huge_page_disallowed.read():
        pages = kvm.pages_per_hpage
        fault.pfn |= fault.gfn & (pages[cur_level] - pages[cur_level - 1])
        fault.goal_level -= 1
        kvm.m.reach("a fault kept the small pages of an NX huge page")


def track_possible_nx_huge_page(kvm: Kvm, sp: KvmMmuPage) -> None:
    """At the list's tail, unless it is on it."""
    listed: tuple[int, ...] = kvm.possible_nx_huge_pages.peek()
    if sp.pfn in listed:
        return
    kvm.nx_lpage_splits.poke(kvm.nx_lpage_splits.peek() + 1)
    kvm.nx_nr_pages.poke(kvm.nx_nr_pages.peek() + 1)
    kvm.possible_nx_huge_pages.poke((*listed, sp.pfn))
    kvm.m.reach("a table was listed for NX recovery")


def untrack_possible_nx_huge_page(kvm: Kvm, sp: KvmMmuPage) -> None:
    listed: tuple[int, ...] = kvm.possible_nx_huge_pages.peek()
    if sp.pfn not in listed:
        return
    kvm.nx_lpage_splits.poke(kvm.nx_lpage_splits.peek() - 1)
    kvm.nx_nr_pages.poke(kvm.nx_nr_pages.peek() - 1)
    kvm.possible_nx_huge_pages.poke(tuple(pfn for pfn in listed if pfn != sp.pfn))


def unaccount_nx_huge_page(kvm: Kvm, sp: KvmMmuPage) -> None:
    sp.nx_huge_page_disallowed.poke(False)
    kvm.fn.untrack_possible_nx_huge_page(kvm, sp)


# --- the worker -------------------------------------------------------------------------


def nx_huge_pages_to_zap(kvm: Kvm) -> int:
    pages: int = kvm.nx_nr_pages.read()
    return -(-pages // nx_huge_pages_recovery_ratio)


def kvm_mmu_sp_dirty_logging_enabled(kvm: Kvm, sp: KvmMmuPage) -> bool:
    """Small pages would come back at once."""
    slots: tuple[KvmMemorySlot, ...] = kvm.memslots.read()
    slot = next((slot for slot in slots if sp.gfn in slot), None)
    if WARN_ON(slot is None, kvm, "kvm_mmu_sp_dirty_logging_enabled", "no slot"):
        return False
    return slot is not None and slot.logged


def kvm_tdp_mmu_zap_possible_nx_huge_page(kvm: Kvm, sp: KvmMmuPage) -> bool:
    """Zap the table's entry if it still points to the table.  True: a flush is due."""
    name = "kvm_tdp_mmu_zap_possible_nx_huge_page"
    lockdep_assert_held_read(kvm.mmu_lock, name)
    if WARN_ON(sp.ptep is None, kvm, name, "a root"):
        return False
    iter = TdpIter.of_table(kvm, sp)
    if not _points_to(kvm, iter, sp):
        kvm.m.reach("NX recovery found its table replaced")
        return False
    if kvm.fn.tdp_mmu_set_spte_atomic(kvm, iter, SHADOW_NONPRESENT_VALUE):
        WARN_ON(_points_to(kvm, iter, sp), kvm, name, "the entry still points to the table")
        return False
    kvm.m.reach("NX recovery zapped a table")
    return True


def _points_to(kvm: Kvm, iter: TdpIter, sp: KvmMmuPage) -> bool:
    spte = iter.old_spte
    if not is_shadow_present_pte(spte) or is_last_spte(spte, iter.level):
        return False
    return spte_to_child_sp(kvm, spte) is sp


def kvm_recover_nx_huge_pages(kvm: Kvm) -> None:
    """One round of the worker, KVM_TDP_MMU part (under SRCU, mmu_lock for read, RCU)."""
    fn = kvm.fn
    to_zap = fn.nx_huge_pages_to_zap(kvm)
    flush = False
    token = kvm.srcu.read_lock()
    kvm.mmu_lock.read_lock()
    kvm.rcu.read_lock()
    while to_zap > 0:
        kvm.tdp_mmu_pages_lock.lock()
        listed = kvm.possible_nx_huge_pages.peek()
        if not listed:
            kvm.tdp_mmu_pages_lock.unlock()
            break
        sp = kvm.mmu_pages[listed[0]]
        name = "kvm_recover_nx_huge_pages"
        WARN_ON(not sp.nx_huge_page_disallowed.peek(), kvm, name, "listed, but not disallowed")
        fn.unaccount_nx_huge_page(kvm, sp)
        kvm.tdp_mmu_pages_lock.unlock()
        if not fn.kvm_mmu_sp_dirty_logging_enabled(kvm, sp):
            flush |= fn.kvm_tdp_mmu_zap_possible_nx_huge_page(kvm, sp)
        if need_resched(kvm):
            kvm.m.reach("NX recovery yielded mmu_lock")
            if flush:
                fn.kvm_flush_remote_tlbs(kvm)
            kvm.rcu.read_unlock()
            kvm.mmu_lock.read_unlock()
            kvm.mmu_lock.read_lock()
            flush = False
            kvm.rcu.read_lock()
        to_zap -= 1
    if flush:
        fn.kvm_flush_remote_tlbs(kvm)
    kvm.rcu.read_unlock()
    kvm.mmu_lock.read_unlock()
    kvm.srcu.read_unlock(token)


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        disallowed_hugepage_adjust,
        kvm_mmu_sp_dirty_logging_enabled,
        kvm_recover_nx_huge_pages,
        kvm_tdp_mmu_zap_possible_nx_huge_page,
        nx_huge_pages_to_zap,
        track_possible_nx_huge_page,
        unaccount_nx_huge_page,
        untrack_possible_nx_huge_page,
    )
}
