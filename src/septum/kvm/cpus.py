# SPDX-License-Identifier: GPL-2.0-only
"""CPUs: what they cache, and a TD's vCPU that moves between them.

Follows ``tdx_vcpu_load()`` of ``arch/x86/kvm/vmx/tdx.c`` and ``kvm_arch_vcpu_load()``
(facts/kvm-tdp-mmu.md 5.5, 5.6; facts/tdx-module.md 3.17, 3.19, 5).  The TDX Module
associates a vCPU with one logical processor; before it can be entered on another one,
TDH.VP.FLUSH on the old one, by IPI, drops the translations cached there and ends the
association.  ``vcpu->cpu`` is -1 in between.

A CPU runs one vCPU thread at a time: a thread that moves to a CPU waits until that is
free, and leaves the old one when the flush there is done (docs/fidelity.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from septum.kvm.guest import flush_all
from septum.kvm.seamcall import TDX_BUG_ON
from septum.kvm.structs import VCPU_TD_STATE_UNINITIALIZED
from septum.kvm.tdx_sept import is_hkid_assigned
from septum.machine import wait_until
from septum.tdx.status import TDX_VCPU_NOT_ASSOCIATED

if TYPE_CHECKING:
    from septum.kvm.structs import Vcpu

__all__ = ["FUNCTIONS", "migrate"]


def migrate(vcpu: Vcpu, cpu: int) -> None:
    """The scheduler moves the vCPU's thread: sched_out there, sched_in here."""
    kvm = vcpu.kvm
    if vcpu.thread_cpu.v == cpu:
        return
    old = kvm.cpu(vcpu.thread_cpu.v)
    new = kvm.cpu(cpu)
    while True:
        wait_until(new.curr, lambda curr: curr is None, "wait for the CPU")
        if new.curr.try_cmpxchg(None, vcpu.id)[0]:
            break
    vcpu.thread_cpu.set(cpu)
    kvm.fn.kvm_arch_vcpu_load(vcpu, cpu)
    old.curr.write(None)
    vcpu.m.reach("a vCPU moved to another CPU")


def kvm_arch_vcpu_load(vcpu: Vcpu, cpu: int) -> None:
    """vcpu_load() at the start of an ioctl, or sched_in."""
    vcpu.kvm.fn.tdx_vcpu_load(vcpu, cpu)
    if vcpu.cpu.v != cpu:  # its own thread changes it
        vcpu.cpu.write(cpu)


def tdx_vcpu_load(vcpu: Vcpu, cpu: int) -> None:
    if vcpu.cpu.v == cpu or not is_hkid_assigned(vcpu.kvm):
        return
    vcpu.kvm.fn.tdx_flush_vp_on_cpu(vcpu)


def tdx_flush_vp_on_cpu(vcpu: Vcpu) -> None:
    """smp_call_function_single(): the handler runs on the vCPU's CPU, IRQs off."""
    cpu: int = vcpu.cpu.read()
    if cpu == -1:
        return
    result = vcpu.kvm.fn.tdx_flush_vp(vcpu, cpu)
    if result is not None:
        TDX_BUG_ON(result, "TDH_VP_FLUSH", vcpu.kvm, "tdx_flush_vp_on_cpu")


def tdx_flush_vp(vcpu: Vcpu, cpu: int) -> Any:
    """The IPI's handler: end the vCPU's association with this CPU; the result of a flush
    that failed.  A vCPU that was never entered has no association."""
    failed = None
    if vcpu.tdx.state.peek() != VCPU_TD_STATE_UNINITIALIZED:
        result = vcpu.kvm.fn.tdh_vp_flush(vcpu)
        if result.flush:
            flush_all(vcpu, cpu)
        if result.rax and result.rax != TDX_VCPU_NOT_ASSOCIATED:
            failed = result
    vcpu.cpu.write(-1)  # tdx_disassociate_vp()
    return failed


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        kvm_arch_vcpu_load,
        tdx_flush_vp,
        tdx_flush_vp_on_cpu,
        tdx_vcpu_load,
    )
}
