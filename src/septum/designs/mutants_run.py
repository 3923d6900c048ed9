# SPDX-License-Identifier: GPL-2.0-only
"""Mutants that only a running vCPU of an ordinary VM, a yield or write tracking shows
(facts 3.4, 4.5, 4.8 to 4.11, 4.14 to 4.17)."""

from __future__ import annotations

from typing import Final

from septum.designs.mutants_base import Mutant, change, toggles

__all__ = ["MUTANTS", "TOGGLES"]

_RESCHED: Final = "tdp_mmu_iter_cond_resched"
_NX: Final = "kvm_recover_nx_huge_pages"
_RECOVER: Final = "recover_huge_pages_range"
_DELETE: Final = "kvm_arch_flush_shadow_memslot"
_TRACK: Final = "write_protect_gfn"

MUTANTS: Final = (
    # --- 4.8, 4.11 unmapping ----------------------------------------------------------------
    Mutant(
        "zap-leafs-no-flush",
        "4.8",
        "zapping a leaf does not ask for a flush",
        "run-unmap",
        "I7",
        (change("tdp_mmu_zap_leafs", "            flush = True\n", "            pass\n"),),
        alone=True,
    ),
    Mutant(
        "unmap-skips-invalid-roots",
        "2.3",
        "the MMU notifier's unmap visits valid roots only",
        "zap-fast-unmap",
        "I25",
        (change("kvm_tdp_mmu_unmap_gfn_range", " | KVM_INVALID_ROOTS", ""),),
        alone=True,
    ),
    Mutant(
        "yield-without-flush",
        "3.4",
        "a walk that yields drops the flush that it owes",
        "run-unmap-yield",
        "I7",
        (
            change(
                _RESCHED,
                "    if flush:\n        kvm.fn.kvm_flush_remote_tlbs(kvm)\n",
                "",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "yield-not-noted",
        "3.4",
        "a walk that yielded goes on at the next entry instead of looking again",
        "run-unmap-yield",
        "I25",
        (change(_RESCHED, "    iter.yielded = True\n", ""),),
    ),
    Mutant(
        "split-yield-not-noted",
        "4.15",
        "the split loop goes on after it dropped the lock to allocate",
        "log-enable-yield",
        "",
        (change("tdp_mmu_split_huge_pages_root", "                iter.yielded = True\n", ""),),
        survives="harmless: the huge page that is passed over is write-protected as one, and the "
        "fault splits it; nothing here removes the table under the walk meanwhile",
    ),
    Mutant(
        "wrprot-yield-not-noted",
        "4.14",
        "the write protection goes on at the next entry after a yield",
        "log-enable-yield",
        "I22",
        (change(_RESCHED, "    iter.yielded = True\n", ""),),
    ),
    # --- 4.5, 4.16, 4.17 tables -------------------------------------------------------------
    Mutant(
        "collapse-no-flush",
        "4.5",
        "a fault that replaces a table by a huge leaf does not flush",
        "run-collapse",
        "I7",
        (
            change(
                "tdp_mmu_map_handle_target_level",
                "        kvm.fn.kvm_flush_remote_tlbs_range("
                "kvm, iter.gfn, kvm.pages_per_hpage[iter.level])\n",
                "        pass\n",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "recover-no-flush",
        "4.16",
        "the recovery of huge pages does not flush",
        "run-recover",
        "I7",
        (
            change(
                _RECOVER,
                "    if flush:\n        fn.kvm_flush_remote_tlbs(kvm)\n    kvm.rcu.read_unlock()\n",
                "    kvm.rcu.read_unlock()\n",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "recover-flush-after-rcu",
        "4.16",
        "the recovery of huge pages flushes after its RCU section",
        "run-recover",
        "I7",
        (
            change(
                _RECOVER,
                "    if flush:\n        fn.kvm_flush_remote_tlbs(kvm)\n    kvm.rcu.read_unlock()\n",
                "    kvm.rcu.read_unlock()\n    if flush:\n        fn.kvm_flush_remote_tlbs(kvm)\n",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "recover-yield-no-flush",
        "4.16",
        "the recovery of huge pages yields without the flush that it owes",
        "run-recover",
        "I7",
        (change(_RECOVER, "_resched(kvm, iter, flush, True)", "_resched(kvm, iter, False, True)"),),
        alone=True,
    ),
    Mutant(
        "nx-recover-no-flush",
        "4.17",
        "the NX recovery worker does not flush",
        "run-nx-recover",
        "I7",
        (
            change(
                _NX,
                "    if flush:\n        fn.kvm_flush_remote_tlbs(kvm)\n    kvm.rcu.read_unlock()\n",
                "    kvm.rcu.read_unlock()\n",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "nx-recover-yield-no-flush",
        "4.17",
        "the NX recovery worker yields without the flush that it owes",
        "run-nx-recover",
        "I7",
        (
            change(
                _NX,
                "            if flush:\n                fn.kvm_flush_remote_tlbs(kvm)\n",
                "",
            ),
        ),
        alone=True,
    ),
    # --- 4.10, 2.3 roots and slots ------------------------------------------------------------
    Mutant(
        "load-without-flush",
        "4.10",
        "a vCPU that loads a new root does not flush",
        "run-fast-zap",
        "I7",
        (change("kvm_mmu_reload", "    flush_shared(vcpu)\n", ""),),
        alone=True,
    ),
    Mutant(
        "fast-zap-request-without-kick",
        "4.10",
        "vCPUs are told that their root is obsolete, but not kicked",
        "run-fast-zap",
        "I7",
        (
            change(
                "__kvm_mmu_zap_all_fast_front_half",
                "    kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)\n",
                "    for vcpu in kvm.vcpus:\n"
                "        kvm.fn.kvm_make_request(vcpu, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)\n",
            ),
        ),
    ),
    Mutant(
        "delete-no-request",
        "4.10",
        "a slot's deletion does not tell vCPUs that their root is obsolete",
        "run-delete-slot",
        "I7",
        (
            change(
                "__kvm_mmu_zap_all_fast_front_half",
                "    kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "delete-leafs-no-flush",
        "4.10",
        "a slot's deletion without the quirk does not flush",
        "run-delete-slot-leafs",
        "I7",
        (
            change(
                _DELETE,
                "    if fn.kvm_unmap_gfn_range(kvm, range_):\n"
                "        fn.kvm_flush_remote_tlbs(kvm)\n",
                "    fn.kvm_unmap_gfn_range(kvm, range_)\n",
            ),
        ),
        alone=True,
    ),
    # --- 1.3, 4.14 write tracking -----------------------------------------------------------
    Mutant(
        "write-track-keeps-mmu-writable",
        "4.14",
        "a GFN that becomes write-tracked keeps MMU-writable: the fast path may bring W back",
        "fast-pf-write-track",
        "I13",
        (change(_TRACK, "(PT_WRITABLE_MASK | EPT_SPTE_MMU_WRITABLE)", "PT_WRITABLE_MASK"),),
        alone=True,
    ),
    Mutant(
        "write-track-no-flush",
        "4.14",
        "a GFN becomes write-tracked without a flush",
        "run-write-track",
        "I13",
        (
            change(
                "__kvm_write_track_add_gfn",
                "        kvm.fn.kvm_flush_remote_tlbs(kvm)\n",
                "        pass\n",
            ),
        ),
        alone=True,
    ),
)

TOGGLES: Final = toggles(MUTANTS)
