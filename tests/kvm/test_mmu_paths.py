# SPDX-License-Identifier: GPL-2.0-only
"""The stores, hooks, trace lines and counters of each operation, in order (facts 4, 6, 8.2)."""

from __future__ import annotations

from dataclasses import replace
from errno import EBUSY, EIO

import pytest
from mmu_rig import Rig

from septum.kvm.operations import OPERATIONS, root_of
from septum.kvm.ret_pf import RET_PF_FIXED, RET_PF_RETRY, RET_PF_SPURIOUS
from septum.kvm.spte import FROZEN_SPTE, SHADOW_NONPRESENT_VALUE
from septum.kvm.structs import KVM_MEMSLOT_INVALID
from septum.kvm.tdp_iter import TdpIter
from septum.machine import Halt
from septum.machine.geometry import Geometry

# In the small geometry: sp0 is the mirror root, sp1 the direct root; a fault's tables
# take a page for spt and one for external_spt each.
INSTALL = [
    "T spte_requested 5",
    "T get_page 0",
    "S sp0[0] -->FROZEN",
    "H 0 -->sp2 l3 =0 FROZEN",
    "T changed 0 l3 -->sp2",
    "S sp0[0] FROZEN->sp2",
    "T get_page 4",
    "S sp2[1] -->FROZEN",
    "H 4 -->sp4 l2 =0 FROZEN",
    "T changed 4 l2 -->sp4",
    "S sp2[1] FROZEN->sp4",
    "S sp4[1] -->FROZEN",
    "H 5 -->L5 l1 =0 FROZEN",
    "T changed 5 l1 -->L5",
    "X l1 +1",
    "S sp4[1] FROZEN->L5",
    "T set_spte 5",
]


def test_install_under_the_read_lock() -> None:
    rig = Rig()
    assert rig.fault(5) == RET_PF_FIXED
    assert rig.take() == INSTALL
    assert rig.counters == (1, 0, 0, 2)
    assert rig.fault(5) == RET_PF_SPURIOUS
    assert rig.take() == ["T spte_requested 5"]
    assert rig.rules == []


@pytest.mark.parametrize("error", [-EBUSY, -EIO])
@pytest.mark.parametrize("call", [0, 1, 2])
def test_a_failing_hook_restores_the_entry(error: int, call: int) -> None:
    rig = Rig()
    rig.script = [0] * call + [error]
    assert rig.fault(5) == RET_PF_RETRY
    log = rig.take()
    hook = next(i for i, line in enumerate(log) if f"={error}" in line)
    entry = ("sp0[0]", "sp2[1]", "sp4[1]")[call]
    expected = [f"S {entry} FROZEN->-"]
    if call < 2:  # the page that was meant for the S-EPT goes back at once
        expected.append("P " + ("50003", "50005")[call])
    assert log[hook + 1 :] == expected
    assert rig.counters == (0, 0, 0, call)
    assert rig.fault(5) == RET_PF_FIXED
    assert rig.counters == (1, 0, 0, 2)


def test_a_frozen_entry_makes_faults_back_off() -> None:
    rig = Rig()
    rig.fault(5)
    rig.mirror.spt.word(0).write(FROZEN_SPTE)
    rig.take()
    assert rig.fault(6) == RET_PF_RETRY
    assert rig.take() == ["T spte_requested 6"]
    assert rig.mirror.spt.word(0) in rig.m.current.blame
    assert "a fault met FROZEN_SPTE" in rig.m.reached


def test_direct_roots_are_stored_to_once_and_without_hook() -> None:
    rig = Rig()
    gfn = 5
    rig.kvm.mem_attr(gfn).write(0)
    rig.take()
    assert rig.fault(gfn, shared=True) == RET_PF_FIXED
    log = rig.take()
    assert [line for line in log if line[0] in "SH"] == [
        "S sp1[2] -->sp2",  # the shared bit selects the upper half
        "S sp2[1] -->sp3",
        "S sp3[1] -->L5",
    ]
    assert rig.kvm.mmu_pages[rig.direct.pfn].external_spt.v == 0
    assert rig.counters == (1, 0, 0, 2)


ZAP_LEAF = ["S sp4[1] L5->-", "H 5 L5->- l1 =0 -", "T changed 5 l1 L5->-", "X l1 -1", "TLB"]


