# SPDX-License-Identifier: GPL-2.0-only
"""A complete search in pieces: units of work that run anywhere and can be put aside.

A *branch* is a part of the tree that is still to be explored, as plain data: the levels of
the path to it, and the run to begin with.  Its first levels may be shared with other
branches; what is planned there is sent back (*mail*) to whoever keeps them
(`septum.explore.frontier`).

A *unit* explores one branch until so many executions or steps are done.  Units are cut by
counts, never by the clock, so what a unit finds depends on nothing but its branch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

from mypy_extensions import mypyc_attr

from septum.explore.halts import shown
from septum.explore.optimal import Explorer, Level
from septum.explore.program import MachineProgram
from septum.explore.result import SearchResult
from septum.explore.search import no_collector, remembering
from septum.explore.steps import Step, picks_of
from septum.explore.wakeup import Chosen, Early, Key, Move, Wakeup, early, left_awake
from septum.machine import Decision, Execution, Limits
from septum.machine.dependency import Footprint, Sleep, clash
from septum.machine.events import CONTINUE

__all__ = ["CLASSES", "UNIT", "Branch", "Lent", "Size", "UnitResult", "bare", "explore_unit"]

Name = tuple[Key, ...]  # of a plan


@mypyc_attr(serializable=True)
@dataclass(slots=True)
class Branch:
    """Where a search stands: `Explorer` as plain data, before its next run.

    :ivar plan: what that run is, unless ``prefix`` and the rest say it already.
    :ivar floor: how many levels are shared with other branches.
    :ivar lent: the last shared level is lent to this branch until something was explored.
    """

    levels: list[Level] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    path: list[Decision] = field(default_factory=list)
    prefix: list[Decision] = field(default_factory=list)
    sleep: list[tuple[int, Footprint]] = field(default_factory=list)
    covered: list[Footprint] = field(default_factory=list)
    base: int = 0
    outcomes: str = ""
    plan: list[Move] = field(default_factory=list)
    floor: int = 0
    lent: bool = False


class _Part(Explorer):
    """The search below a branch."""

    def __init__(self, branch: Branch, tasks: int) -> None:
        super().__init__(tasks)
        self.restore(branch.steps, branch.outcomes)
        self.levels, self.path, self.prefix = branch.levels, branch.path, branch.prefix
        self.sleep, self.covered = branch.sleep, branch.covered
        self.base, self.floor = branch.base, branch.floor
        self.goes_on = False  # the last execution
        if branch.plan:
            self._descend(self.levels[-1], branch.plan)

    def _others_explore(self, before: list[Step], step: Step) -> bool:
        if self.base >= len(self.levels):
            return False  # the first run of all
        foot = self.levels[self.base].sleep.get((step.task, step.picks))
        return isinstance(foot, Early) and not any(
            s.task == step.task or clash(foot, s.foot) for s in before
        )

    def _goes_on(self, execution: Execution) -> bool:
        """If only early sleepers could go on, one of them may have an option that is awake."""
        self.goes_on = False
        if execution.status == "held":
            level = self._level(len(self.analysis.steps))
            asleep = [(k, f) for k, f in level.sleep.items() if isinstance(f, Early)]
            for task in {k[0]: None for k, _ in asleep}:
                picks = left_awake([(k, f) for k, f in asleep if k[0] == task])
                if picks is not None:
                    decisions = [Decision(task), *(Decision(task, option) for option in picks)]
                    move = Move((task, picks_of(picks)), {}, decisions, False)
                    level.todo = [Wakeup([move], False)]
                    level.known = {level.todo[0].name}
                    self.goes_on = True
                    break
        return self.goes_on

    def _asked(self, before: list[Move], j: int, step: Step, options: tuple[int, ...]) -> int:
        """Others may have seen what its task does there: those below whose step it sleeps."""
        asked = super()._asked(before, j, step, options)
        for (task, picks), foot in self.levels[j].sleep.items():
            if task == step.task and isinstance(foot, Early):
                if not any(m.task == task or clash(foot, m.foot) for m in before):
                    asked = max(asked, _in_common(options, picks, len(foot.options)))
        return asked

    def branch(self) -> Branch:
        """What is left, after `next`."""
        return Branch(
            self.levels,
            self.analysis.steps,
            self.path,
            self.prefix,
            self.sleep,
            self.covered,
            self.base,
            "" if self.outcomes is None else self.outcomes.dump(),
            floor=self.floor,
        )

    def lent(self, waiting: list[Name]) -> Lent:
        """What became of the level that was lent, where the plans ``waiting`` were."""
        level = self.levels[self.floor - 1]
        step = level.step
        below = self.levels[self.floor :]
        explored = level.fresh or any(other.explored or other.fresh for other in below)
        left = {w.name for w in level.todo}
        return Lent(
            (step.task, step.picks) if step is not None else (-1, ()),
            early(step.slept) if step is not None else Early(),
            step is not None and explored,
            [name for name in waiting if name not in left],
        )


def _in_common(options: tuple[int, ...], picks: tuple[int, ...], asked: int) -> int:
    """How many of the ``options`` a step will be asked for that was ``asked`` so many, and
    picked those."""
    n = 0
    while n < asked:
        n += 1
        if n > len(options) or options[n - 1] != (picks[n - 1] if n <= len(picks) else 0):
            break
    return min(n, len(options))


def bare(wakeup: Wakeup) -> Wakeup:
    """A plan without what only the search that made it understands."""
    moves = [Move(m.key, m.foot, m.decisions, m.sure) for m in wakeup.moves]
    return Wakeup(moves, wakeup.certain)


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True)
class Size:
    """When a unit ends: at the first of these.  ``seconds`` is for a time budget only."""

    executions: int = 1000
    steps: int = 100_000
    seconds: float = 0.0

    def reached(self, result: SearchResult) -> bool:
        """Whether a unit that did so much is over."""
        return (
            result.executions >= self.executions
            or result.steps >= self.steps
            or 0.0 < self.seconds <= result.seconds
        )


UNIT = Size()


@mypyc_attr(serializable=True)
@dataclass(slots=True)
class Lent:
    """What became of the level that was lent: the step taken there and its footprint, and
    whether something was explored below it; the names of the plans that went with it."""

    key: Key
    foot: Early
    explored: bool
    gone: list[Name]


@mypyc_attr(serializable=True)
@dataclass(slots=True)
class UnitResult:
    """What one unit found, what it left, and what it planned on levels of others.

    :ivar hoped: executions hoped for below levels that were left, and what ``came`` (`Level`).
    """

    found: SearchResult
    rest: Branch | None = None
    mail: list[tuple[int, Wakeup]] = field(default_factory=list)
    lent: Lent | None = None
    hoped: float = 0.0
    came: int = 0


CLASSES: tuple[type, ...] = (Branch, Level, Step, Move, Wakeup, Decision, Chosen, Early)


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
    known = [set(level.known) for level in branch.levels[: branch.floor]]
    waiting = [w.name for w in branch.levels[branch.floor - 1].todo] if branch.lent else []
    explorer = _Part(branch, program.actors)
    out = UnitResult(result)
    with no_collector(), remembering(program):
        while True:
            execution = explorer.run(program, CONTINUE, limits)
            result.folded = result.folded or machine.retries_folded > 0
            if execution.status == "limit":
                result.bounds_hit = ["steps per execution"]
            if not explorer.goes_on:
                if execution.status == "held" and _kept_out(machine.sleeping):
                    result.blocked += 1
                steps = explorer.analysis.steps
                for n, seen in enumerate(shown(program, execution, steps, limits)):
                    result.take(seen, again=n > 0)
            if not explorer.next():
                break
            result.seconds = perf_counter() - begun
            if (first and result.found) or size.reached(result):
                out.rest = explorer.branch()
                break
    if branch.lent:
        out.lent = explorer.lent(waiting)
        if out.rest is not None:
            out.rest.lent = not out.lent.explored
    out.mail = [
        (depth, bare(wakeup))
        for depth, before in enumerate(known)
        for wakeup in explorer.levels[depth].todo
        if wakeup.name not in before
    ]
    out.hoped, out.came = explorer.hoped, explorer.came
    result.seconds = perf_counter() - begun
    return out


def _kept_out(sleeping: Sleep) -> bool:
    """Whether somebody else explores what could have gone on."""
    return any(isinstance(foot, Early) for _, foot in sleeping)
