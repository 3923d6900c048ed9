# SPDX-License-Identifier: GPL-2.0-only
"""Rows of a check: which ones, run one after the other or in workers, and saved.

Ctrl-C ends the run, not the report: what was finished is printed, with the command that
goes on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from septum.cli.errors import please_report
from septum.cli.watch import watch
from septum.designs import lookup
from septum.explore import Options, SearchResult
from septum.report.layout import clean, command, number
from septum.scenarios.campaign import Campaign
from septum.scenarios.check import DEFAULT_DESIGNS, check_many, default_rows
from septum.scenarios.cluster import ClusterCrew
from septum.scenarios.counterexample import save
from septum.scenarios.crew import Crew, ProcessCrew
from septum.scenarios.protocols import is_protocol_row, protocols
from septum.scenarios.result import CheckResult, Counterexample
from septum.scenarios.rows import BUG_IN_SEPTUM, INTERRUPTED, conclude, make
from septum.scenarios.subject import Subject
from septum.scenarios.suite import SCENARIOS, find

__all__ = [
    "HERE",
    "Outcome",
    "Places",
    "default_directory",
    "default_scenarios",
    "file_name",
    "file_names",
    "go_on",
    "others_of",
    "run",
    "save_all",
    "select_rows",
]

Row = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Rows in the order asked for, and whether Ctrl-C cut the run short.

    :ivar results: finished rows, and what is known of those that were interrupted.
    :ivar left: rows that are not finished.
    """

    results: list[CheckResult]
    seconds: float
    left: list[Row]

    @property
    def interrupted(self) -> bool:
        return bool(self.left)


@dataclass(frozen=True, slots=True)
class Places:
    """Who explores, and where it is kept.

    :ivar jobs: worker processes; 1: this one.
    :ivar cluster: address of a Dask scheduler instead.
    :ivar campaign: directory of a campaign.
    :ivar words: the command line, to go on.
    :ivar options: its options, without designs and scenarios.
    """

    jobs: int = 1
    cluster: str | None = None
    campaign: Path | None = None
    words: Sequence[str] = ()
    options: Sequence[str] = ()


HERE = Places()


def select_rows(designs: Sequence[str], scenarios: Sequence[str]) -> list[Row]:
    """Designs times scenarios.  Without designs: those that the default suite checks in
    these scenarios; without scenarios: the default ones.

    :raises DesignError, UnknownScenario: for a name that does not exist, before anything runs.
    """
    own = {design: protocols(design) for design in designs}
    rows = [(p.name, design) for design, listed in own.items() for p in listed]
    if rows:
        if scenarios:
            raise click.UsageError("-s is for designs; a file of protocols has no scenarios")
        rest = [design for design in designs if not own[design]]
        return [*rows, *(select_rows(rest, ()) if rest else ())]
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
    chosen = named or default_scenarios()
    return list(product(dict.fromkeys(designs), chosen))


def default_scenarios() -> list[str]:
    """Those that are checked without -s."""
    return [s.name for s in SCENARIOS.values() if s.default]


def run(
    rows: Sequence[Row],
    *,
    places: Places,
    options: Options,
    params: Mapping[str, Any],
    force: bool,
    subject: Subject | None = None,
) -> Outcome:
    """Check the rows.

    :param subject: what is explored instead of designs.
    :raises BadCampaign, NoCluster: with what to do.
    """
    finished: dict[int, CheckResult] = {}
    partial: dict[int, SearchResult] = {}
    begun = perf_counter()
    interrupted = False
    with (
        _crew(places) as crew,
        _campaign(rows, places, options, params, force, subject) as store,
        watch(rows) as told,
    ):
        for row in store.again if store is not None else ():
            told.say(f"{row.design} / {row.name}: the design has changed: checked again")

        def tell(n: int, found: SearchResult) -> None:
            partial[n] = found
            told.unit(n, found)

        try:
            for n, result in check_many(
                rows,
                options=options,
                params=params,
                force=force,
                subject=subject,
                crew=crew,
                store=store,
                progress=tell,
            ):
                if result.counterexample is not None:
                    # By the name that finds it again: a file's path, not its NAME.
                    named = replace(result.counterexample, design=result.design)
                    result.counterexample = named
                if result.note.startswith(BUG_IN_SEPTUM):
                    result.note += f"; {please_report()}"
                finished[n] = result
                told.row(result)
        except KeyboardInterrupt:
            interrupted = True
    left = [row for n, row in enumerate(rows) if n not in finished]
    if interrupted:
        for n, found in partial.items():
            if n not in finished:
                found.bounds_hit = [*found.bounds_hit, INTERRUPTED]
                finished[n] = conclude(
                    make(*rows[n], options, params, force=force, subject=subject), found
                )
    results = [finished[n] for n in sorted(finished)]
    return Outcome(results, perf_counter() - begun, left)