@pytest.mark.parametrize("operation", ["zap_range", "punch_hole"])
def test_zap_leaf_writes_before_the_hook(operation: str) -> None:
    rig = Rig()
    rig.fault(5)
    rig.take()
    OPERATIONS[operation](rig.kvm, 5, 6)
    assert rig.take() == ZAP_LEAF + (["P 100005"] if operation == "punch_hole" else [])
    assert rig.counters == (0, 0, 0, 2)
    assert rig.kvm.mmu_invalidate_in_progress.v == 0
    assert rig.kvm.mmu_invalidate_seq.v == 1
    assert rig.rules == []


def test_a_failing_removal_bugs_the_vm_and_is_not_rolled_back() -> None:
    rig = Rig()
    rig.fault(5)
    rig.take()
    rig.script = [-EIO]
    OPERATIONS["zap_range"](rig.kvm, 5, 6)
    assert rig.take() == ["S sp4[1] L5->-", "H 5 L5->- l1 =-5 -", "TLB"]
    assert rig.rules == ["BUG:handle_changed_spte"]
    assert rig.kvm.vm_bugged.v and rig.kvm.vm_dead.v
    assert rig.counters == (1, 0, 0, 2)


SUBTREE = {
    # Only present children are frozen, the parent is written first and traced last.
    False: [
        "S sp2[1] sp4->-",
        "T prepare_zap_page 4",
        "S sp4[1] L5->FROZEN",
        "H 5 L5->FROZEN l1 =0 FROZEN",
        "T changed 5 l1 L5->FROZEN",
        "X l1 -1",
        "F sp4",
        "P 50005",
        "T changed 4 l2 sp4->-",
        "TLB",
    ],
    # All children are frozen and traced; the parent is FROZEN until the end.
    True: [
        "S sp2[1] sp4->FROZEN",
        "T prepare_zap_page 4",
        "S sp4[0] -->FROZEN",
        "T changed 4 l1 -->FROZEN",
        "S sp4[1] L5->FROZEN",
        "H 5 L5->FROZEN l1 =0 FROZEN",
        "T changed 5 l1 L5->FROZEN",
        "X l1 -1",
        "S sp4[2] -->FROZEN",
        "T changed 6 l1 -->FROZEN",
        "S sp4[3] -->FROZEN",
        "T changed 7 l1 -->FROZEN",
        "F sp4",
        "P 50005",
        "T changed 4 l2 sp4->-",
        "S sp2[1] FROZEN->-",
        "TLB",
    ],
}


@pytest.mark.parametrize("shared", [False, True])
def test_subtree_removal(shared: bool) -> None:
    rig = Rig()
    rig.fault(5)
    table = rig.kvm.mmu_pages[0x50004]
    rig.take()
    OPERATIONS["zap_table"](rig.kvm, 5, level=2, shared=shared)
    assert rig.take() == SUBTREE[shared]
    assert rig.counters == (0, 0, 0, 1)
    assert not table.spt.live
    assert [table.spt.freed] == [False]
    rig.kvm.rcu.barrier()
    assert [table.spt.freed] == [True]
    assert rig.rules == []


def test_removal_of_an_upper_table_recurses() -> None:
    rig = Rig()
    rig.fault(5)
    rig.take()
    OPERATIONS["zap_table"](rig.kvm, 5, level=3)
    assert [line for line in rig.take() if line[0] in "SF" or "prepare" in line] == [
        "S sp0[0] sp2->-",
        "T prepare_zap_page 0",
        "S sp2[1] sp4->FROZEN",
        "T prepare_zap_page 4",
        "S sp4[1] L5->FROZEN",
        "F sp4",
        "F sp2",
    ]
    assert rig.counters == (0, 0, 0, 0)


def test_split_and_merge_of_a_mirror_leaf_under_the_write_lock() -> None:
    rig = Rig(max_level=2)
    rig.fn.gmem_max_mapping_level = lambda kvm, pfn, is_private: 0
    assert rig.fault(5) == RET_PF_FIXED
    assert rig.counters == (0, 1, 0, 1)
    rig.take()
    OPERATIONS["split"](rig.kvm, 4, 8)
    assert rig.take() == [
        "T get_page 4",
        "S sp2[1] L4->sp4",
        "H 4 L4->sp4 l2 =0 sp4",
        "T changed 4 l2 L4->sp4",
        "X l2 -1",
        "X l1 +4",
        "T split_huge_page 4",
    ]
    assert rig.counters == (4, 0, 0, 2)
    OPERATIONS["merge"](rig.kvm, 4)
    log = rig.take()
    assert log[:2] == ["S sp2[1] sp4->L4", "T prepare_zap_page 4"]
    assert sum(line.startswith("H") for line in log) == 4
    assert log[-3:] == ["T changed 4 l2 sp4->L4", "X l2 +1", "TLB"]
    assert rig.counters == (0, 1, 0, 1)


