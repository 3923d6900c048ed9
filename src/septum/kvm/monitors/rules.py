# SPDX-License-Identifier: GPL-2.0-only
"""Rules about single changes: locks (I10), leafs (I11), pages (I12)."""

from __future__ import annotations

from septum.kvm.monitors.base import Monitor
from septum.kvm.spte import is_last_spte, is_shadow_present_pte, spte_to_pfn
from septum.kvm.view import SpteChange
from septum.machine.geometry import PAGE_SHIFT
from septum.tdx import sept

__all__ = ["LeafKeepsPfn", "LockRules", "MappedPageIsNotFree"]


class LockRules(Monitor):
    id = "I10"
    statement = (
        "The locking rules hold: set_spte under W, set_spte_atomic under R, S-EPT removal and "
        "tracking under W, no sleeping under mmu_lock or RCU, slots_lock > mmu_lock > "
        "tdp_mmu_pages_lock."
    )
    judged = "every lockdep assertion of the kernel and every lock operation"
    source = "facts/kvm-tdp-mmu.md 7(a) I10; Linux lockdep_assert_held*() in tdp_mmu.c, tdx.c"
    example = "tdx_sept_remove_leaf_spte() reached under the shared lock"

    def on_page_freed(self, pfn: int) -> None:
        """free_external_spt() only after the HKID is released (D1 and later)."""
        if self.view.page_type(pfn) == "EPT" and self.view.keys_configured():
            self.report(f"S-EPT page {pfn:x} is given up while the TD's keys are configured")


class LeafKeepsPfn(Monitor):
    id = "I11"
    statement = "A present leaf never changes to a present leaf with another PFN."
    judged = "every store to an SPTE"
    source = "facts/kvm-tdp-mmu.md 4.3 step 1, 7(a) I11; Linux __handle_changed_spte() BUG()"
    example = "a fault installs a new page over a live leaf instead of zapping first"

    def on_spte(self, change: SpteChange) -> None:
        old, new, level = change.old, change.new, change.entry.level
        if not (is_shadow_present_pte(old) and is_shadow_present_pte(new)):
            return
        if is_last_spte(old, level) and is_last_spte(new, level):
            if spte_to_pfn(old) != spte_to_pfn(new):
                self.report(
                    f"gfn {change.entry.gfn:x}: leaf pfn {spte_to_pfn(old):x} -> "
                    f"{spte_to_pfn(new):x}"
                )


class MappedPageIsNotFree(Monitor):
    id = "I12"
    statement = "A PFN that the S-EPT maps is not returned to the host's allocator."
    judged = "every page given back to the host, every S-EPT leaf that is set"
    source = "facts/kvm-tdp-mmu.md 7(a) I12, 6.10 row 8; Linux tdx_sept_remove_leaf_spte()"
    example = "PAGE.REMOVE fails, the mirror is already empty, punch hole frees the page"

    def on_page_freed(self, pfn: int) -> None:
        if self.view.page_type(pfn) == "REG":
            self.report(f"page {pfn:x} is freed while the S-EPT still maps it")

    def on_sept(self, tdr: int, table_hpa: int, index: int, old: int, new: int) -> None:
        if sept.is_leaf(new) and not sept.is_leaf(old):
            pfn = sept.hpa_of(new) >> PAGE_SHIFT
            if self.view.page_is_free(pfn):
                self.report(f"the S-EPT maps page {pfn:x}, which is back with the host")
