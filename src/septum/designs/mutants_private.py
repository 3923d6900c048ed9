# SPDX-License-Identifier: GPL-2.0-only
"""Mutants of memslots, notifiers, attributes and guest_memfd (facts 4.7, 4.11, 5.4, 5.5)."""

from __future__ import annotations

from typing import Final

from septum.designs.mutants_base import Mutant, change, toggles

__all__ = ["MUTANTS", "TOGGLES"]

_HVA: Final = "kvm_handle_hva_range"
_FLUSH: Final = "        fn.kvm_flush_remote_tlbs(kvm)\n"
_END: Final = "kvm_mmu_notifier_invalidate_range_end"
_SWAP: Final = "kvm_swap_active_memslots"
_SHADOW: Final = "kvm_arch_flush_shadow_memslot"
_BOTH: Final = "KVM_FILTER_PRIVATE | KVM_FILTER_SHARED"
_ATTR: Final = "kvm_vm_set_mem_attributes"
_PRE: Final = "        fn.kvm_pre_set_memory_attributes(kvm, start, end, attributes)\n"
_POST: Final = "        fn.kvm_post_set_memory_attributes(kvm, start, end, attributes)\n"
_STORE: Final = (
    "        for gfn in range(start, end):\n            kvm.mem_attr(gfn).write(attributes)\n"
)
_ARCH_PRE: Final = "kvm_arch_pre_set_memory_attributes"
_GMEM: Final = "kvm_gmem_invalidate_start"

