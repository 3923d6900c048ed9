# SPDX-License-Identifier: GPL-2.0-only
"""guest_memfd: pages of a TD's private memory, and taking them back.

Follows ``virt/kvm/guest_memfd.c`` (facts/kvm-tdp-mmu.md 4.7, 5.5).  A hole is: the file's
invalidate_lock; every binding in the range is unmapped under one mmu_lock section with one
start; the pages leave the page cache and go back to the host; a second section with end.
Bindings cannot change in between, so start and end are balanced.

``start`` and ``end`` are indices in the file.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EEXIST, EFAULT, EINVAL, EIO
from typing import Any, Final

from septum.kvm.bug import WARN_ON
from septum.kvm.memslots import gfn_to_memslot
from septum.kvm.roots import KVM_FILTER_PRIVATE, KVM_FILTER_SHARED
from septum.kvm.slot_structs import GmemFile
from septum.kvm.structs import Kvm, KvmMemorySlot, Vcpu
from septum.kvm.zap import KvmGfnRange

__all__ = ["FUNCTIONS"]


# --- invalidation -------------------------------------------------------------------------


def kvm_gmem_get_invalidate_filter(kvm: Kvm, file: GmemFile) -> int:
    """The side that the file's pages are mapped on: shared iff its memory begins shared,
    which a VM with private memory does not support."""
    return KVM_FILTER_SHARED if file.init_shared else KVM_FILTER_PRIVATE


def kvm_gmem_invalidate_start(kvm: Kvm, file: GmemFile, start: int, end: int) -> None:
    """mmu_lock is taken when the first binding is found; the slots of bindings exist as
    long as they are bound."""
    flush = found_memslot = False
    attr_filter = kvm.fn.kvm_gmem_get_invalidate_filter(kvm, file)
    for first, last, slot in file.bound(start, end):
        if not found_memslot:
            found_memslot = True
            kvm.mmu_lock.write_lock()
            kvm.fn.kvm_mmu_invalidate_start(kvm)
        offset = slot.base_gfn - slot.pgoff
        range_ = KvmGfnRange(slot, first + offset, last + offset, attr_filter)
        flush |= kvm.fn.kvm_mmu_unmap_gfn_range(kvm, range_)
    if flush:
        kvm.fn.kvm_flush_remote_tlbs(kvm)
    if found_memslot:
        kvm.mmu_lock.write_unlock()


def kvm_gmem_invalidate_end(kvm: Kvm, file: GmemFile, start: int, end: int) -> None:
    if file.bound(start, end):
        kvm.mmu_lock.write_lock()
        kvm.fn.kvm_mmu_invalidate_end(kvm)
        kvm.mmu_lock.write_unlock()


def kvm_gmem_punch_hole(kvm: Kvm, file: GmemFile, start: int, end: int) -> None:
    """fallocate(PUNCH_HOLE): unmap, give the pages back, end (facts 5.5)."""
    file.invalidate_lock.lock()
    kvm.fn.kvm_gmem_invalidate_start(kvm, file, start, end)
    kvm.fn.truncate_inode_pages_range(kvm, file, start, end)
    kvm.fn.kvm_gmem_invalidate_end(kvm, file, start, end)
    file.invalidate_lock.unlock()


def truncate_inode_pages_range(kvm: Kvm, file: GmemFile, start: int, end: int) -> None:
    """The pages leave the page cache; the host has them again."""
    kvm.m.emit("handed_over")
    for index in range(start, end):
        file.cache.truncate(index)


def kvm_gmem_release(kvm: Kvm, file: GmemFile) -> None:
    """The last reference to the file is gone: unmap all of it, without truncation; the
    pages go with the inode."""
    kvm.slots_lock.lock()
    file.invalidate_lock.lock()
    for _, _, slot in file.bound(0, file.size):
        slot.arch.gmem_file.write(None)
    kvm.fn.kvm_gmem_invalidate_start(kvm, file, 0, file.size)
    kvm.fn.kvm_gmem_invalidate_end(kvm, file, 0, file.size)
    file.invalidate_lock.unlock()
    kvm.slots_lock.unlock()
    file.bindings.poke(())
    kvm.fn.kvm_put_kvm(kvm, file.user)


# --- bindings -----------------------------------------------------------------------------


def kvm_gmem_commit_memory_region(kvm: Kvm, slot: KvmMemorySlot) -> int:
    """Bind a new slot; -EEXIST if a part of the range is bound."""
    file: GmemFile = slot.arch.gmem_file.v  # not visible yet
    start, end = slot.pgoff, slot.pgoff + slot.npages
    file.invalidate_lock.lock()
    ret = -EEXIST if file.bound(start, end) else 0
    if not ret:
        file.bindings.poke((*file.bindings.peek(), (start, end, slot)))
    file.invalidate_lock.unlock()
    return ret


def kvm_gmem_unbind(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """synchronize_srcu() made sure that kvm_gmem_get_pfn() cannot see the slot."""
    file: GmemFile | None = slot.arch.gmem_file.peek()
    if file is None:
        return  # the file was released
    file.invalidate_lock.lock()
    file.bindings.poke(tuple(b for b in file.bindings.peek() if b[2] != slot))
    slot.arch.gmem_file.write(None)
    file.invalidate_lock.unlock()


# --- pages --------------------------------------------------------------------------------


def kvm_gmem_get_pfn(kvm: Kvm, slot: KvmMemorySlot, gfn: int) -> int:
    """The page's PFN, or a negative errno.  The looks at slot->gmem.file, at the binding
    and at the page cache are one step (docs/fidelity.md)."""
    index = slot.index(gfn)
    file: GmemFile | None = slot.arch.gmem_file.v
    if file is None:
        return -EFAULT
    with kvm.m.step("kvm_gmem_get_pfn", file.cache.entry_name(index)):
        if slot.arch.gmem_file.peek() is None:
            return -EFAULT
        if (index, index + 1, slot) not in file.bound(index, index + 1):
            WARN_ON(True, kvm, "__kvm_gmem_get_pfn", "the slot is not bound to the page")
            return -EIO
        return file.cache.get_pfn(index)


def kvm_gmem_max_level(slot: KvmMemorySlot, gfn: int) -> int:
    """kvm_max_level_for_order() of the max_order that kvm_gmem_get_pfn() found; no point."""
    file: GmemFile | None = slot.arch.gmem_file.v
    return 1 if file is None else file.cache.level(slot.index(gfn))


def kvm_gmem_populate(vcpu: Vcpu, gfn: int, measure: bool) -> int:
    """One page: source and target, then the vendor's callback.  slots_lock is held."""
    kvm = vcpu.kvm
    slot = gfn_to_memslot(kvm.slots, gfn)
    if slot is None or not slot.has_gmem:
        return -EINVAL
    file: GmemFile | None = slot.arch.gmem_file.peek()
    if file is None:
        return -EFAULT
    src = kvm.host.hva.get_pfn(slot.hva(gfn))
    return int(kvm.fn.__kvm_gmem_populate(vcpu, slot, file, gfn, src, measure))


def __kvm_gmem_populate(
    vcpu: Vcpu, slot: KvmMemorySlot, file: GmemFile, gfn: int, src: int, measure: bool
) -> int:
    """The callback, under the lock that keeps the page in the file."""
    kvm = vcpu.kvm
    file.invalidate_lock.lock()
    ret: int = kvm.fn.kvm_gmem_get_pfn(kvm, slot, gfn)
    if ret >= 0:
        pfn = ret
        if kvm.fn.kvm_mem_is_private(kvm, gfn):
            ret = int(kvm.fn.tdx_gmem_post_populate(vcpu, gfn, pfn, src, measure))
        else:
            ret = -EINVAL
    file.invalidate_lock.unlock()
    return ret


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        __kvm_gmem_populate,
        kvm_gmem_commit_memory_region,
        kvm_gmem_get_invalidate_filter,
        kvm_gmem_get_pfn,
        kvm_gmem_invalidate_end,
        kvm_gmem_invalidate_start,
        kvm_gmem_max_level,
        kvm_gmem_populate,
        kvm_gmem_punch_hole,
        kvm_gmem_release,
        kvm_gmem_unbind,
        truncate_inode_pages_range,
    )
}
