# SPDX-License-Identifier: GPL-2.0-only
"""The rules of replay, each with an id, a statement, its source and examples.

Ids are those of the invariants (facts 7) where one applies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from septum.trace.examples import EXAMPLES

__all__ = ["RULES", "Rule"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Its examples are short runs of lines that keep and break it: docs/replay-rules.md
    shows them."""

    id: str
    statement: str
    source: str

    @property
    def good(self) -> tuple[str, ...]:
        return EXAMPLES[self.id].good

    @property
    def bad(self) -> tuple[str, ...]:
        return EXAMPLES[self.id].bad


RULES: Final = {
    rule.id: rule
    for rule in (
        Rule(
            "I20",
            "The old value of a line is the new value of the line before it on the same"
            " entry, up to A and D (set by the CPU) and W (set by fast_page_fault), for"
            " some order of lines of different CPUs.",
            "__handle_changed_spte(), tdp_mmu.c; facts 7 (I20)",
        ),
        Rule(
            "I20-removal",
            "When a page table goes, its parent and each of its present entries (all"
            " entries, if removed under the shared lock) has a line of the same task, in"
            " ascending order; 7.3 logs the children first, 6.1 and 6.12 the parent.",
            "handle_removed_pt(), tdp_mmu.c; facts 4.4, 8.4",
        ),
        Rule(
            "I20-link",
            "An entry belongs to a table that a line linked; a page is linked once until"
            " it is removed.",
            "tdp_mmu_link_sp(), tdp_mmu.c; facts 4.19",
        ),
        Rule(
            "I20-reinstall",
            "A leaf is not installed twice in a row: between two lines that put a leaf into"
            " an empty entry, a line takes it out.",
            "tdp_mmu_map_handle_target_level(), tdp_mmu.c; facts 4.6, 7 (I20)",
        ),
        Rule(
            "I20-child",
            "Nothing changes below an entry that maps no table: a table's entries change"
            " only from its link line to its removal.",
            "handle_removed_pt(), tdp_mmu.c; facts 4.4",
        ),
        Rule(
            "PAGE",
            "A table page is made (kvm_mmu_get_page) by the task that links it, before it"
            " links it.",
            "tdp_mmu_init_sp(), tdp_mmu_link_sp(), tdp_mmu.c; facts 4.5, 4.15, 4.19",
        ),
        Rule(
            "FAULT-pfn",
            "The leaf that a fault installs maps the page that its kvm_mmu_spte_requested"
            " line names.",
            "kvm_tdp_mmu_map(), tdp_mmu.c; facts 4.5 (2), 4.6",
        ),
        Rule(
            "FAULT-set",
            "A fault that installs a writable leaf ends with a kvm_mmu_set_spte line of the"
            " same entry; that line names the entry's own address.",
            "tdp_mmu_map_handle_target_level(), tdp_mmu.c; facts 4.6 (5), 4.19",
        ),
        Rule(
            "FAULT-fast",
            "Between two faults that fast_page_fault fixed by setting W on one entry, a line"
            " clears W.",
            "fast_pf_fix_direct_spte(), mmu.c; facts 4.13",
        ),
        Rule(
            "SPLIT",
            "A huge leaf that becomes a table is followed by the task's"
            " kvm_mmu_split_huge_page line with the leaf's value.",
            "tdp_mmu_split_huge_page(), tdp_mmu.c; facts 4.15",
        ),
        Rule(
            "I1",
            "When a task has finished a change of the mirror, the S-EPT holds the same: a"
            " leaf with the same PFN, a table, or nothing.",
            "set_external_spte() of tdx.c; facts 7 (I1), tdx-module.md 3",
        ),
        Rule(
            "I8",
            "No SEAMCALL of the memory path returns an error that KVM treats as a bug: BUSY"
            " and interrupted calls are made again, others are not.",
            "TDX_BUG_ON() in tdx.c; facts 5.2, 7 (I8)",
        ),
        Rule(
            "TDX-status",
            "A SEAMCALL of the memory path returns a status, and registers, that the TDX Module"
            " model returns in the state that the calls before it left, with some lock held, vCPU"
            " inside, interrupt or ACCEPT of the guest that no line shows.",
            "tdh_mem_page_aug.c and the other calls of TDX Module 1.5.01, as septum.tdx models"
            " them; facts/tdx-module.md 2 to 5",
        ),
        Rule(
            "I9",
            "A frozen value is never an old value; as a new value it occurs only in"
            " entries of a table that the same task is removing (6.1: also in an entry"
            " that is being replaced).",
            "handle_removed_pt(), tdp_mmu.c; facts 7 (I20 exceptions)",
        ),
        Rule(
            "I11",
            "A present leaf is never replaced by a leaf of another PFN.",
            "BUG() in __handle_changed_spte(), tdp_mmu.c; facts 4.3 step 1",
        ),
        Rule(
            "I13",
            "W implies MMU-writable, MMU-writable implies Host-writable.",
            "check_spte_writable_invariants(), spte.h; facts 1.3",
        ),
        Rule(
            "WARN:__handle_changed_spte",
            "The address space and the level exist, the gfn is aligned to it, a page of the"
            " host is aligned to its level, a table is not replaced by another, and a"
            " non-present value is empty, frozen or MMIO.",
            "__handle_changed_spte(), tdp_mmu.c; facts 4.3",
        ),
        Rule(
            "LINE",
            "A line is one that some kernel prints: old and new differ.",
            "__handle_changed_spte() step 2; facts 7 (I20 exceptions)",
        ),
        Rule(
            "ORDER",
            "Time stamps of a tracefs `trace` file never step back: it is merged from the"
            " CPUs' buffers by time.  A trace_pipe recording may step back, and so may a file that"
            " was read while tracing was on (more lines than its header counts).",
            "kernel/trace/trace.c, __find_next_entry(); facts 8.1",
        ),
    )
}
