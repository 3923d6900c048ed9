# SPDX-License-Identifier: GPL-2.0-only
"""vCPU requests, kicks, remote TLB flushes, and how a VM is declared dead.

Follows ``virt/kvm/kvm_main.c`` (facts/kvm-tdp-mmu.md 5.2 and 5.6).

A request with the WAIT flag (all of those modelled) is set in ``vcpu.requests``, then
every vCPU whose mode was not OUTSIDE_GUEST_MODE gets an IPI, and the kicker waits until
each of those CPUs has run the handler.  ``KVM_REQ_OUTSIDE_GUEST_MODE`` sets no bit: it
only kicks.

``vcpu.ipi`` is the interrupt state of the vCPU's CPU: 0 when interrupts are on, so that
an IPI is handled the moment it is sent; else `IRQS_OFF` and one bit per kicker whose IPI
is pending.  The CPU acknowledges by turning interrupts on, which it also does after
leaving the guest because of the IPI (`septum.kvm.vcpu`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from septum.kvm.structs import (
    EXITING_GUEST_MODE,
    IN_GUEST_MODE,
    KVM_REQ_TLB_FLUSH,
    KVM_REQ_VM_DEAD,
    OUTSIDE_GUEST_MODE,
    Kvm,
    Vcpu,
)
from septum.machine import wait_until

__all__ = ["EINTR", "EINVAL", "EIO", "FUNCTIONS", "IRQS_OFF", "IRQS_ON", "KVM_BUG_ON"]

EINTR: Final = 4
EIO: Final = 5
EINVAL: Final = 22

IRQS_ON: Final = 0
IRQS_OFF: Final = 1


def _ipi_bit(vcpu: Vcpu) -> int:
    """The bit of ``vcpu.ipi`` that stands for an IPI sent by the running task."""
    return 4 << vcpu.m.current.id


def _send_ipi(vcpu: Vcpu) -> bool:
    """Raise the (empty) ack_kick handler on the vCPU's CPU; True: it is yet to run it."""
    ipi = vcpu.ipi
    with vcpu.m.step("ipi", ipi.name):
        state = ipi.peek()
        if state == IRQS_ON:
            return False
        ipi.poke(state | _ipi_bit(vcpu))
    return True


def _wait_for_ack(vcpu: Vcpu) -> None:
    """The wait of smp_call_function_many(), for one CPU."""
    bit = _ipi_bit(vcpu)
    wait_until(vcpu.ipi, lambda state: not state & bit, "wait for ack_kick")


def kvm_vcpu_exiting_guest_mode(vcpu: Vcpu) -> int:
    """cmpxchg(&vcpu->mode, IN_GUEST_MODE, EXITING_GUEST_MODE); the old mode."""
    mode = vcpu.mode
    with vcpu.m.step("cmpxchg", mode.name):
        old: int = mode.peek()
        if old == IN_GUEST_MODE:
            mode.poke(EXITING_GUEST_MODE)
    return old


def kvm_make_request(vcpu: Vcpu, req: int) -> None:
    """Set the request's bit; the kick is the caller's business."""
    vcpu.requests.fetch_or(req)


def kvm_make_all_cpus_request(kvm: Kvm, req: int) -> bool:
    """Request and kick all vCPUs, and wait for those that were not outside the guest.

    :returns: whether any IPI was needed.
    """
    kicked = []
    for vcpu in kvm.vcpus:
        if req:
            kvm.fn.kvm_make_request(vcpu, req)
        # The kicking CPU's own vCPU, if it runs one, is outside guest mode here.  A vCPU
        # in any other mode has IRQs off, so the IPI that follows is pending at once; the
        # two are one step (docs/fidelity.md).
        with kvm.m.step("kick", vcpu.mode.name):
            mode = kvm.fn.kvm_vcpu_exiting_guest_mode(vcpu)
            if mode != OUTSIDE_GUEST_MODE and _send_ipi(vcpu):
                kicked.append(vcpu)
    kvm.fn.kvm_kick_many_cpus(kvm, kicked)
    return bool(kicked)


def kvm_kick_many_cpus(kvm: Kvm, vcpus: list[Vcpu]) -> None:
    """Wait until each has handled its IPI."""
    for vcpu in vcpus:
        _wait_for_ack(vcpu)


def kvm_vcpu_kick(vcpu: Vcpu) -> None:
    """An IPI if the vCPU is in guest mode; nobody waits for it."""
    with vcpu.m.step("kick", vcpu.mode.name):
        if vcpu.kvm.fn.kvm_vcpu_exiting_guest_mode(vcpu) == IN_GUEST_MODE:
            _send_ipi(vcpu)


def kvm_flush_remote_tlbs(kvm: Kvm) -> None:
    """On return no vCPU uses a translation that was gone before the call."""
    kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)


def kvm_flush_remote_tlbs_range(kvm: Kvm, gfn: int, nr_pages: int) -> None:
    """Without a paravirtual range flush: everything."""
    kvm.fn.kvm_flush_remote_tlbs(kvm)


def kvm_vm_dead(kvm: Kvm) -> None:
    """The request is sticky: vCPUs only ever test it."""
    kvm.vm_dead.write(True)
    kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_VM_DEAD)
    kvm.m.emit("vm_dead")


def kvm_vm_bugged(kvm: Kvm) -> None:
    kvm.vm_bugged.write(True)
    kvm.fn.kvm_vm_dead(kvm)


def KVM_BUG_ON(cond: object, kvm: Kvm, function: str, what: str) -> bool:
    """The value is that of ``cond``; the first time it bugs the VM.  Does not return
    from the caller.  ``function`` is the caller, ``what`` the condition in words."""
    if not cond:
        return False
    if not kvm.vm_bugged.read():
        kvm.m.report(f"BUG:{function}", f"KVM_BUG_ON: {what}")
        kvm.fn.kvm_vm_bugged(kvm)
    return True


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        kvm_flush_remote_tlbs,
        kvm_flush_remote_tlbs_range,
        kvm_kick_many_cpus,
        kvm_make_all_cpus_request,
        kvm_make_request,
        kvm_vcpu_exiting_guest_mode,
        kvm_vcpu_kick,
        kvm_vm_bugged,
        kvm_vm_dead,
    )
}
