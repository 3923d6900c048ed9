# SPDX-License-Identifier: GPL-2.0-only
"""A TD's vCPU: VP.ENTER, the guest, the TD exit and its handler.

Follows ``arch/x86/kvm/vmx/tdx.c`` of Linux 7.3 (facts/kvm-tdp-mmu.md 5.2, 5.4).  The
S-EPT side is in `septum.kvm.tdx_sept`, build and teardown in
`septum.kvm.tdx_lifecycle`.

EPT violations on private GPAs are always treated as writes and retried here, without
going back to the guest: repeated exits at one instruction would look like zero-stepping
to the module.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EIO
from typing import TYPE_CHECKING, Any, Final

from septum.kvm.guest import flush_all, run_guest
from septum.kvm.mmu import retry_fault
from septum.kvm.ret_pf import (
    PFERR_FETCH_MASK,
    PFERR_GUEST_FINAL_MASK,
    PFERR_PRIVATE_ACCESS,
    PFERR_WRITE_MASK,
    RET_PF_RETRY,
    RET_PF_SPURIOUS,
)
from septum.kvm.structs import KVM_REQ_VM_DEAD
from septum.kvm.vcpu import EXIT_FASTPATH_EXIT_HANDLED, EXIT_FASTPATH_NONE
from septum.kvm.x86 import KVM_BUG_ON
from septum.machine.geometry import PAGE_SHIFT
from septum.tdx.status import decode, is_error

if TYPE_CHECKING:
    from septum.kvm.structs import Vcpu

__all__ = ["EXIT_REASON_EPT_VIOLATION", "EXIT_REASON_EXTERNAL_INTERRUPT", "FUNCTIONS"]

EXIT_REASON_EXTERNAL_INTERRUPT: Final = 1
EXIT_REASON_EPT_VIOLATION: Final = 48
EXIT_REASON_TDCALL: Final = 77

EPT_VIOLATION_ACC_WRITE: Final = 1 << 1
EPT_VIOLATION_ACC_INSTR: Final = 1 << 2
EPT_VIOLATION_PROT_MASK: Final = 0x38

TDX_EXT_EXIT_QUAL_TYPE_MASK: Final = 0xF
TDX_EXT_EXIT_QUAL_TYPE_PENDING_EPT_VIOLATION: Final = 6


# --- entering and leaving ---------------------------------------------------------------


def tdx_vcpu_run(vcpu: Vcpu) -> int:
    """With IRQs off.  EXIT_HANDLED: the vCPU goes round once more, through code with IRQs
    on, so that a kicker gets its acknowledgement."""
    kvm = vcpu.kvm
    m = vcpu.m
    wait = kvm.tdx.wait_for_sept_zap
    if wait.read():
        m.blame(wait)
        m.reach("vCPU saw wait_for_sept_zap")
        return EXIT_FASTPATH_EXIT_HANDLED
    kvm.trace("kvm_entry", vcpu=vcpu.id)
    result = kvm.fn.tdx_vcpu_enter_exit(vcpu)
    kvm.trace("kvm_exit", vcpu=vcpu.id, reason=result.rax & 0xFFFFFFFF)
    if kvm.fn.tdx_operand_busy(result.rax):
        m.reach("VP.ENTER returned BUSY")
        return EXIT_FASTPATH_EXIT_HANDLED
    return EXIT_FASTPATH_NONE


def tdx_vcpu_enter_exit(vcpu: Vcpu) -> Any:
    """VP.ENTER up to the TD exit; its output registers."""
    result = vcpu.kvm.fn.tdh_vp_enter(vcpu)
    if result.flush:
        flush_all(vcpu, vcpu.cpu.v)
    if result.event == "td-entry":
        result = run_guest(vcpu)
    tdx = vcpu.tdx
    tdx.vp_enter_ret.set(result.rax)
    tdx.exit_qualification.set(result.rcx & 0xFFFFFFFF)
    tdx.ext_exit_qualification.set(result.rdx)
    tdx.exit_gpa.set(getattr(result, "r8", 0))
    return result


def tdx_handle_exit(vcpu: Vcpu, exit_fastpath: int) -> int:
    """> 0: back to the guest; 0: to userspace; < 0: an error for userspace."""
    if exit_fastpath != EXIT_FASTPATH_NONE:
        return 1
    vp_enter_ret: int = vcpu.tdx.vp_enter_ret.v
    if is_error(vp_enter_ret):
        # No exit reason at all: userspace gets an internal error and gives up.
        vcpu.m.emit("tdx_bug", "tdx_handle_exit", f"TDH_VP_ENTER: {decode(vp_enter_ret)}", False)
        vcpu.m.reach("VP.ENTER failed")
        return 0
    if vp_enter_ret & 0xFFFFFFFF == EXIT_REASON_EPT_VIOLATION:
        return int(vcpu.kvm.fn.tdx_handle_ept_violation(vcpu))
    if vp_enter_ret & 0xFFFFFFFF == EXIT_REASON_TDCALL:
        return int(vcpu.kvm.fn.tdx_map_gpa(vcpu))
    vcpu.m.current.blame = {}
    return 0 if vcpu.guest.halted.v else 1


def tdx_map_gpa(vcpu: Vcpu) -> int:
    """TDG.VP.VMCALL<MapGPA>: userspace converts the page (KVM_EXIT_HYPERCALL).  One page,
    so one piece (facts 5.5)."""
    op = vcpu.guest.next_op()
    assert op is not None
    vcpu.hypercall.set(op.gfn)
    vcpu.m.current.blame = {}
    return 0


def tdx_complete_vmcall_map_gpa(vcpu: Vcpu) -> None:
    """The next KVM_RUN: the guest finds that the call has succeeded."""
    vcpu.hypercall.set(None)
    vcpu.guest.completed()


# --- EPT violations ---------------------------------------------------------------------


def tdx_is_sept_violation_unexpected_pending(vcpu: Vcpu) -> bool:
    """The guest touched a page that it has not accepted, with #VE disabled."""
    eeq_type = vcpu.tdx.ext_exit_qualification.v & TDX_EXT_EXIT_QUAL_TYPE_MASK
    if eeq_type != TDX_EXT_EXIT_QUAL_TYPE_PENDING_EPT_VIOLATION:
        return False
    return not vcpu.tdx.exit_qualification.v & EPT_VIOLATION_PROT_MASK


