# SPDX-License-Identifier: GPL-2.0-only
"""Mutants of private huge pages: mapping, splitting and taking away 2M leafs (facts 6.6, 6.7)."""

from __future__ import annotations

from typing import Any, Final

from septum.designs.mutants_base import Mutant, change, toggles

__all__ = ["MUTANTS", "TOGGLES"]

_BASE: Final = "v7.3+hugepage"
_SHARED: Final = f"{_BASE}+shared-param"

_SPLIT: Final = "tdx_sept_split_private_spte"
_BLOCK: Final = (
    "    result = no_vcpus(kvm, kvm.fn.tdh_mem_range_block, gfn, level)\n"
    '    if TDX_BUG_ON(result, "TDH_MEM_RANGE_BLOCK", kvm, name):\n'
    "        return -EIO\n"
)
_TRACK: Final = "    kvm.fn.tdx_track(kvm)\n"
_DEMOTE: Final = (
    "    result = no_vcpus(kvm, kvm.fn.tdh_mem_page_demote, gfn, level, external_spt)\n"
    '    if TDX_BUG_ON(result, "TDH_MEM_PAGE_DEMOTE", kvm, name):\n'
    "        return -EIO\n"
)
_FILL: Final = "make_small_spte(kvm, huge_spte, level - 1, i)"
_PUNCH: Final = "kvm_gmem_punch_hole"
_HONOR: Final = "tdx_honor_guest_accept_level"
_INHIBIT: Final = (
    "    if not r:\n"
    "        for above in range(level + 1, min(3, kvm.geometry.levels - 1) + 1):\n"
    "            fn.hugepage_set_guest_inhibit(kvm, slot, gfn, above)\n"
)
_LOCKED: Final = "    kvm.mmu_lock.write_lock()\n"


def _mutant(
    name: str,
    doc: str,
    scenario: str,
    rule: str,
    *hunks: tuple[str, str, str],
    base: str = _BASE,
    **more: Any,
) -> Mutant:
    changes = tuple(change(*hunk) for hunk in hunks)
    return Mutant(name, "6.6", doc, scenario, rule, changes, base=base, **more)


