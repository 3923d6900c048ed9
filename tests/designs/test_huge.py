# SPDX-License-Identifier: GPL-2.0-only
"""Private huge pages: the order of steps of D8a and D0, and where a failure is reported."""

from __future__ import annotations

from errno import ENOMEM
from pathlib import Path

import pytest
from test_design_tdx import Td

from septum.kvm.ret_pf import RET_PF_FIXED, RET_PF_SPURIOUS
from septum.kvm.spte import is_large_pte, is_last_spte, is_shadow_present_pte
from septum.scenarios.check import check
from septum.scenarios.counterexample import load
from septum.scenarios.follow import follow
from septum.tdx.profiles import find_profile
from septum.tdx.status import TDX_OPERAND_BUSY, TDX_OPERAND_INVALID

ENHANCED = "linux-7.3+enhanced-demote"
SPLIT = ["MEM.RANGE.BLOCK", "MEM.TRACK", "MEM.PAGE.DEMOTE"]
REMOVE = ["MEM.RANGE.BLOCK", "MEM.TRACK", "MEM.PAGE.REMOVE"]
WBINVD = "PHYMEM.PAGE.WBINVD"


def hugepage(profile: str = ENHANCED) -> Td:
    return Td("v7.3+hugepage", max_level=2, profile=find_profile(profile))


def is_huge(td: Td, gfn: int) -> bool:
    spte = td.spte(gfn, 2)
    return is_shadow_present_pte(spte) and is_large_pte(spte)


def test_a_fault_maps_2m() -> None:
    """Facts 6.2, D8: AUG at 2M, one statistic at level 2."""
    td = hugepage()
    assert td.do("fault", 0, 1) == RET_PF_FIXED
    assert is_huge(td, 0)
    assert td.take()[-1] == "MEM.PAGE.AUG"
    assert [word.v for word in td.kvm.stat_pages] == [0, 1, 0]
    assert td.rules == []


@pytest.mark.parametrize("profile", ["linux-7.3", "1.5.01"])
def test_no_huge_pages_if_demote_may_be_interrupted(profile: str) -> None:
    """Facts 6.6: off without ENHANCED_DEMOTE_INTERRUPTIBILITY."""
    td = hugepage(profile)
    assert td.do("fault", 0, 1) == RET_PF_FIXED
    assert is_last_spte(td.spte(1), 1) and not is_huge(td, 0)


def test_the_build_stays_4k() -> None:
    td = Td("v7.3+hugepage", finalized=False, max_level=2, profile=find_profile(ENHANCED))
    assert td.init_mem(0) == 0
    assert is_shadow_present_pte(td.spte(0, 1))
    assert td.rules == []


def test_a_table_is_never_merged() -> None:
    """Promotion stays forbidden: the goal goes down where a table is."""
    td = hugepage()
    td.do("fault", 0, 0)
    td.do("split", 0, 2)
    td.do("punch_hole", 0, 2)
    td.take()
    assert td.do("fault", 0, 0) == RET_PF_FIXED
    assert td.take() == ["MEM.PAGE.AUG"]
    assert not is_huge(td, 0)
    assert td.rules == []


def test_split_is_block_track_demote() -> None:
    """Facts 6.6, D8a; the children are the old leaf's parts and need no UNBLOCK."""
    td = hugepage()
    td.do("fault", 0, 0)
    td.take()
    td.do("split", 0, 2)
    assert td.take() == SPLIT
    assert td.fault_once(1) == RET_PF_SPURIOUS
    assert [word.v for word in td.kvm.stat_pages] == [2, 0, 0]
    assert td.rules == []


def test_removal_of_2m_is_one_sequence() -> None:
    """Facts 6.6: BLOCK, TRACK, REMOVE once, and each 4K page is written back."""
    td = hugepage()
    td.do("fault", 0, 0)
    td.take()
    td.do("punch_hole", 0, 2)
    assert td.take() == [*REMOVE, WBINVD, WBINVD]
    assert td.rules == []


@pytest.mark.parametrize(("start", "end"), [(0, 1), (1, 2), (1, 3)])
def test_a_hole_splits_only_what_reaches_over_its_ends(start: int, end: int) -> None:
    td = hugepage()
    td.do("fault", 0, 0)
    td.do("fault", 0, 2)
    td.take()
    td.do("punch_hole", start, end)
    split = (end - start) * SPLIT
    assert td.take() == split + (end - start) * [*REMOVE, WBINVD]
    left = [gfn for gfn in range(4) if not start <= gfn < end and not is_huge(td, gfn & -2)]
    assert all(is_shadow_present_pte(td.spte(gfn)) for gfn in left)
    assert td.rules == []


