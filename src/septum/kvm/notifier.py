# SPDX-License-Identifier: GPL-2.0-only
"""``mmu_invalidate_*``, unmapping on behalf of others, the MMU notifier.

Facts 4.7, 4.11; virt/kvm/kvm_main.c.  An invalidation is: one section of mmu_lock held for
write with start, range_add, unmap and flush; then the owner changes its own state (host
PTEs, page cache, attributes); then a second section with end.  A fault that used the
owner's old state sees in_progress or another sequence count under mmu_lock.

guest_memfd is in `septum.kvm.gmem`, attributes in `septum.kvm.mem_attributes`, memslots in
`septum.kvm.memslots`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from septum.kvm.bug import WARN_ON, lockdep_assert_held, lockdep_assert_held_write
from septum.kvm.roots import KVM_FILTER_SHARED
from septum.kvm.structs import Kvm, KvmMemorySlot
from septum.kvm.x86 import KVM_BUG_ON
from septum.kvm.zap import KvmGfnRange

__all__ = ["FUNCTIONS"]


# --- mmu_invalidate_* -------------------------------------------------------------------


def kvm_mmu_invalidate_start(kvm: Kvm) -> None:
    """Count and range in one step: whoever reads them without mmu_lock takes a hint, and
    looks again under the lock (docs/fidelity.md)."""
    lockdep_assert_held_write(kvm.mmu_lock, "kvm_mmu_invalidate_start")
    in_progress = kvm.mmu_invalidate_in_progress
    with kvm.m.step("mmu_invalidate_start", in_progress.name):
        n = in_progress.peek() + 1
        in_progress.poke(n)
        if n == 1:
            kvm.mmu_invalidate_range.poke(None)
        else:
            kvm.m.reach("two invalidations were in progress")


def kvm_mmu_invalidate_range_add(kvm: Kvm, start: int, end: int) -> None:
    """One merged range for all invalidations in progress."""
    lockdep_assert_held_write(kvm.mmu_lock, "kvm_mmu_invalidate_range_add")
    WARN_ON(
        not kvm.mmu_invalidate_in_progress.peek(),
        kvm,
        "kvm_mmu_invalidate_range_add",
        "no invalidation in progress",
    )
    merged = kvm.mmu_invalidate_range.peek()
    if merged is not None:
        start, end = min(start, merged[0]), max(end, merged[1])
    kvm.mmu_invalidate_range.write((start, end))


def kvm_mmu_invalidate_end(kvm: Kvm) -> None:
    """The count first: a fault that sees in_progress 0 must see the new count."""
    lockdep_assert_held_write(kvm.mmu_lock, "kvm_mmu_invalidate_end")
    in_progress = kvm.mmu_invalidate_in_progress
    with kvm.m.step("mmu_invalidate_end", in_progress.name):
        kvm.mmu_invalidate_seq.poke(kvm.mmu_invalidate_seq.peek() + 1)
        n = in_progress.peek() - 1
        in_progress.poke(n)
        merged = kvm.mmu_invalidate_range.peek()
    KVM_BUG_ON(n < 0, kvm, "kvm_mmu_invalidate_end", "mmu_invalidate_in_progress < 0")
    WARN_ON(merged is None, kvm, "kvm_mmu_invalidate_end", "no range was added")


def mmu_invalidate_retry_gfn(kvm: Kvm, mmu_seq: int, gfn: int) -> bool:
    """Under mmu_lock: is what the fault looked up since ``mmu_seq`` out of date?"""
    lockdep_assert_held(kvm.mmu_lock, "mmu_invalidate_retry_gfn")
    m = kvm.m
    if kvm.mmu_invalidate_in_progress.peek():
        merged = kvm.mmu_invalidate_range.peek()
        if WARN_ON(merged is None, kvm, "mmu_invalidate_retry_gfn", "in progress without a range"):
            m.blame(kvm.mmu_invalidate_in_progress)
            return True
        if merged[0] <= gfn < merged[1]:
            m.blame(kvm.mmu_invalidate_in_progress)
            m.reach("an invalidation in progress forced a retry")
            return True
    if kvm.mmu_invalidate_seq.peek() != mmu_seq:
        m.blame(kvm.mmu_invalidate_seq, changed=True)
        m.reach("mmu_seq forced a retry")
        return True
    return False


def mmu_invalidate_retry_gfn_unsafe(kvm: Kvm, mmu_seq: int, gfn: int) -> bool:
    """The same without the lock: a hint that saves work, so its three reads are one step
    (docs/fidelity.md)."""
    m = kvm.m
    with m.step("mmu_invalidate_retry_gfn_unsafe", kvm.mmu_invalidate_in_progress.name):
        if kvm.mmu_invalidate_in_progress.peek():
            merged = kvm.mmu_invalidate_range.peek()
            if merged is not None and merged[0] <= gfn < merged[1]:
                m.blame(kvm.mmu_invalidate_in_progress)
                return True
        if kvm.mmu_invalidate_seq.peek() != mmu_seq:
            m.blame(kvm.mmu_invalidate_seq, changed=True)
            return True
    return False


# --- unmapping ----------------------------------------------------------------------------


def kvm_mmu_unmap_gfn_range(kvm: Kvm, range: KvmGfnRange) -> bool:
    """range_add, then kvm_unmap_gfn_range()."""
    kvm.fn.kvm_mmu_invalidate_range_add(kvm, range.start, range.end)
    return bool(kvm.fn.kvm_unmap_gfn_range(kvm, range))


def kvm_unmap_gfn_range(kvm: Kvm, range: KvmGfnRange) -> bool:
    if not kvm.mmu_invalidate_in_progress.peek():
        lockdep_assert_held(kvm.slots_lock, "kvm_unmap_gfn_range")
    return bool(kvm.fn.kvm_tdp_mmu_unmap_gfn_range(kvm, range, False))


def kvm_zap_gfn_range(kvm: Kvm, start: int, end: int) -> None:
    """Zap leafs of all valid roots in one (yielding) section with begin and end."""
    token = kvm.srcu.read_lock()
    kvm.mmu_lock.write_lock()
    kvm.fn.kvm_mmu_invalidate_start(kvm)
    kvm.fn.kvm_mmu_invalidate_range_add(kvm, start, end)
    if kvm.fn.kvm_tdp_mmu_zap_leafs(kvm, start, end, False):
        kvm.fn.kvm_flush_remote_tlbs_range(kvm, start, end - start)
    kvm.fn.kvm_mmu_invalidate_end(kvm)
    kvm.mmu_lock.write_unlock()
    kvm.srcu.read_unlock(token)
    kvm.m.emit("handed_over")


# --- MMU notifiers --------------------------------------------------------------------------


def kvm_handle_hva_range(
    kvm: Kvm, start: int, end: int, on_lock: Callable[[Kvm], None], unmap: bool
) -> bool:
    """Lock, ``on_lock`` and unmap, only if a memslot overlaps the pages [start, end) of
    userspace memory; whether one did.  Host mappings never reach private memory."""
    fn = kvm.fn
    found_memslot = flush = False
    token = kvm.srcu.read_lock()
    slots: tuple[KvmMemorySlot, ...] = kvm.memslots.read()
    for slot in sorted(slots, key=lambda slot: slot.userspace_addr):
        offset = slot.base_gfn - slot.userspace_addr
        first = max(start, slot.userspace_addr) + offset
        last = min(end, slot.userspace_addr + slot.npages) + offset
        if first >= last:
            continue
        if not found_memslot:
            found_memslot = True
            kvm.mmu_lock.write_lock()
            on_lock(kvm)
            if not unmap:
                break
        range_ = KvmGfnRange(slot, first, last, KVM_FILTER_SHARED)
        flush |= fn.kvm_mmu_unmap_gfn_range(kvm, range_)
    if flush:
        fn.kvm_flush_remote_tlbs(kvm)
    if found_memslot:
        kvm.mmu_lock.write_unlock()
    kvm.srcu.read_unlock(token)
    return found_memslot


def kvm_mmu_notifier_invalidate_range_start(kvm: Kvm, start: int, end: int) -> None:
    """No slot may come or go until the end, so that both find the same."""
    count = kvm.mn_active_invalidate_count
    kvm.trace("kvm_unmap_hva_range", start=start, end=end)
    kvm.mn_invalidate_lock.lock()
    count.poke(count.peek() + 1)
    kvm.mn_invalidate_lock.unlock()
    fn = kvm.fn
    if not fn.kvm_handle_hva_range(kvm, start, end, fn.kvm_mmu_invalidate_start, True):
        kvm.m.reach("a notifier found no slot")
    kvm.m.emit("handed_over")


def kvm_mmu_notifier_invalidate_range_end(kvm: Kvm, start: int, end: int) -> None:
    count = kvm.mn_active_invalidate_count
    fn = kvm.fn
    fn.kvm_handle_hva_range(kvm, start, end, fn.kvm_mmu_invalidate_end, False)
    kvm.mn_invalidate_lock.lock()
    none = not count.peek()
    name = "kvm_mmu_notifier_invalidate_range_end"
    if not WARN_ON(none, kvm, name, "mn_active_invalidate_count is 0"):
        count.poke(count.peek() - 1)
    kvm.mn_invalidate_lock.unlock()


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        kvm_handle_hva_range,
        kvm_mmu_invalidate_end,
        kvm_mmu_invalidate_range_add,
        kvm_mmu_invalidate_start,
        kvm_mmu_notifier_invalidate_range_end,
        kvm_mmu_notifier_invalidate_range_start,
        kvm_mmu_unmap_gfn_range,
        kvm_unmap_gfn_range,
        kvm_zap_gfn_range,
        mmu_invalidate_retry_gfn,
        mmu_invalidate_retry_gfn_unsafe,
    )
}
