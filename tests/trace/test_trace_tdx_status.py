# SPDX-License-Identifier: GPL-2.0-only
"""Recorded SEAMCALLs against the TDX Module's model: rule TDX-status."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from test_trace_mirror import TDR, Td
from trace_rig import run

from septum.scenarios import SCENARIOS
from septum.tdx import leaves, sept
from septum.tdx.pamt import PageType
from septum.tdx.sept import State
from septum.tdx.status import (
    TDX_EPT_ENTRY_STATE_INCORRECT,
    TDX_EPT_WALK_FAILED,
    TDX_OPERAND_BUSY,
    TDX_PAGE_METADATA_INCORRECT,
    TDX_PREVIOUS_TLB_EPOCH_BUSY,
    TDX_TLB_TRACKING_NOT_DONE,
    Operand,
    decode,
)
from septum.trace.module_run import TOP, Case, Use, answer
from septum.trace.replay import Replay
from septum.trace.synthetic import record_scenario

AUG, BLOCK, TRACK, REMOVE = (
    leaves.TDH_MEM_PAGE_AUG,
    leaves.TDH_MEM_RANGE_BLOCK,
    leaves.TDH_MEM_TRACK,
    leaves.TDH_MEM_PAGE_REMOVE,
)
BUSY = TDX_OPERAND_BUSY
PATH = (sept.non_leaf(0x1000),) * TOP
FREE_PATH = (*PATH[:-1], sept.FREE)
MAPPED = sept.leaf(State.MAPPED, 0x95000)
BLOCKED = sept.blocked(MAPPED)


def details(raw: int, level: int = 0) -> tuple[int, int]:
    return sept.arch_entry(raw), sept.level_state(raw, level)


def track(td: Td, status: int = 0) -> None:
    td.line(f"seamcall: (__seamcall+0x4/0x60) fn={TRACK:#x} rcx={TDR:#x} rdx=0x0 r8=0x0 r9=0x0")
    td.line(f"seamcall_done: (tdx+0x1/0x2 <- __seamcall) status={status:#x} rcx={TDR:#x} rdx=0x0")


def finalize(td: Td) -> None:
    td.line(f"seamcall: (__seamcall+0x4/0x60) fn={leaves.TDH_MR_FINALIZE:#x} rcx={TDR:#x} rdx=0x0")
    td.line("seamcall_done: (tdx+0x1/0x2 <- __seamcall) status=0x0 rcx=0x0 rdx=0x0")


# ------------------------------------------------------------------------- one call alone


@pytest.mark.parametrize(
    ("leaf", "entry", "path", "more", "expected"),
    [
        (AUG, sept.FREE, PATH, {}, "TDX_SUCCESS"),
        (AUG, MAPPED, PATH, {}, "TDX_EPT_ENTRY_STATE_INCORRECT|RCX"),
        (AUG, sept.FREE, FREE_PATH, {}, "TDX_EPT_WALK_FAILED|RCX"),
        (AUG, sept.FREE, PATH, {"use": Use(PageType.REG)}, "TDX_PAGE_METADATA_INCORRECT|R8"),
        (AUG, sept.FREE, PATH, {"busy": Operand.R8}, "TDX_OPERAND_BUSY|R8"),
        (AUG, sept.FREE, PATH, {"busy": Operand.TD_EPOCH}, "TDX_SUCCESS"),
        (AUG, sept.FREE, FREE_PATH, {"busy": Operand.RCX}, "TDX_EPT_WALK_FAILED|RCX"),
        (REMOVE, MAPPED, PATH, {}, "TDX_GPA_RANGE_NOT_BLOCKED|RCX"),
        (REMOVE, BLOCKED, PATH, {"since": 0}, "TDX_TLB_TRACKING_NOT_DONE|RCX"),
        (REMOVE, BLOCKED, PATH, {"since": 1}, "TDX_SUCCESS"),
        (REMOVE, BLOCKED, PATH, {"since": 1, "inside": True}, "TDX_TLB_TRACKING_NOT_DONE|RCX"),
        (REMOVE, BLOCKED, PATH, {"since": 2, "inside": True}, "TDX_SUCCESS"),
        (TRACK, sept.FREE, PATH, {"inside": True}, "TDX_PREVIOUS_TLB_EPOCH_BUSY"),
        (TRACK, sept.FREE, PATH, {"busy": Operand.TD_EPOCH}, "TDX_OPERAND_BUSY|TD_EPOCH"),
    ],
)
def test_the_module_answers_in_the_hosts_addresses(
    leaf: int, entry: int, path: tuple[int, ...], more: dict[str, object], expected: str
) -> None:
    case = Case(leaf, 0x7F1234005000, 0, 0x3F1234567000, path, entry)
    out = answer(case._replace(**more))  # type: ignore[arg-type]
    assert decode(out.status) == expected
    if leaf == AUG and not out.status:
        assert out.entry == sept.leaf(State.PENDING, 0x3F1234567000)
    if leaf == REMOVE:
        assert out.rcx == (0x95000 if not out.status else out.rcx)


# --------------------------------------------------------------------------- recordings


def mapped(td: Td) -> None:
    td.installed(5, 0x95)


def blocked(td: Td) -> None:
    finalize(td)
    mapped(td)
    td.call(BLOCK, 5, 1)


def tracked(td: Td) -> None:
    blocked(td)
    track(td)


def tracked_twice(td: Td) -> None:
    tracked(td)
    track(td)


TAKEN = (0x95000, 0)
PENDING = details(sept.leaf(State.PENDING, 0x95000))


@pytest.mark.parametrize(
    ("before", "leaf", "gfn", "pfn", "status", "out", "says"),
    [
        (mapped, AUG, 5, 0x96, 0, (0, 0), "returns TDX_EPT_ENTRY_STATE_INCORRECT|RCX"),
        (mapped, AUG, 6, 0x95, 0, (0, 0), "returns TDX_PAGE_METADATA_INCORRECT|R8"),
        (mapped, AUG, 6, 0x96, BUSY | Operand.TD_EPOCH, (0, 0), "returns TDX_SUCCESS"),
        (mapped, BLOCK, 5, 0, TDX_EPT_WALK_FAILED | Operand.RCX, details(sept.FREE, 1), ""),
        (blocked, REMOVE, 5, 0, 0, TAKEN, "returns TDX_TLB_TRACKING_NOT_DONE|RCX"),
        (tracked, REMOVE, 5, 0, 0, (0x97000, 0), "returns rcx=0x95000 rdx=0x0, recorded are"),
        (tracked, REMOVE, 5, 0, 0, TAKEN, None),
        (tracked, REMOVE, 5, 0, TDX_TLB_TRACKING_NOT_DONE | Operand.RCX, (0, 0), None),
        (tracked_twice, REMOVE, 5, 0, TDX_TLB_TRACKING_NOT_DONE | Operand.RCX, (0, 0), ""),
        (tracked, REMOVE, 5, 0, BUSY | Operand.SEPT_TREE, (0, 0), None),
        (mapped, AUG, 5, 0x96, TDX_EPT_ENTRY_STATE_INCORRECT | Operand.RCX, PENDING, None),
        (mapped, AUG, 6, 0x97, TDX_PAGE_METADATA_INCORRECT | Operand.R8, (0, 0), None),
    ],
)
def test_a_status_that_the_module_could_not_have_returned(
    before: Callable[[Td], None],
    leaf: int,
    gfn: int,
    pfn: int,
    status: int,
    out: tuple[int, int],
    says: str | None,
) -> None:
    """``says``: both statuses are named; None: it could have been so."""
    td = Td()
    before(td)
    td.call(leaf, gfn, 1, pfn, status, out)
    found = [f for f in run(td.lines).findings if f.rule == "TDX-status"]
    if says is None:
        assert found == []
        return
    (finding,) = found
    assert says in finding.message and decode(status) in finding.message


def test_a_track_that_waits_for_a_vcpu() -> None:
    td = Td()
    tracked(td)
    track(td, TDX_PREVIOUS_TLB_EPOCH_BUSY)
    assert "TDX-status" not in td.rules()


def test_what_the_guest_accepted_is_learned_from_the_registers() -> None:
    td = Td()
    td.installed(5, 0x95)
    shown = details(sept.leaf(State.MAPPED, 0x95000))
    td.call(AUG, 5, 1, 0x96, TDX_EPT_ENTRY_STATE_INCORRECT | Operand.RCX, shown)
    assert "TDX-status" not in td.rules()


def test_an_unknown_entry_is_not_judged() -> None:
    """A block of a 2M range mid-life: it may be a page or a table."""
    td = Td()
    td.call(BLOCK, 0x200, 2)
    assert any("is not known: 1" in note for note in td.replayed().notes)
    assert td.rules() == []


def test_calls_of_two_cpus_at_once_are_not_judged() -> None:
    td = Td()
    td.installed(5, 0x95)
    td.call(BLOCK, 5, 1, cpu=1, task="host-7")  # type: ignore[arg-type]
    td.call(AUG, 5, 1, 0x95)
    result = td.replayed()
    assert [f.rule for f in result.findings] == []
    assert any("overlap them: 1" in note for note in result.notes)


def test_only_the_first_one_of_a_td_is_a_finding() -> None:
    td = Td()
    td.installed(5, 0x95)
    for pfn in (0x96, 0x97, 0x98):
        td.call(AUG, 5, 1, pfn)
    result = td.replayed()
    assert [f.rule for f in result.findings] == ["TDX-status"]
    assert any("2 more SEAMCALLs" in note for note in result.notes)


@pytest.mark.parametrize("design", ["v7.3", "void-callback"])
@pytest.mark.parametrize("scenario", list(SCENARIOS)[::6])
def test_the_models_own_calls_are_answered_alike(design: str, scenario: str) -> None:
    """The driven module is the one that made them, so this is a check of what is not known."""
    try:
        lines = record_scenario(design, scenario)
    except Exception as problem:  # a scenario that the design cannot do
        pytest.skip(str(problem))
    replayed = Replay("synthetic")
    replayed.feed(lines)
    assert [f.message for f in replayed.finish().findings if f.rule == "TDX-status"] == []
