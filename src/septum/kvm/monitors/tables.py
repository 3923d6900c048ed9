# SPDX-License-Identifier: GPL-2.0-only
"""Accounting and life of tables and roots: I4 to I6, I14."""

from __future__ import annotations

from septum.kvm.monitors.base import Monitor
from septum.kvm.spte import is_last_spte, is_shadow_present_pte

__all__ = ["LinkedTables", "PageStats", "RootRefcounts", "TablePageLifetimes"]


class PageStats(Monitor):
    id = "I4"
    statement = "kvm->stat.pages[level-1] equals the number of present leafs at that level."
    judged = "settled"
    source = "facts/kvm-tdp-mmu.md 7(b) I4; Linux tdp_mmu.c __handle_changed_spte()"
    example = "the statistics are updated although the hook failed and the SPTE was restored"
    silenced_by_bug = True

    def settled(self) -> None:
        counts: dict[int, int] = {}
        for entry in self.view.entries():
            if is_shadow_present_pte(entry.value) and is_last_spte(entry.value, entry.level):
                counts[entry.level] = counts.get(entry.level, 0) + 1
        for level in range(1, min(self.view.geometry.levels, 3) + 1):
            kept, real = self.view.stat_pages(level), counts.get(level, 0)
            if kept != real:
                self.report(f"stat.pages[{level - 1}] is {kept}, present leafs: {real}")


class RootRefcounts(Monitor):
    id = "I5"
    statement = (
        "A root's count is its vCPU users plus the TDP MMU's own reference; a root with "
        "references is on the list."
    )
    judged = "settled (equality)"
    source = "facts/kvm-tdp-mmu.md 2.3, 7(a) I5; Linux kvm_tdp_mmu_put_root()"
    example = "an error exit leaves the root loop without kvm_tdp_mmu_put_root()"

    def settled(self) -> None:
        for root in self.view.roots():
            due = root.vcpus + (1 if root.owned else 0)
            if root.count != due:
                self.report(f"root {root.name}: count {root.count}, holders {due}", root.name)
            if root.count > 0 and not root.listed:
                self.report(f"root {root.name} has references but is not listed", root.name)


class TablePageLifetimes(Monitor):
    id = "I6"
    statement = (
        "No access to a freed table page; one free per page; an spt is freed only after a "
        "grace period, an S-EPT page only after it is the host's again; none is lost."
    )
    judged = "every access to a table page; every page given back to the host; settled (leaks)"
    source = "facts/kvm-tdp-mmu.md 7(a) I6; Linux tdp_mmu.c tdp_mmu_free_sp_rcu_callback()"
    example = "the removed table is freed at once while a fault still walks it"

    def on_page_freed(self, pfn: int) -> None:
        if self.view.page_type(pfn) == "EPT":
            self.report(f"page {pfn:x} is freed while the module owns it as an S-EPT page")

    def settled(self) -> None:
        """What is allocated and not freed is in use.  An S-EPT page that the module did not
        give back is leaked on purpose (facts 5.3), and a finding where that failed."""
        for pfn, name, in_use in self.view.table_pages():
            if not in_use and self.view.page_type(pfn) != "EPT":
                self.report(f"{name} is neither in use nor freed", name)


class LinkedTables(Monitor):
    id = "I14"
    statement = "tdp_mmu_pages equals the number of reachable non-root tables."
    judged = "settled"
    source = "facts/kvm-tdp-mmu.md 2.2, 7(b) I14; Linux tdp_mmu_link_sp(), tdp_mmu_unlink_sp()"
    example = "a table that lost the race is accounted although it was never linked"
    silenced_by_bug = True

    def settled(self) -> None:
        tables = {e.table.name for e in self.view.entries() if not e.table.is_root}
        kept = self.view.tdp_mmu_pages()
        if kept != len(tables):
            self.report(f"tdp_mmu_pages is {kept}, reachable tables: {len(tables)}")
