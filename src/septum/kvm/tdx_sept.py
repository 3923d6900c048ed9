# SPDX-License-Identifier: GPL-2.0-only
"""How KVM drives the S-EPT: the two external-SPTE hooks and what they call.

Follows ``arch/x86/kvm/vmx/tdx.c`` of Linux 7.3 (facts/kvm-tdp-mmu.md 5.2, 5.3).

Installing an entry is one SEAMCALL, and BUSY is the caller's to retry.  Removing a leaf
is BLOCK, TRACK, REMOVE, WBINVD under mmu_lock held for write and may not fail: BUSY can
then come only from vCPUs, so `tdh_do_no_vcpus` keeps them out and calls once more.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EBUSY, EIO
from typing import TYPE_CHECKING, Any, Final

from septum.kvm.bug import WARN_ON, lockdep_assert_held, lockdep_assert_held_write
from septum.kvm.seamcall import TDX_BUG_ON
from septum.kvm.spte import (
    PG_LEVEL_4K,
    VMX_EPT_RWX_MASK,
    is_last_spte,
    is_shadow_present_pte,
    spte_to_child_sp,
    spte_to_pfn,
)
from septum.kvm.structs import KVM_REQ_OUTSIDE_GUEST_MODE, TD_STATE_RUNNABLE
from septum.kvm.x86 import KVM_BUG_ON

if TYPE_CHECKING:
    from septum.kvm.structs import Kvm, KvmMmuPage

__all__ = ["FUNCTIONS"]


def is_hkid_assigned(kvm: Kvm) -> bool:
    """Part of the event before it: the hkid changes only when the VM is being destroyed."""
    return bool(kvm.tdx.hkid.peek() > 0)


# --- vCPUs kept out -------------------------------------------------------------------


def tdh_do_no_vcpus(kvm: Kvm, func: Callable[..., Any], *args: Any) -> Any:
    """Call; if busy, keep the vCPUs out of the guest and call exactly once more.

    After the kick a vCPU is either outside or has yet to read wait_for_sept_zap before
    it enters.  Whatever the second result is, the flag is cleared before anyone looks.
    """
    lockdep_assert_held_write(kvm.mmu_lock, "tdh_do_no_vcpus")
    result = func(kvm, *args)
    if kvm.fn.tdx_operand_busy(result.rax):
        kvm.m.reach("the second no-vCPUs call was made")
        kvm.tdx.wait_for_sept_zap.write(True)
        kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_OUTSIDE_GUEST_MODE)
        result = func(kvm, *args)
        kvm.tdx.wait_for_sept_zap.write(False)
    return result


def tdx_track(kvm: Kvm) -> None:
    """A new TLB epoch, then every vCPU out of the guest: whoever comes back flushes.

    Void: a failing TRACK bugs the VM and the kick happens all the same.
    """
    if kvm.tdx.state.read() != TD_STATE_RUNNABLE:
        return  # no vCPU can have run
    lockdep_assert_held_write(kvm.mmu_lock, "tdx_track")
    result = kvm.fn.tdh_do_no_vcpus(kvm, kvm.fn.tdh_mem_track)
    TDX_BUG_ON(result, "TDH_MEM_TRACK", kvm, "tdx_track")
    kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_OUTSIDE_GUEST_MODE)


# --- to present -------------------------------------------------------------------------


def _install_result(kvm: Kvm, result: Any, call: str, function: str) -> int:
    """Installs run under mmu_lock held for read: BUSY goes back to the fault handler."""
    if kvm.fn.tdx_operand_busy(result.rax):
        kvm.m.reach(f"{call} returned BUSY")
        return -EBUSY
    if TDX_BUG_ON(result, f"TDH_MEM_{call}".replace(".", "_"), kvm, function):
        return -EIO
    return 0


def tdx_mem_page_add(kvm: Kvm, gfn: int, level: int, pfn: int) -> int:
    """Before finalization: the page is copied from kvm_tdx->page_add_src."""
    name = "tdx_mem_page_add"
    if not kvm.slots_lock.held():
        kvm.m.report("I10", f"{name}(): slots_lock is not held", kvm.slots_lock.name)
    src = kvm.tdx.page_add_src.v
    if KVM_BUG_ON(kvm.pre_fault_allowed.read(), kvm, name, "pre_fault_allowed"):
        return -EIO
    if KVM_BUG_ON(src is None, kvm, name, "no page_add_src"):
        return -EIO
    result = kvm.fn.tdh_mem_page_add(kvm, gfn, pfn, src)
    return _install_result(kvm, result, "PAGE.ADD", name)


def tdx_mem_page_aug(kvm: Kvm, gfn: int, level: int, pfn: int) -> int:
    """The entry becomes PENDING until the guest accepts it."""
    result = kvm.fn.tdh_mem_page_aug(kvm, gfn, level, pfn)
    return _install_result(kvm, result, "PAGE.AUG", "tdx_mem_page_aug")


def tdx_sept_map_leaf_spte(kvm: Kvm, gfn: int, new_spte: int, level: int) -> int:
    name = "tdx_sept_map_leaf_spte"
    if KVM_BUG_ON(level != PG_LEVEL_4K, kvm, name, f"level {level}"):
        return -EIO
    rwx = new_spte & VMX_EPT_RWX_MASK
    WARN_ON(rwx != VMX_EPT_RWX_MASK, kvm, name, f"permissions {rwx:#x}")
    pfn = spte_to_pfn(new_spte)
    # Pairs with the smp_wmb() of tdx_td_finalize(): pre_fault_allowed after the state.
    if kvm.tdx.state.read() != TD_STATE_RUNNABLE:
        return int(kvm.fn.tdx_mem_page_add(kvm, gfn, level, pfn))
    return int(kvm.fn.tdx_mem_page_aug(kvm, gfn, level, pfn))


def tdx_spte_to_sept_pt(kvm: Kvm, gfn: int, new_spte: int, level: int) -> int:
    """The page to add as S-EPT page; 0 if the child does not fit the entry."""
    name = "tdx_spte_to_sept_pt"
    sp = spte_to_child_sp(kvm, new_spte)
    pfn: int = sp.external_spt.v
    if KVM_BUG_ON(not pfn, kvm, name, "no external_spt"):
        return 0
    if KVM_BUG_ON(sp.role.level + 1 != level, kvm, name, "child at another level"):
        return 0
    if KVM_BUG_ON(sp.gfn != gfn, kvm, name, "child for another gfn"):
        return 0
    return pfn


def tdx_sept_map_nonleaf_spte(kvm: Kvm, gfn: int, new_spte: int, level: int) -> int:
    pfn = kvm.fn.tdx_spte_to_sept_pt(kvm, gfn, new_spte, level)
    if not pfn:
        return -EIO
    result = kvm.fn.tdh_mem_sept_add(kvm, gfn, level, pfn)
    return _install_result(kvm, result, "SEPT.ADD", "tdx_sept_map_nonleaf_spte")


# --- from present -----------------------------------------------------------------------


def tdx_sept_remove_leaf_spte(kvm: Kvm, gfn: int, old_spte: int, level: int) -> int:
    """BLOCK, TRACK, REMOVE, WBINVD.  A failure stops the sequence and undoes nothing."""
    name = "tdx_sept_remove_leaf_spte"
    lockdep_assert_held_write(kvm.mmu_lock, name)
    if KVM_BUG_ON(not is_hkid_assigned(kvm), kvm, name, "no hkid"):
        return -EIO
    if KVM_BUG_ON(level != PG_LEVEL_4K, kvm, name, f"level {level}"):
        return -EIO
    no_vcpus = kvm.fn.tdh_do_no_vcpus
    result = no_vcpus(kvm, kvm.fn.tdh_mem_range_block, gfn, level)
    if TDX_BUG_ON(result, "TDH_MEM_RANGE_BLOCK", kvm, name):
        return -EIO
    # Guests must not reach the page when it is removed: a failure of TRACK shows there.
    kvm.fn.tdx_track(kvm)
    result = no_vcpus(kvm, kvm.fn.tdh_mem_page_remove, gfn, level)
    if TDX_BUG_ON(result, "TDH_MEM_PAGE_REMOVE", kvm, name):
        return -EIO
    result = kvm.fn.tdh_phymem_page_wbinvd_hkid(kvm, kvm.tdx.hkid.v, spte_to_pfn(old_spte))
    if TDX_BUG_ON(result, "TDH_PHYMEM_PAGE_WBINVD", kvm, name):
        return -EIO
    return 0


# --- the hooks --------------------------------------------------------------------------


def tdx_sept_set_private_spte(kvm: Kvm, gfn: int, old_spte: int, new_spte: int, level: int) -> int:
    """kvm_x86_ops.set_external_spte: 0, -EBUSY (installs only) or -EIO.

    To-present under mmu_lock held for read, leaf removal under write; splitting and
    merging are not supported.  Whatever was present is removed, leaf or not (facts 5.3).
    """
    name = "tdx_sept_set_private_spte"
    lockdep_assert_held(kvm.mmu_lock, name)
    if is_shadow_present_pte(old_spte):
        return int(kvm.fn.tdx_sept_remove_leaf_spte(kvm, gfn, old_spte, level))
    present = is_shadow_present_pte(new_spte)
    if KVM_BUG_ON(not present, kvm, name, "neither old nor new is present"):
        return -EIO
    if not is_last_spte(new_spte, level):
        return int(kvm.fn.tdx_sept_map_nonleaf_spte(kvm, gfn, new_spte, level))
    return int(kvm.fn.tdx_sept_map_leaf_spte(kvm, gfn, new_spte, level))


def tdx_reclaim_page(kvm: Kvm, pfn: int) -> int:
    """One call, after the keys are gone; a failure warns and leaks the page."""
    result = kvm.fn.tdh_phymem_page_reclaim(kvm, pfn)
    if TDX_BUG_ON(result, "TDH_PHYMEM_PAGE_RECLAIM", kvm, "tdx_reclaim_page", bug_vm=False):
        return -EIO
    return 0


def tdx_sept_free_private_spt(kvm: Kvm, sp: KvmMmuPage) -> None:
    """kvm_x86_ops.free_external_spt: reclaim the S-EPT page and free it at once.

    Page-table pages are only freed when the VM is destroyed and the hkid is gone.
    """
    pfn: int = sp.external_spt.v
    assigned = is_hkid_assigned(kvm)
    leak = KVM_BUG_ON(assigned, kvm, "tdx_sept_free_private_spt", "hkid still assigned")
    if not leak and not kvm.fn.tdx_reclaim_page(kvm, pfn):
        kvm.host.free_page(pfn)
    sp.external_spt.set(0)


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        tdh_do_no_vcpus,
        tdx_mem_page_add,
        tdx_mem_page_aug,
        tdx_reclaim_page,
        tdx_sept_free_private_spt,
        tdx_sept_map_leaf_spte,
        tdx_sept_map_nonleaf_spte,
        tdx_sept_remove_leaf_spte,
        tdx_sept_set_private_spte,
        tdx_spte_to_sept_pt,
        tdx_track,
    )
}
