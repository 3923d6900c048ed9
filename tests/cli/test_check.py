# SPDX-License-Identifier: GPL-2.0-only
"""``septum check`` and ``septum compare``: rows, exit status, output, interruption."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_rig import made_up, septum
from report_schemas import validate

from septum.cli.running import Outcome, go_on, select_rows
from septum.machine import Finding
from septum.scenarios.check import REREAD, REREAD_SCENARIOS, default_rows
from septum.scenarios.expect import load
from septum.scenarios.result import CheckResult

VERDICTS = Path(__file__).parents[2] / "docs" / "verdicts.toml"
ROW = ("-d", "v7.3", "-s", "fault-fault")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("verdict", "status"),
    [("holds", 0), ("violated I1", 1), ("bounded", 3), ("vacuous", 3), ("n/a", 3), ("error", 3)],
)
def test_exit_status(monkeypatch: pytest.MonkeyPatch, verdict: str, status: int) -> None:
    made_up(monkeypatch, lambda design, scenario: verdict)
    result = septum("check", *ROW)
    assert result.exit_code == status
    assert verdict.split()[0] in result.stdout
    assert "1 row: " in result.stdout
    assert result.stderr.startswith("[1/1] v7.3 / fault-fault: ")


def test_without_names_the_default_suite_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = made_up(monkeypatch, lambda design, scenario: "holds")
    assert septum("check").exit_code == 0
    assert calls[0]["rows"] == default_rows()


def test_a_scenario_alone_is_checked_as_in_the_default_suite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = made_up(monkeypatch, lambda design, scenario: "holds")
    septum("check", "-s", "fault-fault")
    assert calls[0]["rows"] == [row for row in default_rows() if row[1] == "fault-fault"]


def test_the_reviewed_verdicts_are_those_of_the_default_suite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If every row gets its reviewed verdict, nothing is missing and nothing is left over."""
    reviewed = load(VERDICTS)

    def check_many(
        rows: Sequence[tuple[str, str]], **options: Any
    ) -> Iterator[tuple[int, CheckResult]]:
        for n, row in enumerate(rows):
            as_reviewed = reviewed[row]
            finding = Finding(as_reviewed.finding, "", 0, 0) if as_reviewed.finding else None
            others = list(as_reviewed.also)
            verdict = as_reviewed.verdict
            yield n, CheckResult(*row, {}, verdict, True, finding, other_findings=others)

    monkeypatch.setattr("septum.cli.running.check_many", check_many)
    result = septum("check", "--expect", VERDICTS)
    assert result.exit_code == 0, result.output
    assert "Every row is as reviewed" in result.stdout


def test_designs_as_arguments_and_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = made_up(monkeypatch, lambda design, scenario: "holds")
    mine = tmp_path / "mine.py"
    mine.write_text("def tdp_mmu_set_spte_atomic(kvm, iter, new_spte):\n    return 0\n")
    septum("check", mine, "-d", "v7.3", "-s", "fault-fault", "-s", "fault-fault")
    assert calls[0]["rows"] == [(str(mine), "fault-fault"), ("v7.3", "fault-fault")]


def test_search_options_reach_the_explorer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = made_up(monkeypatch, lambda design, scenario: "holds")
    septum(
        *("check", *ROW, "--strategy", "pct", "--retries", 2, "--max-executions", 9),
        *("--budget", "10m", "--first", "--force", "--seed", 4, "-p", "bits=2", "-p", "profile=x"),
    )
    options = calls[0]["options"]
    assert (options.strategy, options.retries, options.max_executions) == ("pct", 2, 9)
    assert (options.budget_s, options.first, options.seed) == (600.0, True, 4)
    assert calls[0]["params"] == {"bits": 2, "profile": "x"}
    assert calls[0]["force"] is True


def test_json(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, lambda design, scenario: "violated I1")
    result = septum("check", *ROW, "--format", "json")
    doc = json.loads(result.stdout)
    validate("check", doc)
    assert result.exit_code == doc["summary"]["status"] == 1
    assert doc["results"][0]["finding"]["id"] == "I1"


EXPECTED = """
[[row]]
design = "v7.3"
scenario = "fault-fault"
verdict = "{verdict}"
reason = "facts 4.1"

[[row]]
design = "v7.3"
scenario = "subtree"
verdict = "holds"
reason = "facts 4.4"
"""


@pytest.mark.parametrize(("verdict", "status"), [("holds", 0), ("bounded", 1)])
def test_expect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verdict: str, status: int) -> None:
    made_up(monkeypatch, lambda design, scenario: "holds")
    path = tmp_path / "verdicts.toml"
    path.write_text(EXPECTED.format(verdict=verdict))
    result = septum("check", *ROW, "--expect", path)
    assert result.exit_code == status
    told = "Every row is as reviewed" if status == 0 else "reviewed: bounded"
    assert told in result.stdout


