# SPDX-License-Identifier: GPL-2.0-only
"""Build, finalize, teardown: sequences and refusals (facts 5.5)."""

from __future__ import annotations

from errno import EBUSY, EINTR, EINVAL, EIO
from typing import Any

import pytest
from glue_rig import ADD, AUG, BLOCK, RECLAIM, REMOVE, SEPT_ADD, TRACK, WBINVD, TdxRig

from septum.kvm.guest import accept, touch
from septum.kvm.operations import OPERATIONS
from septum.kvm.seamcall import Injected
from septum.kvm.structs import TD_STATE_INITIALIZED, TD_STATE_RUNNABLE
from septum.machine.geometry import Geometry
from septum.tdx.status import (
    TDX_FLUSHVP_NOT_DONE,
    TDX_INTERRUPTED_RESUMABLE,
    TDX_NO_HKID_READY_TO_WBCACHE,
    TDX_OPERAND_BUSY,
    TDX_VCPU_NOT_ASSOCIATED,
    Operand,
)

BUSY = TDX_OPERAND_BUSY | Operand.RCX
EXTEND = "MR.EXTEND"
FINALIZE = "MR.FINALIZE"
FLUSH = "VP.FLUSH"
FLUSHDONE = "MNG.VPFLUSHDONE"
CACHE_WB = "PHYMEM.CACHE.WB"
FREEID = "MNG.KEY.FREEID"
RELEASE = [FLUSH, FLUSHDONE, CACHE_WB, FREEID]


def building(**options: Any) -> TdxRig:
    return TdxRig(finalized=False, **options)


def init_mem_region(rig: TdxRig, gfn: int, pages: int = 1, measure: bool = False) -> int:
    return int(rig.fn.tdx_vcpu_init_mem_region(rig.vcpu, gfn, pages, measure))


# --- build --------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 9])
def test_td_build_makes_the_documented_calls(bits: int) -> None:
    levels = 3 if bits == 2 else 4
    rig = TdxRig(geometry=Geometry(bits=bits, levels=levels), finalized=False)
    assert rig.kvm.tdx.state.v == TD_STATE_INITIALIZED
    assert not rig.kvm.pre_fault_allowed.v
    assert init_mem_region(rig, 0, 2, True) == 0
    tables = [SEPT_ADD] * (levels - 1)
    assert rig.take() == [*tables, ADD, *[EXTEND] * 16, ADD, *[EXTEND] * 16]
    assert rig.fn.tdx_td_finalize(rig.kvm) == 0
    assert rig.take() == [FINALIZE]
    assert rig.kvm.tdx.state.v == TD_STATE_RUNNABLE
    assert rig.kvm.pre_fault_allowed.v
    assert rig.run(touch(0), touch(1)) == 0  # MAPPED, nothing to accept
    assert AUG not in rig.take()
    assert rig.rules == []


def test_page_is_added_once() -> None:
    rig = building()
    assert init_mem_region(rig, 0) == 0
    assert init_mem_region(rig, 0) == -EIO  # SPURIOUS
    assert rig.rules == []
    assert rig.kvm.tdx.page_add_src.v is None


def test_shared_page_is_refused() -> None:
    rig = building()
    assert rig.fn.kvm_vm_set_mem_attributes(rig.kvm, 0, 1, 0) == 0
    assert init_mem_region(rig, 0) == -EINVAL


def test_signal_stops_the_region() -> None:
    rig = building()
    rig.vcpu.signal_pending.set(True)
    assert init_mem_region(rig, 0) == -EINTR
    assert rig.take() == []


def test_no_region_after_finalize() -> None:
    rig = TdxRig()
    assert init_mem_region(rig, 0) == -EINVAL
    assert rig.fn.tdx_td_finalize(rig.kvm) == -EINVAL
    assert rig.fn.tdx_vcpu_init(rig.vcpu) == -EINVAL
    assert rig.fn.tdx_td_init(rig.kvm) == -EINVAL


def test_extend_failure_leaves_the_page() -> None:
    """Even BUSY is an error here."""
    rig = building()
    rig.script[EXTEND] = [0, BUSY]
    assert init_mem_region(rig, 0, 1, True) == -EIO
    assert rig.take() == [SEPT_ADD, SEPT_ADD, ADD, EXTEND, EXTEND]
    assert rig.kvm.vm_dead.v
    assert rig.rules == ["BUG:tdx_gmem_post_populate"]
    assert rig.kvm.stat_pages[0].v == 1


def test_finalize_busy_can_be_repeated() -> None:
    rig = building()
    rig.script[FINALIZE] = [BUSY]
    assert rig.fn.tdx_td_finalize(rig.kvm) == -EBUSY
    assert not rig.kvm.pre_fault_allowed.v
    assert rig.fn.tdx_td_finalize(rig.kvm) == 0
    assert rig.rules == []


