# SPDX-License-Identifier: GPL-2.0-only
"""TDH.PHYMEM.*: caches, reclaim, metadata (facts/tdx-module.md 3.21 and 3.23)."""

from __future__ import annotations

from septum.tdx.call import Call, Refused
from septum.tdx.pamt import PageType
from septum.tdx.state import KotState, Lifecycle
from septum.tdx.status import (
    TDX_INTERRUPTED_RESUMABLE,
    TDX_LIFECYCLE_STATE_INCORRECT,
    TDX_NO_HKID_READY_TO_WBCACHE,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_PAGE_METADATA_INCORRECT,
    TDX_SUCCESS,
    TDX_TD_ASSOCIATED_PAGES_EXIST,
    TDX_WBCACHE_RESUME_ERROR,
    Operand,
)

__all__ = [
    "tdh_phymem_cache_wb",
    "tdh_phymem_page_rdmd",
    "tdh_phymem_page_reclaim",
    "tdh_phymem_page_wbinvd",
]


def tdh_phymem_cache_wb(c: Call) -> int:
    """Write back and invalidate the calling LP's package's caches.

    In: RCX 0 start, 1 resume.

    Checks, in order:
      RCX                             OPERAND_INVALID|RCX
      the package's mutex             OPERAND_BUSY|WBCACHE
      KOT, shared                     OPERAND_BUSY|KOT
      start: an HKID is FLUSHED       NO_HKID_READY_TO_WBCACHE (saved progress is dropped)
      resume: was interrupted         WBCACHE_RESUME_ERROR
      interrupt between sub-blocks    INTERRUPTED_RESUMABLE (progress is kept)

    Effects: this package's bit is cleared for HKIDs FLUSHED at the start.

    Source: src/vmm_dispatcher/api_calls/tdh_phymem_cache_wb.c
    """
    kot = c.module.kot
    package = c.module.config.package_of(c.lp)
    progress = kot.progress[package]
    with c.phase("locks"):
        if c.rcx > 1:
            raise Refused(TDX_OPERAND_INVALID | Operand.RCX)
        if not kot.wbcache[package].acquire():
            raise Refused(TDX_OPERAND_BUSY | Operand.WBCACHE)
        c.held.append(kot.wbcache[package].release)
        if not kot.lock.acquire(False):
            raise Refused(TDX_OPERAND_BUSY | Operand.KOT)
        c.held.append(lambda: kot.lock.release(False))
        if c.rcx:
            saved = progress.peek()
            if saved is None:
                raise Refused(TDX_WBCACHE_RESUME_ERROR)
            block, hkids = saved
        else:
            block = 0
            progress.poke(None)
            hkids = tuple(h for h in kot.used() if kot.hkid(h).peek()[0] is KotState.FLUSHED)
            if not hkids:
                raise Refused(TDX_NO_HKID_READY_TO_WBCACHE)
    with c.phase("commit"):
        while block < c.module.config.cache_wb_blocks - 1:
            block += 1
            if c.interrupted():
                progress.poke((block, hkids))
                return TDX_INTERRUPTED_RESUMABLE
        progress.poke(None)
        for hkid in hkids:
            cell = kot.hkid(hkid)
            state, bitmap = cell.peek()
            if state is KotState.FLUSHED:
                cell.poke((state, bitmap & ~(1 << package)))
        c.release()
    return TDX_SUCCESS


