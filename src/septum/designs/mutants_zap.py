# SPDX-License-Identifier: GPL-2.0-only
"""Mutants of the retry protocol, of zapping and of guest_memfd (facts 4.5, 4.7, 4.8, 5.5)."""

from __future__ import annotations

from typing import Final

from septum.designs.mutants_base import Mutant, change, toggles

__all__ = ["MUTANTS", "TOGGLES"]

_FAULT: Final = "kvm_tdp_mmu_page_fault"
_FAULTIN: Final = "kvm_mmu_faultin_pfn"
_SAMPLE: Final = "    fault.mmu_seq = kvm.mmu_invalidate_seq.read()\n"
_PFN: Final = "    r: int = fn.__kvm_mmu_faultin_pfn(vcpu, fault)\n"
_UNSAFE: Final = (
    "    if fn.mmu_invalidate_retry_gfn_unsafe(kvm, fault.mmu_seq, fault.gfn):\n"
    "        return RET_PF_RETRY\n"
)
_PUNCH: Final = "kvm_gmem_punch_hole"
_BEGIN: Final = "    kvm.fn.kvm_gmem_invalidate_start(kvm, file, start, end)\n"
_END: Final = "    kvm.fn.kvm_gmem_invalidate_end(kvm, file, start, end)\n"
_TRUNCATE: Final = "    kvm.fn.truncate_inode_pages_range(kvm, file, start, end)\n"
_TARGET: Final = "tdp_mmu_map_handle_target_level"
_ZAP: Final = "tdp_mmu_zap_leafs"
_IN_PROGRESS: Final = "    if kvm.mmu_invalidate_in_progress.peek():\n"

