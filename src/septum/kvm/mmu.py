# SPDX-License-Identifier: GPL-2.0-only
"""Page faults from the VM exit to ``kvm_tdp_mmu_map`` (facts 4.5, 4.7, 4.18; mmu/mmu.c).

What a fault tries before it takes mmu_lock is in `septum.kvm.fast_page_fault`, faults on
GFNs without a memslot in `septum.kvm.mmio`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from errno import EAGAIN, EFAULT, EINTR, EINVAL, EIO, ENOENT, ENOMEM, EOPNOTSUPP
from typing import Any, Final

from septum.kvm.bug import WARN_ON, lockdep_assert_held
from septum.kvm.ret_pf import (
    PFERR_FETCH_MASK,
    PFERR_GUEST_FINAL_MASK,
    PFERR_PRESENT_MASK,
    PFERR_PRIVATE_ACCESS,
    PFERR_RSVD_MASK,
    PFERR_WRITE_MASK,
    RET_PF_CONTINUE,
    RET_PF_EMULATE,
    RET_PF_FIXED,
    RET_PF_INVALID,
    RET_PF_RETRY,
    RET_PF_SPURIOUS,
    RET_PF_WRITE_PROTECTED,
)
from septum.kvm.roots import root_is_invalid
from septum.kvm.spte import PG_LEVEL_4K
from septum.kvm.structs import (
    INVALID_PAGE,
    KVM_REQ_VM_DEAD,
    Kvm,
    KvmMemorySlot,
    Vcpu,
)
from septum.kvm.x86 import KVM_BUG_ON

__all__ = ["FUNCTIONS", "KvmPageFault", "retry_fault", "vm_is_dead"]


@dataclass(slots=True)
class KvmPageFault:
    """``struct kvm_page_fault``: ``gfn`` has no shared bit, ``addr`` keeps it."""

    addr: int
    gfn: int
    error_code: int
    prefetch: bool
    is_private: bool
    write: bool
    exec: bool
    max_level: int
    present: bool = False
    rsvd: bool = False
    req_level: int = PG_LEVEL_4K
    goal_level: int = PG_LEVEL_4K
    slot: KvmMemorySlot | None = None
    slot_at: int = -1  # the event of the lookup
    mmu_seq: int = 0
    pfn: int = 0
    map_writable: bool = True
    huge_page_disallowed: bool = False


def make_fault(vcpu: Vcpu, gpa: int, error_code: int, prefetch: bool) -> KvmPageFault:
    kvm = vcpu.kvm
    return KvmPageFault(
        addr=gpa,
        gfn=gpa >> 12 & ~kvm.gfn_direct_bits,
        error_code=error_code,
        prefetch=prefetch,
        is_private=bool(error_code & PFERR_PRIVATE_ACCESS),
        write=bool(error_code & PFERR_WRITE_MASK),
        exec=bool(error_code & PFERR_FETCH_MASK),
        max_level=kvm.geometry.levels - 1,
        present=bool(error_code & PFERR_PRESENT_MASK),
        rsvd=bool(error_code & PFERR_RSVD_MASK),
    )


# --- retry loops ------------------------------------------------------------------------


def vm_is_dead(vcpu: Vcpu) -> bool:
    """kvm_test_request(KVM_REQ_VM_DEAD): tested, never consumed."""
    return bool(vcpu.requests.read() & KVM_REQ_VM_DEAD)


def retry_fault(vcpu: Vcpu, head: str, requests_at: int) -> None:
    """`Machine.retry` for a loop that also ends when the VM dies: if the attempt waits for
    something, a change of ``vcpu.requests`` since its read ``requests_at`` ends the wait."""
    m = vcpu.m
    if m.current.blame:
        m.current.blame.setdefault(vcpu.requests, requests_at)
    m.retry(head)


# --- the fault ----------------------------------------------------------------------------


def kvm_mmu_page_fault(vcpu: Vcpu, gpa: int, error_code: int) -> int:
    """From the exit handler; a RET_PF code, or a negative errno for userspace."""
    kvm = vcpu.kvm
    if WARN_ON(vcpu.root_hpa.v == INVALID_PAGE, kvm, "kvm_mmu_page_fault", "no root"):
        return RET_PF_RETRY
    if error_code & PFERR_RSVD_MASK:
        if WARN_ON(error_code & PFERR_PRIVATE_ACCESS, kvm, "kvm_mmu_page_fault", "private MMIO"):
            return -EFAULT
        r: int = kvm.fn.handle_mmio_page_fault(vcpu, gpa)
        if r != RET_PF_INVALID:
            return r
    return int(kvm.fn.kvm_mmu_do_page_fault(vcpu, gpa, error_code, False))


def kvm_mmu_do_page_fault(vcpu: Vcpu, gpa: int, error_code: int, prefetch: bool) -> int:
    kvm = vcpu.kvm
    fault = make_fault(vcpu, gpa, error_code, prefetch)
    find_slot(vcpu, fault)
    r: int = kvm.fn.kvm_tdp_mmu_page_fault(vcpu, fault)
    if r == RET_PF_EMULATE and fault.is_private:
        return -EFAULT  # KVM_EXIT_MEMORY_FAULT
    return r


def find_slot(vcpu: Vcpu, fault: KvmPageFault) -> None:
    fault.slot = vcpu.kvm.fn.kvm_vcpu_gfn_to_memslot(vcpu, fault.gfn)
    fault.slot_at = vcpu.m.now()


def kvm_tdp_mmu_page_fault(vcpu: Vcpu, fault: KvmPageFault) -> int:
    kvm = vcpu.kvm
    if kvm.fn.page_fault_handle_page_track(vcpu, fault):
        return RET_PF_WRITE_PROTECTED
    r: int = kvm.fn.fast_page_fault(vcpu, fault)
    if r != RET_PF_INVALID:
        return r
    r = kvm.fn.mmu_topup_memory_caches(vcpu)
    if r:
        return r
    r = kvm.fn.kvm_mmu_faultin_pfn(vcpu, fault)
    if r != RET_PF_CONTINUE:
        return r
    r = RET_PF_RETRY
    kvm.mmu_lock.read_lock()
    if not kvm.fn.is_page_fault_stale(vcpu, fault):
        r = kvm.fn.kvm_tdp_mmu_map(vcpu, fault)
    kvm.mmu_lock.read_unlock()
    return r


def mmu_topup_memory_caches(vcpu: Vcpu) -> int:
    """The caches are the task's page arena; only their failure is visible."""
    return -ENOMEM if vcpu.kvm.host.allocation_fails() else 0


