# SPDX-License-Identifier: GPL-2.0-only
"""Every interleaving, without any reduction: the oracle the reductions are tested with.

* `naive`: all interleavings, each to its end.
* `states`: all interleavings, but an execution stops in a state that was met before.
  Tasks hold live stacks, so a task's local state is identified by the sequence of
  values it has observed; that and the shared state decide everything it will do.
  Nothing of the dependency table is used, only the undo journal and the histories.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import perf_counter

from septum.explore.program import MachineProgram
from septum.explore.result import SearchResult
from septum.machine import Decision, Execution, Limits, Policy

__all__ = ["naive", "states"]

_LOWEST = Policy("lowest")


def naive(
    program: MachineProgram,
    *,
    limits: Limits,
    max_executions: int = 0,
    deadline: float = 0.0,
    first: bool = False,
    progress: Callable[[SearchResult], None] | None = None,
    on_execution: Callable[[Execution], None] | None = None,
) -> SearchResult:
    """All interleavings and choices, depth first."""
    return _search(
        program, "naive", None, limits, max_executions, deadline, first, progress, on_execution
    )


def states(
    program: MachineProgram,
    *,
    limits: Limits,
    max_executions: int = 0,
    deadline: float = 0.0,
    first: bool = False,
    progress: Callable[[SearchResult], None] | None = None,
    on_execution: Callable[[Execution], None] | None = None,
) -> SearchResult:
    """All reachable states (shared state and every task's observations)."""
    seen: set[Hashable] = set()
    return _search(
        program, "states", seen, limits, max_executions, deadline, first, progress, on_execution
    )


def _search(
    program: MachineProgram,
    name: str,
    seen: set[Hashable] | None,
    limits: Limits,
    max_executions: int,
    deadline: float,
    first: bool,
    progress: Callable[[SearchResult], None] | None,
    on_execution: Callable[[Execution], None] | None,
) -> SearchResult:
    machine = program.machine
    result = SearchResult(name)
    begun = perf_counter()
    untried: list[list[Decision]] = [[]]
    start = machine.mark()
    prefix: list[Decision] = []

    def at_state() -> bool:
        """Called where a decision is due beyond the prefix; False ends the run."""
        if seen is not None and len(machine.log) > len(prefix):
            state = (
                machine.fingerprint(start),
                tuple(map(tuple, machine.histories)),
                machine.enabled_now,
                tuple(t.count for t in machine.tasks),
            )
            key = hash(state)
            if key in seen:
                return False
            seen.add(key)
        return True

    machine.history = [] if seen is not None else None
    machine.state_hook = at_state
    try:
        while untried:
            prefix = untried.pop()
            execution = program.run(prefix, (), _LOWEST, limits, fingerprint=True)
            result.take(execution)
            if execution.status == "complete":
                result.finals.add(execution.fingerprint)
            if on_execution is not None:
                on_execution(execution)
            if progress is not None:
                result.seconds = perf_counter() - begun
                progress(result)
            _branch(execution, len(prefix), untried)
            if first and result.found:
                result.bounds_hit.append("stopped at the first finding")
                break
            if execution.status == "limit":
                result.bounds_hit.append("steps per execution")
            if max_executions and result.executions >= max_executions and untried:
                result.bounds_hit.append(f"{max_executions} executions")
                break
            if deadline and perf_counter() >= deadline and untried:
                result.bounds_hit.append("time budget")
                break
    finally:
        machine.history = None
        machine.state_hook = None
    result.complete = not result.bounds_hit
    result.bounds_hit = sorted(set(result.bounds_hit))
    result.seconds = perf_counter() - begun
    return result


def _branch(execution: Execution, kept: int, untried: list[list[Decision]]) -> None:
    """Push every decision not taken in the new part of an execution."""
    decisions = execution.decisions
    for i in range(kept, len(execution.events)):
        event = execution.events[i]
        for option in range(event.choice + 1, len(event.options)):
            untried.append([*decisions[:i], Decision(event.task, option)])
        for task in event.enabled:
            if task != event.task:
                untried.append([*decisions[:i], Decision(task)])
