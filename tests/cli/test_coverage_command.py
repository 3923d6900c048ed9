# SPDX-License-Identifier: GPL-2.0-only
"""septum coverage: text, JSON, exit status, bad input."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from cli_rig import one_line_error, septum
from report_schemas import validate

ROW = ("v7.3", "-s", "fault-fault", "--max-executions", "10")


def test_what_is_not_reached_is_listed_and_makes_the_status_3(tmp_path: Path) -> None:
    reasons = tmp_path / "reasons.toml"
    reasons.write_text(
        '[[branch]]\nfunction = "designs.v6_16.*"\nbranch = "never called"\n'
        'reason = "not run here"\n'
        '[[status]]\ncall = "TDH.MNG.CREATE"\nstatus = "SUCCESS"\nreason = "wrong"\n'
    )
    result = septum("coverage", *ROW, "--reasons", reasons)
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    assert lines[0].startswith("1 row (1 design, 1 scenario), 10 executions in ")
    assert "each row at most 10 executions" in " ".join(lines[:2])
    assert "kvm.notifier.kvm_zap_gfn_range (septum/kvm/notifier.py:" in result.stdout
    assert "designs.v6_16." not in result.stdout
    assert "  status TDH.MNG.CREATE: SUCCESS" in lines  # reached: the reason is stale
    assert lines[-1].endswith("1 stale reason")
    assert max(map(len, lines)) <= 78
    assert result.stderr.splitlines() == ["[1/1] v7.3 / fault-fault"]


def test_everything_with_a_reason_makes_the_status_0(tmp_path: Path) -> None:
    reasons = tmp_path / "reasons.toml"
    reasons.write_text(
        '[[branch]]\nfunction = "*"\nbranch = "*"\nreason = "one row reaches little"\n'
        '[[status]]\ncall = "*"\nstatus = "*"\nreason = "one row reaches little"\n'
    )
    result = septum("coverage", *ROW, "--reasons", reasons, "--format", "json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    validate("coverage", document)
    assert document["summary"]["unexplained"] == 0
    assert {"call": "TDH.MEM.PAGE.AUG", "status": "SUCCESS", "by": ["natural"]} in document[
        "summary"
    ]["returned"]


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = tmp_path / "reasons.toml"
    reasons.write_text("[[branch]]\n")
    one_line_error(septum("coverage", "--reasons", reasons), "branch 1: must have exactly")
    one_line_error(septum("coverage", "-s", "nothing"), "no scenario 'nothing'")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "coverage" else found(name)
    )
    one_line_error(septum("coverage", *ROW), "pip install 'septum[coverage]'")
