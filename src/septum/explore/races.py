# SPDX-License-Identifier: GPL-2.0-only
"""Happens-before and reversible races of one execution.

Vector clocks over steps; the relation of two accesses comes from the dependency table
(septum.machine.dependency).  A *race* is a pair of steps of different tasks that are
dependent, adjacent in happens-before, and whose order may be reversed: the second was
not enabled by the first (Abdulla, Aronis, Jonsson, Sagonas, JACM 2017, section 3).

* Lock acquisitions race with acquisitions, across the release that lies between them.
* A step that awaits a write races with a write that it did not need: another awaited
  object was written too, or the wait was over before.
"""

from __future__ import annotations

from collections.abc import Sequence

from septum.explore.steps import Step
from septum.machine.dependency import (
    ACQUIRE_KINDS,
    ADD,
    AWAIT,
    ENABLE,
    EXCL,
    EXCL_REL,
    KIND_NAMES,
    RACE,
    RELATION,
    SHARED,
    SHARED_REL,
    TRY_EXCL,
    TRY_SHARED,
    WAIT,
    WRITE,
    UnknownPair,
)

__all__ = ["Analysis", "analyse", "initials"]

_CHANGES = frozenset(
    {WRITE, ADD, SHARED, EXCL, SHARED_REL, EXCL_REL, TRY_SHARED, TRY_EXCL}
)  # what an awaiting task may have been woken by
_UNKNOWN = 3


class Analysis:
    """Clocks and races of a growing and shrinking sequence of steps.

    ``clocks[i][t]``: how many steps of task t precede or are step i.  The explorer cuts
    the sequence back to where executions part (`cut`), so that every step of the tree is
    analysed once.
    """

    __slots__ = ("_changes", "_latest", "_newest", "_undo", "clocks", "steps", "tasks")

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.steps: list[Step] = []
        self.clocks: list[list[int]] = []
        # object -> kind * tasks + task -> latest such step
        self._latest: dict[str, dict[int, int]] = {}
        self._changes: dict[str, list[int]] = {}
        self._newest: list[list[int]] = [[] for _ in range(tasks)]  # steps of each task
        self._undo: list[list[int]] = []  # per access of a step, what was latest before

    def cut(self, length: int) -> None:
        """Forget all steps from ``length`` on."""
        while len(self.steps) > length:
            step = self.steps.pop()
            self.clocks.pop()
            self._newest[step.task].pop()
            olds = self._undo.pop()
            at = len(olds)
            for name, kind in reversed(step.acc):
                at -= 1
                if olds[at] < 0:
                    del self._latest[name][kind * self.tasks + step.task]
                else:
                    self._latest[name][kind * self.tasks + step.task] = olds[at]
                if kind in _CHANGES:
                    self._changes[name].pop()

    def add(self, step: Step, races: list[tuple[int, int]] | None = None) -> None:
        """Append a step; its races with earlier steps go to ``races``."""
        i = len(self.steps)
        task = step.task
        clocks = self.clocks
        mine = self._newest[task]
        clock = list(clocks[mine[-1]]) if mine else [0] * self.tasks
        found, acquires = self._related(step)
        if found:
            if races is not None:
                locks = {n for n, kind in step.acc if kind in ACQUIRE_KINDS} if acquires else set()
                _races(races, clocks, self.steps, i, clock, found, locks)
                if step.could:
                    self._earlier_waits(races, step, i, clock)
            for j in found:
                for t, n in enumerate(clocks[j]):
                    if n > clock[t]:
                        clock[t] = n
        clock[task] = step.number + 1
        clocks.append(clock)
        mine.append(i)
        self.steps.append(step)
        olds: list[int] = []
        for name, kind in step.acc:
            row = self._latest.get(name)
            if row is None:
                row = self._latest[name] = {}
            key = kind * self.tasks + task
            olds.append(row.get(key, -1))
            row[key] = i
            if kind in _CHANGES:
                self._changes.setdefault(name, []).append(i)
        self._undo.append(olds)

    def _earlier_waits(
        self, races: list[tuple[int, int]], step: Step, i: int, clock: list[int]
    ) -> None:
        """A wait may have been over at an earlier time, with other changes in between."""
        known = set(races)
        for name, kind in step.acc:
            if kind == WAIT:
                for j in self._changes.get(name, ()):
                    other = self.steps[j]
                    if (
                        other.at in (step.could or ())
                        and other.task != step.task
                        and clock[other.task] <= other.number
                        and (j, i) not in known
                    ):
                        races.append((j, i))

    def _related(self, step: Step) -> tuple[dict[int, int], bool]:
        """Earlier steps of other tasks that do not commute with ``step``, and how; and
        whether it is a blocking acquisition."""
        task = step.task
        tasks = self.tasks
        steps = self.steps
        found: dict[int, int] = {}
        acquires = False
        for name, kind in step.acc:
            row = self._latest.get(name)
            if row is None:
                continue
            if kind in ACQUIRE_KINDS:
                acquires = True
            for key, j in row.items():
                if key % tasks == task:
                    continue
                kind2 = key // tasks
                related = RELATION[kind2][kind]
                if not related:
                    continue
                if related == _UNKNOWN:
                    raise UnknownPair(
                        f"no rule for {KIND_NAMES[kind2]} then {KIND_NAMES[kind]} on {name}"
                    )
                if kind == AWAIT:
                    related = self._await_relation(step, j)
                elif kind == WAIT:
                    if step.could is not None:
                        related = RACE if steps[j].at in step.could else ENABLE
                    else:
                        related = RACE if steps[j].at > step.off else ENABLE
                # What enabled the step cannot be reversed, whatever else they share.
                if related > found.get(j, 0):
                    found[j] = related
        return found, acquires

    def _await_relation(self, step: Step, j: int) -> int:
        """Whether the await would have been enabled without step ``j``."""
        since = step.since or {}
        mine = self.steps[j]
        for name, at in since.items():
            for k in self._changes.get(name, ()):
                other = self.steps[k]
                if k == j or other.at <= at or other.task == step.task:
                    continue
                if self.clocks[k][mine.task] <= mine.number:  # not j -> k
                    return RACE
        return ENABLE


