# SPDX-License-Identifier: GPL-2.0-only
"""The TDP MMU's store primitives, page life cycle and fault-time mapping.

What of ``mmu/tdp_mmu.c`` the designs do not change (facts 4.0, 4.5, 4.6, 4.15).  The
functions that propagate a change to the S-EPT (``tdp_mmu_set_spte{,_atomic}``,
``__handle_changed_spte``, ``handle_removed_pt``, ...) are in `septum.designs`.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import ENOMEM
from typing import TYPE_CHECKING, Any, Final

from septum.kvm.bug import WARN_ON, goto_retry, might_sleep
from septum.kvm.ret_pf import (
    RET_PF_EMULATE,
    RET_PF_FIXED,
    RET_PF_RETRY,
    RET_PF_SPURIOUS,
    RET_PF_WRITE_PROTECTED,
)
from septum.kvm.spte import (
    PG_LEVEL_4K,
    SHADOW_NONPRESENT_VALUE,
    is_ept_ve_possible,
    is_frozen_spte,
    is_large_pte,
    is_last_spte,
    is_mirror_sp,
    is_mmio_spte,
    is_shadow_present_pte,
    is_writable_pte,
    kvm_tdp_mmu_spte_need_atomic_update,
    leaf_spte_change_needs_tlb_flush,
    make_mmio_spte,
    make_nonleaf_spte,
    make_small_spte,
    make_spte,
    spte_permission_fault,
    spte_to_pfn,
    sptep_to_sp,
)
from septum.kvm.structs import KvmMmuPage, Role, Spte, Vcpu
from septum.kvm.tdp_iter import TdpIter, kvm_gfn_root_bits
from septum.kvm.x86 import KVM_BUG_ON

if TYPE_CHECKING:
    from septum.kvm.mmu import KvmPageFault
    from septum.kvm.structs import Kvm

__all__ = ["FUNCTIONS", "lock", "trace_kvm_tdp_mmu_spte_changed", "unlock"]


# --- stores (mmu/tdp_iter.h) ------------------------------------------------------------


def __kvm_tdp_mmu_write_spte(kvm: Kvm, sptep: Spte, new_spte: int) -> None:
    WARN_ON(is_ept_ve_possible(new_spte), kvm, "__kvm_tdp_mmu_write_spte", "#VE possible")
    sptep.write(new_spte)


def kvm_tdp_mmu_write_spte_atomic(kvm: Kvm, sptep: Spte, new_spte: int) -> int:
    WARN_ON(is_ept_ve_possible(new_spte), kvm, "kvm_tdp_mmu_write_spte_atomic", "#VE possible")
    old_spte: int = sptep.xchg(new_spte)
    return old_spte


def kvm_tdp_mmu_write_spte(kvm: Kvm, sptep: Spte, old_spte: int, new_spte: int, level: int) -> int:
    """Exchange if a CPU or a lockless path may be changing bits that matter."""
    if kvm_tdp_mmu_spte_need_atomic_update(old_spte, level):
        return int(kvm.fn.kvm_tdp_mmu_write_spte_atomic(kvm, sptep, new_spte))
    kvm.fn.__kvm_tdp_mmu_write_spte(kvm, sptep, new_spte)
    return old_spte


def tdp_mmu_clear_spte_bits(kvm: Kvm, sptep: Spte, old_spte: int, mask: int, level: int) -> int:
    if kvm_tdp_mmu_spte_need_atomic_update(old_spte, level):
        return sptep.fetch_and(~mask)
    kvm.fn.__kvm_tdp_mmu_write_spte(kvm, sptep, old_spte & ~mask)
    return old_spte


def tdp_mmu_iter_set_spte(kvm: Kvm, iter: TdpIter, new_spte: int) -> None:
    WARN_ON(iter.yielded, kvm, "tdp_mmu_iter_set_spte", "the iterator yielded")
    iter.old_spte = kvm.fn.tdp_mmu_set_spte(
        kvm, iter.sptep, iter.old_spte, new_spte, iter.gfn, iter.level
    )


def trace_kvm_tdp_mmu_spte_changed(
    kvm: Kvm, sp: KvmMmuPage, gfn: int, level: int, old_spte: int, new_spte: int
) -> None:
    kvm.trace(
        "kvm_tdp_mmu_spte_changed",
        as_id=sp.role.as_id,
        gfn=gfn,
        level=level,
        old_spte=old_spte,
        new_spte=new_spte,
    )


# --- page-table pages -------------------------------------------------------------------


def tdp_mmu_alloc_sp(kvm: Kvm) -> KvmMmuPage:
    """A header and a table full of SHADOW_NONPRESENT_VALUE."""
    pfn = kvm.host.alloc_page("spt")
    sp = KvmMmuPage(kvm, kvm.host.arena_name("sp", pfn), pfn, SHADOW_NONPRESENT_VALUE)
    kvm.mmu_pages[pfn] = sp
    return sp


def tdp_mmu_init_sp(kvm: Kvm, sp: KvmMmuPage, sptep: Spte | None, gfn: int, role: Role) -> None:
    sp.init(role, gfn, sptep)
    kvm.trace("kvm_mmu_get_page", gfn=gfn, role=role.word(), root_count=0, created=True)


def tdp_mmu_init_child_sp(kvm: Kvm, child_sp: KvmMmuPage, iter: TdpIter) -> None:
    """The parent's role, one level down.  (`invalid` is not inherited here: only roots'
    bit is ever looked at.)"""
    parent = sptep_to_sp(iter.sptep).role
    role = Role(
        parent.level - 1,
        parent.is_mirror,
        parent.guest_mode,
        parent.smm,
        parent.ad_disabled,
        parent.access,
    )
    kvm.fn.tdp_mmu_init_sp(kvm, child_sp, iter.sptep, iter.gfn, role)


def kvm_mmu_alloc_external_spt(vcpu: Vcpu, sp: KvmMmuPage) -> None:
    """From vcpu->arch.mmu_external_spt_cache."""
    sp.external_spt.set(vcpu.kvm.host.alloc_page("external_spt"))


def tdp_mmu_unlink_sp(kvm: Kvm, sp: KvmMmuPage) -> None:
    kvm.tdp_mmu_pages.add(-1)
    # Never set without the mitigation.
    if kvm.features.nx and sp.nx_huge_page_disallowed.read():
        kvm.tdp_mmu_pages_lock.lock()
        sp.nx_huge_page_disallowed.poke(False)
        kvm.fn.untrack_possible_nx_huge_page(kvm, sp)
        kvm.tdp_mmu_pages_lock.unlock()


def tdp_account_mmu_page(kvm: Kvm, sp: KvmMmuPage) -> None:
    kvm.tdp_mmu_pages.add(1)


def kvm_update_page_stats(kvm: Kvm, level: int, count: int) -> None:
    kvm.stat_pages[level - 1].add(count)


# --- mapping at fault time --------------------------------------------------------------


def tdp_mmu_map_handle_target_level(vcpu: Vcpu, fault: KvmPageFault, iter: TdpIter) -> int:
    """Facts 4.6.  An error of any kind from the atomic set is RET_PF_RETRY."""
    kvm = vcpu.kvm
    name = "tdp_mmu_map_handle_target_level"
    sp = sptep_to_sp(iter.sptep)
    if WARN_ON(sp.role.level != fault.goal_level, kvm, name, "not at the goal level"):
        return RET_PF_RETRY
    old_spte = iter.old_spte
    present = is_shadow_present_pte(old_spte)
    if (
        present
        and is_last_spte(old_spte, iter.level)
        and (fault.prefetch or not spte_permission_fault(old_spte, fault.write, fault.exec))
    ):
        WARN_ON(fault.pfn != spte_to_pfn(old_spte), kvm, name, "spurious fault on another pfn")
        return RET_PF_SPURIOUS
    wrprot = False
    if fault.slot is None:
        new_spte = make_mmio_spte(kvm, iter.gfn)
    else:
        wrprot, new_spte = make_spte(
            kvm,
            sp,
            fault.pfn,
            pte_access=sp.role.access,
            prefetch=fault.prefetch,
            host_writable=fault.map_writable,
            may_write=(is_last_spte(old_spte, iter.level) and is_writable_pte(old_spte))
            or not kvm.fn.mmu_try_to_unsync_pages(kvm, fault),
        )
        if is_writable_pte(new_spte):
            WARN_ON(
                fault.slot.logged and iter.level > PG_LEVEL_4K,
                kvm,
                "make_spte",
                "a writable huge page in a dirty-tracked slot",
            )
            kvm.fn.mark_page_dirty_in_slot(kvm, fault.slot, fault.gfn)
    ret = RET_PF_FIXED
    if new_spte == old_spte:
        ret = RET_PF_SPURIOUS
    elif kvm.fn.tdp_mmu_set_spte_atomic(kvm, iter, new_spte):
        return RET_PF_RETRY
    elif present and (
        not is_last_spte(old_spte, iter.level)
        or WARN_ON(leaf_spte_change_needs_tlb_flush(old_spte, new_spte), kvm, name, "flush needed")
    ):
        kvm.fn.kvm_flush_remote_tlbs_range(kvm, iter.gfn, kvm.pages_per_hpage[iter.level])
    if wrprot and fault.write:
        ret = RET_PF_WRITE_PROTECTED
    if is_mmio_spte(kvm, new_spte):
        kvm.trace("mark_mmio_spte", sptep=iter.sptep.name, gfn=iter.gfn, spte=new_spte)
        return RET_PF_EMULATE
    kvm.trace(
        "kvm_mmu_set_spte",
        level=iter.level,
        gfn=iter.gfn,
        spte=iter.sptep.view(),  # read again at trace time, as the tracepoint does
        sptep=sp.pfn << 12 | iter.sptep.index << 3,
    )
    return ret


def tdp_mmu_link_sp(kvm: Kvm, iter: TdpIter, sp: KvmMmuPage, shared: bool) -> int:
    """Accounting comes after publication."""
    spte = make_nonleaf_spte(sp, sp.role.ad_disabled)
    if shared:
        ret: int = kvm.fn.tdp_mmu_set_spte_atomic(kvm, iter, spte)
        if ret:
            return ret
    else:
        kvm.fn.tdp_mmu_iter_set_spte(kvm, iter, spte)
    kvm.fn.tdp_account_mmu_page(kvm, sp)
    return 0


def tdp_mmu_split_huge_page(kvm: Kvm, iter: TdpIter, sp: KvmMmuPage, shared: bool) -> int:
    """Fill the unlinked table, then link it.  No TLB flush: same translations."""
    huge_spte = iter.old_spte
    level = iter.level
    for i in range(kvm.geometry.entries):
        sp.spt.word(i).init(make_small_spte(kvm, huge_spte, level - 1, i))
    ret: int = kvm.fn.tdp_mmu_link_sp(kvm, iter, sp, shared)
    if not ret:
        kvm.fn.kvm_update_page_stats(kvm, level - 1, kvm.geometry.entries)
    kvm.trace("kvm_mmu_split_huge_page", gfn=iter.gfn, spte=huge_spte, level=level, errno=ret)
    return ret


def tdp_mmu_get_root_for_fault(vcpu: Vcpu, fault: KvmPageFault) -> KvmMmuPage:
    """Mirror iff the GPA's shared bit is clear; VMs without the bit have one root."""
    kvm = vcpu.kvm
    direct = not kvm.gfn_direct_bits or fault.addr >> 12 & kvm.gfn_direct_bits
    hpa: int = vcpu.root_hpa.v if direct else vcpu.mirror_root_hpa.v
    return kvm.mmu_pages[hpa >> 12]


