# SPDX-License-Identifier: GPL-2.0-only
"""septum coverage: what is measured, and how it meets the reviewed reasons."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from septum.scenarios.coverage import (
    NEVER_CALLED,
    NOT_MEASURED,
    Item,
    Measured,
    branch_items,
    measure,
    source_files,
    status_items,
)
from septum.scenarios.coverage_review import BadReview, Reason, load, review

REASONS = Path(__file__).parents[2] / "docs" / "coverage.toml"
TRACK = "kvm.tdx_sept.tdx_track"
NOT_RUNNABLE = "if kvm.tdx.state.read() != TD_STATE_RUNNABLE: -> return  # no vCPU can have run"
RUNNABLE = (
    "if kvm.tdx.state.read() != TD_STATE_RUNNABLE: -> "
    'lockdep_assert_held_write(kvm.mmu_lock, "tdx_track")'
)


@cache
def one_row() -> Measured:
    return measure([("v7.3", "zap-accept")], max_executions=30)


@cache
def nothing() -> dict[Item, bool]:
    return branch_items({})


def test_a_branch_is_reached_or_not() -> None:
    items = one_row().items
    assert items[Item("branch", TRACK, RUNNABLE)] is True
    assert items[Item("branch", TRACK, NOT_RUNNABLE)] is False
    assert one_row().executions == 30


def test_a_function_that_nobody_calls_is_one_item() -> None:
    where = "designs.v6_16.tdx_track"
    found = [item for item in one_row().items if item.where == where]
    assert [item.what for item in found] == [NEVER_CALLED]
    assert found[0].line.startswith("septum/designs/v6_16.py:")


def test_build_and_teardown_count() -> None:
    """TDH.MNG.CREATE is called before anything is explored, RECLAIM in the epilogue."""
    for call in ("TDH.MNG.CREATE", "TDH.PHYMEM.PAGE.RECLAIM"):
        assert one_row().items[Item("status", call, "SUCCESS")]


def test_statuses_are_told_apart_by_who_returned_them() -> None:
    notes = [
        "TDH.MEM.PAGE.AUG returned TDX_OPERAND_BUSY|RCX",
        "TDH.MEM.PAGE.AUG was made to return TDX_OPERAND_BUSY|RCX",
        "TDH.MEM.PAGE.AUG was made to return TDX_OPERAND_BUSY|SEPT_TREE",
        "a fault met FROZEN_SPTE",
    ]
    items, by = status_items(notes)
    assert by["TDH.MEM.PAGE.AUG", "OPERAND_BUSY|RCX"] == {"natural", "injected"}
    assert by["TDH.MEM.PAGE.AUG", "OPERAND_BUSY|SEPT_TREE"] == {"injected"}
    assert items[Item("status", "TDH.MEM.PAGE.AUG", "OPERAND_BUSY|RCX")]
    assert not items[Item("status", "TDH.MEM.PAGE.AUG", "TD_FATAL")]
    assert items[Item("status", "TDH.MEM.TRACK", NEVER_CALLED)] is False


def test_the_measured_files_are_the_model_of_the_kernel() -> None:
    names = {path.name for path in source_files()}
    assert {"tdp_mmu.py", "tdx_sept.py", "v7_3.py", "hugepage.py", "feb06.py"} <= names
    assert not {"registry.py", "toggles.py", "mutants_huge.py", "rules.py"} & names
    root = source_files()[0].parents[1]
    for pattern in NOT_MEASURED:
        assert list(root.glob(pattern)), f"{pattern} is gone"


def test_review() -> None:
    items = {
        Item("branch", "kvm.a.f", "if x[0]: -> return"): False,
        Item("branch", "kvm.a.g", NEVER_CALLED): False,
        Item("branch", "kvm.a.h", "if y: -> return"): True,
        Item("status", "TDH.X", "TD_FATAL"): False,
    }
    reasons = [
        Reason("branch", "kvm.a.*", "if x[0]*", "because"),
        Reason("branch", "kvm.a.h", "*", "reached by now"),
        Reason("status", "*", "TD_FATAL", "never"),
    ]
    found = review(items, reasons)
    assert [(item.where, reason.reason) for item, reason in found.explained] == [
        ("kvm.a.f", "because"),
        ("TDH.X", "never"),
    ]
    assert [item.where for item in found.unexplained] == ["kvm.a.g"]
    assert [reason.reason for reason in found.stale] == ["reached by now"]
    assert found.status == 3
    assert review({}, []).status == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[branch]\n", "not TOML"),
        ("[[lines]]\n", "unknown table 'lines'"),
        ('[[branch]]\nfunction = "f"\nbranch = "b"\n', "branch 1: must have exactly"),
        ('[[status]]\ncall = "c"\nstatus = "s"\nreason = " "\n', "reason must be a text"),
    ],
)
def test_a_wrong_file_of_reasons_says_where(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "coverage.toml"
    path.write_text(text)
    with pytest.raises(BadReview, match=message):
        load(path)


def test_every_reviewed_reason_names_something_that_exists() -> None:
    """Stale by text alone; what the suite reaches by now is told by the command itself."""
    known = [*_every_branch(), *_every_status()]
    for reason in load(REASONS):
        assert any(reason.covers(item) for item in known), f"stale: {reason}"


def _every_branch() -> list[Item]:
    """Every branch by its text, whether its function was called or not."""
    functions = [item for item in nothing() if item.what == NEVER_CALLED]
    arcs = {
        str(path): [(-1, line) for line in range(1, len(path.read_text().splitlines()) + 1)]
        for path in source_files()
    }
    return [*functions, *branch_items(arcs)]


def _every_status() -> list[Item]:
    items, _ = status_items([])
    called, _ = status_items([f"{item.where} SUCCESS" for item in items])
    return [*items, *called]
