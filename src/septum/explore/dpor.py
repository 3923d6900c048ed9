# SPDX-License-Identifier: GPL-2.0-only
"""Source-DPOR with sleep sets: complete, stateless, one run per leaf of the tree.

P. Abdulla, S. Aronis, B. Jonsson, K. Sagonas, "Source sets: a foundation for optimal
dynamic partial order reduction", JACM 64(4), 2017, algorithm 1.  Deviations:

* Race analysis happens after a run, on its log, for the steps new in that run.
* A race is skipped if one of its initials sleeps at that node: every trace that starts
  so was explored already.
* A choice is part of its step; all options are explored below the step's node.
* An execution that BUG() ended says nothing about what the other tasks would have
  done, so each of them is also tried instead of the step that ended it.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from septum.explore.program import Program
from septum.explore.races import Analysis, initials
from septum.explore.result import SearchResult
from septum.explore.steps import Step, pending_step, steps_of
from septum.machine import Decision, Execution, Limits, Policy
from septum.machine.dependency import Access, dependent
from septum.machine.events import CONTINUE

__all__ = ["NondeterminismError", "explore"]


class NondeterminismError(RuntimeError):
    """The same decisions led elsewhere: the model reads something that is not rewound."""


class _Node:
    """A state on the current branch and what was, is and will be tried from it."""

    __slots__ = ("backtrack", "closed", "footprint", "sleep", "step")

    def __init__(self, step: Step, sleep: dict[int, list[Access]]) -> None:
        self.step = step
        self.sleep = sleep  # inherited, then joined by what was explored from here
        self.backtrack: set[int] = {step.task}
        self.footprint: list[Access] = []  # of `step`, over all its choices so far
        self.closed = False  # every option of `step` was explored


def explore(
    program: Program,
    tasks: int,
    *,
    limits: Limits,
    policy: Policy = CONTINUE,
    max_executions: int = 0,
    deadline: float = 0.0,
    first: bool = False,
    progress: Callable[[SearchResult], None] | None = None,
    on_execution: Callable[[Execution], None] | None = None,
) -> SearchResult:
    """Explore every Mazurkiewicz trace of ``program``.

    :param max_executions: stop after that many (0: no bound).
    :param deadline: ``perf_counter()`` value at which to stop (0: none).
    :param first: stop at the first finding.
    """
    result = SearchResult("dpor")
    begun = perf_counter()
    stack: list[_Node] = []
    analysis = Analysis(tasks)
    prefix: list[Decision] = []
    path: list[Decision] = []  # the decisions of the current branch
    sleep: dict[int, list[Access]] = {}
    while True:
        execution = program.run(prefix, sleep, policy, limits)
        if execution.status == "diverged":
            if len(execution.events) != len(prefix) - 1 or not stack[-1].closed:
                raise NondeterminismError(execution.diverged)
            # Only a guess after BUG(): the task could not run there.
            stack[-1].backtrack.discard(prefix[-1].task)
        else:
            result.take(execution)
            if on_execution is not None:
                on_execution(execution)
            _extend(stack, execution, analysis)
            path = execution.decisions
            if progress is not None:
                progress(result)
        if first and result.found:
            result.bounds_hit.append("stopped at the first finding")
            break
        chosen = _next(stack, path)
        if chosen is None:
            result.complete = not result.bounds_hit
            break
        prefix, sleep = chosen
        if max_executions and result.executions >= max_executions:
            result.bounds_hit.append(f"{max_executions} executions")
            break
        if deadline and perf_counter() >= deadline:
            result.bounds_hit.append("time budget")
            break
        if execution.status == "limit" and "steps per execution" not in result.bounds_hit:
            result.bounds_hit.append("steps per execution")
    if execution.status == "limit" and "steps per execution" not in result.bounds_hit:
        result.bounds_hit.append("steps per execution")
        result.complete = False
    result.seconds = perf_counter() - begun
    return result


def _extend(stack: list[_Node], execution: Execution, analysis: Analysis) -> None:
    """Push the new nodes of an execution and add the backtrack points its races ask for."""
    kept = max(len(stack) - 1, 0)  # the last node's step is new in this run
    analysis.cut(kept)
    races: list[tuple[int, int]] = []
    for d, step in enumerate(steps_of(execution.events, analysis.steps), kept):
        if d < len(stack):
            node = stack[d]
            node.step = step
            node.closed = False
            node.footprint = node.footprint + step.acc
        else:
            above = stack[d - 1] if d else None
            inherited: dict[int, list[Access]] = {}
            if above is not None and above.sleep:
                acc = above.step.acc
                inherited = {t: a for t, a in above.sleep.items() if not dependent(a, acc)}
                inherited.pop(above.step.task, None)
            node = _Node(step, inherited)
            node.footprint = list(step.acc)
            stack.append(node)
        analysis.add(step, races)
    _add(stack, analysis, races)
    if execution.status in ("deadlock", "stuck"):
        _add_pending(stack, execution, analysis)
    if execution.status == "halted" and stack:
        for event in execution.pending:
            if event.task != stack[-1].step.task:
                stack[-1].backtrack.add(event.task)


def _add_pending(stack: list[_Node], execution: Execution, analysis: Analysis) -> None:
    """Lock acquisitions that never happened race with those that did."""
    length = len(analysis.steps)
    counts: dict[int, int] = {}
    for step in analysis.steps:
        counts[step.task] = step.number + 1
    for event in execution.pending:
        pending = pending_step(event, counts.get(event.task, 0))
        if pending is not None:
            races: list[tuple[int, int]] = []
            analysis.add(pending, races)
            _add(stack, analysis, races)
            analysis.cut(length)


def _add(stack: list[_Node], analysis: Analysis, races: list[tuple[int, int]]) -> None:
    for j, i in races:
        node = stack[j]
        candidates = initials(analysis.steps, analysis.clocks, j, i)
        if not any(t in node.backtrack or t in node.sleep for t in candidates):
            node.backtrack.add(candidates[0])


def _next(
    stack: list[_Node], path: list[Decision]
) -> tuple[list[Decision], dict[int, list[Access]]] | None:
    """The next branch to run: deepest first.  Pops what is finished."""
    while stack:
        node = stack[-1]
        step = node.step
        if not node.closed:
            # Another option of the last choice that has one left.
            for c in range(len(step.choices) - 1, -1, -1):
                option, options = step.choices[c]
                if option + 1 < options:
                    prefix = path[: step.at + 1 + c]
                    prefix.append(Decision(step.task, option + 1))
                    # Up to the last choice the footprint is known from this run.
                    sleep = {t: a for t, a in node.sleep.items() if not dependent(a, step.acc)}
                    return prefix, sleep
            node.closed = True
            node.sleep[step.task] = node.footprint
            node.footprint = []
        waiting = node.backtrack.difference(node.sleep)
        if waiting:
            prefix = path[: step.at]
            prefix.append(Decision(min(waiting)))
            return prefix, dict(node.sleep)
        stack.pop()
    return None
