# SPDX-License-Identifier: GPL-2.0-only
"""KVM under x86-TSO: verdicts and counterexamples say so, and are replayed so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from septum.explore import Options
from septum.report.counterexample import counterexample_text, reproduced
from septum.scenarios.check import check
from septum.scenarios.counterexample import BadCounterexample, load, replay, save
from septum.scenarios.near import search_near

TSO = Options(memory_model="TSO")


def test_a_correct_design_holds_and_stores_are_late() -> None:
    row = check("v7.3", "fault-fault", options=TSO)
    sc = check("v7.3", "fault-fault")
    assert (row.verdict, row.memory_model, sc.memory_model) == ("holds", "TSO", "SC")
    assert row.complete
    assert row.executions > sc.executions
    assert set(sc.reached) <= set(row.reached)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    row = check(
        "feb06+reread-sptep", "fault-fault", options=Options(first=True, memory_model="TSO")
    )
    assert row.counterexample is not None
    path = tmp_path_factory.mktemp("ce") / "tso.json"
    save(row.counterexample, path)
    return path


def test_a_counterexample_is_replayed_under_its_memory_model(saved: Path) -> None:
    ce = load(saved)
    assert ce.memory_model == "TSO"
    again = replay(ce)
    assert reproduced(ce, again)
    assert again.task_names == ["vcpu0", "vcpu1", "vcpu0 (buffer)", "vcpu1 (buffer)"]
    text = counterexample_text(ce, again)
    assert "memory model TSO" in text
    assert "(buffer)" not in text
    assert any(line.lstrip(" !*0123456789").startswith("flush sp") for line in text.splitlines())
    broken = next(f for f in again.findings if f.rule == ce.finding.rule)
    assert again.events[broken.step].op == "flush"
    assert broken.task == again.owner(again.events[broken.step].task)


def test_a_search_near_it_keeps_the_memory_model(saved: Path) -> None:
    row = search_near(load(saved), Options(max_executions=5))
    assert (row.verdict, row.memory_model) == ("violated", "TSO")


def test_an_unknown_memory_model_in_a_file_is_refused(saved: Path, tmp_path: Path) -> None:
    data = json.loads(saved.read_text())
    data["memory_model"] = "ARMv8"
    path = tmp_path / "arm.json"
    path.write_text(json.dumps(data))
    with pytest.raises(BadCounterexample, match="memory model 'ARMv8'; this septum knows SC and"):
        load(path)
