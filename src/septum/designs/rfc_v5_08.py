# SPDX-License-Identifier: GPL-2.0-only
"""``rfc-v5-08`` (D2): RFC v5 patch 08/45 as posted on 29 January 2026 (facts 6.1-6.8).

The patch that the founding mail answers.  Removals move into ``handle_changed_spte``:
whenever a mirror leaf stops being a leaf, the hook ``remove_external_spte`` is called,
*also if a table replaces it* (``!is_leaf``): at this point the S-EPT has no huge pages,
and the level check in TDX is to fire.  Installs stay in ``__tdp_mmu_set_spte_atomic``,
with freeze, hook and publication before the bookkeeping; the hook for tables is gone (05),
and a wrong caller is refused before the cmpxchg (06), which refreshes ``iter.old_spte`` (02).

Against ``v6.16`` this also has what the cleanups of autumn 2025 changed: the TDX side is the
floor's, so PAGE.ADD in the hook, ``tdh_do_no_vcpus``, no page pins; the removal hook is void,
because TDX bugs the VM itself.
"""

from __future__ import annotations

from errno import EBUSY, EIO
from typing import Final

from septum.kvm.bug import (
    BUG,
    WARN_ON,
    lockdep_assert_held_read,
    lockdep_assert_held_write,
)
from septum.kvm.gmem import __kvm_gmem_populate, kvm_gmem_get_pfn
from septum.kvm.mmu import kvm_mmu_faultin_pfn
from septum.kvm.seamcall import TDX_BUG_ON
from septum.kvm.spte import (
    FROZEN_SPTE,
    PG_LEVEL_4K,
    check_spte_writable_invariants,
    is_frozen_spte,
    is_last_spte,
    is_mirror_sp,
    is_mirror_sptep,
    is_mmio_spte,
    is_shadow_present_pte,
    spte_to_child_sp,
    spte_to_pfn,
    sptep_to_sp,
)
from septum.kvm.structs import Kvm, PageTable, Spte
from septum.kvm.tdp_iter import TdpIter
from septum.kvm.tdp_mmu import trace_kvm_tdp_mmu_spte_changed
from septum.kvm.tdx import tdx_ept_violation_loop
from septum.kvm.tdx_lifecycle import tdx_extend_page, tdx_gmem_post_populate, tdx_td_finalize
from septum.kvm.tdx_sept import is_hkid_assigned, tdx_mem_page_aug, tdx_track
from septum.kvm.x86 import KVM_BUG_ON

NAME: Final = "rfc-v5-08"
PREDECESSOR: Final = "v6.16"
CAPABILITIES: Final = frozenset({"mirror"})

ALSO: Final = (
    __kvm_gmem_populate,
    kvm_gmem_get_pfn,
    kvm_mmu_faultin_pfn,
    tdx_ept_violation_loop,
    tdx_extend_page,
    tdx_gmem_post_populate,
    tdx_mem_page_aug,
    tdx_td_finalize,
    tdx_track,
)
DROPS: Final = (
    "get_external_spt",
    "kvm_tdp_map_page",
    "link_external_spt",
    "set_external_spte_present",
    "tdp_mmu_remove_external_spte",
    "tdx_is_sept_zap_err_due_to_premap",
    "tdx_mem_page_record_premap_cnt",
    "tdx_no_vcpus_enter_start",
    "tdx_no_vcpus_enter_stop",
    "tdx_sept_drop_private_spte",
    "tdx_sept_link_private_spt",
    "tdx_sept_zap_private_spte",
    "tdx_unpin",
)


# --- setting an SPTE --------------------------------------------------------------------


def __tdp_mmu_set_spte_atomic(kvm: Kvm, iter: TdpIter, new_spte: int) -> int:
    """Mirror: freeze, hook, publish or restore.  On failure ``iter.old_spte`` is current."""
    name = "__tdp_mmu_set_spte_atomic"
    WARN_ON(
        iter.yielded or is_frozen_spte(iter.old_spte),
        kvm,
        name,
        "the iterator yielded, or its SPTE is frozen",
    )
    if is_mirror_sptep(iter.sptep) and not is_frozen_spte(new_spte):
        # Zapping and splitting need mmu_lock held for write.
        was_present = is_shadow_present_pte(iter.old_spte)
        is_present = is_shadow_present_pte(new_spte)
        if KVM_BUG_ON(was_present, kvm, name, "the old SPTE is present") or KVM_BUG_ON(
            not is_present, kvm, name, "the new SPTE is not present"
        ):
            return -EBUSY
        ok, iter.old_spte = iter.sptep.try_cmpxchg(iter.old_spte, FROZEN_SPTE)
        if not ok:
            return -EBUSY
        ret: int = kvm.fn.set_external_spte(kvm, iter.gfn, iter.level, new_spte)
        kvm.fn.__kvm_tdp_mmu_write_spte(kvm, iter.sptep, iter.old_spte if ret else new_spte)
        return ret
    ok, iter.old_spte = iter.sptep.try_cmpxchg(iter.old_spte, new_spte)
    return 0 if ok else -EBUSY


def tdp_mmu_set_spte_atomic(kvm: Kvm, iter: TdpIter, new_spte: int) -> int:
    """0, -EBUSY, or what the hook returned."""
    lockdep_assert_held_read(kvm.mmu_lock, "tdp_mmu_set_spte_atomic")
    ret: int = kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, new_spte)
    if ret:
        return ret
    kvm.fn.handle_changed_spte(
        kvm, iter.as_id, iter.sptep, iter.gfn, iter.old_spte, new_spte, iter.level, True
    )
    return 0


