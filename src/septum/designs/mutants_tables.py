# SPDX-License-Identifier: GPL-2.0-only
"""Mutants of linking, removing and freeing tables, and of roots (facts 2.3, 4.4 to 4.6)."""

from __future__ import annotations

from typing import Final

from septum.designs.mutants_base import Mutant, change, toggles

__all__ = ["MUTANTS", "TOGGLES"]

_REMOVED: Final = "handle_removed_pt"
_FREE_EXTERNAL: Final = "    if is_mirror_sp(sp):\n        kvm.fn.free_external_spt(kvm, sp)\n"
_CALL_RCU: Final = "    sp.spt.call_rcu(lambda: kvm.fn.tdp_mmu_free_sp_rcu_callback(kvm, sp))\n"
_UNLINK: Final = "    kvm.fn.tdp_mmu_unlink_sp(kvm, sp)\n"
_FREEZE: Final = (
    "            old_spte = kvm.fn.kvm_tdp_mmu_write_spte"
    "(kvm, sptep, old_spte, FROZEN_SPTE, level)\n"
)
_LOOP: Final = "    for i in range(kvm.geometry.entries):\n"
_LINK: Final = "tdp_mmu_link_sp"
_ACCOUNT: Final = "    kvm.fn.tdp_account_mmu_page(kvm, sp)\n"
_SPTE: Final = "    spte = make_nonleaf_spte(sp, sp.role.ad_disabled)\n"
_MISSING: Final = "tdp_mmu_map_handle_missing_table"
_MAP: Final = "kvm_tdp_mmu_map"
_FROZEN: Final = (
    "        if is_frozen_spte(iter.old_spte):\n"
    "            _blame_path(iter, walked_at)\n"
    '            m.reach("a fault met FROZEN_SPTE")\n'
    "            break\n"
)

