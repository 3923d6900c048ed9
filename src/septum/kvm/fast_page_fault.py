# SPDX-License-Identifier: GPL-2.0-only
"""Write tracking and ``fast_page_fault()``: what a fault tries before mmu_lock (facts 4.13).

The fast path restores W (and, without A/D bits, the accesses taken for access tracking) of
a present leaf of the vCPU's *direct* root, by cmpxchg, under RCU alone.  Faults on private
GPAs are never eligible: they are reported as write faults on a non-present entry, and TDX
needs A/D bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from septum.kvm.bug import WARN_ON
from septum.kvm.ret_pf import RET_PF_FIXED, RET_PF_INVALID, RET_PF_SPURIOUS
from septum.kvm.spte import (
    FROZEN_SPTE,
    PG_LEVEL_4K,
    PT_WRITABLE_MASK,
    VMX_EPT_ACCESS_BIT,
    is_access_track_spte,
    is_last_spte,
    is_mmu_writable_spte,
    is_shadow_present_pte,
    is_writable_pte,
    restore_acc_track_spte,
    spte_permission_fault,
    sptep_to_sp,
)
from septum.kvm.structs import Kvm, Spte, Vcpu
from septum.kvm.tdp_iter import for_each_tdp_pte

if TYPE_CHECKING:
    from septum.kvm.mmu import KvmPageFault

__all__ = ["FUNCTIONS", "MAX_TRIES"]

MAX_TRIES: Final = 5


def kvm_gfn_is_write_tracked(kvm: Kvm, fault: KvmPageFault) -> bool:
    """READ_ONCE of the slot's count; no one's GFN is tracked unless the VM has trackers."""
    if fault.slot is None or not kvm.features.write_tracking:
        return False
    return bool(kvm.gfn_write_track(fault.gfn).read())


def page_fault_handle_page_track(vcpu: Vcpu, fault: KvmPageFault) -> bool:
    """A write to a tracked page is emulated."""
    if fault.rsvd or not fault.present or not fault.write:
        return False
    return bool(vcpu.kvm.fn.kvm_gfn_is_write_tracked(vcpu.kvm, fault))


def page_fault_can_be_fast(kvm: Kvm, fault: KvmPageFault) -> bool:
    """The attribute is read only where the answer depends on it (docs/fidelity.md)."""
    if fault.rsvd:
        return False
    eligible = fault.write if fault.present else not kvm.features.ad
    if eligible and kvm.has_mirrored_tdp:
        return bool(fault.is_private == kvm.fn.kvm_mem_is_private(kvm, fault.gfn))
    return eligible


def kvm_tdp_mmu_fast_pf_get_last_sptep(vcpu: Vcpu, gfn: int) -> tuple[Spte | None, int]:
    """The last SPTE of a lockless walk of the direct root, and the value read."""
    kvm = vcpu.kvm
    root = kvm.mmu_pages[vcpu.root_hpa.v >> 12]
    sptep, spte = None, FROZEN_SPTE
    for iter in for_each_tdp_pte(kvm, root, gfn, gfn + 1):
        sptep, spte = iter.sptep, iter.old_spte
    return sptep, spte


def fast_pf_fix_direct_spte(
    vcpu: Vcpu, fault: KvmPageFault, sptep: Spte, old_spte: int, new_spte: int
) -> bool:
    """D is left to the CPU."""
    ok, _ = sptep.try_cmpxchg(old_spte, new_spte)
    if not ok:
        return False
    if is_writable_pte(new_spte) and not is_writable_pte(old_spte):
        vcpu.kvm.fn.mark_page_dirty_in_slot(vcpu.kvm, fault.slot, fault.gfn)
    return True


def fast_pf_new_spte(kvm: Kvm, fault: KvmPageFault, sptep: Spte, spte: int) -> int:
    """What the fast path would store; ``spte`` if it cannot help.  (In the kernel inline
    in ``fast_page_fault``.)"""
    new_spte = spte
    if not kvm.features.ad and is_access_track_spte(spte):
        new_spte = restore_acc_track_spte(new_spte) | VMX_EPT_ACCESS_BIT
    if fault.write and is_mmu_writable_spte(spte):
        new_spte |= PT_WRITABLE_MASK
        # Only the page that faulted would be marked dirty: the slow path splits.
        logged = fault.slot is not None and fault.slot.logged
        if sptep_to_sp(sptep).role.level > PG_LEVEL_4K and logged:
            return spte
    return spte if spte_permission_fault(new_spte, fault.write, fault.exec) else new_spte


def fast_page_fault(vcpu: Vcpu, fault: KvmPageFault) -> int:
    kvm = vcpu.kvm
    fn = kvm.fn
    if not fn.page_fault_can_be_fast(kvm, fault):
        return RET_PF_INVALID
    blame = dict(vcpu.m.current.blame)
    ret = RET_PF_INVALID
    kvm.rcu.read_lock()  # walk_shadow_page_lockless_begin()
    for _ in range(MAX_TRIES):
        sptep, spte = fn.kvm_tdp_mmu_fast_pf_get_last_sptep(vcpu, fault.gfn)
        if WARN_ON(sptep is None, kvm, "fast_page_fault", "no root"):
            break
        if not is_shadow_present_pte(spte) or not is_last_spte(spte, sptep_to_sp(sptep).role.level):
            break
        if not spte_permission_fault(spte, fault.write, fault.exec):
            ret = RET_PF_SPURIOUS
            vcpu.m.reach("the fast path found the fault spurious")
            break
        new_spte = fn.fast_pf_new_spte(kvm, fault, sptep, spte)
        if new_spte == spte:
            break
        if fn.fast_pf_fix_direct_spte(vcpu, fault, sptep, spte, new_spte):
            ret = RET_PF_FIXED
            vcpu.m.reach("the fast path fixed a fault")
            break
        vcpu.m.reach("the fast path lost its cmpxchg")
    kvm.trace("fast_page_fault", vcpu=vcpu.id, gpa=fault.addr, error_code=fault.error_code, ret=ret)
    kvm.rcu.read_unlock()
    # What the fast path lost is no reason for the slow path to retry.
    vcpu.m.current.blame = blame
    return ret


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        fast_page_fault,
        fast_pf_fix_direct_spte,
        fast_pf_new_spte,
        kvm_gfn_is_write_tracked,
        kvm_tdp_mmu_fast_pf_get_last_sptep,
        page_fault_can_be_fast,
        page_fault_handle_page_track,
    )
}
