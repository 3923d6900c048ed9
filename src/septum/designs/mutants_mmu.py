# SPDX-License-Identifier: GPL-2.0-only
"""Mutants of setting an SPTE and of reacting to the change (facts 4.1 to 4.3)."""

from __future__ import annotations

from typing import Final

from septum.designs.mutants_base import Mutant, change, toggles

__all__ = ["MUTANTS", "TOGGLES"]

_ATOMIC: Final = "tdp_mmu_set_spte_atomic"
_CHANGED: Final = "__handle_changed_spte"
_FREEZE: Final = "kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, FROZEN_SPTE)"
_HANDLE: Final = "    ret = kvm.fn.__handle_changed_spte("
_FINAL: Final = (
    "kvm.fn.__kvm_tdp_mmu_write_spte(kvm, iter.sptep, iter.old_spte if ret else new_spte)"
)
_STAT: Final = (
    "    if is_leaf != was_leaf:\n"
    "        kvm.fn.kvm_update_page_stats(kvm, level, 1 if is_leaf else -1)\n"
)
_RETURN: Final = "        if ret:\n            return ret\n"
_STORE: Final = (
    "    old_spte = kvm.fn.kvm_tdp_mmu_write_spte(kvm, sptep, old_spte, new_spte, level)\n"
)
_REACT: Final = (
    "    kvm.fn.handle_changed_spte("
    "kvm, sptep_to_sp(sptep), gfn, old_spte, new_spte, level, False)\n"
)

