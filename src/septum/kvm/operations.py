# SPDX-License-Identifier: GPL-2.0-only
"""The MMU's part of the scenarios' vocabulary: one entry point per operation.

Each takes the VM and plain parameters (vCPU number, GFNs, levels) and does what the
ioctl, exit handler or kernel thread does, locks included.  GFNs carry no shared bit.
Operations marked *tripwire* do what no caller in 7.3 does; they exist to see what stops
them.  `OPERATIONS` maps the vocabulary's names to these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EBUSY, EIO
from typing import Any, Final

from septum.kvm.bug import goto_retry
from septum.kvm.memslots import id_to_memslot
from septum.kvm.mmu import vm_is_dead
from septum.kvm.ret_pf import RET_PF_FIXED, RET_PF_RETRY
from septum.kvm.roots import (
    KVM_DIRECT_ROOTS,
    KVM_FILTER_PRIVATE,
    KVM_FILTER_SHARED,
    KVM_MIRROR_ROOTS,
    for_each_tdp_mmu_root,
)
from septum.kvm.slot_structs import GmemFile
from septum.kvm.spte import PG_LEVEL_2M, PG_LEVEL_4K, is_last_spte, spte_to_pfn, sptep_to_sp
from septum.kvm.structs import (
    INVALID_PAGE,
    KVM_MEMORY_ATTRIBUTE_PRIVATE,
    Kvm,
    KvmMmuPage,
)
from septum.kvm.tdp_iter import TdpIter
from septum.kvm.tdp_mmu import lock, trace_kvm_tdp_mmu_spte_changed, unlock
from septum.kvm.zap import KvmGfnRange

__all__ = ["OPERATIONS", "force_huge_leaf", "root_of"]

EPT_VIOLATION_ACC_WRITE: Final = 1 << 1


def root_of(kvm: Kvm, mirror: bool) -> KvmMmuPage:
    """The (only) valid root of a kind."""
    types = KVM_MIRROR_ROOTS if mirror else KVM_DIRECT_ROOTS
    return next(iter(for_each_tdp_mmu_root(kvm, -1, types)))


@contextmanager
def removing(kvm: Kvm, *ranges: tuple[int, int]) -> Iterator[None]:
    """Tells the monitors which private GFNs the operation is there to remove."""
    kvm.m.emit("may_remove", ranges)
    yield
    kvm.m.emit("may_remove", ())


def _bound_gfns(file: GmemFile, start: int, end: int) -> list[tuple[int, int]]:
    """Where the pages [start, end) of a file are mapped."""
    clipped = ((max(start, b[0]), min(end, b[1]), b[2]) for b in file.bindings.v)
    return [(a + s.base_gfn - s.pgoff, b + s.base_gfn - s.pgoff) for a, b, s in clipped if a < b]


# --- faults -----------------------------------------------------------------------------


def load(kvm: Kvm, vcpu: int) -> int:
    """kvm_mmu_load(): the vCPU gets its roots."""
    return int(kvm.fn.kvm_mmu_reload(kvm.vcpus[vcpu]))


def fault(kvm: Kvm, vcpu: int, gfn: int, shared: bool = False) -> int:
    """A write fault of the guest, as often as it takes; RET_PF code or errno.

    As in ``vcpu_run`` without the guest: SRCU is dropped between rounds.
    """
    v = kvm.vcpus[vcpu]
    gpa = (gfn | kvm.gfn_direct_bits if shared else gfn) << 12
    while True:
        token = kvm.srcu.read_lock()
        root: int = v.root_hpa.v
        if root != INVALID_PAGE and kvm.mmu_pages[root >> 12].invalid.peek():
            kvm.fn.kvm_handle_requests(v)  # KVM_REQ_MMU_FREE_OBSOLETE_ROOTS
        r: int = kvm.fn.kvm_mmu_reload(v)
        if not r:
            r = kvm.fn.tdx_ept_violation_loop(v, gpa, EPT_VIOLATION_ACC_WRITE, not shared)
        kvm.srcu.read_unlock(token)
        if r != RET_PF_RETRY:
            return r
        if vm_is_dead(v):
            return -EIO
        slot = kvm.fn.kvm_vcpu_gfn_to_memslot(v, gfn)
        if slot is not None and slot.invalid:
            kvm.m.current.blame.setdefault(kvm.memslots, kvm.m.now())
        kvm.m.retry("fault")


def prefault(kvm: Kvm, vcpu: int, gfn: int) -> int:
    """KVM_PRE_FAULT_MEMORY for one page."""
    v = kvm.vcpus[vcpu]
    v.mutex.lock()
    token = kvm.srcu.read_lock()
    r: int = kvm.fn.kvm_arch_vcpu_pre_fault_memory(v, gfn << 12)
    kvm.srcu.read_unlock(token)
    v.mutex.unlock()
    return r


# --- taking mappings away -----------------------------------------------------------------


def zap_range(kvm: Kvm, start: int, end: int) -> None:
    """kvm_zap_gfn_range(): leafs of all valid roots, the mirror's too."""
    with removing(kvm, (start, end)):
        kvm.fn.kvm_zap_gfn_range(kvm, start, end)


