# SPDX-License-Identifier: GPL-2.0-only
"""Bad input: one line that says what, where and what to do; never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_rig import made_up, one_line_error, septum


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["check", "-d", "v7.4"], ["v7.4", "v7.3", "septum designs"]),
        (["check", "-d", "v7.3+shard-param"], ["shard-param"]),
        (["check", "-d", "v7.3", "-s", "falt-fault"], ["falt-fault", "fault-fault"]),
        (["check", "-d", "v7.3", "-s", "fault-fault", "-p", "bots=2"], ["bots", "bits"]),
        (["check", "-d", "v7.3", "-s", "fault-fault", "-p", "bits=x"], ["bits", "x"]),
        (["check", "-p", "bits"], ["key=value"]),
        (["check", "--budget", "3x"], ["3x", "10m"]),
        (["check", "--strategy", "dfs"], ["dfs", "dpor"]),
        (["check", "--nonsense"], ["--nonsense", "septum check --help"]),
        (["check", "nothere.py"], ["nothere.py"]),
        (["check", "--expect", "nothere.toml"], ["nothere.toml"]),
        (["compare", "v7.3"], ["two designs"]),
        (["show", "nothere.json"], ["nothere.json"]),
        (["chek"], ["chek", "check", "septum --help"]),
        (["monitors", "I99"], ["I99"]),
        (["scenarios", "falt-fault"], ["fault-fault"]),
        (["designs", "diff", "v7.3", "v7.4"], ["v7.4"]),
        (["replay", "nothere.trace"], ["nothere.trace"]),
    ],
)
def test_one_line(args: list[str], parts: list[str]) -> None:
    one_line_error(septum(*args), *parts)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "1:1"),
        ('{"format": 1, "septum"', "1:"),
        ("[]", "object"),
        ('{"format": 1}', "septum"),
        ("\x00\x01", "1:1"),
    ],
)
def test_a_file_that_is_no_counterexample(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "ce.json"
    path.write_text(text)
    one_line_error(septum("show", path), str(path), part)
    one_line_error(septum("check", "--from", path), str(path), part)


def test_a_design_file_that_does_not_import(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def f(:\n")
    one_line_error(septum("check", path), str(path), "SyntaxError")


def test_expectations_without_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, lambda design, scenario: "holds")
    path = tmp_path / "verdicts.toml"
    path.write_text('[[row]]\ndesign = "v7.3"\nscenario = "subtree"\nverdict = "holds"\n')
    result = septum("check", "-d", "v7.3", "-s", "subtree", "--expect", path)
    assert result.exit_code == 2
    assert "reason" in result.stderr


def test_a_fault_of_septum_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(design: str, scenario: str) -> str:
        raise RuntimeError("the table is flat")

    made_up(monkeypatch, broken)
    result = septum("check", "-d", "v7.3", "-s", "subtree")
    one_line_error(result, "internal error", "the table is flat", "SEPTUM_DEBUG")


def test_from_excludes_other_rows(tmp_path: Path) -> None:
    path = tmp_path / "ce.json"
    path.write_text("{}")
    one_line_error(septum("check", "--from", path, "-d", "v7.3"), "--from")
