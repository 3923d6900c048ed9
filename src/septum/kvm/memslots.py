# SPDX-License-Identifier: GPL-2.0-only
"""KVM_SET_USER_MEMORY_REGION: creating, deleting and moving memslots.

Follows ``virt/kvm/kvm_main.c`` (facts/kvm-tdp-mmu.md 4.10, 4.11, 5.4).  Deleting or moving
first replaces the slot by an INVALID copy: the pointer to the set is swapped,
synchronize_srcu() waits for everybody who may have found the valid one, then the slot is
unmapped; a second swap removes (or moves) it.

The kernel keeps two sets and edits the one that is not active, which slots_lock and
slots_arch_lock make invisible; here the new set is computed and published by the same
single store.  A swap waits until no MMU notifier is between its start and its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import EEXIST, EINVAL
from typing import Any, Final

from septum.kvm.bug import WARN_ON, lockdep_assert_held
from septum.kvm.roots import KVM_FILTER_PRIVATE, KVM_FILTER_SHARED
from septum.kvm.slot_structs import KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS
from septum.kvm.spte import MMIO_SPTE_GEN_MASK
from septum.kvm.structs import (
    KVM_MEM_GUEST_MEMFD,
    KVM_MEMSLOT_INVALID,
    KVM_X86_DEFAULT_VM,
    Kvm,
    KvmMemorySlot,
    Vcpu,
)
from septum.kvm.zap import KvmGfnRange
from septum.machine import wait_until

__all__ = ["FUNCTIONS", "Slots", "gfn_to_memslot", "id_to_memslot"]

Slots = tuple[KvmMemorySlot, ...]


# --- looking slots up ---------------------------------------------------------------------


def gfn_to_memslot(slots: Slots, gfn: int) -> KvmMemorySlot | None:
    return next((slot for slot in slots if gfn in slot), None)


def id_to_memslot(slots: Slots, number: int) -> KvmMemorySlot | None:
    return next((slot for slot in slots if slot.id == number), None)


def kvm_vcpu_gfn_to_memslot(vcpu: Vcpu, gfn: int) -> KvmMemorySlot | None:
    """Through kvm->memslots, one point; the caller holds SRCU (or slots_lock)."""
    return gfn_to_memslot(vcpu.kvm.memslots.read(), gfn)


# --- swapping the sets --------------------------------------------------------------------


def kvm_replace_memslot(
    slots: Slots, old: KvmMemorySlot | None, new: KvmMemorySlot | None
) -> Slots:
    """The set with ``old`` taken out and ``new`` put in; either may be None."""
    kept = [slot for slot in slots if slot is not old]
    return tuple(sorted(kept if new is None else [*kept, new], key=lambda slot: slot.base_gfn))


def kvm_swap_active_memslots(kvm: Kvm, slots: Slots) -> None:
    """Publish the set, let slots_arch_lock go, wait for readers, set the generation."""
    generation = kvm.memslots_generation
    gen: int = generation.v  # written here only, under slots_lock
    WARN_ON(
        gen & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS,
        kvm,
        "kvm_swap_active_memslots",
        "an update is in progress",
    )
    kvm.fn.kvm_wait_for_mn_invalidate(kvm)
    with kvm.m.step("swap memslots", kvm.memslots.name):
        kvm.memslots.poke(slots)
        generation.poke(gen | KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS)
    kvm.mn_invalidate_lock.unlock()
    kvm.slots_arch_lock.unlock()
    kvm.srcu.synchronize()
    # A TD has one address space (facts 2.3), so the generation goes up by one.
    kvm.fn.kvm_arch_memslots_updated(kvm, gen + 1)
    generation.write(gen + 1)


def kvm_arch_memslots_updated(kvm: Kvm, gen: int) -> None:
    """kvm_mmu_invalidate_mmio_sptes(): a generation of which no bit is left in an MMIO SPTE
    zaps all of them."""
    if not gen & MMIO_SPTE_GEN_MASK:
        kvm.fn.kvm_mmu_zap_all_fast(kvm)


def kvm_wait_for_mn_invalidate(kvm: Kvm) -> None:
    """The wait of kvm_swap_active_memslots(): returns with mn_invalidate_lock held and no
    notifier between its start and its end."""
    kvm.mn_invalidate_lock.lock()
    count = kvm.mn_active_invalidate_count
    while count.peek():
        kvm.m.reach("a slot swap waited for a notifier")
        kvm.mn_invalidate_lock.unlock()
        wait_until(count, lambda n: not n, "wait for mn_active_invalidate_count")
        kvm.mn_invalidate_lock.lock()


# --- the changes --------------------------------------------------------------------------


def kvm_invalidate_memslot(kvm: Kvm, old: KvmMemorySlot) -> KvmMemorySlot:
    """The INVALID copy becomes active, then the slot is unmapped."""
    invalid_slot = replace(old, flags=old.flags | KVM_MEMSLOT_INVALID)
    slots = kvm_replace_memslot(kvm.slots, old, invalid_slot)
    kvm.fn.kvm_swap_active_memslots(kvm, slots)
    kvm.fn.kvm_arch_flush_shadow_memslot(kvm, old)
    kvm.slots_arch_lock.lock()
    return invalid_slot


def kvm_arch_flush_shadow_memslot(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """Unmap both sides of the slot; all of an ordinary VM, fast, unless userspace has disabled
    KVM_X86_QUIRK_SLOT_ZAP_ALL (facts 4.10).

    No start and end: slots_lock is held, and whoever found the valid slot is gone."""
    fn = kvm.fn
    if kvm.vm_type == KVM_X86_DEFAULT_VM and kvm.features.slot_zap_all:
        fn.kvm_mmu_zap_all_fast(kvm)
        return
    range_ = KvmGfnRange(
        slot, slot.base_gfn, slot.base_gfn + slot.npages, KVM_FILTER_PRIVATE | KVM_FILTER_SHARED
    )
    kvm.mmu_lock.write_lock()
    if fn.kvm_unmap_gfn_range(kvm, range_):
        fn.kvm_flush_remote_tlbs(kvm)
    kvm.mmu_lock.write_unlock()


def kvm_activate_memslot(kvm: Kvm, old: KvmMemorySlot | None, new: KvmMemorySlot | None) -> None:
    """Create, delete, move or replace: one swap."""
    kvm.fn.kvm_swap_active_memslots(kvm, kvm_replace_memslot(kvm.slots, old, new))


def kvm_set_memslot(kvm: Kvm, old: KvmMemorySlot | None, new: KvmMemorySlot | None) -> int:
    """``old`` None: create; ``new`` None: delete; another GFN: move; else flags only."""
    fn = kvm.fn
    active = old
    kvm.slots_arch_lock.lock()
    if old is not None and (new is None or new.base_gfn != old.base_gfn):
        active = fn.kvm_invalidate_memslot(kvm, old)
    if old is None and new is not None and new.has_gmem:
        ret: int = fn.kvm_gmem_commit_memory_region(kvm, new)
        if ret:
            kvm.slots_arch_lock.unlock()
            return ret
    fn.kvm_activate_memslot(kvm, active, new)
    fn.kvm_commit_memory_region(kvm, old, new)
    return 0


def kvm_commit_memory_region(
    kvm: Kvm, old: KvmMemorySlot | None, new: KvmMemorySlot | None
) -> None:
    kvm.fn.kvm_arch_commit_memory_region(kvm, old, new)
    if new is None and old is not None:
        kvm.fn.kvm_free_memslot(kvm, old)


def kvm_arch_commit_memory_region(
    kvm: Kvm, old: KvmMemorySlot | None, new: KvmMemorySlot | None
) -> None:
    """Dirty logging is switched here; guest_memfd slots cannot have it (facts 4.14)."""
    if old is not None and new is not None and old.base_gfn == new.base_gfn:
        kvm.fn.kvm_mmu_slot_apply_flags(kvm, old, new)


def kvm_free_memslot(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """The file is unbound, its pages stay (facts 4.11)."""
    if slot.has_gmem:
        kvm.fn.kvm_gmem_unbind(kvm, slot)


def kvm_set_memory_region(kvm: Kvm, number: int, base_gfn: int, npages: int, gmem: int) -> int:
    """``npages`` 0 deletes; ``gmem`` is the file's number, -1 for none.  slots_lock held."""
    lockdep_assert_held(kvm.slots_lock, "kvm_set_memory_region")
    slots = kvm.slots
    old = id_to_memslot(slots, number)
    if not npages:
        return -EINVAL if old is None else int(kvm.fn.kvm_set_memslot(kvm, old, None))
    if old is not None and (gmem >= 0 or old.has_gmem or old.npages != npages):
        return -EINVAL  # a slot with guest_memfd can only be deleted
    if old is not None and old.base_gfn == base_gfn:
        return 0
    if any(
        s.base_gfn < base_gfn + npages
        and base_gfn in range(s.base_gfn - npages + 1, s.base_gfn + s.npages)
        for s in slots
        if s.id != number
    ):
        return -EEXIST
    if old is not None:
        new = replace(old, base_gfn=base_gfn)
    else:
        arch = kvm.slot_arch(number)
        flags = 0
        if gmem >= 0:
            flags = KVM_MEM_GUEST_MEMFD
            arch.gmem_file.init(kvm.gmem_files[gmem])
        new = KvmMemorySlot(number, base_gfn, npages, flags, base_gfn, base_gfn, arch=arch)
    return int(kvm.fn.kvm_set_memslot(kvm, old, new))


def kvm_vm_ioctl_set_memory_region(
    kvm: Kvm, number: int, base_gfn: int, npages: int, gmem: int = -1
) -> int:
    kvm.slots_lock.lock()
    ret: int = kvm.fn.kvm_set_memory_region(kvm, number, base_gfn, npages, gmem)
    kvm.slots_lock.unlock()
    kvm.m.emit("handed_over")
    return ret


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        kvm_activate_memslot,
        kvm_arch_commit_memory_region,
        kvm_arch_flush_shadow_memslot,
        kvm_arch_memslots_updated,
        kvm_commit_memory_region,
        kvm_free_memslot,
        kvm_invalidate_memslot,
        kvm_set_memory_region,
        kvm_set_memslot,
        kvm_swap_active_memslots,
        kvm_vcpu_gfn_to_memslot,
        kvm_vm_ioctl_set_memory_region,
        kvm_wait_for_mn_invalidate,
    )
}
