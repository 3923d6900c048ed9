# SPDX-License-Identifier: GPL-2.0-only
"""SPTE values and predicates against the values of facts 1 and 8.2 (EPT, 7.3)."""

from __future__ import annotations

import pytest
from mmu_rig import Rig

from septum.kvm import spte
from septum.kvm.structs import KvmMmuPage, Role
from septum.machine.geometry import Geometry

LEAF = 0x80A0_0021_BAE7_6F37
NONLEAF = 0x8000_0010_AB8C_9D07


@pytest.fixture
def rig() -> Rig:
    return Rig(geometry=Geometry(), slots=((0, 0x80000),))


def page(rig: Rig, level: int, pfn: int = 0x10AB8C9) -> KvmMmuPage:
    sp = KvmMmuPage(rig.kvm, f"test{level}", pfn, spte.SHADOW_NONPRESENT_VALUE)
    sp.init(Role(level, is_mirror=True), 0, None)
    return sp


def test_leafs_and_tables_have_the_recorded_values(rig: Rig) -> None:
    sp = page(rig, 1)
    assert spte.make_spte(rig.kvm, sp, 0x21BAE76) == (False, LEAF)
    assert spte.make_spte(rig.kvm, sp, 0x21BAE76, prefetch=True) == (False, LEAF & ~0x100)
    assert spte.make_nonleaf_spte(sp) == NONLEAF
    _, read_only = spte.make_spte(rig.kvm, sp, 1, host_writable=False)
    assert not read_only & (
        spte.PT_WRITABLE_MASK | spte.EPT_SPTE_MMU_WRITABLE | spte.VMX_EPT_DIRTY_BIT
    )


def test_an_ordinary_vm_ignores_the_guests_pat() -> None:
    rig = Rig(geometry=Geometry(), slots=(), vm_type=0)
    assert spte.make_spte(rig.kvm, page(rig, 1), 0x21BAE76) == (False, LEAF | 1 << 6)


def test_role_word_of_a_mirror_table() -> None:
    assert Role(1, is_mirror=True).word() == 0x86F81
    assert Role(4).word(invalid=True) == 0x7F84


def test_huge_and_small_are_inverse(rig: Rig) -> None:
    _, huge = spte.make_spte(rig.kvm, page(rig, 2), 0x21BAE00)
    small = spte.make_small_spte(rig.kvm, huge, 1, 0x76)
    assert small == LEAF
    assert spte.make_huge_spte(rig.kvm, small, 2) == huge
    _, giant = spte.make_spte(rig.kvm, page(rig, 3), 0x2180000)
    assert spte.spte_to_pfn(spte.make_small_spte(rig.kvm, giant, 2, 3)) == 0x2180600


@pytest.mark.parametrize(
    ("value", "level", "predicates"),
    [
        (spte.SHADOW_NONPRESENT_VALUE, 1, {"last"}),
        (spte.FROZEN_SPTE, 1, {"last", "frozen", "large", "accessed"}),
        (spte.FROZEN_SPTE, 2, {"last", "frozen", "large", "accessed"}),
        (LEAF, 1, {"present", "last", "writable", "mmu-writable", "accessed"}),
        (NONLEAF, 2, {"present", "writable", "accessed"}),
        (LEAF & ~2, 1, {"present", "last", "mmu-writable", "accessed", "atomic"}),
        (LEAF & ~0x200, 1, {"present", "last", "writable", "mmu-writable", "accessed", "atomic"}),
        (LEAF & ~0x100, 1, {"present", "last", "writable", "mmu-writable"}),
        (0, 1, {"last", "mmio"}),
    ],
)
def test_predicates(rig: Rig, value: int, level: int, predicates: set[str]) -> None:
    found = {
        "present": spte.is_shadow_present_pte(value),
        "frozen": spte.is_frozen_spte(value),
        "large": spte.is_large_pte(value),
        "last": spte.is_last_spte(value, level),
        "writable": spte.is_writable_pte(value),
        "mmu-writable": spte.is_mmu_writable_spte(value),
        "accessed": spte.is_accessed_spte(value),
        "atomic": spte.kvm_tdp_mmu_spte_need_atomic_update(value, level),
        "mmio": spte.is_mmio_spte(rig.kvm, value),
    }
    assert {name for name, holds in found.items() if holds} == predicates


def test_access_tracking_saves_r_and_x_but_not_w() -> None:
    assert spte.mark_spte_for_access_track(LEAF) == LEAF & ~0x100
    disabled = LEAF | spte.SPTE_TDP_AD_DISABLED
    tracked = spte.mark_spte_for_access_track(disabled)
    assert spte.is_access_track_spte(tracked)
    assert tracked >> 52 & 0x407 == 0x405 | (LEAF >> 52 & 2)
    assert spte.mark_spte_for_access_track(tracked) == tracked


def test_writable_invariants(rig: Rig) -> None:
    spte.check_spte_writable_invariants(rig.kvm, LEAF)
    assert rig.rules == []
    spte.check_spte_writable_invariants(rig.kvm, LEAF & ~spte.EPT_SPTE_HOST_WRITABLE)
    spte.check_spte_writable_invariants(rig.kvm, LEAF & ~spte.EPT_SPTE_MMU_WRITABLE)
    assert rig.rules == ["WARN:check_spte_writable_invariants"] * 2
