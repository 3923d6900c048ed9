# SPDX-License-Identifier: GPL-2.0-only
"""One entry for all strategies, by name."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from mypy_extensions import mypyc_attr

from septum.explore import bounded, brute, optimal
from septum.explore.estimate import Guesses
from septum.explore.estimate import progress as part_done
from septum.explore.program import KeepsStates, MachineProgram
from septum.explore.result import SearchResult
from septum.explore.sample import sample
from septum.machine import Execution, Limits

__all__ = ["DEFAULTS", "STRATEGIES", "Options", "no_collector", "remembering", "search"]

STRATEGIES = {
    "optimal": "optimal DPOR: one execution per trace, complete",
    "states": "every interleaving up to equal states, without reduction",
    "naive": "every interleaving, without reduction",
    "stateful": "every state of compiled code (septum kernel check), with sleep sets",
    "bounded": "every schedule with at most --bound preemptions",
    "random": "uniform random walk, sampled",
    "pct": "PCT priority schedules, sampled",
}


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True)
class Options:
    """How to search.

    :ivar retries: repeats of a failed attempt that nobody influenced, explored before
        the retry is folded into an await (-1: never is).
    :ivar max_executions: 0 = no bound of its own (for sampling: 1000), -1 = none at all.
    :ivar budget_s: seconds, 0 = no bound.
    :ivar depth: of the bugs that ``pct`` looks for.
    :ivar bound: preemptions, of strategy ``bounded``; ``deep``: raised from 0 until nothing
        is left out or time is up.
    :ivar all_findings: a minimal counterexample for every distinct finding (`distinct`), not for
        one only.
    :ivar memory_model: ``SC`` or ``TSO``, for those who make the machine.
    """

    strategy: str = "optimal"
    retries: int = 0
    max_executions: int = 0
    budget_s: float = 0.0
    steps: int = 20_000
    first: bool = False
    seed: int = 0
    depth: int = 3
    memory_model: str = "SC"
    bound: int = 2
    deep: bool = False
    all_findings: bool = False


DEFAULTS = Options()


def search(
    program: MachineProgram,
    options: Options = DEFAULTS,
    *,
    progress: Callable[[SearchResult], None] | None = None,
    on_execution: Callable[[Execution], None] | None = None,
) -> SearchResult:
    """Explore ``program`` as ``options`` say.

    :param progress: called now and then with what was found so far; ``SearchResult.expected``
        says how many executions there may be in all (`optimal`, and samples).
    """
    with no_collector(), remembering(program):
        result = _search(program, options, progress, on_execution)
        if not gc.get_freeze_count():  # what is left is old now, not to be looked through at once
            gc.freeze()
            gc.unfreeze()
        return result


@contextmanager
def remembering(program: MachineProgram) -> Iterator[None]:
    """What tasks did before is looked up (`septum.machine.known`)."""
    program.machine.remembers = program.remembers
    try:
        yield
    finally:
        program.machine.remembers = False


@contextmanager
def no_collector() -> Iterator[None]:
    """Executions leave no cycles behind, so Python's cycle collector only costs time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _search(
    program: MachineProgram,
    options: Options,
    progress: Callable[[SearchResult], None] | None,
    on_execution: Callable[[Execution], None] | None,
) -> SearchResult:
    machine = program.machine
    machine.retries_allowed = options.retries
    most = max(options.max_executions, 0)
    limits = Limits(options.steps)
    deadline = perf_counter() + options.budget_s if options.budget_s else 0.0
    folded = False

    def each(execution: Execution) -> None:
        nonlocal folded
        folded = folded or machine.retries_folded > 0
        if on_execution is not None:
            on_execution(execution)

    tell = progress

    def told(found: SearchResult) -> None:
        found.folded = folded
        if tell is not None:
            tell(found)

    progress = told if tell is not None else None
    strategy = options.strategy
    if strategy == "optimal":
        result = optimal.explore(
            program,
            program.actors,
            limits=limits,
            max_executions=most,
            deadline=deadline,
            first=options.first,
            progress=progress,
            on_execution=each,
            guess=_guessing(most) if progress is not None else None,
        )
    elif strategy in ("naive", "states"):
        run = brute.naive if strategy == "naive" else brute.states
        result = run(
            program,
            limits=limits,
            max_executions=most,
            deadline=deadline,
            first=options.first,
            progress=progress,
            on_execution=each,
        )
    elif strategy == "stateful":
        if not isinstance(program, KeepsStates):
            raise ValueError("strategy stateful: only compiled code can be kept midway")
        result = program.explore_states(options, progress)
        folded = result.folded
    elif strategy == "bounded" and options.deep:
        result = bounded.deepening(
            program,
            limits=limits,
            max_executions=most,
            deadline=deadline,
            first=options.first,
            progress=progress,
            on_execution=each,
        )
    elif strategy == "bounded":
        result = bounded.bounded(
            program,
            options.bound,
            limits=limits,
            max_executions=most,
            deadline=deadline,
            first=options.first,
            progress=progress,
            on_execution=each,
        )
    elif strategy in ("random", "pct"):
        result = sample(
            program,
            strategy,
            most or 1000,
            tasks=program.actors,
            limits=limits,
            seed=options.seed,
            depth=options.depth,
            deadline=deadline,
            first=options.first,
            progress=progress,
            on_execution=each,
        )
    else:
        raise ValueError(f"unknown strategy {strategy!r}: one of {', '.join(STRATEGIES)}")
    result.folded = folded
    return result


def _guessing(most: int) -> Callable[[optimal.Explorer, SearchResult], None]:
    """Sets ``expected`` of a search, between two executions.

    :param most: bound on executions (0: none).
    """
    guesses = Guesses()

    def guess(explorer: optimal.Explorer, result: SearchResult) -> None:
        guesses.hoped, guesses.came = explorer.hoped, explorer.came
        waiting = sum([len(level.todo) for level in explorer.levels])
        guesses.take(result, part_done(explorer.levels, guesses.likely), waiting, most)

    return guess