def kvm_tdp_mmu_map(vcpu: Vcpu, fault: KvmPageFault) -> int:
    """Install missing tables, then the leaf (facts 4.5)."""
    kvm = vcpu.kvm
    m = kvm.m
    root = tdp_mmu_get_root_for_fault(vcpu, fault)
    # Written under mmu_lock held for write.
    WARN_ON(root.invalid.peek(), kvm, "kvm_tdp_mmu_map", "an invalid root")
    kvm.fn.kvm_mmu_hugepage_adjust(vcpu, fault)
    kvm.trace(
        "kvm_mmu_spte_requested",
        gfn=fault.gfn,
        pfn=fault.pfn | (fault.gfn & (kvm.pages_per_hpage[fault.goal_level] - 1)),
        level=fault.goal_level,
        access=root.role.access,
    )
    kvm.rcu.read_lock()
    ret = RET_PF_RETRY
    walked_at = m.now()
    iter = TdpIter(kvm, root, PG_LEVEL_4K, fault.gfn, kvm_gfn_root_bits(kvm, root))
    while iter.valid and iter.gfn < fault.gfn + 1:
        if kvm.features.nx:
            kvm.fn.disallowed_hugepage_adjust(kvm, fault, iter.old_spte, iter.level)
        # Somebody else is changing the entry, or the table it is in is being removed.
        if is_frozen_spte(iter.old_spte):
            _blame_path(iter, walked_at)
            m.reach("a fault met FROZEN_SPTE")
            break
        if iter.level == fault.goal_level:
            ret = kvm.fn.tdp_mmu_map_handle_target_level(vcpu, fault, iter)
            break
        present = is_shadow_present_pte(iter.old_spte)
        if not present or is_large_pte(iter.old_spte):
            if kvm.fn.tdp_mmu_map_handle_missing_table(vcpu, fault, iter):
                break
            walked_at = m.now()
        iter.next()
    else:
        WARN_ON(iter.level == fault.goal_level, kvm, "kvm_tdp_mmu_map", "missed the goal level")
    kvm.rcu.read_unlock()
    return ret


