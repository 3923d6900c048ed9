# SPDX-License-Identifier: GPL-2.0-only
"""One row of the verdict table, in pieces that may run in any process.

A row is prepared, explored in units, and concluded: the schedule minimised and recorded,
the verdict spoken.  Programs are built once per row and thread, and kept for its next unit.
"""

from __future__ import annotations

import pickle
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from septum.designs.registry import lookup
from septum.explore import Options, Protocol, SearchResult, best_found, search
from septum.explore.minimise import minimise
from septum.explore.result import Found
from septum.explore.search import DEFAULTS
from septum.explore.units import Branch, Size, UnitResult, explore_unit
from septum.machine import Limits
from septum.scenarios.build import Built, build, missing_capabilities
from septum.scenarios.counterexample import record
from septum.scenarios.identity import digest, file_digest
from septum.scenarios.model import Scenario
from septum.scenarios.protocols import (
    BuiltProtocol,
    build_protocol,
    find_protocol,
    is_protocol_row,
)
from septum.scenarios.result import CheckResult
from septum.scenarios.start import StartError
from septum.scenarios.suite import find

__all__ = [
    "INTERRUPTED",
    "Differs",
    "Row",
    "conclude",
    "explore",
    "forget",
    "make",
    "primary",
    "unexplored",
]

primary = best_found  # the finding that a row reports

IN_UNITS = frozenset({"optimal"})
"""Strategies that can be explored in units; others are one piece of work."""

INTERRUPTED = "interrupted"
"""The bound of a row that somebody stopped."""

_KEPT = 4  # programs per thread


@dataclass(frozen=True, slots=True)
class Row:
    """What is checked, and how.

    :ivar force: also run where the design lacks a capability that the scenario needs.
    :ivar text: digest of the design's own files, as whoever asked for the row has them.
    """

    design: str
    scenario: str | Scenario
    options: Options = DEFAULTS
    params: tuple[tuple[str, Any], ...] = ()
    monitors_off: tuple[str, ...] = ()
    force: bool = False
    text: str = ""
    found: Scenario = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        scenario = self.scenario
        if self.protocol is not None:
            doc, must_occur = self.protocol.doc, self.protocol.must_occur
            scenario = Scenario(str(scenario), doc, "", (), must_occur=must_occur)
        elif not isinstance(scenario, Scenario):
            scenario = find(scenario)
        object.__setattr__(self, "found", scenario)
        options = self.options
        if scenario.bound and not options.max_executions and not options.budget_s:
            object.__setattr__(self, "options", replace(options, max_executions=scenario.bound))

    @property
    def name(self) -> str:
        return self.found.name

    @property
    def protocol(self) -> Protocol | None:
        """The protocol of one's own that the row is about; the scenario is its file."""
        if isinstance(self.scenario, Scenario) or not is_protocol_row(self.scenario):
            return None
        return find_protocol(self.design, self.scenario)

    @property
    def in_units(self) -> bool:
        return self.options.strategy in IN_UNITS


def make(
    design: str,
    scenario: str | Scenario,
    options: Options = DEFAULTS,
    params: Mapping[str, Any] | None = None,
    monitors_off: Iterable[str] = (),
    force: bool = False,
) -> Row:
    """A row from what `septum.scenarios.check.check` takes."""
    given = tuple((params or {}).items())
    return Row(
        design, scenario, options, given, tuple(monitors_off), force, _text(design, scenario)
    )


def _text(design: str, scenario: str | Scenario) -> str:
    """Digest of the files that are under test and not ours."""
    own = isinstance(scenario, str) and is_protocol_row(scenario)
    return file_digest(str(scenario)) if own else digest(design)


class Differs(RuntimeError):
    """A worker has another text of a design than whoever asked for the row."""


class _Kept(threading.local):
    def __init__(self) -> None:
        self.built: OrderedDict[Row, Built | BuiltProtocol] = OrderedDict()


_kept = _Kept()


def _built(row: Row) -> Built | BuiltProtocol:
    """The row's program, which this thread may have made before.

    :raises StartError: the design fails before anything races.
    """
    known = _kept.built.pop(row, None)
    if known is None:
        if _text(row.design, row.scenario) != row.text:
            raise Differs(
                f"{row.design}: not the same text where it is explored (edited meanwhile, or "
                "workers with another copy): check again once it is"
            )
        model = row.options.memory_model
        if row.protocol is not None:
            known = build_protocol(row.design, row.name, model)
        else:
            known = build(
                row.design, row.scenario, dict(row.params), row.monitors_off, memory_model=model
            )
        known.machine.retries_allowed = row.options.retries
    _kept.built[row] = known
    while len(_kept.built) > _KEPT:
        _kept.built.popitem(last=False)
    return known


def forget() -> None:
    """Drop the programs that this thread keeps."""
    _kept.built.clear()


def unexplored(row: Row) -> CheckResult | None:
    """The result of a row that cannot be explored, else None."""
    lacking = [] if row.protocol else missing_capabilities(lookup(row.design), row.found)
    if lacking and not row.force:
        return _result(row, "n/a", f"needs {', '.join(lacking)}")
    try:
        _built(row)
    except StartError as error:
        return _result(row, "error", str(error))
    return None


def _result(row: Row, verdict: str, note: str) -> CheckResult:
    return CheckResult(row.design, row.name, dict(row.params), verdict, note=note)


def explore(row: Row, pickled: bytes, size: Size) -> UnitResult | CheckResult:
    """One unit of a row; or its result, if it cannot be explored in units.

    :param pickled: the branch.  A copy in any case: whoever sent it may send it again.
    """
    branch: Branch = pickle.loads(pickled)
    if not branch.levels:  # the first unit
        known = unexplored(row)
        if known is not None:
            return known
        if not row.in_units:
            return conclude(row, search(_built(row).program, row.options))
    options = row.options
    return explore_unit(
        _built(row).program,
        branch,
        size,
        limits=Limits(options.steps),
        retries=options.retries,
        first=options.first,
    )


def conclude(row: Row, result: SearchResult) -> CheckResult:
    """The verdict on what a search found."""
    built = _built(row)
    out = CheckResult(
        row.design,
        row.name,
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
    out.missing = [w for w in row.found.must_occur if w not in result.reached]
    if found is not None:
        _violated(out, built, result, found, row.options)
    elif out.missing and INTERRUPTED not in result.bounds_hit:
        out.verdict = "vacuous"
        out.note = f"never occurred: {'; '.join(out.missing)}"
    elif result.complete:
        out.verdict = "holds"
    elif result.strategy in ("random", "pct"):
        out.verdict = "sampled"
    else:
        out.verdict = "bounded"
    return out


def _violated(
    row: CheckResult,
    built: Built | BuiltProtocol,
    result: SearchResult,
    found: Found,
    options: Options,
) -> None:
    small = minimise(built.program, built.program.actors, found, Limits(options.steps))
    row.verdict = "error" if small.finding.rule == "EXCEPTION" else "violated"
    row.finding = small.finding
    row.counterexample = replace(record(built, small), design=row.design)
    row.other_findings = sorted(r for r in result.found if r != small.finding.rule)
    if options.all_findings:
        for rule in row.other_findings:
            other = minimise(
                built.program, built.program.actors, result.found[rule], Limits(options.steps)
            )
            row.others.append(replace(record(built, other), design=row.design))
