# SPDX-License-Identifier: GPL-2.0-only
"""Reviewed expectations: every row has a reason, every difference is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from septum.machine import Finding
from septum.scenarios.check import default_rows
from septum.scenarios.expect import BadExpectations, compare, load
from septum.scenarios.result import CheckResult

GOOD = """
[[row]]
design = "feb06"
scenario = "install-accept"
verdict = "violated"
finding = "I4"
reason = "docs/findings.md F1"
"""


def _write(tmp: Path, text: str) -> Path:
    path = tmp / "verdicts.toml"
    path.write_text(text)
    return path


def _row(verdict: str, rule: str = "", also: tuple[str, ...] = ()) -> CheckResult:
    finding = Finding(rule, "", 0, 0) if rule else None
    return CheckResult(
        "feb06", "install-accept", {}, verdict, True, finding, other_findings=list(also)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no \[\[row\]\]"),
        ("[[row", "not TOML"),
        (GOOD.replace('reason = "docs/findings.md F1"', ""), "'reason' is missing"),
        (GOOD.replace('"violated"', '"fine"'), "verdict 'fine' is none of"),
        (GOOD.replace('finding = "I4"', ""), "must name its finding"),
        (GOOD + "colour = 1", "unknown field 'colour'"),
        (GOOD + GOOD, "occurs twice"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadExpectations, match=message):
        load(_write(tmp_path, text))


@pytest.mark.parametrize(
    ("result", "difference"),
    [
        (_row("violated", "I4"), None),
        (_row("holds"), "holds, reviewed: violated"),
        (_row("violated", "I1"), "finding I1, reviewed: I4"),
        (_row("violated", "I4", ("I2",)), "also I2, reviewed: nothing"),
    ],
)
def test_differences(tmp_path: Path, result: CheckResult, difference: str | None) -> None:
    out = compare([result], load(_write(tmp_path, GOOD)))
    assert len(out) == (difference is not None)
    assert difference is None or difference in out[0]


def test_rows_nobody_reviewed_or_checked(tmp_path: Path) -> None:
    expected = load(_write(tmp_path, GOOD))
    other = CheckResult("v7.3", "fault-fault", {}, "holds", True)
    out = compare([other], expected)
    assert any("no expectation was reviewed" in line for line in out)
    assert any("reviewed, but not checked" in line for line in out)


def test_the_reviewed_file_covers_exactly_the_default_suite() -> None:
    path = Path(__file__).parents[2] / "docs" / "verdicts.toml"
    assert set(load(path)) == set(default_rows())