def analyse(steps: Sequence[Step], tasks: int) -> tuple[Analysis, list[tuple[int, int]]]:
    """Clocks and all races of one execution."""
    analysis = Analysis(tasks)
    races: list[tuple[int, int]] = []
    for step in steps:
        analysis.add(step, races)
    return analysis, races


def _races(
    races: list[tuple[int, int]],
    clocks: Sequence[list[int]],
    steps: Sequence[Step],
    i: int,
    clock: list[int],
    found: dict[int, int],
    locks: set[str],
) -> None:
    """Which of the related earlier steps are adjacent to step ``i`` and reversible;
    ``locks``: what it acquires."""
    # What a step shares with the inside of a section that kept it out is reversed by
    # taking the lock first, and only so.
    released: dict[int, int] = {}  # task -> its release that enabled i
    if locks:
        for k, related in found.items():
            if related == ENABLE:
                released[steps[k].task] = max(k, released.get(steps[k].task, -1))
    for j, related in found.items():
        if related == ENABLE:
            continue
        mine = steps[j]
        if clock[mine.task] > mine.number:
            continue  # ordered through i's own task already
        release = released.get(mine.task, -1)
        if j < release and not any(n in locks for n, kind in mine.acc if kind in ACQUIRE_KINDS):
            continue
        for k in found:
            if k <= j or clocks[k][mine.task] <= mine.number:
                continue
            # j -> k -> i; only the section of the lock itself does not count, with what
            # others did inside it (a flush of the holder's store buffer).
            if release >= 0 and clocks[release][steps[k].task] > steps[k].number:
                continue
            break
        else:
            races.append((j, i))


def initials(steps: Sequence[Step], clocks: Sequence[list[int]], j: int, i: int) -> list[int]:
    """Tasks that can come first in ``notdep(j) . i``: the steps after j that do not
    depend on it, then i.  The task of ``i`` comes first in the list if it is one."""
    mine = steps[j]
    first: dict[int, int] = {}  # task -> number of its first step in the sequence
    out: list[int] = []
    for k in range(j + 1, i + 1):
        step = steps[k]
        if k != i and clocks[k][mine.task] > mine.number:
            continue
        if step.task in first:
            continue
        clock = clocks[k]
        if all(clock[t] <= n for t, n in first.items()):
            if k == i:
                out.insert(0, step.task)
            else:
                out.append(step.task)
        first[step.task] = step.number
    return out
