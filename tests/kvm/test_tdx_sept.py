# SPDX-License-Identifier: GPL-2.0-only
"""The S-EPT hooks: SEAMCALL sequences and what each status becomes (facts 5.2, 5.3)."""

from __future__ import annotations

from errno import EBUSY, EIO
from typing import Any

import pytest
from glue_rig import (
    ADD,
    AUG,
    BLOCK,
    RECLAIM,
    REMOVE,
    SEPT_ADD,
    TRACK,
    WBINVD,
    TdxRig,
)

from septum.kvm.ret_pf import RET_PF_FIXED, RET_PF_RETRY, RET_PF_SPURIOUS
from septum.kvm.seamcall import Injected
from septum.kvm.spte import SHADOW_NONPRESENT_VALUE, is_shadow_present_pte, spte_to_child_sp
from septum.kvm.structs import KVM_REQ_VM_DEAD, KvmMmuPage, Spte
from septum.tdx.leaves import TDH_VP_ENTER
from septum.tdx.status import (
    TDX_EPT_ENTRY_STATE_INCORRECT,
    TDX_OPERAND_BUSY,
    TDX_PREVIOUS_TLB_EPOCH_BUSY,
    TDX_RND_NO_ENTROPY,
    Operand,
)

BUSY = TDX_OPERAND_BUSY | Operand.RCX
BAD = TDX_EPT_ENTRY_STATE_INCORRECT | Operand.RCX
EPOCH = TDX_PREVIOUS_TLB_EPOCH_BUSY


def leaf(rig: TdxRig, gfn: int) -> Spte:
    """The 4K mirror SPTE of ``gfn``."""
    return table(rig, gfn, 1).spt.word(rig.kvm.geometry.index(gfn, 1))


def table(rig: TdxRig, gfn: int, level: int) -> KvmMmuPage:
    """The mirror table that holds ``gfn``'s entry of ``level``."""
    sp = rig.kvm.mmu_pages[rig.vcpu.mirror_root_hpa.v >> 12]
    while sp.role.level > level:
        spte = sp.spt.word(rig.kvm.geometry.index(gfn, sp.role.level)).v
        sp = spte_to_child_sp(rig.kvm, spte)
    return sp


def bugged(rig: TdxRig) -> bool:
    return bool(rig.kvm.vm_bugged.v and rig.kvm.vm_dead.v)


# --- installing ---------------------------------------------------------------------------


def test_first_fault_adds_the_missing_tables_then_the_page() -> None:
    rig = TdxRig()
    assert rig.fault(1) == RET_PF_FIXED
    assert rig.take() == [SEPT_ADD, SEPT_ADD, AUG]
    assert rig.fault(2) == RET_PF_FIXED
    assert rig.take() == [AUG]
    assert rig.fault(2) == RET_PF_SPURIOUS
    assert rig.take() == []
    assert rig.rules == []


@pytest.mark.parametrize(
    ("call", "status", "made", "dead"),
    [
        (SEPT_ADD, BUSY, [SEPT_ADD], False),
        (SEPT_ADD, BAD, [SEPT_ADD], True),
        (AUG, BUSY, [SEPT_ADD, SEPT_ADD, AUG], False),
        (AUG, BAD, [SEPT_ADD, SEPT_ADD, AUG], True),
        (AUG, EPOCH, [SEPT_ADD, SEPT_ADD, AUG], True),  # not OPERAND_BUSY
    ],
)
def test_install_failure(call: str, status: int, made: list[str], dead: bool) -> None:
    rig = TdxRig()
    rig.script[call] = [status]
    assert rig.fault(1) == RET_PF_RETRY
    assert rig.take() == made
    assert bugged(rig) is dead
    function = {SEPT_ADD: "tdx_sept_map_nonleaf_spte", AUG: "tdx_mem_page_aug"}[call]
    assert rig.rules == ([f"BUG:{function}"] if dead else [])
    assert bool(rig.vcpu.requests.v & KVM_REQ_VM_DEAD) is dead
    if not dead:
        assert rig.fault(1) == RET_PF_FIXED


def test_bug_message_names_leaf_and_status() -> None:
    rig = TdxRig()
    rig.script[AUG] = [BAD]
    rig.fault(0)
    (finding,) = rig.m.findings
    assert finding.message == (
        "SEAMCALL TDH_MEM_PAGE_AUG failed: TDX_EPT_ENTRY_STATE_INCORRECT|RCX (0xc0000b0d00000001)"
    )


def test_second_bug_is_silent_but_still_an_error() -> None:
    rig = TdxRig()
    rig.script[AUG] = [BAD, BAD]
    rig.fault(0)
    rig.fault(0)
    assert len(rig.m.findings) == 1
    assert rig.take().count(AUG) == 2


def test_injected_failure_is_no_finding_by_itself() -> None:
    rig = TdxRig(replace={"tdh_mem_page_aug": lambda *_: Injected(BAD)})
    assert rig.fault(0) == RET_PF_RETRY
    assert rig.rules == []
    assert bugged(rig)


