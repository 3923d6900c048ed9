# SPDX-License-Identifier: GPL-2.0-only
"""The TD's vCPU, one at a time: exits, the local retry loop, translations (facts 5.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import EFAULT, EINTR, EIO

import pytest
from glue_rig import AUG, BLOCK, ENTER, REMOVE, SEPT_ADD, TRACK, WBINVD, TdxRig

from septum.kvm.guest import accept, read, touch, write
from septum.kvm.ret_pf import RET_PF_FIXED, RET_PF_RETRY
from septum.kvm.spte import VMX_EPT_ACCESS_BIT, VMX_EPT_DIRTY_BIT
from septum.kvm.structs import (
    KVM_MEMSLOT_INVALID,
    KVM_REQ_TLB_FLUSH,
    KVM_REQ_VM_DEAD,
    OUTSIDE_GUEST_MODE,
)
from septum.kvm.tdx_vm import arm_zero_step
from septum.machine import Halt
from septum.tdx.status import TDX_OPERAND_BUSY, TDX_VCPU_STATE_INCORRECT, Operand

BUSY = TDX_OPERAND_BUSY | Operand.SEPT_TREE


def test_accept_and_touch() -> None:
    rig = TdxRig()
    assert rig.run(accept(1), touch(1), write(1)) == 0
    assert rig.take() == [ENTER, SEPT_ADD, SEPT_ADD, AUG, ENTER]
    assert rig.run(touch(1), accept(1)) == 0  # ALREADY_ACCEPTED is success to the guest
    assert rig.take() == [ENTER]
    assert rig.rules == []
    assert rig.vcpu.mode.v == OUTSIDE_GUEST_MODE
    assert rig.vcpu.ipi.v == 0
    assert rig.kvm.srcu.v == ()


def test_touching_a_pending_page_kills_the_vm() -> None:
    """With SEPT_VE_DISABLE: AUG for the first fault, the second is of type PENDING."""
    rig = TdxRig()
    assert rig.run(touch(0)) == -EIO
    assert rig.take() == [ENTER, SEPT_ADD, SEPT_ADD, AUG, ENTER]
    assert rig.kvm.vm_dead.v
    assert not rig.kvm.vm_bugged.v
    assert rig.rules == []
    assert rig.run(touch(0)) == -EIO
    assert rig.take() == []


def test_virtualization_exception_makes_the_guest_accept() -> None:
    rig = TdxRig(pending_ve_disable=False)
    assert rig.run(touch(0), write(0)) == 0
    assert "TDG.MEM.PAGE.ACCEPT resume TDX_SUCCESS" in rig.m.reached
    assert rig.take() == [ENTER, SEPT_ADD, SEPT_ADD, AUG, ENTER]


def test_shared_access_walks_the_direct_root() -> None:
    rig = TdxRig()
    shared = rig.kvm.geometry.shared_gfn
    assert rig.run(read(shared)) == -EFAULT  # the attribute says private
    rig.fn.kvm_vm_set_mem_attributes(rig.kvm, 0, 1, 0)
    rig.take()
    assert rig.run(read(shared)) == 0
    assert rig.take() == [ENTER, ENTER]
    sp = rig.kvm.mmu_pages[rig.vcpu.root_hpa.v >> 12]
    while sp.role.level > 1:
        index = rig.kvm.geometry.index(shared, sp.role.level)
        sp = rig.kvm.mmu_pages[sp.spt.word(index).v >> 12 & 0xFFFFFFFF]
    leaf = sp.spt.word(0)
    leaf.init(leaf.v & ~(VMX_EPT_ACCESS_BIT | VMX_EPT_DIRTY_BIT))
    assert rig.run(read(shared)) == 0
    assert leaf.v & VMX_EPT_ACCESS_BIT
    assert not leaf.v & VMX_EPT_DIRTY_BIT
    assert rig.run(write(shared)) == 0
    assert leaf.v & VMX_EPT_DIRTY_BIT
    assert rig.rules == []


def test_vp_enter_failure_goes_to_userspace() -> None:
    rig = TdxRig()
    seen: list[tuple[object, ...]] = []
    rig.m.listeners.append(lambda what, args: seen.append(args) if what == "tdx_bug" else None)
    rig.script[ENTER] = [TDX_VCPU_STATE_INCORRECT]
    assert rig.run(touch(0)) == 0
    assert seen == [("tdx_handle_exit", "TDH_VP_ENTER: TDX_VCPU_STATE_INCORRECT", False)]


def test_vp_enter_busy_goes_round_again() -> None:
    rig = TdxRig()
    rig.script[ENTER] = [BUSY, BUSY]
    assert rig.run() == 0  # nothing blamed: a scripted failure is retried at once
    assert rig.take() == [ENTER] * 3
    assert "VP.ENTER returned BUSY" in rig.m.reached


def test_wait_for_sept_zap_keeps_the_vcpu_out() -> None:
    rig = TdxRig()
    rig.kvm.tdx.wait_for_sept_zap.write(True)
    assert rig.fn.tdx_vcpu_run(rig.vcpu) == 2  # EXIT_FASTPATH_EXIT_HANDLED
    assert rig.take() == []
    assert rig.fn.tdx_handle_exit(rig.vcpu, 2) == 1


def test_zero_step_vcpu_cannot_enter_by_itself() -> None:
    """A listed GPA that is PENDING still counts as one that would fault."""
    rig = TdxRig(2)
    arm_zero_step(rig.vcpu, 0)
    rig.take()
    with pytest.raises(Halt):
        rig.run(accept(0))
    assert rig.take() == [ENTER, SEPT_ADD, SEPT_ADD, AUG, ENTER]
    assert rig.rules == ["STUCK"]


def test_zero_step_vcpu_enters_after_another_accepted() -> None:
    rig = TdxRig(2)
    arm_zero_step(rig.vcpu, 0)
    assert rig.run(accept(0), vcpu=1) == 0
    rig.take()
    assert rig.run(touch(0)) == 0
    assert rig.take() == [ENTER]


# --- the local retry loop -----------------------------------------------------------------


def retrying(stop: Callable[[TdxRig], None], passes: int = 2) -> tuple[TdxRig, list[int]]:
    """A fault that the MMU asks to retry; after ``passes`` of it ``stop`` happens."""
    made: list[int] = []

    def fault(vcpu: object, gpa: int, qualification: int) -> int:
        made.append(gpa)
        if len(made) == passes:
            stop(rig)
        return RET_PF_RETRY if len(made) <= passes else RET_PF_FIXED

    rig = TdxRig(replace={"__vmx_handle_ept_violation": fault})
    return rig, made


def invalidate_slot(rig: TdxRig) -> None:
    rig.kvm.memslots.write((replace(rig.kvm.slots[0], flags=KVM_MEMSLOT_INVALID),))


@pytest.mark.parametrize(
    ("stop", "ret", "passes"),
    [
        (lambda rig: None, RET_PF_FIXED, 3),
        (lambda rig: rig.vcpu.signal_pending.set(True), RET_PF_RETRY, 2),
        (lambda rig: rig.vcpu.requests.write(KVM_REQ_VM_DEAD), -EIO, 2),
        (lambda rig: invalidate_slot(rig), RET_PF_RETRY, 2),
        # A TLB flush request is no reason to stop.
        (lambda rig: rig.vcpu.requests.write(KVM_REQ_TLB_FLUSH), RET_PF_FIXED, 3),
    ],
)
def test_local_retry_stops(stop: Callable[[TdxRig], None], ret: int, passes: int) -> None:
    rig, made = retrying(stop)
    assert rig.fn.tdx_ept_violation_loop(rig.vcpu, 0, 2, True) == ret
    assert len(made) == passes
    if ret == -EIO:  # tested, not consumed
        assert rig.vcpu.requests.v == KVM_REQ_VM_DEAD


def test_shared_faults_are_not_retried_locally() -> None:
    rig, made = retrying(lambda rig: None)
    gpa = rig.kvm.geometry.shared_gpa
    assert rig.fn.tdx_ept_violation_loop(rig.vcpu, gpa, 2, False) == RET_PF_RETRY
    assert made == [gpa]


def test_page_fault_is_traced_once() -> None:
    rig, _ = retrying(lambda rig: None)
    rig.kvm.recorder = []
    rig.vcpu.tdx.exit_gpa.set(0x1000)
    assert rig.fn.tdx_handle_ept_violation(rig.vcpu) == RET_PF_FIXED
    assert [(name, f["error_code"]) for name, _, f in rig.kvm.recorder] == [("kvm_page_fault", 2)]


def test_fetch_from_shared_memory_is_a_bug() -> None:
    rig = TdxRig()
    rig.vcpu.tdx.exit_gpa.set(rig.kvm.geometry.shared_gpa)
    rig.vcpu.tdx.exit_qualification.set(4)
    assert rig.fn.tdx_handle_ept_violation(rig.vcpu) == -EIO
    assert rig.rules == ["BUG:tdx_handle_ept_violation"]


def test_signal_ends_the_run() -> None:
    rig = TdxRig()
    rig.vcpu.signal_pending.set(True)
    assert rig.run(accept(0)) == -EINTR
    assert rig.take() == [ENTER, SEPT_ADD, SEPT_ADD, AUG]
    assert rig.kvm.srcu.v == ()


# --- cached translations --------------------------------------------------------------------


def test_private_translations_live_until_the_epoch_changes() -> None:
    rig = TdxRig()
    rig.run(accept(0), touch(0), accept(1), touch(1))
    pfns = {gfn: rig.kvm.host.gmem.peek(gfn) for gfn in (0, 1)}
    assert rig.kvm.cpu(0).tlb.v == {(0, pfns[0]), (1, pfns[1])}
    rig.take()
    rig.zap(0, 1)
    assert rig.take() == [BLOCK, TRACK, REMOVE, WBINVD]
    # Flushed by the next VP.ENTER, not by KVM.
    assert (0, pfns[0]) in rig.kvm.cpu(0).tlb.v
    rig.vcpu.requests.write(KVM_REQ_TLB_FLUSH)
    rig.run(touch(1))
    assert rig.kvm.cpu(0).tlb.v == {(1, pfns[1])}


def test_tlb_flush_request_drops_shared_translations_only() -> None:
    rig = TdxRig()
    shared = rig.kvm.geometry.shared_gfn
    rig.run(accept(1), touch(1))
    rig.fn.kvm_vm_set_mem_attributes(rig.kvm, 0, 1, 0)
    rig.run(touch(shared))
    assert {gfn for gfn, _ in rig.kvm.cpu(0).tlb.v} == {1, shared}
    rig.fn.kvm_flush_remote_tlbs(rig.kvm)
    rig.run()
    assert {gfn for gfn, _ in rig.kvm.cpu(0).tlb.v} == {1}
    assert rig.vcpu.requests.v == 0
