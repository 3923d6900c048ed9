# SPDX-License-Identifier: GPL-2.0-only
"""I25: what its owner has given back is mapped by no direct root, valid or invalid."""

from __future__ import annotations

from collections import Counter

import pytest
from direct_rig import bound, do, ordinary_vm
from hypothesis import given
from hypothesis import strategies as st

from septum.kvm.mmu import KvmPageFault
from septum.kvm.monitors import Monitors
from septum.kvm.monitors.direct import FreedPagesUnmapped
from septum.kvm.roots import KVM_DIRECT_ROOTS
from septum.kvm.spte import is_last_spte, is_shadow_present_pte, spte_to_pfn
from septum.kvm.structs import Kvm, Vcpu
from septum.kvm.view import KvmView


def watched(max_level: int = 1, **features: bool) -> tuple[Kvm, Monitors]:
    kvm = ordinary_vm(max_level, **features)
    return kvm, Monitors(KvmView(kvm))


def invalidate_roots(kvm: Kvm) -> None:
    kvm.mmu_lock.write_lock()
    kvm.fn.kvm_tdp_mmu_invalidate_roots(kvm, KVM_DIRECT_ROOTS)
    kvm.mmu_lock.write_unlock()


def told(kvm: Kvm) -> list[tuple[str, str]]:
    return [(finding.rule, finding.message) for finding in kvm.m.findings]


@pytest.mark.parametrize("invalid", [False, True])
def test_a_page_is_freed_that_a_root_maps(invalid: bool) -> None:
    kvm, _ = watched()
    do(kvm, "access", 0)
    do(kvm, "access", 1)
    pfn = kvm.host.hva.peek(0)
    if invalid:
        invalidate_roots(kvm)
    kvm.host.hva.truncate(0)
    message = f"page {pfn:x} is freed, the direct root sp0 maps gfn 0 to page {pfn:x}"
    assert told(kvm) == [("I25", message)]


def test_each_page_below_a_huge_leaf_counts() -> None:
    kvm, _ = watched(max_level=2)
    do(kvm, "access", 0)
    kvm.host.hva.truncate(1)
    ((rule, message),) = told(kvm)
    assert rule == "I25"
    assert "maps gfn 1" in message


def test_the_notifier_comes_first() -> None:
    kvm, _ = watched(max_level=2)
    do(kvm, "access", 0)
    invalidate_roots(kvm)
    do(kvm, "unmap_hva", 0, 2)
    assert told(kvm) == []


def test_a_freed_page_is_mapped() -> None:
    """By a fault, if nobody tells it that what it looked up is out of date."""
    kvm, _ = watched()
    look_up = getattr(kvm.fn, "__kvm_mmu_faultin_pfn")

    def freed_at_once(vcpu: Vcpu, fault: KvmPageFault) -> int:
        r: int = look_up(vcpu, fault)
        kvm.host.hva.truncate(fault.gfn)
        return r

    setattr(kvm.fn, "__kvm_mmu_faultin_pfn", freed_at_once)
    bound(kvm, "access", 0)()
    pfn = spte_to_pfn(leafs(kvm)[0][1])
    message = f"the direct root sp0 maps gfn 0 to page {pfn:x}, which the host has back"
    assert told(kvm)[0] == ("I25", message)


def leafs(kvm: Kvm) -> list[tuple[int, int]]:
    """Level and value of each present leaf that a walk from a root comes to."""
    return [
        (entry.level, entry.value)
        for entry in KvmView(kvm).entries()
        if is_shadow_present_pte(entry.value) and is_last_spte(entry.value, entry.level)
    ]


GFNS = st.integers(0, 3)
OPERATIONS = st.one_of(
    st.tuples(st.just("access"), GFNS, st.sampled_from(["read", "write", "fetch"])),
    st.tuples(st.just("unmap_hva"), GFNS).map(lambda op: (*op, op[1] + 1)),
    st.tuples(st.just("unmap_hva"), st.just(0), st.just(4)),
    st.tuples(st.just("log_dirty"), st.integers(0, 1)),
    st.tuples(st.just("zap_all_fast")),
    st.tuples(st.just("recover_nx")),
)


@given(st.lists(OPERATIONS, max_size=8), st.integers(1, 2))
def test_leafs_are_counted_through_splits_collapses_and_zaps(
    operations: list[tuple[object, ...]], max_level: int
) -> None:
    """The count of a page is what a walk of all roots finds."""
    kvm, monitors = watched(max_level, nx=True)
    (judge,) = [m for m in monitors.active if isinstance(m, FreedPagesUnmapped)]
    for name, *args in operations:
        do(kvm, str(name), *args)
        pages = [
            spte_to_pfn(value) + n
            for level, value in leafs(kvm)
            for n in range(kvm.geometry.pages_per_level(level))
        ]
        counted = {pfn: cell.v for pfn, cell in judge.leafs.items()}
        assert +Counter(counted) == Counter(pages)
