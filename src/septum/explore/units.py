# SPDX-License-Identifier: GPL-2.0-only
"""A complete search in pieces: units of work that run anywhere and can be put aside.

A *branch* is a part of the tree that is still to be explored, as plain data.  A *unit*
explores one branch until so many executions or steps are done.  Units are cut by counts,
never by the clock, so what a unit finds depends on nothing but its branch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

from septum.explore.dpor import NondeterminismError, _extend, _next, _Node
from septum.explore.program import MachineProgram
from septum.explore.races import Analysis
from septum.explore.result import SearchResult
from septum.explore.search import no_collector
from septum.explore.steps import Step
from septum.machine import Decision, Limits
from septum.machine.dependency import Access
from septum.machine.events import CONTINUE

__all__ = ["CLASSES", "UNIT", "Branch", "Size", "UnitResult", "explore_unit"]


@dataclass(slots=True)
class Branch:
    """Nodes from the root to where the next execution parts, and that execution."""

    stack: list[_Node] = field(default_factory=list)
    path: list[Decision] = field(default_factory=list)
    prefix: list[Decision] = field(default_factory=list)
    sleep: dict[int, list[Access]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Size:
    """When a unit ends: at the first of these.  ``seconds`` is for a time budget only."""

    executions: int = 200
    steps: int = 20_000
    seconds: float = 0.0

    def reached(self, result: SearchResult) -> bool:
        """Whether a unit that did so much is over."""
        return (
            result.executions >= self.executions
            or result.steps >= self.steps
            or 0.0 < self.seconds <= result.seconds
        )


UNIT = Size()


@dataclass(slots=True)
class UnitResult:
    """What one unit found, and what it left unexplored."""

    found: SearchResult
    rest: list[Branch] = field(default_factory=list)


CLASSES: tuple[type, ...] = (Branch, _Node, Step, Decision)


def explore_unit(
    program: MachineProgram,
    branch: Branch,
    size: Size,
    *,
    limits: Limits,
    retries: int = 0,
    first: bool = False,
) -> UnitResult:
    """Explore ``branch`` for one unit.

    :raises NondeterminismError: the same decisions led elsewhere.
    """
    machine = program.machine
    machine.retries_allowed = retries
    begun = perf_counter()
    result = SearchResult("dpor")
    stack = branch.stack
    analysis = Analysis(program.actors)
    for node in stack:
        analysis.add(node.step)
    prefix, sleep = branch.prefix, branch.sleep
    path = branch.path
    rest: list[Branch] = []
    with no_collector():
        while True:
            execution = program.run(prefix, sleep, CONTINUE, limits)
            if execution.status == "diverged":
                if len(execution.events) != len(prefix) - 1 or not stack[-1].closed:
                    raise NondeterminismError(execution.diverged)
                stack[-1].backtrack.discard(prefix[-1].task)
            else:
                result.take(execution)
                result.folded = result.folded or machine.retries_folded > 0
                _extend(stack, execution, analysis)
                path = execution.decisions
                if execution.status == "limit":
                    result.bounds_hit = ["steps per execution"]
            chosen = _next(stack, path)
            if chosen is None:
                break
            prefix, sleep = chosen
            result.seconds = perf_counter() - begun
            if (first and result.found) or size.reached(result):
                rest.append(Branch(stack, path, prefix, sleep))
                break
    result.seconds = perf_counter() - begun
    return UnitResult(result, rest)
