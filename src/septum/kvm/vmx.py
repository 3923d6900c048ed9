# SPDX-License-Identifier: GPL-2.0-only
"""An ordinary VM's vCPU: VM entry, the guest, VM exits (``arch/x86/kvm/vmx/vmx.c``).

The guest is a list of operations as in `septum.kvm.guest`; every access walks the direct
root (`cpu_walk`, one step) and sets A and D by a locked read-modify-write, as hardware does.
``vt_*`` choose between this and TDX, as vmx/main.c does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from septum.kvm.guest import GuestOp, cpu_walk, interrupted
from septum.kvm.ret_pf import (
    PFERR_FETCH_MASK,
    PFERR_GUEST_FINAL_MASK,
    PFERR_PRESENT_MASK,
    PFERR_RSVD_MASK,
    PFERR_WRITE_MASK,
    RET_PF_EMULATE,
    RET_PF_RETRY,
    RET_PF_WRITE_PROTECTED,
)
from septum.kvm.vcpu import EXIT_FASTPATH_NONE
from septum.machine.geometry import PAGE_SHIFT

if TYPE_CHECKING:
    from septum.kvm.structs import Vcpu

__all__ = ["FUNCTIONS", "guest_access"]

EXIT_REASON_EXTERNAL_INTERRUPT: Final = 1
EXIT_REASON_HLT: Final = 12
EXIT_REASON_EPT_VIOLATION: Final = 48
EXIT_REASON_EPT_MISCONFIG: Final = 49


class Exit(NamedTuple):
    """A VM exit: reason, GPA page and error code of the access."""

    reason: int
    gfn: int = 0
    error_code: int = 0


def access_error_code(kind: str, present: bool, misconfig: bool) -> int:
    """The page-fault error code of an access (``read``, ``write`` or ``fetch``)."""
    if misconfig:
        return PFERR_RSVD_MASK
    code = PFERR_GUEST_FINAL_MASK
    if kind == "write":
        code |= PFERR_WRITE_MASK
    if kind == "fetch":
        code |= PFERR_FETCH_MASK
    return code | (PFERR_PRESENT_MASK if present else 0)


# --- entering and leaving -----------------------------------------------------------------


def vmx_vcpu_run(vcpu: Vcpu) -> int:
    """Entry and exit are no points of their own: the vCPU enters with the exit test, and has
    left with its last access or interrupt window (docs/fidelity.md)."""
    kvm = vcpu.kvm
    kvm.trace("kvm_entry", vcpu=vcpu.id)
    kvm.m.emit("vm_enter", kvm.mmu_pages[vcpu.root_hpa.v >> PAGE_SHIFT].name, vcpu.cpu.v)
    vcpu.exit.set(_run_guest(vcpu))
    kvm.m.emit("vm_exit", vcpu.cpu.v)
    kvm.trace("kvm_exit", vcpu=vcpu.id, reason=vcpu.exit.v.reason)
    return EXIT_FASTPATH_NONE


def _run_guest(vcpu: Vcpu) -> Exit:
    guest = vcpu.guest
    while True:
        op = guest.next_op()
        if op is None:
            guest.halted.set(True)
            return Exit(EXIT_REASON_HLT)
        if interrupted(vcpu):
            vcpu.m.reach("kick interrupted a running vCPU")
            return Exit(EXIT_REASON_EXTERNAL_INTERRUPT)
        result = cpu_walk(vcpu, op.gfn, op.op, cached=True)
        if result.pfn is None:
            code = access_error_code(op.op, result.present, result.misconfig)
            reason = EXIT_REASON_EPT_MISCONFIG if result.misconfig else EXIT_REASON_EPT_VIOLATION
            return Exit(reason, op.gfn, code)
        guest.completed()


def vmx_handle_exit(vcpu: Vcpu, exit_fastpath: int) -> int:
    """> 0: back to the guest; 0: to userspace; < 0: an error for userspace."""
    kvm = vcpu.kvm
    if kvm.features.pml:
        kvm.fn.vmx_flush_pml_buffer(vcpu)
    left: Exit = vcpu.exit.v
    vcpu.m.current.blame = {}
    if left.reason in (EXIT_REASON_EPT_VIOLATION, EXIT_REASON_EPT_MISCONFIG):
        r, done = handle_access_fault(vcpu, left.gfn, left.error_code)
        if done:
            vcpu.guest.completed()
        return r
    return 0 if vcpu.guest.halted.v else 1


def vmx_flush_pml_buffer(vcpu: Vcpu) -> None:
    """Every GPA that the CPU logged becomes a dirty page."""
    kvm = vcpu.kvm
    logged: tuple[int, ...] = vcpu.pml.peek()
    for gfn in logged:
        slot = kvm.fn.kvm_vcpu_gfn_to_memslot(vcpu, gfn)
        if slot is not None:
            kvm.fn.mark_page_dirty_in_slot(kvm, slot, gfn)
    if logged:
        with vcpu.m.step("empty the PML buffer", vcpu.pml.name):
            vcpu.pml.poke(())


# --- faults ---------------------------------------------------------------------------------


def handle_access_fault(vcpu: Vcpu, gfn: int, error_code: int) -> tuple[int, bool]:
    """handle_ept_violation() and handle_ept_misconfig(): what kvm_mmu_page_fault() returned,
    and whether the emulator has done the access."""
    kvm = vcpu.kvm
    if not error_code & PFERR_RSVD_MASK:
        kvm.trace("kvm_page_fault", vcpu=vcpu.id, address=gfn << 12, error_code=error_code)
    r: int = kvm.fn.kvm_mmu_page_fault(vcpu, gfn << PAGE_SHIFT, error_code)
    if r != RET_PF_RETRY:
        vcpu.m.current.blame = {}
    if r not in (RET_PF_EMULATE, RET_PF_WRITE_PROTECTED):
        return r, False
    kvm.fn.x86_emulate_instruction(vcpu, gfn, r)
    return 1, True


def x86_emulate_instruction(vcpu: Vcpu, gfn: int, why: int) -> None:
    """A write to a tracked page goes through userspace's mapping and is marked dirty; an
    access without a slot goes to a device."""
    kvm = vcpu.kvm
    if why == RET_PF_WRITE_PROTECTED:
        slot = kvm.fn.kvm_vcpu_gfn_to_memslot(vcpu, gfn)
        if slot is not None:
            kvm.fn.mark_page_dirty_in_slot(kvm, slot, gfn)
        vcpu.m.reach("a write to a tracked page was emulated")
        return
    vcpu.m.emit("mmio_emulated", vcpu.id, gfn)
    vcpu.m.reach("an MMIO access was emulated")


# --- TDX or not (vmx/main.c) ------------------------------------------------------------------


def vt_vcpu_run(vcpu: Vcpu) -> int:
    fn = vcpu.kvm.fn
    return int(fn.tdx_vcpu_run(vcpu) if vcpu.kvm.has_mirrored_tdp else fn.vmx_vcpu_run(vcpu))


def vt_handle_exit(vcpu: Vcpu, exit_fastpath: int) -> int:
    fn = vcpu.kvm.fn
    handle = fn.tdx_handle_exit if vcpu.kvm.has_mirrored_tdp else fn.vmx_handle_exit
    return int(handle(vcpu, exit_fastpath))


# --- without the vCPU loop ----------------------------------------------------------------------


def guest_access(vcpu: Vcpu, op: GuestOp) -> int:
    """One access of a vCPU that is otherwise outside the guest: requests, roots, the CPU's
    walk and the fault that it ends in, as often as it takes; 0 or an error.

    What the CPU caches is dropped at once: nobody waits for a vCPU outside guest mode.
    """
    kvm = vcpu.kvm
    fn = kvm.fn
    m = vcpu.m
    m.current.blame = {}
    while True:
        token = kvm.srcu.read_lock()
        r: int = fn.kvm_handle_requests(vcpu)
        requests_at = m.now()
        r = r or fn.kvm_mmu_reload(vcpu)
        done = False
        if not r:
            result = cpu_walk(vcpu, op.gfn, op.op, cached=False)
            if kvm.features.pml:
                fn.vmx_flush_pml_buffer(vcpu)
            done = result.pfn is not None
            if not done:
                code = access_error_code(op.op, result.present, result.misconfig)
                r, done = handle_access_fault(vcpu, op.gfn, code)
        kvm.srcu.read_unlock(token)
        if done or r < 0:
            return min(r, 0)
        if m.current.blame:
            m.current.blame.setdefault(vcpu.requests, requests_at)
        m.retry("guest_access")


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        vmx_flush_pml_buffer,
        vmx_handle_exit,
        vmx_vcpu_run,
        vt_handle_exit,
        vt_vcpu_run,
        x86_emulate_instruction,
    )
}
