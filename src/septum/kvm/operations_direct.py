# SPDX-License-Identifier: GPL-2.0-only
"""Direct roots: the part of the scenarios' vocabulary for what only they have.

As in `septum.kvm.operations`: one entry point per ioctl, notifier or kernel thread, locks
included.  GFNs carry no shared bit; in a TD they mean the shared half.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from septum.kvm.guest import GuestOp
from septum.kvm.memslots import gfn_to_memslot, id_to_memslot
from septum.kvm.operations import root_of
from septum.kvm.roots import KVM_FILTER_SHARED
from septum.kvm.structs import Kvm, KvmMemorySlot
from septum.kvm.tdp_iter import for_each_tdp_pte
from septum.kvm.vmx import guest_access
from septum.kvm.zap import KvmGfnRange

__all__ = ["DIRECT_OPERATIONS", "DIRECT_VCPU_OPERATIONS"]


# --- vCPUs --------------------------------------------------------------------------------


def access(kvm: Kvm, vcpu: int, gfn: int, kind: str = "write") -> int:
    """An access (``read``, ``write`` or ``fetch``), with the faults that it takes, of a vCPU
    that is outside guest mode otherwise."""
    return guest_access(kvm.vcpus[vcpu], GuestOp(kind, gfn | kvm.gfn_direct_bits))


# --- host ---------------------------------------------------------------------------------


def _slot(kvm: Kvm, number: int) -> KvmMemorySlot:
    slot = id_to_memslot(kvm.slots, number)
    if slot is None:
        raise LookupError(f"there is no memslot {number}")
    return slot


def test_age(kvm: Kvm, start: int, end: int) -> bool:
    """An MMU notifier's test_young: has anything in the range been accessed?"""
    young = False
    for slot in kvm.memslots.read():
        first, last = max(start, slot.base_gfn), min(end, slot.base_gfn + slot.npages)
        if first < last:
            range_ = KvmGfnRange(slot, first, last, KVM_FILTER_SHARED)
            young |= kvm.fn.kvm_tdp_mmu_age_gfn_range(kvm, range_, True)
    return young


def log_dirty(kvm: Kvm, on: int, slot: int = 0) -> None:
    """KVM_SET_USER_MEMORY_REGION that sets or clears KVM_MEM_LOG_DIRTY_PAGES."""
    kvm.fn.kvm_set_log_dirty(kvm, slot, bool(on))


def get_dirty(kvm: Kvm, slot: int = 0) -> int:
    """KVM_GET_DIRTY_LOG; the bitmap."""
    kvm.slots_lock.lock()
    bitmap: int = kvm.fn.kvm_get_dirty_log_protect(kvm, _slot(kvm, slot))
    kvm.slots_lock.unlock()
    return bitmap


def clear_dirty(kvm: Kvm, mask: int, slot: int = 0) -> int:
    """KVM_CLEAR_DIRTY_LOG of the pages in ``mask``."""
    kvm.slots_lock.lock()
    cleared: int = kvm.fn.kvm_clear_dirty_log_protect(kvm, _slot(kvm, slot), mask)
    kvm.slots_lock.unlock()
    return cleared


def write_track(kvm: Kvm, gfn: int) -> None:
    """A page-track user write-protects a GFN."""
    slot = gfn_to_memslot(kvm.slots, gfn)
    assert slot is not None
    kvm.fn.kvm_write_track_add_gfn(kvm, slot, gfn)


def recover_nx(kvm: Kvm) -> None:
    """One round of the NX huge page recovery worker."""
    kvm.fn.kvm_recover_nx_huge_pages(kvm)


def unlist_nx(kvm: Kvm) -> None:
    """What a round of the NX recovery worker does to its tables, but for the zap: for start
    states with tables that a fault may replace."""
    for pfn in kvm.possible_nx_huge_pages.v:
        kvm.fn.unaccount_nx_huge_page(kvm, kvm.mmu_pages[pfn])


def zap_all_fast(kvm: Kvm) -> None:
    """kvm_mmu_zap_all_fast(), as by a change of the nx_huge_pages parameter."""
    kvm.slots_lock.lock()
    kvm.fn.kvm_mmu_zap_all_fast(kvm)
    kvm.slots_lock.unlock()


def zap_root(kvm: Kvm) -> None:
    """tdp_mmu_zap_root() of the direct root under mmu_lock held for read.  *Tripwire*: in
    7.3 a root that is zapped so is invalid, so that no fault meets the zap in it."""
    kvm.mmu_lock.read_lock()
    kvm.fn.tdp_mmu_zap_root(kvm, root_of(kvm, False), True)
    kvm.fn.kvm_flush_remote_tlbs(kvm)
    kvm.mmu_lock.read_unlock()


def walk_direct(kvm: Kvm, gfn: int) -> None:
    """A reader that holds nothing but RCU walks the direct root down to ``gfn``."""
    kvm.rcu.read_lock()
    for _ in for_each_tdp_pte(kvm, root_of(kvm, False), gfn, gfn + 1):
        pass
    kvm.rcu.read_unlock()


DIRECT_VCPU_OPERATIONS: Final[dict[str, Callable[..., Any]]] = {"access": access}

DIRECT_OPERATIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        clear_dirty,
        get_dirty,
        log_dirty,
        recover_nx,
        test_age,
        unlist_nx,
        walk_direct,
        write_track,
        zap_all_fast,
        zap_root,
    )
}