@contextmanager
def _crew(places: Places) -> Iterator[Crew | None]:
    """Workers, or None to explore here."""
    if places.cluster is not None:
        crew: Crew = ClusterCrew(places.cluster)
    elif places.jobs > 1:
        crew = ProcessCrew(places.jobs)
    else:
        yield None
        return
    try:
        yield crew
    finally:
        crew.close()


@contextmanager
def _campaign(
    rows: Sequence[Row],
    places: Places,
    options: Options,
    params: Mapping[str, Any],
    force: bool,
    subject: Subject | None,
) -> Iterator[Campaign | None]:
    if places.campaign is None:
        yield None
        return
    facts = {"options": asdict(options), "params": dict(params), "force": force}
    made = [make(*row, options, params, force=force, subject=subject) for row in rows]
    campaign = Campaign(places.campaign, facts, made)
    try:
        campaign.note("command", list(places.words))
        yield campaign
    finally:
        campaign.close()


def go_on(outcome: Outcome, places: Places = HERE) -> list[str]:
    """After Ctrl-C: how to check what is left; without a campaign with one command per set
    of scenarios."""
    rows = number(len(outcome.left), "row")
    if places.campaign is not None:
        return [
            f"Interrupted: {rows} left.  To go on where it stopped:",
            *command(["septum", *places.words]),
        ]
    left: dict[str, list[str]] = {}
    files = list(dict.fromkeys(path for _, path in outcome.left if is_protocol_row(path)))
    for design, scenario in outcome.left:
        if scenario not in files:
            left.setdefault(design, []).append(scenario)
    groups: dict[tuple[str, ...], list[str]] = {}
    for design, scenarios in left.items():
        groups.setdefault(tuple(scenarios), []).append(design)
    lines = [f"Interrupted: {rows} left (--campaign DIR keeps what was done).  To check again:"]
    if outcome.left == default_rows():
        return [*lines, *command(["septum", "check", *places.options])]
    if files:
        lines += command(["septum", "check", *files, *places.options])
    for names, designs in groups.items():
        words = [word for design in designs for word in ("-d", design)]
        if list(names) != default_scenarios():
            words += [word for name in names for word in ("-s", name)]
        lines += command(["septum", "check", *words, *places.options])
    return lines


def default_directory() -> Path:
    """Where counterexamples go without ``--save``: the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "septum" / "counterexamples"


def file_name(ce: Counterexample) -> str:
    """Design, scenario and rule, as far as a file's name can hold them."""
    words = (Path(ce.design).name, ce.scenario, ce.finding.rule)
    name = "-".join(re.sub(r"[^A-Za-z0-9.+_]+", "-", word) for word in words)
    return f"{name.strip('-.')}.json"


def file_names(r: CheckResult) -> list[str]:
    """Of a row's counterexamples; a second one for a rule is numbered."""
    names: list[str] = []
    for ce in (r.counterexample, *r.others):
        name = file_name(ce) if ce is not None else ""
        n = 2
        while name in names and ce is not None:
            name = file_name(ce).removesuffix(".json") + f"-{n}.json"
            n += 1
        names.append(name)
    return names


def others_of(results: Sequence[CheckResult], files: Mapping[Row, str]) -> dict[Row, list[str]]:
    """Where `save_all` saved the further counterexamples of each row."""
    return {
        (r.design, r.scenario): [str(Path(path).parent / name) for name in file_names(r)[1:]]
        for r in results
        if (path := files.get((r.design, r.scenario)))
    }


def save_all(results: Sequence[CheckResult], directory: Path) -> dict[Row, str]:
    """Save every counterexample; the file of each (design, scenario)."""
    files: dict[Row, str] = {}
    for r in results:
        if r.counterexample is None:
            continue
        path = directory / file_name(r.counterexample)
        try:
            save(r.counterexample, path)
            for other, name in zip(r.others, file_names(r)[1:], strict=True):
                save(other, directory / name)
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
