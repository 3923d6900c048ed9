# SPDX-License-Identifier: GPL-2.0-only
"""Grows the trees of `septum.machine.known` while an execution runs in earnest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from septum.machine.behaviour import (
    CHANGE,
    CHOICE,
    DISCIPLINE,
    END,
    FATAL,
    FOLD,
    LOOK,
    LOOK_EXCL,
    LOOK_HELD,
    NEVER,
    OPEN,
    POINT,
    REACH,
    REPORT,
    SET,
    Change,
    Node,
    Op,
    Over,
)
from septum.machine.events import MachineError
from septum.machine.state import Cell

if TYPE_CHECKING:
    from septum.machine.core import Machine
    from septum.machine.known import Memory

__all__ = ["Recorder"]


class Recorder:
    """Grows the trees; told of everything by the machine's primitives.

    It begins where the look-up gave up: at an event, or before there was any.
    """

    def __init__(self, m: Machine, memory: Memory) -> None:
        self.m = m
        self.memory = memory
        self.table = memory.table
        begun = memory.at if memory.begun else memory.roots
        self.points: list[Node] = list(begun)  # what each task waits to do
        self.at: list[Node] = [node.next[0] if node.kind == POINT else node for node in begun]
        self.done: list[int] = [0] * memory.tasks  # operations of the present node that were met
        self.own: list[list[int]] = [list(mine) for mine in memory.own]
        self.known: set[int] = set()  # cells whose value the path of this step determines
        self.written = len(m.journal)
        self.shown = False
        self._wait: tuple[Cell, Change, bool] | None = None
        self._since: dict[Cell, int] | None = None
        self._compared = {at: places for at, (_, places) in memory.rounds.states}

    def _cell(self, cell: Cell, first: Any) -> int:
        """Its number.  All changes but the last ones are noted; before those it was ``first``."""
        table = self.table
        cid = table.cells.get(cell.name)
        if cid is None:
            cid = table.cells[cell.name] = len(table.names)
            table.names.append(cell.name)
            table.initial.append(table.value(cid, first))
            self.memory.grow()
        return cid

    # --- operations ------------------------------------------------------------------

    def _put(self, op: Op) -> None:
        task = self.m.current.id
        node = self.at[task]
        if node.kind == OPEN:
            node.ops.append(op)
        elif self.done[task] >= len(node.ops) or node.ops[self.done[task]].cid != op.cid:
            self._odd(node)
        self.done[task] += 1

    def _flush(self) -> None:
        """What was stored since: the last value of each cell."""
        m = self.m
        journal = m.journal
        if self.written == len(journal):
            return
        changed: dict[str, tuple[Cell, Any]] = {}
        for i in range(self.written, len(journal)):
            cell, old, _ = journal[i]
            if cell is not m.rcu:  # callbacks: their order is nobody's business
                changed[cell.name] = cell, changed[cell.name][1] if cell.name in changed else old
        self.written = len(journal)
        for cell, first in changed.values():
            cid = self._cell(cell, first)
            op = Op(SET, cid)
            op.vid = self.table.value(cid, cell._v)
            op.seq = cell.wseq == m.seq
            self._put(op)
            self.known.add(cid)

    def change(self, cell: Cell, change: Change, *, seq: bool, shown: bool = False) -> None:
        """The last entry of the journal was this function of a value that nobody looked at."""
        journal = self.m.journal
        entry = journal.pop()
        self._flush()
        journal.append(entry)
        self.written = len(journal)
        op = Op(CHANGE, self._cell(cell, entry[1]))
        op.change = change
        op.seq = seq
        op.shown = shown
        self.shown = self.shown or shown
        self._put(op)

    def _note(self, code: int, *text: str) -> None:
        self._flush()
        op = Op(code, -1)
        op.text = text
        self._put(op)

    def report(self, rule: str, message: str, obj: str, place: str) -> None:
        """A finding."""
        self._note(REPORT, rule, message, obj, place)

    def reach(self, what: str) -> None:
        """What a scenario says must occur."""
        self._note(REACH, what)

    def fold(self) -> None:
        """A retry was folded."""
        self._note(FOLD)

    # --- looks -------------------------------------------------------------------------

    def read(self, cell: Cell | None) -> None:
        """The running task looks at the value of ``cell``."""
        m = self.m
        if cell is None or m.current.id < 0:
            return
        if self.written != len(m.journal):
            self._flush()
        cid = self.table.cells.get(cell.name, -1)
        if cid in self.known:
            return
        if cell is m.rcu:
            self.never()
            return
        if cid < 0:
            cid = self._cell(cell, cell._v)
        self.known.add(cid)
        self._look(LOOK, cid, self.table.value(cid, cell._v))

    def tried(self, cell: Cell, *, exclusive: bool) -> None:
        """It looks at whether a lock that is tried is free (for an ``exclusive`` holder)."""
        self._flush()
        cid = self._cell(cell, cell._v)
        if cid in self.known:
            return
        excl, readers = cell._v
        taken = excl or readers if exclusive else excl
        self._look(LOOK_HELD if exclusive else LOOK_EXCL, cid, 1 if taken else 0)

    def _look(self, kind: int, cid: int, found: int) -> None:
        node = self._close(kind)
        if node.cid < 0:
            node.cid = cid
        elif node.cid != cid:
            self._odd(node)
        self._go(node, found)

    def _close(self, kind: int) -> Node:
        task = self.m.current.id
        node = self.at[task]
        if node.kind == OPEN:
            node.kind = kind
        elif node.kind != kind or self.done[task] != len(node.ops):
            self._odd(node)
        return node

    def _go(self, node: Node, found: int) -> None:
        task = self.m.current.id
        child = node.next.get(found)
        if child is None:
            child = node.next[found] = Node()
            self.memory.size += 1
        self.at[task] = child
        self.done[task] = 0

    def _odd(self, node: Node) -> None:
        """The task does something else where it has seen the same as before."""
        task = self.m.current
        raise MachineError(
            f"task {task.name} did something else after it saw the same as before, at or after "
            f"{task.op} {task.obj}: {DISCIPLINE}"
        )

    def never(self) -> None:
        """Do not look up what happens here."""
        self._flush()
        if self.m.current.id < 0:
            return
        node = self.at[self.m.current.id]
        node.kind = NEVER
        self._go(node, 0)

    # --- events --------------------------------------------------------------------------

    def _over(self, node: Node) -> None:
        """The event that runs is over."""
        log = self.m.log
        if log and self.m.current.started and node.over is None:
            node.over = Over(log[-1], self.shown)

    def wait_for(self, cell: Cell, holds: Change, *, could: bool = False) -> None:
        """The next point waits until that holds of the value of ``cell``; ``could``: its
        event says which changes it could have done without."""
        self._wait = (cell, holds, could)

    def wait_since(self, blame: Mapping[Cell, int]) -> None:
        """The next point waits until one of the cells changes after that log position."""
        self._since = dict(blame)

    def point(self, op: str, obj: str, waits: bool) -> None:
        """The running task announces its next event."""
        self._flush()
        task = self.m.current.id
        wait, since = self._wait, self._since
        self._wait = self._since = None
        own = self.own[task]
        looks = [] if since is None else list(since.items())
        if (waits and wait is None and since is None) or any(
            at >= 0 and at not in own for _, at in looks
        ):
            self.never()
        node = self._close(POINT)
        if not node.op:
            node.op, node.obj = op, obj
            node.waits = wait is not None or since is not None
            if wait is not None:
                node.cid, node.wait, node.could = self._cell(wait[0], wait[0]._v), wait[1], wait[2]
            if since is not None:
                node.since = [
                    (self._cell(cell, cell._v), own.index(at) if at >= 0 else -1)
                    for cell, at in looks
                ]
        elif node.op != op or node.obj != obj:
            self._odd(node)
        self._over(node)
        self.points[task] = node
        self._go(node, 0)
        self.known.clear()

    def repeats(self, length: int) -> None:
        """The running task announced the same after as many own events, twice in a row."""
        self.points[self.m.current.id].length = length

    def compared(self, position: int, same: dict[int, bool]) -> None:
        """A state was compared with earlier ones that have the same shared memory.

        :param same: by position, whether they are the same.
        """
        here = self._compared[position] = tuple(self.points)
        for at, equal in same.items():
            self.memory.same[self._compared[at], here] = equal

    def begin(self, position: int, op: str) -> None:
        """The running task begins an event."""
        self.own[self.m.current.id].append(position)
        if op != "choose":
            self.known.clear()
        self.shown = False

    def choose(self, name: str, options: tuple[Any, ...]) -> None:
        """The running task is about to choose."""
        self._flush()
        node = self._close(CHOICE)
        self._over(node)
        node.op, node.options = name, options

    def chosen(self, choice: int) -> None:
        self._go(self.at[self.m.current.id], choice)

    def end(self, *, fatal: bool = False) -> None:
        """The running task is over, or with it the whole execution."""
        self._flush()
        node = self._close(FATAL if fatal else END)
        self.points[self.m.current.id] = node
        self._over(node)
