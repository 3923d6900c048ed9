# SPDX-License-Identifier: GPL-2.0-only
"""MMIO SPTEs: GFNs without a memslot (facts 1.2, 4.5).

An MMIO SPTE makes the CPU report a misconfiguration instead of a violation, so that KVM can
emulate without mmu_lock.  It carries the generation of the memslots it was made from; with
another generation, or while the memslots are being replaced, it says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EFAULT
from typing import TYPE_CHECKING, Any, Final

from septum.kvm.ret_pf import (
    RET_PF_CONTINUE,
    RET_PF_EMULATE,
    RET_PF_INVALID,
    RET_PF_RETRY,
)
from septum.kvm.slot_structs import KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS
from septum.kvm.spte import (
    MMIO_SPTE_GEN_MASK,
    get_mmio_spte_generation,
    get_mmio_spte_gfn,
    is_mmio_spte,
)
from septum.kvm.structs import Vcpu
from septum.kvm.tdp_iter import for_each_tdp_pte, kvm_mmu_max_gfn

if TYPE_CHECKING:
    from septum.kvm.mmu import KvmPageFault

__all__ = ["FUNCTIONS", "KVM_PFN_NOSLOT"]

KVM_PFN_NOSLOT: Final = 1 << 63


def vcpu_cache_mmio_info(vcpu: Vcpu, gfn: int) -> None:
    gen: int = vcpu.kvm.memslots_generation.read()
    if not gen & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS:
        vcpu.mmio_cache.set((gfn, gen))


def mmio_info_in_cache(vcpu: Vcpu, gpa: int) -> bool:
    cached = vcpu.mmio_cache.v
    if cached is None:
        return False
    return bool(vcpu.kvm.memslots_generation.read() == cached[1] and cached[0] == gpa >> 12)


def check_mmio_spte(vcpu: Vcpu, spte: int) -> bool:
    gen: int = vcpu.kvm.memslots_generation.read()
    if gen & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS:
        return False
    return gen & MMIO_SPTE_GEN_MASK == get_mmio_spte_generation(spte)


def get_mmio_spte(vcpu: Vcpu, gpa: int) -> int:
    """kvm_tdp_mmu_get_walk(): the last SPTE of a lockless walk of the direct root."""
    kvm = vcpu.kvm
    spte = 0
    kvm.rcu.read_lock()
    root = kvm.mmu_pages[vcpu.root_hpa.v >> 12]
    for iter in for_each_tdp_pte(kvm, root, gpa >> 12, (gpa >> 12) + 1):
        spte = iter.old_spte
    kvm.rcu.read_unlock()
    return spte


def handle_mmio_page_fault(vcpu: Vcpu, gpa: int) -> int:
    """A misconfiguration.  INVALID: the generation is stale, take the slow path."""
    fn = vcpu.kvm.fn
    if fn.mmio_info_in_cache(vcpu, gpa):
        vcpu.m.reach("an MMIO access hit the vCPU's cache")
        return RET_PF_EMULATE
    spte = fn.get_mmio_spte(vcpu, gpa)
    if not is_mmio_spte(vcpu.kvm, spte):
        vcpu.m.reach("an MMIO SPTE was gone")
        return RET_PF_RETRY  # zapped by another CPU: let the CPU fault again
    if not fn.check_mmio_spte(vcpu, spte):
        vcpu.m.reach("an MMIO SPTE had a stale generation")
        return RET_PF_INVALID
    fn.vcpu_cache_mmio_info(vcpu, get_mmio_spte_gfn(spte))
    return RET_PF_EMULATE


def kvm_handle_noslot_fault(vcpu: Vcpu, fault: KvmPageFault) -> int:
    """The page fault of a GFN without a slot."""
    if fault.is_private:
        return -EFAULT
    vcpu.kvm.fn.vcpu_cache_mmio_info(vcpu, fault.gfn)
    fault.slot = None
    fault.pfn, fault.map_writable = KVM_PFN_NOSLOT, False
    if fault.gfn > kvm_mmu_max_gfn(vcpu.kvm):
        return RET_PF_EMULATE
    return RET_PF_CONTINUE


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        check_mmio_spte,
        get_mmio_spte,
        handle_mmio_page_fault,
        kvm_handle_noslot_fault,
        mmio_info_in_cache,
        vcpu_cache_mmio_info,
    )
}
