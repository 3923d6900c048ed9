# SPDX-License-Identifier: GPL-2.0-only
"""Strategy ``stateful`` for compiled code: depth first over hashed states (`c/states.c`).

C keeps and compares states, takes steps and remembers what was met.  Python runs what C asks
for (a step whose answers are not known yet, or that reports something), judges settled states,
and looks at the clock.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Final

from septum.explore import Options, SearchResult
from septum.machine import Decision, Event, Execution, Limits
from septum.machine.rounds import CONFIRM, TIMES
from septum.native.engine import Engine
from septum.native.errors import SharingGrew
from septum.native.source import lost, rmw_name

if TYPE_CHECKING:
    from septum.native.program import NativeProgram

__all__ = ["stateful"]

OVER, TICK, JUDGE, BLOCKED, ASK, FULL, CYCLE = range(7)
_EVENTFUL, _PROBLEM = 2, 3
_CHUNK: Final = 2000  # transitions between two looks at the clock
_PATH: Final = 32768
_ENDED: Final = 2
_ROUNDS: Final = 3  # cycles that are reported
_LEAST: Final = 4000  # transitions that a search goes on for to find more shared words
_MOST: Final = 50_000
_CANNOT: Final = "a step that C cannot take"


class _Search(ctypes.Structure):
    """struct search."""

    _fields_ = [
        *((n, ctypes.c_uint64) for n in ("states", "transitions", "matched", "ends", "cycles")),
        ("path", ctypes.c_uint64),
        *((n, ctypes.c_uint32) for n in ("steps", "depth", "deepest", "cycle")),
        *((n, ctypes.c_uint32) for n in ("why", "tolerate")),
    ]


class _Run:
    """One search.

    :ivar asked: the step that C asked for last, and how often.
    """

    def __init__(self, program: NativeProgram, engine: Engine, options: Options) -> None:
        self.program = program
        self.engine = engine
        self.options = options
        self.result = SearchResult("stateful")
        image = engine.image
        self.search = _Search()
        self._path = (ctypes.c_uint32 * _PATH)()
        self.search.path = ctypes.addressof(self._path)
        self._at = ctypes.addressof(self.search)
        self._start = image.function("septum_search_start", 1)
        self._go_on = image.function("septum_search", 3)
        self._lost = (ctypes.c_uint64 * 16).from_address(image.symbols["septum_lost"])
        self._lost_used = ctypes.c_uint64.from_address(image.symbols["septum_lost_used"])
        self.asked: tuple[list[Decision], int] = ([], 0)
        self.ended = False
        self.rounds = 0  # cycles that were reported
        self.watched = engine.tables.watched
        self.enough = 0  # transitions after which to begin again; 0: no word was found

    def path(self) -> list[Decision]:
        """The decisions that lead to where C is."""
        return [Decision(w & 0xFF, w >> 8) for w in self._path[: self.search.steps]]

    def execute(self, path: list[Decision], limits: Limits | None = None) -> Execution:
        """Python runs the path, and on to an end."""
        program = self.program
        engine, program.engine = program.engine, None
        program.among_states = True
        self.engine.python_runs()
        program.machine.forget()
        try:
            execution = program.run(path, limits=limits or Limits(self.options.steps))
        finally:
            program.engine = engine
            program.among_states = False
        if self.engine.answers.conflict:
            program.give_up_engine()
            raise SharingGrew
        if self.engine.tables.watched != self.watched:
            raise SharingGrew
        self.result.take(execution)
        self.result.folded = self.result.folded or program.machine.retries_folded > 0
        return execution

    def ask(self) -> int:
        """C cannot take the last step of the path: what it is to do about it."""
        path, times = self.path(), 0
        if path == self.asked[0]:
            times = self.asked[1] + 1
        self.asked = (path, times)
        eventful = self.search.why in (_EVENTFUL, _PROBLEM)
        if times == 0:
            execution = self.execute(path)
            self.ended = execution.status == "halted" and len(execution.events) <= len(path)
            self.search.tolerate = int(eventful)
            return 1
        if times == 1 and not self.ended:
            self.search.tolerate = 1
            return 1
        if not self.ended and _CANNOT not in self.result.bounds_hit:
            self.result.bounds_hit.append(_CANNOT)
        return _ENDED

    def go_round(self) -> None:
        """The path came back to one of its states, and nobody was left out: Python goes on
        round the cycle, and reports what never ends."""
        if self.rounds == _ROUNDS:
            return
        self.rounds += 1
        path = self.path()
        cycle = path[self.search.cycle :]
        times = max(TIMES + 1, -(-CONFIRM // len(cycle))) + 1
        self.execute(path + cycle * times, Limits(len(path) + len(cycle) * times))

    def judge(self) -> None:
        path = self.path()
        self.program.machine.log = [Event(d.task, n, "", "") for n, d in enumerate(path)]
        if not self.engine.judged():
            self.execute(path)

    def _begin(self) -> int:
        """The state in which every task is at its first point."""
        event = self._start(self._at)
        for tolerate in (0, 1, 1):
            if event != ASK:
                break
            self.execute([])
            self.search.tolerate = tolerate
            event = self._start(self._at)
        return event

    def learned_enough(self) -> bool:
        """Tasks were found to share words, and the search has gone on for as long again (but not
        for long): their accesses are no points in it, so it is only good to find more."""
        if not self.engine.image.new_shared_count.value:
            return False
        done: int = self.search.transitions
        self.enough = self.enough or done + min(max(done, _LEAST), _MOST)
        return done >= self.enough

    def run(self, progress: Callable[[SearchResult], None] | None) -> SearchResult:
        options, result, search = self.options, self.result, self.search
        begun = perf_counter()
        deadline = begun + options.budget_s if options.budget_s else 0.0
        bounds = result.bounds_hit
        event = self._begin()
        again = 0
        while event != OVER and not self.learned_enough():
            if event == ASK and not search.depth:
                bounds.append(_CANNOT)
                break
            if event == FULL:
                bounds.append("memory for states")
                self.execute(self.path())
                break
            again = self.ask() if event == ASK else 0
            if event == JUDGE:
                self.judge()
            elif event == BLOCKED:
                self.execute(self.path())
            elif event == CYCLE:
                self.go_round()
            if options.first and result.found:
                bounds.append("stopped at the first finding")
                break
            if deadline and perf_counter() >= deadline:
                bounds.append("time budget")
                break
            self.engine.image.check_kept()
            self._count(begun)
            if progress is not None and event == TICK:
                progress(result)
            event = self._go_on(self._at, again, _CHUNK)
        if self.engine.image.new_shared_count.value:
            self.program.forget_sharing()
            raise SharingGrew
        self._count(begun)
        self._notes()
        result.complete = not bounds
        return result

    def _count(self, begun: float) -> None:
        result, search = self.result, self.search
        result.states, result.transitions = search.states, search.transitions
        result.cycles = search.cycles
        result.seconds = perf_counter() - begun

    def _notes(self) -> None:
        self.result.reached |= self.engine.noted()
        for pc in self._lost[: self._lost_used.value]:
            if rmw_name(pc) == "cmpxchg":
                self.result.reached.update(lost(self.engine.kernel.lines, pc))
        self.result.folded = self.result.folded or self.engine.folded > 0


def stateful(
    program: NativeProgram,
    options: Options,
    progress: Callable[[SearchResult], None] | None = None,
) -> SearchResult:
    """Explore all states of the program.

    :raises SharingGrew: tasks were found to share another word: start over.
    """
    engine = program.engine
    if engine is None:
        return SearchResult("stateful", bounds_hit=["the scheduler in C was given up"])
    engine.settle = program.settle
    return _Run(program, engine, options).run(progress)
