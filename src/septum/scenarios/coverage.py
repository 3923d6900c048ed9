# SPDX-License-Identifier: GPL-2.0-only
"""What rows of `septum check` reach of the modelled kernel and of the TDX Module.

Branches are those of the functions in ``kvm/`` and ``designs/``, measured by coverage.py
(extra ``septum[coverage]``); a branch is named by its function and its text, not by line
numbers.  Statuses are those that a SEAMCALL's checks name (its handler's docstring), with
who made the call return it: the module itself, or an injected failure.

A toggle's patched text is no line of a file; it is reviewed as a hunk and not measured.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import septum
from septum.explore import Options
from septum.scenarios.check import check
from septum.scenarios.result import CheckResult
from septum.tdx.console.manual import errors_of
from septum.tdx.handlers import HANDLERS
from septum.tdx.module import OUTCOMES

if TYPE_CHECKING:
    from coverage import Coverage

__all__ = [
    "NOT_MEASURED",
    "CoverageMissing",
    "Item",
    "Measured",
    "branch_items",
    "measure",
    "source_files",
    "status_items",
]

NOT_MEASURED: Final[Mapping[str, str]] = {
    "kvm/monitors/*": "judges, not kernel: each catches a mutant (docs/mutants.md)",
    "kvm/view.py": "what the judges read",
    "kvm/view_base.py": "what the judges read",
    "kvm/environment.py": "types",
    "kvm/shadow.py": "the fold of recordings (septum replay)",
    "kvm/versions.py": "the fold of recordings (septum replay)",
    "kvm/functions.py": "a table",
    "designs/calls.py": "checks a user's design before it runs",
    "designs/registry.py": "finds designs",
    "designs/toggles.py": "patches text",
    "designs/mutant*.py": "wrong on purpose (docs/mutants.md)",
}
"""Files of the two packages that are no model of the kernel, and what they are."""

NEVER_CALLED: Final = "never called"


class CoverageMissing(RuntimeError):
    """coverage.py is not installed."""


@dataclass(frozen=True, slots=True, order=True)
class Item:
    """Something that a row can reach.

    :ivar kind: ``branch`` or ``status``.
    :ivar where: the function (``kvm.tdp_mmu.tdp_mmu_link_sp``) or the SEAMCALL.
    :ivar what: the branch's text (``if ret: -> return ret``), or the status.
    :ivar line: ``file:line`` of a branch, for people.
    """

    kind: str
    where: str
    what: str
    line: str = field(default="", compare=False)


@dataclass(slots=True)
class Measured:
    """What rows reached.

    :ivar items: everything there is, with whether it was reached.
    :ivar by: for each SEAMCALL and status that occurred: ``natural``, ``injected`` or both.
    """

    rows: list[tuple[str, str]]
    max_executions: int
    executions: int = 0
    bounded: int = 0
    items: dict[Item, bool] = field(default_factory=dict)
    by: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def unreached(self) -> list[Item]:
        return [item for item, reached in self.items.items() if not reached]


Arcs = dict[str, list[tuple[int, int]]]


# --- what there is ------------------------------------------------------------------------


def _root() -> Path:
    return Path(septum.__file__).parent


def source_files() -> list[Path]:
    """The files whose branches count."""
    root = _root()
    files = sorted([*(root / "kvm").rglob("*.py"), *(root / "designs").rglob("*.py")])
    return [
        path
        for path in files
        if path.name != "__init__.py"
        and not any(path.relative_to(root).match(pattern) for pattern in NOT_MEASURED)
    ]


def _coverage(**options: Any) -> Coverage:
    if importlib.util.find_spec("coverage") is None:
        raise CoverageMissing("coverage.py is not installed: pip install 'septum[coverage]'")
    from coverage import Coverage

    return Coverage(
        data_file=None,
        branch=True,
        include=[str(path) for path in source_files()],
        config_file=False,
        messages=False,
        **options,
    )


def branch_items(arcs: Arcs) -> dict[Item, bool]:
    """Every branch of `source_files`, and whether ``arcs`` has it.

    A function of which nothing ran is one item.  Branches behind one that was not taken are
    implied by it and not items of their own.
    """
    cov = _coverage()
    data = cov.get_data()
    data.add_arcs({name: pairs for name, pairs in arcs.items() if pairs})
    files = source_files()
    for path in files:
        data.touch_file(str(path))
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "coverage.json"
        cov.json_report(outfile=str(out), ignore_errors=True)
        report = json.loads(out.read_text())["files"]
    by_name = {str(Path(name).resolve()): regions for name, regions in report.items()}
    items: dict[Item, bool] = {}
    for path in files:
        for name, region in by_name.get(str(path.resolve()), {}).get("functions", {}).items():
            if name:
                items.update(_branches(path, name, region))
    return items


def _branches(path: Path, name: str, region: Mapping[str, Any]) -> Iterator[tuple[Item, bool]]:
    where = ".".join([*path.relative_to(_root()).with_suffix("").parts, name])
    at = path.relative_to(_root().parent)
    executed = set(region["executed_lines"])
    if not executed:
        yield Item("branch", where, NEVER_CALLED, f"{at}:{region['start_line']}"), False
        return
    yield Item("branch", where, NEVER_CALLED, f"{at}:{region['start_line']}"), True
    lines = path.read_text().splitlines()
    seen: dict[str, int] = {}
    taken = {tuple(pair) for pair in region["executed_branches"]}
    pairs = sorted([*taken, *map(tuple, region["missing_branches"])])
    for pair in pairs:
        start, end = pair
        target = lines[end - 1].strip() if end > 0 else "exit"
        what = f"{lines[start - 1].strip()} -> {target}"
        seen[what] = seen.get(what, 0) + 1
        if seen[what] > 1:
            what += f" (#{seen[what]})"
        if pair in taken or start in executed:
            yield Item("branch", where, what, f"{at}:{start}"), pair in taken


def status_items(
    reached: Iterable[str],
) -> tuple[dict[Item, bool], dict[tuple[str, str], set[str]]]:
    """Every status that the checks of a SEAMCALL name, and whether ``reached`` has it: notes
    of `Machine.reach` and of `septum.tdx.module.OUTCOMES`; and which ones occurred, by whom."""
    by: dict[tuple[str, str], set[str]] = {}
    called: set[str] = set()
    for note in reached:
        call, _, rest = note.partition(" ")
        if call not in HANDLERS:
            continue
        called.add(call)
        for words, who in (("returned ", "natural"), ("was made to return ", "injected")):
            if rest.startswith(words):
                status = rest.removeprefix(words).removeprefix("TDX_")
                by.setdefault((call, status), set()).add(who)
        if rest == "SUCCESS":
            by.setdefault((call, "SUCCESS"), set()).add("natural")
    items: dict[Item, bool] = {}
    for call in sorted(HANDLERS):
        items[Item("status", call, NEVER_CALLED)] = call in called
        if call not in called:
            continue
        got = {status for name, status in by if name == call}
        codes = {status.partition("|")[0] for status in got}
        for status in ("SUCCESS", *errors_of(call)):
            items[Item("status", call, status)] = status in (got if "|" in status else codes)
    return items, by


# --- measuring ----------------------------------------------------------------------------


def _row(design: str, scenario: str, options: Options) -> tuple[Arcs, CheckResult, list[str]]:
    """One row under measurement, from the making of the TD to its end."""
    cov = _coverage(concurrency=["greenlet"])
    OUTCOMES.clear()
    cov.start()
    try:
        result = check(design, scenario, options=options)
    finally:
        cov.stop()
    data = cov.get_data()
    result.counterexample = None  # large, and not asked for here
    arcs = {name: list(data.arcs(name) or ()) for name in data.measured_files()}
    return arcs, result, [*result.reached, *OUTCOMES.values()]


def measure(
    rows: Sequence[tuple[str, str]], *, max_executions: int = 0, jobs: int = 1, progress: Any = None
) -> Measured:
    """Run ``rows`` and see what they reach.

    :param max_executions: per row; 0: the scenario's own bound, if any.
    :param progress: called with each row's `CheckResult`.
    :raises CoverageMissing: before anything runs.
    """
    measured = Measured(list(rows), max_executions)
    _coverage()
    options = Options(max_executions=max_executions)
    arcs: dict[str, set[tuple[int, int]]] = {}
    reached: set[str] = set()
    for row_arcs, result, notes in _run(rows, options, jobs):
        measured.executions += result.executions
        measured.bounded += bool(result.bounds_hit)
        reached.update(notes)
        for name, pairs in row_arcs.items():
            arcs.setdefault(name, set()).update(pairs)
        if progress is not None:
            progress(result)
    measured.items = branch_items({name: sorted(pairs) for name, pairs in arcs.items()})
    statuses, measured.by = status_items(reached)
    measured.items.update(statuses)
    return measured


def _run(
    rows: Sequence[tuple[str, str]], options: Options, jobs: int
) -> Iterator[tuple[Arcs, CheckResult, list[str]]]:
    if jobs <= 1:
        for design, scenario in rows:
            yield _row(design, scenario, options)
        return
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(_row, design, scenario, options) for design, scenario in rows]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