MUTANTS: Final = (
    # --- 4.4 handle_removed_pt ------------------------------------------------------------
    Mutant(
        "unlink-missing",
        "4.4 step 1",
        "a removed table stays in tdp_mmu_pages",
        "subtree",
        "I14",
        (change(_REMOVED, _UNLINK, ""),),
    ),
    Mutant(
        "child-skipped",
        "4.4 step 2",
        "the last entry of a removed table is not looked at",
        "subtree",
        "I6",
        (change(_REMOVED, "range(kvm.geometry.entries)", "range(kvm.geometry.entries - 1)"),),
    ),
    Mutant(
        "children-ignored",
        "4.4 step 2",
        "a removed table's entries are frozen, but nobody reacts to the change",
        "subtree",
        "I6",
        (
            change(
                _REMOVED,
                "        kvm.fn.handle_changed_spte("
                "kvm, sp, gfn, old_spte, FROZEN_SPTE, level, shared)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "removed-not-frozen",
        "4.4 step 2",
        "under the write lock the entries of a removed table keep their values",
        "subtree",
        "I20",
        (change(_REMOVED, _FREEZE, ""),),
    ),
    Mutant(
        "removed-shared-not-frozen",
        "4.4 step 2",
        "under the read lock the entries of a removed table keep their values",
        "direct-collapse-fault",
        "I20",
        (
            change(
                "freeze_removed_spte",
                "kvm.fn.kvm_tdp_mmu_write_spte_atomic(kvm, sptep, FROZEN_SPTE)",
                "sptep.read()",
            ),
        ),
    ),
    Mutant(
        "removed-frozen-once",
        "4.4 step 2",
        "under the read lock a FROZEN entry of a removed table is not waited for",
        "subtree",
        "",
        (change("freeze_removed_spte", "if not is_frozen_spte(old_spte):", "if True:"),),
        survives=(
            "unreachable: direct SPTEs are FROZEN in removed tables only, and mirror tables are"
            " removed under the write lock"
        ),
    ),
    Mutant(
        "parent-before-children",
        "4.4 step 3",
        "a removed table's S-EPT page is reclaimed before those of its children",
        "subtree",
        "",
        (
            change(_REMOVED, _FREE_EXTERNAL, ""),
            change(_REMOVED, _UNLINK, _UNLINK + _FREE_EXTERNAL),
        ),
        survives=(
            "harmless: with the keys gone PHYMEM.PAGE.RECLAIM takes S-EPT pages in any order, "
            "only the TDR must be last"
        ),
    ),
    Mutant(
        "free-external-missing",
        "4.4 step 3",
        "free_external_spt is not called for a removed table",
        "subtree",
        "WARN:tdp_mmu_free_sp_rcu_callback",
        (change(_REMOVED, _FREE_EXTERNAL, ""),),
    ),
    Mutant(
        "free-before-children",
        "4.4 step 4",
        "a removed table is freed before its entries are looked at",
        "subtree",
        "I6",
        (
            change(_REMOVED, _CALL_RCU, ""),
            change(_REMOVED, _LOOP, "    kvm.fn.__tdp_mmu_free_sp(kvm, sp)\n" + _LOOP),
        ),
    ),
    Mutant(
        "free-without-rcu",
        "4.4 step 4",
        "a removed table is freed at once, not after a grace period",
        "subtree",
        "I6",
        (change(_REMOVED, _CALL_RCU, "    kvm.fn.tdp_mmu_free_sp_rcu_callback(kvm, sp)\n"),),
        alone=True,
    ),
    Mutant(
        "rcu-before-children",
        "4.4 step 4",
        "call_rcu() comes before the table's entries are looked at",
        "subtree",
        "",
        (
            change(_REMOVED, _CALL_RCU, ""),
            change(_REMOVED, _LOOP, _CALL_RCU + _LOOP),
        ),
        survives=(
            "harmless: the zap is one RCU reader section, so the grace period cannot end inside it"
        ),
    ),
    Mutant(
        "freed-as-unused",
        "4.4 step 4",
        "a removed table is freed by the path for tables that were never linked",
        "subtree",
        "I6",
        (
            change(_REMOVED, _FREE_EXTERNAL, ""),
            change(_REMOVED, _CALL_RCU, "    kvm.fn.tdp_mmu_free_unused_sp(kvm, sp)\n"),
        ),
    ),
    Mutant(
        "freed-twice",
        "4.4 step 4",
        "a removed table is handed to call_rcu() twice",
        "subtree",
        "I6",
        (change(_REMOVED, _CALL_RCU, _CALL_RCU + _CALL_RCU),),
    ),
    Mutant(
        "removed-never-freed",
        "4.4 step 4",
        "call_rcu() is missing: a removed table is leaked",
        "subtree",
        "I6",
        (change(_REMOVED, _CALL_RCU, ""),),
    ),
    # --- 4.5, 4.6 the fault ---------------------------------------------------------------
    Mutant(
        "fault-ignores-frozen",
        "4.5",
        "a fault takes FROZEN_SPTE for an empty entry",
        "fault-fault",
        "WARN:__tdp_mmu_set_spte_atomic",
        (change(_MAP, _FROZEN, ""),),
    ),
    Mutant(
        "fault-freezes-frozen",
        "4.5",
        "a fault takes FROZEN_SPTE for an empty entry, and nothing warns (facts 6.9, D4d)",
        "fault-fault",
        "I8",
        (
            change(_MAP, _FROZEN, ""),
            change(
                "__tdp_mmu_set_spte_atomic",
                "iter.yielded or is_frozen_spte(iter.old_spte)",
                "iter.yielded",
            ),
        ),
    ),
    Mutant(
        "fault-unfreezes",
        "4.5",
        "a fault that meets FROZEN_SPTE empties the entry instead of waiting for its owner",
        "fault-fault",
        "I9",
        (
            change(
                _MAP,
                _FROZEN,
                "        if is_frozen_spte(iter.old_spte):\n"
                "            kvm.fn.__kvm_tdp_mmu_write_spte("
                "kvm, iter.sptep, SHADOW_NONPRESENT_VALUE)\n"
                "            break\n",
            ),
        ),
        executions=200,
    ),
    Mutant(
        "link-as-if-exclusive",
        "4.5",
        "a fault links its table with tdp_mmu_set_spte(), mmu_lock held for read",
        "fault-fault",
        "I10",
        (
            change(
                _MISSING,
                "kvm.fn.tdp_mmu_link_sp(kvm, iter, sp, True)",
                "kvm.fn.tdp_mmu_link_sp(kvm, iter, sp, False)",
            ),
        ),
    ),
    Mutant(
        "account-before-publication",
        "4.5",
        "tdp_mmu_pages counts a table before it is linked, and keeps it if that fails",
        "fault-fault",
        "I14",
        (change(_LINK, _ACCOUNT, ""), change(_LINK, _SPTE, _SPTE + _ACCOUNT)),
    ),
    Mutant(
        "link-failure-ignored",
        "4.5",
        "a table that could not be linked is taken for a linked one",
        "fault-fault",
        "I6",
        (change(_LINK, "        if ret:\n            return ret\n", ""),),
    ),
    Mutant(
        "linked-table-freed",
        "4.5",
        "the path for tables that nobody saw frees those that were linked",
        "fault-fault",
        "I6",
        (change(_MISSING, "    if r:\n", "    if not r:\n"),),
    ),
    Mutant(
        "lost-table-leaked",
        "4.5",
        "a table that could not be linked is not freed",
        "fault-fault",
        "I6",
        (change(_MISSING, "        kvm.fn.tdp_mmu_free_unused_sp(kvm, sp)\n", "        pass\n"),),
        alone=True,
    ),
    Mutant(
        "no-external-page",
        "4.5",
        "a new mirror table gets no page for the S-EPT",
        "fault-fault",
        "BUG:tdx_spte_to_sept_pt",
        (change(_MISSING, "    if is_mirror_sp(sp):\n", "    if not is_mirror_sp(sp):\n"),),
    ),
    Mutant(
        "child-for-another-gfn",
        "4.5",
        "a new table is made for the next GFN",
        "fault-fault",
        "BUG:tdx_spte_to_sept_pt",
        (
            change(
                "tdp_mmu_init_child_sp",
                "iter.sptep, iter.gfn, role",
                "iter.sptep, iter.gfn + 1, role",
            ),
        ),
    ),
    Mutant(
        "failed-leaf-is-fixed",
        "4.6",
        "a leaf that could not be installed counts as RET_PF_FIXED",
        "install-leaf-fails",
        "",
        (
            change(
                "tdp_mmu_map_handle_target_level",
                "    elif kvm.fn.tdp_mmu_set_spte_atomic(kvm, iter, new_spte):\n"
                "        return RET_PF_RETRY\n",
                "    elif kvm.fn.tdp_mmu_set_spte_atomic(kvm, iter, new_spte):\n"
                "        return RET_PF_FIXED\n",
            ),
        ),
        survives="harmless: the guest comes back with the same fault; what it costs is an exit",
    ),
    # --- 2.3 roots ------------------------------------------------------------------------
    Mutant(
        "root-not-put",
        "2.3",
        "unmapping leaves the root loop early, without kvm_tdp_mmu_put_root()",
        "fault-punch",
        "I5",
        (
            change(
                "kvm_tdp_mmu_unmap_gfn_range",
                "range.may_block, flush)\n",
                "range.may_block, flush)\n        break\n",
            ),
        ),
    ),
    Mutant(
        "root-put-twice",
        "2.3",
        "unmapping puts a root that its loop puts as well",
        "fault-punch",
        "I5",
        (
            change(
                "kvm_tdp_mmu_unmap_gfn_range",
                "range.may_block, flush)\n",
                "range.may_block, flush)\n        kvm.fn.kvm_tdp_mmu_put_root(kvm, root)\n",
            ),
        ),
    ),
)

TOGGLES: Final = toggles(MUTANTS)