def tdh_phymem_page_reclaim(c: Call) -> int:
    """Take a page back from a TD that is torn down.

    In: RCX HPA.

    Checks, in order:
      alignment, HKID bits            OPERAND_INVALID|RCX
      inside a TDMR                   OPERAND_ADDR_RANGE_ERROR|RCX
      PAMT to the actual leaf, exclusive   OPERAND_BUSY|RCX
      not NDA, not RSVD               PAGE_METADATA_INCORRECT|RCX
      (RCX type, RDX owner, R8 size from here on, also on failure)
      aligned to the leaf's size      OPERAND_INVALID|RCX
      owner's TDR, shared             OPERAND_BUSY|TDR
      TD_TEARDOWN                     LIFECYCLE_STATE_INCORRECT
      TDR itself: CHLDCNT is 0        TD_ASSOCIATED_PAGES_EXIST

    Effects: PAMT -> NDA; owner's CHLDCNT - pages.  The S-EPT is not consulted.

    Source: src/vmm_dispatcher/api_calls/tdh_phymem_page_reclaim.c
    """
    regs = c.regs
    regs.rcx = regs.rdx = regs.r8 = regs.r9 = regs.r10 = regs.r11 = 0
    with c.phase("locks"):
        c.check_hpa(c.rcx, Operand.RCX)
        page = c.lock_walk(c.rcx, Operand.RCX, 0, True).leaf
        kind, owner = page.peek()
        if kind in (PageType.NDA, PageType.RSVD):
            raise Refused(TDX_PAGE_METADATA_INCORRECT | Operand.RCX)
        regs.rcx, regs.rdx, regs.r8 = int(kind), owner, page.size
        if c.rcx != page.hpa:
            raise Refused(TDX_OPERAND_INVALID | Operand.RCX)
        if kind is PageType.TDR:
            td = c.module.td(page.hpa)
        else:
            td = c.lock_tdr_implicit(owner)
        if td.lifecycle.peek() is not Lifecycle.TD_TEARDOWN:
            raise Refused(TDX_LIFECYCLE_STATE_INCORRECT)
        if kind is PageType.TDR and td.chldcnt.peek():
            raise Refused(TDX_TD_ASSOCIATED_PAGES_EXIST)
    with c.phase("commit"):
        if kind is PageType.EPT or page.hpa == td.sept_root:
            c.module.sept.retire(page.hpa)
        if kind is not PageType.TDR:
            td.chldcnt.bump(-c.module.geometry.pages_per_level(page.size + 1))
        page.free()
        c.release()
    return TDX_SUCCESS


def tdh_phymem_page_wbinvd(c: Call) -> int:
    """Write back and invalidate the cache lines of a free page.

    In: RCX HPA, with any HKID bits.

    Checks, in order:
      alignment                       OPERAND_INVALID|RCX
      inside a TDMR                   OPERAND_ADDR_RANGE_ERROR|RCX
      PAMT, shared                    OPERAND_BUSY|RCX
      an NDA page                     PAGE_METADATA_INCORRECT|RCX

    Effects: none in the model; memory contents are not modelled.

    Source: src/vmm_dispatcher/api_calls/tdh_phymem_page_wbinvd.c
    """
    with c.phase("locks"):
        if c.rcx >> 52:
            raise Refused(TDX_OPERAND_INVALID | Operand.RCX)
        hpa = c.rcx & ((1 << c.module.config.hkid_shift) - 1)
        c.lock_page(hpa, Operand.RCX, PageType.NDA, exclusive=False)
    with c.phase("commit"):
        c.release()
    return TDX_SUCCESS


def tdh_phymem_page_rdmd(c: Call) -> int:
    """Read a page's metadata.

    In: RCX HPA.

    Checks, in order:
      alignment, HKID bits            OPERAND_INVALID|RCX
      inside a TDMR                   OPERAND_ADDR_RANGE_ERROR|RCX
      PAMT to the actual leaf, shared OPERAND_BUSY|RCX

    Effects: RCX type, RDX owner (stale if free), R8 size, R9 BEPOCH (PT_REG, PT_EPT).

    Source: src/vmm_dispatcher/api_calls/tdh_phymem_page_rdmd.c
    """
    regs = c.regs
    regs.rcx = regs.rdx = regs.r8 = regs.r9 = regs.r10 = regs.r11 = 0
    with c.phase("locks"):
        c.check_hpa(c.rcx, Operand.RCX)
        page = c.lock_walk(c.rcx, Operand.RCX, 0, False).leaf
    with c.phase("commit"):
        kind, owner = page.peek()
        regs.rcx, regs.rdx, regs.r8 = int(kind), owner, page.size
        if kind in (PageType.REG, PageType.EPT):
            regs.r9 = page.bepoch.peek()
        c.release()
    return TDX_SUCCESS
