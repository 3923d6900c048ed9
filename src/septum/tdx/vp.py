# SPDX-License-Identifier: GPL-2.0-only
"""TDH.VP.CREATE, ADDCX, INIT, FLUSH (facts/tdx-module.md sections 3.16 and 3.19)."""

from __future__ import annotations

from septum.tdx.call import Call, Refused
from septum.tdx.pamt import PageType, PamtEntry
from septum.tdx.state import (
    MAX_TDVPS_PAGES,
    MIN_TDVPS_PAGES,
    Lifecycle,
    Vcpu,
    VcpuState,
)
from septum.tdx.status import (
    TDX_MAX_VCPUS_EXCEEDED,
    TDX_SUCCESS,
    TDX_TD_KEYS_NOT_CONFIGURED,
    TDX_TDCX_NUM_INCORRECT,
    TDX_VCPU_NOT_ASSOCIATED,
    TDX_VCPU_STATE_INCORRECT,
    Operand,
)

__all__ = ["lock_vcpu", "tdh_vp_addcx", "tdh_vp_create", "tdh_vp_flush", "tdh_vp_init"]


def lock_vcpu(c: Call, hpa: int, operand: int, *, exclusive: bool) -> Vcpu:
    """The TDVPR as an explicit operand, then its owner's TDR implicitly, shared."""
    page: PamtEntry = c.lock_page(hpa, operand, PageType.TDVPR, exclusive=exclusive)
    c.lock_tdr_implicit(page.peek()[1])
    return c.module.vcpu(hpa)


def tdh_vp_create(c: Call) -> int:
    """Create a vCPU's root page.

    In: RCX TDVPR page; RDX TDR page.

    Checks, in order:
      TDR, shared                     ...|RDX
      TD state; OP_STATE, shared
      RCX an NDA page, exclusive      ...|RCX

    Effects: PAMT -> PT_TDVPR; CHLDCNT + 1.

    Source: src/vmm_dispatcher/api_calls/tdh_vp_create.c
    """
    with c.phase("locks"):
        td = c.lock_tdr(c.rdx, Operand.RDX, exclusive=False)
        c.build_state()
        page = c.lock_page(c.rcx, Operand.RCX, PageType.NDA, exclusive=True)
    with c.phase("commit"):
        c.module.vcpu(c.rcx).reset(td.hpa)
        page.change(PageType.TDVPR, td.hpa)
        td.chldcnt.bump(1)
        c.release()
    return TDX_SUCCESS


def tdh_vp_addcx(c: Call) -> int:
    """Add a TDVPS page to a vCPU (6 in all are needed, the TDVPR included).

    In: RCX page; RDX TDVPR page.

    Checks, in order:
      TDVPR, exclusive                ...|RDX
      TDR, shared                     OPERAND_BUSY|TDR
      TD state; OP_STATE, shared
      vCPU UNINITIALIZED              VCPU_STATE_INCORRECT
      fewer than 15 pages             TDCX_NUM_INCORRECT
      RCX an NDA page, exclusive      ...|RCX

    Effects: PAMT -> PT_TDCX; CHLDCNT + 1.

    Source: src/vmm_dispatcher/api_calls/tdh_vp_addcx.c
    """
    with c.phase("locks"):
        vcpu = lock_vcpu(c, c.rdx, Operand.RDX, exclusive=True)
        c.build_state()
        if vcpu.state.peek() is not VcpuState.UNINITIALIZED:
            raise Refused(TDX_VCPU_STATE_INCORRECT)
        if vcpu.pages.peek() >= MAX_TDVPS_PAGES:
            raise Refused(TDX_TDCX_NUM_INCORRECT)
        page = c.lock_page(c.rcx, Operand.RCX, PageType.NDA, exclusive=True)
    with c.phase("commit"):
        vcpu.pages.poke(vcpu.pages.peek() + 1)
        page.change(PageType.TDCX, c.td.hpa)
        c.td.chldcnt.bump(1)
        c.release()
    return TDX_SUCCESS