def test_no_entropy_is_retried_ten_times() -> None:
    rig = TdxRig()
    rig.script[AUG] = [TDX_RND_NO_ENTROPY] * 9
    assert rig.fault(0) == RET_PF_FIXED
    assert rig.take().count(AUG) == 10
    rig.script[AUG] = [TDX_RND_NO_ENTROPY] * 10
    assert rig.fault(1) == RET_PF_RETRY
    assert rig.take() == [AUG] * 10
    assert rig.rules == ["BUG:tdx_mem_page_aug"]


def test_vp_enter_bypasses_the_entropy_loop() -> None:
    rig = TdxRig()
    rig.script["VP.ENTER"] = [TDX_RND_NO_ENTROPY] * 2
    rig.fn.seamcall(rig.kvm, TDH_VP_ENTER, {"rcx": rig.vcpu.tdx.tdvpr << 12}, 0)
    assert rig.take() == ["VP.ENTER"]


# --- removing -----------------------------------------------------------------------------


def mapped(**options: Any) -> TdxRig:
    rig = TdxRig(**options)
    rig.fault(0)
    rig.take()
    return rig


def test_zap_is_block_track_remove_wbinvd() -> None:
    rig = mapped()
    rig.zap(0, 4)
    assert rig.take() == [BLOCK, TRACK, REMOVE, WBINVD]
    assert leaf(rig, 0).v == SHADOW_NONPRESENT_VALUE
    assert rig.rules == []
    assert rig.fault(0) == RET_PF_FIXED
    assert rig.take() == [AUG]


@pytest.mark.parametrize(
    ("script", "made", "rules"),
    [
        ({BLOCK: [BUSY]}, [BLOCK, BLOCK, TRACK, REMOVE, WBINVD], []),
        ({TRACK: [BUSY]}, [BLOCK, TRACK, TRACK, REMOVE, WBINVD], []),
        ({REMOVE: [BUSY]}, [BLOCK, TRACK, REMOVE, REMOVE, WBINVD], []),
        ({BLOCK: [BUSY, BUSY]}, [BLOCK, BLOCK], ["BUG:tdx_sept_remove_leaf_spte"]),
        ({BLOCK: [BAD]}, [BLOCK], ["BUG:tdx_sept_remove_leaf_spte"]),
        (
            {REMOVE: [BUSY, BUSY]},
            [BLOCK, TRACK, REMOVE, REMOVE],
            ["BUG:tdx_sept_remove_leaf_spte"],
        ),
        # WBINVD is called directly: BUSY is an error.
        (
            {WBINVD: [BUSY]},
            [BLOCK, TRACK, REMOVE, WBINVD],
            ["BUG:tdx_sept_remove_leaf_spte"],
        ),
        # TRACK is void: REMOVE still runs, and is refused; the VM is bugged already.
        ({TRACK: [EPOCH]}, [BLOCK, TRACK, REMOVE], ["BUG:tdx_track"]),
        ({TRACK: [BUSY, BUSY]}, [BLOCK, TRACK, TRACK, REMOVE], ["BUG:tdx_track"]),
    ],
)
def test_removal_failure(script: dict[str, list[int]], made: list[str], rules: list[str]) -> None:
    rig = mapped()
    rig.script = script
    rig.zap(0, 1)
    assert rig.take() == made
    assert rig.rules == rules
    assert not rig.kvm.tdx.wait_for_sept_zap.v
    # Never rolled back: the mirror stays empty whatever the module said.
    assert not is_shadow_present_pte(leaf(rig, 0).v)


def test_flag_is_set_around_the_second_call_and_vcpus_are_kicked() -> None:
    seen: list[tuple[bool, int]] = []
    kicks: list[int] = []

    def call(kvm: object) -> Injected:
        seen.append((rig.kvm.tdx.wait_for_sept_zap.v, len(kicks)))
        return Injected(BUSY)

    rig = TdxRig(replace={"kvm_make_all_cpus_request": lambda _, req: kicks.append(req)})
    rig.kvm.mmu_lock.write_lock()
    result = rig.fn.tdh_do_no_vcpus(rig.kvm, call)
    rig.kvm.mmu_lock.write_unlock()
    assert seen == [(False, 0), (True, 1)]
    assert kicks == [0]  # KVM_REQ_OUTSIDE_GUEST_MODE: no request bit
    assert result.rax == BUSY
    assert not rig.kvm.tdx.wait_for_sept_zap.v


def test_other_errors_get_no_second_call() -> None:
    rig = mapped()
    rig.script[TRACK] = [EPOCH]
    rig.kvm.mmu_lock.write_lock()
    rig.fn.tdx_track(rig.kvm)
    rig.kvm.mmu_lock.write_unlock()
    assert rig.take() == [TRACK]
    assert rig.rules == ["BUG:tdx_track"]


def test_before_finalize_there_is_no_track() -> None:
    rig = TdxRig(finalized=False)
    assert rig.fn.tdx_vcpu_init_mem_region(rig.vcpu, 0, 1, False) == 0
    assert rig.take() == [SEPT_ADD, SEPT_ADD, ADD]
    rig.zap(0, 1)
    assert rig.take() == [BLOCK, REMOVE, WBINVD]
    assert rig.rules == []