def kvm_mmu_faultin_pfn(vcpu: Vcpu, fault: KvmPageFault) -> int:
    """Sample the sequence count, then ask the owner for the page (facts 4.5, step 4)."""
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
        return -EAGAIN if fault.prefetch else RET_PF_RETRY
    if fn.mmu_invalidate_retry_gfn_unsafe(kvm, fault.mmu_seq, fault.gfn):
        return RET_PF_RETRY
    r: int = fn.__kvm_mmu_faultin_pfn(vcpu, fault)
    if r != RET_PF_CONTINUE:
        return r
    if fn.mmu_invalidate_retry_gfn_unsafe(kvm, fault.mmu_seq, fault.gfn):
        return RET_PF_RETRY
    return RET_PF_CONTINUE


def __kvm_mmu_faultin_pfn(vcpu: Vcpu, fault: KvmPageFault) -> int:
    """The page: from guest_memfd if private, else from userspace's memory."""
    kvm = vcpu.kvm
    slot = fault.slot
    assert slot is not None
    if fault.is_private:
        if not slot.has_gmem:
            return -EFAULT  # KVM_EXIT_MEMORY_FAULT
        fault.pfn = kvm.fn.kvm_gmem_get_pfn(kvm, slot, fault.gfn)
        if fault.pfn < 0:
            return fault.pfn
        fault.max_level = min(fault.max_level, kvm.fn.kvm_gmem_max_level(slot, fault.gfn))
    else:
        fault.pfn = kvm.host.hva.get_pfn(slot.hva(fault.gfn))
    return RET_PF_CONTINUE


def is_page_fault_stale(vcpu: Vcpu, fault: KvmPageFault) -> bool:
    """Also for private faults the root looked at is the direct one (facts 4.5)."""
    kvm = vcpu.kvm
    root = kvm.mmu_pages[vcpu.root_hpa.v >> 12]
    if root_is_invalid(kvm, root):
        kvm.m.blame(root.invalid)
        kvm.m.reach("a fault found its root invalid")
        return True
    return fault.slot is not None and bool(
        kvm.fn.mmu_invalidate_retry_gfn(kvm, fault.mmu_seq, fault.gfn)
    )


def kvm_mmu_hugepage_adjust(vcpu: Vcpu, fault: KvmPageFault) -> None:
    kvm = vcpu.kvm
    fault.huge_page_disallowed = fault.exec and kvm.features.nx
    fault.req_level = fault.goal_level = PG_LEVEL_4K
    if fault.max_level == PG_LEVEL_4K or fault.slot is None:
        return
    if fault.slot.logged:
        return
    fault.req_level = kvm.fn.kvm_mmu_max_mapping_level(kvm, fault)
    if fault.req_level == PG_LEVEL_4K or fault.huge_page_disallowed:
        return
    fault.goal_level = fault.req_level
    fault.pfn &= -kvm.pages_per_hpage[fault.goal_level]