def _blame_path(iter: TdpIter, since: int) -> None:
    """The frozen entry, and those above it: its table may be on its way out, and then
    it is an entry above that changed."""
    kvm = iter.kvm
    kvm.m.blame(iter.sptep)
    for level in range(iter.level + 1, iter.root_level + 1):
        table = iter.pt_path[level - 1]
        assert table is not None
        above = table.word(kvm.geometry.index(iter.gfn | iter.gfn_bits, level))
        kvm.m.current.blame.setdefault(above, since)


def tdp_mmu_map_handle_missing_table(vcpu: Vcpu, fault: KvmPageFault, iter: TdpIter) -> int:
    """Steps 3e to 3g of facts 4.5 (in the kernel inline in ``kvm_tdp_mmu_map``): split
    a huge page that is in the way, or link a new table."""
    kvm = vcpu.kvm
    sp = kvm.fn.tdp_mmu_alloc_sp(kvm)
    kvm.fn.tdp_mmu_init_child_sp(kvm, sp, iter)
    if is_mirror_sp(sp):
        kvm.fn.kvm_mmu_alloc_external_spt(vcpu, sp)
    sp.nx_huge_page_disallowed.init(fault.huge_page_disallowed)
    if is_shadow_present_pte(iter.old_spte):
        # No large page in mirror mode: the KVM_BUG_ON does not return.
        KVM_BUG_ON(is_mirror_sp(sp), kvm, "kvm_tdp_mmu_map", "split of a mirror huge page")
        r: int = kvm.fn.tdp_mmu_split_huge_page(kvm, iter, sp, True)
    else:
        r = kvm.fn.tdp_mmu_link_sp(kvm, iter, sp, True)
    if r:
        # Lost to another thread, or the hook failed: nobody else ever saw the page.
        kvm.fn.tdp_mmu_free_unused_sp(kvm, sp)
    elif fault.huge_page_disallowed and fault.req_level >= iter.level:
        kvm.tdp_mmu_pages_lock.lock()
        # Clear if another thread has unlinked the table already.
        if sp.nx_huge_page_disallowed.peek():
            kvm.fn.track_possible_nx_huge_page(kvm, sp)
        kvm.tdp_mmu_pages_lock.unlock()
    return r


