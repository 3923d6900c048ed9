# SPDX-License-Identifier: GPL-2.0-only
"""``rfc-v5`` (D2e): RFC v5 from patch 36 on, the base of the diff of 6 February 2026.

One hook for everything, ``set_external_spte(gfn, old, new, level)``, called from two places
(facts 6.10 row 3): ``__tdp_mmu_set_spte_atomic`` under mmu_lock held for read, still with the
refusals of ``rfc-v5-08``, and ``handle_changed_spte`` for every change of a mirror *leaf* (34,
36), where failure bugs the VM.  The MMU's KVM_BUG_ON on a present new value is gone (36).

TDX dispatch T-bug (36..38): a present value replaced by a present one is KVM_BUG_ON and -EIO
before any SEAMCALL.  A removed table's S-EPT page is reclaimed by a void hook (09), which
leaks it on failure, and freed in the RCU callback by another hook (20).
"""

from __future__ import annotations

from errno import EBUSY, EIO
from typing import Final

from septum.kvm.bug import (
    BUG,
    WARN_ON,
    lockdep_assert_held,
    lockdep_assert_held_write,
)
from septum.kvm.spte import (
    FROZEN_SPTE,
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
from septum.kvm.structs import Kvm, KvmMmuPage, PageTable, Spte
from septum.kvm.tdp_iter import TdpIter
from septum.kvm.tdp_mmu import trace_kvm_tdp_mmu_spte_changed
from septum.kvm.tdx_sept import is_hkid_assigned
from septum.kvm.x86 import KVM_BUG_ON

NAME: Final = "rfc-v5"
PREDECESSOR: Final = "rfc-v5-08"
CAPABILITIES: Final = frozenset({"mirror"})

DROPS: Final = (
    "free_external_spt",
    "remove_external_spte",
    "tdx_sept_free_private_spt",
    "tdx_sept_remove_private_spte",
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
        ret: int = kvm.fn.set_external_spte(kvm, iter.gfn, iter.old_spte, new_spte, iter.level)
        kvm.fn.__kvm_tdp_mmu_write_spte(kvm, iter.sptep, iter.old_spte if ret else new_spte)
        return ret
    ok, iter.old_spte = iter.sptep.try_cmpxchg(iter.old_spte, new_spte)
    return 0 if ok else -EBUSY


def tdp_mmu_set_spte(
    kvm: Kvm, as_id: int, sptep: Spte, old_spte: int, new_spte: int, gfn: int, level: int
) -> int:
    """The value that was overwritten.  Memory changes before the hook runs."""
    name = "tdp_mmu_set_spte"
    lockdep_assert_held_write(kvm.mmu_lock, name)
    WARN_ON(is_frozen_spte(old_spte) or is_frozen_spte(new_spte), kvm, name, "old or new is frozen")
    old_spte = kvm.fn.kvm_tdp_mmu_write_spte(kvm, sptep, old_spte, new_spte, level)
    kvm.fn.handle_changed_spte(kvm, as_id, sptep, gfn, old_spte, new_spte, level, False)
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
    """Trace line and statistics, then the S-EPT; callers are not prepared for errors."""
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
    elif was_leaf and is_mirror_sptep(sptep):
        ret = kvm.fn.set_external_spte(kvm, gfn, old_spte, new_spte, level)
        KVM_BUG_ON(ret, kvm, name, "the S-EPT could not follow an SPTE change")


def handle_removed_pt(kvm: Kvm, pt: PageTable, shared: bool) -> None:
    """Children first, then the S-EPT page."""
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
        kvm.fn.reclaim_external_sp(kvm, sp.gfn, sp)
    sp.spt.call_rcu(lambda: kvm.fn.tdp_mmu_free_sp_rcu_callback(kvm, sp))


def tdp_mmu_free_sp(kvm: Kvm, sp: KvmMmuPage) -> None:
    """The S-EPT page (if there still is one), the table and the header."""
    if sp.external_spt.v:
        kvm.fn.free_external_sp(kvm, sp.external_spt.v)
    sp.spt.free()


# --- kvm_x86_ops ------------------------------------------------------------------------------


def set_external_spte(kvm: Kvm, gfn: int, old_spte: int, new_spte: int, level: int) -> int:
    """kvm_x86_call(set_external_spte): every change but a removed table."""
    return int(kvm.fn.tdx_sept_set_private_spte(kvm, gfn, old_spte, new_spte, level))


def reclaim_external_sp(kvm: Kvm, gfn: int, sp: KvmMmuPage) -> None:
    """kvm_x86_call(reclaim_external_sp): void."""
    kvm.fn.tdx_sept_reclaim_private_sp(kvm, gfn, sp)


def free_external_sp(kvm: Kvm, external_spt: int) -> None:
    """kvm_x86_call(free_external_sp)."""
    kvm.host.free_page(external_spt)


# --- TDX --------------------------------------------------------------------------------------


def tdx_sept_set_private_spte(kvm: Kvm, gfn: int, old_spte: int, new_spte: int, level: int) -> int:
    """0, -EBUSY (installs only) or -EIO.  T-bug: nothing present replaces a present value."""
    name = "tdx_sept_set_private_spte"
    lockdep_assert_held(kvm.mmu_lock, name)
    is_present = is_shadow_present_pte(new_spte)
    if is_shadow_present_pte(old_spte):
        if KVM_BUG_ON(is_present, kvm, name, "old and new are present"):
            return -EIO
        return int(kvm.fn.tdx_sept_remove_leaf_spte(kvm, gfn, old_spte, level))
    if KVM_BUG_ON(not is_present, kvm, name, "neither old nor new is present"):
        return -EIO
    if not is_last_spte(new_spte, level):
        return int(kvm.fn.tdx_sept_map_nonleaf_spte(kvm, gfn, new_spte, level))
    return int(kvm.fn.tdx_sept_map_leaf_spte(kvm, gfn, new_spte, level))


def tdx_sept_reclaim_private_sp(kvm: Kvm, gfn: int, sp: KvmMmuPage) -> None:
    """Reclaim, only once the hkid is gone.  A page that TDX keeps must not be freed."""
    assigned = is_hkid_assigned(kvm)
    name = "tdx_sept_reclaim_private_sp"
    if KVM_BUG_ON(assigned, kvm, name, "hkid still assigned") or kvm.fn.tdx_reclaim_page(
        kvm, sp.external_spt.v
    ):
        sp.external_spt.set(0)
