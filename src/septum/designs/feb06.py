# SPDX-License-Identifier: GPL-2.0-only
"""``feb06`` (D3): the diff of 6 February 2026 that the founding mail quotes (facts 6.1-6.8).

``__handle_changed_spte`` alone propagates changes to the S-EPT, and returns what the hook
returned.  ``tdp_mmu_set_spte_atomic`` freezes a mirror SPTE, calls it, and stores the new
value, or the old one on failure; the void wrapper ``handle_changed_spte``, for everybody
else, bugs the VM.  The MMU no longer judges what old and new are.

So trace line and statistics now come *before* the hook and before publication, also when
the hook fails and the old value is put back; everything in ``__handle_changed_spte`` runs
while ``*sptep`` is FROZEN; and ageing refuses mirror SPTEs (the last hunk, which the mail
omits).

The diff is MMU-only, on a branch whose later patches are here because its functions need
them: the split loop allocates an ``external_spt`` for mirror tables (37), and TDX dispatch
T-split (39): a present value replaced by a present one is a split, by BLOCK, TRACK and
PAGE.DEMOTE under mmu_lock held for write.
"""

from __future__ import annotations

from errno import EBUSY, EIO, ENOMEM
from typing import Any, Final

from septum.kvm.bug import (
    BUG,
    WARN_ON,
    goto_retry,
    lockdep_assert_held,
    lockdep_assert_held_read,
    lockdep_assert_held_write,
    might_sleep,
)
from septum.kvm.seamcall import TDX_BUG_ON
from septum.kvm.spte import (
    FROZEN_SPTE,
    VMX_EPT_ACCESS_BIT,
    check_spte_writable_invariants,
    is_frozen_spte,
    is_large_pte,
    is_last_spte,
    is_mirror_sptep,
    is_mmio_spte,
    is_shadow_present_pte,
    mark_spte_for_access_track,
    spte_ad_enabled,
    spte_to_child_sp,
    spte_to_pfn,
    sptep_to_sp,
)
from septum.kvm.structs import Kvm, KvmMmuPage, Spte
from septum.kvm.tdp_iter import TdpIter, kvm_gfn_root_bits
from septum.kvm.tdp_mmu import lock, trace_kvm_tdp_mmu_spte_changed, unlock
from septum.kvm.x86 import KVM_BUG_ON
from septum.machine.geometry import PAGE_SHIFT
from septum.tdx.leaves import TDH_MEM_PAGE_DEMOTE

NAME: Final = "feb06"
PREDECESSOR: Final = "rfc-v5"
CAPABILITIES: Final = frozenset({"mirror", "split-write"})


# --- setting an SPTE --------------------------------------------------------------------


def __tdp_mmu_set_spte_atomic(kvm: Kvm, iter: TdpIter, new_spte: int) -> int:
    """The cmpxchg; on failure ``iter.old_spte`` is what memory holds."""
    WARN_ON(
        iter.yielded or is_frozen_spte(iter.old_spte),
        kvm,
        "__tdp_mmu_set_spte_atomic",
        "the iterator yielded, or its SPTE is frozen",
    )
    ok, iter.old_spte = iter.sptep.try_cmpxchg(iter.old_spte, new_spte)
    return 0 if ok else -EBUSY


def tdp_mmu_set_spte_atomic(kvm: Kvm, iter: TdpIter, new_spte: int) -> int:
    """0, -EBUSY, or what the hook returned."""
    name = "tdp_mmu_set_spte_atomic"
    lockdep_assert_held_read(kvm.mmu_lock, name)
    WARN_ON(is_frozen_spte(new_spte), kvm, name, "new SPTE is frozen")
    if is_mirror_sptep(iter.sptep):
        # Frozen until the S-EPT is up to date: nobody uses or changes the entry.
        ret: int = kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, FROZEN_SPTE)
    else:
        ret = kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, new_spte)
    if ret:
        return ret
    ret = kvm.fn.__handle_changed_spte(
        kvm, iter.as_id, iter.sptep, iter.gfn, iter.old_spte, new_spte, iter.level, True
    )
    if is_mirror_sptep(iter.sptep):
        kvm.fn.__kvm_tdp_mmu_write_spte(kvm, iter.sptep, iter.old_spte if ret else new_spte)
    else:
        KVM_BUG_ON(ret, kvm, name, "a direct SPTE change failed")
    return ret


