# SPDX-License-Identifier: GPL-2.0-only
"""What the operations on direct roots leave behind (facts 1.1, 1.2, 4.12 to 4.17)."""

from __future__ import annotations

import pytest
from direct_rig import do, ordinary_vm

from septum.kvm.features import Features
from septum.kvm.ret_pf import PFERR_PRESENT_MASK, PFERR_WRITE_MASK
from septum.kvm.spte import (
    change_spte_executable,
    get_mmio_spte_generation,
    get_mmio_spte_gfn,
    is_mmio_spte,
    make_mmio_spte,
    mark_spte_for_access_track,
    restore_acc_track_spte,
)
from septum.kvm.structs import Kvm

LOW = 0xFFF
HOST, MMU = 1 << 53, 1 << 55


def leaf(kvm: Kvm, gfn: int = 0) -> int:
    """The value at the end of the CPU's way to ``gfn``."""
    sp = kvm.mmu_pages[kvm.vcpus[0].root_hpa.v >> 12]
    while True:
        value: int = sp.spt.word(kvm.geometry.index(gfn, sp.role.level)).v
        if not value >> 11 & 1 or value >> 7 & 1 or sp.role.level == 1:
            return value
        sp = kvm.mmu_pages[(value & (1 << 52) - 1) >> 12]


def test_an_ordinary_vm_ignores_the_guest_pat() -> None:
    kvm = ordinary_vm()
    do(kvm, "access", 0)
    assert leaf(kvm) & LOW == 0xF77
    assert leaf(kvm) & HOST and leaf(kvm) & MMU


def test_write_protection_for_the_log_keeps_mmu_writable() -> None:
    kvm = ordinary_vm()
    do(kvm, "access", 0)
    do(kvm, "log_dirty", 1)
    assert not leaf(kvm) & 2 and leaf(kvm) & MMU


def test_write_tracking_takes_mmu_writable_and_is_emulated() -> None:
    kvm = ordinary_vm(write_tracking=True)
    do(kvm, "access", 0)
    do(kvm, "write_track", 0)
    assert not leaf(kvm) & 2 and not leaf(kvm) & MMU and leaf(kvm) & HOST
    do(kvm, "access", 0)
    assert "a write to a tracked page was emulated" in kvm.m.reached
    assert not leaf(kvm) & 2


def test_ageing_without_ad_bits_saves_the_accesses() -> None:
    kvm = ordinary_vm(ad=False)
    do(kvm, "access", 0)
    before = leaf(kvm)
    assert do(kvm, "age", 0, 1) is True
    assert leaf(kvm) & 0x507 == 0 and leaf(kvm) >> 52 & 0x405 == 0x405
    assert do(kvm, "test_age", 0, 1) is False
    do(kvm, "access", 0)
    assert leaf(kvm) == before


def test_access_track_round_trip() -> None:
    leaf_value = 1 << 60 | 0x80A00021BAE76C77 & ~(3 << 60) | 0x107
    tracked = mark_spte_for_access_track(leaf_value)
    assert mark_spte_for_access_track(tracked) == tracked
    # W is not saved: it comes back by the fault.
    assert restore_acc_track_spte(tracked) == leaf_value & ~0x102


@pytest.mark.parametrize("tracked", [False, True])
def test_execution_of_a_tracked_spte_is_in_the_saved_bits(tracked: bool) -> None:
    spte = 1 << 60 | 1 << 63 | 0x80B | 0x404
    spte = mark_spte_for_access_track(spte) if tracked else spte
    without = change_spte_executable(spte, False)
    assert change_spte_executable(without, True) == spte
    assert without & (0x404 << 52 if tracked else 0x404) == 0


def test_nx_huge_page_is_not_executable_and_its_parts_are() -> None:
    kvm = ordinary_vm(max_level=2, nx=True)
    do(kvm, "access", 0, "read")
    assert leaf(kvm) & 0x84 == 0x80
    do(kvm, "access", 1, "fetch")
    assert leaf(kvm, 0) & 0x84 == leaf(kvm, 1) & 0x84 == 0x04
    assert (kvm.nx_nr_pages.v, kvm.nx_lpage_splits.v) == (1, 1)
    do(kvm, "recover_nx")
    assert (kvm.nx_nr_pages.v, kvm.nx_lpage_splits.v, kvm.possible_nx_huge_pages.v) == (0, 0, ())
    do(kvm, "access", 0)
    assert leaf(kvm) & 0x84 == 0x80


def test_nx_recovery_leaves_dirty_logged_slots_alone() -> None:
    kvm = ordinary_vm(max_level=2, nx=True)
    do(kvm, "access", 0, "fetch")
    do(kvm, "log_dirty", 1)
    do(kvm, "recover_nx")
    assert kvm.nx_nr_pages.v == 0 and leaf(kvm) >> 11 & 1


