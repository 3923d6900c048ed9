# SPDX-License-Identifier: GPL-2.0-only
"""The vCPU loop: requests, entering the guest, leaving it (``kvm/x86.c``).

Follows facts/kvm-tdp-mmu.md 5.6.  One round of `vcpu_enter_guest`, with SRCU held on
arrival: pending requests; IRQs off and mode := IN_GUEST_MODE; SRCU dropped; full barrier
and exit test; the guest; mode := OUTSIDE_GUEST_MODE and IRQs on, which acknowledges an
IPI; SRCU; the exit handler.

Turning IRQs off (on) and the store to ``mode`` are one point: a kick that comes between
the two does not differ from one that comes just before (after) both.  Under x86-TSO the
store of IN_GUEST_MODE waits in the store buffer until the full barrier; that of
OUTSIDE_GUEST_MODE is visible when IRQs are on (docs/fidelity.md).  So are the two
loads of the exit test, because a request is set before ``mode`` is changed.

A round that got nowhere (the flag that keeps vCPUs out, VP.ENTER busy) is an await at
`vcpu_run`: the next one starts when what stopped it has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINTR, EIO
from typing import Any, Final

from septum.kvm.guest import GuestOp, flush_shared
from septum.kvm.structs import (
    EXITING_GUEST_MODE,
    IN_GUEST_MODE,
    INVALID_PAGE,
    KVM_REQ_MMU_FREE_OBSOLETE_ROOTS,
    KVM_REQ_TLB_FLUSH,
    KVM_REQ_VM_DEAD,
    OUTSIDE_GUEST_MODE,
    Vcpu,
)
from septum.kvm.x86 import IRQS_OFF, IRQS_ON

__all__ = ["EXIT_FASTPATH_EXIT_HANDLED", "EXIT_FASTPATH_NONE", "FUNCTIONS"]

EXIT_FASTPATH_NONE: Final = 0
EXIT_FASTPATH_EXIT_HANDLED: Final = 2


# --- SRCU and IRQs ----------------------------------------------------------------------


def kvm_vcpu_srcu_read_lock(vcpu: Vcpu) -> None:
    vcpu.srcu_idx.set(vcpu.kvm.srcu.read_lock())


def kvm_vcpu_srcu_read_unlock(vcpu: Vcpu) -> None:
    vcpu.kvm.srcu.read_unlock(vcpu.srcu_idx.v)


def irqs_off_and_in_guest_mode(vcpu: Vcpu) -> None:
    """local_irq_disable(); smp_store_release(&vcpu->mode, IN_GUEST_MODE)."""
    with vcpu.m.step("IRQs off, IN_GUEST_MODE", vcpu.mode.name, plain=True):
        vcpu.ipi.poke(IRQS_OFF)
        vcpu.mode.write(IN_GUEST_MODE)


def outside_guest_mode_and_irqs_on(vcpu: Vcpu) -> None:
    """mode := OUTSIDE_GUEST_MODE; local_irq_enable(): pending IPIs are handled here."""
    with vcpu.m.step("OUTSIDE_GUEST_MODE, IRQs on", vcpu.mode.name):
        vcpu.mode.poke(OUTSIDE_GUEST_MODE)
        vcpu.ipi.poke(IRQS_ON)


def kvm_vcpu_exit_request(vcpu: Vcpu) -> bool:
    """After the full barrier: has somebody kicked or requested something?"""
    with vcpu.m.step("exit test", vcpu.mode.name, plain=True):
        mode = vcpu.mode.peek()
        requests = vcpu.requests.peek()
    return bool(mode == EXITING_GUEST_MODE or requests)


# --- requests ---------------------------------------------------------------------------


def kvm_mmu_free_obsolete_roots(vcpu: Vcpu) -> None:
    """Drop a direct root that was invalidated; the reload makes or finds a valid one."""
    hpa: int = vcpu.root_hpa.v
    if hpa != INVALID_PAGE and vcpu.kvm.mmu_pages[hpa >> 12].invalid.read():
        vcpu.kvm.fn.kvm_mmu_unload(vcpu)


def kvm_handle_requests(vcpu: Vcpu) -> int:
    """Service what is pending; VM_DEAD is tested, never cleared."""
    requests: int = vcpu.requests.read()
    if not requests:
        return 0
    if requests & KVM_REQ_VM_DEAD:
        return -EIO
    if requests & KVM_REQ_MMU_FREE_OBSOLETE_ROOTS:
        vcpu.requests.fetch_and(~KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)
        vcpu.kvm.fn.kvm_mmu_free_obsolete_roots(vcpu)
    if requests & KVM_REQ_TLB_FLUSH:
        vcpu.requests.fetch_and(~KVM_REQ_TLB_FLUSH)
        vcpu.kvm.fn.kvm_vcpu_flush_tlb_all(vcpu)
    return 0


def kvm_vcpu_flush_tlb_all(vcpu: Vcpu) -> None:
    """tdx_flush_tlb_all() is ept_sync_global(): the shared EPT.  Private translations are
    flushed by VP.ENTER, through the TD epoch."""
    flush_shared(vcpu)


# --- the loop ---------------------------------------------------------------------------


def vcpu_enter_guest(vcpu: Vcpu) -> int:
    """One round: > 0 goes on, 0 and errors go to userspace."""
    fn = vcpu.kvm.fn
    r: int = fn.kvm_handle_requests(vcpu)
    if r:
        return r
    if vcpu.root_hpa.v == INVALID_PAGE:
        r = fn.kvm_mmu_reload(vcpu)
        if r:
            return r
    irqs_off_and_in_guest_mode(vcpu)
    fn.kvm_vcpu_srcu_read_unlock(vcpu)
    vcpu.m.smp_mb()  # smp_mb__after_srcu_read_unlock()
    if fn.kvm_vcpu_exit_request(vcpu):
        vcpu.m.reach("a request stopped a vCPU before it entered")
        outside_guest_mode_and_irqs_on(vcpu)
        fn.kvm_vcpu_srcu_read_lock(vcpu)
        return 1
    exit_fastpath = fn.vt_vcpu_run(vcpu)
    outside_guest_mode_and_irqs_on(vcpu)
    fn.kvm_vcpu_srcu_read_lock(vcpu)
    return int(fn.vt_handle_exit(vcpu, exit_fastpath))


def vcpu_run(vcpu: Vcpu) -> int:
    fn = vcpu.kvm.fn
    while True:
        r: int = fn.vcpu_enter_guest(vcpu)
        if r <= 0:
            return r
        if vcpu.signal_pending.v:
            return -EINTR
        if vcpu.m.current.blame:
            await_progress(vcpu)


def await_progress(vcpu: Vcpu) -> None:
    """The rounds that would change nothing.  Each of them drops SRCU for a while, and
    leaves IRQs on, so the wait holds nothing; a request ends it as well."""
    m = vcpu.m
    vcpu.kvm.fn.kvm_vcpu_srcu_read_unlock(vcpu)
    if not vcpu.requests.read():
        m.current.blame.setdefault(vcpu.requests, m.now())
        m.retry("vcpu_run")
    vcpu.kvm.fn.kvm_vcpu_srcu_read_lock(vcpu)


def kvm_vcpu_ioctl_run(vcpu: Vcpu, program: tuple[GuestOp, ...]) -> int:
    """KVM_RUN until the guest program has ended or it calls userspace (0), or an error for
    userspace.  With a call pending (``vcpu.hypercall``) the program is continued."""
    kvm = vcpu.kvm
    if kvm.vm_dead.read():
        return -EIO
    vcpu.m.current.blame = {}
    vcpu.mutex.lock()
    kvm.fn.kvm_arch_vcpu_load(vcpu, vcpu.thread_cpu.v)
    if vcpu.hypercall.v is None:
        vcpu.guest.load(program)
    else:
        kvm.fn.tdx_complete_vmcall_map_gpa(vcpu)
    kvm.fn.kvm_vcpu_srcu_read_lock(vcpu)
    r: int = kvm.fn.vcpu_run(vcpu)
    kvm.fn.kvm_vcpu_srcu_read_unlock(vcpu)
    vcpu.mutex.unlock()
    return r


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        kvm_handle_requests,
        kvm_mmu_free_obsolete_roots,
        kvm_vcpu_exit_request,
        kvm_vcpu_flush_tlb_all,
        kvm_vcpu_ioctl_run,
        kvm_vcpu_srcu_read_lock,
        kvm_vcpu_srcu_read_unlock,
        vcpu_enter_guest,
        vcpu_run,
    )
}
