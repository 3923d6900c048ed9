# SPDX-License-Identifier: GPL-2.0-only
"""One row of the verdict table, in pieces that may run in any process.

A row is prepared, explored in units, and concluded: the schedule minimised and recorded,
the verdict spoken.  Programs are built once per row and thread, and kept for its next unit.
"""

from __future__ import annotations

import gc
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from septum.designs.registry import lookup
from septum.explore import Options, Protocol, SearchResult, best_found, search
from septum.explore.distinct import kind_of
from septum.explore.minimise import minimise
from septum.explore.outcomes import NondeterminismError
from septum.explore.result import Found
from septum.explore.search import DEFAULTS, no_collector, remembering
from septum.explore.units import Branch, Size, UnitResult, explore_unit
from septum.machine import Limits, MachineError
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
from septum.scenarios.subject import Learned, Recordable, Subject
from septum.scenarios.suite import find

__all__ = [
    "BUG_IN_SEPTUM",
    "INTERRUPTED",
    "OURS",
    "Differs",
    "Row",
    "at_fault",
    "conclude",
    "explore",
    "explore_here",
    "forget",
    "judge",
    "listening",
    "make",
    "primary",
    "so_far",
    "unexplored",
]

primary = best_found  # the finding that a row reports

IN_UNITS = frozenset({"optimal"})
"""Strategies that can be explored in units; others are one piece of work."""

NO_VERDICT = frozenset({"EXCEPTION", "UNMODELLED"})
"""Findings that say nothing about the code under test: the row's verdict is error."""

OURS = (NondeterminismError, MachineError)
"""The explorer or the machine has found that it cannot be right."""

BUG_IN_SEPTUM = "a bug in septum"
"""How the note of a row begins that `OURS` ended."""

INTERRUPTED = "interrupted"
"""The bound of a row that somebody stopped."""

_KEPT = 4  # programs per thread
_TELL_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Row:
    """What is checked, and how.

    :ivar force: also run where the design lacks a capability that the scenario needs.
    :ivar text: digest of the design's own files, as whoever asked for the row has them.
    :ivar subject: what is explored instead of a design; ``design`` is then only its name.
    """

    design: str
    scenario: str | Scenario
    options: Options = DEFAULTS
    params: tuple[tuple[str, Any], ...] = ()
    monitors_off: tuple[str, ...] = ()
    force: bool = False
    text: str = ""
    subject: Subject | None = None
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
        if self.subject is not None or isinstance(self.scenario, Scenario):
            return None
        if not is_protocol_row(self.scenario):
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
    subject: Subject | None = None,
) -> Row:
    """A row from what `septum.scenarios.check.check` takes."""
    given = tuple((params or {}).items())
    text = _text(design, scenario) if subject is None else subject.text
    return Row(design, scenario, options, given, tuple(monitors_off), force, text, subject)


def _text(design: str, scenario: str | Scenario) -> str:
    """Digest of the files that are under test and not ours."""
    own = isinstance(scenario, str) and is_protocol_row(scenario)
    return file_digest(str(scenario)) if own else digest(design)


class Differs(RuntimeError):
    """A worker has another text of a design than whoever asked for the row."""


class _Kept(threading.local):
    def __init__(self) -> None:
        self.built: OrderedDict[Row, Built | BuiltProtocol] = OrderedDict()
        self.subjects: set[Subject] = set()
        self.listen: Callable[[Row, SearchResult], None] | None = None


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
        _, old = _kept.built.popitem(last=False)
        old.machine.memory = None  # most of it, and nothing but a full collection would find it
        gc.unfreeze()
    return known


def forget() -> None:
    """Drop the programs that this thread keeps."""
    _kept.built.clear()
    gc.unfreeze()
    while _kept.subjects:
        _kept.subjects.pop().forget()


def unexplored(row: Row) -> CheckResult | None:
    """The result of a row that cannot be explored, else None."""
    if row.subject is not None:
        return row.subject.unexplored(row)
    lacking = [] if row.protocol else missing_capabilities(lookup(row.design), row.found)
    if lacking and not row.force:
        return _result(row, "n/a", f"needs {', '.join(lacking)}")
    try:
        _built(row)
    except StartError as error:
        return _result(row, "error", str(error))
    return None


def at_fault(row: Row, error: Exception) -> CheckResult:
    """The row's result where `OURS` ended it: the other rows go on."""
    own = row.subject is None and row.text
    other = f", or {row.design} lets tasks share what is no word, lock or cell" if own else ""
    return _result(row, "error", f"{BUG_IN_SEPTUM}{other}: {error}")


