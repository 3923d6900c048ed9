# SPDX-License-Identifier: GPL-2.0-only
"""Mutants of direct roots: faults, huge pages, roots, lockless paths (facts 2.3, 4.1 to 4.13)."""

from __future__ import annotations

from typing import Final

from septum.designs.mutants_base import Mutant, change, toggles

__all__ = ["MUTANTS", "TOGGLES"]

_SET_ATOMIC: Final = "tdp_mmu_set_spte_atomic"
_SPLIT: Final = "tdp_mmu_split_huge_page"
_FIX: Final = "fast_pf_fix_direct_spte"
_NEW: Final = "fast_pf_new_spte"
_AGE: Final = "kvm_tdp_mmu_age_spte"
_AGE_RANGE: Final = "kvm_tdp_mmu_age_gfn_range"
_FRONT: Final = "__kvm_mmu_zap_all_fast_front_half"

MUTANTS: Final = (
    # --- 4.1, 4.3 setting -----------------------------------------------------------------
    Mutant(
        "direct-plain-store",
        "4.1 step 2",
        "a direct SPTE is stored without cmpxchg under the read lock",
        "direct-fault-split",
        "I4",
        (
            change(
                _SET_ATOMIC,
                "        ret = kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, new_spte)\n",
                "        iter.sptep.write(new_spte)\n        ret = 0\n",
            ),
        ),
    ),
    Mutant(
        "failure-traced",
        "4.3 step 5",
        "a change that the hook refused is traced",
        "install-leaf-fails",
        "I20",
        (
            change(
                "__handle_changed_spte",
                "        if ret:\n            return ret\n",
                "        if ret:\n"
                "            trace_kvm_tdp_mmu_spte_changed("
                "kvm, sp, gfn, level, old_spte, new_spte)\n"
                "            return ret\n",
            ),
        ),
        alone=True,
    ),
    # --- 4.5, 4.15 splitting --------------------------------------------------------------
    Mutant(
        "split-same-page",
        "4.15",
        "every part of a split huge page maps its first page",
        "direct-fault-split",
        "WARN:tdp_mmu_map_handle_target_level",
        (
            change(
                _SPLIT,
                "make_small_spte(kvm, huge_spte, level - 1, i)",
                "make_small_spte(kvm, huge_spte, level - 1, 0)",
            ),
        ),
        executions=100,
    ),
    Mutant(
        "split-grants-write",
        "4.15",
        "the parts of a split huge page are writable whatever the huge page was",
        "log-init-set-lazy",
        "I22",
        (
            change(
                _SPLIT,
                "make_small_spte(kvm, huge_spte, level - 1, i)",
                "make_small_spte(kvm, huge_spte, level - 1, i) | 1 << 55 | 2",
            ),
        ),
    ),
    Mutant(
        "split-stat-missing",
        "4.15",
        "the parts of a split huge page are not counted",
        "direct-fault-split",
        "I4",
        (
            change(
                _SPLIT,
                "        kvm.fn.kvm_update_page_stats(kvm, level - 1, kvm.geometry.entries)\n",
                "        pass\n",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "huge-page-in-logged-slot",
        "4.5 step 2",
        "a fault in a dirty-tracked slot may use huge pages",
        "log-enable-write",
        "WARN:make_spte",
        (change("kvm_mmu_hugepage_adjust", "    if fault.slot.logged:\n        return\n", ""),),
    ),
    # --- 2.3, 4.9, 4.10 roots -------------------------------------------------------------
    Mutant(
        "fast-zap-no-request",
        "4.10",
        "vCPUs are not told that their root is obsolete",
        "direct-fast-zap-fault",
        "I23",
        (
            change(
                _FRONT,
                "    kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "stale-root-not-seen",
        "4.5 step 5",
        "is_page_fault_stale() does not look at the root",
        "direct-fast-zap-fault",
        "WARN:kvm_tdp_mmu_map",
        (change("is_page_fault_stale", "if root_is_invalid(kvm, root):", "if False:"),),
    ),
    Mutant(
        "fast-zap-takes-mirror",
        "4.10",
        "the fast zap invalidates the mirror root as well",
        "td-fast-zap",
        "I10",
        (change(_FRONT, "(kvm, KVM_DIRECT_ROOTS)", "(kvm, 6)"),),
    ),
    Mutant(
        "root-stays-scheduled",
        "2.3",
        "the flag of a root that has been zapped is not cleared",
        "direct-fast-zap-fault",
        "I16",
        (
            change(
                "kvm_tdp_mmu_zap_invalidated_roots",
                "        root.tdp_mmu_scheduled_root_to_zap.set(False)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "no-progress-check",
        "3.4",
        "a walk may yield again where it has just yielded",
        "direct-zap-root-fault",
        "",
        (
            change(
                "tdp_mmu_iter_cond_resched",
                "iter.next_last_level_gfn == iter.yielded_gfn or ",
                "",
            ),
        ),
        survives="a scenario has a budget of reschedules, so the walk goes on once it is spent",
    ),
    # --- 4.13 fast page fault -------------------------------------------------------------
    Mutant(
        "fast-pf-plain-store",
        "4.13",
        "the fast path stores without cmpxchg",
        "fast-pf-zap",
        "I4",
        (
            change(
                _FIX,
                "    ok, _ = sptep.try_cmpxchg(old_spte, new_spte)\n",
                "    sptep.write(new_spte)\n    ok = True\n",
            ),
        ),
    ),
    Mutant(
        "fast-pf-not-mmu-writable",
        "4.13",
        "the fast path does not look at MMU-writable",
        "fast-pf-write-track",
        "I13",
        (change(_NEW, "fault.write and is_mmu_writable_spte(spte)", "fault.write"),),
        alone=True,
    ),
    Mutant(
        "fast-pf-not-marked",
        "4.13",
        "the fast path does not mark the page dirty",
        "log-get-write",
        "I22",
        (
            change(
                _FIX,
                "    if is_writable_pte(new_spte) and not is_writable_pte(old_spte):\n",
                "    if False:\n",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "fast-pf-huge-logged",
        "4.13",
        "the fast path makes a huge page of a dirty-tracked slot writable",
        "log-enable-alloc",
        "I22",
        (change(_NEW, "> PG_LEVEL_4K and logged:", "> 9 and logged:"),),
    ),
    # --- 4.12 ageing ----------------------------------------------------------------------
    Mutant(
        "age-plain-store",
        "4.12",
        "ageing stores without cmpxchg",
        "age-zap",
        "I4",
        (
            change(
                _AGE,
                "    if kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, new_spte):\n        return\n",
                "    iter.sptep.write(new_spte)\n",
            ),
        ),
    ),
    Mutant(
        "age-without-rcu",
        "4.12",
        "ageing walks the tables without RCU",
        "age-collapse",
        "I6",
        (
            change(_AGE_RANGE, "    kvm.rcu.read_lock()\n", ""),
            change(_AGE_RANGE, "    kvm.rcu.read_unlock()\n", ""),
        ),
        alone=True,
    ),
)

TOGGLES: Final = toggles(MUTANTS)