MUTANTS: Final = (
    # --- 4.1 tdp_mmu_set_spte_atomic ------------------------------------------------------
    Mutant(
        "no-freeze",
        "4.1 step 2",
        "a mirror SPTE gets its new value at once, as a direct one does",
        "fault-neighbours",
        "I1",
        (change(_ATOMIC, _FREEZE, _FREEZE.replace("FROZEN_SPTE", "new_spte")),),
    ),
    Mutant(
        "freeze-by-store",
        "4.1 step 2",
        "the cmpxchg that freezes is a store, so two tasks may both win",
        "fault-fault",
        "I9",
        (
            change(
                "__tdp_mmu_set_spte_atomic",
                "ok, iter.old_spte = iter.sptep.try_cmpxchg(iter.old_spte, new_spte)",
                "iter.sptep.write(new_spte)\n    ok = True",
            ),
        ),
        executions=200,
    ),
    Mutant(
        "freeze-any",
        "4.1 step 2",
        "the freeze is an xchg: it takes whatever value the SPTE has by now",
        "fault-fault",
        "I8",
        (
            change(
                _ATOMIC,
                _FREEZE,
                "0\n        iter.old_spte = kvm.fn.kvm_tdp_mmu_write_spte_atomic("
                "kvm, iter.sptep, FROZEN_SPTE)",
            ),
        ),
    ),
    Mutant(
        "unfreeze-before-hook",
        "4.1 step 3",
        "the new value is stored before the hook has run",
        "fault-neighbours",
        "I1",
        (
            change(
                _ATOMIC,
                _HANDLE,
                "    if is_mirror_sptep(iter.sptep):\n"
                "        kvm.fn.__kvm_tdp_mmu_write_spte(kvm, iter.sptep, new_spte)\n" + _HANDLE,
            ),
        ),
    ),
    Mutant(
        "hook-error-ignored",
        "4.1 step 4",
        "the hook's error is dropped: the new value is stored all the same",
        "install-leaf-fails",
        "I1",
        (change(_ATOMIC, _HANDLE, _HANDLE.replace("ret = ", "")),),
    ),
    Mutant(
        "failure-keeps-new-value",
        "4.1 step 4",
        "after a failure the SPTE gets the new value instead of the old one",
        "install-table-fails",
        "I1",
        (change(_ATOMIC, _FINAL, _FINAL.replace("iter.old_spte if ret else ", "")),),
    ),
    Mutant(
        "failure-stores-zero",
        "4.1 step 4",
        "after a failure the SPTE is 0, not SHADOW_NONPRESENT_VALUE",
        "install-leaf-fails",
        "WARN:__kvm_tdp_mmu_write_spte",
        (change(_ATOMIC, _FINAL, _FINAL.replace("iter.old_spte if", "0 if")),),
    ),
    Mutant(
        "failure-not-restored",
        "4.1 step 4",
        "after a failure the SPTE stays FROZEN",
        "install-leaf-fails",
        "I23",
        (change(_ATOMIC, f"        {_FINAL}", f"        if not ret:\n            {_FINAL}"),),
    ),
    Mutant(
        "fatal-failure-not-restored",
        "4.1 step 4",
        "after a failure other than BUSY the SPTE stays FROZEN",
        "install-leaf-fails",
        "",
        (
            change(
                _ATOMIC,
                f"        {_FINAL}",
                f"        if ret in (0, -EBUSY):\n            {_FINAL}",
            ),
        ),
        survives=(
            "harmless: the VM is bugged by then, every fault ends with -EIO, and teardown takes"
            " FROZEN for not present; I2 is silent on a bugged VM by design"
        ),
    ),
    Mutant(
        "leaf-not-unfrozen",
        "4.1 step 4",
        "after the hook the SPTE stays FROZEN if it is to be a leaf",
        "fault-neighbours",
        "I2",
        (
            change(
                _ATOMIC,
                f"        {_FINAL}",
                f"        if ret or not is_last_spte(new_spte, iter.level):\n            {_FINAL}",
            ),
        ),
    ),
    Mutant(
        "failure-reported-as-success",
        "4.1 step 5",
        "after a failure the SPTE is restored, but the caller is told that all went well",
        "install-table-fails",
        "I6",
        (
            change(
                _ATOMIC,
                f"        {_FINAL}\n",
                f"        {_FINAL}\n        return 0\n",
            ),
        ),
    ),
    # --- 4.2 tdp_mmu_set_spte -------------------------------------------------------------
    Mutant(
        "zap-stores-nothing",
        "4.2",
        "under the write lock only the S-EPT changes, the mirror keeps its value",
        "fault-punch",
        "I1",
        (change("tdp_mmu_set_spte", _STORE, ""),),
    ),
    Mutant(
        "zap-leaves-frozen",
        "4.2",
        "a zapped mirror SPTE is frozen and stays so",
        "fault-punch",
        "I2",
        (
            change(
                "tdp_mmu_set_spte",
                _STORE,
                _STORE.replace("new_spte,", "FROZEN_SPTE if is_mirror_sptep(sptep) else new_spte,"),
            ),
        ),
    ),
    Mutant(
        "zap-hook-before-store",
        "4.2",
        "under the write lock the hook runs before the store",
        "fault-punch",
        "",
        (change("tdp_mmu_set_spte", _STORE + _REACT, _REACT + _STORE),),
        survives=(
            "harmless: under the write lock nobody else acts on the mirror SPTE, so the order "
            "does not show"
        ),
    ),
    Mutant(
        "zap-error-ignored",
        "4.2",
        "a hook that fails under the write lock does not bug the VM",
        "fault-punch",
        "",
        (
            change(
                "handle_changed_spte",
                "    KVM_BUG_ON(\n",
                "    bool(\n",
            ),
            change(
                "handle_changed_spte",
                ',\n        kvm,\n        "handle_changed_spte",\n'
                '        "the S-EPT could not follow an SPTE change",\n',
                "\n",
            ),
        ),
        survives=(
            "harmless: every failure of the hook has bugged the VM already (TDX_BUG_ON, "
            "KVM_BUG_ON), so the second KVM_BUG_ON is silent"
        ),
    ),
    # --- 4.3 __handle_changed_spte --------------------------------------------------------
    Mutant(
        "leaf-not-propagated",
        "4.3 step 5",
        "the hook is not called for a new leaf",
        "fault-fault",
        "I1",
        (change(_CHANGED, "elif is_mirror_sp(sp):", "elif is_mirror_sp(sp) and not is_leaf:"),),
    ),
    Mutant(
        "table-not-propagated",
        "4.3 step 5",
        "the hook is called for leafs only: no SEPT.ADD",
        "fault-fault",
        "I1",
        (
            change(
                _CHANGED,
                "elif is_mirror_sp(sp):",
                "elif is_mirror_sp(sp) and (was_leaf or is_leaf):",
            ),
        ),
    ),
    Mutant(
        "zap-not-propagated",
        "4.3 step 5",
        "the hook is called only if the new SPTE is present",
        "fault-punch",
        "I12",
        (change(_CHANGED, "elif is_mirror_sp(sp):", "elif is_mirror_sp(sp) and is_present:"),),
    ),
    Mutant(
        "hook-for-removed-table",
        "4.3 step 5",
        "the hook is called for a removed table's own entry as well",
        "subtree",
        "BUG:tdx_sept_remove_leaf_spte",
        (change(_CHANGED, "    elif is_mirror_sp(sp):", "    if is_mirror_sp(sp):"),),
    ),
    Mutant(
        "removed-table-ignored",
        "4.3 step 5",
        "handle_removed_pt() is not called for a table that is zapped",
        "subtree",
        "I6",
        (
            change(
                _CHANGED,
                "kvm.fn.handle_removed_pt(kvm, spte_to_child_sp(kvm, old_spte).spt, shared)",
                "pass",
            ),
        ),
    ),
    Mutant(
        "error-swallowed",
        "4.3 step 5",
        "the hook's error is not returned; trace and statistics follow",
        "install-leaf-fails",
        "I1",
        (change(_CHANGED, _RETURN, ""),),
    ),
    Mutant(
        "reread-sptep",
        "4.3 step 5",
        "*sptep is read again and taken for the new value: FROZEN, under the read lock",
        "fault-fault",
        "I1",
    ),
    Mutant(
        "stat-before-hook",
        "4.3 step 7",
        "the statistics change before the hook, and stay so if it fails",
        "install-leaf-fails",
        "I4",
        (
            change(_CHANGED, _STAT, ""),
            change(
                _CHANGED,
                "    if old_spte == new_spte:\n        return 0\n",
                "    if old_spte == new_spte:\n        return 0\n" + _STAT,
            ),
        ),
        alone=True,
    ),
    Mutant(
        "stat-missing",
        "4.3 step 7",
        "a leaf that goes is not counted",
        "fault-punch",
        "I4",
        (change(_CHANGED, "if is_leaf != was_leaf:", "if is_leaf and not was_leaf:"),),
        alone=True,
    ),
    Mutant(
        "stat-at-wrong-level",
        "4.3 step 7",
        "leafs are counted one level too high",
        "fault-fault",
        "I4",
        (
            change(
                _CHANGED,
                "kvm_update_page_stats(kvm, level,",
                "kvm_update_page_stats(kvm, level + 1,",
            ),
        ),
        alone=True,
    ),
)

TOGGLES: Final = toggles(MUTANTS)