def test_removal_needs_the_write_lock() -> None:
    rig = mapped()
    rig.kvm.mmu_lock.read_lock()
    ret = rig.fn.tdx_sept_set_private_spte(rig.kvm, 0, leaf(rig, 0).v, SHADOW_NONPRESENT_VALUE, 1)
    rig.kvm.mmu_lock.read_unlock()
    assert ret == 0
    assert set(rig.rules) == {"I10"}


@pytest.mark.parametrize(
    ("old_present", "new_present", "level", "rule"),
    [
        (False, False, 1, "BUG:tdx_sept_set_private_spte"),
        (True, False, 2, "BUG:tdx_sept_remove_leaf_spte"),
        (True, True, 2, "BUG:tdx_sept_remove_leaf_spte"),
    ],
)
def test_wrong_changes_make_no_seamcall(
    old_present: bool, new_present: bool, level: int, rule: str
) -> None:
    rig = mapped()
    spte = leaf(rig, 0).v
    old = spte if old_present else SHADOW_NONPRESENT_VALUE
    new = spte if new_present else SHADOW_NONPRESENT_VALUE
    rig.kvm.mmu_lock.write_lock()
    assert rig.fn.tdx_sept_set_private_spte(rig.kvm, 0, old, new, level) == -EIO
    rig.kvm.mmu_lock.write_unlock()
    assert rig.take() == []
    assert rig.rules == [rule]


def test_present_to_present_leaf_is_a_removal() -> None:
    """7.3 has no write protection of mirror leafs: whatever was present goes."""
    rig = mapped()
    spte = leaf(rig, 0).v
    rig.kvm.mmu_lock.write_lock()
    assert rig.fn.tdx_sept_set_private_spte(rig.kvm, 0, spte, spte & ~2, 1) == 0
    rig.kvm.mmu_lock.write_unlock()
    assert rig.take() == [BLOCK, TRACK, REMOVE, WBINVD]


@pytest.mark.parametrize("what", ["external_spt", "level", "gfn"])
def test_table_must_fit_its_entry(what: str) -> None:
    rig = mapped()
    parent = table(rig, 0, 2)
    spte = parent.spt.word(0).v
    child = spte_to_child_sp(rig.kvm, spte)
    gfn, level = 0, 2
    if what == "external_spt":
        child.external_spt.set(0)
    elif what == "level":
        level = 3
    else:
        gfn = 4
    rig.kvm.mmu_lock.read_lock()
    hook = rig.fn.tdx_sept_set_private_spte
    assert hook(rig.kvm, gfn, SHADOW_NONPRESENT_VALUE, spte, level) == -EIO
    rig.kvm.mmu_lock.read_unlock()
    assert rig.take() == []
    assert rig.rules == ["BUG:tdx_spte_to_sept_pt"]


# --- PAGE.ADD -----------------------------------------------------------------------------


def test_page_add_outside_populate_is_a_bug() -> None:
    rig = TdxRig(finalized=False)
    rig.fault(0)
    assert ADD not in rig.take()
    assert set(rig.rules) == {"I10", "BUG:tdx_mem_page_add"}


def test_page_add_busy_is_retried_by_the_fault() -> None:
    rig = TdxRig(finalized=False)
    rig.kvm.tdx.page_add_src.set(0x99)
    rig.kvm.slots_lock.lock()
    rig.kvm.mmu_lock.read_lock()
    rig.script[ADD] = [BUSY]
    assert rig.fn.tdx_mem_page_add(rig.kvm, 0, 1, 0x100000) == -EBUSY
    rig.kvm.mmu_lock.read_unlock()
    rig.kvm.slots_lock.unlock()
    assert rig.rules == []


# --- S-EPT pages --------------------------------------------------------------------------


def test_free_while_the_hkid_is_assigned_leaks() -> None:
    rig = mapped()
    sp = table(rig, 0, 1)
    pfn = sp.external_spt.v
    rig.fn.tdx_sept_free_private_spt(rig.kvm, sp)
    assert rig.take() == []
    assert rig.rules == ["BUG:tdx_sept_free_private_spt"]
    assert sp.external_spt.v == 0
    assert rig.kvm.host.owner(pfn) != "free"


@pytest.mark.parametrize("status", [0, BUSY])
def test_reclaim_then_free_at_once(status: int) -> None:
    rig = mapped()
    rig.zap(0, 1)
    rig.fn.tdx_mmu_release_hkid(rig.kvm)
    rig.take()
    sp = table(rig, 0, 1)
    pfn = sp.external_spt.v
    rig.script[RECLAIM] = [status]
    rig.fn.tdx_sept_free_private_spt(rig.kvm, sp)
    assert rig.take() == [RECLAIM]
    assert sp.external_spt.v == 0
    assert (rig.kvm.host.owner(pfn) == "free") is (status == 0)
    assert rig.rules == ([] if status == 0 else ["WARN:tdx_reclaim_page"])
    assert not rig.kvm.vm_bugged.v
