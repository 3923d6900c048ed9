# SPDX-License-Identifier: GPL-2.0-only
"""Loops of the kernel that nobody ends (docs/findings.md F5, F6, R1), without folding retries."""

from __future__ import annotations

from pathlib import Path

import pytest

from septum.explore import Options
from septum.scenarios.check import check
from septum.scenarios.counterexample import load, replay, save

NEVER_FOLD = Options(retries=-1, first=True)


@pytest.mark.parametrize(
    ("design", "scenario", "waits"),
    [
        ("v6.16", "delete-fault", "host waits at synchronize_srcu-wait kvm->srcu"),
        ("v7.3+loop-ignores-invalid-slot", "delete-fault", "host waits at synchronize_srcu-wait"),
        ("v7.3", "td-fast-zap-private", ""),
    ],
)
def test_the_ept_violation_loop_goes_round(
    design: str, scenario: str, waits: str, tmp_path: Path
) -> None:
    row = check(design, scenario, options=NEVER_FOLD)
    assert row.finding is not None and row.counterexample is not None
    assert (row.verdict, row.finding.rule) == ("violated", "LIVELOCK")
    assert row.finding.message.startswith("vcpu0: the last ") and waits in row.finding.message
    path = tmp_path / "livelock.json"
    save(row.counterexample, path)
    shown = replay(load(path))
    assert row.finding in shown.findings and len(shown.events) == row.finding.step + 1
    cycle = [event.stack for event in shown.events[row.finding.since :]]
    assert all("tdx_ept_violation_loop" in stack for stack in cycle)


def test_a_prefault_in_a_slot_that_is_being_deleted() -> None:
    """6.16 goes on for ever, later kernels give it up (F6)."""
    row = check("v6.16", "delete-prefault")
    assert (row.verdict, row.complete) == ("violated", True)
    assert row.finding is not None and row.finding.rule == "I23"
    assert "a prefault met an INVALID slot" in row.reached
    for later in ("rfc-v5-08", "v7.3"):
        assert check(later, "delete-prefault").verdict == "holds"


def test_the_loop_that_looks_at_the_slot_ends() -> None:
    """Others would lead out of every cycle; not folded, the whole of it takes long."""
    options = Options(retries=-1, max_executions=100)
    row = check("v7.3", "delete-fault", options=options)
    assert row.finding is None and row.bounds_hit == ["100 executions"]