def test_a_conversion_splits_its_head() -> None:
    td = hugepage()
    td.do("fault", 0, 0)
    td.take()
    assert td.do("set_attributes", 1, 2, 0) == 0
    assert td.take() == [*SPLIT, *REMOVE, WBINVD]
    assert is_shadow_present_pte(td.spte(0))
    assert td.rules == []


def test_a_hole_without_memory_for_the_split_changes_nothing() -> None:
    td = hugepage()
    td.do("fault", 0, 0)
    td.take()
    td.kvm.host.alloc_failures.set(1)
    td.m.choose = lambda name, options: options[-1]  # type: ignore[method-assign]
    assert td.kvm.fn.kvm_gmem_punch_hole(td.kvm, td.kvm.gmem_files[0], 0, 1) == -ENOMEM
    assert td.take() == []
    assert is_huge(td, 0)
    assert td.kvm.mmu_invalidate_in_progress.v == 0


def test_demote_that_is_busy_once_is_called_again() -> None:
    td = hugepage()
    td.do("fault", 0, 0)
    td.take()
    td.fail("MEM.PAGE.DEMOTE", TDX_OPERAND_BUSY)
    td.do("split", 0, 2)
    assert td.take() == [*SPLIT, "MEM.PAGE.DEMOTE"]
    assert td.rules == []


def test_demote_that_fails_for_good_bugs_the_vm() -> None:
    td = hugepage()
    td.do("fault", 0, 0)
    td.take()
    td.fail("MEM.PAGE.DEMOTE", TDX_OPERAND_INVALID)
    td.do("split", 0, 2)
    assert td.take() == SPLIT
    assert td.kvm.vm_bugged.v


def test_void_callback_goes_on_whatever_demote_says() -> None:
    """Facts 6.6, 6.8, D0: BUSY is final, link returns 0, 512 leafs are counted."""
    td = Td("void-callback", max_level=2)
    td.do("fault", 0, 0)
    td.take()
    td.fail("MEM.PAGE.DEMOTE", TDX_OPERAND_BUSY)
    td.do("split", 0, 2)
    assert td.take() == SPLIT
    assert [word.v for word in td.kvm.stat_pages] == [2, 0, 0]
    first = td.m.findings[0]
    assert (first.rule, first.message) == (
        "I1",
        "mirror gfn 0 level 2 is a table, S-EPT is PENDING_BLOCKED at level 2",
    )


@pytest.mark.parametrize("scenario", ["huge-split-fails", "huge-split-interrupted"])
def test_the_field_case_is_found_at_the_split(scenario: str) -> None:
    """4K children in the mirror under a blocked 2M leaf: I1 comes from the splitting task,
    under the lock of the split, and before the symptom."""
    found = check("void-callback", scenario).counterexample
    assert found is not None
    run = follow(found, "void-callback")
    rules = [f.rule for f in run.findings]
    i1 = run.findings[rules.index("I1")]
    assert i1.message == "mirror gfn 0 level 2 is a table, S-EPT is BLOCKED at level 2"
    # The splitting task still holds the lock under which it stored the table.
    host = [e.op for e in run.events[: i1.step + 1] if e.task == i1.task]
    assert run.task_names[i1.task] == "host"
    assert host[::-1].index("write_lock") < host[::-1].index("write_unlock")
    assert i1.step < run.findings[rules.index("WARN:handle_removed_pt")].step


def test_the_example_of_the_findings_page() -> None:
    path = Path(__file__).parents[2] / "docs" / "examples" / "void-split.json"
    found = load(path)
    assert (found.design, found.scenario) == ("void-callback", "huge-split-interrupted")


@pytest.mark.parametrize(
    ("design", "read_lock", "write_lock"),
    [
        ("v7.3+hugepage", "violated I10", "holds"),
        ("v7.3+hugepage+split-busy", "holds", "violated BUG:handle_changed_spte"),
        ("v7.3+hugepage+shared-param", "holds", "holds"),
    ],
)
def test_what_the_shared_parameter_buys(design: str, read_lock: str, write_lock: str) -> None:
    """docs/findings.md H4."""
    for scenario, wanted in (("read-split-fault", read_lock), ("write-split-accept", write_lock)):
        row = check(design, scenario)
        rule = f" {row.finding.rule}" if row.finding else ""
        assert f"{row.verdict}{rule}" == wanted
        assert row.hypothetical
