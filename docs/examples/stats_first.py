# SPDX-License-Identifier: GPL-2.0-only
"""A patch as a design: v7.3 that updates the page statistics before the hook."""

from septum.kvm.bug import BUG, WARN_ON
from septum.kvm.spte import (
    check_spte_writable_invariants,
    is_frozen_spte,
    is_last_spte,
    is_mirror_sp,
    is_mmio_spte,
    is_shadow_present_pte,
    spte_to_child_sp,
    spte_to_pfn,
)
from septum.kvm.structs import Kvm, KvmMmuPage
from septum.kvm.tdp_mmu import trace_kvm_tdp_mmu_spte_changed

PREDECESSOR = "v7.3"


def __handle_changed_spte(
    kvm: Kvm, sp: KvmMmuPage, gfn: int, old_spte: int, new_spte: int, level: int, shared: bool
) -> int:
    """Facts 4.3.  What the hook returned, else 0."""
    name = "__handle_changed_spte"
    was_present = is_shadow_present_pte(old_spte)
    is_present = is_shadow_present_pte(new_spte)
    was_leaf = was_present and is_last_spte(old_spte, level)
    is_leaf = is_present and is_last_spte(new_spte, level)
    pfn_changed = spte_to_pfn(old_spte) != spte_to_pfn(new_spte)
    WARN_ON(
        not 1 <= level <= kvm.geometry.levels or gfn % kvm.pages_per_hpage[level],
        kvm,
        name,
        "bad level, or a GFN not aligned to it",
    )
    if was_leaf and is_leaf and pfn_changed:
        BUG(kvm, name, f"gfn {gfn:x}: a leaf SPTE changes its PFN")
    if old_spte == new_spte:
        return 0
    if is_leaf:
        check_spte_writable_invariants(kvm, new_spte)
    if not was_present and not is_present:
        WARN_ON(
            not is_mmio_spte(kvm, old_spte)
            and not is_mmio_spte(kvm, new_spte)
            and not is_frozen_spte(new_spte),
            kvm,
            name,
            "a non-present SPTE becomes another one",
        )
        trace_kvm_tdp_mmu_spte_changed(kvm, sp, gfn, level, old_spte, new_spte)
        return 0
    if is_leaf != was_leaf:
        kvm.fn.kvm_update_page_stats(kvm, level, 1 if is_leaf else -1)
    if (
        was_present
        and not was_leaf
        and (is_leaf or not is_present or WARN_ON(pfn_changed, kvm, name, "table PFN changes"))
    ):
        kvm.fn.handle_removed_pt(kvm, spte_to_child_sp(kvm, old_spte).spt, shared)
    elif is_mirror_sp(sp):
        ret: int = kvm.fn.set_external_spte(kvm, gfn, old_spte, new_spte, level)
        if ret:
            return ret
    trace_kvm_tdp_mmu_spte_changed(kvm, sp, gfn, level, old_spte, new_spte)
    return 0
