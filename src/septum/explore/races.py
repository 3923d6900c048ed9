# SPDX-License-Identifier: GPL-2.0-only
"""Happens-before and reversible races of one execution.

Vector clocks over steps; the relation of two accesses comes from the dependency table
(septum.machine.dependency).  A *race* is a pair of steps of different tasks that are
dependent, adjacent in happens-before, and whose order may be reversed: the second was
not enabled by the first (Abdulla, Aronis, Jonsson, Sagonas, JACM 2017, section 3).

* Lock acquisitions race with acquisitions, across the release that lies between them.
* A step that awaits a write races with a write that it did not need: another awaited
  object was written too, or the wait was over before.

The other order of a race is a sequence in which every step can run.  For that more than one
step may have to come later: readers that keep the lock, since their releases depend on the
first; several additions to a word that is waited for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from septum.explore.accesses import Accessed, Accesses
from septum.explore.steps import Step
from septum.machine.dependency import (
    AWAIT,
    COMMUTE,
    EMPTY,
    ENABLE,
    EXCL,
    EXCL_REL,
    KIND_NAMES,
    RACE,
    SHARED,
    SHARED_REL,
    TRY_EXCL,
    TRY_SHARED,
    WAIT,
    WRITE,
    Footprint,
    UnknownPair,
    clash,
)

__all__ = ["Analysis", "Race", "analyse"]

# What is left out, first step first, and the step that then comes in its place.
Race = tuple[tuple[int, ...], int]

_RELEASES = frozenset({SHARED_REL, EXCL_REL})
_ALONE = frozenset({EXCL, TRY_EXCL, EXCL_REL})
_UNKNOWN = 3


class Analysis:
    """Clocks and races of a growing and shrinking sequence of steps.

    ``clocks[i][t]``: how many steps of task t precede or are step i.  The explorer cuts
    the sequence back to where executions part (`cut`), so that every step of the tree is
    analysed once.
    """

    __slots__ = ("_accessed", "_newest", "clocks", "steps", "tasks")

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.steps: list[Step] = []
        self.clocks: list[list[int]] = []
        self._accessed = Accessed(tasks)
        self._newest: list[list[int]] = [[] for _ in range(tasks)]  # steps of each task

    def cut(self, length: int) -> None:
        """Forget all steps from ``length`` on."""
        steps = self.steps
        for i in range(len(steps) - 1, length - 1, -1):
            self._newest[steps[i].task].pop()
            self._accessed.pop()
        del steps[length:]
        del self.clocks[length:]

    def add(
        self,
        step: Step,
        races: list[Race] | None = None,
        *,
        pending: bool = False,
    ) -> None:
        """Append a step; its races with earlier steps go to ``races``.  ``pending``: it
        has not run, for it is blocked."""
        i = len(self.steps)
        task = step.task
        clocks = self.clocks
        mine = self._newest[task]
        clock = list(clocks[mine[-1]]) if mine else [0] * self.tasks
        accesses = self._accessed.of(step)
        found = self._related(step, accesses)
        if found:
            if races is not None:
                locks = {lock.name: kind for lock, kind in accesses.locks if lock.known}
                _races(races, clocks, self.steps, i, clock, found, locks)
                for name, kind in locks.items():
                    self._earlier_sections(races, step, clock, name, kind, pending)
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
        self._accessed.push(accesses)

    def _earlier_waits(self, races: list[Race], step: Step, i: int, clock: list[int]) -> None:
        """A wait may have been over at an earlier time, with other changes in between."""
        steps = self.steps
        for could in step.could or ():
            out = tuple([bisect_right(steps, at, key=_begins) - 1 for at in could])
            if self._may_follow(out, step, clock) and self._in_order(out, step):
                races.append((out, i))

    def _may_follow(self, out: tuple[int, ...], step: Step, clock: list[int]) -> bool:
        """Whether ``step``, whose task knows ``clock``, needs none of the steps ``out``."""
        steps = self.steps
        return all(
            steps[j].task != step.task and clock[steps[j].task] <= steps[j].number for j in out
        )

    def _in_order(self, out: tuple[int, ...], step: Step) -> bool:
        """Whether no other addition to the word depends on one that is left out."""
        if len(out) == 1 and (step.acc[0][0], WRITE) in self.steps[out[0]].acc:
            return True
        changes = self._accessed.changes(step.acc[0][0])
        stored = [k for k, kind in changes if kind == WRITE and k > out[0]]
        end = stored[0] if stored else len(self.steps)
        return not any(
            out[0] < k < end and k not in out and self.depends(k, out) for k, _ in changes
        )

    def _earlier_sections(
        self,
        races: list[Race],
        step: Step,
        clock: list[int],
        name: str,
        kind: int,
        pending: bool,
    ) -> None:
        """The sections of lock ``name`` before which ``step`` might have taken it.

        Going back from it: those of the last time in which the lock was never free, and
        those before that on which nothing that came later at the lock depends (they could
        have been the last ones as well).  Others come nearer when what lies between is
        reversed.  A reader waits for exclusive holders only.
        """
        i = len(self.steps)
        steps, clocks = self.steps, self.clocks
        sections = self._sections(name, kind)
        later: dict[int, int] = {}  # task -> its last step at the lock after it was free
        period: dict[int, int] = {}
        holders = sum(end < 0 for _, _, end in sections) if pending else 0
        for j, how in reversed(self._accessed.changes(name)):
            other = steps[j]
            if kind == SHARED and how not in _ALONE:
                continue
            period.setdefault(other.task, j)
            if how in _RELEASES:
                holders += 1
                continue
            holders -= 1
            t, n = other.task, other.number
            if self._may_follow((j,), step, clock) and all(
                clocks[k][t] <= n for k in later.values()
            ):
                out = self._unlock(j, step, sections)
                if out and self._may_follow(out, step, clock) and (out, i) not in races:
                    races.append((out, i))
            if how != SHARED and how != TRY_SHARED:
                break
            if holders <= 0:
                later = {**period, **later}
                period = {}

    def _unlock(self, j: int, step: Step, sections: list[tuple[int, int, int]]) -> tuple[int, ...]:
        """Step ``j``, and whoever else would keep the lock from ``step`` then; nothing if one
        of them was there before."""
        out: tuple[int, ...] = (j,)
        while True:
            kept = [
                begin
                for task, begin, end in sections
                if task != step.task
                and (begin < j or not self.depends(begin, out))
                and (end < 0 or (end > j and self.depends(end, out)))
            ]
            if not kept:
                break
            if min(kept) < j:
                return ()
            out = (j, *sorted({*out[1:], *kept}))
        for name, kind in step.acc:
            if kind == EMPTY:  # under TSO it waits for the own store buffer as well
                flushes = self._accessed.changes(name)
                if flushes and self.depends(flushes[-1][0], out):
                    return ()
        return out

    def _sections(self, name: str, kind: int) -> list[tuple[int, int, int]]:
        """Who held the lock so that nobody could take it as ``kind`` says: task, its
        acquisition and its release (-1: before all steps, and never)."""
        sections: list[tuple[int, int, int]] = []
        begun: dict[int, list[int]] = {}  # task -> its acquisitions
        for k, how in self._accessed.changes(name):
            if kind == SHARED and how not in _ALONE:
                continue
            task = self.steps[k].task
            mine = begun.setdefault(task, [])
            if how in _RELEASES:
                sections.append((task, mine.pop() if mine else -1, k))
            else:
                mine.append(k)
        sections.extend([(task, k, -1) for task, mine in begun.items() for k in mine])
        return sections

    def depends(self, k: int, on: tuple[int, ...]) -> bool:
        """Whether step ``k`` is one of the steps ``on`` or follows one."""
        clock, steps = self.clocks[k], self.steps
        return any(clock[steps[j].task] > steps[j].number for j in on)

    def staying(self, out: tuple[int, ...], step: Step) -> list[int]:
        """The steps after the first of ``out`` that need none of them, but for ``step``."""
        steps, clocks = self.steps, self.clocks
        j = out[0]
        task, number = steps[j].task, steps[j].number
        kept = [
            k
            for k in range(j + 1, len(steps))
            if clocks[k][task] <= number and steps[k] is not step
        ]
        return kept if len(out) == 1 else [k for k in kept if not self.depends(k, out)]

    def needed(self, free: list[int], past: list[int], foot: Footprint) -> list[int]:
        """Those of the steps ``free`` that a step which does ``foot`` after them depends on, and
        the steps ``past``."""
        steps = self.steps
        out: list[int] = []
        for k in reversed(free):
            if k in past or clash(steps[k].foot, foot) or any(self.depends(n, (k,)) for n in out):
                out.append(k)
        return out[::-1]

    def _related(self, step: Step, accesses: Accesses) -> dict[int, int]:
        """Earlier steps of other tasks that do not commute with ``step``, and how."""
        found: dict[int, int] = {}
        relations = self._accessed.relations
        for n, touched in enumerate(accesses.objects):
            kind = accesses.kinds[n]
            row = relations[accesses.keys[n]]
            for key in touched.keys:
                related = row[key]
                if related == COMMUTE:
                    continue
                if related == _UNKNOWN:
                    first = KIND_NAMES[key // self.tasks]
                    raise UnknownPair(
                        f"no rule for {first} then {KIND_NAMES[kind]} on {touched.name}"
                    )
                j = touched.latest[key]
                if kind == AWAIT:
                    related = self._await_relation(step, j)
                elif kind == WAIT:
                    # Of a wait for a value `_earlier_waits` says what it needs.
                    late = step.could is None and self.steps[j].at > step.off
                    related = RACE if late else ENABLE
                # What enabled the step cannot be reversed, whatever else they share.
                if related > found.get(j, 0):
                    found[j] = related
        return found

    def _await_relation(self, step: Step, j: int) -> int:
        """Whether the await would have been enabled without step ``j``."""
        since = step.since or {}
        mine = self.steps[j]
        for name, at in since.items():
            for k, _ in self._accessed.changes(name):
                other = self.steps[k]
                if k == j or other.at <= at or other.task == step.task:
                    continue
                if self.clocks[k][mine.task] <= mine.number:  # not j -> k
                    return RACE
        return ENABLE


def _begins(step: Step) -> int:
    return step.at


def analyse(steps: Sequence[Step], tasks: int) -> tuple[Analysis, list[Race]]:
    """Clocks and all races of one execution."""
    analysis = Analysis(tasks)
    races: list[Race] = []
    for step in steps:
        analysis.add(step, races)
    return analysis, races


def _races(
    races: list[Race],
    clocks: Sequence[list[int]],
    steps: Sequence[Step],
    i: int,
    clock: list[int],
    found: dict[int, int],
    locks: dict[str, int],
) -> None:
    """Which of the related earlier steps are adjacent to step ``i`` and reversible;
    ``locks``: what it acquires (`Analysis._earlier_sections` looks at those)."""
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
        if locks and (j < released.get(mine.task, -1) or _excludes(mine, locks)):
            continue
        for k in found:
            if k > j and clocks[k][mine.task] > mine.number:
                break  # j -> k -> i
        else:
            races.append(((j,), i))


def _excludes(step: Step, locks: dict[str, int]) -> bool:
    """Whether it takes one of the locks, so that nobody can take that as named."""
    return any(
        kind in (EXCL, TRY_EXCL) or (kind in (SHARED, TRY_SHARED) and locks[name] == EXCL)
        for name, kind in step.acc
        if name in locks
    )