def tdh_vp_init(c: Call) -> int:
    """Initialise a vCPU and associate it with the calling LP.

    In: RCX TDVPR page; RDX initial RCX; version 1 (newer modules only): R8 x2APIC id.

    Checks, in order:
      TDVPR, exclusive                ...|RCX
      TDR, shared                     OPERAND_BUSY|TDR
      TD state; OP_STATE INITIALIZED, shared
      at least 6 pages                TDCX_NUM_INCORRECT
      vCPU UNINITIALIZED              VCPU_STATE_INCORRECT
      NUM_VCPUS below MAX_VCPUS       MAX_VCPUS_EXCEEDED

    Effects: READY, associated; NUM_VCPUS + 1, NUM_ASSOC_VCPUS + 1.  Where a profile
    says so, version 1 takes the TDR exclusive.

    Source: src/vmm_dispatcher/api_calls/tdh_vp_init.c
    """
    with c.phase("locks"):
        exclusive = c.version == 1 and c.module.profile.vp_init_tdr_exclusive
        page = c.lock_page(c.rcx, Operand.RCX, PageType.TDVPR, exclusive=True)
        owner = c.module.pamt.entry(page.peek()[1], 0)
        c.lock_implicit(owner, Operand.TDR, exclusive=exclusive, kind=PageType.TDR)
        td = c.td = c.module.td(owner.hpa)
        vcpu = c.module.vcpu(c.rcx)
        c.build_state()
        if vcpu.pages.peek() < MIN_TDVPS_PAGES:
            raise Refused(TDX_TDCX_NUM_INCORRECT)
        if vcpu.state.peek() is not VcpuState.UNINITIALIZED:
            raise Refused(TDX_VCPU_STATE_INCORRECT)
        if td.num_vcpus.peek() >= td.params.peek().max_vcpus:
            raise Refused(TDX_MAX_VCPUS_EXCEEDED)
        # Reserving the number is atomic: the TDR is only shared.
        td.num_vcpus.poke(td.num_vcpus.peek() + 1)
    with c.phase("commit"):
        vcpu.state.poke(VcpuState.READY)
        vcpu.lp.poke(c.lp)
        td.num_assoc.bump(1)
        c.release()
    return TDX_SUCCESS


def tdh_vp_flush(c: Call) -> int:
    """Flush a vCPU's translations on its LP and end the association.

    In: RCX TDVPR page.

    Checks, in order:
      TDVPR, exclusive                ...|RCX  (BUSY while the vCPU runs anywhere)
      TDR, shared                     OPERAND_BUSY|TDR
      keys configured                 TD_KEYS_NOT_CONFIGURED
      at least 6 pages                TDCX_NUM_INCORRECT
      associated with this LP         VCPU_NOT_ASSOCIATED

    Effects: INVEPT; NUM_ASSOC_VCPUS - 1; the LP forgets which vCPU was its last.

    Source: src/vmm_dispatcher/api_calls/tdh_vp_flush.c
    """
    with c.phase("locks"):
        vcpu = lock_vcpu(c, c.rcx, Operand.RCX, exclusive=True)
        if c.td.lifecycle.peek() is not Lifecycle.TD_KEYS_CONFIGURED:
            raise Refused(TDX_TD_KEYS_NOT_CONFIGURED)
        if vcpu.pages.peek() < MIN_TDVPS_PAGES:
            raise Refused(TDX_TDCX_NUM_INCORRECT)
        if vcpu.lp.peek() != c.lp:
            raise Refused(TDX_VCPU_NOT_ASSOCIATED)
    with c.phase("commit"):
        c.module.flush(vcpu, c.lp, c.regs)
        vcpu.lp.poke(None)
        c.td.num_assoc.bump(-1)
        c.module.lp(c.lp).last_vcpu.poke(None)
        c.release()
    return TDX_SUCCESS
