# SPDX-License-Identifier: GPL-2.0-only
"""Rows of a check: which ones, run one after the other or in workers, and saved.

Ctrl-C ends the run, not the report: what was finished is printed, with the command that
goes on.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from septum.cli.terminal import progress
from septum.designs import lookup
from septum.explore import Options
from septum.report.layout import clean, command, number
from septum.scenarios.check import DEFAULT_DESIGNS, check_many, default_rows
from septum.scenarios.counterexample import save
from septum.scenarios.result import CheckResult
from septum.scenarios.suite import SCENARIOS, find

__all__ = ["Outcome", "default_directory", "go_on", "run", "save_all", "select_rows"]

Row = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Finished rows in the order asked for, and whether Ctrl-C cut the run short."""

    results: list[CheckResult]
    seconds: float
    left: list[Row]

    @property
    def interrupted(self) -> bool:
        return bool(self.left)


def select_rows(designs: Sequence[str], scenarios: Sequence[str]) -> list[Row]:
    """Designs times scenarios.  Without designs: those that the default suite checks in
    these scenarios; without scenarios: the default ones.

    :raises DesignError, UnknownScenario: for a name that does not exist, before anything runs.
    """
    named = list(dict.fromkeys(find(name).name for name in scenarios))
    if not designs:
        default = default_rows()
        if not named:
            return default
        known = [row for row in default if row[1] in named]
        rest = [name for name in named if not find(name).default]
        return [*known, *product(DEFAULT_DESIGNS, rest)]
    for design in designs:
        lookup(design)
    chosen = named or _default_scenarios()
    return list(product(dict.fromkeys(designs), chosen))


def _default_scenarios() -> list[str]:
    return [s.name for s in SCENARIOS.values() if s.default]


def run(
    rows: Sequence[Row],
    *,
    jobs: int,
    options: Options,
    params: Mapping[str, Any],
    force: bool,
) -> Outcome:
    """Check the rows."""
    finished: dict[int, CheckResult] = {}
    begun = perf_counter()
    with _workers(min(jobs, len(rows))) as executor, progress(len(rows)) as advance:
        try:
            for n, result in check_many(
                rows, options=options, params=params, force=force, executor=executor
            ):
                if result.counterexample is not None:
                    # By the name that finds it again: a file's path, not its NAME.
                    named = replace(result.counterexample, design=result.design)
                    result.counterexample = named
                finished[n] = result
                advance(result)
        except KeyboardInterrupt:
            _stop_workers()
    left = [row for n, row in enumerate(rows) if n not in finished]
    results = [finished[n] for n in sorted(finished)]
    return Outcome(results, perf_counter() - begun, left)


@contextmanager
def _workers(jobs: int) -> Iterator[Executor | None]:
    """Worker processes, or None to run here.  They leave Ctrl-C to us."""
    if jobs <= 1:
        yield None
        return
    with ProcessPoolExecutor(jobs, initializer=_ignore_interrupt) as executor:
        yield executor


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stop_workers() -> None:
    for process in multiprocessing.active_children():
        process.terminate()


def go_on(outcome: Outcome) -> list[str]:
    """After Ctrl-C: how to check what is left, with one command per set of scenarios."""
    left: dict[str, list[str]] = {}
    for design, scenario in outcome.left:
        left.setdefault(design, []).append(scenario)
    groups: dict[tuple[str, ...], list[str]] = {}
    for design, scenarios in left.items():
        groups.setdefault(tuple(scenarios), []).append(design)
    lines = [f"Interrupted: {number(len(outcome.left), 'row')} left.  To check what is left:"]
    if outcome.left == default_rows():
        return [*lines, *command(["septum", "check"])]
    for names, designs in groups.items():
        words = [word for design in designs for word in ("-d", design)]
        if list(names) != _default_scenarios():
            words += [word for name in names for word in ("-s", name)]
        lines += command(["septum", "check", *words])
    return lines


def default_directory() -> Path:
    """Where counterexamples go without ``--save``: the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "septum" / "counterexamples"


def save_all(results: Sequence[CheckResult], directory: Path) -> dict[Row, str]:
    """Save every counterexample; the file of each (design, scenario)."""
    files: dict[Row, str] = {}
    for r in results:
        if r.counterexample is None:
            continue
        words = (Path(r.design).name, r.scenario, r.counterexample.finding.rule)
        name = "-".join(re.sub(r"[^A-Za-z0-9.+_]+", "-", word) for word in words)
        path = directory / f"{name.strip('-.')}.json"
        try:
            save(r.counterexample, path)
        except OSError as error:
            click.echo(
                clean(
                    f"septum: {path}: not saved: {error.strerror}; name another place with --save"
                ),
                err=True,
            )
            break
        files[(r.design, r.scenario)] = str(path)
    return files
