# SPDX-License-Identifier: GPL-2.0-only
"""Values by their kernel names; durations; which steps are worth a row."""

from __future__ import annotations

from typing import Any

import pytest
from report_samples import LEAF, replayed

from septum.kvm.spte import FROZEN_SPTE, SHADOW_NONPRESENT_VALUE
from septum.machine import Event
from septum.machine.dependency import EXCL, READ
from septum.report.fold import contended, rank_steps, shown_steps
from septum.report.interleaving import describe, function_of
from septum.report.layout import duration
from septum.report.states import changes, table_names
from septum.report.values import change, spte_text, value
from septum.tdx import sept

TABLE = 0x8000000050800D07


@pytest.mark.parametrize(
    ("v", "obj", "text"),
    [
        (FROZEN_SPTE, "sp0[0]", "FROZEN"),
        (SHADOW_NONPRESENT_VALUE, "sp0[0]", "NONPRESENT"),
        (LEAF, "sp0[0]", "leaf pfn 100010"),
        (LEAF | 1 << 7, "sp0[0]", "huge leaf pfn 100010"),
        (LEAF & ~2, "sp0[0]", "leaf pfn 100010 read-only"),
        (LEAF & ~7, "sp0[0]", "leaf pfn 100010 no access"),
        (TABLE, "sp0[0]", "table pfn 50800"),
        (1 << 63 | 1 << 40, "sp0[0]", "non-present 0x8000010000000000"),
        (sept.leaf(sept.State.PENDING, 0x5000), "SEPT 0x1000[0]", "PENDING 0x5000"),
        (sept.FREE, "SEPT 0x1000[0]", "FREE"),
        (7, "stat.pages[0]", "7"),
        (1 << 30, "x", "0x40000000"),
        (True, "vm_dead", "true"),
        (None, "x", "none"),
        ((2, True), "x", "(2, true)"),
        (frozenset({2, 1}), "x", "(1, 2)"),
    ],
)
def test_value(v: Any, obj: str, text: str) -> None:
    assert value(v, obj) == text


def test_an_entry_of_the_last_level_is_a_leaf() -> None:
    uncached = LEAF & ~(7 << 3)
    assert spte_text(uncached) == "table pfn 100010"
    assert spte_text(uncached, 1) == spte_text(LEAF, 1) == "leaf pfn 100010"
    assert spte_text(TABLE, 2) == "table pfn 50800"


def test_change() -> None:
    assert change(SHADOW_NONPRESENT_VALUE, FROZEN_SPTE) == "NONPRESENT -> FROZEN"
    assert change(3, 3) == "3"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.04s"), (12.34, "12.3s"), (247, "4m07s"), (7500, "2h05m"), (360000, "4d04h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_what_tasks_contend_for() -> None:
    events = replayed().events
    # Two adds, shared locks and reads commute; the SPTE does not.
    assert contended(events) == {"sp0[0]"}
    events[2].acc = [("mmu_lock", EXCL)]
    assert contended(events) == {"sp0[0]", "mmu_lock"}


def test_footprints_of_monitors_do_not_count() -> None:
    events = replayed().events
    call = next(e for e in events if e.label)
    call.acc = [*call.acc, ("attr[0]", READ), ("own", EXCL)]
    assert "attr[0]" not in contended(events)


def test_ranks_and_budget() -> None:
    replay = replayed()
    ranks = rank_steps(replay.events, pair=(3, 8), marked=[9], focus=["sp0[0]"], calls=[7])
    assert [ranks[at] for at in (3, 8, 9)] == [0, 0, 0]
    assert ranks[10] == 1 and ranks[7] == 2 and ranks[0] == 6 and ranks[12] == 5
    assert shown_steps(ranks, 0) == [3, 8, 9]
    assert shown_steps(ranks, 4) == [3, 8, 9, 10]
    assert shown_steps(ranks, -1) == list(range(len(ranks)))


def test_describe_and_function() -> None:
    events = replayed().events
    assert describe(events[3]) == "cmpxchg sp0[0]: NONPRESENT -> FROZEN"
    assert describe(events[8]) == "cmpxchg sp0[0] fails: it is FROZEN"
    told = ["TDH.MEM.PAGE.AUG -> TDX_SUCCESS"]
    assert describe(events[7], told) == "TDH.MEM.PAGE.AUG commit -> TDX_SUCCESS"
    assert function_of(events[3]) == "__tdp_mmu_set_spte_atomic"
    waits = Event(0, 0, "await", "kvm_mmu_retry_spin")
    waits.since = {"SEPT[0]": 3}
    assert describe(waits) == "retry kvm_mmu_retry_spin: SEPT[0] has changed"
    waits.since = {"b": 3, "a": 4}
    assert describe(waits) == "retry kvm_mmu_retry_spin: a, b have changed"


def test_states() -> None:
    before = {"mirror": [("sp0", 1, 0, SHADOW_NONPRESENT_VALUE)], "sept": []}
    after = {"mirror": [("sp0", 1, 0, FROZEN_SPTE)], "sept": [(1, 0, sept.removed(3))]}
    assert changes(before, after) == [
        "mirror level 1 gfn 0 (sp0): NONPRESENT -> FROZEN",
        "S-EPT level 1 gfn 0: FREE -> REMOVED",
    ]
    assert changes(after, before)[1] == "S-EPT level 1 gfn 0: REMOVED -> FREE"
    assert changes(None, before) == []
    assert table_names(replayed()) == {"sp0": "level 1 from gfn 0"}
