# SPDX-License-Identifier: GPL-2.0-only
"""Finding the page that a fault maps, as 6.16 does: the part of `septum.designs.v6_16` about
guest_memfd and memslots (Linux virt/kvm/guest_memfd.c, arch/x86/kvm/mmu/mmu.c).

A page has to be prepared: KVM_TDX_INIT_MEM_REGION refuses one that is.  An INVALID slot is
retried, whoever asks: a prefault, too, although it holds SRCU all the time (docs/findings.md F6).
"""

from __future__ import annotations

from errno import EAGAIN, EEXIST, EFAULT, EINVAL

from septum.kvm import gmem, mmu
from septum.kvm.mmu import KvmPageFault
from septum.kvm.ret_pf import RET_PF_RETRY
from septum.kvm.slot_structs import GmemFile
from septum.kvm.structs import Kvm, KvmMemorySlot, Vcpu

__all__ = ["__kvm_gmem_populate", "kvm_gmem_get_pfn", "kvm_mmu_faultin_pfn"]


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


def __kvm_gmem_populate(
    vcpu: Vcpu, slot: KvmMemorySlot, file: GmemFile, gfn: int, src: int, measure: bool
) -> int:
    """The loop's body in kvm_gmem_populate(): the page must not be prepared yet; the callback's
    fault prepares it."""
    kvm = vcpu.kvm
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
    r = mmu.kvm_mmu_faultin_pfn(vcpu, fault)
    return RET_PF_RETRY if r == -EAGAIN else r
