# SPDX-License-Identifier: GPL-2.0-only
"""Mirror and S-EPT: I1 to I3, and who may write FROZEN (I9)."""

from __future__ import annotations

from septum.kvm.monitors.base import Monitor
from septum.kvm.spte import (
    FROZEN_SPTE,
    is_frozen_spte,
    is_last_spte,
    is_shadow_present_pte,
    spte_to_pfn,
)
from septum.kvm.view import Entry, SpteChange, View
from septum.machine import Cell
from septum.tdx import sept

__all__ = [
    "FrozenHasOneOwner",
    "MirrorEqualsSept",
    "NothingStaysFrozen",
    "SeptParentIsTable",
    "mirror_matches",
]


def _is_table(state: sept.State) -> bool:
    return state in (sept.State.NL_MAPPED, sept.State.NL_BLOCKED)


def mirror_matches(view: View, entry: Entry) -> str:
    """Why a quiet mirror entry and its S-EPT entry disagree; empty if they agree."""
    return _disagreement(view, entry.gfn, entry.level, entry.value)


def _disagreement(view: View, gfn: int, level: int, value: int) -> str:
    other = view.sept(gfn, level)
    if other is None:
        return ""
    where = f"mirror gfn {gfn:x} level {level}"
    theirs = f"S-EPT is {other.state.name} at level {other.level}"
    if not is_shadow_present_pte(value):
        # A walk that ends above at FREE means FREE here too.
        if other.state == sept.State.FREE:
            return ""
        if other.level > level and not sept.is_leaf(other.raw):
            return ""
        return f"{where} is not present, {theirs}"
    if is_last_spte(value, level):
        good = (sept.State.MAPPED, sept.State.PENDING)
        pfn = spte_to_pfn(value)
        if other.level != level or other.state not in good:
            return f"{where} is a leaf (pfn {pfn:x}), {theirs}"
        if other.pfn != pfn:
            return f"{where} maps pfn {pfn:x}, S-EPT maps pfn {other.pfn:x}"
        return ""
    child = view.child_external_pfn(value)
    if other.level != level or other.state != sept.State.NL_MAPPED:
        return f"{where} is a table, {theirs}"
    if other.pfn != child:
        return f"{where} has S-EPT page {child:x}, S-EPT has page {other.pfn:x}"
    return ""


class MirrorEqualsSept(Monitor):
    id = "I1"
    statement = (
        "A mirror entry that nobody is changing says what the S-EPT says: leaf <=> leaf "
        "MAPPED or PENDING with the same PFN and level, table <=> table with the child's "
        "external_spt, not present <=> FREE."
    )
    judged = (
        "the store that unfreezes or publishes an entry under the shared lock; the end of a hook "
        "that cannot report failure; settled"
    )
    source = "facts/kvm-tdp-mmu.md 7(b) I1; Linux tdp_mmu_set_spte_atomic(), tdx.c"
    example = "PAGE.AUG fails, the mirror keeps the leaf: the next zap BLOCKs nothing"
    silenced_by_bug = True

    def on_spte(self, change: SpteChange) -> None:
        entry = change.entry
        if not entry.table.is_mirror or is_frozen_spte(change.new) or change.mmu_lock_write:
            return
        if not self.view.keys_configured():
            return
        problem = mirror_matches(self.view, entry)
        if problem:
            self.report(problem, f"{entry.table.name}[{entry.index}]")

    def on_void_hook(self, gfn: int, level: int, new_spte: int, was_bugged: bool) -> None:
        """Nobody hears of a failure, so the change is complete, whatever came of it.  The
        failure may have bugged the VM just now: that is no reason for silence."""
        if was_bugged or not self.view.keys_configured():
            return
        problem = _disagreement(self.view, gfn, level, new_spte)
        if problem:
            self.view.m.report(self.id, problem)

    def settled(self) -> None:
        if not self.view.keys_configured():
            return
        for entry in self.view.entries():
            if entry.table.is_mirror and not is_frozen_spte(entry.value):
                problem = mirror_matches(self.view, entry)
                if problem:
                    self.report(problem, f"{entry.table.name}[{entry.index}]")


class NothingStaysFrozen(Monitor):
    id = "I2"
    statement = "No FROZEN entry remains in a reachable table."
    judged = "settled"
    source = "facts/kvm-tdp-mmu.md 7(b) I2; Linux tdp_mmu.c handle_removed_pt()"
    example = "the hook fails and the frozen SPTE is not restored: every fault retries for ever"
    silenced_by_bug = True

    def settled(self) -> None:
        for entry in self.view.entries():
            if is_frozen_spte(entry.value):
                self.report(
                    f"gfn {entry.gfn:x} level {entry.level} is still FROZEN",
                    f"{entry.table.name}[{entry.index}]",
                )


class SeptParentIsTable(Monitor):
    id = "I3"
    statement = (
        "A present, pending or blocked S-EPT entry lies in a page its parent maps as a table."
    )
    judged = "every S-EPT entry that becomes non-FREE, or stops being a table"
    source = "facts/kvm-tdp-mmu.md 7(a) I3; tdh_mem_sept_add.c, tdh_mem_sept_remove.c"
    example = "SEPT.REMOVE of a page that still maps something"

    def on_sept(self, tdr: int, table_hpa: int, index: int, old: int, new: int) -> None:
        was, now = sept.state_of(old), sept.state_of(new)
        if not self.view.keys_configured():
            return
        if now not in (sept.State.FREE, sept.State.REMOVED):
            parent = self.view.sept_parent(table_hpa)
            if parent == 0:
                self.report(
                    f"S-EPT entry {index} of page {table_hpa:x} became {now.name} "
                    "but no parent maps that page"
                )
        # A table that becomes a leaf was promoted: its children are that leaf now.
        if _is_table(was) and not _is_table(now) and not sept.is_leaf(new):
            self._children(sept.hpa_of(old))

    def _children(self, page_hpa: int) -> None:
        for index, state in self.view.sept_page_states(page_hpa):
            if state not in (sept.State.FREE, sept.State.REMOVED):
                self.report(
                    f"S-EPT page {page_hpa:x} lost its parent while entry {index} is {state.name}"
                )
                return


class FrozenHasOneOwner(Monitor):
    id = "I9"
    statement = (
        "Only the task that froze an SPTE unfreezes it; nobody else overwrites a FROZEN value "
        "(FROZEN over FROZEN by handle_removed_pt() is the one allowed no-op)."
    )
    judged = "every store to an SPTE"
    source = "facts/kvm-tdp-mmu.md 7(a) I9; Linux tdp_mmu.c __tdp_mmu_set_spte_atomic()"
    example = "two faults both believe that they froze the entry"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.owners: dict[str, Cell] = {}

    def _owner(self, name: str) -> Cell:
        cell = self.owners.get(name)
        if cell is None:
            cell = self.owners[name] = Cell(self.view.m, f"~owner {name}", None)
        return cell

    def on_spte(self, change: SpteChange) -> None:
        frozen_before, frozen_now = change.old == FROZEN_SPTE, change.new == FROZEN_SPTE
        if not frozen_before and not frozen_now:
            return
        name = f"{change.entry.table.name}[{change.entry.index}]"
        owner = self._owner(name)
        if frozen_before and not frozen_now:
            if owner.v is not None and owner.v != change.task:
                self.report(f"{name} was frozen by another task and is overwritten", name)
            owner.set(None)
        elif frozen_now and not frozen_before:
            owner.set(change.task)