MUTANTS: Final = (
    # --- 4.7 the MMU notifier -------------------------------------------------------------
    Mutant(
        "notifier-without-flush",
        "4.7",
        "the MMU notifier unmaps without flushing TLBs",
        "shared-zap",
        "I7",
        (change(_HVA, _FLUSH, "        pass\n"),),
        alone=True,
    ),
    Mutant(
        "notifier-flush-after-unlock",
        "4.7",
        "the MMU notifier flushes after it has dropped mmu_lock",
        "shared-zap",
        "",
        (
            change(_HVA, "    if flush:\n" + _FLUSH, ""),
            change(
                _HVA,
                "        kvm.mmu_lock.write_unlock()\n",
                "        kvm.mmu_lock.write_unlock()\n    if flush:\n" + _FLUSH,
            ),
        ),
        survives="harmless: in_progress keeps faults out, and start has yet to return",
    ),
    Mutant(
        "notifier-unmaps-private",
        "2.3",
        "the MMU notifier unmaps the mirror instead of the direct root",
        "shared-zap",
        "I25",
        (change(_HVA, "KVM_FILTER_SHARED", "KVM_FILTER_SHARED << 1"),),
    ),
    Mutant(
        "notifier-end-skipped",
        "4.7",
        "the notifier's end does not end the invalidation",
        "shared-zap-twice",
        "I17",
        (
            change(
                _END,
                "    fn.kvm_handle_hva_range(kvm, start, end, fn.kvm_mmu_invalidate_end, False)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "mn-count-leaked",
        "4.7",
        "the notifier's end does not lower mn_active_invalidate_count",
        "shared-zap-twice",
        "I17",
        (change(_END, "        count.poke(count.peek() - 1)\n", "        pass\n"),),
        alone=True,
    ),
    Mutant(
        "swap-ignores-notifiers",
        "4.7",
        "memslots are swapped between a notifier's start and end",
        "notifier-slot",
        "I17",
        (change("kvm_wait_for_mn_invalidate", "while count.peek():", "while False:"),),
    ),
    Mutant(
        "range-not-added",
        "4.7",
        "an invalidation does not say which range it is about",
        "notifier-fault",
        "WARN:kvm_mmu_invalidate_end",
        (
            change(
                "kvm_mmu_unmap_gfn_range",
                "    kvm.fn.kvm_mmu_invalidate_range_add(kvm, range.start, range.end)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "range-replaced",
        "4.7",
        "a second range replaces the first one instead of being merged with it",
        "punch-files",
        "I12",
        (change("kvm_mmu_invalidate_range_add", "if merged is not None:", "if False:"),),
    ),
    Mutant(
        "range-reset",
        "4.7",
        "the start of a second invalidation forgets the range of the first",
        "punch-files",
        "I12",
        (change("kvm_mmu_invalidate_start", "if n == 1:", "if True:"),),
    ),
    Mutant(
        "notifier-seq-not-bumped",
        "4.7",
        "the end of an invalidation does not change mmu_invalidate_seq",
        "notifier-fault",
        "I25",
        (
            change(
                "kvm_mmu_invalidate_end",
                "        kvm.mmu_invalidate_seq.poke(kvm.mmu_invalidate_seq.peek() + 1)\n",
                "",
            ),
        ),
    ),
    # --- 4.11, 5.4 memslots ---------------------------------------------------------------
    Mutant(
        "no-srcu-sync",
        "4.11",
        "a slot is deleted without waiting for those who found it",
        "delete-fault",
        "I12",
        (change(_SWAP, "    kvm.srcu.synchronize()\n", ""),),
    ),
    Mutant(
        "slot-not-invalidated",
        "4.11",
        "a slot is unmapped while it is still valid",
        "delete-fault",
        "I12",
        (
            change(
                "kvm_invalidate_memslot",
                "    kvm.fn.kvm_swap_active_memslots(kvm, slots)\n",
                "    kvm.slots_arch_lock.unlock()\n",
            ),
        ),
    ),
    Mutant(
        "slot-unmapped-early",
        "4.11",
        "a slot is unmapped before its INVALID copy is active",
        "delete-fault",
        "I12",
        (
            change(
                "kvm_invalidate_memslot", "    kvm.fn.kvm_arch_flush_shadow_memslot(kvm, old)\n", ""
            ),
            change(
                "kvm_invalidate_memslot",
                "    kvm.fn.kvm_swap_active_memslots(kvm, slots)\n",
                "    kvm.fn.kvm_arch_flush_shadow_memslot(kvm, old)\n"
                "    kvm.fn.kvm_swap_active_memslots(kvm, slots)\n",
            ),
        ),
    ),
    Mutant(
        "slot-keeps-private",
        "4.10",
        "the deletion of a slot unmaps its shared side only",
        "delete-run",
        "I12",
        (change(_SHADOW, _BOTH, "KVM_FILTER_SHARED"),),
    ),
    Mutant(
        "slot-without-flush",
        "4.10",
        "the deletion of a slot does not flush TLBs",
        "delete-shared",
        "I7",
        (change(_SHADOW, _FLUSH, "        pass\n"),),
        alone=True,
    ),
    Mutant(
        "loop-ignores-invalid-slot",
        "5.4 step 3",
        "the EPT-violation loop goes on although the slot is being deleted",
        "delete-fault",
        "I23",
        (change("tdx_ept_violation_loop", "if slot is not None and slot.invalid:", "if False:"),),
    ),
    Mutant(
        "prefault-retries-invalid-slot",
        "4.5 step 4",
        "a prefault in a slot that is being deleted is retried",
        "delete-prefault",
        "I23",
        (
            change(
                "kvm_mmu_faultin_pfn",
                "return -EAGAIN if fault.prefetch else RET_PF_RETRY",
                "return RET_PF_RETRY",
            ),
        ),
    ),
    Mutant(
        "gmem-not-unbound",
        "4.11",
        "a deleted slot stays bound to its file",
        "delete-fault",
        "",
        (
            change(
                "kvm_free_memslot", "        kvm.fn.kvm_gmem_unbind(kvm, slot)\n", "        pass\n"
            ),
        ),
        survives="no monitor: the model's slots are not freed, so nobody sees the dangling binding",
    ),
    # --- 4.11 attributes ------------------------------------------------------------------
    Mutant(
        "attributes-without-flush",
        "4.11",
        "a conversion unmaps without flushing TLBs",
        "convert-back",
        "I7",
        (change("kvm_pre_set_memory_attributes", _FLUSH, "        pass\n"),),
        alone=True,
    ),
    Mutant(
        "attributes-unmap-neighbour",
        "4.11",
        "a conversion unmaps one page too many",
        "convert-fault",
        "I21",
        (
            change(
                _ARCH_PRE,
                "KvmGfnRange(slot, start, end, attr_filter)",
                "KvmGfnRange(slot, start, end + 1, attr_filter)",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "attributes-end-missing",
        "4.11",
        "a conversion does not end its invalidation",
        "convert-back",
        "I17",
        (change("kvm_post_set_memory_attributes", "    kvm.fn.kvm_mmu_invalidate_end(kvm)\n", ""),),
    ),
    Mutant(
        "attributes-stored-first",
        "4.11",
        "attributes are stored before the invalidation starts",
        "convert-fault",
        "",
        (change(_ATTR, _PRE + _STORE, _STORE + _PRE),),
        survives=(
            "harmless: until the unmap both sides may be mapped, and a fault that saw the old "
            "attribute is older than the invalidation"
        ),
    ),
    # --- 5.5 guest_memfd ------------------------------------------------------------------
    Mutant(
        "punch-first-slot-only",
        "5.5",
        "a hole unmaps the first binding of its range only",
        "punch-slots",
        "I12",
        (
            change(
                _GMEM,
                "        flush |= kvm.fn.kvm_mmu_unmap_gfn_range(kvm, range_)\n",
                "        flush |= kvm.fn.kvm_mmu_unmap_gfn_range(kvm, range_)\n        break\n",
            ),
        ),
    ),
    Mutant(
        "punch-whole-slot",
        "5.5",
        "a hole unmaps all of a slot that it touches",
        "init-punch",
        "I21",
        (
            change(
                _GMEM,
                "KvmGfnRange(slot, first + offset, last + offset, attr_filter)",
                "KvmGfnRange(slot, slot.base_gfn, slot.base_gfn + slot.npages, attr_filter)",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "punch-without-lock",
        "5.5",
        "a hole is punched without the file's invalidate_lock",
        "init-punch",
        "I12",
        (
            change("kvm_gmem_punch_hole", "    file.invalidate_lock.lock()\n", ""),
            change("kvm_gmem_punch_hole", "    file.invalidate_lock.unlock()\n", ""),
        ),
    ),
    Mutant(
        "release-without-unmap",
        "5.5",
        "a released file's pages stay mapped",
        "teardown-kick",
        "I12",
        (
            change(
                "kvm_gmem_release",
                "    kvm.fn.kvm_gmem_invalidate_start(kvm, file, 0, file.size)\n"
                "    kvm.fn.kvm_gmem_invalidate_end(kvm, file, 0, file.size)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "page-add-src-left",
        "5.5",
        "kvm_tdx->page_add_src stays set",
        "init-punch",
        "BUG:tdx_gmem_post_populate",
        (change("tdx_gmem_post_populate", "    kvm_tdx.page_add_src.set(None)\n", ""),),
    ),
)

TOGGLES: Final = toggles(MUTANTS)
