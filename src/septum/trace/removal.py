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
from septum.trace.rules import Where

__all__ = ["Removals"]

_Leftover = Callable[[Where, Table, dict[int, int]], None]
_Report = Callable[[str, Where, str], None]


@dataclass(slots=True)
class Announced:
    """A prepare_zap_page line of a task, and whether children's lines followed."""

    at: Where
    level: int
    gfn: int | None
    as_id: int = -1
    last: int = -1
    """The last child's gfn, -1 before the first."""

    def holds(self, event: SpteChanged, shift: int) -> bool:
        return self.level == event.level and self.gfn in (None, event.gfn >> shift << shift)


@dataclass(slots=True)
class Dying:
    """A table that a line of a task took out of its parent."""

    at: Where
    table: Table
    last: int = -1


@dataclass(slots=True)
class Task:
    """What one task is removing."""

    announced: list[Announced] = field(default_factory=list)
    dying: list[Dying] = field(default_factory=list)
    settled: bool = False
    """It logged a line outside a removal, or the start of one."""


class Removals:
    def __init__(self, tables: ShadowTables, leftover: _Leftover, report: _Report) -> None:
        self.tables = tables
        self.prepare_seen = False
        self._leftover = leftover
        self._report = report
        self._tasks: dict[int, Task] = {}

    def prepare_zap(self, at: Where, event: PrepareZapPage) -> None:
        """Shadow pages of nested guests have such lines too; they freeze nothing."""
        if not event.direct:
            return
        self.prepare_seen = True
        task = self._task(at.pid)
        task.settled = True
        task.announced.append(Announced(at, event.level, event.gfn))

    def before_change(self, at: Where, event: SpteChanged, version: KernelVersion | None) -> None:
        """Called with each change, before it is folded."""
        task = self._tasks.get(at.pid)
        if event.new_spte in FROZEN_VALUES:
            self._frozen(self._task(at.pid) if task is None else task, at, event, version)
        elif task is not None:
            if task.announced:
                self._end(task, event, version)
            if task.dying:
                self._drop(task, 0)
            task.settled = True
        else:
            self._tasks[at.pid] = Task(settled=True)

    def _frozen(
        self, task: Task, at: Where, event: SpteChanged, version: KernelVersion | None
    ) -> None:
        """A child of a table that goes; nested tables come innermost first (7.3)."""
        shift = self.tables.shifts[event.level]
        base = event.gfn >> shift << shift
        keep = len(task.dying)
        while keep and not self._within(task.dying[keep - 1].table, event, base):
            keep -= 1
        if keep < len(task.dying):
            self._drop(task, keep)
        if version is None or not task.settled or not self.prepare_seen:
            return
        entry = f"as_id {event.as_id} gfn {event.gfn:x} level {event.level}"
        table: Announced | Dying | None
        if version.parent_first:
            if version.freezes_live_entries and event.level > 1:
                return
            table = task.dying[keep - 1] if keep else None
        else:
            open_ones = reversed(task.announced)
            table = next((a for a in open_ones if a.holds(event, shift)), None)
        if table is None:
            why = "frozen, but this task is not removing the table that holds the entry"
            self._report("I9", at, f"{entry}: {why}")
            return
        if event.gfn <= table.last:
            self._report("I20-removal", at, f"{entry}: frozen after gfn {table.last:x}")
        table.last = event.gfn
        if isinstance(table, Announced):
            table.as_id = event.as_id

    @staticmethod
    def _within(table: Table, event: SpteChanged, base: int) -> bool:
        return (
            table.as_id == event.as_id
            and table.level >= event.level
            and table.base <= base
            and (table.level > event.level or table.base == base)
        )

    def _end(self, task: Task, event: SpteChanged, version: KernelVersion | None) -> None:
        """7.3: the first change that freezes nothing is the parent's line."""
        outermost = task.announced[0]
        task.announced.clear()
        if version is None or version.parent_first:
            return
        if outermost.last < 0 or outermost.gfn is None:
            return
        shift = self.tables.shifts[outermost.level]
        mine = event.level == outermost.level + 1 and event.gfn == outermost.gfn >> shift << shift
        if not mine or event.as_id != outermost.as_id:
            self._report(
                "I20-removal",
                outermost.at,
                f"as_id {outermost.as_id} gfn {outermost.gfn:x} level {outermost.level}: the table"
                " was emptied, but the next line of this task is not its parent's",
            )

    def unlinked(self, at: Where, table: Table) -> None:
        """A line of the task took ``table`` out of its parent."""
        self._task(at.pid).dying.append(Dying(at, table))

    def _drop(self, task: Task, keep: int) -> None:
        for dying in task.dying[keep:]:
            left = self.tables.drop(dying.table)
            if left:
                self._leftover(dying.at, dying.table, left)
        del task.dying[keep:]

    def finish(self) -> None:
        for task in self._tasks.values():
            self._drop(task, 0)

    def clear(self) -> None:
        """Events were lost."""
        for task in self._tasks.values():
            for dying in task.dying:
                self.tables.drop(dying.table)
        self._tasks.clear()

    def _task(self, pid: int) -> Task:
        return self._tasks.setdefault(pid, Task())
