# SPDX-License-Identifier: GPL-2.0-only
"""Store buffers: the memory model x86-TSO as an option of the machine.

P. Sewell, S. Sarkar, S. Owens, F. Zappa Nardelli, M. O. Myreen, "x86-TSO: a rigorous and
usable programmer's model for x86 multiprocessors", CACM 53(7), 2010:

* a plain store goes to the end of its task's buffer, and nobody else sees it;
* a load takes the newest own store to the word that is still buffered, else memory's value;
* the oldest buffered store reaches memory at any time;
* a locked operation and a full fence wait until the own buffer is empty.

The buffer of task ``t`` is an actor of its own, task ``n + t`` of ``n``, whose only event
is `flush`: explorers schedule it like any other task.  The footprints that keep their
reductions sound are on two objects per buffer (`septum.machine.dependency`): ``~sb<t>#<k>``,
the k-th store, is `PUT` by the store, which enables its `TAKE`, and `FORWARD` by a load that
took its value; ``~sb<t>`` is `TAKE` by every flush and `EMPTY` by what waited for them.

Monitors judge a store when it reaches memory: the flush runs as the task that stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from septum.machine.dependency import EMPTY, FORWARD, PUT, TAKE, Access
from septum.machine.state import Cell, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from septum.machine.core import Machine
    from septum.machine.events import Event
    from septum.machine.memory import Word

__all__ = ["MEMORY_MODELS", "StoreBuffers"]

MEMORY_MODELS: Final = ("SC", "TSO")


class _Store:
    """A store that waits, with what judging it later needs: the RCU section it was made
    in, and where in the code (when a schedule is shown)."""

    __slots__ = ("name", "rcu_depth", "rcu_section", "stack", "value", "where", "word")

    def __init__(self, word: Word, value: Any, name: str, task: Task, event: Event | None) -> None:
        self.word = word
        self.value = value
        self.name = name
        self.rcu_depth = task.rcu_depth
        self.rcu_section = task.rcu_section
        self.where = None if event is None else event.where
        self.stack = () if event is None else event.stack


class _Box:
    """One task's buffer.  ``cell`` shows it to fingerprints; ``dirty``: something was
    stored since the task last waited for it to be empty."""

    __slots__ = ("cell", "dirty", "name", "owner", "puts", "stores")

    def __init__(self, m: Machine, owner: Task) -> None:
        self.owner = owner
        self.name = f"~sb{owner.id}"
        self.cell = Cell(m, f"store buffer of {owner.name}", ())
        self.stores: list[_Store] = []
        self.puts = 0
        self.dirty = False

    def empty(self) -> bool:
        return not self.stores

    def filled(self) -> bool:
        return bool(self.stores)

    def newest(self, word: Word) -> _Store | None:
        """The store that a load of ``word`` by the owner takes its value from."""
        for store in self.stores[::-1]:
            if store.word is word:
                return store
        return None

    def show(self) -> None:
        self.cell.set(tuple((s.word.name, s.value) for s in self.stores))


class StoreBuffers:
    """The buffers of one execution.

    :ivar actors: the tasks that flush, one per task, in the same order.
    """

    def __init__(self, m: Machine, tasks: list[Task]) -> None:
        self.m = m
        self.boxes = [_Box(m, task) for task in tasks]
        self.actors: list[Task] = []
        for box in self.boxes:
            actor = Task(len(tasks) + box.owner.id, f"{box.owner.name} (buffer)", None)
            actor.body = self._drain(actor, box)
            actor.daemon = True
            self.actors.append(actor)

    def put(self, word: Word, value: Any) -> Event | None:
        """A plain store by the running task: one point, nobody else sees it."""
        m = self.m
        event = m.point("store", word.name) if m.interleaving else None
        task = m.current
        box = self.boxes[task.id]
        name = f"{box.name}#{box.puts}"
        if event is not None:
            event.seen = self.view(word)
            event.left = value
        m.acc.append((name, PUT))
        box.stores.append(_Store(word, value, name, task, event))
        box.puts += 1
        box.dirty = True
        box.show()
        return event

    def forward(self, word: Word) -> _Store | None:
        """The own store that a load by the running task reads, if one waits."""
        box = self.boxes[self.m.current.id]
        if not box.stores:
            return None
        store = box.newest(word)
        if store is not None:
            self.m.acc.append((store.name, FORWARD))
        return store

    def view(self, word: Word) -> Any:
        """What the running task would read, without an access."""
        store = self.boxes[self.m.current.id].newest(word)
        return word._v if store is None else store.value

    def locked_point(self, op: str, obj: str, ready: Callable[[], bool] | None = None) -> Event:
        """`Machine.point` for an access that waits until the own buffer is empty."""
        m = self.m
        box = self.boxes[m.current.id]
        if not box.dirty:
            return m.point(op, obj, ready)
        if ready is None:
            event = m.point(op, obj, box.empty)
        else:
            event = m.point(op, obj, lambda: not box.stores and ready())
        self._waited(box)
        return event

    def fence(self) -> None:
        """A full fence: nothing to do, and no point, if nothing was stored since the last."""
        m = self.m
        box = self.boxes[m.current.id]
        if box.dirty:
            m.point("mfence", box.cell.name, box.empty)
            self._waited(box)

    def awaited(self, task: Task) -> list[Access]:
        """The footprint of waiting for its own buffer, for a task that may do so next;
        `PUT`: of stores that are still in it."""
        if task.id >= len(self.boxes) or not self.boxes[task.id].dirty:
            return []
        box = self.boxes[task.id]
        return [(box.name, EMPTY), *[(store.name, PUT) for store in box.stores]]

    def pending_sections(self) -> set[tuple[int, int]]:
        """RCU sections with a buffered store.  A grace period makes every CPU drain, so it
        ends after such a store even if the section has ended."""
        return {
            (box.owner.id, store.rcu_section)
            for box in self.boxes
            for store in box.stores
            if store.rcu_depth > 0
        }

    def _waited(self, box: _Box) -> None:
        self.m.acc.append((box.name, EMPTY))
        box.dirty = False

    def _drain(self, actor: Task, box: _Box) -> Callable[[], None]:
        """The actor's body: the oldest store reaches memory, again and again."""
        m = self.m

        def body() -> None:
            while True:
                event = m.point("flush", box.cell.name, box.filled)
                store = box.stores.pop(0)
                box.show()
                event.obj = store.word.name
                event.where, event.stack = store.where, store.stack
                m.acc.append((store.name, TAKE))
                m.acc.append((box.name, TAKE))
                event.seen = store.word._v
                event.left = store.value
                self._as_owner(actor, box.owner, store)

        return body

    def _as_owner(self, actor: Task, owner: Task, store: _Store) -> None:
        """The store itself, judged as the owner's, in the RCU section it was made in."""
        m = self.m
        depth, section = owner.rcu_depth, owner.rcu_section
        owner.rcu_depth, owner.rcu_section = store.rcu_depth, store.rcu_section
        m.current = owner
        try:
            store.word._store(store.value)
        finally:
            m.current = actor
            owner.rcu_depth, owner.rcu_section = depth, section