# --- reacting to a change -----------------------------------------------------------------


def __handle_changed_spte(
    kvm: Kvm,
    as_id: int,
    sptep: Spte,
    gfn: int,
    old_spte: int,
    new_spte: int,
    level: int,
    shared: bool,
) -> int:
    """What the hook returned, else 0."""
    name = "__handle_changed_spte"
    was_present = is_shadow_present_pte(old_spte)
    is_present = is_shadow_present_pte(new_spte)
    was_leaf = was_present and is_last_spte(old_spte, level)
    is_leaf = is_present and is_last_spte(new_spte, level)
    pfn_changed = spte_to_pfn(old_spte) != spte_to_pfn(new_spte)
    WARN_ON(
        not 1 <= level <= kvm.geometry.levels or gfn % kvm.pages_per_hpage[level],
        kvm,
        name,
        "bad level, or a GFN not aligned to it",
    )
    if was_leaf and is_leaf and pfn_changed:
        BUG(kvm, name, f"gfn {gfn:x}: a leaf SPTE changes its PFN")
    if old_spte == new_spte:
        return 0
    sp = sptep_to_sp(sptep)
    trace_kvm_tdp_mmu_spte_changed(kvm, sp, gfn, level, old_spte, new_spte)
    if is_leaf:
        check_spte_writable_invariants(kvm, new_spte)
    if not was_present and not is_present:
        WARN_ON(
            not is_mmio_spte(kvm, old_spte)
            and not is_mmio_spte(kvm, new_spte)
            and not is_frozen_spte(new_spte),
            kvm,
            name,
            "a non-present SPTE becomes another one",
        )
        return 0
    if is_leaf != was_leaf:
        kvm.fn.kvm_update_page_stats(kvm, level, 1 if is_leaf else -1)
    if (
        was_present
        and not was_leaf
        and (is_leaf or not is_present or WARN_ON(pfn_changed, kvm, name, "table PFN changes"))
    ):
        kvm.fn.handle_removed_pt(kvm, spte_to_child_sp(kvm, old_spte).spt, shared)
    elif is_mirror_sptep(sptep):
        return int(kvm.fn.set_external_spte(kvm, gfn, old_spte, new_spte, level))
    return 0


def handle_changed_spte(
    kvm: Kvm,
    as_id: int,
    sptep: Spte,
    gfn: int,
    old_spte: int,
    new_spte: int,
    level: int,
    shared: bool,
) -> None:
    """For callers that cannot handle failure."""
    KVM_BUG_ON(
        kvm.fn.__handle_changed_spte(kvm, as_id, sptep, gfn, old_spte, new_spte, level, shared),
        kvm,
        "handle_changed_spte",
        "the S-EPT could not follow an SPTE change",
    )


# --- ageing ---------------------------------------------------------------------------------


def kvm_tdp_mmu_age_spte(kvm: Kvm, iter: TdpIter) -> None:
    """Private memory is not aged."""
    if WARN_ON(is_mirror_sptep(iter.sptep), kvm, "kvm_tdp_mmu_age_spte", "mirror SPTE"):
        return
    if spte_ad_enabled(iter.old_spte):
        iter.old_spte = iter.sptep.fetch_and(~VMX_EPT_ACCESS_BIT)
        old_spte = iter.old_spte
        new_spte = old_spte & ~VMX_EPT_ACCESS_BIT
    else:
        old_spte = iter.old_spte
        new_spte = mark_spte_for_access_track(old_spte)
        # If it fails, the page is most likely young anyway.
        if kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, new_spte):
            return
    sp = sptep_to_sp(iter.sptep)
    trace_kvm_tdp_mmu_spte_changed(kvm, sp, iter.gfn, iter.level, old_spte, new_spte)


# --- eager split (the branch's, not the diff's) -------------------------------------------------


