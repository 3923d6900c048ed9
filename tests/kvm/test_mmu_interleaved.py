# SPDX-License-Identifier: GPL-2.0-only
"""The mirror path under random schedules, with hooks that take a point and may be busy.

A smoke test of the model itself: no exception, no finding, counters and tables agree.
The scenarios of `septum.scenarios` are explored completely elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EBUSY

import pytest
from mmu_rig import Rig

from septum.kvm.operations import OPERATIONS
from septum.kvm.spte import is_frozen_spte, is_last_spte, is_shadow_present_pte, spte_to_child_sp
from septum.kvm.structs import KvmMmuPage
from septum.machine import Policy, TryLock

Bodies = list[tuple[str, Callable[[], None]]]


def rig_with_busy_hook(vcpus: int) -> Rig:
    """The hook holds a lock over two points, as SEAMCALLs do."""
    rig = Rig(vcpus=vcpus)
    m = rig.m
    lock = TryLock(m, "sept lock")

    def set_external_spte(*args: int) -> int:
        with m.step("checks", "S-EPT"):
            if not lock.try_excl():
                m.reach("busy")
                return -EBUSY
        with m.step("effects", "S-EPT"):
            lock.drop_excl()
        return 0

    rig.fn.set_external_spte = set_external_spte
    return rig


def contents(rig: Rig, sp: KvmMmuPage) -> tuple[int, int]:
    """(leafs, tables) below ``sp``; nothing may be left frozen."""
    leafs = tables = 0
    for word in list(sp.spt.words.values()):
        assert not is_frozen_spte(word.v)
        if not is_shadow_present_pte(word.v):
            continue
        if is_last_spte(word.v, sp.role.level):
            leafs += 1
            continue
        below = contents(rig, spte_to_child_sp(rig.kvm, word.v))
        leafs, tables = leafs + below[0], tables + below[1] + 1
    return leafs, tables


def fault(rig: Rig, vcpu: int, gfn: int) -> Callable[[], None]:
    return lambda: OPERATIONS["fault"](rig.kvm, vcpu, gfn)


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("same gfn", {"a fault met FROZEN_SPTE"}),
        ("neighbours", {"busy", "a fault met FROZEN_SPTE"}),
        ("fault vs zap", {"mmu_seq forced a retry"}),
        ("fault vs hole", {"mmu_seq forced a retry", "an invalidation in progress forced a retry"}),
    ],
)
def test_random_schedules(name: str, reached: set[str]) -> None:
    rig = rig_with_busy_hook(2)
    kvm = rig.kvm
    if name == "fault vs zap":
        rig.fault(6)
    bodies: dict[str, Bodies] = {
        "same gfn": [("a", fault(rig, 0, 5)), ("b", fault(rig, 1, 5))],
        "neighbours": [("a", fault(rig, 0, 5)), ("b", fault(rig, 1, 6))],
        "fault vs zap": [
            ("a", fault(rig, 0, 5)),
            ("b", lambda: OPERATIONS["zap_range"](kvm, 4, 8)),
        ],
        "fault vs hole": [
            ("a", fault(rig, 0, 5)),
            ("b", lambda: OPERATIONS["punch_hole"](kvm, 5, 6)),
        ],
    }
    seen: set[str] = set()

    def settle() -> None:
        leafs, tables = contents(rig, rig.mirror)
        assert (leafs, tables) == (kvm.stat_pages[0].v, kvm.tdp_mmu_pages.v)

    for seed in range(300):
        execution = rig.m.run(bodies[name], policy=Policy("random", seed=seed), settle=settle)
        assert execution.status == "complete", (seed, execution.findings)
        assert execution.findings == [], seed
        seen |= execution.reached
    assert reached <= seen


def test_the_same_schedule_gives_the_same_log() -> None:
    rig = rig_with_busy_hook(2)
    bodies: Bodies = [("a", fault(rig, 0, 5)), ("b", fault(rig, 1, 5))]
    runs = [rig.m.run(bodies, policy=Policy("random", seed=7), fingerprint=True) for _ in range(2)]
    logs = [[(e.task, e.op, e.obj, e.seen, e.left) for e in run.events] for run in runs]
    assert logs[0] == logs[1]
    assert runs[0].fingerprint == runs[1].fingerprint
