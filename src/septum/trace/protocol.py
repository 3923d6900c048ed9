# SPDX-License-Identifier: GPL-2.0-only
"""What the lines of one task owe each other.

A fault maps, and a split replaces, inside one section of mmu_lock: its lines come from one
CPU in program order, whatever the clocks do, with no line of the task in between that does
not belong.  So these rules hold also where rules about values cannot judge (facts 4.5, 4.6,
4.15, 4.19).

An event can be switched off or on in the middle of a recording.  A missing line is a
finding only if lines of its kind come both before and after the place where it is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from septum.kvm.shadow import ShadowTables, is_leaf, is_table
from septum.kvm.spte import PT_WRITABLE_MASK, is_shadow_present_pte, spte_to_pfn
from septum.kvm.versions import FROZEN_VALUES
from septum.trace.events import (
    Event,
    GetPage,
    PrepareZapPage,
    SetSpte,
    SplitHugePage,
    SpteChanged,
    SpteRequested,
)
from septum.trace.rules import Finding, Where, entry, finding_at

__all__ = ["Protocol"]

_MAX_PFN: Final = 1 << 52
_KEPT_PAGES: Final = 64


@dataclass(slots=True)
class Task:
    """What the last lines of one task have begun."""

    requested: SpteRequested | None = None
    install: tuple[Where, SpteChanged] | None = None
    """A leaf that the fault put in; its kvm_mmu_set_spte line is due."""
    split: tuple[Where, SpteChanged] | None = None
    """A huge leaf replaced by a table; its kvm_mmu_split_huge_page line is due."""
    pages: dict[tuple[int, int], None] | None = None
    """(gfn, level) of pages made and not linked yet."""


class Protocol:
    """Feed every line of a lossless stretch; `findings` grows."""

    def __init__(self, tables: ShadowTables) -> None:
        self.tables = tables
        self.findings: list[Finding] = []
        self.fault_breaks_before_link = False
        """6.1: a fault freezes a huge leaf first and has no split line (facts 8.4)."""
        self.tasks: dict[int, Task] = {}
        self._seen: set[type] = set()
        self._missing: dict[type, list[Finding]] = {}

    def lost(self) -> None:
        """Lines may be missing anywhere before the next one."""
        self.tasks.clear()
        self._missing.clear()

    def _task(self, pid: int) -> Task:
        task = self.tasks.get(pid)
        if task is None:
            task = self.tasks[pid] = Task()
        return task

    # ------------------------------------------------------------------------ lines

    def other(self, at: Where, event: Event) -> None:
        """A line that is not kvm_tdp_mmu_spte_changed."""
        kind = type(event)
        task = self._task(at.pid)
        if kind is SetSpte:
            self._set_spte(at, event, task)  # type: ignore[arg-type]
        elif kind is SpteRequested:
            self._due(task)
            task.requested = event  # type: ignore[assignment]
        elif kind is GetPage:
            self._due(task)
            self._get_page(event, task)  # type: ignore[arg-type]
            if event.level >= 4:  # type: ignore[union-attr]
                return  # roots alone do not show that pages are recorded as they are made
        elif kind is SplitHugePage:
            self._split(event, task)  # type: ignore[arg-type]
        elif kind is not PrepareZapPage:
            self._due(task)
            task.requested = None
            return
        self._appeared(kind)

    def _appeared(self, kind: type) -> None:
        """Lines of this kind are still being recorded: what was missing is missing."""
        self._seen.add(kind)
        if self._missing and kind in self._missing:
            self.findings += self._missing.pop(kind)

    def changed(self, at: Where, event: SpteChanged) -> None:
        """A kvm_tdp_mmu_spte_changed line whose level and gfn are possible."""
        task = self.tasks.get(at.pid)
        if task is None:
            task = self.tasks[at.pid] = Task()
        level, old, new = event.level, event.old_spte, event.new_spte
        if (task.install or task.split) and new not in FROZEN_VALUES:
            self._due(task)  # a collapse freezes the table's entries after its parent (6.12)
        if level > 1 and is_table(new, level) and not is_table(old, level):
            self._link(at, event, task)
        elif task.requested is not None and is_leaf(new, level):
            self._install(at, event, task)

    # ----------------------------------------------------------------------- faults

    def _install(self, at: Where, event: SpteChanged, task: Task) -> None:
        """tdp_mmu_map_handle_target_level() (facts 4.6)."""
        asked = task.requested
        assert asked is not None
        pages = 1 << self.tables.shifts[event.level - 1]
        if asked.gfn & ~(pages - 1) != event.gfn or asked.pfn >= _MAX_PFN:
            task.requested = None
            return
        pfn = spte_to_pfn(event.new_spte)
        if asked.pfn & ~(pages - 1) != pfn:
            self.findings.append(
                finding_at(
                    "FAULT-pfn",
                    at,
                    f"{entry(event)}: the fault asked for pfn {asked.pfn:x} and installed {pfn:x}",
                    event,
                )
            )
        task.requested = None
        if event.new_spte & PT_WRITABLE_MASK and SetSpte in self._seen:
            task.install = (at, event)

    def _set_spte(self, at: Where, event: SetSpte, task: Task) -> None:
        gfn, spte, letters, level, sptep = event
        due, task.install, task.requested = task.install, None, None
        if not 1 <= level <= 5:
            self._report("LINE", at, f"kvm_mmu_set_spte: level {level} does not exist")
            return
        index = gfn >> self.tables.shifts[level - 1] & (self.tables.size - 1)
        if sptep & (self.tables.size * 8 - 1) != index * 8:
            self._report(
                "FAULT-set",
                at,
                f"kvm_mmu_set_spte: the entry at {sptep:x} is not the one of gfn {gfn:x}"
                f" level {level}",
            )
        if is_shadow_present_pte(spte) and ("w" in letters) != bool(spte & PT_WRITABLE_MASK):
            self._report("LINE", at, f"kvm_mmu_set_spte: {spte:x} printed as ({letters})")
        if due is None:
            return
        _, change = due
        if (change.gfn, change.level) != (gfn, level):
            self._report(
                "FAULT-set",
                at,
                f"kvm_mmu_set_spte names gfn {gfn:x} level {level}, but the task installed"
                f" gfn {change.gfn:x} level {change.level}",
            )
        elif is_leaf(spte, level) and spte_to_pfn(spte) != spte_to_pfn(change.new_spte):
            # It is read again from memory: another value may be there, no other page.
            self._report(
                "FAULT-set",
                at,
                f"kvm_mmu_set_spte shows {spte:x}, but the task installed {change.new_spte:x}",
            )

    # ----------------------------------------------------------------- pages, splits

    def _get_page(self, event: GetPage, task: Task) -> None:
        if not event.direct or not event.created:
            return
        if task.pages is None:
            task.pages = {}
        task.pages.pop((event.gfn, event.level), None)
        task.pages[event.gfn, event.level] = None
        if len(task.pages) > _KEPT_PAGES:
            del task.pages[next(iter(task.pages))]

    def _link(self, at: Where, event: SpteChanged, task: Task) -> None:
        """tdp_mmu_link_sp(): the page was made under the same lock (facts 4.5, 4.15)."""
        key = (event.gfn, event.level - 1)
        if task.pages is not None and key in task.pages:
            del task.pages[key]
        elif GetPage in self._seen:
            self._miss(
                GetPage,
                finding_at(
                    "PAGE",
                    at,
                    f"{entry(event)}: linked a table page, but the task made none for it (no"
                    " kvm_mmu_get_page line)",
                    event,
                ),
            )
        if is_leaf(event.old_spte, event.level) and SplitHugePage in self._seen:
            task.split = (at, event)

    def _split(self, event: SplitHugePage, task: Task) -> None:
        due, task.split = task.split, None
        if due is None or event.errno:
            return
        at, change = due
        same = self.tables.same(event.spte, change.old_spte, change.level)
        if (event.gfn, event.level) != (change.gfn, change.level) or not same:
            self._report(
                "SPLIT",
                at,
                f"{entry(change)}: split {change.old_spte:x}, but kvm_mmu_split_huge_page says"
                f" gfn {event.gfn:x} level {event.level} spte {event.spte:x}",
            )

    # ----------------------------------------------------------------------- missing

    def _due(self, task: Task) -> None:
        """The task went on: what was due did not come."""
        if task.install is not None:
            (at, event), task.install = task.install, None
            text = f"{entry(event)}: installed by a fault without a kvm_mmu_set_spte line after it"
            self._miss(SetSpte, finding_at("FAULT-set", at, text, event))
        if task.split is not None:
            (at, event), task.split = task.split, None
            text = f"{entry(event)}: split without a kvm_mmu_split_huge_page line after it"
            self._miss(SplitHugePage, finding_at("SPLIT", at, text, event))

    def _miss(self, kind: type, finding: Finding) -> None:
        self._missing.setdefault(kind, []).append(finding)

    def _report(self, rule: str, at: Where, message: str) -> None:
        self.findings.append(finding_at(rule, at, message))