def zap_leafs(kvm: Kvm, start: int, end: int) -> None:
    """Only the zap itself, as inside an invalidation: write lock, zap, flush, unlock."""
    with removing(kvm, (start, end)):
        kvm.mmu_lock.write_lock()
        if kvm.fn.kvm_tdp_mmu_zap_leafs(kvm, start, end, False):
            kvm.fn.kvm_flush_remote_tlbs(kvm)
        kvm.mmu_lock.write_unlock()
        kvm.m.emit("handed_over")


def punch_hole(kvm: Kvm, start: int, end: int, file: int = 0) -> None:
    """fallocate(FALLOC_FL_PUNCH_HOLE) on a guest_memfd file."""
    gmem = kvm.gmem_files[file]
    with removing(kvm, *_bound_gfns(gmem, start, end)):
        kvm.fn.kvm_gmem_punch_hole(kvm, gmem, start, end)


def release_gmem(kvm: Kvm) -> None:
    """The last reference to each guest_memfd file is dropped."""
    for file in kvm.gmem_files:
        with removing(kvm, *_bound_gfns(file, 0, file.size)):
            kvm.fn.kvm_gmem_release(kvm, file)


def unmap_hva(kvm: Kvm, start: int, end: int) -> None:
    """userspace's pages [start, end) are unmapped and freed, between the MMU notifier's
    start and end."""
    kvm.fn.kvm_mmu_notifier_invalidate_range_start(kvm, start, end)
    for page in range(start, end):
        kvm.host.hva.truncate(page)
    kvm.fn.kvm_mmu_notifier_invalidate_range_end(kvm, start, end)


def set_attributes(kvm: Kvm, start: int, end: int, private: bool) -> int:
    """KVM_SET_MEMORY_ATTRIBUTES."""
    attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE if private else 0
    with removing(kvm, *(() if private else ((start, end),))):
        return int(kvm.fn.kvm_vm_set_mem_attributes(kvm, start, end, attributes))


def delete_slot(kvm: Kvm, slot: int = 0) -> None:
    """KVM_SET_USER_MEMORY_REGION with size 0."""
    old = id_to_memslot(kvm.memslots.v, slot)
    gone = () if old is None else ((old.base_gfn, old.base_gfn + old.npages),)
    with removing(kvm, *gone):
        kvm.fn.kvm_vm_ioctl_set_memory_region(kvm, slot, 0, 0)


def move_slot(kvm: Kvm, slot: int, base_gfn: int) -> int:
    """KVM_SET_USER_MEMORY_REGION with another address (never with guest_memfd)."""
    old = id_to_memslot(kvm.slots, slot)
    npages = 0 if old is None else old.npages
    return int(kvm.fn.kvm_vm_ioctl_set_memory_region(kvm, slot, base_gfn, npages))


def create_slot(kvm: Kvm, slot: int, base_gfn: int, npages: int, gmem: int = -1) -> int:
    """KVM_SET_USER_MEMORY_REGION of a new slot; ``gmem`` is a file's number or -1."""
    return int(kvm.fn.kvm_vm_ioctl_set_memory_region(kvm, slot, base_gfn, npages, gmem))


def zap_table(
    kvm: Kvm, gfn: int, level: int = PG_LEVEL_2M, mirror: bool = True, shared: bool = False
) -> None:
    """Zap the entry of ``level`` with all below it, as a pass of zap_root does.  While the
    TD's keys are configured, *tripwire* on a mirror root."""
    pages = kvm.pages_per_hpage[level]
    with removing(kvm, (gfn & -pages, (gfn & -pages) + pages)):
        _retried(kvm, kvm.fn.tdp_mmu_zap_table, gfn, level, mirror, shared)


# --- changing the page size -----------------------------------------------------------------


def split(kvm: Kvm, start: int, end: int, level: int = PG_LEVEL_4K, shared: bool = False) -> None:
    """Eager split down to ``level``, all valid roots.  *Tripwire* on a mirror leaf."""
    lock(kvm, shared)
    for slot in kvm.slots:
        first, last = max(start, slot.base_gfn), min(end, slot.base_gfn + slot.npages)
        if first < last:
            kvm.fn.kvm_tdp_mmu_try_split_huge_pages(kvm, slot, first, last, level, shared)
    unlock(kvm, shared)


def merge(
    kvm: Kvm, gfn: int, level: int = PG_LEVEL_2M, mirror: bool = True, shared: bool = False
) -> None:
    """Table -> huge leaf.  *Tripwire* on a mirror root, and under the write lock."""
    _retried(kvm, kvm.fn.tdp_mmu_merge_table, gfn, level, mirror, shared)


