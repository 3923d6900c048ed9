# SPDX-License-Identifier: GPL-2.0-only
"""The iterator's walk order, its second read, yields, and the zap passes (facts 3, 4.9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from mmu_rig import Rig

from septum.kvm.spte import SHADOW_NONPRESENT_VALUE
from septum.kvm.tdp_iter import TdpIter, for_each_tdp_pte
from septum.machine.geometry import Geometry


def visits(rig: Rig, start: int, end: int) -> list[tuple[int, int]]:
    return [(it.level, it.gfn) for it in for_each_tdp_pte(rig.kvm, rig.mirror, start, end)]


def test_walk_is_pre_order_and_leaves_through_the_side() -> None:
    rig = Rig()
    assert visits(rig, 5, 6) == [(3, 0)]
    rig.fault(5)
    assert visits(rig, 5, 6) == [(3, 0), (2, 4), (1, 5)]
    assert visits(rig, 0, 8) == [(3, 0), (2, 0), (2, 4), (1, 4), (1, 5), (1, 6), (1, 7)]
    assert visits(rig, 7, 16) == [(3, 0), (2, 4), (1, 7), (2, 8), (2, 12)]


def test_the_step_down_reads_again() -> None:
    rig = Rig()
    rig.fault(5)
    it = TdpIter(rig.kvm, rig.mirror, 1, 5, 0)
    it.next()
    assert (it.level, it.gfn) == (2, 4)
    it.sptep.write(SHADOW_NONPRESENT_VALUE)  # the table vanishes while the body runs
    it.next()
    assert (it.level, it.gfn) == (2, 8)


def test_a_yield_restarts_at_the_same_gfn() -> None:
    rig = Rig()
    rig.fault(5)
    it = TdpIter(rig.kvm, rig.mirror, 1, 4, 0)
    while (it.level, it.gfn) != (1, 6):
        it.next()
    it.yielded = True
    it.next()
    assert (it.level, it.gfn, it.yielded_gfn) == (3, 0, 6)
    it.next()
    it.next()
    assert (it.level, it.gfn) == (1, 6)


def test_a_gfn_with_the_shared_bit_is_refused() -> None:
    rig = Rig()
    bits = rig.kvm.gfn_direct_bits
    assert not TdpIter(rig.kvm, rig.direct, 1, bits, bits).valid
    assert rig.rules == ["WARN:tdp_iter_start"]


def test_yields_are_choices_with_a_budget_and_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(yields=1)
    rig.fault(5)
    asked: list[str] = []

    def choose(name: str, options: Sequence[Any]) -> Any:
        asked.append(name)
        return True

    monkeypatch.setattr(rig.m, "choose", choose)
    rig.take()
    rig.fn.kvm_zap_gfn_range(rig.kvm, 4, 8)
    assert asked == ["yield?"]
    assert [line for line in rig.take() if line[0] == "S"] == ["S sp4[1] L5->-"]
    assert rig.rules == []


@pytest.mark.parametrize(
    ("prove_mmu", "levels", "expected"),
    [(False, 4, [1, 2, 3, 4]), (True, 4, [3, 4]), (False, 3, [1, 2, 3]), (False, 2, [1, 2])],
)
def test_zap_passes(prove_mmu: bool, levels: int, expected: list[int]) -> None:
    rig = Rig(geometry=Geometry(bits=2, levels=levels), slots=((0, 4),), prove_mmu=prove_mmu)
    passes: list[int] = []
    rig.fn.__dict__["__tdp_mmu_zap_root"] = lambda kvm, root, shared, level: passes.append(level)
    rig.fn.tdp_mmu_zap_root(rig.kvm, rig.mirror, False)
    assert passes == expected
