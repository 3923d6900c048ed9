# SPDX-License-Identifier: GPL-2.0-only
"""Progress of a check on stderr: bars on a terminal, lines elsewhere.

Within a row too: executions and how many per second.  Elsewhere than on a terminal, a row
that takes long says so every ten seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from septum.cli.terminal import colour
from septum.explore import SearchResult
from septum.report.layout import clean
from septum.report.verdicts import progress_line, searching_line
from septum.scenarios.result import CheckResult

__all__ = ["Watch", "watch"]

_EVERY_S = 10.0


class Watch:
    """Lines for a log."""

    def __init__(self, rows: Sequence[tuple[str, str]]) -> None:
        self.rows = rows
        self.done = 0
        self.begun: dict[int, float] = {}
        self.told = monotonic()

    def unit(self, n: int, found: SearchResult) -> None:
        """More of row ``n`` was explored."""
        if monotonic() - self.told >= _EVERY_S:
            self.told = monotonic()
            self.say(searching_line(*self.rows[n], found, self.done, len(self.rows)))

    def row(self, result: CheckResult) -> None:
        """A row is finished."""
        self.done += 1
        self.told = monotonic()
        self.say(progress_line(result, self.done, len(self.rows)))

    def say(self, line: str) -> None:
        """One line, above what moves."""
        click.echo(line, err=True)


class _Bars(Watch):
    """A bar that counts rows, and what is done in the row that moved last."""

    def __init__(self, rows: Sequence[tuple[str, str]], bar: Progress) -> None:
        super().__init__(rows)
        self.bar = bar
        self.task = bar.add_task("", total=len(rows))

    def unit(self, n: int, found: SearchResult) -> None:
        line = searching_line(*self.rows[n], found)
        self.bar.update(self.task, description=line)

    def row(self, result: CheckResult) -> None:
        name = clean(f"{result.design} / {result.scenario}: {result.verdict}")
        self.bar.update(self.task, advance=1, description=name)

    def say(self, line: str) -> None:
        self.bar.console.print(line, markup=False, highlight=False)


@contextmanager
def watch(rows: Sequence[tuple[str, str]]) -> Iterator[Watch]:
    """Tell the yielded object what happens to ``rows``."""
    if not colour(sys.stderr):
        yield Watch(rows)
        return
    with Progress(
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        yield _Bars(rows, bar)
