# SPDX-License-Identifier: GPL-2.0-only
"""Rows to a crew of workers: whole rows first, then parts of the big ones that are left.

What a row's search does is decided by its frontier alone; here is only decided who does
it when.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from septum.explore import SearchResult
from septum.explore.frontier import Frontier
from septum.explore.units import UnitResult
from septum.scenarios.crew import Crew, here
from septum.scenarios.result import CheckResult
from septum.scenarios.rows import Row, conclude, explore, forget, listening, so_far
from septum.scenarios.subject import Learned

__all__ = ["Store", "WorkersLost", "run_rows"]

Progress = Callable[[int, SearchResult], None]
Piece = Future[UnitResult | CheckResult | Learned]

_LOSSES = 3  # of workers, without anything finished in between


class WorkersLost(RuntimeError):
    """Workers die faster than they get anything done."""


class Store(Protocol):
    """Where rows are kept while they are explored."""

    def restore(self, n: int, row: Row) -> Frontier | CheckResult | None:
        """What is known of the row from before."""

    def save(self, n: int, row: Row, frontier: Frontier) -> None:
        """One more unit was merged."""

    def finish(self, n: int, row: Row, result: CheckResult) -> None:
        """The row is done."""


@dataclass
class _Search:
    """A row that is being explored.  ``sent``: the futures of the frontier's tasks, as far
    as handed out, by task; ``end``: the conclusion's."""

    n: int
    row: Row
    frontier: Frontier
    sent: dict[int, Piece] = field(default_factory=dict)
    end: Piece | None = None

    def futures(self) -> list[Piece]:
        return [*self.sent.values(), *([self.end] if self.end is not None else [])]

    def send_first(self, crew: Crew) -> bool:
        """Hand out what the search waits for, unless that was done."""
        if self.frontier.finished:
            if self.end is None:
                self.end = crew.executor.submit(conclude, self.row, self.frontier.found)
                return True
            return False
        return self._send(crew, 0)

    def send_any(self, crew: Crew) -> bool:
        """Hand out the next task of which nobody has heard."""
        return any(self._send(crew, i) for i in range(1, len(self.frontier.tasks)))

    def _send(self, crew: Crew, i: int) -> bool:
        task = self.frontier.tasks[i]
        if id(task) in self.sent or task.allowed == 0:
            return False
        budget = self.row.options.budget_s
        seconds = max(budget - self.frontier.found.seconds, 0.01) if budget else 0.0
        size = self.frontier.size(task, seconds)
        self.sent[id(task)] = crew.executor.submit(
            explore, self.row, pickle.dumps(task.branch), size, self.frontier.found.words
        )
        return True

    def merge(self) -> Iterator[CheckResult | None]:
        """Take finished units in their order; yields None per unit, and the row's result."""
        if self.end is not None and self.end.done():
            done = self.end.result()
            assert isinstance(done, CheckResult)
            yield done
            return
        while self.frontier.tasks:
            future = self.sent.get(id(self.frontier.tasks[0]))
            if future is None or not future.done():
                return
            result = future.result()
            del self.sent[id(self.frontier.tasks[0])]
            if isinstance(result, CheckResult):
                yield so_far(result, self.frontier.found)
                return
            if isinstance(result, Learned):
                self.frontier.learned(result.words)
                self._drop()
            else:
                self.frontier.merge(result)
            budget = self.row.options.budget_s
            if budget and self.frontier.tasks and self.frontier.found.seconds >= budget:
                self.frontier.stop("time budget")
            if self.frontier.finished:
                self._drop()
            yield None

    def _drop(self) -> None:
        """Forget what was handed out."""
        for future in self.sent.values():
            future.cancel()
        self.sent.clear()


def run_rows(
    rows: Sequence[Row],
    *,
    crew: Crew | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[int, CheckResult]]:
    """Check the rows; each one as it is finished, with its position.

    :raises WorkersLost: after several losses of workers in a row.
    """
    alone = crew is None
    crew = crew or here()
    waiting = list(reversed(list(enumerate(rows))))
    active: list[_Search] = []
    heard: set[Piece] = set()
    losses = 0
    hearing = ExitStack()
    if alone and progress is not None:
        at = {row: n for n, row in enumerate(rows)}
        tell = progress
        hearing.enter_context(listening(lambda row, found: tell(at[row], found)))
    try:
        while waiting or active:
            try:
                yield from _hand_out(waiting, active, crew, store)
                # What was done and could not be merged yet is no reason to wake up.
                wait(_futures(active) - heard, return_when=FIRST_COMPLETED)
                heard = {future for future in _futures(active) if future.done()}
                for n, result in _merge(active, store, progress):
                    losses = 0
                    if result is not None:
                        yield n, result
            except Exception as error:  # a worker may be found lost at any of these
                if not crew.lost(error):
                    raise
                losses += 1
                if losses > _LOSSES or not crew.renew():
                    raise WorkersLost(
                        f"workers died {losses} times with nothing finished in between (out of "
                        "memory?): use fewer --jobs; with --campaign, what was done is kept"
                    ) from error
                _take_back(active, crew)
    finally:
        hearing.close()
        if alone:
            forget()
        for future in _futures(active):
            future.cancel()


def _futures(active: Sequence[_Search]) -> set[Piece]:
    return {future for s in active for future in s.futures()}


def _hand_out(
    waiting: list[tuple[int, Row]], active: list[_Search], crew: Crew, store: Store | None
) -> Iterator[tuple[int, CheckResult]]:
    """Give the crew as much as it should have; yields rows that the store has finished."""
    while True:
        out = _futures(active)
        if len(out) >= crew.unmerged or sum(not f.done() for f in out) >= crew.ahead:
            break
        if any(s.send_first(crew) for s in active):
            continue
        if waiting:
            n, row = waiting.pop()
            known = store.restore(n, row) if store is not None else None
            if isinstance(known, CheckResult):
                yield n, known
            else:
                active.append(_Search(n, row, known or _start(row)))
        elif not any(s.send_any(crew) for s in active):
            break


def _merge(
    active: list[_Search], store: Store | None, progress: Progress | None
) -> Iterator[tuple[int, CheckResult | None]]:
    """Merge what is done; yields per unit, with the row's result if it was the last one."""
    for s in list(active):
        for result in s.merge():
            if result is not None:
                active.remove(s)
                if store is not None:
                    store.finish(s.n, s.row, result)
            else:
                if store is not None:
                    store.save(s.n, s.row, s.frontier)
                if progress is not None:
                    progress(s.n, s.frontier.found)
            yield s.n, result


def _start(row: Row) -> Frontier:
    options = row.options
    return Frontier.start(
        options.strategy, most=max(options.max_executions, 0), first=options.first
    )


def _take_back(active: list[_Search], crew: Crew) -> None:
    """Forget what went with a worker, so that it is handed out again."""

    def gone(future: Piece | None) -> bool:
        if future is None or not future.done():
            return False
        return future.cancelled() or crew.lost(future.exception() or OSError())

    for s in active:
        s.sent = {i: f for i, f in s.sent.items() if not gone(f)}
        if gone(s.end):
            s.end = None
