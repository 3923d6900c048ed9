# SPDX-License-Identifier: GPL-2.0-only
"""Executions that BUG() ends, from those in which it ends only its task.

The reduced search runs the other tasks on after a BUG(), for their races.  In the program that is
checked nothing comes after it; so for each such execution, the program is run again: first all
that follows no BUG(), then one that follows no other.  Each of these gets a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from septum.explore.outcomes import NondeterminismError
from septum.explore.program import Program
from septum.explore.steps import Step
from septum.machine import Execution, Limits
from septum.machine.dependency import clash
from septum.machine.events import CONTINUE

__all__ = ["ends_of", "shown"]

_CUT_SHORT = frozenset({"covered", "matched", "diverged"})


def shown(
    program: Program, execution: Execution, steps: Sequence[Step], limits: Limits
) -> list[Execution]:
    """What an execution with survivors, which has ``steps``, says of the program: itself, or
    executions that BUG() ends.

    :raises NondeterminismError: BUG() does not come again.
    """
    if not execution.halts or execution.status in _CUT_SHORT:
        return [execution]
    before, ends = ends_of(steps, execution.halts)
    out: list[Execution] = []
    for end in ends:
        left, tried = before, len(before) + 1
        seen = _run(program, [*left, end], limits)
        while seen.status == "matched" and len(left) < tried:
            # Somebody spins, since those that BUG() ended will not end that: not so often.
            left, tried = _without(left, len(seen.events)), len(left)
            seen = _run(program, [*left, end], limits)
        if seen.status == "halted":
            out.append(seen)
        elif left is before:
            raise NondeterminismError(f"BUG() does not come where it came before: {seen.status}")
    return out or [replace(execution, status="matched", findings=[])]


def _run(program: Program, steps: Sequence[Step], limits: Limits) -> Execution:
    return program.run([d for step in steps for d in step.decisions], (), CONTINUE, limits)


def ends_of(steps: Sequence[Step], halts: Sequence[int]) -> tuple[list[Step], list[Step]]:
    """The steps that follow no BUG(), and those that hit it and follow no other one.

    :param halts: log positions at which tasks ended so.
    """
    before: list[Step] = []
    ends: list[Step] = []
    late: list[Step] = []  # those, and what follows them
    for step in steps:
        if _follows(step, late):
            late.append(step)
        elif any(step.at <= at < step.end for at in halts):
            ends.append(step)
            late.append(step)
        else:
            before.append(step)
    return before, ends


def _follows(step: Step, earlier: Sequence[Step]) -> bool:
    return any(step.task == other.task or clash(step.foot, other.foot) for other in earlier)


def _without(steps: Sequence[Step], at: int) -> list[Step]:
    """Without the step that comes at log position ``at``, and what follows it."""
    out: list[Step] = []
    late: list[Step] = []
    position = 0
    for step in steps:
        if position == at or _follows(step, late):
            late.append(step)
        else:
            out.append(step)
        position += len(step.decisions)
    return out
