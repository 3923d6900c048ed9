# SPDX-License-Identifier: GPL-2.0-only
"""Mazurkiewicz traces of executions, told apart without the explorer's analysis.

Two executions are the same trace iff they have the same steps and order all dependent
pairs alike.  This looks at every pair and uses nothing but the dependency table.
"""

from __future__ import annotations

from septum.machine import Event, Execution
from septum.machine.dependency import COMMUTE, RELATION

__all__ = ["past_of", "trace_of"]

Step = tuple[int, int, tuple[int, ...], tuple[tuple[str, int], ...]]  # task, number, options, acc


def _steps(events: list[Event]) -> list[Step]:
    out: list[Step] = []
    for event in events:
        if event.op == "choose":
            task, number, options, acc = out.pop()
            out.append((task, number, (*options, event.choice), (*acc, *event.acc)))
        else:
            number = sum(1 for s in out if s[0] == event.task)
            out.append((event.task, number, (), tuple(event.acc)))
    return out


def _ordered(one: Step, other: Step) -> bool:
    return one[0] == other[0] or any(
        a == b and (RELATION[k][n] != COMMUTE or RELATION[n][k] != COMMUTE)
        for a, k in one[3]
        for b, n in other[3]
    )


def trace_of(execution: Execution) -> frozenset[object]:
    """The steps, each with the dependent steps before it."""
    steps = _steps(execution.events)
    return frozenset(
        (step, frozenset(s[:2] for s in steps[:i] if _ordered(s, step)))
        for i, step in enumerate(steps)
    )


def past_of(execution: Execution) -> frozenset[object]:
    """The same of what the last step follows, and that step."""
    steps = _steps(execution.events)
    past = [steps.pop()]
    for step in reversed(steps):
        if any(_ordered(step, later) for later in past):
            past.insert(0, step)
    return frozenset(
        (step, frozenset(s[:2] for s in past[:i] if _ordered(s, step)))
        for i, step in enumerate(past)
    )
