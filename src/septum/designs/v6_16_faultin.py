# SPDX-License-Identifier: GPL-2.0-only
"""Finding the page that a fault maps, as 6.16 does: the part of `septum.designs.v6_16` about
guest_memfd and memslots (Linux virt/kvm/guest_memfd.c, arch/x86/kvm/mmu/mmu.c).

A page has to be prepared: KVM_TDX_INIT_MEM_REGION refuses one that is.  An INVALID slot is
retried, whoever asks: a prefault, too, although it holds SRCU all the time (docs/findings.md F6).
"""

from __future__ import annotations

from errno import EEXIST, EFAULT, EINVAL

from septum.kvm import gmem
from septum.kvm.memslots import gfn_to_memslot
from septum.kvm.mmu import KvmPageFault
from septum.kvm.ret_pf import RET_PF_CONTINUE, RET_PF_RETRY
from septum.kvm.slot_structs import GmemFile
from septum.kvm.structs import Kvm, KvmMemorySlot, Vcpu
from septum.kvm.x86 import KVM_BUG_ON

__all__ = ["kvm_gmem_get_pfn", "kvm_gmem_populate", "kvm_mmu_faultin_pfn"]


def kvm_gmem_get_pfn(kvm: Kvm, slot: KvmMemorySlot, gfn: int) -> int:
    """The page, prepared (kvm_gmem_prepare_folio(), under the folio's lock: one step)."""
    file: GmemFile | None = slot.arch.gmem_file.v
    if file is None:
        return -EFAULT
    with kvm.m.step("kvm_gmem_get_pfn", file.cache.entry_name(slot.index(gfn))):
        pfn = gmem.kvm_gmem_get_pfn(kvm, slot, gfn)
        if pfn >= 0 and not file.prepared(pfn).peek():
            file.prepared(pfn).poke(True)
    return pfn


def kvm_gmem_populate(vcpu: Vcpu, gfn: int, measure: bool) -> int:
    """One page, which must not be prepared yet; the callback's fault prepares it."""
    kvm = vcpu.kvm
    slot = gfn_to_memslot(kvm.slots, gfn)
    if slot is None or not slot.has_gmem:
        return -EINVAL
    file: GmemFile | None = slot.arch.gmem_file.peek()
    if file is None:
        return -EFAULT
    src = kvm.host.hva.get_pfn(slot.hva(gfn))
    file.invalidate_lock.lock()
    with kvm.m.step("kvm_gmem_get_pfn", file.cache.entry_name(slot.index(gfn))):
        ret = gmem.kvm_gmem_get_pfn(kvm, slot, gfn)
        prepared = ret >= 0 and file.prepared(ret).peek()
    if prepared:
        ret = -EEXIST
    elif ret >= 0 and not kvm.fn.kvm_mem_is_private(kvm, gfn):
        ret = -EINVAL
    elif ret >= 0:
        ret = int(kvm.fn.tdx_gmem_post_populate(vcpu, gfn, ret, src, measure))
    file.invalidate_lock.unlock()
    return ret


def kvm_mmu_faultin_pfn(vcpu: Vcpu, fault: KvmPageFault) -> int:
    """A prefault in a slot that is being deleted or moved is retried like any fault."""
    kvm = vcpu.kvm
    fn = kvm.fn
    if KVM_BUG_ON(
        fault.gfn & kvm.gfn_direct_bits, kvm, "kvm_mmu_faultin_pfn", "gfn with the shared bit"
    ):
        return -EFAULT
    fault.mmu_seq = kvm.mmu_invalidate_seq.read()
    if fault.is_private != fn.kvm_mem_is_private(kvm, fault.gfn):
        return -EFAULT  # KVM_EXIT_MEMORY_FAULT: userspace converts the page
    slot = fault.slot
    if slot is None:
        return int(fn.kvm_handle_noslot_fault(vcpu, fault))
    if slot.invalid:
        kvm.m.current.blame[kvm.memslots] = fault.slot_at
        kvm.m.reach(f"a {'prefault' if fault.prefetch else 'fault'} met an INVALID slot")
        return RET_PF_RETRY
    if fn.mmu_invalidate_retry_gfn_unsafe(kvm, fault.mmu_seq, fault.gfn):
        return RET_PF_RETRY
    r: int = fn.__kvm_mmu_faultin_pfn(vcpu, fault)
    if r != RET_PF_CONTINUE:
        return r
    if fn.mmu_invalidate_retry_gfn_unsafe(kvm, fault.mmu_seq, fault.gfn):
        return RET_PF_RETRY
    return RET_PF_CONTINUE