def tdp_mmu_set_spte(
    kvm: Kvm, as_id: int, sptep: Spte, old_spte: int, new_spte: int, gfn: int, level: int
) -> int:
    """The value that was overwritten.  Memory changes before the hook runs."""
    name = "tdp_mmu_set_spte"
    lockdep_assert_held_write(kvm.mmu_lock, name)
    WARN_ON(is_frozen_spte(old_spte) or is_frozen_spte(new_spte), kvm, name, "old or new is frozen")
    old_spte = kvm.fn.kvm_tdp_mmu_write_spte(kvm, sptep, old_spte, new_spte, level)
    kvm.fn.handle_changed_spte(kvm, as_id, sptep, gfn, old_spte, new_spte, level, False)
    # Users that set SPTEs non-atomically only zap on mirror roots.
    KVM_BUG_ON(
        is_mirror_sptep(sptep) and is_shadow_present_pte(new_spte),
        kvm,
        name,
        "a mirror SPTE becomes present",
    )
    return old_spte


# --- reacting to a change -----------------------------------------------------------------


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
    """Trace line and statistics, then the S-EPT's removal."""
    name = "handle_changed_spte"
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
        return
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
        return
    if is_leaf != was_leaf:
        kvm.fn.kvm_update_page_stats(kvm, level, 1 if is_leaf else -1)
    if (
        was_present
        and not was_leaf
        and (is_leaf or not is_present or WARN_ON(pfn_changed, kvm, name, "table PFN changes"))
    ):
        kvm.fn.handle_removed_pt(kvm, spte_to_child_sp(kvm, old_spte).spt, shared)
    elif was_leaf and is_mirror_sptep(sptep) and not is_leaf:
        kvm.fn.remove_external_spte(kvm, gfn, level, old_spte)


def handle_removed_pt(kvm: Kvm, pt: PageTable, shared: bool) -> None:
    """Children first, then the S-EPT page; a page that cannot be reclaimed is leaked."""
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
        kvm.fn.handle_changed_spte(
            kvm, sp.role.as_id, sptep, gfn, old_spte, FROZEN_SPTE, level, shared
        )
    if is_mirror_sp(sp):
        ret = kvm.fn.free_external_spt(kvm, sp.gfn, level, sp.external_spt.v)
        if WARN_ON(ret, kvm, "handle_removed_pt", "the S-EPT page could not be freed"):
            sp.external_spt.set(0)
    sp.spt.call_rcu(lambda: kvm.fn.tdp_mmu_free_sp_rcu_callback(kvm, sp))


# --- kvm_x86_ops ------------------------------------------------------------------------------


def set_external_spte(kvm: Kvm, gfn: int, level: int, new_spte: int) -> int:
    """kvm_x86_call(set_external_spte): leafs and tables."""
    return int(kvm.fn.tdx_sept_set_private_spte(kvm, gfn, level, new_spte))


def remove_external_spte(kvm: Kvm, gfn: int, level: int, old_spte: int) -> None:
    """kvm_x86_call(remove_external_spte): void."""
    kvm.fn.tdx_sept_remove_private_spte(kvm, gfn, level, old_spte)


# --- TDX --------------------------------------------------------------------------------------


def tdx_sept_set_private_spte(kvm: Kvm, gfn: int, level: int, new_spte: int) -> int:
    name = "tdx_sept_set_private_spte"
    is_present = is_shadow_present_pte(new_spte)
    if KVM_BUG_ON(not is_present, kvm, name, "the new SPTE is not present"):
        return -EIO
    if not is_last_spte(new_spte, level):
        return int(kvm.fn.tdx_sept_map_nonleaf_spte(kvm, gfn, new_spte, level))
    return int(kvm.fn.tdx_sept_map_leaf_spte(kvm, gfn, new_spte, level))


def tdx_sept_remove_private_spte(kvm: Kvm, gfn: int, level: int, old_spte: int) -> None:
    """BLOCK, TRACK, REMOVE, WBINVD.  A failure bugs the VM and ends the sequence."""
    name = "tdx_sept_remove_private_spte"
    lockdep_assert_held_write(kvm.mmu_lock, name)
    if KVM_BUG_ON(not is_hkid_assigned(kvm), kvm, name, "no hkid"):
        return
    if KVM_BUG_ON(level != PG_LEVEL_4K, kvm, name, f"level {level}"):
        return
    no_vcpus = kvm.fn.tdh_do_no_vcpus
    result = no_vcpus(kvm, kvm.fn.tdh_mem_range_block, gfn, level)
    if TDX_BUG_ON(result, "TDH_MEM_RANGE_BLOCK", kvm, name):
        return
    kvm.fn.tdx_track(kvm)
    result = no_vcpus(kvm, kvm.fn.tdh_mem_page_remove, gfn, level)
    if TDX_BUG_ON(result, "TDH_MEM_PAGE_REMOVE", kvm, name):
        return
    result = kvm.fn.tdh_phymem_page_wbinvd_hkid(kvm, kvm.tdx.hkid.v, spte_to_pfn(old_spte))
    TDX_BUG_ON(result, "TDH_PHYMEM_PAGE_WBINVD", kvm, name)


def tdx_sept_free_private_spt(kvm: Kvm, gfn: int, level: int, private_spt: int) -> int:
    """Only once the hkid is gone; the caller frees the page after a grace period."""
    assigned = is_hkid_assigned(kvm)
    if KVM_BUG_ON(assigned, kvm, "tdx_sept_free_private_spt", "hkid still assigned"):
        return -EIO
    return int(kvm.fn.tdx_reclaim_page(kvm, private_spt))