def tdp_mmu_alloc_sp_for_split(kvm: Kvm, mirror: bool) -> KvmMmuPage | None:
    """GFP_KERNEL_ACCOUNT: may sleep, may fail.  No vCPU, hence no cache, is at hand."""
    might_sleep(kvm, "tdp_mmu_alloc_sp_for_split")
    if kvm.host.allocation_fails():
        return None
    sp: KvmMmuPage = kvm.fn.tdp_mmu_alloc_sp(kvm)
    if mirror:
        sp.external_spt.set(kvm.host.alloc_page("external_spt"))
    return sp


def tdp_mmu_alloc_sp_unlocked(kvm: Kvm, mirror: bool, shared: bool) -> KvmMmuPage | None:
    """The ``rcu-``, unlock, allocate, lock, ``rcu+`` sequence of the split loop."""
    kvm.rcu.read_unlock()
    unlock(kvm, shared)
    sp: KvmMmuPage | None = kvm.fn.tdp_mmu_alloc_sp_for_split(kvm, mirror)
    lock(kvm, shared)
    kvm.rcu.read_lock()
    return sp


def tdp_mmu_split_huge_pages_root(
    kvm: Kvm, root: KvmMmuPage, start: int, end: int, target_level: int, shared: bool
) -> int:
    """Drop the lock to allocate, retake it, look again."""
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
                sp = fn.tdp_mmu_alloc_sp_unlocked(kvm, is_mirror_sptep(iter.sptep), shared)
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


# --- TDX (the branch's, not the diff's) ---------------------------------------------------------


def tdx_sept_set_private_spte(kvm: Kvm, gfn: int, old_spte: int, new_spte: int, level: int) -> int:
    """0, -EBUSY (installs only) or -EIO.  T-split: present to present is a split."""
    name = "tdx_sept_set_private_spte"
    lockdep_assert_held(kvm.mmu_lock, name)
    is_present = is_shadow_present_pte(new_spte)
    if is_shadow_present_pte(old_spte):
        if is_present:
            return int(kvm.fn.tdx_sept_split_private_spte(kvm, gfn, old_spte, new_spte, level))
        return int(kvm.fn.tdx_sept_remove_leaf_spte(kvm, gfn, old_spte, level))
    if KVM_BUG_ON(not is_present, kvm, name, "neither old nor new is present"):
        return -EIO
    if not is_last_spte(new_spte, level):
        return int(kvm.fn.tdx_sept_map_nonleaf_spte(kvm, gfn, new_spte, level))
    return int(kvm.fn.tdx_sept_map_leaf_spte(kvm, gfn, new_spte, level))


def tdx_sept_split_private_spte(
    kvm: Kvm, gfn: int, old_spte: int, new_spte: int, level: int
) -> int:
    """BLOCK, TRACK, DEMOTE; the 512 small entries need no UNBLOCK.  No undo on failure."""
    name = "tdx_sept_split_private_spte"
    lockdep_assert_held_write(kvm.mmu_lock, name)
    external_spt = kvm.fn.tdx_spte_to_sept_pt(kvm, gfn, new_spte, level)
    if not external_spt:
        return -EIO
    no_vcpus = kvm.fn.tdh_do_no_vcpus
    result = no_vcpus(kvm, kvm.fn.tdh_mem_range_block, gfn, level)
    if TDX_BUG_ON(result, "TDH_MEM_RANGE_BLOCK", kvm, name):
        return -EIO
    kvm.fn.tdx_track(kvm)
    result = no_vcpus(kvm, kvm.fn.tdh_mem_page_demote, gfn, level, external_spt)
    if TDX_BUG_ON(result, "TDH_MEM_PAGE_DEMOTE", kvm, name):
        return -EIO
    return 0


def tdh_mem_page_demote(kvm: Kvm, gfn: int, level: int, pfn: int) -> Any:
    """``pfn`` becomes the S-EPT page of the entry."""
    regs = {
        "rcx": gfn << PAGE_SHIFT | level - 1,
        "rdx": kvm.tdx.tdr << PAGE_SHIFT,
        "r8": pfn << PAGE_SHIFT,
    }
    return kvm.fn.seamcall(kvm, TDH_MEM_PAGE_DEMOTE, regs)
