# SPDX-License-Identifier: GPL-2.0-only
"""Every schedule with at most so many preemptions, and bounds raised until time is up.

M. Musuvathi, S. Qadeer, "Iterative context bounding for systematic testing of
multithreaded programs", PLDI 2007: a *preemption* is a switch away from a task that could
have gone on.  No partial-order reduction, whose races a bound would make incomplete
(Coons, Musuvathi, McKinley, OOPSLA 2013); but a run stops in a state that was met before
with the same running task and at least as many preemptions left.  States are told apart
as in `brute.states`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import perf_counter

from septum.explore.program import MachineProgram
from septum.explore.result import SearchResult
from septum.machine import Decision, Event, Execution, Limits
from septum.machine.events import CONTINUE

__all__ = ["bounded", "deepening", "preempts"]


def preempts(before: Event | None, event: Event) -> bool:
    """Whether ``event`` runs although the task of the event before it could go on."""
    return (
        before is not None
        and event.op != "choose"
        and event.task != before.task
        and before.task in event.enabled
    )


class _Search:
    """One bound: what was met, what is untried, and whether anything was left out."""

    def __init__(self, program: MachineProgram, bound: int) -> None:
        self.machine = program.machine
        self.bound = bound
        self.seen: dict[Hashable, int] = {}  # state and running task: preemptions left
        self.untried: list[list[Decision]] = [[]]
        self.prefix: list[Decision] = []
        self.start = self.machine.mark()
        self.used = [0]  # preemptions before each position of the present run
        self.cut = False

    def at_state(self) -> bool:
        """Called where a decision is due beyond the prefix; False ends the run."""
        machine = self.machine
        log = machine.log
        self._count(log)
        if len(log) <= len(self.prefix):
            return True
        key = hash(
            (
                machine.fingerprint(self.start),
                tuple(map(tuple, machine.histories)),
                machine.enabled_now,
                tuple(t.count for t in machine.tasks),
                log[-1].task,
            )
        )
        left = self.bound - self.used[-1]
        if self.seen.get(key, -1) >= left:
            return False
        self.seen[key] = left
        return True

    def _count(self, log: list[Event]) -> None:
        for i in range(len(self.used) - 1, len(log)):
            before = log[i - 1] if i else None
            self.used.append(self.used[i] + preempts(before, log[i]))

    def branch(self, execution: Execution) -> None:
        """Push what the bound allows of the decisions not taken in the new part."""
        events, decisions = execution.events, execution.decisions
        self._count(events)
        for i in range(len(self.prefix), len(events)):
            event = events[i]
            for option in range(event.choice + 1, len(event.options)):
                self.untried.append([*decisions[:i], Decision(event.task, option)])
            before = events[i - 1].task if i else -1
            price = 1 if before in event.enabled else 0
            for task in event.enabled:
                if task == event.task or task == before:
                    continue
                if self.used[i] + price <= self.bound:
                    self.untried.append([*decisions[:i], Decision(task)])
                else:
                    self.cut = True


def bounded(
    program: MachineProgram,
    bound: int,
    *,
    limits: Limits,
    max_executions: int = 0,
    deadline: float = 0.0,
    first: bool = False,
    progress: Callable[[SearchResult], None] | None = None,
    on_execution: Callable[[Execution], None] | None = None,
) -> SearchResult:
    """All schedules with at most ``bound`` preemptions, and all choices."""
    machine = program.machine
    result = SearchResult("bounded")
    begun = perf_counter()
    search = _Search(program, bound)
    machine.history = []
    machine.state_hook = search.at_state
    stopped = ""
    try:
        while search.untried:
            search.prefix = search.untried.pop()
            search.used = [0]
            execution = program.run(search.prefix, (), CONTINUE, limits, fingerprint=True)
            result.take(execution)
            if execution.status == "complete":
                result.finals.add(execution.fingerprint)
            if on_execution is not None:
                on_execution(execution)
            if progress is not None:
                result.seconds = perf_counter() - begun
                progress(result)
            search.branch(execution)
            if execution.status == "limit" and "steps per execution" not in result.bounds_hit:
                result.bounds_hit.append("steps per execution")
            if first and result.found:
                stopped = "stopped at the first finding"
            elif max_executions and result.executions >= max_executions and search.untried:
                stopped = f"{max_executions} executions"
            elif deadline and perf_counter() >= deadline and search.untried:
                stopped = "time budget"
            if stopped:
                break
    finally:
        machine.history = None
        machine.state_hook = None
    if stopped:
        result.bounds_hit.append(f"{stopped}: not all within {_within(bound)}")
    elif search.cut:
        result.bounds_hit.append(_all(bound))
    result.complete = not result.bounds_hit
    result.seconds = perf_counter() - begun
    return result


def deepening(
    program: MachineProgram,
    *,
    limits: Limits,
    max_executions: int = 0,
    deadline: float = 0.0,
    first: bool = False,
    progress: Callable[[SearchResult], None] | None = None,
    on_execution: Callable[[Execution], None] | None = None,
) -> SearchResult:
    """`bounded` with 0, 1, 2, ... preemptions, until nothing is left out or a limit is
    reached; ``max_executions`` counts those of all bounds together."""
    total = SearchResult("bounded")
    bound = 0

    def so_far(result: SearchResult) -> None:
        """What all bounds have found until now."""
        assert progress is not None
        both = SearchResult("bounded")
        both.add(total)
        both.add(result)
        both.bounds_hit = [_all(bound - 1)] if bound else []
        progress(both)

    while True:
        left = max_executions - total.executions if max_executions else 0
        result = bounded(
            program,
            bound,
            limits=limits,
            max_executions=left,
            deadline=deadline,
            first=first,
            progress=so_far if progress is not None else None,
            on_execution=on_execution,
        )
        ends = result.complete or result.bounds_hit != [_all(bound)]
        done = result.bounds_hit
        total.bounds_hit = []
        result.bounds_hit = []
        total.add(result)
        total.finals |= result.finals
        total.complete = not done
        if done and bound and ends:
            done = [_all(bound - 1), *done]
        total.bounds_hit = done
        if ends or (max_executions and total.executions >= max_executions):
            return total
        bound += 1


def _all(bound: int) -> str:
    return f"all schedules within {_within(bound)}"


def _within(bound: int) -> str:
    return f"{bound} preemption{'' if bound == 1 else 's'}"
