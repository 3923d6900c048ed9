# SPDX-License-Identifier: GPL-2.0-only
"""Executions that BUG() ends, from those in which it ends only its task.

The reduced search runs the other tasks on after a BUG(), for their races.  In the program that is
checked nothing comes after it; so for each such execution, the program is run again: first all
that follows no BUG(), then one of those that follow no other.  Each of them gets a run, that
one after which everything else was done that could be.
"""

from __future__ import annotations

from collections.abc import Sequence

from septum.explore.outcomes import NondeterminismError
from septum.explore.program import Program
from septum.explore.steps import Step
from septum.machine import Decision, Execution, Limits
from septum.machine.dependency import clash
from septum.machine.events import CONTINUE

__all__ = ["schedules", "shown"]

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
    out: list[Execution] = []
    for decisions in schedules(steps, execution.halts):
        seen = program.run(decisions, None, CONTINUE, limits)
        if seen.status != "halted" or len(seen.events) != len(decisions):
            raise NondeterminismError(
                f"BUG() does not come after the steps that it follows: {seen.status}"
            )
        out.append(seen)
    return out


def schedules(steps: Sequence[Step], halts: Sequence[int]) -> list[list[Decision]]:
    """The steps that follow no BUG(), and then one that hits it; for each such one.

    :param halts: log positions at which tasks ended so.
    """
    before: list[Decision] = []
    ends: list[Step] = []
    late: list[Step] = []  # those, and what follows them
    for step in steps:
        if any(step.task == other.task or clash(step.foot, other.foot) for other in late):
            late.append(step)
        elif any(step.at <= at < step.end for at in halts):
            ends.append(step)
            late.append(step)
        else:
            before += step.decisions
    return [before + end.decisions for end in ends]
