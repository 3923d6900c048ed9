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
    """Clocks and races.  ``clocks[i][t]``: how many steps of task t precede or are i."""

    __slots__ = ("clocks", "races")

    def __init__(self) -> None:
        self.clocks: list[list[int]] = []
        self.races: list[tuple[int, int]] = []


def analyse(steps: Sequence[Step], tasks: int, first: int = 0) -> Analysis:
    """Clocks of all steps and the races whose second step is at ``first`` or later."""
    result = Analysis()
    clocks = result.clocks
    latest: dict[str, dict[tuple[int, int], int]] = {}
    changes: dict[str, list[int]] = {}
    newest: list[int] = [-1] * tasks  # last step of each task
    for i, step in enumerate(steps):
        task = step.task
        before = newest[task]
        clock = list(clocks[before]) if before >= 0 else [0] * tasks
        found: dict[int, int] = {}  # earlier step -> relation
        acquires = False
        for name, kind in step.acc:
            row = latest.get(name)
            if row is None:
                continue
            if kind in ACQUIRE_KINDS:
                acquires = True
            for (kind2, task2), j in row.items():
                if task2 == task:
                    continue
                related = RELATION[kind2][kind]
                if not related:
                    continue
                if related == _UNKNOWN:
                    raise UnknownPair(
                        f"no rule for {KIND_NAMES[kind2]} then {KIND_NAMES[kind]} on {name}"
                    )
                if kind == AWAIT:
                    related = _await_relation(steps, clocks, changes, step, j)
                elif kind == WAIT:
                    related = RACE if steps[j].at > step.off else ENABLE
                # What enabled the step cannot be reversed, whatever else they share.
                found[j] = max(found.get(j, 0), related)
        if i >= first and found:
            _races(result, steps, i, clock, found, acquires)
        for j in found:
            other = clocks[j]
            for t in range(tasks):
                if other[t] > clock[t]:
                    clock[t] = other[t]
        clock[task] = step.number + 1
        clocks.append(clock)
        newest[task] = i
        for name, kind in step.acc:
            row = latest.get(name)
            if row is None:
                row = latest[name] = {}
            row[(kind, task)] = i
            if kind in _CHANGES:
                changes.setdefault(name, []).append(i)
    return result


def _await_relation(
    steps: Sequence[Step],
    clocks: Sequence[list[int]],
    changes: dict[str, list[int]],
    step: Step,
    j: int,
) -> int:
    """Whether the await would have been enabled without step ``j``."""
    since = step.since or {}
    mine = steps[j]
    for name, at in since.items():
        for k in changes.get(name, ()):
            if k == j or steps[k].at <= at or steps[k].task == step.task:
                continue
            if clocks[k][mine.task] <= mine.number:  # not j -> k
                return RACE
    return ENABLE


def _races(
    result: Analysis,
    steps: Sequence[Step],
    i: int,
    clock: list[int],
    found: dict[int, int],
    acquires: bool,
) -> None:
    """Which of the related earlier steps are adjacent to step ``i`` and reversible."""
    clocks = result.clocks
    for j, related in found.items():
        if related == ENABLE:
            continue
        mine = steps[j]
        if clock[mine.task] > mine.number:
            continue  # ordered through i's own task already
        for k, other in found.items():
            if k <= j or clocks[k][mine.task] <= mine.number:
                continue
            # j -> k -> i; only a lock's own release does not count.
            if acquires and other == ENABLE and steps[k].task == mine.task:
                continue
            break
        else:
            result.races.append((j, i))


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
