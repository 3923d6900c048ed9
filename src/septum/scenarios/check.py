# SPDX-License-Identifier: GPL-2.0-only
"""Check designs in scenarios: build, explore, minimise, judge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import replace
from typing import Any

from septum.designs.registry import lookup
from septum.explore import Options, SearchResult, search
from septum.explore.minimise import minimise
from septum.explore.result import Found, schedule_key
from septum.explore.search import DEFAULTS
from septum.machine import Limits
from septum.scenarios.build import Built, build, missing_capabilities
from septum.scenarios.counterexample import record
from septum.scenarios.model import Scenario
from septum.scenarios.result import CheckResult
from septum.scenarios.start import StartError
from septum.scenarios.suite import SCENARIOS, find

__all__ = ["DEFAULT_DESIGNS", "check", "check_many", "default_rows", "primary"]

DEFAULT_DESIGNS = (
    "v6.16",
    "rfc-v5-08",
    "rfc-v5-08+nonpresent",
    "rfc-v5",
    "feb06",
    "feb06+shared-param",
    "feb06+warn-shared",
    "feb06+opencoded-cas",
    "feb06+mirror-bool",
    "feb10-sp",
    "v7.3",
)


REREAD = "feb06+reread-sptep"
REREAD_SCENARIOS = ("fault-fault", "fault-neighbours", "fault-punch", "install-leaf-fails")
"""The seed's last question.  It breaks already when nobody races, so the scenarios that
need a mapping that works say nothing about it."""


def default_rows() -> list[tuple[str, str]]:
    """Every default design in every default scenario, and the seed's last question."""
    scenarios = [s for s in SCENARIOS.values() if s.default]
    rows = [(d, s.name) for d in DEFAULT_DESIGNS for s in scenarios if d in (s.designs or (d,))]
    others = [(d, s.name) for s in scenarios for d in s.designs if d not in DEFAULT_DESIGNS]
    return rows + [(REREAD, name) for name in REREAD_SCENARIOS] + others


def primary(result: SearchResult) -> Found | None:
    """The finding that a row reports: the one with the best schedule.  Findings of one
    event keep the order in which they were made."""
    best: Found | None = None
    for found in result.found.values():
        cut = found.decisions[: found.finding.step + 1]
        if best is None or schedule_key(cut) < schedule_key(
            best.decisions[: best.finding.step + 1]
        ):
            best = found
    return best


def check(
    design: str,
    scenario: str | Scenario,
    *,
    options: Options = DEFAULTS,
    params: Mapping[str, Any] | None = None,
    monitors_off: Iterable[str] = (),
    force: bool = False,
    progress: Callable[[SearchResult], None] | None = None,
) -> CheckResult:
    """One row of the verdict table.

    :param force: also run where the design lacks a capability that the scenario needs.
    """
    if isinstance(scenario, str):
        scenario = find(scenario)
    resolved = lookup(design)
    lacking = missing_capabilities(resolved, scenario)
    if lacking and not force:
        return CheckResult(
            design, scenario.name, dict(params or {}), "n/a", note=f"needs {', '.join(lacking)}"
        )
    try:
        built = build(design, scenario, params, monitors_off, memory_model=options.memory_model)
    except StartError as error:
        return CheckResult(design, scenario.name, dict(params or {}), "error", note=str(error))
    if scenario.bound and not options.max_executions and not options.budget_s:
        options = replace(options, max_executions=scenario.bound)
    result = search(built.program, options, progress=progress)
    row = CheckResult(
        design,
        scenario.name,
        built.params,
        "",
        complete=result.complete,
        strategy=result.strategy,
        memory_model=built.machine.memory_model,
        executions=result.executions,
        traces=result.traces,
        blocked=result.blocked,
        retries_folded=result.folded,
        bounds_hit=list(result.bounds_hit),
        reached=sorted(result.reached),
        seconds=result.seconds,
        steps=result.steps,
        hypothetical=built.hypothetical,
    )
    found = primary(result)
    row.missing = [w for w in scenario.must_occur if w not in result.reached]
    if found is not None:
        _violated(row, built, result, found, options)
    elif row.missing:
        row.verdict = "vacuous"
        row.note = f"never occurred: {'; '.join(row.missing)}"
    elif result.complete:
        row.verdict = "holds"
    elif result.strategy in ("random", "pct"):
        row.verdict = "sampled"
    else:
        row.verdict = "bounded"
    return row


def _violated(
    row: CheckResult, built: Built, result: SearchResult, found: Found, options: Options
) -> None:
    small = minimise(built.program, built.program.actors, found, Limits(options.steps))
    row.verdict = "error" if small.finding.rule == "EXCEPTION" else "violated"
    row.finding = small.finding
    row.counterexample = replace(record(built, small), design=row.design)
    row.other_findings = sorted(r for r in result.found if r != small.finding.rule)


def check_many(
    rows: Sequence[tuple[str, str]],
    *,
    jobs: int = 1,
    options: Options = DEFAULTS,
    params: Mapping[str, Any] | None = None,
    force: bool = False,
    executor: Executor | None = None,
) -> Iterator[tuple[int, CheckResult]]:
    """Rows as they are finished, with their position in ``rows``."""
    if jobs <= 1 and executor is None:
        for n, (design, scenario) in enumerate(rows):
            yield n, check(design, scenario, options=options, params=params, force=force)
        return
    pool = executor or ProcessPoolExecutor(max_workers=jobs)
    try:
        futures = {
            pool.submit(_row, design, scenario, options, dict(params or {}), force): n
            for n, (design, scenario) in enumerate(rows)
        }
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        if executor is None:
            pool.shutdown(wait=False, cancel_futures=True)


def _row(
    design: str, scenario: str, options: Options, params: dict[str, Any], force: bool
) -> CheckResult:
    return check(design, scenario, options=options, params=params, force=force)
