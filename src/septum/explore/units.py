# SPDX-License-Identifier: GPL-2.0-only
"""A complete search in pieces: units of work that run anywhere and can be put aside.

A *branch* is a part of the tree that is still to be explored, as plain data.  A *unit*
explores one branch until so many executions or steps are done.  Units are cut by counts,
never by the clock, so what a unit finds depends on nothing but its branch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

from septum.explore.optimal import Explorer, Level
from septum.explore.program import MachineProgram
from septum.explore.result import SearchResult
from septum.explore.search import no_collector
from septum.explore.steps import Step
from septum.explore.wakeup import Move, Wakeup
from septum.machine import Decision, Limits
from septum.machine.dependency import Footprint
from septum.machine.events import CONTINUE

__all__ = ["CLASSES", "UNIT", "Branch", "Size", "UnitResult", "explore_unit"]


@dataclass(slots=True)
class Branch:
    """Where a search stands: `Explorer` as plain data, before its next run."""

    levels: list[Level] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    path: list[Decision] = field(default_factory=list)
    prefix: list[Decision] = field(default_factory=list)
    sleep: dict[int, Footprint] = field(default_factory=dict)
    covered: list[Footprint] = field(default_factory=list)
    base: int = 0
    guess: int = -1
    outcomes: str = ""


def _resume(branch: Branch, tasks: int) -> Explorer:
    explorer = Explorer(tasks)
    explorer.restore(branch.steps, branch.outcomes)
    explorer.levels, explorer.path, explorer.prefix = branch.levels, branch.path, branch.prefix
    explorer.sleep, explorer.covered = branch.sleep, branch.covered
    explorer.base, explorer.guess = branch.base, branch.guess
    return explorer


def _put_aside(explorer: Explorer) -> Branch:
    return Branch(
        explorer.levels,
        explorer.analysis.steps,
        explorer.path,
        explorer.prefix,
        explorer.sleep,
        explorer.covered,
        explorer.base,
        explorer.guess,
        "" if explorer.outcomes is None else explorer.outcomes.dump(),
    )


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


CLASSES: tuple[type, ...] = (Branch, Level, Step, Move, Wakeup, Decision)


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
    result = SearchResult("optimal")
    explorer = _resume(branch, program.actors)
    rest: list[Branch] = []
    with no_collector():
        while True:
            execution = program.run(
                explorer.prefix, explorer.sleep, CONTINUE, limits, covered=explorer.covered
            )
            if execution.status != "diverged":
                result.take(execution)
                result.folded = result.folded or machine.retries_folded > 0
                if execution.status == "limit":
                    result.bounds_hit = ["steps per execution"]
            explorer.take(execution)
            if not explorer.next():
                break
            result.seconds = perf_counter() - begun
            if (first and result.found) or size.reached(result):
                rest.append(_put_aside(explorer))
                break
    result.seconds = perf_counter() - begun
    return UnitResult(result, rest)
