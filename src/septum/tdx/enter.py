# SPDX-License-Identifier: GPL-2.0-only
"""TDH.VP.ENTER, TD exits and zero-step mitigation (facts/tdx-module.md 3.17, 3.18, 5).

Entering takes a reference on the present TLB epoch; leaving drops it.  While the guest
runs, the TDVPR (explicitly, so with its 1G and 2M PAMT entries) and the TDR are locked
shared; OP_STATE, epoch and tree locks are not held.

Zero-step: EPT-violation exits at an unchanged guest RIP are counted; the 7th puts the
faulting GPA on a list, and VP.ENTER then walks every listed GPA under the exclusive tree
lock and refuses to enter (a fake EPT-violation exit) while one would still fault.

Source: ``src/td_transitions/tdh_vp_enter.c``, ``td_exit.c``, ``td_exit_stepping.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from septum.machine.geometry import PAGE_SHIFT
from septum.tdx.call import PAGE_MASK, Call, Refused
from septum.tdx.regs import GuestResult
from septum.tdx.sept import PS, RWX
from septum.tdx.state import MIN_TDVPS_PAGES, Td, Vcpu, VcpuState
from septum.tdx.status import (
    TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_SUCCESS,
    TDX_TDCX_NUM_INCORRECT,
    TDX_VCPU_ASSOCIATED,
    TDX_VCPU_STATE_INCORRECT,
    Operand,
)
from septum.tdx.vp import lock_vcpu

if TYPE_CHECKING:
    from septum.tdx.module import TdxModule

__all__ = [
    "EXIT_EPT_VIOLATION",
    "EXIT_EXTERNAL_INTERRUPT",
    "EXIT_TDCALL",
    "note_ept_fault",
    "note_rip",
    "td_exit",
    "tdh_vp_enter",
]

EXIT_EXTERNAL_INTERRUPT: Final = 1
EXIT_EPT_VIOLATION: Final = 48
EXIT_TDCALL: Final = 77
_HINT: Final = 1 << 52
_RESUME_L1: Final = 1 << 53
_WRITE: Final = 2
EPF_THRESHOLD: Final = 6  # exits that only count
EPF_LIST_SIZE: Final = 32


def tdh_vp_enter(c: Call) -> int:
    """Run a vCPU on the calling LP.

    In: RCX TDVPR page, bit 52 host-recoverability hint, bit 53 resume L1.

    Checks, in order:
      other bits of RCX               OPERAND_INVALID|RCX
      TDVPR, shared                   ...|RCX
      TDR, shared                     OPERAND_BUSY|TDR
      TD state; OP_STATE, shared
      at least 6 TDVPS pages          TDCX_NUM_INCORRECT
      vCPU READY                      VCPU_STATE_INCORRECT
      associate with this LP          VCPU_ASSOCIATED (to another); not undone later
      bit 52 without a trap-type exit, bit 53   OPERAND_INVALID|RCX
      TD epoch lock, shared           OPERAND_BUSY|TD_EPOCH
      faulting GPAs are listed: S-EPT tree, exclusive   OPERAND_BUSY|SEPT_TREE
                   one still faults   RAX = EPT_VIOLATION without entry (R8 = GPA)

    Effects: a reference on TD_EPOCH; INVEPT if the epoch is new to the vCPU or another
    vCPU was the LP's last; ACTIVE.  TDVPR and TDR stay locked until the TD exit.

    Source: src/td_transitions/tdh_vp_enter.c
    """
    module = c.module
    with c.phase("locks"):
        if c.rcx & ~(PAGE_MASK | _HINT | _RESUME_L1):
            raise Refused(TDX_OPERAND_INVALID | Operand.RCX)
        vcpu = lock_vcpu(c, c.rcx & PAGE_MASK, Operand.RCX, exclusive=False)
        keep = len(c.held)
        c.build_state()
        if vcpu.pages.peek() < MIN_TDVPS_PAGES:
            raise Refused(TDX_TDCX_NUM_INCORRECT)
        if vcpu.state.peek() is not VcpuState.READY:
            raise Refused(TDX_VCPU_STATE_INCORRECT)
        new = _associate(c, vcpu)
        if (c.rcx & _HINT and not vcpu.trap_exit.peek()) or c.rcx & _RESUME_L1:
            raise Refused(TDX_OPERAND_INVALID | Operand.RCX)
    _take_epoch(c, vcpu, new)
    refused = _stepping_filter(c, vcpu)
    if refused:
        return refused
    with c.phase("enter"):
        lp = module.lp(c.lp)
        if lp.last_vcpu.peek() != vcpu.hpa:
            module.flush(vcpu, c.lp, c.regs)
            lp.last_vcpu.poke(vcpu.hpa)
        rip = c.cond.rip
        if rip is not None:
            vcpu.rip.poke(rip)
        vcpu.entry_rip.poke(vcpu.rip.peek())
        vcpu.state.poke(VcpuState.ACTIVE)
        lp.guest.poke(vcpu.hpa)
        del c.held[:keep]  # TDVPR and TDR stay locked; td_exit releases them
        c.release()
        c.regs.event = "td-entry"
        c.m.emit("td_enter", vcpu.hpa, c.lp)
    return TDX_SUCCESS


def _associate(c: Call, vcpu: Vcpu) -> bool:
    """Atomically make this LP the vCPU's; whether it was nobody's before."""
    lp = vcpu.lp.peek()
    if lp is None:
        vcpu.lp.poke(c.lp)
        c.td.num_assoc.bump(1)
        return True
    if lp != c.lp:
        raise Refused(TDX_VCPU_ASSOCIATED)
    return False


def _take_epoch(c: Call, vcpu: Vcpu, new: bool) -> None:
    """A reference on the present epoch, under the epoch lock."""
    td = c.td
    with c.phase("epoch lock"):
        if not td.epoch_lock.acquire(False):
            raise Refused(TDX_OPERAND_BUSY | Operand.TD_EPOCH)
    with c.phase("epoch"):
        epoch: int = td.epoch.peek()
        td.refcounts[epoch & 1].bump(1)
        td.epoch_lock.release(False)
        if epoch != vcpu.epoch.peek():
            if not new:
                c.module.flush(vcpu, c.lp, c.regs)
            vcpu.epoch.poke(epoch)


def _drop_epoch(td: Td, vcpu: Vcpu) -> None:
    td.refcounts[vcpu.epoch.peek() & 1].bump(-1)


def _stepping_filter(c: Call, vcpu: Vcpu) -> int:
    """Zero-step: every listed GPA must have become accessible (facts 3.18)."""
    gpas: tuple[int, ...] = vcpu.epf_list.peek()
    if not gpas:
        return 0
    with c.phase("tree lock"):
        if not c.td.tree.acquire(True):
            _drop_epoch(c.td, vcpu)
            raise Refused(TDX_OPERAND_BUSY | Operand.SEPT_TREE)
        c.held.append(lambda: c.td.tree.release(True))
    for gpa in gpas:
        with c.phase(f"walk {gpa:#x}"):
            spot = c.module.sept.walk(c.td.root, gpa, 0)
            still = spot.raw & RWX != RWX or not spot.raw & PS
            if still:
                c.m.blame(spot.word)
        if still:
            with c.phase("refuse"):
                _drop_epoch(c.td, vcpu)
                c.regs.rcx = _WRITE
                c.regs.rdx = c.regs.r9 = 0
                vcpu.trap_exit.poke(False)
                c.regs.r8 = gpa >> PAGE_SHIFT << PAGE_SHIFT
                c.release()
            return EXIT_EPT_VIOLATION
    return 0


# --- leaving the guest ---------------------------------------------------------------------


def note_rip(vcpu: Vcpu, rip: int | None) -> None:
    """At every VM exit: progress of the guest clears the zero-step suspicion."""
    if rip is not None:
        vcpu.rip.poke(rip)
    if vcpu.rip.peek() != vcpu.entry_rip.peek() and (vcpu.epf_count.v or vcpu.epf_list.v):
        vcpu.epf_count.poke(0)
        vcpu.epf_list.poke(())


def note_ept_fault(vcpu: Vcpu, gpa: int) -> None:
    """A counted EPT-violation exit; from the 7th on the full GPA is listed."""
    count = vcpu.epf_count.peek()
    if count < EPF_THRESHOLD:
        vcpu.epf_count.poke(count + 1)
        return
    gpas = vcpu.epf_list.peek()
    if gpa not in gpas and len(gpas) < EPF_LIST_SIZE:
        vcpu.epf_list.poke((*gpas, gpa))


def td_exit(
    module: TdxModule,
    vcpu: Vcpu,
    lp: int,
    *,
    reason: int,
    status: int = TDX_SUCCESS,
    rcx: int = 0,
    rdx: int = 0,
    r8: int = 0,
    trap: bool = False,
) -> GuestResult:
    """The guest leaves to the host: drop the epoch reference, TDR and TDVPR.

    A TD that became FATAL meanwhile: other status, the vCPU stays ACTIVE and keeps its
    epoch reference (facts 3.17).
    """
    td = module.td(vcpu.tdr.v)
    with module.m.step("TD exit", vcpu.name):
        if td.fatal.peek():
            status = TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE
            rdx = r8 = 0
        else:
            vcpu.state.poke(VcpuState.READY)
            vcpu.trap_exit.poke(trap)
            _drop_epoch(td, vcpu)
        module.lp(lp).guest.poke(None)
        module.pamt.entry(td.hpa, 0).lock.release(False)
        for size in (0, 1, 2):
            module.pamt.entry(vcpu.hpa, size).lock.release(False)
        module.m.emit("td_exit", vcpu.hpa, lp)
    return GuestResult("td-exit", rax=status | reason, rcx=rcx, rdx=rdx, r8=r8)
