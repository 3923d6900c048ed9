# SPDX-License-Identifier: GPL-2.0-only
"""``v7.3`` (D7): the protocol as merged (facts 4.1-4.4, 6.1-6.5; mmu/tdp_mmu.c of 7.3).

Merged in the 7.2 cycle as fifteen small patches (facts 6.1), whose complete text this is; it
follows ``feb10-sp`` in the chain, and the floor has the TDX side (dispatch T-rm: whatever
was present is removed) and the split loop, without the private huge pages of that branch.

Every change of an SPTE goes through ``__handle_changed_spte``, which alone propagates it
to the S-EPT, before the trace line and the statistics.  Under mmu_lock held for read a
mirror SPTE is FROZEN meanwhile, and gets its old value back if the hook fails.  Under
mmu_lock held for write it is written first, and a failing hook bugs the VM.  Removed
tables go through ``handle_removed_pt`` and ``free_external_spt``, children first.
"""

from __future__ import annotations

from errno import EBUSY
from typing import Final

from septum.kvm.bug import BUG, WARN_ON, lockdep_assert_held_read, lockdep_assert_held_write
from septum.kvm.spte import (
    FROZEN_SPTE,
    VMX_EPT_ACCESS_BIT,
    check_spte_writable_invariants,
    is_frozen_spte,
    is_last_spte,
    is_mirror_sp,
    is_mirror_sptep,
    is_mmio_spte,
    is_shadow_present_pte,
    mark_spte_for_access_track,
    spte_ad_enabled,
    spte_to_child_sp,
    spte_to_pfn,
    sptep_to_sp,
)
from septum.kvm.structs import Kvm, KvmMmuPage, PageTable, Spte
from septum.kvm.tdp_iter import TdpIter
from septum.kvm.tdp_mmu import (
    tdp_mmu_alloc_sp_for_split,
    tdp_mmu_alloc_sp_unlocked,
    tdp_mmu_split_huge_pages_root,
    trace_kvm_tdp_mmu_spte_changed,
)
from septum.kvm.tdx_sept import tdx_sept_free_private_spt, tdx_sept_set_private_spte
from septum.kvm.x86 import KVM_BUG_ON

NAME: Final = "v7.3"
PREDECESSOR: Final = "feb10-sp"
CAPABILITIES: Final = frozenset({"mirror"})

ALSO: Final = (
    tdp_mmu_alloc_sp_for_split,
    tdp_mmu_alloc_sp_unlocked,
    tdp_mmu_split_huge_pages_root,
    tdx_sept_free_private_spt,
    tdx_sept_set_private_spte,
)
DROPS: Final = (
    "reclaim_external_spt",
    "tdh_mem_page_demote",
    "tdp_mmu_free_sp",
    "tdx_sept_reclaim_private_spt",
    "tdx_sept_split_private_spte",
)


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
    """Facts 4.1.  0, -EBUSY, or what the hook returned."""
    sp = sptep_to_sp(iter.sptep)
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
    ret = kvm.fn.__handle_changed_spte(kvm, sp, iter.gfn, iter.old_spte, new_spte, iter.level, True)
    if is_mirror_sptep(iter.sptep):
        kvm.fn.__kvm_tdp_mmu_write_spte(kvm, iter.sptep, iter.old_spte if ret else new_spte)
    else:
        KVM_BUG_ON(ret, kvm, name, "a direct SPTE change failed")
    return ret


def tdp_mmu_set_spte(
    kvm: Kvm, sptep: Spte, old_spte: int, new_spte: int, gfn: int, level: int
) -> int:
    """Facts 4.2.  The value that was overwritten.  Memory changes before the hook runs."""
    name = "tdp_mmu_set_spte"
    lockdep_assert_held_write(kvm.mmu_lock, name)
    WARN_ON(is_frozen_spte(old_spte) or is_frozen_spte(new_spte), kvm, name, "old or new is frozen")
    old_spte = kvm.fn.kvm_tdp_mmu_write_spte(kvm, sptep, old_spte, new_spte, level)
    kvm.fn.handle_changed_spte(kvm, sptep_to_sp(sptep), gfn, old_spte, new_spte, level, False)
    return old_spte


# --- reacting to a change -----------------------------------------------------------------


