# SPDX-License-Identifier: GPL-2.0-only
"""Reviewed expectations: docs/verdicts.toml.

One ``[[row]]`` per design and scenario: ``verdict``, ``finding`` (the id, for violated
rows), ``also`` (every other rule found) and ``reason``, one line that cites the facts or
docs/findings.md.  A row without a reason is refused.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from septum.scenarios.result import VERDICTS, CheckResult

__all__ = ["BadExpectations", "Expected", "compare", "load"]

_FIELDS = {"design", "scenario", "verdict", "finding", "also", "reason"}


class BadExpectations(ValueError):
    """An expectations file that cannot be used: what, where, how to mend it."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a row was reviewed to be."""

    design: str
    scenario: str
    verdict: str
    finding: str
    also: tuple[str, ...]
    reason: str


def load(path: Path) -> dict[tuple[str, str], Expected]:
    """Read the file.

    :raises BadExpectations: what is wrong and where.
    """
    try:
        data = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise BadExpectations(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadExpectations(f"{path}: not TOML: {error}") from None
    rows: dict[tuple[str, str], Expected] = {}
    for n, row in enumerate(data.get("row", []), 1):
        expected = _row(f"{path}: row {n}", row)
        key = (expected.design, expected.scenario)
        if key in rows:
            raise BadExpectations(f"{path}: row {n}: {key[0]} in {key[1]} occurs twice")
        rows[key] = expected
    if not rows:
        raise BadExpectations(f"{path}: no [[row]] in it")
    return rows


def _row(where: str, row: Any) -> Expected:
    if not isinstance(row, dict):
        raise BadExpectations(f"{where}: a table was expected")
    for field in ("design", "scenario", "verdict", "reason"):
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise BadExpectations(f"{where}: {field!r} is missing or empty")
    unknown = set(row) - _FIELDS
    if unknown:
        raise BadExpectations(f"{where}: unknown field {sorted(unknown)[0]!r}")
    if row["verdict"] not in VERDICTS:
        raise BadExpectations(f"{where}: verdict {row['verdict']!r} is none of {VERDICTS}")
    if row["verdict"] == "violated" and not row.get("finding"):
        raise BadExpectations(f"{where}: a violated row must name its finding")
    return Expected(
        row["design"],
        row["scenario"],
        row["verdict"],
        row.get("finding", ""),
        tuple(row.get("also", ())),
        row["reason"],
    )


def compare(results: Iterable[CheckResult], expected: dict[tuple[str, str], Expected]) -> list[str]:
    """Every difference, one line each; empty if all is as reviewed."""
    out: list[str] = []
    seen: set[tuple[str, str]] = set()
    for result in results:
        key = (result.design, result.scenario)
        seen.add(key)
        row = expected.get(key)
        where = f"{key[0]} in {key[1]}"
        if row is None:
            out.append(f"{where}: {result.verdict}, but no expectation was reviewed")
            continue
        found = result.finding.rule if result.finding else ""
        if result.verdict != row.verdict:
            out.append(f"{where}: {result.verdict} {found}".rstrip() + f", reviewed: {row.verdict}")
        elif found != row.finding:
            out.append(f"{where}: finding {found}, reviewed: {row.finding or 'none'}")
        elif tuple(result.other_findings) != row.also:
            out.append(
                f"{where}: also {', '.join(result.other_findings) or 'nothing'}, "
                f"reviewed: {', '.join(row.also) or 'nothing'}"
            )
        elif not result.complete and row.verdict == "holds":
            out.append(f"{where}: holds, but the search was not complete")
    for key in expected:
        if key not in seen:
            out.append(f"{key[0]} in {key[1]}: reviewed, but not checked")
    return out
