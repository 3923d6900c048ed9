# SPDX-License-Identifier: GPL-2.0-only
"""The mirror path with the real glue and the TDX Module model: tripwires of facts 6.6, 6.7."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from septum.designs import lookup
from septum.kvm.operations import OPERATIONS, force_huge_leaf
from septum.kvm.ret_pf import RET_PF_FIXED
from septum.kvm.spte import is_shadow_present_pte
from septum.kvm.structs import Kvm
from septum.kvm.tdx_vm import create_tdx_vm
from septum.machine import Halt, Machine, Policy
from septum.machine.geometry import Geometry

SHAPES = [Geometry(bits=2, levels=3), Geometry(bits=9, levels=4)]


def make_td(geometry: Geometry = SHAPES[0], vcpus: int = 2) -> Kvm:
    return create_tdx_vm(Machine(), geometry, lookup("v7.3").functions, vcpus, slots=((0, 8),))


def rules(kvm: Kvm) -> list[str]:
    return [f.rule for f in kvm.m.findings]


def leafs(kvm: Kvm) -> list[int]:
    return [word.v for word in kvm.stat_pages]


@pytest.mark.parametrize("geometry", SHAPES)
def test_fault_punch_fault_teardown(geometry: Geometry) -> None:
    kvm = make_td(geometry)
    assert OPERATIONS["fault"](kvm, 0, 5) == RET_PF_FIXED
    assert OPERATIONS["fault"](kvm, 1, 6) == RET_PF_FIXED
    OPERATIONS["punch_hole"](kvm, 5, 6)
    assert leafs(kvm) == [1, 0, 0]
    assert OPERATIONS["fault"](kvm, 0, 5) == RET_PF_FIXED
    assert kvm.host.gmem.peek(5) == 0x200005
    OPERATIONS["destroy_vm"](kvm)
    assert leafs(kvm) == [0, 0, 0]
    assert kvm.tdp_mmu_pages.v == 0
    assert rules(kvm) == []


@pytest.mark.parametrize("geometry", SHAPES)
@pytest.mark.parametrize(
    ("operation", "args", "expected", "left"),
    [
        # The level check stops every removal of a huge leaf before any SEAMCALL.
        ("split", (4, 8), ["BUG:tdx_sept_remove_leaf_spte"], None),
        ("zap_range", (4, 5), ["BUG:tdx_sept_remove_leaf_spte"], [0, 1, 0]),
        ("age", (4, 8, True), ["WARN:kvm_tdp_mmu_age_spte"], [0, 1, 0]),
        (
            "split",
            (4, 8, 1, True),
            [
                "I10",
                "BUG:tdx_sept_remove_leaf_spte",
                "LIVELOCK",
            ],
            [0, 1, 0],
        ),
    ],
)
def test_a_forced_huge_leaf_meets_the_tripwires(
    geometry: Geometry,
    operation: str,
    args: tuple[int, ...],
    expected: list[str],
    left: list[int] | None,
) -> None:
    kvm = make_td(geometry)
    assert force_huge_leaf(kvm, 0, 4) == 0
    assert leafs(kvm) == [0, 1, 0]
    if geometry.bits == 9:
        args = (0, 8, *args[2:])
    try:
        OPERATIONS[operation](kvm, *args)
    except Halt:
        assert "LIVELOCK" in expected
    assert rules(kvm) == expected
    # Under the write lock the new table stays: +512 for it, but no -1 for the huge leaf.
    assert leafs(kvm) == (left or [geometry.entries, 1, 0])


def test_merging_a_table_removes_its_leafs_and_bugs_the_vm_at_its_page() -> None:
    kvm = make_td()
    for gfn in range(4, 8):
        OPERATIONS["fault"](kvm, 0, gfn)
    OPERATIONS["merge"](kvm, 4)
    assert rules(kvm) == ["BUG:tdx_sept_free_private_spt"]
    assert leafs(kvm) == [0, 1, 0]


def test_allocation_failures_reach_userspace_or_stop_the_split() -> None:
    kvm = make_td()
    force_huge_leaf(kvm, 0, 4)
    kvm.m.choose = lambda name, options: options[-1]  # type: ignore[method-assign]
    kvm.host.alloc_failures.set(2)
    assert OPERATIONS["fault"](kvm, 0, 1) == -12
    OPERATIONS["split"](kvm, 4, 8)
    assert leafs(kvm) == [0, 1, 0]
    assert rules(kvm) == []
    assert not kvm.mmu_lock.held() and not kvm.rcu.held()


@pytest.mark.parametrize(
    ("first", "second", "reached"),
    [
        (("fault", 0, 5), ("fault", 1, 5), "a fault met FROZEN_SPTE"),
        (("fault", 0, 5), ("fault", 1, 6), "a fault met FROZEN_SPTE"),
        (("fault", 0, 5), ("punch_hole", 4, 6), "mmu_seq forced a retry"),
        (("fault", 0, 5), ("zap_range", 0, 8), "mmu_seq forced a retry"),
        (("prefault", 0, 5), ("fault", 1, 5), "a fault met FROZEN_SPTE"),
        (("fault", 0, 5), ("delete_slot", 0), "the slot's deletion ended a local retry"),
    ],
)
def test_random_schedules_are_clean(
    first: tuple[str, int, int], second: tuple[str, ...], reached: str
) -> None:
    kvm = make_td()
    if second[0] != "fault":
        OPERATIONS["fault"](kvm, 1, 4)

    def body(operation: str, *args: Any) -> Callable[[], None]:
        return lambda: OPERATIONS[operation](kvm, *args)

    def settle() -> None:
        root = kvm.mmu_pages[kvm.vcpus[0].mirror_root_hpa.v >> 12]
        present = any(is_shadow_present_pte(word.v) for word in root.spt.words.values())
        assert present == bool(kvm.tdp_mmu_pages.v)

    bodies = [("a", body(*first)), ("b", body(*second))]
    seen: set[str] = set()
    for seed in range(200):
        run = kvm.m.run(bodies, policy=Policy("random", seed=seed), settle=settle)
        assert run.status == "complete", (seed, run.findings)
        assert run.findings == [], seed
        seen |= run.reached
    assert reached in seen