def __handle_changed_spte(
    kvm: Kvm, sp: KvmMmuPage, gfn: int, old_spte: int, new_spte: int, level: int, shared: bool
) -> int:
    """Facts 4.3.  What the hook returned, else 0."""
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
        trace_kvm_tdp_mmu_spte_changed(kvm, sp, gfn, level, old_spte, new_spte)
        return 0
    if (
        was_present
        and not was_leaf
        and (is_leaf or not is_present or WARN_ON(pfn_changed, kvm, name, "table PFN changes"))
    ):
        kvm.fn.handle_removed_pt(kvm, spte_to_child_sp(kvm, old_spte).spt, shared)
    elif is_mirror_sp(sp):
        ret: int = kvm.fn.set_external_spte(kvm, gfn, old_spte, new_spte, level)
        if ret:
            return ret
    trace_kvm_tdp_mmu_spte_changed(kvm, sp, gfn, level, old_spte, new_spte)
    if is_leaf != was_leaf:
        kvm.fn.kvm_update_page_stats(kvm, level, 1 if is_leaf else -1)
    return 0


def handle_changed_spte(
    kvm: Kvm, sp: KvmMmuPage, gfn: int, old_spte: int, new_spte: int, level: int, shared: bool
) -> None:
    """For callers that cannot handle failure."""
    KVM_BUG_ON(
        kvm.fn.__handle_changed_spte(kvm, sp, gfn, old_spte, new_spte, level, shared),
        kvm,
        "handle_changed_spte",
        "the S-EPT could not follow an SPTE change",
    )


def handle_removed_pt(kvm: Kvm, pt: PageTable, shared: bool) -> None:
    """Facts 4.4.  The table is unlinked; freeze its entries, react to each, free it."""
    sp = pt.owner
    level = sp.role.level
    kvm.trace("kvm_mmu_prepare_zap_page", gfn=sp.gfn, role=sp.role.word(), root_count=0)
    kvm.fn.tdp_mmu_unlink_sp(kvm, sp)
    for i in range(kvm.geometry.entries):
        sptep = pt.word(i)
        gfn = sp.gfn + i * kvm.pages_per_hpage[level]
        if shared:
            old_spte = kvm.fn.freeze_removed_spte(kvm, sptep)
        else:
            # Only present entries can change or need a reaction.
            old_spte = sptep.read()
            if not is_shadow_present_pte(old_spte):
                continue
            old_spte = kvm.fn.kvm_tdp_mmu_write_spte(kvm, sptep, old_spte, FROZEN_SPTE, level)
        kvm.fn.handle_changed_spte(kvm, sp, gfn, old_spte, FROZEN_SPTE, level, shared)
    if is_mirror_sp(sp):
        kvm.fn.free_external_spt(kvm, sp)
    sp.spt.call_rcu(lambda: kvm.fn.tdp_mmu_free_sp_rcu_callback(kvm, sp))


# --- freeing tables -------------------------------------------------------------


def __tdp_mmu_free_sp(kvm: Kvm, sp: KvmMmuPage) -> None:
    """Table and header."""
    sp.spt.free()


def tdp_mmu_free_unused_sp(kvm: Kvm, sp: KvmMmuPage) -> None:
    """A table that was never linked: at once."""
    if sp.external_spt.v:
        kvm.host.free_page(sp.external_spt.v)
    kvm.fn.__tdp_mmu_free_sp(kvm, sp)


def tdp_mmu_free_sp_rcu_callback(kvm: Kvm, sp: KvmMmuPage) -> None:
    """After the grace period; free_external_spt has taken care of the external page."""
    WARN_ON(sp.external_spt.v, kvm, "tdp_mmu_free_sp_rcu_callback", "external_spt is left")
    kvm.fn.__tdp_mmu_free_sp(kvm, sp)


# --- ageing -----------------------------------------------------------------------------------


def kvm_tdp_mmu_age_spte(kvm: Kvm, iter: TdpIter) -> None:
    """Facts 4.12.  No retry: a lost cmpxchg means that somebody else changed the SPTE."""
    if WARN_ON(is_mirror_sptep(iter.sptep), kvm, "kvm_tdp_mmu_age_spte", "mirror SPTE"):
        return
    if spte_ad_enabled(iter.old_spte):
        new_spte = iter.old_spte & ~VMX_EPT_ACCESS_BIT
    else:
        new_spte = mark_spte_for_access_track(iter.old_spte)
    old_spte = iter.old_spte
    if kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, new_spte):
        return
    trace_kvm_tdp_mmu_spte_changed(
        kvm, sptep_to_sp(iter.sptep), iter.gfn, iter.level, old_spte, new_spte
    )


# --- kvm_x86_ops ------------------------------------------------------------------------------


def set_external_spte(kvm: Kvm, gfn: int, old_spte: int, new_spte: int, level: int) -> int:
    """kvm_x86_call(set_external_spte)."""
    ret: int = kvm.fn.tdx_sept_set_private_spte(kvm, gfn, old_spte, new_spte, level)
    return ret


def free_external_spt(kvm: Kvm, sp: KvmMmuPage) -> None:
    """kvm_x86_call(free_external_spt)."""
    kvm.fn.tdx_sept_free_private_spt(kvm, sp)
