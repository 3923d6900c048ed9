# SPDX-License-Identifier: GPL-2.0-only
"""Mutants of dirty logging, NX huge pages and MMIO SPTEs (facts 1.2, 4.14 to 4.17)."""

from __future__ import annotations

from typing import Final

from septum.designs.mutants_base import Mutant, change, toggles

__all__ = ["MUTANTS", "TOGGLES"]

_GET: Final = "kvm_get_dirty_log_protect"
_CLEAR: Final = "kvm_clear_dirty_log_protect"
_MASKED: Final = "kvm_arch_mmu_enable_log_dirty_pt_masked"
_FLAGS: Final = "kvm_mmu_slot_apply_flags"
_FLUSH: Final = "        kvm.fn.kvm_flush_remote_tlbs(kvm)\n"
_RETRY: Final = (
    "                failures = goto_retry(kvm, name, failures)\n"
    "                continue  # the same entry, from the yield test on\n"
)
_RETRY_PRESENT: Final = _RETRY.replace("yield", "present")

MUTANTS: Final = (
    # --- 4.14 enabling --------------------------------------------------------------------
    Mutant(
        "log-enable-no-flush",
        "4.14",
        "enabling the log does not flush",
        "log-enable-aged",
        "I22",
        (
            change(
                _FLAGS,
                "        fn.kvm_mmu_slot_remove_write_access(kvm, new, PG_LEVEL_4K)\n"
                "    fn.kvm_flush_remote_tlbs(kvm)\n",
                "        fn.kvm_mmu_slot_remove_write_access(kvm, new, PG_LEVEL_4K)\n",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "wrprot-no-retry",
        "4.14",
        "write protection gives up an entry whose cmpxchg it lost",
        "log-enable-aged",
        "I22",
        (change("wrprot_gfn_range", _RETRY, "                pass\n"),),
        alone=True,
    ),
    Mutant(
        "clear-dirty-no-retry",
        "4.14",
        "clearing D gives up an entry whose cmpxchg it lost",
        "log-enable-pml",
        "I22",
        (change("clear_dirty_gfn_range", _RETRY_PRESENT, "                pass\n"),),
        alone=True,
    ),
    Mutant(
        "pml-huge-pages-writable",
        "4.14",
        "with PML huge pages are not write-protected",
        "log-pml-huge",
        "I22",
        (
            change(
                _FLAGS,
                "        fn.kvm_mmu_slot_remove_write_access(kvm, new, PG_LEVEL_2M)\n",
                "",
            ),
        ),
        alone=True,
    ),
    # --- 4.14 GET and CLEAR ---------------------------------------------------------------
    Mutant(
        "get-no-flush",
        "4.14",
        "GET does not flush",
        "log-get-write",
        "I22",
        (change(_GET, _FLUSH, ""),),
        alone=True,
    ),
    Mutant(
        "get-no-flush-pml",
        "4.14",
        "GET does not flush after it cleared D",
        "log-get-write-pml",
        "I22",
        (change(_GET, _FLUSH, ""),),
        alone=True,
    ),
    Mutant(
        "get-takes-late",
        "4.14",
        "GET re-arms the pages before it takes the bitmap",
        "log-get-write",
        "I22",
        (
            change(
                _GET,
                "        mask = slot.dirty_bitmap.xchg(0)\n"
                "        kvm.fn.kvm_arch_mmu_enable_log_dirty_pt_masked(kvm, slot, 0, mask)\n",
                "        mask = slot.dirty_bitmap.read()\n"
                "        kvm.fn.kvm_arch_mmu_enable_log_dirty_pt_masked(kvm, slot, 0, mask)\n"
                "        slot.dirty_bitmap.write(0)\n",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "clear-no-flush",
        "4.14",
        "CLEAR does not flush",
        "log-clear-write",
        "I22",
        (change(_CLEAR, _FLUSH, ""),),
        alone=True,
    ),
    Mutant(
        "clear-not-atomic",
        "4.14",
        "CLEAR loads and stores the bitmap",
        "log-clear-write",
        "I22",
        (
            change(
                _CLEAR,
                "        mask &= slot.dirty_bitmap.fetch_and(~mask)\n",
                "        seen = slot.dirty_bitmap.read()\n"
                "        slot.dirty_bitmap.write(seen & ~mask)\n"
                "        mask &= seen\n",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "init-set-first-page-only",
        "4.14",
        "of an initially-all-set log only the first huge page is protected",
        "log-init-set-lazy",
        "I22",
        (
            change(
                _MASKED,
                "            fn.kvm_mmu_slot_gfn_write_protect(kvm, slot, end, PG_LEVEL_2M)\n",
                "            pass\n",
            ),
        ),
        alone=True,
    ),
    # --- 4.15 eager split -----------------------------------------------------------------
    Mutant(
        "split-spare-leaked",
        "4.15",
        "the spare table of the split loop is not freed",
        "log-enable-split",
        "I6",
        (
            change(
                "tdp_mmu_split_huge_pages_root",
                "    if sp is not None:\n        fn.tdp_mmu_free_unused_sp(kvm, sp)\n",
                "",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "split-error-keeps-root",
        "4.15",
        "the split's error exit keeps the reference to the root",
        "log-enable-alloc",
        "I5",
        (
            change(
                "kvm_tdp_mmu_try_split_huge_pages",
                "            kvm.fn.kvm_tdp_mmu_put_root(kvm, root)\n",
                "",
            ),
        ),
    ),
    # --- 4.17 NX huge pages ---------------------------------------------------------------
    Mutant(
        "nx-count-kept",
        "4.17",
        "nr_pages is not decremented when a table leaves the list",
        "nx-recover-fault",
        "I15",
        (
            change(
                "untrack_possible_nx_huge_page",
                "    kvm.nx_nr_pages.poke(kvm.nx_nr_pages.peek() - 1)\n",
                "",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "nx-removed-stays-listed",
        "4.4 step 1",
        "a removed table stays on the list of possible NX huge pages",
        "nx-list-zap",
        "I15",
        (
            change(
                "tdp_mmu_unlink_sp", "        kvm.fn.untrack_possible_nx_huge_page(kvm, sp)\n", ""
            ),
        ),
    ),
    Mutant(
        "nx-listed-after-unlink",
        "4.5 step 3g",
        "a table is listed although another thread has unlinked it",
        "nx-list-zap",
        "I15",
        (
            change(
                "tdp_mmu_map_handle_missing_table",
                "        if sp.nx_huge_page_disallowed.peek():\n",
                "        if True:\n",
            ),
        ),
    ),
    # --- 1.2, 4.5 MMIO --------------------------------------------------------------------
    Mutant(
        "mmio-stale-generation",
        "1.2",
        "an MMIO SPTE of any generation is believed",
        "mmio-slot-create",
        "I19",
        (
            change(
                "check_mmio_spte",
                "    return gen & MMIO_SPTE_GEN_MASK == get_mmio_spte_generation(spte)\n",
                "    return True\n",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "mmio-cache-for-ever",
        "4.5",
        "the vCPU's MMIO cache outlives the memslots it was filled from",
        "mmio-slot-create",
        "I19",
        (
            change(
                "mmio_info_in_cache",
                "vcpu.kvm.memslots_generation.read() == cached[1] and ",
                "",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "mmio-update-in-progress",
        "1.2",
        "an update of the memslots in progress is not noticed",
        "mmio-slot-create",
        "I19",
        (
            change(
                "check_mmio_spte",
                "    if gen & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS:\n        return False\n",
                "",
            ),
        ),
        alone=True,
    ),
)

TOGGLES: Final = toggles(MUTANTS)