def kvm_mmu_max_mapping_level(
    kvm: Kvm, fault: KvmPageFault | None, slot: KvmMemorySlot | None = None, gfn: int = 0
) -> int:
    """The largest aligned page inside the slot, and what gmem or the host's page allows;
    ``slot`` and ``gfn`` only where there is no fault."""
    level = kvm.max_hugepage_level
    limit = 0
    is_private = fault is not None and fault.is_private
    if fault is not None:
        slot, gfn, level = fault.slot, fault.gfn, fault.max_level
        limit = kvm.fn.gmem_max_mapping_level(kvm, fault.pfn, fault.is_private)
    assert slot is not None
    level = min(level, slot.max_level, limit or level)
    while level > PG_LEVEL_4K:
        pages = kvm.pages_per_hpage[level]
        start = gfn & -pages
        inside = start in slot and start + pages - 1 in slot
        if lpage_disallowed(kvm, start, pages):
            inside = False
        if not is_private and kvm.host.hva.level(slot.hva(start)) < level:
            inside = False
        if inside and not kvm.fn.hugepage_test_mixed(slot, start, level):
            break
        level -= 1
    return level


def lpage_disallowed(kvm: Kvm, start: int, pages: int) -> bool:
    """disallow_lpage, which a write-tracked GFN sets: written under mmu_lock for write."""
    if not kvm.features.write_tracking:
        return False
    return any(kvm.gfn_write_track(gfn).peek() for gfn in range(start, start + pages))


# --- prefault and build -------------------------------------------------------------------


def kvm_arch_vcpu_pre_fault_memory(vcpu: Vcpu, gpa: int) -> int:
    """KVM_PRE_FAULT_MEMORY, one page; 0 or a negative errno (facts 4.18)."""
    kvm = vcpu.kvm
    if not kvm.pre_fault_allowed.read():
        return -EOPNOTSUPP
    if gpa >> 12 & kvm.gfn_direct_bits:
        return -EINVAL
    r: int = kvm.fn.kvm_mmu_reload(vcpu)
    if r:
        return r
    error_code = PFERR_GUEST_FINAL_MASK
    if kvm.fn.kvm_mem_is_private(kvm, gpa >> 12):
        error_code |= PFERR_PRIVATE_ACCESS
    else:
        gpa |= kvm.gfn_direct_bits << 12
    r = kvm.fn.kvm_tdp_page_prefault(vcpu, gpa, error_code)
    if r < 0:
        return r
    if r in (RET_PF_FIXED, RET_PF_SPURIOUS, RET_PF_WRITE_PROTECTED):
        return 0
    if r == RET_PF_EMULATE:
        return -ENOENT
    WARN_ON(True, kvm, "kvm_arch_vcpu_pre_fault_memory", f"unexpected RET_PF {r}")
    return -EIO


def kvm_tdp_page_prefault(vcpu: Vcpu, gpa: int, error_code: int) -> int:
    vcpu.m.current.blame = {}
    while True:
        if vcpu.signal_pending.v:
            return -EINTR
        if vm_is_dead(vcpu):
            return -EIO
        requests_at = vcpu.m.now()
        r: int = vcpu.kvm.fn.kvm_mmu_do_page_fault(vcpu, gpa, error_code, True)
        if r != RET_PF_RETRY:
            return r
        retry_fault(vcpu, "kvm_tdp_page_prefault", requests_at)


def kvm_tdp_mmu_map_private_pfn(vcpu: Vcpu, gfn: int, pfn: int) -> int:
    """TD build: map a page that guest_memfd has just provided.

    No mmu_invalidate_seq check: slots_lock and the invalidate_lock exclude the rest.
    """
    kvm = vcpu.kvm
    m = kvm.m
    lockdep_assert_held(kvm.slots_lock, "kvm_tdp_mmu_map_private_pfn")
    r: int = kvm.fn.kvm_mmu_reload(vcpu)
    if r:
        return r
    r = kvm.fn.mmu_topup_memory_caches(vcpu)
    if r:
        return r
    error_code = PFERR_GUEST_FINAL_MASK | PFERR_PRIVATE_ACCESS
    fault = make_fault(vcpu, gfn << 12, error_code, True)
    fault.max_level = PG_LEVEL_4K
    fault.pfn = pfn
    find_slot(vcpu, fault)
    m.current.blame = {}
    while True:
        if vcpu.signal_pending.v:
            return -EINTR
        if vm_is_dead(vcpu):
            return -EIO
        requests_at = m.now()
        kvm.mmu_lock.read_lock()
        r = kvm.fn.kvm_tdp_mmu_map(vcpu, fault)
        kvm.mmu_lock.read_unlock()
        if r != RET_PF_RETRY:
            break
        retry_fault(vcpu, "kvm_tdp_mmu_map_private_pfn", requests_at)
    return 0 if r == RET_PF_FIXED else -EIO


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        __kvm_mmu_faultin_pfn,
        is_page_fault_stale,
        kvm_arch_vcpu_pre_fault_memory,
        kvm_mmu_do_page_fault,
        kvm_mmu_faultin_pfn,
        kvm_mmu_hugepage_adjust,
        kvm_mmu_max_mapping_level,
        kvm_mmu_page_fault,
        kvm_tdp_mmu_map_private_pfn,
        kvm_tdp_mmu_page_fault,
        kvm_tdp_page_prefault,
        mmu_topup_memory_caches,
    )
}