# --- eager split ------------------------------------------------------------------------


def tdp_mmu_alloc_sp_for_split(kvm: Kvm) -> KvmMmuPage | None:
    """GFP_KERNEL_ACCOUNT: may sleep, may fail.  No external_spt in 7.3."""
    might_sleep(kvm, "tdp_mmu_alloc_sp_for_split")
    if kvm.host.allocation_fails():
        return None
    sp: KvmMmuPage = kvm.fn.tdp_mmu_alloc_sp(kvm)
    return sp


def tdp_mmu_split_huge_pages_root(
    kvm: Kvm, root: KvmMmuPage, start: int, end: int, target_level: int, shared: bool
) -> int:
    """Facts 4.15: drop the lock to allocate, retake it, look again."""
    fn = kvm.fn
    sp: KvmMmuPage | None = None
    failures = 0
    iter = TdpIter(kvm, root, target_level + 1, start, kvm_gfn_root_bits(kvm, root))
    kvm.rcu.read_lock()
    while iter.valid and iter.gfn < end:
        if not fn.tdp_mmu_iter_cond_resched(kvm, iter, False, shared) and (
            is_shadow_present_pte(iter.old_spte) and is_large_pte(iter.old_spte)
        ):
            if sp is None:
                sp = fn.tdp_mmu_alloc_sp_unlocked(kvm, shared)
                if sp is None:
                    kvm.trace(
                        "kvm_mmu_split_huge_page",
                        gfn=iter.gfn,
                        spte=iter.old_spte,
                        level=iter.level,
                        errno=-ENOMEM,
                    )
                    kvm.rcu.read_unlock()
                    return -ENOMEM
                iter.yielded = True
            else:
                fn.tdp_mmu_init_child_sp(kvm, sp, iter)
                if fn.tdp_mmu_split_huge_page(kvm, iter, sp, shared):
                    failures = goto_retry(kvm, "tdp_mmu_split_huge_pages_root", failures)
                    continue  # the same entry, from the yield test on
                sp = None
        iter.next()
    kvm.rcu.read_unlock()
    if sp is not None:
        fn.tdp_mmu_free_unused_sp(kvm, sp)
    return 0