@pytest.mark.parametrize("shared", [True, False])
def test_fault_splits_a_huge_leaf_and_bugs_the_vm_if_it_is_a_mirror_one(shared: bool) -> None:
    rig = Rig(max_level=2, private=not shared)
    level = 2
    rig.fn.kvm_mmu_max_mapping_level = lambda kvm, fault: level
    assert rig.fault(5, shared=shared) == RET_PF_FIXED
    assert rig.counters == (0, 1, 0, 1)
    level = 1
    assert rig.fault(6, shared=shared) == RET_PF_SPURIOUS
    assert rig.counters == (4, 0, 0, 2)
    assert rig.rules == ([] if shared else ["BUG:kvm_tdp_mmu_map"])


def test_prefault_leaves_the_accessed_bit_clear() -> None:
    rig = Rig(geometry=Geometry(), slots=((0x7D000, 0x1000),))
    rig.kvm.pre_fault_allowed.write(True)
    rig.take()
    assert OPERATIONS["prefault"](rig.kvm, 0, 0x7D276) == 0
    word = rig.kvm.mmu_pages[0x50006].spt.word(0x76)
    assert word.v == 0x80A0_0001_7D27_6E37
    rig.take()
    OPERATIONS["zap_range"](rig.kvm, 0x7D276, 0x7D277)
    assert rig.fault(0x7D276) == RET_PF_FIXED
    assert word.v == 0x80A0_0001_7D27_6F37


def test_prefault_is_refused_before_finalize_and_for_shared_gpas() -> None:
    rig = Rig()
    assert OPERATIONS["prefault"](rig.kvm, 0, 5) == -95
    rig.kvm.pre_fault_allowed.write(True)
    assert OPERATIONS["prefault"](rig.kvm, 0, rig.kvm.gfn_direct_bits | 5) == -22
    assert OPERATIONS["prefault"](rig.kvm, 0, 5) == 0


def test_map_private_pfn_needs_slots_lock_and_refuses_a_second_time() -> None:
    rig = Rig()
    pfn = rig.kvm.host.gmem.get_pfn(5)
    rig.kvm.slots_lock.lock()
    assert rig.fn.kvm_tdp_mmu_map_private_pfn(rig.vcpu, 5, pfn) == 0
    assert rig.fn.kvm_tdp_mmu_map_private_pfn(rig.vcpu, 5, pfn) == -EIO
    rig.kvm.slots_lock.unlock()
    assert rig.rules == []
    rig.fn.kvm_tdp_mmu_map_private_pfn(rig.vcpu, 6, rig.kvm.host.gmem.get_pfn(6))
    assert rig.rules == ["I10"]


def test_ageing_a_mirror_leaf_is_refused_and_a_direct_one_is_a_cmpxchg() -> None:
    rig = Rig()
    rig.fault(5)
    rig.kvm.mem_attr(6).write(0)
    rig.fault(6, shared=True)
    rig.take()
    assert OPERATIONS["age"](rig.kvm, 4, 8) is True
    assert rig.take() == ["S sp7[2] L6->L6", "T changed 6 l1 L6->L6"]
    assert OPERATIONS["age"](rig.kvm, 4, 8) is False
    assert rig.rules == []
    assert OPERATIONS["age"](rig.kvm, 4, 8, private=True) is True
    assert rig.take() == []
    assert rig.rules == ["WARN:kvm_tdp_mmu_age_spte"]


def test_conversion_zaps_the_old_side_only() -> None:
    rig = Rig()
    rig.fault(5)
    rig.take()
    assert OPERATIONS["set_attributes"](rig.kvm, 5, 6, private=False) == 0
    assert [line for line in rig.take() if line[0] in "SHP"] == ZAP_LEAF[:2]
    assert rig.fault(5) == -14
    assert rig.fault(5, shared=True) == RET_PF_FIXED
    assert OPERATIONS["set_attributes"](rig.kvm, 5, 6, private=True) == 0
    assert [line for line in rig.take() if line[0] == "S"][-1].startswith("S sp7[1]")
    assert rig.counters == (0, 0, 0, 4)


