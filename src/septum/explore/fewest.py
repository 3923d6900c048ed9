# SPDX-License-Identifier: GPL-2.0-only
"""The schedule with the fewest context switches that shows a finding, then the shortest.

Schedules are tried in the order of their switches.  A run goes on with the running task as
long as it can; from each run, those branch off that switch at some point to another task.
The task that was left sleeps until something depends on its next step: a schedule that
resumes it earlier can take that step before the switch, with no more switches.  So what is
enumerated holds a best schedule for every finding, and which of the best comes out
depends neither on how the finding was made nor on who explored what.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

from septum.explore.program import Program
from septum.explore.result import schedule_key
from septum.explore.steps import Step, steps_of
from septum.machine import Decision, Execution, Finding, Limits
from septum.machine.dependency import Footprint, clash
from septum.machine.events import CONTINUE

__all__ = ["Best", "fewest"]

Asleep = dict[int, Footprint]
Best = tuple[Finding, list[Decision]]
_Entry = tuple[int, int, tuple[Decision, ...], Asleep]


class _Queue:
    """Prefixes to be run, by switches, then length, then lexicographically."""

    def __init__(self, bound: tuple[int, int]) -> None:
        self.bound = bound  # switches and length of what is known
        self.heap: list[tuple[int, int, tuple[Decision, ...], int]] = []
        self.asleep: list[Asleep] = []

    def push(self, cost: int, prefix: Sequence[Decision], asleep: Asleep) -> None:
        if (cost, len(prefix)) <= self.bound:
            self.asleep.append(asleep)
            entry = (cost, len(prefix), tuple(prefix), len(self.asleep) - 1)
            heapq.heappush(self.heap, entry)

    def pop(self) -> _Entry:
        cost, length, prefix, at = heapq.heappop(self.heap)
        asleep, self.asleep[at] = self.asleep[at], {}
        return cost, length, prefix, asleep


def fewest(
    program: Program,
    tasks: int,
    wanted: Callable[[Execution], Finding | None],
    bound: tuple[int, int],
    limits: Limits,
    tries: int,
) -> tuple[Best | None, bool]:
    """The best schedule, and whether all that could be better were tried.

    :param wanted: the finding looked for, if an execution shows it.
    :param bound: switches and length of a schedule that is known to show it.
    :param tries: executions at most.
    """
    best: Best | None = None
    queue = _Queue(bound)
    for task in range(tasks):
        queue.push(0, [Decision(task)], {})
    while queue.heap:
        cost, length, prefix, asleep = queue.pop()
        if (cost, length) > queue.bound:
            return best, True
        if tries <= 0:
            return best, False
        tries -= 1
        execution = program.run(prefix, list(asleep.items()), CONTINUE, limits)
        if execution.status == "diverged":
            continue  # a task that cannot begin
        finding = wanted(execution)
        if finding is not None:
            decisions = execution.decisions
            cut = decisions[: finding.step + 1]
            if best is None or schedule_key(cut) < schedule_key(best[1][: best[0].step + 1]):
                best = (finding, decisions)
                queue.bound = min(queue.bound, schedule_key(cut)[:2])
        _branch(execution, len(prefix), asleep, queue)
    return best, True


def _branch(execution: Execution, kept: int, asleep: Asleep, queue: _Queue) -> None:
    """What leaves the new part of a run: the other options of its choices, and switches."""
    events, decisions = execution.events, execution.decisions
    steps = steps_of(events)
    before: Step | None = None
    sleeping: Mapping[int, Footprint] = dict(asleep)
    cost = 0
    for step in steps:
        past = cost
        cost += before is not None and step.task != before.task
        if cost > queue.bound[0]:
            return
        new = step.end > kept
        for n, (option, options) in enumerate(step.choices if new else ()):
            at = _position(step, n)
            if at >= kept:
                for other in range(option + 1, options):
                    queue.push(cost, [*decisions[:at], Decision(step.task, other)], dict(sleeping))
        if step.at >= kept and before is not None:
            for task in events[step.at].enabled:
                if task not in (step.task, before.task) and task not in sleeping:
                    left = dict(sleeping)
                    if step.task == before.task and not step.choices:
                        left[step.task] = step.foot
                    queue.push(past + 1, [*decisions[: step.at], Decision(task)], left)
        if step.end >= kept:
            sleeping = {t: f for t, f in sleeping.items() if not clash(f, step.foot)}
        before = step


def _position(step: Step, n: int) -> int:
    """Log position of a step's choice."""
    return step.end - len(step.choices) + n