def test_a_dirty_log_reports_each_write_once() -> None:
    kvm = ordinary_vm()
    do(kvm, "access", 0)
    do(kvm, "log_dirty", 1)
    assert do(kvm, "get_dirty") == 0
    do(kvm, "access", 2)
    assert do(kvm, "get_dirty") == 0b100
    assert do(kvm, "get_dirty") == 0


def test_pml_marks_at_the_exit() -> None:
    kvm = ordinary_vm(pml=True)
    do(kvm, "access", 0)
    do(kvm, "log_dirty", 1)
    do(kvm, "access", 0)
    assert leaf(kvm) & 0x200 and do(kvm, "get_dirty") == 1
    assert not leaf(kvm) & 0x200


def test_manual_protect_clears_what_it_is_told() -> None:
    kvm = ordinary_vm(manual=True)
    do(kvm, "log_dirty", 1)
    do(kvm, "access", 0)
    do(kvm, "access", 1)
    assert do(kvm, "get_dirty") == do(kvm, "get_dirty") == 0b11
    assert do(kvm, "clear_dirty", 0b110) == 0b10
    assert do(kvm, "get_dirty") == 0b01


def test_recovery_brings_huge_pages_back() -> None:
    kvm = ordinary_vm(max_level=2)
    do(kvm, "log_dirty", 1)
    do(kvm, "access", 0)
    assert not leaf(kvm) & 0x80
    do(kvm, "log_dirty", 0)
    assert leaf(kvm) & 0x80 and [w.v for w in kvm.stat_pages] == [0, 1, 0]


@pytest.mark.parametrize("generation", [0, 1, 0x7F, 0x80, 0x3FFFF])
def test_mmio_spte(generation: int) -> None:
    kvm = ordinary_vm()
    kvm.memslots_generation.set(generation)
    spte = make_mmio_spte(kvm, 0xFEE00)
    assert is_mmio_spte(kvm, spte) and not spte >> 11 & 1
    assert get_mmio_spte_generation(spte) == generation
    assert get_mmio_spte_gfn(spte) == 0xFEE00


def test_an_mmio_spte_becomes_a_page_when_its_slot_is_created() -> None:
    kvm = ordinary_vm()
    do(kvm, "access", 4)
    assert is_mmio_spte(kvm, leaf(kvm, 4))
    do(kvm, "create_slot", 1, 4, 2)
    do(kvm, "access", 4)
    assert "an MMIO SPTE had a stale generation" in kvm.m.reached
    assert leaf(kvm, 4) >> 11 & 1


def test_fast_zap_gives_the_vcpu_a_new_root() -> None:
    kvm = ordinary_vm()
    do(kvm, "access", 0)
    old = kvm.vcpus[0].root_hpa.v
    do(kvm, "zap_all_fast")
    do(kvm, "access", 0)
    kvm.rcu.barrier()
    assert kvm.vcpus[0].root_hpa.v != old
    assert kvm.mmu_pages[old >> 12].spt.freed
    assert [w.v for w in kvm.stat_pages] == [1, 0, 0]


def test_an_allocation_failure_in_the_split_leaves_the_huge_page() -> None:
    kvm = ordinary_vm(max_level=2, eager_split=True)
    do(kvm, "access", 0)
    kvm.host.alloc_failures.set(1)
    kvm.m.choose = lambda name, options: options[-1]  # type: ignore[method-assign]
    do(kvm, "log_dirty", 1)
    assert leaf(kvm) & 0x82 == 0x80
    assert kvm.mmu_pages[kvm.vcpus[0].root_hpa.v >> 12].tdp_mmu_root_count.v == 2


@pytest.mark.parametrize(
    "wrong", [{"pml": True, "ad": False}, {"init_set": True}], ids=["pml", "init-set"]
)
def test_impossible_features_are_refused(wrong: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match="needs"):
        Features(**wrong)


def test_a_write_to_a_present_page_is_eligible_for_the_fast_path() -> None:
    kvm = ordinary_vm()
    do(kvm, "access", 0)
    do(kvm, "log_dirty", 1)
    kvm.recorder = []
    do(kvm, "access", 0)
    hits = [fields for name, _, fields in kvm.recorder if name == "fast_page_fault"]
    assert len(hits) == 1
    assert hits[0]["error_code"] & (PFERR_PRESENT_MASK | PFERR_WRITE_MASK) == 3
    names = [name for name, _, _ in kvm.recorder]
    assert "kvm_tdp_mmu_spte_changed" not in names  # W comes without a line (facts 4.19)