def test_retry_protocol() -> None:
    rig = Rig()
    kvm = rig.kvm
    kvm.mmu_lock.write_lock()
    rig.fn.kvm_mmu_invalidate_start(kvm)
    rig.fn.kvm_mmu_invalidate_range_add(kvm, 4, 6)
    rig.fn.kvm_mmu_invalidate_range_add(kvm, 6, 8)
    kvm.mmu_lock.write_unlock()
    assert kvm.mmu_invalidate_range.v == (4, 8)
    assert rig.fault(7) == RET_PF_RETRY
    assert rig.fault(8) == RET_PF_FIXED
    kvm.mmu_lock.write_lock()
    assert rig.fn.mmu_invalidate_retry_gfn(kvm, 0, 5)
    assert not rig.fn.mmu_invalidate_retry_gfn(kvm, 0, 8)
    rig.fn.kvm_mmu_invalidate_end(kvm)
    assert rig.fn.mmu_invalidate_retry_gfn(kvm, 0, 8)
    assert not rig.fn.mmu_invalidate_retry_gfn(kvm, 1, 8)
    kvm.mmu_lock.write_unlock()
    assert rig.fault(7) == RET_PF_FIXED
    assert rig.rules == []


def test_an_invalid_slot_makes_faults_retry_and_a_deleted_one_an_error() -> None:
    rig = Rig()
    rig.fault(5)
    slots = rig.kvm.slots
    rig.kvm.memslots.write((replace(slots[0], flags=KVM_MEMSLOT_INVALID),))
    assert rig.fault(5) == RET_PF_RETRY
    rig.kvm.memslots.write(slots)
    rig.take()
    OPERATIONS["delete_slot"](rig.kvm, 0)
    assert rig.take() == ZAP_LEAF
    assert rig.fault(5) == -14


def test_teardown_frees_every_table_once() -> None:
    rig = Rig(vcpus=2)
    rig.fault(5)
    rig.fault(13)
    assert rig.mirror.tdp_mmu_root_count.v == 3
    OPERATIONS["release_gmem"](rig.kvm)
    assert rig.counters == (0, 0, 0, 3)
    rig.take()
    OPERATIONS["destroy_mmu"](rig.kvm)
    # Children before parents.
    assert [line for line in rig.take() if line[0] == "F"] == ["F sp4", "F sp6", "F sp2"]
    assert rig.counters == (0, 0, 0, 0)
    assert rig.kvm.tdp_mmu_roots.v == ()
    assert all(sp.spt.freed for sp in rig.kvm.mmu_pages.values())
    assert rig.rules == []


def test_roots_are_shared_between_vcpus_and_survive_unload() -> None:
    rig = Rig(vcpus=2)
    first, second = rig.kvm.vcpus
    assert first.mirror_root_hpa.v == second.mirror_root_hpa.v
    assert root_of(rig.kvm, mirror=True) is rig.mirror
    rig.fn.kvm_mmu_unload(first)
    assert first.root_hpa.v == -1
    assert rig.fn.kvm_mmu_reload(first) == 0
    assert first.root_hpa.v == second.root_hpa.v
    assert rig.direct.tdp_mmu_root_count.v == 3
    for _ in range(3):
        rig.fn.kvm_tdp_mmu_put_root(rig.kvm, rig.direct)
    assert rig.rules == ["BUG:kvm_tdp_mmu_put_root"]


@pytest.mark.parametrize("name", ["tdp_mmu_set_spte_atomic", "tdp_mmu_iter_set_spte"])
def test_setters_assert_their_lock(name: str) -> None:
    rig = Rig()
    rig.fault(5)
    it = TdpIter(rig.kvm, rig.kvm.mmu_pages[0x50002], 1, 5, 0)
    getattr(rig.fn, name)(rig.kvm, it, SHADOW_NONPRESENT_VALUE)
    assert rig.rules == ["I10"]
    assert rig.m.findings[0].obj == "mmu_lock"


def test_pfn_change_of_a_leaf_is_a_bug() -> None:
    rig = Rig()
    rig.fault(5)
    word = rig.kvm.mmu_pages[0x50004].spt.word(1)
    rig.kvm.mmu_lock.write_lock()
    with pytest.raises(Halt):
        rig.fn.tdp_mmu_set_spte(rig.kvm, word, word.v, word.v + (1 << 12), 5, 1)
    assert rig.rules == ["BUG:__handle_changed_spte"]
