# SPDX-License-Identifier: GPL-2.0-only
"""TD build and teardown: TDH.MNG.*, TDH.MR.* (facts/tdx-module.md 3.13 to 3.15, 3.20, 3.22).

Build: MNG.CREATE, KEY.CONFIG on each package, 6 x ADDCX, INIT, vCPUs, pages, FINALIZE.
Teardown: VP.FLUSH each vCPU, VPFLUSHDONE, CACHE.WB on each package, KEY.FREEID,
PHYMEM.PAGE.RECLAIM of every page, the TDR last (facts section 8).
"""

from __future__ import annotations

from septum.machine.geometry import PAGE_SHIFT
from septum.tdx.call import Call, Refused
from septum.tdx.config import TdParams
from septum.tdx.pamt import PageType
from septum.tdx.sept import PS, RWX, State, state_of
from septum.tdx.state import (
    MAX_TDCX,
    MIN_TDCX,
    SEPT_ROOT_INDEX,
    KotState,
    Lifecycle,
    OpState,
    Td,
)
from septum.tdx.status import (
    TDX_EPT_ENTRY_NOT_PRESENT,
    TDX_FLUSHVP_NOT_DONE,
    TDX_HKID_NOT_FREE,
    TDX_KEY_CONFIGURED,
    TDX_KEY_GENERATION_FAILED,
    TDX_LIFECYCLE_STATE_INCORRECT,
    TDX_NO_VCPUS,
    TDX_OP_STATE_INCORRECT,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_RND_NO_ENTROPY,
    TDX_SUCCESS,
    TDX_TD_FATAL,
    TDX_TDCX_NUM_INCORRECT,
    TDX_WBCACHE_NOT_COMPLETE,
    Operand,
)

__all__ = [
    "tdh_mng_addcx",
    "tdh_mng_create",
    "tdh_mng_init",
    "tdh_mng_key_config",
    "tdh_mng_key_freeid",
    "tdh_mng_key_reclaimid",
    "tdh_mng_vpflushdone",
    "tdh_mr_extend",
    "tdh_mr_finalize",
]


def _lock_kot(c: Call) -> None:
    kot = c.module.kot
    if not kot.lock.acquire(True):
        raise Refused(TDX_OPERAND_BUSY | Operand.KOT)
    c.held.append(lambda: kot.lock.release(True))


def tdh_mng_create(c: Call) -> int:
    """Create a TD: its TDR page and its HKID.

    In: RCX TDR page; RDX HKID (15:0).

    Checks, in order:
      a private HKID                  OPERAND_INVALID|RDX
      RCX an NDA page, exclusive      ...|RCX
      KOT, exclusive                  OPERAND_BUSY|KOT
      the HKID is free                HKID_NOT_FREE
      entropy                         RND_NO_ENTROPY

    Effects: HKID assigned; TD_HKID_ASSIGNED; PAMT -> PT_TDR, owner 0.

    Source: src/vmm_dispatcher/api_calls/tdh_mng_create.c
    """
    first, last = c.module.config.private_hkids
    with c.phase("locks"):
        if not first <= c.rdx <= last:
            raise Refused(TDX_OPERAND_INVALID | Operand.RDX)
        page = c.lock_page(c.rcx, Operand.RCX, PageType.NDA, exclusive=True)
        _lock_kot(c)
        hkid = c.module.kot.hkid(c.rdx)
        if hkid.peek()[0] is not KotState.FREE:
            raise Refused(TDX_HKID_NOT_FREE)
        if c.cond.no_entropy:
            raise Refused(TDX_RND_NO_ENTROPY)
    with c.phase("commit"):
        hkid.poke((KotState.ASSIGNED, 0))
        c.module.td(c.rcx).reset(c.rdx)
        page.change(PageType.TDR, 0)
        c.release()
    return TDX_SUCCESS


def tdh_mng_key_config(c: Call) -> int:
    """Configure the TD's key on the calling LP's package.

    In: RCX TDR page.

    Checks, in order:
      TDR, exclusive                  ...|RCX
      TDR.FATAL                       TD_FATAL
      TD_HKID_ASSIGNED                LIFECYCLE_STATE_INCORRECT
      not yet done on this package    KEY_CONFIGURED
      PCONFIG busy                    OPERAND_BUSY|KET
      PCONFIG without entropy         KEY_GENERATION_FAILED

    Effects: the last package makes it TD_KEYS_CONFIGURED.

    Source: src/vmm_dispatcher/api_calls/tdh_mng_key_config.c
    """
    with c.phase("locks"):
        td = c.lock_tdr(c.rcx, Operand.RCX, exclusive=True)
        if td.fatal.peek():
            raise Refused(TDX_TD_FATAL)
        if td.lifecycle.peek() is not Lifecycle.TD_HKID_ASSIGNED:
            raise Refused(TDX_LIFECYCLE_STATE_INCORRECT)
        package = c.module.config.package_of(c.lp)
        done = td.packages.peek()
        if package in done:
            raise Refused(TDX_KEY_CONFIGURED)
        if c.cond.pconfig == "busy":
            raise Refused(TDX_OPERAND_BUSY | Operand.KET)
        if c.cond.pconfig == "entropy":
            raise Refused(TDX_KEY_GENERATION_FAILED)
    with c.phase("commit"):
        td.packages.poke(done | {package})
        if len(done) + 1 == c.module.config.packages:
            td.lifecycle.poke(Lifecycle.TD_KEYS_CONFIGURED)
        c.release()
    return TDX_SUCCESS