def tdp_mmu_alloc_sp_unlocked(kvm: Kvm, shared: bool) -> KvmMmuPage | None:
    """The ``rcu-``, unlock, allocate, lock, ``rcu+`` sequence of the split loop."""
    kvm.rcu.read_unlock()
    unlock(kvm, shared)
    sp: KvmMmuPage | None = kvm.fn.tdp_mmu_alloc_sp_for_split(kvm)
    lock(kvm, shared)
    kvm.rcu.read_lock()
    return sp


def lock(kvm: Kvm, shared: bool) -> None:
    if shared:
        kvm.mmu_lock.read_lock()
    else:
        kvm.mmu_lock.write_lock()


def unlock(kvm: Kvm, shared: bool) -> None:
    if shared:
        kvm.mmu_lock.read_unlock()
    else:
        kvm.mmu_lock.write_unlock()


def tdp_mmu_iter_cond_resched(kvm: Kvm, iter: TdpIter, flush: bool, shared: bool) -> bool:
    """Facts 3.4: yield if a reschedule is due and the walk has made progress."""
    WARN_ON(iter.yielded, kvm, "tdp_mmu_iter_cond_resched", "yielded twice")
    if iter.next_last_level_gfn == iter.yielded_gfn or not need_resched(kvm):
        return False
    if flush:
        kvm.fn.kvm_flush_remote_tlbs(kvm)
    kvm.rcu.read_unlock()
    unlock(kvm, shared)
    lock(kvm, shared)
    kvm.rcu.read_lock()
    WARN_ON(iter.gfn > iter.next_last_level_gfn, kvm, "tdp_mmu_iter_cond_resched", "went backwards")
    iter.yielded = True
    kvm.m.reach("a walk yielded mmu_lock")
    return True


def need_resched(kvm: Kvm) -> bool:
    """need_resched() or rwlock_needbreak(): a choice, ``kvm.yields`` times per task."""
    arena = kvm.m.current.arena
    used = arena.get("yield?", 0)
    if used >= kvm.yields or not kvm.m.choose("yield?", (False, True)):
        return False
    arena["yield?"] = used + 1
    return True


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        __kvm_tdp_mmu_write_spte,
        kvm_mmu_alloc_external_spt,
        kvm_tdp_mmu_map,
        kvm_tdp_mmu_write_spte,
        kvm_tdp_mmu_write_spte_atomic,
        kvm_update_page_stats,
        tdp_account_mmu_page,
        tdp_mmu_alloc_sp,
        tdp_mmu_alloc_sp_for_split,
        tdp_mmu_alloc_sp_unlocked,
        tdp_mmu_clear_spte_bits,
        tdp_mmu_init_child_sp,
        tdp_mmu_init_sp,
        tdp_mmu_iter_cond_resched,
        tdp_mmu_iter_set_spte,
        tdp_mmu_link_sp,
        tdp_mmu_map_handle_missing_table,
        tdp_mmu_map_handle_target_level,
        tdp_mmu_split_huge_page,
        tdp_mmu_split_huge_pages_root,
        tdp_mmu_unlink_sp,
    )
}
