# SPDX-License-Identifier: GPL-2.0-only
"""Every report against a reviewed file."""

from __future__ import annotations

import pytest
from report_golden import check_golden
from report_samples import SCENARIO, Rule, counterexample, replayed, results

from septum.designs import Design, Toggle
from septum.machine import Event, Finding
from septum.report.compare import compare_table, contrasts, same_schedule
from septum.report.counterexample import counterexample_text
from septum.report.layout import WIDTH
from septum.report.listing import (
    design_list,
    monitor_list,
    monitor_text,
    scenario_list,
    scenario_text,
)
from septum.report.verdicts import difference_lines, summary_line, verdict_table
from septum.scenarios.result import Replay

FILES = {("v7.3+reread-sptep", "two-faults"): "out/v7.3-two-faults-I1.json"}


def narrow(text: str) -> str:
    assert all(len(line) <= WIDTH for line in text.splitlines())
    return text


def text(**options: object) -> str:
    return counterexample_text(
        counterexample(),
        replayed(),
        story=SCENARIO,
        rule=Rule,
        path="out/v7.3-two-faults-I1.json",
        doc="the merged protocol, but the SPTE is read again",
        **options,  # type: ignore[arg-type]
    )


def test_counterexample() -> None:
    check_golden("counterexample", narrow(text()))


def test_counterexample_in_full() -> None:
    check_golden("counterexample-all", narrow(text(budget=-1)))


def test_counterexample_with_states() -> None:
    check_golden("counterexample-states", narrow(text(states=True)))


def test_counterexample_of_an_unknown_scenario() -> None:
    told = narrow(counterexample_text(counterexample(), replayed()))
    assert "question" not in told and "no such rule in this version" in told


def test_wide_names_source_lines() -> None:
    assert "report/report_samples.py:" in text(width=130, sources=True)


def test_verdict_table() -> None:
    check_golden("verdicts", narrow(verdict_table(results(), files=FILES)))


def test_verdict_table_of_one_design() -> None:
    one = [r for r in results() if r.design == "v7.3"]
    check_golden("verdicts-one-design", narrow(verdict_table(one)))


def test_wide_verdict_table() -> None:
    check_golden("verdicts-wide", verdict_table(results(), files=FILES, wide=True))


def test_summary_and_differences() -> None:
    lines = [summary_line(results(), 130.0), *difference_lines([], "docs/verdicts.toml")]
    lines += difference_lines(["v7.3 in zap: bounded, reviewed: holds"], "docs/verdicts.toml")
    check_golden("summary", narrow("\n".join(lines) + "\n"))


@pytest.mark.parametrize("rule", ["BUG:tdx_sept_remove_private_spte", "BUG:tdh"])
def test_a_rule_is_named_in_full_or_below_the_row(rule: str) -> None:
    rows = results()
    rows[3].design = "rfc-v5-08+nonpresent"
    rows[3].finding = Finding(rule, "it broke", 9, 0)
    rows[3].other_findings = []
    lines = narrow(verdict_table(rows)).splitlines()
    (at,) = (n for n, line in enumerate(lines) if "rfc-v5-08+nonpresent  violated" in line)
    assert ".." not in lines[at]
    assert (rule in lines[at]) == (len(rule) == 7)
    assert (lines[at + 1].strip() == f"finding: {rule}") == (len(rule) > 7)
    told = narrow(compare_table(rows * 2, width=50))
    assert "violated BUG:.." not in told and rule in " ".join(told.split())


def test_compare_table() -> None:
    check_golden("compare", narrow(compare_table(results())))


def test_same_schedule() -> None:
    left, right = replayed(), replayed()
    right.findings = []
    changed = right.events[8]
    assert changed.op == "cmpxchg-failed"
    changed.op = "read"
    right.events.insert(9, Event(1, 5, "rcu_read_lock", "rcu"))
    told = same_schedule(
        ("v7.3+reread-sptep", left), ("v7.3", right), rule="I1", upto=10, scenario="two-faults"
    )
    check_golden("same-schedule", narrow(told))
    broken = [line for line in told.splitlines() if "! read sp0[0]" in line]
    assert [line.count("I1") for line in broken] == [1]  # only where the rule breaks


def test_contrasts_pairs_a_failing_row_with_a_holding_one() -> None:
    pairs = [(bad.design, good.design) for bad, good in contrasts(results())]
    assert pairs == [("v7.3+reread-sptep", "v7.3")]


def test_lists() -> None:
    base = Design(
        "v7.3", None, {"handle_removed_pt": print}, frozenset(), "``v7.3``: merged. More."
    )
    later = Design("next", base, {"tdp_mmu_set_spte": print}, frozenset(), "A later one")
    toggle = Toggle("shared-param", dict, "Pass shared to the hook.")
    parts = [
        design_list([base, later], [(toggle, ["v7.3"])]),
        scenario_list([SCENARIO]),
        scenario_text(SCENARIO),
        monitor_list([Rule]),
        monitor_text(Rule),
    ]
    check_golden("lists", narrow("\n".join(parts)))


@pytest.mark.parametrize("tasks", [1, 3, 4, 6])
def test_any_number_of_tasks(tasks: int) -> None:
    replay = replayed()
    names = [f"vcpu{n}" for n in range(tasks)]
    for n, event in enumerate(replay.events):
        event.task = n % tasks
    spread = Replay(replay.events, names, replay.findings)
    check_golden(f"tasks-{tasks}", narrow(counterexample_text(counterexample(), spread)))