def tdh_mng_addcx(c: Call) -> int:
    """Add a TDCS page.

    In: RCX page; RDX TDR page.

    Checks, in order:
      TDR, exclusive                  ...|RDX
      TDR.FATAL, keys configured      TD_FATAL, TD_KEYS_NOT_CONFIGURED
      fewer than 9 pages              TDCX_NUM_INCORRECT
      RCX an NDA page, exclusive      ...|RCX
      from the 7th: UNINITIALIZED     OP_STATE_INCORRECT
      the 6th: entropy                RND_NO_ENTROPY

    Effects: PAMT -> PT_TDCX; CHLDCNT + 1.  Page 3 is the S-EPT root, filled with FREE.

    Source: src/vmm_dispatcher/api_calls/tdh_mng_addcx.c
    """
    with c.phase("locks"):
        td = c.lock_tdr(c.rdx, Operand.RDX, exclusive=True)
        c.keys_configured()
        tdcx = td.tdcx.peek()
        if len(tdcx) >= MAX_TDCX:
            raise Refused(TDX_TDCX_NUM_INCORRECT)
        page = c.lock_page(c.rcx, Operand.RCX, PageType.NDA, exclusive=True)
        if len(tdcx) >= MIN_TDCX and td.op_state.peek() is not OpState.UNINITIALIZED:
            raise Refused(TDX_OP_STATE_INCORRECT)
        if len(tdcx) == MIN_TDCX - 1 and c.cond.no_entropy:
            raise Refused(TDX_RND_NO_ENTROPY)
    with c.phase("commit"):
        if len(tdcx) == SEPT_ROOT_INDEX:
            c.module.sept.prepare(c.rcx)
        td.tdcx.poke((*tdcx, c.rcx))
        page.change(PageType.TDCX, td.hpa)
        td.chldcnt.bump(1)
        c.release()
    return TDX_SUCCESS


def tdh_mng_init(c: Call) -> int:
    """Initialise the TDCS.

    In: RCX TDR page; RDX HPA of TD_PARAMS (`TdxModule.td_params`, else the defaults).

    Checks, in order:
      TDR, exclusive                  ...|RCX
      TD state; OP_STATE UNINITIALIZED
      RDX 1024-aligned, shared        OPERAND_INVALID|RDX

    Effects: TD_EPOCH = 1, no references; OP_STATE INITIALIZED.

    Source: src/vmm_dispatcher/api_calls/tdh_mng_init.c (not executed for the vectors)
    """
    with c.phase("locks"):
        c.lock_tdr(c.rcx, Operand.RCX, exclusive=True)
        c.build_state(lock=False)
        if c.rdx & 1023 or c.rdx >> c.module.config.hkid_shift:
            raise Refused(TDX_OPERAND_INVALID | Operand.RDX)
        params = c.module.td_params.get(c.rdx, c.module.config.td_params)
    with c.phase("commit"):
        initialise(c.td, params)
        c.release()
    return TDX_SUCCESS


def initialise(td: Td, params: TdParams) -> None:
    """MNG.INIT's effect on the TDCS (under the exclusive TDR)."""
    td.params.poke(params)
    td.epoch.poke(1)
    td.refcounts[0].poke(0)
    td.refcounts[1].poke(0)
    td.num_vcpus.poke(0)
    td.num_assoc.poke(0)
    td.op_state.poke(OpState.INITIALIZED)