def test_ctrl_c_prints_what_is_finished_and_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def check_many(
        rows: Sequence[tuple[str, str]], **options: Any
    ) -> Iterator[tuple[int, CheckResult]]:
        yield 0, CheckResult(*rows[0], {}, "holds", complete=True, executions=7)
        raise KeyboardInterrupt

    monkeypatch.setattr("septum.cli.running.check_many", check_many)
    result = septum("check", "-d", "v7.3", "-s", "fault-fault", "-s", "subtree")
    assert result.exit_code == 130
    assert "complete: 7 executions" in result.stdout
    assert "septum check -d v7.3 -s subtree" in result.stderr
    assert "Traceback" not in result.output


def test_what_is_left_of_the_default_suite_is_named_exactly() -> None:
    rows = default_rows()
    assert go_on(Outcome([], 0.0, rows))[1:] == ["  septum check"]
    left = rows[rows.index(("v7.3", "zap-running")) :]
    first, second, *_ = " ".join("\n".join(go_on(Outcome([], 0.0, left))[1:]).split("\\\n")).split(
        "  septum check "
    )[1:]
    assert first.split()[:4] == ["-d", "v7.3", "-s", "zap-running"]
    assert second.split() == [
        *("-d", REREAD),
        *(word for name in REREAD_SCENARIOS for word in ("-s", name)),
    ]
    everywhere = select_rows(["v7.3"], [])
    assert go_on(Outcome([], 0.0, everywhere))[1:] == ["  septum check -d v7.3"]


def test_no_colour_where_output_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, lambda design, scenario: "violated I1")
    assert "\x1b" not in septum("check", *ROW).output


def test_compare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def tdp_mmu_set_spte_atomic(kvm, iter, new_spte):\n    return 0\n")
    made_up(monkeypatch, lambda design, scenario: "holds" if design == "v7.3" else "violated I1")
    result = septum("compare", "v7.3", mine, "-s", "fault-fault", "-s", "subtree")
    assert result.exit_code == 1
    assert "* 2 rows in which the designs differ" in result.stdout
    doc = json.loads(septum("compare", "v7.3", mine, "--format", "json").stdout)
    validate("check", doc)
    assert "fault-fault" in doc["summary"]["differing"]


def test_all_findings_gives_a_counterexample_per_rule(tmp_path: Path) -> None:
    row = ("check", "feb06+reread-sptep", "-s", "fault-neighbours")
    result = septum(*row, "--all-findings", "--save", tmp_path)
    assert result.exit_code == 1
    saved = sorted(path.name.rsplit("-", 1)[1] for path in tmp_path.glob("*.json"))
    assert saved == ["I1.json", "I20.json", "I4.json"]
    for rule in ("I1", "I4", "I20"):
        assert f"feb06+reread-sptep breaks {rule} in scenario" in result.stdout
    for path in tmp_path.glob("*.json"):
        assert septum("show", path).exit_code == 0
    assert septum(*row, "--all-findings", "--first").exit_code == 2


@pytest.mark.parametrize("command", ["check", "compare"])
def test_json_names_every_counterexample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rows = (command, "feb06+reread-sptep", "v7.3", "-s", "fault-neighbours", "--format", "json")
    doc = json.loads(septum(*rows, "--all-findings").stdout)
    validate("check", doc)
    broken, good = doc["results"]
    others = broken["other_counterexamples"]
    assert [other["finding"]["id"] for other in others] == ["I20", "I4"]
    assert good["other_counterexamples"] == []
    for other in (broken, *others):
        saved = json.loads(Path(other["counterexample"]).read_text())
        assert saved["finding"]["id"] == other["finding"]["id"]
    assert json.loads(septum(*rows).stdout)["results"][0]["other_counterexamples"] == []


SAME_RULE_TWICE = """
from septum.explore import Protocol, Tasks
from septum.machine import Word


def build(m):
    x = Word(m, "x", 0)

    def before():
        if x.read() == 0:
            m.report("SEEN", "0")

    def after():
        if x.read() == 1:
            m.report("SEEN", "1")

    return Tasks({"a": before, "b": after, "w": lambda: x.write(1)})


PROTOCOL = Protocol("twice", build)
"""


def test_all_findings_are_told_apart_within_a_rule(tmp_path: Path) -> None:
    """The same ones, in the same order, whoever explored what."""
    protocol = tmp_path / "twice.py"
    protocol.write_text(SAME_RULE_TWICE)
    texts = []
    for jobs in ("1", "2"):
        saved = tmp_path / jobs
        septum("check", protocol, "--all-findings", "--save", saved, "-j", jobs)
        names = sorted(path.name[-7:] for path in saved.glob("*.json"))
        assert names == ["-2.json", "EN.json"]
        texts.append({path.name: path.read_text() for path in saved.glob("*.json")})
    assert texts[0] == texts[1]
