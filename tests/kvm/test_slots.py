# SPDX-License-Identifier: GPL-2.0-only
"""Memslots, attributes, holes and notifiers: what they do, step by step (facts 4.7, 4.11, 5.5)."""

from __future__ import annotations

from errno import EEXIST, EINVAL
from typing import Any

import pytest
from mmu_rig import Rig

from septum.kvm.operations import OPERATIONS
from septum.kvm.ret_pf import RET_PF_FIXED

SWAP = [
    "lock mn_invalidate_lock",
    "swap memslots memslots",
    "unlock mn_invalidate_lock",
    "unlock slots_arch_lock",
    "synchronize_srcu kvm->srcu",
    "synchronize_srcu-wait kvm->srcu",
    "write memslots_generation",
]
SHARED = ((0, 8, 0), (8, 4, -1))


def steps(rig: Rig, operation: str, *args: Any, without: tuple[str, ...] = ()) -> list[str]:
    """Every point of an operation, but those of page tables, roots and RCU."""
    left = ("sp", "rcu", "tdp_mmu_roots", "stat.", "page ", "pins ", *without)
    run = rig.m.run([("host", lambda: OPERATIONS[operation](rig.kvm, *args))])
    assert run.status == "complete", run.findings
    assert run.findings == []
    return [f"{e.op} {e.obj}" for e in run.events if not e.obj.startswith(left)]


def shared_rig(**options: Any) -> Rig:
    """GFNs 8 to 11 lie in a slot without guest_memfd and are shared."""
    rig = Rig(slots=SHARED, **options)
    OPERATIONS["set_attributes"](rig.kvm, 8, 12, private=False)
    assert rig.fault(9, shared=True) == RET_PF_FIXED
    rig.take()
    return rig


# --- memslots -------------------------------------------------------------------------------


def test_a_slot_is_invalidated_unmapped_and_only_then_deleted() -> None:
    rig = Rig()
    rig.fault(5)
    assert steps(rig, "delete_slot", 0) == [
        "lock slots_lock",
        "lock slots_arch_lock",
        *SWAP,  # the INVALID copy
        "write_lock mmu_lock",
        "write_unlock mmu_lock",
        "lock slots_arch_lock",
        *SWAP,
        "lock invalidate_lock",
        "write slot0.gmem.file",
        "unlock invalidate_lock",
        "unlock slots_lock",
    ]


def test_a_moved_slot_keeps_its_memory_and_loses_its_mappings() -> None:
    rig = shared_rig()
    assert steps(rig, "move_slot", 1, 12)[2:9] == SWAP
    assert OPERATIONS["move_slot"](rig.kvm, 1, 12) == 0
    assert "TLB" in rig.take()
    (moved,) = [slot for slot in rig.kvm.slots if slot.id == 1]
    assert (moved.base_gfn, moved.userspace_addr, moved.invalid) == (12, 8, False)
    OPERATIONS["set_attributes"](rig.kvm, 12, 16, private=False)
    assert rig.fault(13, shared=True) == RET_PF_FIXED
    assert rig.kvm.memslots_generation.v == 2
    assert rig.rules == []


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((0, 12, 4, -1), EINVAL),  # a slot with guest_memfd is never changed
        ((1, 12, 2, -1), EINVAL),  # another size
        ((1, 6, 4, -1), EEXIST),
        ((2, 11, 1, -1), EEXIST),
        ((3, 0, 0, -1), EINVAL),  # nothing to delete
        ((2, 12, 4, 0), EEXIST),  # the file's pages are bound
        ((2, 12, 4, -1), 0),
        ((1, 8, 4, -1), 0),  # no change
    ],
)
def test_what_a_slot_may_become(args: tuple[int, ...], error: int) -> None:
    rig = Rig(slots=((0, 8, 0), (8, 4, -1)))
    rig.kvm.gmem_files[0].bindings.set(
        (*rig.kvm.gmem_files[0].bindings.v, (12, 16, rig.kvm.slots[0]))
    )
    assert rig.fn.kvm_vm_ioctl_set_memory_region(rig.kvm, *args) == -error
    assert rig.m.current.held == []


def test_a_deleted_slot_can_be_made_again() -> None:
    rig = Rig()
    OPERATIONS["delete_slot"](rig.kvm, 0)
    assert rig.kvm.gmem_files[0].bindings.v == ()
    assert OPERATIONS["create_slot"](rig.kvm, 0, 0, 16, 0) == 0
    assert rig.fault(5) == RET_PF_FIXED
    assert rig.rules == []


# --- attributes -------------------------------------------------------------------------------


def test_attributes_are_stored_between_start_and_end() -> None:
    rig = Rig()
    rig.fault(5)
    assert steps(rig, "set_attributes", 5, 6, False) == [
        "lock slots_lock",
        "write_lock mmu_lock",
        "mmu_invalidate_start mmu_invalidate_in_progress",
        "write mmu_invalidate_range",
        "write mmu_invalidate_range",  # the whole of the "2M" page that becomes mixed
        "write_unlock mmu_lock",
        "write attr[5]",
        "write_lock mmu_lock",
        "mmu_invalidate_end mmu_invalidate_in_progress",
        "write_unlock mmu_lock",
        "unlock slots_lock",
    ]
    assert steps(rig, "set_attributes", 5, 6, True) == ["lock slots_lock", "unlock slots_lock"]


