# SPDX-License-Identifier: GPL-2.0-only
"""Who accessed each object last, and how, along an execution that grows and shrinks.

What a step accesses is worked out once per list of accesses, which steps that are looked up
(septum.machine.known) have in common: then no name is looked up again.
"""

from __future__ import annotations

from typing import Final

from septum.explore.steps import Step
from septum.machine.dependency import (
    ACQUIRE_KINDS,
    ADD,
    COMMUTE,
    EXCL,
    EXCL_REL,
    KIND_NAMES,
    RELATION,
    SHARED,
    SHARED_REL,
    TAKE,
    TRY_EXCL,
    TRY_SHARED,
    WRITE,
    Access,
)

__all__ = ["Accessed", "Accesses", "Touched"]

_CHANGES: Final = frozenset(
    {WRITE, ADD, SHARED, EXCL, SHARED_REL, EXCL_REL, TRY_SHARED, TRY_EXCL, TAKE}
)
_KINDS: Final = len(KIND_NAMES)
_MOST: Final = 20_000


class Touched:
    """One object.

    :ivar latest: by kind * tasks + task, the latest step that did that (-1: none).
    :ivar keys: of those that are not -1, as they came up.
    :ivar changes: steps, with the kind, that whoever awaits the object may wake up for.
    :ivar known: some step has accessed it, in whatever execution.
    :ivar kinds: of access to it in the step that is worked out as the ``last`` one, as a bit mask.
    """

    __slots__ = ("changes", "keys", "kinds", "known", "last", "latest", "name")

    def __init__(self, name: str, tasks: int) -> None:
        self.name = name
        self.latest = [-1] * (_KINDS * tasks)
        self.keys: list[int] = []
        self.changes: list[tuple[int, int]] = []
        self.known = False
        self.kinds = 0
        self.last = 0


class Accesses:
    """What a step accesses: the ``objects``, each with a key (kind * tasks + task) and the
    kind, no pair twice; which of them it changes, how; and the locks that it waits for."""

    __slots__ = ("acc", "changed", "how", "keys", "kinds", "locks", "objects")

    def __init__(self, acc: list[Access]) -> None:
        self.acc = acc
        self.objects: list[Touched] = []
        self.keys: list[int] = []
        self.kinds: list[int] = []
        self.changed: list[Touched] = []
        self.how: list[int] = []
        self.locks: list[tuple[Touched, int]] = []


class Accessed:
    """All objects, and the accesses of the present execution.

    :ivar relations: by the key of a step's access, then by that of an earlier one, how they
        relate (nothing of a task with itself does).
    """

    __slots__ = ("_done", "_known", "_made", "_objects", "_undo", "relations", "tasks")

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self._objects: dict[str, Touched] = {}
        self._known: dict[int, Accesses] = {}  # by the identity of the list, which they keep
        self._made = 0
        self._done: list[Accesses] = []
        self._undo: list[list[int]] = []  # per access of a step, what was latest before
        self.relations = _relations(tasks)

    def of(self, step: Step) -> Accesses:
        """What the step accesses."""
        known = self._known.get(id(step.acc))
        if known is not None:
            return known
        made = self._make(step)
        if step.shared:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[id(step.acc)] = made
        return made

    def _make(self, step: Step) -> Accesses:
        made = Accesses(step.acc)
        self._made += 1
        for name, kind in step.acc:
            touched = self._objects.get(name)
            if touched is None:
                touched = self._objects[name] = Touched(name, self.tasks)
            if touched.last != self._made:
                touched.last = self._made
                touched.kinds = 0
            if not touched.kinds >> kind & 1:
                touched.kinds |= 1 << kind
                made.objects.append(touched)
                made.keys.append(kind * self.tasks + step.task)
                made.kinds.append(kind)
                if kind in ACQUIRE_KINDS:
                    made.locks.append((touched, kind))
            if kind in _CHANGES:
                made.changed.append(touched)
                made.how.append(kind)
        return made

    def push(self, accesses: Accesses) -> None:
        """They are those of the next step."""
        i = len(self._done)
        olds: list[int] = []
        keys = accesses.keys
        for n, touched in enumerate(accesses.objects):
            key = keys[n]
            old = touched.latest[key]
            olds.append(old)
            if old < 0:
                touched.keys.append(key)
                touched.known = True
            touched.latest[key] = i
        for n, touched in enumerate(accesses.changed):
            touched.changes.append((i, accesses.how[n]))
        self._done.append(accesses)
        self._undo.append(olds)

    def pop(self) -> None:
        """Forget the last step."""
        accesses = self._done.pop()
        olds = self._undo.pop()
        keys = accesses.keys
        objects = accesses.objects
        for n in range(len(olds) - 1, -1, -1):
            touched = objects[n]
            old = olds[n]
            touched.latest[keys[n]] = old
            if old < 0:
                touched.keys.pop()
        for touched in accesses.changed:
            touched.changes.pop()

    def changes(self, name: str) -> list[tuple[int, int]]:
        """Of the object, as `Touched.changes`."""
        touched = self._objects.get(name)
        return touched.changes if touched is not None else []


_RELATIONS: Final[dict[int, list[list[int]]]] = {}  # by the number of tasks


def _relations(tasks: int) -> list[list[int]]:
    known = _RELATIONS.get(tasks)
    if known is None:
        keys = range(_KINDS * tasks)
        known = _RELATIONS[tasks] = [[_relation(k, key, tasks) for k in keys] for key in keys]
    return known


def _relation(first: int, second: int, tasks: int) -> int:
    if first % tasks == second % tasks:
        return COMMUTE
    return RELATION[first // tasks][second // tasks]