def tdx_handle_ept_violation(vcpu: Vcpu) -> int:
    kvm = vcpu.kvm
    gpa: int = vcpu.tdx.exit_gpa.v
    is_private = not gpa & kvm.geometry.shared_gpa
    if is_private:
        if tdx_is_sept_violation_unexpected_pending(vcpu):
            vcpu.m.reach("guest touched a PENDING page")
            kvm.fn.kvm_vm_dead(kvm)
            return -EIO
        exit_qual = EPT_VIOLATION_ACC_WRITE
    else:
        exit_qual = vcpu.tdx.exit_qualification.v
        instr = exit_qual & EPT_VIOLATION_ACC_INSTR
        if KVM_BUG_ON(instr, kvm, "tdx_handle_ept_violation", "fetch from shared memory"):
            return -EIO
    kvm.trace("kvm_page_fault", vcpu=vcpu.id, address=gpa, error_code=exit_qual)
    return int(kvm.fn.tdx_ept_violation_loop(vcpu, gpa, exit_qual, is_private))


def tdx_ept_violation_loop(vcpu: Vcpu, gpa: int, exit_qual: int, local_retry: bool) -> int:
    """The loop of tdx_handle_ept_violation(): no limit, but the slot's deletion, a
    signal or the VM's death ends it."""
    fn = vcpu.kvm.fn
    m = vcpu.m
    before_entry = m.current.blame
    m.current.blame = {}
    while True:
        ret: int = fn.__vmx_handle_ept_violation(vcpu, gpa, exit_qual)
        if ret != RET_PF_RETRY or not local_retry or vcpu.signal_pending.v:
            break
        if vcpu.requests.read() & KVM_REQ_VM_DEAD:
            return -EIO
        requests_at = m.now()
        slot = fn.kvm_vcpu_gfn_to_memslot(vcpu, gpa >> PAGE_SHIFT)
        if m.current.blame:  # a swap since the fault's own lookup makes a retry worth it
            m.current.blame.setdefault(vcpu.kvm.memslots, m.now())
        if slot is not None and slot.invalid:
            m.reach("the slot's deletion ended a local retry")
            return ret
        m.reach("an EPT violation was retried locally")
        retry_fault(vcpu, "tdx_handle_ept_violation", requests_at)
    if ret == RET_PF_SPURIOUS:
        # Nothing to do here: the next entry fails for what the last one failed for.
        m.current.blame = before_entry
    elif ret != RET_PF_RETRY:
        m.current.blame = {}
    return ret


def __vmx_handle_ept_violation(vcpu: Vcpu, gpa: int, exit_qualification: int) -> int:
    kvm = vcpu.kvm
    error_code = PFERR_GUEST_FINAL_MASK
    if exit_qualification & EPT_VIOLATION_ACC_WRITE:
        error_code |= PFERR_WRITE_MASK
    if exit_qualification & EPT_VIOLATION_ACC_INSTR:
        error_code |= PFERR_FETCH_MASK
    if not gpa & kvm.geometry.shared_gpa:
        error_code |= PFERR_PRIVATE_ACCESS
    return int(kvm.fn.kvm_mmu_page_fault(vcpu, gpa, error_code))


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        __vmx_handle_ept_violation,
        tdx_complete_vmcall_map_gpa,
        tdx_ept_violation_loop,
        tdx_handle_ept_violation,
        tdx_handle_exit,
        tdx_map_gpa,
        tdx_vcpu_enter_exit,
        tdx_vcpu_run,
    )
}
