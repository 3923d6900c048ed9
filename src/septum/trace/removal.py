# SPDX-License-Identifier: GPL-2.0-only
"""Follows the removal of page tables, which one task logs without a break.

7.3: prepare_zap_page, the children's lines (recursively), the parent's line.  6.1 and
6.12: the parent's line, prepare_zap_page, the children's lines.  Lines of other tasks
come in between, so everything is kept per task (facts 4.4, 8.4).

A removal by one task ends with its first change that freezes no entry of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from septum.kvm.shadow import ShadowTables, Table
from septum.kvm.versions import FROZEN_VALUES, KernelVersion
from septum.trace.events import PrepareZapPage, SpteChanged
from septum.trace.rules import Where, entry

__all__ = ["Removals"]

_Leftover = Callable[[Where, Table, dict[int, int]], None]
_Report = Callable[[str, Where, str, SpteChanged | None], None]


@dataclass(slots=True)
class Removal:
    """One table that a task is removing: announced by its prepare_zap_page line (7.3) or
    taken out by its parent's line (6.1, 6.12)."""

    at: Where
    level: int
    gfn: int | None
    table: Table | None = None
    last: int = -1
    """The last child's gfn, -1 before the first."""

    def holds(self, event: SpteChanged, shift: int) -> bool:
        if self.table is not None and self.table.as_id != event.as_id:
            return False
        return self.level == event.level and self.gfn in (None, event.gfn >> shift << shift)


@dataclass(slots=True)
class Task:
    """What one task is removing."""

    announced: list[Removal] = field(default_factory=list)
    dying: list[Removal] = field(default_factory=list)
    settled: bool = False
    """It logged a change outside a removal, so that no removal's start was missed."""


class Removals:
    def __init__(self, tables: ShadowTables, leftover: _Leftover, report: _Report) -> None:
        self.tables = tables
        self.prepare_seen = False
        self._leftover = leftover
        self._report = report
        self._tasks: dict[int, Task] = {}

    def busy(self, pid: int) -> bool:
        """Whether the task is removing a table, or has not written a change yet."""
        task = self._tasks.get(pid)
        return task is None or not task.settled or bool(task.dying or task.announced)

    def prepare_zap(self, at: Where, event: PrepareZapPage) -> None:
        """Shadow pages of nested guests have such lines too; they freeze nothing."""
        if not event.direct:
            return
        self.prepare_seen = True
        task = self._task(at.pid)
        task.announced.append(Removal(at, event.level, event.gfn))

    def before_change(
        self, at: Where, event: SpteChanged, version: KernelVersion | None
    ) -> Table | None:
        """Called with each change, before it is folded.  The table whose entry it
        freezes, where the order of lines tells."""
        task = self._tasks.get(at.pid)
        if event.new_spte in FROZEN_VALUES:
            return self._frozen(self._task(at.pid) if task is None else task, at, event, version)
        if task is None:
            self._tasks[at.pid] = Task(settled=True)
            return None
        task.settled = True
        if task.dying:
            self._drop(task, 0)
        if task.announced and (version is None or version.parent_first):
            task.announced.clear()
        return None

    def _frozen(
        self, task: Task, at: Where, event: SpteChanged, version: KernelVersion | None
    ) -> Table | None:
        """A child of a table that goes; nested tables come innermost first (7.3)."""
        shift = self.tables.shifts[event.level]
        base = event.gfn >> shift << shift
        keep = len(task.dying)
        while keep and not self._within(task.dying[keep - 1].table, event, base):
            keep -= 1
        if keep < len(task.dying):
            self._drop(task, keep)
        if version is None:
            return None
        if version.parent_first:
            removal = task.dying[keep - 1] if keep else None
            if version.freezes_live_entries and event.level > 1:
                return removal.table if removal and removal.level == event.level else None
        else:
            open_ones = reversed(task.announced)
            removal = next((a for a in open_ones if a.holds(event, shift)), None)
        if removal is None:
            if task.settled and self.prepare_seen:
                why = "frozen, but this task is not removing the table that holds the entry"
                self._report("I9", at, f"{entry(event)}: {why}", event)
            return None
        if removal.level != event.level:
            return None
        if event.gfn <= removal.last:
            self._report(
                "I20-removal", at, f"{entry(event)}: frozen after gfn {removal.last:x}", event
            )
        removal.last = event.gfn
        if removal.table is None:
            as_id, gfn, level, old, _ = event
            removal.table = self.tables.find(as_id, gfn, level, old)
            removal.table.removing = True
        return removal.table

    def removed_by(
        self, at: Where, event: SpteChanged, version: KernelVersion | None
    ) -> Table | None:
        """7.3: the table whose removal ends with this line of its parent."""
        task = self._tasks.get(at.pid)
        if task is None or not task.announced or version is None or version.parent_first:
            return None
        shift = self.tables.shifts[event.level - 1]
        base = event.gfn >> shift << shift
        for removal in reversed(task.announced):
            if removal.level == event.level - 1 and removal.gfn in (None, base):
                task.announced.remove(removal)
                return removal.table
        return None

    def after_change(self, at: Where, event: SpteChanged) -> None:
        """7.3: a change that freezes nothing ends all removals; the outermost must have
        met its parent's line."""
        task = self._tasks.get(at.pid)
        if task is None or not task.announced or event.new_spte in FROZEN_VALUES:
            return
        for removal in task.announced:
            if removal.table is not None and removal.gfn is not None:
                removal.table.removing = False
                self._report(
                    "I20-removal",
                    at,
                    f"as_id {removal.table.as_id} gfn {removal.gfn:x} level {removal.level}: the"
                    f" table was emptied (from line {removal.at.line}), but there is no line of"
                    " its parent",
                    None,
                )
        task.announced.clear()

    @staticmethod
    def _within(table: Table | None, event: SpteChanged, base: int) -> bool:
        return (
            table is not None
            and table.as_id == event.as_id
            and table.level >= event.level
            and table.base <= base
            and (table.level > event.level or table.base == base)
        )

    def unlinked(self, at: Where, table: Table) -> None:
        """A line of the task took ``table`` out of its parent."""
        self._task(at.pid).dying.append(Removal(at, table.level, table.base, table))

    def _drop(self, task: Task, keep: int) -> None:
        gone, task.dying = task.dying[keep:], task.dying[:keep]
        for removal in gone:
            assert removal.table is not None
            left = self.tables.drop(removal.table)
            if left:
                self._leftover(removal.at, removal.table, left)

    def finish(self) -> None:
        for task in self._tasks.values():
            self._drop(task, 0)

    def clear(self) -> None:
        """Events were lost."""
        for task in self._tasks.values():
            for removal in task.dying + task.announced:
                if removal.table is not None:
                    removal.table.removing = False
                    if removal.table.dying:
                        self.tables.drop(removal.table)
        self._tasks.clear()

    def _task(self, pid: int) -> Task:
        return self._tasks.setdefault(pid, Task())
