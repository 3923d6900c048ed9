# SPDX-License-Identifier: GPL-2.0-only
"""JSON follows docs/schemas, and says the same as the text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import ValidationError
from report_samples import counterexample, results
from report_schemas import validate

from septum.report.documents import (
    check_document,
    compare_document,
    dump,
    replay_document,
    replay_status,
)
from septum.report.verdicts import exit_code
from septum.scenarios.counterexample import save
from septum.scenarios.result import CheckResult
from septum.trace import Finding, ReplayResult

FILES = {("v7.3+reread-sptep", "two-faults"): "out/ce.json"}


@pytest.mark.parametrize("differences", [None, [], ["v7.3 in zap: bounded"]])
def test_check_document(differences: list[str] | None) -> None:
    doc = json.loads(
        dump(check_document(results(), seconds=1.5, files=FILES, differences=differences))
    )
    validate("check", doc)
    bad = doc["results"][3]
    assert bad["finding"]["id"] == "I1"
    assert bad["counterexample"] == "out/ce.json"
    assert doc["results"][0]["finding"] is None
    assert doc["summary"]["verdicts"]["violated"] == 1
    assert doc["summary"]["status"] == 1
    assert doc["summary"]["differences"] == differences


def test_compare_document() -> None:
    doc = compare_document(results(), seconds=1.5, files=FILES)
    validate("check", doc)
    assert doc["summary"]["differing"] == ["two-faults", "zap", "split"]


def test_a_missing_key_is_noticed() -> None:
    doc = check_document(results(), seconds=1.5)
    del doc["results"][0]["retries_folded"]
    with pytest.raises(ValidationError):
        validate("check", doc)


def test_saved_counterexample(tmp_path: Path) -> None:
    save(counterexample(), tmp_path / "ce.json")
    validate("counterexample", json.loads((tmp_path / "ce.json").read_text()))


def test_replay_document() -> None:
    whole = ReplayResult("a.trace", events={"kvm_tdp_mmu_spte_changed": 3})
    broken = ReplayResult("b.trace", partial=True, findings=[Finding("T1", 7, "a line is wrong")])
    doc = json.loads(dump(replay_document([whole, broken])))
    validate("replay", doc)
    assert doc["summary"]["events"] == 3
    assert doc["results"][1]["findings"][0]["line"] == 7


@pytest.mark.parametrize(
    ("cut", "findings", "status"),
    [(None, 0, 0), ("it ends early", 0, 3), ("it ends early", 1, 1), (None, 1, 1)],
)
def test_replay_status(cut: str | None, findings: int, status: int) -> None:
    """Lost events and unreadable lines (partial) are normal: they do not count."""
    found = [Finding("T1", 7, "a line is wrong")] * findings
    assert replay_status([ReplayResult("a", partial=True, cut=cut, findings=found)]) == status


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        (["holds"], 0),
        (["holds", "n/a"], 0),
        (["n/a"], 3),
        ([], 3),
        (["holds", "bounded"], 3),
        (["sampled"], 3),
        (["vacuous"], 3),
        (["error"], 3),
        (["violated", "vacuous"], 1),
    ],
)
def test_exit_code(verdicts: list[str], status: int) -> None:
    assert exit_code([CheckResult("d", "s", {}, verdict) for verdict in verdicts]) == status