MUTANTS: Final = (
    # --- 4.5, 4.7 the retry protocol ------------------------------------------------------
    Mutant(
        "fault-under-write-lock",
        "4.5",
        "a fault takes mmu_lock for write",
        "fault-fault",
        "I10",
        (
            change(_FAULT, "kvm.mmu_lock.read_lock()", "kvm.mmu_lock.write_lock()"),
            change(_FAULT, "kvm.mmu_lock.read_unlock()", "kvm.mmu_lock.write_unlock()"),
        ),
        alone=True,
    ),
    Mutant(
        "no-stale-check",
        "4.5",
        "is_page_fault_stale() is not asked under mmu_lock",
        "fault-punch",
        "I12",
        (change(_FAULT, "if not kvm.fn.is_page_fault_stale(vcpu, fault):", "if True:"),),
    ),
    Mutant(
        "stale-check-without-lock",
        "4.5",
        "is_page_fault_stale() is asked before mmu_lock is taken",
        "fault-punch",
        "I10",
        (
            change(
                _FAULT,
                "    kvm.mmu_lock.read_lock()\n"
                "    if not kvm.fn.is_page_fault_stale(vcpu, fault):\n",
                "    stale = kvm.fn.is_page_fault_stale(vcpu, fault)\n"
                "    kvm.mmu_lock.read_lock()\n    if not stale:\n",
            ),
        ),
    ),
    Mutant(
        "seq-sampled-late",
        "4.5 step 4",
        "mmu_invalidate_seq is sampled after the page was looked up",
        "fault-punch",
        "I12",
        (
            change(_FAULTIN, _SAMPLE, ""),
            change(_FAULTIN, _UNSAFE, ""),
            change(_FAULTIN, _PFN, _PFN + _SAMPLE),
        ),
    ),
    Mutant(
        "no-unsafe-check",
        "4.5 step 4",
        "the check without mmu_lock before and after the lookup is left out",
        "fault-punch",
        "",
        (change(_FAULTIN, _UNSAFE, ""),),
        survives="harmless: the check without mmu_lock saves work, the one under it decides",
    ),
    Mutant(
        "in-progress-ignored",
        "4.7",
        "a fault does not look at mmu_invalidate_in_progress",
        "fault-punch",
        "I12",
        (
            change("mmu_invalidate_retry_gfn", _IN_PROGRESS, "    if False:\n"),
            change("mmu_invalidate_retry_gfn_unsafe", f"    {_IN_PROGRESS}", "        if False:\n"),
        ),
        executions=100,
    ),
    Mutant(
        "seq-not-bumped",
        "4.7",
        "the end of an invalidation does not change mmu_invalidate_seq",
        "fault-punch",
        "I12",
        (
            change(
                "kvm_mmu_invalidate_end",
                "        kvm.mmu_invalidate_seq.poke(kvm.mmu_invalidate_seq.peek() + 1)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "range-one-short",
        "4.7",
        "the range of an invalidation ends one GFN early",
        "fault-punch",
        "I12",
        (
            change(
                "kvm_mmu_invalidate_range_add",
                "kvm.mmu_invalidate_range.write((start, end))",
                "kvm.mmu_invalidate_range.write((start, end - 1))",
            ),
        ),
        executions=100,
    ),
    # --- 5.5 guest_memfd ------------------------------------------------------------------
    Mutant(
        "end-before-truncate",
        "5.5",
        "the invalidation ends before the pages leave the page cache",
        "fault-punch",
        "I12",
        (change(_PUNCH, _TRUNCATE + _END, _END + _TRUNCATE),),
    ),
    Mutant(
        "truncate-before-unmap",
        "5.5",
        "the pages leave the page cache before they are unmapped",
        "refault-punch",
        "I12",
        (change(_PUNCH, _BEGIN + _TRUNCATE, _TRUNCATE + _BEGIN),),
    ),
    Mutant(
        "punch-unmaps-shared-side",
        "5.5",
        "a hole unmaps the direct root instead of the mirror",
        "refault-punch",
        "I12",
        (change("kvm_gmem_get_invalidate_filter", "KVM_FILTER_PRIVATE", "KVM_FILTER_SHARED"),),
    ),
    Mutant(
        "punch-under-read-lock",
        "5.5",
        "a hole is unmapped with mmu_lock held for read",
        "refault-punch",
        "I10",
        (
            change("kvm_gmem_invalidate_start", "write_lock()", "read_lock()"),
            change("kvm_gmem_invalidate_start", "write_unlock()", "read_unlock()"),
        ),
    ),
    # --- 4.8 zapping leafs ----------------------------------------------------------------
    Mutant(
        "zap-one-short",
        "4.8",
        "the zap ends one GFN early",
        "refault-punch",
        "I12",
        (
            change(
                _ZAP,
                "end = min(end, kvm_mmu_max_gfn(kvm) + 1)",
                "end = min(end, kvm_mmu_max_gfn(kvm) + 1) - 1",
            ),
        ),
    ),
    Mutant(
        "zap-takes-tables",
        "4.8",
        "the zap of leafs removes tables as well",
        "refault-punch",
        "BUG:tdx_sept_free_private_spt",
        (
            change(
                _ZAP,
                "if not is_shadow_present_pte(iter.old_spte) or "
                "not is_last_spte(iter.old_spte, iter.level):",
                "if not is_shadow_present_pte(iter.old_spte):",
            ),
        ),
    ),
    Mutant(
        "fault-replaces-leaf",
        "4.3 step 1",
        "a fault on a present leaf installs another page over it",
        "fault-fault",
        "BUG:__handle_changed_spte",
        (change(_TARGET, "        return RET_PF_SPURIOUS\n", "        fault.pfn += 0x80\n"),),
    ),
    Mutant(
        "zap-moves-leaf",
        "4.3 step 1",
        "instead of zapping a leaf, the next PFN is written into it",
        "refault-punch",
        "I11",
        (
            change(
                _ZAP,
                "kvm.fn.tdp_mmu_iter_set_spte(kvm, iter, SHADOW_NONPRESENT_VALUE)",
                "kvm.fn.tdp_mmu_iter_set_spte(kvm, iter, iter.old_spte + (1 << 12))",
            ),
        ),
    ),
)

TOGGLES: Final = toggles(MUTANTS)
