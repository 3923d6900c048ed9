# SPDX-License-Identifier: GPL-2.0-only
"""The scenarios as data, and that what they are run with does not decide the verdict."""

from __future__ import annotations

from typing import Any

import pytest

from septum.explore import Options, frontier, units
from septum.machine import MachineError
from septum.scenarios import SCENARIOS, UnknownScenario, find, rows
from septum.scenarios.build import BadParameter, build
from septum.scenarios.check import check, default_rows
from septum.scenarios.ops import unknown

EASY = ("fault-fault", "fault-neighbours", "fault-punch", "install-accept", "subtree")


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios_use_only_known_operations(name: str) -> None:
    scenario = find(name)
    assert len(scenario.tasks) >= 2 and scenario.must_occur and scenario.question
    for task in scenario.tasks:
        for what in task.ops:
            assert not unknown(what), what.text


def test_unknown_names_are_met_with_the_nearest() -> None:
    with pytest.raises(UnknownScenario, match="fault-fault"):
        find("fualt-fault")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"bitz": 2}, "unknown parameter 'bitz'"),
        ({"bits": "two"}, "an integer was expected"),
        ({"bits": 12}, "bits per level must be 1 to 9"),
        ({"profile": "9.9"}, "no profile '9.9'"),
    ],
)
def test_bad_parameters(params: dict[str, object], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        build("v7.3", "fault-fault", params)


@pytest.mark.parametrize("design", ["v7.3", "feb06"])
@pytest.mark.parametrize("name", ["fault-fault", "fault-punch", "install-accept"])
def test_two_and_nine_bits_give_the_same_verdict(design: str, name: str) -> None:
    """One Geometry: hardware's tables and small ones must not differ in what is found."""
    small = check(design, name, params={"bits": 2, "levels": 3, "epilogue": 0})
    large = check(design, name, params={"bits": 9, "levels": 4, "epilogue": 0})
    assert (small.verdict, small.finding and small.finding.rule) == (
        large.verdict,
        large.finding and large.finding.rule,
    )
    assert small.complete and large.complete


@pytest.mark.parametrize(
    ("design", "name"),
    [("v7.3", "install-accept"), ("feb06", "install-accept"), ("v7.3", "install-zero-step")],
)
def test_every_lock_operation_a_point_of_its_own(design: str, name: str) -> None:
    """`fine` splits the module's steps; what is found stays the same."""
    coarse = check(design, name)
    fine = check(design, name, params={"fine": 1})
    assert fine.executions >= coarse.executions
    assert (coarse.verdict, coarse.finding and coarse.finding.rule) == (
        fine.verdict,
        fine.finding and fine.finding.rule,
    )


@pytest.mark.parametrize("name", EASY)
def test_strategies_agree_on_a_clean_design(name: str) -> None:
    for strategy in ("optimal", "random", "pct"):
        result = check("v7.3", name, options=Options(strategy, max_executions=60))
        assert result.finding is None


def test_a_row_in_which_nothing_interesting_can_happen_is_vacuous() -> None:
    """Without the guest's ACCEPT in the way, AUG never meets BUSY."""
    from dataclasses import replace

    scenario = find("install-accept")
    alone = replace(scenario, tasks=(scenario.tasks[0], replace(scenario.tasks[1], ops=())))
    result = check("v7.3", alone)
    assert result.verdict == "vacuous"
    assert result.missing == list(scenario.must_occur)


def test_more_retries_find_the_same() -> None:
    folded = check("v7.3", "install-zero-step")
    repeated = check("v7.3", "install-zero-step", options=Options(retries=1))
    assert folded.retries_folded and folded.verdict == repeated.verdict == "holds"
    assert repeated.executions >= folded.executions


def test_a_scenario_that_needs_more_than_the_design_can_is_not_applicable() -> None:
    from dataclasses import replace

    scenario = replace(find("fault-fault"), needs=frozenset({"zap-shared"}))
    assert check("v7.3", scenario).verdict == "n/a"
    assert check("v7.3", scenario, force=True).verdict == "holds"


def test_the_default_suite_covers_every_design_of_the_mails() -> None:
    rows = default_rows()
    assert len(set(rows)) == len(rows)
    designs = {design for design, _ in rows}
    assert {"v6.16", "rfc-v5-08", "rfc-v5", "feb06", "feb10-sp", "v7.3"} <= designs


def test_what_was_found_before_septum_failed_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third unit of a row that breaks I4 ends with an error of septum's own."""
    monkeypatch.setattr(frontier, "UNIT", units.Size(40, 10**9))
    explored = 0

    def fails(*args: Any, **kwargs: Any) -> units.UnitResult:
        nonlocal explored
        explored += 1
        if explored > 2:
            raise MachineError("an execution ended otherwise than before")
        return units.explore_unit(*args, **kwargs)

    monkeypatch.setattr(rows, "explore_unit", fails)
    result = check("feb06", "install-accept")
    assert result.verdict == "error" and result.executions > 40
    assert result.other_findings == ["I20", "I4"]
    told = f"(until then {result.executions} executions, which broke I20, I4)"
    assert result.note.endswith(told)