def _retried(
    kvm: Kvm, change: Callable[..., int], gfn: int, level: int, mirror: bool, shared: bool
) -> None:
    """``change`` one entry; -EBUSY is retried.  Flush before mmu_lock is dropped."""
    lock(kvm, shared)
    root = root_of(kvm, mirror)
    failures = 0
    while change(kvm, root, gfn, level, shared) == -EBUSY:
        failures = goto_retry(kvm, change.__name__, failures)
    kvm.fn.kvm_flush_remote_tlbs(kvm)
    unlock(kvm, shared)


def force_huge_leaf(kvm: Kvm, vcpu: int, gfn: int, level: int = PG_LEVEL_2M) -> int:
    """A huge mirror leaf where the design has none, for start states only.

    The fault path runs with the level limits lifted; the leaf itself goes past the
    design's hooks: TDH.MEM.PAGE.AUG, then the store and the statistics.
    """
    fn = kvm.fn
    regular = fn.tdp_mmu_set_spte_atomic
    limit = fn.kvm_mmu_max_mapping_level
    gmem = kvm.host.gmem
    folio_level = gmem.folio_level

    def tdp_mmu_set_spte_atomic(kvm: Kvm, iter: TdpIter, new_spte: int) -> int:
        if not is_last_spte(new_spte, iter.level):
            return int(regular(kvm, iter, new_spte))
        result = fn.tdh_mem_page_aug(kvm, iter.gfn, iter.level, spte_to_pfn(new_spte))
        if result.rax:
            return -EIO
        iter.sptep.write(new_spte)
        sp = sptep_to_sp(iter.sptep)
        trace_kvm_tdp_mmu_spte_changed(kvm, sp, iter.gfn, iter.level, iter.old_spte, new_spte)
        fn.kvm_update_page_stats(kvm, iter.level, 1)
        return 0

    fn.tdp_mmu_set_spte_atomic = tdp_mmu_set_spte_atomic
    fn.kvm_mmu_max_mapping_level = lambda kvm, fault: level
    gmem.folio_level = level
    try:
        r = fault(kvm, vcpu, gfn)
    finally:
        fn.tdp_mmu_set_spte_atomic = regular
        fn.kvm_mmu_max_mapping_level = limit
        gmem.folio_level = folio_level
    return 0 if r == RET_PF_FIXED else r


# --- ageing and teardown ----------------------------------------------------------------------


def age(kvm: Kvm, start: int, end: int, private: bool = False) -> bool:
    """An MMU notifier's clear_flush_young; ``private`` would be a *tripwire*."""
    attr_filter = KVM_FILTER_PRIVATE if private else KVM_FILTER_SHARED
    young = False
    for slot in kvm.slots:
        first, last = max(start, slot.base_gfn), min(end, slot.base_gfn + slot.npages)
        if first < last:
            range_ = KvmGfnRange(slot, first, last, attr_filter)
            young |= kvm.fn.kvm_tdp_mmu_age_gfn_range(kvm, range_)
    return young


def close_gmem(kvm: Kvm, file: int = 0) -> None:
    """The last reference to a guest_memfd file goes: release, then the inode's pages."""
    gmem = kvm.gmem_files[file]
    if gmem.user in kvm.users.peek():
        with removing(kvm, *_bound_gfns(gmem, 0, gmem.size)):
            kvm.fn.kvm_gmem_release(kvm, gmem)
    kvm.fn.truncate_inode_pages_range(kvm, gmem, 0, gmem.size)


def close_vm(kvm: Kvm) -> None:
    """The VM's file is closed; the VM goes if nothing else pins it."""
    kvm.fn.kvm_put_kvm(kvm, "vm")


def close_vcpu(kvm: Kvm, vcpu: int) -> None:
    """The vCPU's file is closed."""
    kvm.fn.kvm_put_kvm(kvm, kvm.vcpus[vcpu].name)


def teardown(kvm: Kvm) -> None:
    """userspace's main thread exits: guest_memfd files, then the VM.  The VM itself goes
    with the last vCPU's file, if a vCPU's thread still has one (`close_vcpu`)."""
    for file in kvm.gmem_files:
        close_gmem(kvm, file.number)
    close_vm(kvm)


def destroy_vm(kvm: Kvm) -> None:
    """Everything that is still open is closed."""
    for file in kvm.gmem_files:
        close_gmem(kvm, file.number)
    for user in sorted(kvm.users.peek()):
        kvm.fn.kvm_put_kvm(kvm, user)


def destroy_mmu(kvm: Kvm) -> None:
    """The MMU's part of kvm_destroy_vm(): vCPUs drop their roots, then every table goes.
    The TD's keys must be gone."""
    for v in kvm.vcpus:
        kvm.fn.kvm_mmu_destroy(v)
    kvm.fn.kvm_mmu_uninit_tdp_mmu(kvm)


OPERATIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        age,
        close_gmem,
        close_vcpu,
        close_vm,
        create_slot,
        delete_slot,
        destroy_mmu,
        destroy_vm,
        fault,
        load,
        merge,
        move_slot,
        prefault,
        punch_hole,
        release_gmem,
        set_attributes,
        split,
        teardown,
        unmap_hva,
        zap_leafs,
        zap_range,
        zap_table,
    )
}
