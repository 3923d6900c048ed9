# SPDX-License-Identifier: GPL-2.0-only
"""The invariants, each a small judge over a `View` (facts/kvm-tdp-mmu.md section 7).

A monitor names the events at which it judges (its methods) and reads only the `View`.
Some rules are broken by an act itself and reported where it happens: ``I6`` by page
lifetimes (septum.machine.memory) and here, ``I10`` by the locks (septum.machine.sync)
and the kernel's own lockdep assertions.

Exact forms are those of design.md, section "Judging": I3, I6 and I8 to I12 at the
acting event, I1 per entry at the event that unfreezes or publishes it under the shared
lock, and everything of facts 7(b) in the settled state (every task finished, RCU
callbacks run).  A bugged VM silences only later reports of I1, I2, I4 and I14.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from septum.kvm.spte import (
    FROZEN_SPTE,
    is_frozen_spte,
    is_last_spte,
    is_shadow_present_pte,
    spte_to_pfn,
)
from septum.kvm.view import Entry, KvmView, SpteChange, View
from septum.machine import Cell
from septum.machine.geometry import PAGE_SHIFT
from septum.tdx import sept

__all__ = ["MONITORS", "Monitor", "Monitors", "mirror_matches"]


class Monitor:
    """One rule.  Subclasses define the methods of the events they judge at:
    ``on_<event>(...)`` and ``settled()``."""

    id: ClassVar[str]
    statement: ClassVar[str]
    judged: ClassVar[str]
    source: ClassVar[str]
    example: ClassVar[str]
    silenced_by_bug: ClassVar[bool] = False

    def __init__(self, view: View) -> None:
        self.view = view

    def report(self, message: str, obj: str = "") -> None:
        if self.silenced_by_bug and self.view.vm_bugged():
            return
        self.view.m.report(self.id, message, obj)


def _is_table(state: sept.State) -> bool:
    return state in (sept.State.NL_MAPPED, sept.State.NL_BLOCKED)


def mirror_matches(view: View, entry: Entry) -> str:
    """Why a quiet mirror entry and its S-EPT entry disagree; empty if they agree."""
    value, level = entry.value, entry.level
    other = view.sept(entry.gfn, level)
    if other is None:
        return ""
    where = f"mirror gfn {entry.gfn:x} level {level}"
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
    judged = "the store that unfreezes or publishes an entry under the shared lock; settled"
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
        "grace period, an S-EPT page only after it is the host's again."
    )
    judged = "every access to a table page; every page given back to the host"
    source = "facts/kvm-tdp-mmu.md 7(a) I6; Linux tdp_mmu.c tdp_mmu_free_sp_rcu_callback()"
    example = "the removed table is freed at once while a fault still walks it"

    def on_page_freed(self, pfn: int) -> None:
        if self.view.page_type(pfn) == "EPT":
            self.report(f"page {pfn:x} is freed while the module owns it as an S-EPT page")


class NoFatalSeamcall(Monitor):
    id = "I8"
    statement = (
        "No SEAMCALL returns an error that KVM treats as a bug; BUSY only where a retry exists."
    )
    judged = "every SEAMCALL result that KVM turns into TDX_BUG_ON (injected ones are not findings)"
    source = "facts/kvm-tdp-mmu.md 5.2, 7(a) I8; Linux tdx.c TDX_BUG_ON()"
    example = "PAGE.REMOVE before TRACK: TLB_TRACKING_NOT_DONE kills the VM"

    def on_tdx_bug(self, function: str, status: str, injected: bool) -> None:
        if not injected:
            self.report(f"{function} returned {status}, which KVM treats as a bug")


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


class NoZapLeftWaiting(Monitor):
    id = "I18"
    statement = "wait_for_sept_zap is false."
    judged = "settled"
    source = "facts/kvm-tdp-mmu.md 5.2, 7(b) I18; Linux tdx.c tdh_do_no_vcpus()"
    example = "an early return leaves the flag set: no vCPU enters again"

    def settled(self) -> None:
        if self.view.wait_for_sept_zap():
            self.report("wait_for_sept_zap is still set")


class FaultsEnd(Monitor):
    id = "I23"
    statement = "Every vCPU fault ends once the others have stopped."
    judged = "an execution in which no task can go on and a retry loop still waits"
    source = "facts/kvm-tdp-mmu.md 5.4, design.md Judging I23; Linux tdx_handle_ept_violation()"
    example = "an SPTE stays FROZEN: the fault is retried for ever"

    def on_stuck(self, waiting: Iterable[tuple[str, str, str]]) -> None:
        for task, op, what in waiting:
            if op == "await":
                self.report(f"{task} retries {what} for ever")


class NoEntryWhenDead(Monitor):
    id = "I24"
    statement = "No guest entry after the VM is dead (kvm_vm_dead() has returned)."
    judged = "every successful TDH.VP.ENTER"
    source = "facts/kvm-tdp-mmu.md 5.2, design.md Judging I24; Linux kvm_vm_dead()"
    example = "KVM_REQ_VM_DEAD is set without kicking the vCPUs"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.declared = Cell(view.m, "vm_dead declared", False)

    def on_vm_dead(self) -> None:
        self.declared.poke(True)

    def on_td_enter(self, vcpu: Any, lp: int) -> None:
        if self.declared.peek():
            self.report(f"a vCPU entered the guest on CPU {lp} after the VM was declared dead")


_ALL: tuple[type[Monitor], ...] = (
    MirrorEqualsSept,
    NothingStaysFrozen,
    SeptParentIsTable,
    PageStats,
    RootRefcounts,
    TablePageLifetimes,
    NoFatalSeamcall,
    FrozenHasOneOwner,
    LockRules,
    LeafKeepsPfn,
    MappedPageIsNotFree,
    LinkedTables,
    NoZapLeftWaiting,
    FaultsEnd,
    NoEntryWhenDead,
)

MONITORS: dict[str, type[Monitor]] = {monitor.id: monitor for monitor in _ALL}


class Monitors:
    """The monitors of one program: attached to the view's events, asked when settled.

    :param off: ids not to attach; findings of theirs that come from primitives are
        dropped as well (`Machine.muted`).
    """

    def __init__(self, view: KvmView, off: Iterable[str] = ()) -> None:
        self.view = view
        muted = frozenset(off)
        view.m.muted = muted
        self.active = [cls(view) for id_, cls in MONITORS.items() if id_ not in muted]
        for monitor in self.active:
            for name in dir(monitor):
                if name.startswith("on_"):
                    view.subscribe(name.removeprefix("on_"), getattr(monitor, name))
        view.attach()

    def settled(self) -> None:
        """Judge facts 7(b): every task has finished and RCU callbacks have run."""
        for monitor in self.active:
            judge = getattr(monitor, "settled", None)
            if judge is not None:
                judge()
