# SPDX-License-Identifier: GPL-2.0-only
"""What a user asks of a replay besides the findings: the history of one GFN, the trees at a
moment, the changes as rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from septum.kvm.shadow import UNKNOWN, ShadowTables, Table, is_table
from septum.kvm.spte import spte_to_pfn
from septum.kvm.versions import FROZEN_VALUES, NPT
from septum.trace.events import SpteChanged
from septum.trace.rules import Where, describe_spte
from septum.trace.text import task_name

__all__ = ["Row", "Watch", "tree_lines", "tree_objects", "vm_name"]

MAX_ROWS: Final = 100_000
_SPAN: Final = 9


@dataclass(frozen=True, slots=True)
class Row:
    """One change, for a history or an export."""

    line: int
    time: float
    cpu: int
    task: str
    as_id: int
    gfn: int
    level: int
    old: int
    new: int
    vm: int = 0
    """Of its task; 0 if that cannot be told."""


@dataclass(slots=True)
class Watch:
    """``gfn``: keep the changes that touch it.  ``line``, ``time``: stop there.
    ``sink``: called with every change."""

    gfn: int | None = None
    line: int | None = None
    time: float | None = None
    sink: Callable[[Row], None] | None = None
    history: list[Row] = field(default_factory=list)
    more: int = 0
    """Changes of the GFN that were not kept: there are too many."""
    vm_at: Callable[[int, int], int] = lambda pid, line: 0
    """The VM of a task at a line."""

    def reached(self, line: int, time: float) -> bool:
        """Whether the moment asked for is over."""
        if self.line is not None and line >= self.line:
            return True
        return self.time is not None and time > self.time

    def changed(self, at: Where, event: SpteChanged) -> None:
        as_id, gfn, level, old, new = event
        shift = _SPAN * (level - 1)
        touched = self.gfn is not None and self.gfn >> shift == gfn >> shift
        if not touched and self.sink is None:
            return
        task = f"{task_name(at.comm)}-{at.pid}"
        vm = self.vm_at(at.pid, at.line)
        row = Row(at.line, at.time, at.cpu, task, as_id, gfn, level, old, new, vm)
        if self.sink is not None:
            self.sink(row)
        if touched and len(self.history) < MAX_ROWS:
            self.history.append(row)
        elif touched:
            self.more += 1


def vm_name(vm: int) -> str:
    return f"VM {vm}" if vm else "a VM that cannot be told"


def tree_lines(tables: ShadowTables, gfn: int | None = None) -> list[str]:
    """The trees that the lines so far leave, from the roots down; neighbours that go on
    alike are one row.  ``gfn``: only the entries on the way to it."""
    rows: list[str] = []
    tops = _tops(tables)
    several = len({table.owner for table in tops if table.owner}) > 1
    for number, table in enumerate(tops):
        name = "root" if table.level >= 4 else "table whose parent is unknown"
        whose = f"{vm_name(table.owner)}, " if several else ""
        rows.append(
            f"{name} {number}: {whose}as_id {table.as_id} gfn {table.base:x} level {table.level}"
        )
        rows += _table(tables, table, "  ", gfn)
    return rows


def tree_objects(tables: ShadowTables, gfn: int | None = None) -> list[dict[str, Any]]:
    """`tree_lines` as data: each table with its entries, entries with the table below.
    Numbers are hexadecimal text, as in the recording."""
    return [_object(tables, table, gfn) for table in _tops(tables)]


def _object(tables: ShadowTables, table: Table, gfn: int | None) -> dict[str, Any]:
    entries = []
    for index, value, text in _entries(tables, table, gfn):
        first = table.base + (index << tables.shifts[table.level - 1])
        one: dict[str, Any] = {"gfn": f"{first:x}", "spte": f"{value:x}", "is": text}
        child = _child(tables, table, value)
        if child is not None:
            one["table"] = _object(tables, child, gfn)
        entries.append(one)
    page = f"{table.pfn:x}" if table.pfn >= 0 else None
    return {
        "vm": table.owner,
        "as_id": table.as_id,
        "level": table.level,
        "gfn": f"{table.base:x}",
        "pfn": page,
        "entries": entries,
    }


def _tops(tables: ShadowTables) -> list[Table]:
    """Roots, and tables whose parent is unknown."""
    below = {id(table): table for group in tables.groups.values() for table in group}
    for group in list(tables.groups.values()):
        for table in group:
            for value in table.entries.values():
                child = _child(tables, table, value)
                if child is not None:
                    below.pop(id(child), None)
    tops = [table for table in below.values() if not table.dying]
    return sorted(tops, key=lambda t: (t.owner, t.as_id, -t.level, t.base))


def _child(tables: ShadowTables, table: Table, value: int) -> Table | None:
    if value == UNKNOWN or not is_table(value, table.level):
        return None
    return tables.pages.get(spte_to_pfn(value))


def _table(tables: ShadowTables, table: Table, indent: str, gfn: int | None) -> Iterator[str]:
    shift = tables.shifts[table.level - 1]
    run: tuple[int, int, str] | None = None
    start = 0

    def flush(end: int) -> str:
        assert run is not None
        first = table.base + (start << shift)
        last = table.base + (end << shift)
        span = f"{first:x}" if first == last else f"{first:x}..{last:x}"
        return f"{indent}{span:<21} {run[2]}"

    for index, value, text in _entries(tables, table, gfn):
        goes_on = (
            run is not None
            and run[0] == index - 1
            and run[2].split(" pfn ")[0] == text.split(" pfn ")[0]
            and not is_table(value, table.level)
        )
        if goes_on:
            assert run is not None
            run = (index, value, run[2])
            continue
        if run is not None:
            yield flush(run[0])
            run = None
        child = _child(tables, table, value)
        if child is not None:
            yield f"{indent}{table.base + (index << shift):<21x} {text}"
            yield from _table(tables, child, indent + "  ", gfn)
            continue
        run, start = (index, value, text), index
    if run is not None:
        yield flush(run[0])


def _entries(tables: ShadowTables, table: Table, gfn: int | None) -> Iterator[tuple[int, int, str]]:
    """(index, value, text) of what a table maps; empty and unknown entries are left out."""
    fmt = tables.format or NPT
    only: int | None = None
    if gfn is not None and gfn >> tables.shifts[table.level] << tables.shifts[table.level] == (
        table.base
    ):
        only = tables.index(gfn, table.level)
    for index in range(tables.size) if table.small else sorted(table.entries):
        value = table.value(index)
        if only not in (None, index) or value in FROZEN_VALUES:
            continue
        if value not in (UNKNOWN, tables.empty):
            yield index, value, describe_spte(value, table.level, fmt)