def so_far(result: CheckResult, found: SearchResult) -> CheckResult:
    """A row's result that came from one unit, with what earlier ones ``found``."""
    if result.verdict == "error" and found.executions:
        result.executions, result.traces = found.executions, found.traces
        result.other_findings = sorted(found.found)
        broke = f", which broke {', '.join(result.other_findings)}" if found.found else ""
        result.note += f" (until then {found.executions} executions{broke})"
    return result


def _result(row: Row, verdict: str, note: str) -> CheckResult:
    return CheckResult(row.design, row.name, dict(row.params), verdict, note=note)


def explore(
    row: Row, pickled: bytes, size: Size, words: tuple[str, ...] = ()
) -> UnitResult | CheckResult | Learned:
    """One unit of a row; or its result, if it cannot be explored in units.

    :param pickled: the branch.  A copy in any case: whoever sent it may send it again.
    :param words: what a `Subject` has learned in the row so far.
    """
    if row.subject is not None:
        _kept.subjects.add(row.subject)
        return row.subject.explore(row, pickled, size, words)
    branch: Branch = pickle.loads(pickled)
    try:
        if not branch.levels:  # the first unit
            known = unexplored(row)
            if known is not None:
                return known
        return explore_here(row, _built(row), branch, size)
    except OURS as error:
        return at_fault(row, error)


def explore_here(
    row: Row, built: Recordable, branch: Branch, size: Size
) -> UnitResult | CheckResult:
    """The same, of a program that stands."""
    options = row.options
    if not row.in_units:
        return judge(row, built, search(built.program, options, progress=_telling(row)))
    with no_collector():
        result = explore_unit(
            built.program,
            branch,
            size,
            limits=Limits(options.steps),
            retries=options.retries,
            first=options.first,
        )
        gc.freeze()  # what the next unit goes on with need not be looked through before
    return result


@contextmanager
def listening(listen: Callable[[Row, SearchResult], None]) -> Iterator[None]:
    """Hear now and then what searches in one piece have found, in this thread."""
    _kept.listen = listen
    try:
        yield
    finally:
        _kept.listen = None


def _telling(row: Row) -> Callable[[SearchResult], None] | None:
    listen = _kept.listen
    if listen is None:
        return None
    due = 0.0

    def tell(found: SearchResult) -> None:
        nonlocal due
        now = perf_counter()
        if now >= due:
            due = now + _TELL_EVERY_S
            listen(row, found)

    return tell


def conclude(row: Row, result: SearchResult) -> CheckResult:
    """The verdict on what a search found."""
    if row.subject is not None:
        _kept.subjects.add(row.subject)
        return row.subject.conclude(row, result)
    try:
        return judge(row, _built(row), result)
    except OURS as error:
        return at_fault(row, error)


def judge(
    row: Row,
    built: Recordable,
    result: SearchResult,
    shrink: Callable[[Found], Found] | None = None,
) -> CheckResult:
    """The same, of a program that stands.

    :param shrink: makes a found schedule smaller.
    """
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
        states=result.states,
        transitions=result.transitions,
        hypothetical=built.hypothetical,
    )
    found = primary(result)
    out.missing = [w for w in row.found.must_occur if w not in result.reached]
    if found is not None:
        shrink = shrink or _shrink(built, row.options)
        _violated(out, built, result, found, shrink)
        if row.options.all_findings:
            others = _others(built, result, out, shrink)
            out.others = [replace(record(built, o), design=row.design) for o in others]
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


def _others(
    built: Recordable, result: SearchResult, row: CheckResult, shrink: Callable[[Found], Found]
) -> list[Found]:
    """Every finding but the one that the row reports, by rule and kind."""
    assert row.finding is not None and row.counterexample is not None
    execution = built.program.run(row.counterexample.decisions)
    same = [f for f in execution.findings if f == row.finding]
    reported = {kind_of(f, execution.events) for f in same}
    return [shrink(result.each[kind]) for kind in sorted(result.each) if kind not in reported]


def _shrink(built: Recordable, options: Options) -> Callable[[Found], Found]:
    def shrink(found: Found) -> Found:
        with no_collector(), remembering(built.program):
            return minimise(built.program, built.program.actors, found, Limits(options.steps))

    return shrink


def _violated(
    row: CheckResult,
    built: Recordable,
    result: SearchResult,
    found: Found,
    shrink: Callable[[Found], Found],
) -> None:
    small = shrink(found)
    row.verdict = "error" if small.finding.rule in NO_VERDICT else "violated"
    row.finding = small.finding
    row.counterexample = replace(record(built, small), design=row.design)
    row.other_findings = sorted(r for r in result.found if r != small.finding.rule)
