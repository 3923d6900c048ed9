# SPDX-License-Identifier: GPL-2.0-only
"""Optimal DPOR: source sets and wakeup trees, one execution per Mazurkiewicz trace.

P. Abdulla, S. Aronis, B. Jonsson, K. Sagonas, "Source sets: a foundation for optimal
dynamic partial order reduction", JACM 64(4), 2017, algorithm 2.  Deviations
(docs/explorer.md gives the reasons):

* Race analysis happens after a run, on its log.  A race of an earlier run is looked at
  again only while the reason not to reverse it may vanish (`Level.open`).
* What a reversed step will do is seen when it is run.  If its trace turns out to be
  covered, the run ends there (status ``covered``).
* The other options of a choice are scheduled as the reversals of a race are.
* BUG() ends an execution, and says nothing about the other tasks.  So the tree is that of
  the program in which it ends only its task; what is judged and counted are the executions
  that it ends (`shown`).
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Final

from mypy_extensions import mypyc_attr

from septum.explore.halts import shown
from septum.explore.outcomes import NondeterminismError, Outcomes
from septum.explore.program import Program
from septum.explore.races import Analysis, Race
from septum.explore.result import SearchResult
from septum.explore.steps import Step, pending_step, picks_of, steps_of
from septum.explore.wakeup import (
    NO,
    WEAK,
    Early,
    Key,
    Move,
    Wakeup,
    asleep,
    begins,
    initial,
    within,
)
from septum.machine import Decision, Execution, Limits, Policy
from septum.machine.dependency import Footprint, clash
from septum.machine.events import CONTINUE

__all__ = ["Explorer", "Level", "NondeterminismError", "Out", "explore"]


Out = tuple[int, ...]  # steps that are to come later, first step first


@mypyc_attr(serializable=True)
class Level:
    """A state on the current branch: the step taken and what else is tried from it.

    ``sleep``: steps from which everything was explored.
    ``todo``: sequences still to be explored, ``known`` what was ever put there.
    ``open``: races (or choices) whose last step this is and that later executions may
    see otherwise.  ``explored``:
    an execution went to its end below this level; ``fresh``: below the present step.
    ``done``: how many sequences are over, and
    ``runs`` the executions below levels that were left.  For `estimate`: how often a sequence
    was over while others waited (``asked``), the executions below by then (``had``), and those
    ``hoped`` for had the ones that waited been like the mean of those; sums.
    """

    __slots__ = (
        "asked",
        "done",
        "explored",
        "fresh",
        "had",
        "hoped",
        "known",
        "open",
        "runs",
        "sleep",
        "step",
        "todo",
    )

    def __init__(self, sleep: dict[Key, Footprint]) -> None:
        self.step: Step | None = None
        self.sleep = sleep
        self.todo: list[Wakeup] = []
        self.known: set[tuple[Key, ...]] = set()
        self.open: list[tuple[Out, tuple[int, ...] | None]] = []
        self.explored = False
        self.fresh = False
        self.done = 0
        self.runs = 0
        self.asked = 0
        self.had = 0
        self.hoped = 0.0

    def over(self, runs: int = 0) -> None:
        """A sequence is over, in so many executions that are not counted yet."""
        self.done += 1
        self.runs += runs
        if self.todo:
            self.asked += 1
            self.had += self.runs
            self.hoped += len(self.todo) * self.runs / self.done

    @property
    def came(self) -> int:
        """Of a level that is left: what came instead of ``hoped``."""
        return self.asked * self.runs - self.had


class Explorer:
    """The state of one search: the current branch and its analysis, and the next run."""

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.levels: list[Level] = []
        self.analysis = Analysis(tasks)
        # With two tasks nobody sleeps whom a third one's outcome could concern, unless steps
        # have options (`take` makes it then).
        self.outcomes = Outcomes(tasks) if tasks > 2 else None
        self.path: list[Decision] = []
        self._moves: list[Move | None] = []  # the steps, as parts of sequences
        self.floor = 0  # levels that others explore (septum.explore.units)
        self.base = 0  # level at which the next run leaves the branch
        self.prefix: list[Decision] = []
        self.planned: list[Move] = []  # known steps of the next run, from ``base`` on
        self.sleep: list[tuple[int, Footprint]] = []
        self.covered: list[Footprint] = []
        self.hoped = 0.0  # of the levels left
        self.came = 0

    def restore(self, steps: list[Step], outcomes: str) -> None:
        """Analyse again the steps of the branch that an earlier explorer left."""
        for step in steps:
            self.analysis.add(step)
        if self.outcomes is not None or outcomes:
            self._remember(outcomes)

    def _remember(self, outcomes: str = "") -> None:
        """Outcomes from here on, of the steps of the present branch and of those known."""
        self.outcomes = Outcomes(self.tasks)
        if outcomes:
            self.outcomes.load(outcomes)
        for step in self.analysis.steps:
            self.outcomes.add(step)

    def run(self, program: Program, policy: Policy, limits: Limits) -> Execution:
        """The next run, taken into account; `shown` tells what it says of the program.

        :raises NondeterminismError: the same decisions led elsewhere.
        """
        execution = program.run(
            self.prefix, self.sleep, policy, limits, covered=self.covered, survivors=True
        )
        self.take(execution)
        return execution

    # --- after a run ----------------------------------------------------------------

    def take(self, execution: Execution) -> None:
        """Put the new steps on the branch and plan what its races ask for."""
        analysis = self.analysis
        base = self.base
        analysis.cut(base)
        del self._moves[base:]
        events = execution.events
        new = steps_of(events, analysis.steps)
        planned = len(self.planned)
        if len(new) > planned and self._others_explore(new[:planned], new[planned]):
            del new[planned + 1 :]
            events = events[: new[-1].end]
            execution.status = "covered"
        if self.outcomes is None and any(step.choices for step in new):
            self._remember()
        outcomes = self.outcomes
        if outcomes is not None:
            outcomes.cut(base)
        begin = analysis.steps[-1].end if analysis.steps else 0
        self.path = self.path[:begin]
        self.path += [_decision(e.task, e.choice) for e in events[begin:]]
        self._as_planned(new)
        races: list[Race] = []
        for depth, step in enumerate(new, base):
            level = self._level(depth)
            level.step = step
            level.fresh = False
            level.open = []
            handed = _hand_down(level) if level.todo else []
            analysis.add(step, races)
            if outcomes is not None:
                outcomes.add(step)
            if handed:
                below = self._level(depth + 1)
                below.todo = handed
                below.known = {w.name for w in handed}
        if self.levels:
            self.levels[-1].runs += 1
        last = len(analysis.steps) - 1
        if outcomes is not None and execution.status == "complete":
            outcomes.finish()
        if execution.status == "diverged":
            raise NondeterminismError(execution.diverged)
        if execution.status == "covered":
            self._leave_open(base, last, races)
            self._options(last)
        elif execution.status == "matched" or self._goes_on(execution):
            self._leave_open(base, last + 1, races)
        else:
            if last >= 0:
                self.levels[last].fresh = True
            self._analyse(execution, base, races)

    def _others_explore(self, before: list[Step], step: Step) -> bool:
        """Whether a step that was not foretold is one from which others explore."""
        return False

    def _goes_on(self, execution: Execution) -> bool:
        """Whether the execution is to be run on from its end."""
        return False

    def _as_planned(self, new: list[Step]) -> None:
        """Steps that were known before they ran again did what they did then."""
        for move, step in zip(self.planned, new, strict=False):
            if not move.sure or move.foot is step.foot:
                continue
            if move.key == (step.task, step.picks) and move.foot != step.foot:
                raise NondeterminismError(
                    f"task {step.task} did something else when its step {step.number}, {step.op}, "
                    "was run again"
                )

    def _level(self, depth: int) -> Level:
        """The level of a new step, made if the branch has not been there."""
        levels = self.levels
        if depth == len(levels):
            levels.append(_below(levels[-1]) if levels else Level({}))
        return levels[depth]

    def _analyse(self, execution: Execution, base: int, races: list[Race]) -> None:
        """Reverse the races of a maximal execution, and take the other options."""
        levels = self.levels
        for i in range(base):
            level = levels[i]
            if level.open:
                level.open = [(out, o) for out, o in level.open if not self._reverse(out, i, o)]
        for out, i in races:
            if not self._reverse(out, i, None):
                levels[i].open.append((out, None))
        for i in range(base, len(self.analysis.steps)):
            self._options(i)
        if execution.pending:
            self._pending(execution)

    def _leave_open(self, base: int, end: int, races: list[Race]) -> None:
        """Later executions that share the new steps before ``end`` are to look at their races
        and options."""
        for out, i in races:
            if i < end:
                self.levels[i].open.append((out, None))
        for j in range(base, end):
            self.levels[j].open += [((j,), picks) for picks in self._others(j)]

    def _pending(self, execution: Execution) -> None:
        """Lock acquisitions that never happened race with those that did."""
        analysis = self.analysis
        length = len(analysis.steps)
        counts: dict[int, int] = {}
        for step in analysis.steps:
            counts[step.task] = step.number + 1
        for event in execution.pending:
            pending = pending_step(event, counts.get(event.task, 0))
            if pending is not None:
                races: list[Race] = []
                analysis.add(pending, races, pending=True)
                for out, i in races:
                    self._reverse(out, i, None)
                analysis.cut(length)

    def _options(self, j: int) -> None:
        """Plan the options that step ``j`` did not take."""
        for picks in self._others(j):
            if not self._reverse((j,), j, picks):
                self.levels[j].open.append(((j,), picks))

    def _others(self, j: int) -> list[tuple[int, ...]]:
        """The options that step ``j`` did not take, each after those before it that it took."""
        step = self.levels[j].step
        assert step is not None
        taken = tuple([option for option, _ in step.choices])
        return [
            (*taken[:n], other)
            for n, (option, options) in enumerate(step.choices)
            for other in range(options)
            if other != option
        ]

    def _reverse(self, out: Out, i: int, picks: tuple[int, ...] | None) -> bool:
        """Plan the other order of a race, or another option of step ``i``; whether that is
        settled, whatever follows ``i``."""
        analysis = self.analysis
        step = analysis.steps[i]
        free = analysis.staying(out, step)
        return self._plan(out[0], step, analysis.clocks[i], free, picks)

    def _plan(
        self,
        j: int,
        step: Step,
        clock: list[int],
        free: list[int],
        picks: tuple[int, ...] | None,
    ) -> bool:
        """Plan ``step`` in place of step ``j``, after those of the steps ``free``, which do not
        depend on that, that it needs, or all of them.  ``picks``: it is step ``j``, with these
        options; None: another step, with what it picked, if it will be asked."""
        level = self.levels[j]
        steps = self.analysis.steps
        past = (
            [] if picks is not None else [k for k in free if clock[steps[k].task] > steps[k].number]
        )
        before = past
        moves = self._sequence(before, j, step, picks)
        # Else it may do what some of ``free`` do not commute with, and they decide what it does.
        settled = moves[-1].sure and within(moves[-1].foot, step.foot)
        if not settled and len(past) < len(free):
            before = free
            moves = self._sequence(before, j, step, picks)
            if moves[-1].sure:
                before = self.analysis.needed(free, past, moves[-1].foot)
                moves = self._sequence(before, j, step, picks)
        certain = True
        for key, foot in level.sleep.items():
            at = asleep(key, foot, moves)
            if at >= 0:
                return settled or (at < len(before) and before[at] in past)
            if at != NO:
                certain = False
        for other in level.todo:
            first = other.moves[0]
            if initial(first.key, first.foot, first.sure, moves) != NO:
                if other.certain and begins(other.moves, moves):
                    return settled
                certain = False
        if not certain:
            if len(before) < len(free):
                rest = [k for k in free if k not in before]
                moves = self._sequence([*before, *rest], j, step, picks)
            for key, foot in level.sleep.items():
                if asleep(key, foot, moves) >= WEAK:
                    return False
        wakeup = Wakeup(moves, certain)
        if wakeup.name not in level.known:
            level.known.add(wakeup.name)
            level.todo.append(wakeup)
        return certain and settled

    def _sequence(
        self, before: list[int], j: int, step: Step, picks: tuple[int, ...] | None
    ) -> list[Move]:
        """The steps ``before``, then ``step``, as `_plan` says."""
        moves = [self._move(k) for k in before]
        options = picks or ()
        if picks is None and step.choices:
            options = tuple([option for option, _ in step.choices])
            if self.outcomes is not None and self.outcomes.foretells:
                options = options[: self._asked(moves, j, step, options)]
        moves.append(self._last(j, step, options))
        self._foresee(moves, j)
        return moves

    def _asked(self, before: list[Move], j: int, step: Step, options: tuple[int, ...]) -> int:
        """For how many of the ``options`` it will surely be asked there."""
        assert self.outcomes is not None
        last = self._last(j, step, options)
        return self.outcomes.asked(last, j, [*before, last])

    def _move(self, k: int) -> Move:
        moves = self._moves
        while len(moves) <= k:
            moves.append(None)
        move = moves[k]
        if move is None:
            step = self.analysis.steps[k]
            move = moves[k] = Move((step.task, step.picks), step.foot, step.decisions, True)
            if self.outcomes is not None:
                move.effects = self.outcomes.effects(k)
        return move

    def _last(self, j: int, step: Step, options: tuple[int, ...]) -> Move:
        """A step, with these options, as it will be without step ``j``."""
        task = step.task
        # It may not be asked for options then: the machine leaves those of ~task out.
        decisions = [Decision(task), *(Decision(~task, o) for o in options)]
        left_out = self.analysis.steps[j]
        # Without a flush of its own a load takes its value from the store buffer.
        own = left_out.op == "flush" and left_out.task == task + self.tasks // 2
        certain = {} if own else step.certain
        move = Move((task, picks_of(options)), certain, decisions, False)
        if self.outcomes is not None:
            move.local = self.outcomes.local(task, step.number)
        return move

    def _foresee(self, moves: list[Move], start: int) -> None:
        """Learn what the last move will do after the others, if that is known by now."""
        last = moves[-1]
        if self.outcomes is not None and not last.sure and last.local:
            foot = self.outcomes.predict(last, start, moves)
            if foot is not None:
                last.foot = foot
                last.sure = True

    # --- the next run ---------------------------------------------------------------

    def next(self) -> bool:
        """Choose the next branch, deepest first; False if nothing is left."""
        levels = self.levels
        while len(levels) > self.floor:
            level = levels[-1]
            step = level.step
            if step is not None:
                if level.fresh:
                    level.explored = True
                    level.sleep[(step.task, step.picks)] = step.slept
                level.fresh = False
                level.step = None
                level.over()
            while level.todo:
                wakeup = level.todo.pop(0)
                if self._worth(level, wakeup):
                    self._descend(level, wakeup.moves)
                    return True
            over = levels.pop()
            self.hoped += over.hoped
            self.came += over.came
            if levels:
                levels[-1].runs += over.runs
            if levels and level.explored:
                levels[-1].fresh = True
        return False

    def _worth(self, level: Level, wakeup: Wakeup) -> bool:
        """Whether nothing explored from this state by now covers the sequence."""
        moves = wakeup.moves
        self._foresee(moves, len(self.levels) - 1)
        return all(asleep(key, foot, moves) < WEAK for key, foot in level.sleep.items())

    def _descend(self, level: Level, moves: list[Move]) -> None:
        """Plan a run along ``moves``."""
        base = self.base = len(self.levels) - 1
        self.planned = moves[:-1]
        self.prefix = self.path[: self._position(base)]
        sleep = [(k[0], f) for k, f in level.sleep.items()]
        for move in moves:
            self.prefix.extend(move.decisions)
        for move in moves[:-1]:
            sleep = [(t, f) for t, f in sleep if t != move.task and not clash(f, move.foot)]
        sleep = [(t, f) for t, f in sleep if t != moves[-1].task]
        # Where others explore, too, the run is not broken off, but kept away from there.
        self.covered = [f for _, f in sleep if not isinstance(f, Early)]
        self.sleep = [(t, f) for t, f in sleep if isinstance(f, Early)]

    def _position(self, depth: int) -> int:
        steps = self.analysis.steps
        return steps[depth].at if depth < len(steps) else len(self.path)


_DECISIONS: Final[dict[tuple[int, int], Decision]] = {}


def _decision(task: int, choice: int) -> Decision:
    """One object for equal decisions: there are few, and many steps."""
    key = (task, choice)
    known = _DECISIONS.get(key)
    if known is None:
        known = _DECISIONS[key] = Decision(task, choice)
    return known


def _hand_down(level: Level) -> list[Wakeup]:
    """Sequences that can begin with the present step are explored below it.  One that may
    be or may not is explored below it, and again looked at beside it."""
    step = level.step
    assert step is not None
    key = (step.task, step.picks)
    stay: list[Wakeup] = []
    go: list[Wakeup] = []
    for wakeup in level.todo:
        at = initial(key, step.foot, True, wakeup.moves)
        if at < WEAK:
            stay.append(wakeup)
        if at >= 0:
            moves = wakeup.moves[:at] + wakeup.moves[at + 1 :]
            if moves:
                go.append(Wakeup(moves, False))
        elif at != NO:
            go.append(Wakeup([m.copy() for m in wakeup.moves], False))
    level.todo = stay
    return go


def _below(level: Level) -> Level:
    """The level after the present step of ``level``."""
    step = level.step
    assert step is not None
    if not level.sleep:
        return Level({})
    task, foot = step.task, step.foot
    return Level({k: f for k, f in level.sleep.items() if k[0] != task and not clash(f, foot)})


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
    guess: Callable[[Explorer, SearchResult], None] | None = None,
) -> SearchResult:
    """Explore every Mazurkiewicz trace of ``program``.

    :param max_executions: stop after that many (0: no bound).
    :param deadline: ``perf_counter()`` value at which to stop (0: none).
    :param first: stop at the first finding.
    :param guess: called between two executions, to guess how many there are.
    """
    result = SearchResult("optimal")
    begun = perf_counter()
    explorer = Explorer(tasks)
    bounds: list[str] = []
    while True:
        execution = explorer.run(program, policy, limits)
        if execution.status == "limit" and "steps per execution" not in bounds:
            bounds.append("steps per execution")
        for n, seen in enumerate(shown(program, execution, explorer.analysis.steps, limits)):
            result.take(seen, again=n > 0)
            if on_execution is not None:
                on_execution(seen)
        if progress is not None:
            result.seconds = perf_counter() - begun
            progress(result)
        if first and result.found:
            bounds.append("stopped at the first finding")
            break
        if not explorer.next():
            break
        if guess is not None:
            guess(explorer, result)
        if max_executions and result.executions >= max_executions:
            bounds.append(f"{max_executions} executions")
            break
        if deadline and perf_counter() >= deadline:
            bounds.append("time budget")
            break
    result.bounds_hit = bounds
    result.complete = not bounds
    if result.complete:
        result.expected = (result.executions, result.executions)
    result.seconds = perf_counter() - begun
    return result
