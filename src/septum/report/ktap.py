# SPDX-License-Identifier: GPL-2.0-only
"""Verdicts as KTAP, the format of kernel test robots (Documentation/dev-tools/ktap.rst).

One test per scenario, one subtest per design.  A robot must not take a search that did
not finish for a pass: ``bounded``, ``sampled`` and ``vacuous`` rows are ``not ok``, with
the reason as a diagnostic line; only ``n/a`` is skipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from septum.report.layout import clean
from septum.report.verdicts import HYPOTHETICAL, how_earned
from septum.scenarios.result import CheckResult

__all__ = ["ktap"]


def ktap(results: Sequence[CheckResult], files: Mapping[tuple[str, str], str] | None = None) -> str:
    """The whole document.

    :param files: saved counterexample of a (design, scenario).
    """
    scenarios = list(dict.fromkeys(r.scenario for r in results))
    lines = ["KTAP version 1", f"1..{len(scenarios)}"]
    for number, scenario in enumerate(scenarios, 1):
        rows = [r for r in results if r.scenario == scenario]
        lines += ["  KTAP version 1", f"  # Subtest: {_name(scenario)}", f"  1..{len(rows)}"]
        for n, row in enumerate(rows, 1):
            lines += [f"  {line}" for line in _row(n, row, files or {})]
        status = "ok" if all(_passed(r) for r in rows) else "not ok"
        skipped = " # SKIP no design can run it" if all(r.verdict == "n/a" for r in rows) else ""
        lines.append(f"{status} {number} {_name(scenario)}{skipped}")
    return "\n".join(lines) + "\n"


def _row(number: int, r: CheckResult, files: Mapping[tuple[str, str], str]) -> list[str]:
    told = [f"# {_name(r.design)}: {r.verdict}, {how_earned(r)}, memory model {r.memory_model}"]
    if r.hypothetical:
        told.append(f"# {HYPOTHETICAL}")
    if r.finding is not None:
        told.append(f"# {clean(r.finding.rule)}: {clean(r.finding.message)}")
    if r.missing and not r.note:
        told.append(f"# never occurred: {clean('; '.join(r.missing))}")
    if r.bounds_hit:
        told.append(f"# stopped by: {clean('; '.join(r.bounds_hit))}")
    if r.note:
        told.append(f"# {clean(r.note)}")
    if (r.design, r.scenario) in files:
        told.append(f"# counterexample: {clean(files[r.design, r.scenario])}")
    skipped = f" # SKIP {clean(r.note) or 'n/a'}" if r.verdict == "n/a" else ""
    status = "ok" if _passed(r) else "not ok"
    return [*told, f"{status} {number} {_name(r.design)}{skipped}"]


def _passed(r: CheckResult) -> bool:
    return r.verdict in ("holds", "n/a")


def _name(text: str) -> str:
    """A test's name: ``#`` would begin a directive."""
    return clean(text).replace("#", "_")