def test_locks_are_dropped_on_every_way_out() -> None:
    rig = building()
    init_mem_region(rig, 0)
    rig.vcpu.signal_pending.set(True)
    init_mem_region(rig, 1)
    rig.script[FINALIZE] = [BUSY]
    rig.fn.tdx_td_finalize(rig.kvm)
    assert rig.m.current.held == []


# --- teardown -----------------------------------------------------------------------------


def used(nr_vcpus: int = 1) -> TdxRig:
    rig = TdxRig(nr_vcpus)
    assert rig.run(accept(0), touch(0)) == 0
    rig.take()
    return rig


def test_whole_life() -> None:
    rig = used(2)
    OPERATIONS["destroy_vm"](rig.kvm)
    calls = rig.take()
    assert calls[:4] == [BLOCK, TRACK, REMOVE, WBINVD]
    assert calls[4:9] == [FLUSH, *RELEASE]
    # Per vCPU 6 pages, 2 S-EPT pages, 6 TDCS pages, the TDR; then its write-back.
    assert calls[9:] == [*[RECLAIM] * (2 * 6 + 2 + 6 + 1), WBINVD]
    assert rig.rules == []
    assert rig.kvm.host.owner(rig.kvm.tdx.tdr) == "free"
    assert rig.kvm.tdx.hkid.v == -1
    assert rig.kvm.stat_pages[0].v == 0
    assert rig.kvm.tdp_mmu_roots.v == ()


@pytest.mark.parametrize(
    ("script", "made", "rules"),
    [
        ({FLUSH: [TDX_VCPU_NOT_ASSOCIATED]}, [FLUSH, FLUSHDONE], []),  # then: not done
        ({FLUSH: [BUSY]}, [FLUSH, FLUSHDONE], ["BUG:tdx_flush_vp_on_cpu"]),
        ({FLUSHDONE: [TDX_FLUSHVP_NOT_DONE]}, [FLUSH, FLUSHDONE], []),
        ({FLUSHDONE: [BUSY]}, [FLUSH, FLUSHDONE], ["BUG:tdx_mmu_release_hkid"]),
        ({FREEID: [BUSY]}, RELEASE, ["BUG:tdx_mmu_release_hkid"]),
    ],
)
def test_any_stop_leaks_the_hkid(
    script: dict[str, list[int]], made: list[str], rules: list[str]
) -> None:
    rig = used()
    rig.script = script
    rig.fn.tdx_mmu_release_hkid(rig.kvm)
    assert rig.take() == made
    assert rig.rules == rules
    assert rig.kvm.tdx.hkid.v > 0


@pytest.mark.parametrize(
    ("status", "rules"),
    [
        (TDX_NO_HKID_READY_TO_WBCACHE, ["BUG:tdx_mmu_release_hkid"]),
        (BUSY, ["WARN:smp_func_do_phymem_cache_wb", "BUG:tdx_mmu_release_hkid"]),
    ],
)
def test_skipped_write_back_makes_freeid_fail(status: int, rules: list[str]) -> None:
    rig = used()
    rig.script[CACHE_WB] = [status]
    rig.fn.tdx_mmu_release_hkid(rig.kvm)
    assert rig.take() == RELEASE
    assert rig.rules == rules


def test_interrupted_write_back_is_resumed() -> None:
    statuses = [TDX_INTERRUPTED_RESUMABLE, TDX_INTERRUPTED_RESUMABLE, 0]
    resumed: list[bool] = []

    def cache_wb(kvm: object, resume: bool, lp: int) -> Injected:
        resumed.append(resume)
        return Injected(statuses.pop(0))

    rig = TdxRig(replace={"tdh_phymem_cache_wb": cache_wb})
    rig.fn.smp_func_do_phymem_cache_wb(rig.kvm, 0)
    assert resumed == [False, True, True]
    assert rig.rules == []


def test_cache_write_back_once_per_package() -> None:
    rig = TdxRig(2, packages=2)
    rig.fn.tdx_mmu_release_hkid(rig.kvm)
    assert rig.take() == [FLUSH, FLUSH, FLUSHDONE, CACHE_WB, CACHE_WB, FREEID]
    assert rig.rules == []


def test_leaked_hkid_leaks_every_page() -> None:
    rig = used()
    rig.script[FLUSHDONE] = [TDX_FLUSHVP_NOT_DONE]
    OPERATIONS["destroy_vm"](rig.kvm)
    assert RECLAIM not in rig.take()
    assert "BUG:tdx_sept_free_private_spt" in rig.rules
    assert rig.kvm.host.owner(rig.kvm.tdx.tdr) == "tdr"


def test_mirror_leaf_after_hkid_release() -> None:
    rig = used()
    rig.fn.tdx_mmu_release_hkid(rig.kvm)
    rig.take()
    rig.zap(0, 1)
    assert rig.take() == []
    assert rig.rules == ["BUG:tdx_sept_remove_leaf_spte"]