MUTANTS: Final = (
    # --- the split ------------------------------------------------------------------------
    _mutant(
        "demote-before-track",
        "PAGE.DEMOTE is called before TRACK",
        "huge-split-fault",
        "I8",
        (_SPLIT, _TRACK + _DEMOTE, _DEMOTE + _TRACK),
    ),
    _mutant(
        "split-without-block",
        "the huge page is not blocked before PAGE.DEMOTE",
        "huge-split-fault",
        "I8",
        (_SPLIT, _BLOCK, ""),
    ),
    _mutant(
        "demote-without-retry",
        "PAGE.DEMOTE is not called again without vCPUs",
        "huge-split-accept",
        "I8",
        (_SPLIT, "no_vcpus(kvm, kvm.fn.tdh_mem_page_demote, ", "kvm.fn.tdh_mem_page_demote(kvm, "),
    ),
    _mutant(
        "split-block-without-retry",
        "BLOCK of the huge page is not called again without vCPUs",
        "huge-split-accept",
        "I8",
        (_SPLIT, "no_vcpus(kvm, kvm.fn.tdh_mem_range_block, ", "kvm.fn.tdh_mem_range_block(kvm, "),
    ),
    _mutant(
        "demote-level-off-by-one",
        "PAGE.DEMOTE is given KVM's level, which is one more than the module's",
        "huge-split-fault",
        "I8",
        ("tdh_mem_page_demote", "| level - 1", "| level"),
    ),
    _mutant(
        "demote-gives-kvms-table",
        "PAGE.DEMOTE is given KVM's own table page, not external_spt",
        "huge-split-fault",
        "I1",
        (
            _SPLIT,
            "tdh_mem_page_demote, gfn, level, external_spt",
            "tdh_mem_page_demote, gfn, level, spte_to_pfn(new_spte)",
        ),
    ),
    _mutant(
        "split-children-same-pfn",
        "all children of a split are filled with the first one's page",
        "huge-split-accept",
        "I1",
        ("tdp_mmu_split_huge_page", _FILL, "make_small_spte(kvm, huge_spte, level - 1, 0)"),
    ),
    _mutant(
        "split-children-stay-large",
        "the children of a split are filled as if they were one level up",
        "huge-split-accept",
        "I1",
        ("tdp_mmu_split_huge_page", _FILL, "make_small_spte(kvm, huge_spte, level, i)"),
    ),
    _mutant(
        "split-without-external-spt",
        "the table of a split has no page for the S-EPT",
        "huge-split-fault",
        "BUG:tdx_spte_to_sept_pt",
        ("tdp_mmu_alloc_sp_for_split", "    if mirror:\n", "    if False:\n"),
    ),
    _mutant(
        "split-children-not-counted",
        "the small leafs of a split are missing in the statistics",
        "huge-split-fault",
        "I4",
        (
            "tdp_mmu_split_huge_page",
            "        kvm.fn.kvm_update_page_stats(kvm, level - 1, kvm.geometry.entries)\n",
            "        pass\n",
        ),
    ),
    _mutant(
        "split-table-not-linked",
        "the filled table of a split is not linked",
        "huge-split-fault",
        "I4",
        (
            "tdp_mmu_split_huge_page",
            "    ret: int = kvm.fn.tdp_mmu_link_sp(kvm, iter, sp, shared)\n",
            "    ret = 0\n",
        ),
    ),
    _mutant(
        "split-error-ignored",
        "an error of PAGE.DEMOTE is not returned",
        "huge-split-accept",
        "",
        (_SPLIT, "        return -EIO\n    return 0\n", "        pass\n    return 0\n"),
        survives="harmless: TDX_BUG_ON has bugged the VM, which the caller would do again; a BUSY "
        "does not last two calls",
    ),
    _mutant(
        "read-split-busy-ignored",
        "under the read lock a BUSY of PAGE.DEMOTE counts as success",
        "read-split-accept",
        "I1",
        (
            _SPLIT,
            '            kvm.m.reach("PAGE.DEMOTE returned BUSY")\n            return -EBUSY\n',
            '            kvm.m.reach("PAGE.DEMOTE returned BUSY")\n            return 0\n',
        ),
        base=_SHARED,
    ),
    _mutant(
        "read-split-assumes-write",
        "under the read lock the split keeps the vCPUs out",
        "read-split-fault",
        "I10",
        (_SPLIT, "    if shared:\n", "    if False:\n"),
        base=_SHARED,
    ),
    # --- who splits -----------------------------------------------------------------------
    _mutant(
        "punch-splits-under-read-lock",
        "the split before a hole takes mmu_lock for read",
        "huge-punch-no-memory",
        "I10",
        ("kvm_gmem_split_private", "mmu_lock.write_lock()", "mmu_lock.read_lock()"),
        ("kvm_gmem_split_private", "mmu_lock.write_unlock()", "mmu_lock.read_unlock()"),
    ),
    _mutant(
        "split-error-leaks-root",
        "a split that finds no memory keeps its reference to the root (as posted first)",
        "huge-punch-no-memory",
        "I5",
        (
            "kvm_tdp_mmu_mirrors_split_huge_pages",
            "            kvm.fn.kvm_tdp_mmu_put_root(kvm, root)\n",
            "",
        ),
    ),
    _mutant(
        "punch-error-has-no-end",
        "a hole that was not punched does not end its invalidation",
        "huge-punch-no-memory",
        "I23",
        (
            _PUNCH,
            "    fn.kvm_gmem_invalidate_end(kvm, file, start, end)\n",
            "    if not r:\n        fn.kvm_gmem_invalidate_end(kvm, file, start, end)\n",
        ),
    ),
    _mutant(
        "punch-error-truncates",
        "a hole whose split found no memory gives the pages back all the same",
        "huge-punch-no-memory",
        "I12",
        (
            _PUNCH,
            "    if not r:\n        fn.truncate_inode_pages_range",
            "    if True:\n        fn.truncate_inode_pages_range",
        ),
    ),
    _mutant(
        "split-after-zap",
        "the split of a partly punched huge page comes after the zap (RFC v5 43/45 as posted)",
        "huge-punch-half",
        "I21",
        (
            _PUNCH,
            "        r = fn.kvm_gmem_split_private(kvm, file, start, end)\n"
            "        if not r:\n"
            "            fn.kvm_gmem_zap(kvm, file, start, end)\n",
            "        fn.kvm_gmem_zap(kvm, file, start, end)\n"
            "        r = fn.kvm_gmem_split_private(kvm, file, start, end)\n",
        ),
    ),
    _mutant(
        "fault-merges-tables",
        "a fault may replace a mirror table by a huge leaf",
        "huge-refault",
        "BUG:tdx_sept_free_private_spt",
        (
            "kvm_tdp_mmu_map",
            "            kvm.fn.disallow_merge(kvm, fault, iter)\n",
            "            pass\n",
        ),
    ),
    _mutant(
        "inhibit-before-split",
        "the inhibit flag is set before the split that it stands for",
        "huge-accept-mismatch",
        "BUG:kvm_tdp_mmu_map",
        (_HONOR, _INHIBIT, ""),
        (_HONOR, _LOCKED, _LOCKED + _INHIBIT.replace("if not r:", "if True:")),
    ),
    _mutant(
        "inhibit-never-set",
        "an ACCEPT at a lower level splits, but does not forbid huge pages",
        "huge-accept-first",
        "",
        (_HONOR, "fn.hugepage_set_guest_inhibit(kvm, slot, gfn, above)", "pass"),
        survives="harmless: the next huge page there is split again at its first ACCEPT",
    ),
    _mutant(
        "accept-does-not-split",
        "an ACCEPT at a lower level forbids huge pages, but does not split the one there",
        "huge-accept-mismatch",
        "BUG:kvm_tdp_mmu_map",
        (
            _HONOR,
            "    r: int = fn.tdx_sept_split_huge_pages("
            "kvm, start, start + kvm.pages_per_hpage[level], level)\n",
            "    r = 0\n",
        ),
    ),
    _mutant(
        "convert-head-not-added",
        "a conversion does not add the huge page at its head to the invalidation",
        "huge-convert-fault",
        "BUG:kvm_tdp_mmu_map",
        (
            "kvm_arch_pre_set_memory_attributes",
            "            fn.kvm_mmu_invalidate_range_add(kvm, head, head + pages)\n",
            "            pass\n",
        ),
    ),
    _mutant(
        "mixed-ignored",
        "a huge page may cover private and shared GFNs",
        "huge-convert-fault",
        "",
        (
            "kvm_mmu_max_mapping_level",
            "not kvm.fn.hugepage_test_mixed(slot, start, level)",
            "True",
        ),
        survives="not judged: no rule forbids a private leaf over a shared GFN, whose page "
        "guest_memfd still has",
    ),
    # --- removal --------------------------------------------------------------------------
    _mutant(
        "huge-remove-before-track",
        "PAGE.REMOVE of a huge page comes without TRACK",
        "huge-convert-half",
        "I8",
        ("tdx_sept_remove_leaf_spte", _TRACK, ""),
    ),
    _mutant(
        "huge-wbinvd-first-page-only",
        "only the first 4K of a removed huge page are written back",
        "huge-refault",
        "",
        (
            "tdx_sept_remove_leaf_spte",
            "range(pfn, pfn + kvm.pages_per_hpage[level])",
            "range(pfn, pfn + 1)",
        ),
        survives="not modelled: cache lines of a TD's key",
    ),
)

TOGGLES: Final = toggles(MUTANTS)