def tdh_mr_extend(c: Call) -> int:
    """Measure 256 bytes of a page.

    In: RCX GPA (256-byte aligned, no level); RDX TDR page.

    Checks, in order:
      TDR, exclusive                  ...|RDX
      TD state; OP_STATE INITIALIZED (read without its lock)
      alignment, GPA                  OPERAND_INVALID|RCX
      walk to a leaf                  EPT_ENTRY_NOT_PRESENT|RCX + details
      state MAPPED                    EPT_ENTRY_NOT_PRESENT (no operand)

    Effects: MRTD extended with the GPA and the data.

    Source: src/vmm_dispatcher/api_calls/tdh_mr_extend.c
    """
    with c.phase("locks"):
        td = c.lock_tdr(c.rdx, Operand.RDX, exclusive=True)
        c.build_state(lock=False)
        gpa = c.rcx
        if gpa & 0xFF or not c.module.gpa_valid(gpa):
            raise Refused(TDX_OPERAND_INVALID | Operand.RCX)
    with c.phase("walk"):
        page = gpa >> PAGE_SHIFT << PAGE_SHIFT
        spot = c.module.sept.walk(td.root, page, 0)
        if not spot.raw & RWX or not spot.raw & PS:
            c.details(spot.raw, spot.level)
            raise Refused(TDX_EPT_ENTRY_NOT_PRESENT | Operand.RCX)
        if state_of(spot.raw) is not State.MAPPED:
            raise Refused(TDX_EPT_ENTRY_NOT_PRESENT)
    with c.phase("commit"):
        td.mrtd.poke((*td.mrtd.peek(), ("MR.EXTEND", gpa)))
        c.release()
    return TDX_SUCCESS


def tdh_mr_finalize(c: Call) -> int:
    """End the TD's build: OP_STATE becomes RUNNABLE.

    In: RCX TDR page.

    Checks, in order:
      TDR, exclusive                  ...|RCX
      TD state; OP_STATE INITIALIZED
      a vCPU exists                   NO_VCPUS

    Effects: OP_STATE RUNNABLE; MRTD closed.  Blocked pages remain blocked.

    Source: src/vmm_dispatcher/api_calls/tdh_mr_finalize.c
    """
    with c.phase("locks"):
        td = c.lock_tdr(c.rcx, Operand.RCX, exclusive=True)
        c.build_state(lock=False)
        if not td.num_vcpus.peek():
            raise Refused(TDX_NO_VCPUS)
    with c.phase("commit"):
        td.op_state.poke(OpState.RUNNABLE)
        c.release()
    return TDX_SUCCESS


def tdh_mng_vpflushdone(c: Call) -> int:
    """Declare every vCPU flushed; from now on no MEM.* or VP.* call works.

    In: RCX TDR page.

    Checks, in order:
      TDR, exclusive                  ...|RCX
      KOT, exclusive                  OPERAND_BUSY|KOT
      HKID_ASSIGNED or KEYS_CONFIGURED   LIFECYCLE_STATE_INCORRECT
      no vCPU associated              FLUSHVP_NOT_DONE

    Effects: TD_BLOCKED; HKID FLUSHED, to be written back on every package.

    Source: src/vmm_dispatcher/api_calls/tdh_mng_vpflushdone.c
    """
    with c.phase("locks"):
        td = c.lock_tdr(c.rcx, Operand.RCX, exclusive=True)
        _lock_kot(c)
        if td.lifecycle.peek() > Lifecycle.TD_KEYS_CONFIGURED:
            raise Refused(TDX_LIFECYCLE_STATE_INCORRECT)
        if td.num_assoc.peek():
            raise Refused(TDX_FLUSHVP_NOT_DONE)
    with c.phase("commit"):
        td.lifecycle.poke(Lifecycle.TD_BLOCKED)
        c.module.kot.hkid(td.hkid.v).poke((KotState.FLUSHED, (1 << c.module.config.packages) - 1))
        c.release()
    return TDX_SUCCESS


def tdh_mng_key_freeid(c: Call) -> int:
    """Free the TD's HKID after the caches were written back.

    In: RCX TDR page.

    Checks, in order:
      TDR, exclusive                  ...|RCX
      TD_BLOCKED                      LIFECYCLE_STATE_INCORRECT
      KOT, exclusive                  OPERAND_BUSY|KOT
      CACHE.WB done on each package   WBCACHE_NOT_COMPLETE

    Effects: HKID FREE; TD_TEARDOWN.

    Source: src/vmm_dispatcher/api_calls/tdh_mng_key_freeid.c
    """
    with c.phase("locks"):
        td = c.lock_tdr(c.rcx, Operand.RCX, exclusive=True)
        if td.lifecycle.peek() is not Lifecycle.TD_BLOCKED:
            raise Refused(TDX_LIFECYCLE_STATE_INCORRECT)
        _lock_kot(c)
        hkid = c.module.kot.hkid(td.hkid.v)
        if hkid.peek()[1]:
            raise Refused(TDX_WBCACHE_NOT_COMPLETE)
    with c.phase("commit"):
        hkid.poke((KotState.FREE, 0))
        td.lifecycle.poke(Lifecycle.TD_TEARDOWN)
        c.release()
    return TDX_SUCCESS


def tdh_mng_key_reclaimid(c: Call) -> int:
    """Nothing: a leaf that always succeeds.

    In: RCX TDR page, ignored.

    Checks, in order: none.

    Effects: none; it always succeeds.

    Source: facts section 1
    """
    return TDX_SUCCESS
