# SPDX-License-Identifier: GPL-2.0-only
"""``feb10-sp`` (D5): ``feb06`` with the owning page instead of the SPTE's address.

The patch author's answer of 10 February 2026 to "what if __handle_changed_spte() reads
*iter->sptep in step 2?": the function no longer gets the address.  ``sp`` is looked up once,
first thing, and passed instead of (as_id, sptep); the order of all steps is that of
``feb06``.

The base has the change of 9 February: the hook ``reclaim_external_spt`` reclaims *and frees*
the S-EPT page at once and always clears ``external_spt``; tables that were linked and tables
that never were are freed by different functions, and the RCU callback warns if an S-EPT page
is left.
"""

from __future__ import annotations

from typing import Final

from septum.kvm.bug import BUG, WARN_ON, lockdep_assert_held_read, lockdep_assert_held_write
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
from septum.kvm.tdp_mmu import tdp_mmu_iter_set_spte, trace_kvm_tdp_mmu_spte_changed
from septum.kvm.tdx_sept import is_hkid_assigned
from septum.kvm.x86 import KVM_BUG_ON

NAME: Final = "feb10-sp"
PREDECESSOR: Final = "feb06"

ALSO: Final = (tdp_mmu_iter_set_spte,)  # without as_id, as in 7.3
DROPS: Final = ("free_external_sp", "reclaim_external_sp", "tdx_sept_reclaim_private_sp")


# --- setting an SPTE --------------------------------------------------------------------


def tdp_mmu_set_spte_atomic(kvm: Kvm, iter: TdpIter, new_spte: int) -> int:
    """0, -EBUSY, or what the hook returned."""
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
    """The value that was overwritten.  Memory changes before the hook runs."""
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
    elif is_mirror_sp(sp):
        return int(kvm.fn.set_external_spte(kvm, gfn, old_spte, new_spte, level))
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
    """Children first, then the S-EPT page, at once."""
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
        kvm.fn.reclaim_external_spt(kvm, sp.gfn, sp)
    sp.spt.call_rcu(lambda: kvm.fn.tdp_mmu_free_sp_rcu_callback(kvm, sp))


# --- freeing tables -----------------------------------------------------------------------


def tdp_mmu_free_sp(kvm: Kvm, sp: KvmMmuPage) -> None:
    """Table and header."""
    sp.spt.free()


def tdp_mmu_free_unused_sp(kvm: Kvm, sp: KvmMmuPage) -> None:
    """A table that was never linked: at once."""
    if sp.external_spt.v:
        kvm.host.free_page(sp.external_spt.v)
    kvm.fn.tdp_mmu_free_sp(kvm, sp)


def tdp_mmu_free_sp_rcu_callback(kvm: Kvm, sp: KvmMmuPage) -> None:
    """After the grace period; reclaim_external_spt has taken care of the external page."""
    WARN_ON(sp.external_spt.v, kvm, "tdp_mmu_free_sp_rcu_callback", "external_spt is left")
    kvm.fn.tdp_mmu_free_sp(kvm, sp)


# --- kvm_x86_ops ------------------------------------------------------------------------------


def reclaim_external_spt(kvm: Kvm, gfn: int, sp: KvmMmuPage) -> None:
    """kvm_x86_call(reclaim_external_spt): void."""
    kvm.fn.tdx_sept_reclaim_private_spt(kvm, gfn, sp)


# --- TDX --------------------------------------------------------------------------------------


def tdx_sept_reclaim_private_spt(kvm: Kvm, gfn: int, sp: KvmMmuPage) -> None:
    """Reclaim and free at once, only once the hkid is gone; on failure leak the page."""
    pfn: int = sp.external_spt.v
    assigned = is_hkid_assigned(kvm)
    leak = KVM_BUG_ON(assigned, kvm, "tdx_sept_reclaim_private_spt", "hkid still assigned")
    if not leak and not kvm.fn.tdx_reclaim_page(kvm, pfn):
        kvm.host.free_page(pfn)
    sp.external_spt.set(0)