def test_attributes_without_a_slot_take_no_mmu_lock() -> None:
    rig = Rig()
    stored = steps(rig, "set_attributes", 20, 21, False)
    assert stored == ["lock slots_lock", "write attr[14]", "unlock slots_lock"]


def test_mixed_ranges_cannot_be_huge() -> None:
    """Ranges of 4 GFNs: the first becomes mixed, and uniform again with its last page."""
    rig = Rig(max_level=2)
    arch = rig.kvm.slots[0].arch

    def mixed(private: bool, start: int, end: int) -> tuple[bool, bool]:
        assert OPERATIONS["set_attributes"](rig.kvm, start, end, private=private) == 0
        return arch.mixed(0, 2).v, arch.mixed(4, 2).v

    assert mixed(False, 1, 2) == (True, False)
    assert mixed(False, 0, 6) == (False, True)
    assert mixed(True, 4, 6) == (False, False)
    assert rig.kvm.mmu_invalidate_range.v == (4, 6)  # mixed already
    assert mixed(True, 0, 3) == (True, False)


# --- notifiers ----------------------------------------------------------------------------------


def test_notifier_brackets_the_freeing_of_the_pages() -> None:
    rig = shared_rig()
    page = "xchg hva[9]"
    assert steps(rig, "unmap_hva", 9, 10) == [
        "lock mn_invalidate_lock",
        "unlock mn_invalidate_lock",
        "srcu_read_lock kvm->srcu",
        "read memslots",
        "write_lock mmu_lock",
        "mmu_invalidate_start mmu_invalidate_in_progress",
        "write mmu_invalidate_range",
        "write_unlock mmu_lock",
        "srcu_read_unlock kvm->srcu",
        page,
        "srcu_read_lock kvm->srcu",
        "read memslots",
        "write_lock mmu_lock",
        "mmu_invalidate_end mmu_invalidate_in_progress",
        "write_unlock mmu_lock",
        "srcu_read_unlock kvm->srcu",
        "lock mn_invalidate_lock",
        "unlock mn_invalidate_lock",
    ]


def test_notifier_outside_of_every_slot_takes_no_mmu_lock() -> None:
    rig = shared_rig()
    assert not any("mmu_lock" in step for step in steps(rig, "unmap_hva", 20, 21))


def test_notifier_leaves_private_memory_alone() -> None:
    rig = Rig()
    rig.fault(5)
    rig.take()
    OPERATIONS["unmap_hva"](rig.kvm, 5, 6)
    assert rig.take() == ["T kvm_unmap_hva_range 5"]
    assert rig.counters[0] == 1


def test_a_count_of_zero_is_not_lowered() -> None:
    rig = Rig()
    rig.fn.kvm_mmu_notifier_invalidate_range_end(rig.kvm, 20, 21)
    assert rig.rules == ["WARN:kvm_mmu_notifier_invalidate_range_end"]
    assert rig.kvm.mn_active_invalidate_count.v == 0


# --- guest_memfd ----------------------------------------------------------------------------------


def test_one_hole_over_two_slots_is_one_invalidation() -> None:
    rig = Rig(slots=((0, 8, 0), (8, 8, 0)))
    rig.fault(7)
    rig.fault(8)
    assert [s for s in steps(rig, "punch_hole", 7, 9) if "gmem" not in s] == [
        "lock invalidate_lock",
        "write_lock mmu_lock",
        "mmu_invalidate_start mmu_invalidate_in_progress",
        "write mmu_invalidate_range",
        "write mmu_invalidate_range",
        "write_unlock mmu_lock",
        "write_lock mmu_lock",
        "mmu_invalidate_end mmu_invalidate_in_progress",
        "write_unlock mmu_lock",
        "unlock invalidate_lock",
    ]


def test_files_have_their_own_pages_and_locks() -> None:
    rig = Rig(slots=((0, 8, 0), (8, 8, 1)))
    rig.fault(8)
    files = rig.kvm.gmem_files
    assert files[0].cache.peek(8) == 0
    assert files[1].cache.peek(8) == 0x110008
    assert "lock invalidate_lock1" in steps(rig, "punch_hole", 8, 9, 1)
    assert OPERATIONS["punch_hole"](rig.kvm, 8, 9, 0) is None
    assert rig.counters[0] == 1


def test_a_closed_file_gives_no_pages() -> None:
    rig = Rig()
    rig.fault(5)
    OPERATIONS["close_gmem"](rig.kvm)
    assert rig.counters[0] == 0
    assert rig.fault(5) == -14
    assert rig.kvm.users.v == {"vm", "vcpu0"}
