# SPDX-License-Identifier: GPL-2.0-only
"""TDH.MEM.SEPT.ADD, SEPT.REMOVE, SEPT.RD (facts/tdx-module.md sections 3.1 to 3.3)."""

from __future__ import annotations

from septum.tdx.call import PAGE_MASK, Call, Refused
from septum.tdx.pamt import PageType
from septum.tdx.sept import FREE, NULL_PA, State, hpa_of, non_leaf, state_of
from septum.tdx.status import (
    TDX_EPT_ENTRY_STATE_INCORRECT,
    TDX_EPT_PAGE_NOT_FREE,
    TDX_OPERAND_INVALID,
    TDX_SUCCESS,
    Operand,
)

__all__ = ["tdh_mem_sept_add", "tdh_mem_sept_rd", "tdh_mem_sept_remove"]

BIT63 = 1 << 63
_ALLOW_EXISTING = 1


def tdh_mem_sept_add(c: Call) -> int:
    """Add an S-EPT page below a free entry.

    In: RCX level of the *parent entry* (1..top) and GPA; RDX TDR page, bit 0
    ALLOW_EXISTING; R8 HPA of the new page (bit 63 ignored); version 1: R9..R11 L2 pages.

    Checks, in order:
      version > 1                     OPERAND_INVALID|RAX
      RDX bits 11:1, 63:52            OPERAND_INVALID|RDX
      TDR, shared                     ...|RDX
      TD state; OP_STATE, shared
      RCX level, GPA                  OPERAND_INVALID|RCX
      S-EPT tree, shared              OPERAND_BUSY|SEPT_TREE
      walk                            EPT_WALK_FAILED|RCX + details
      entry lock                      OPERAND_BUSY|RCX + details
      state FREE or NL_MAPPED         EPT_ENTRY_STATE_INCORRECT|RCX + details
      R8 = NULL_PA: version 0         OPERAND_INVALID|R8
                    version 1         the entry must be NL_MAPPED
      entry FREE: R8 an NDA page, exclusive   ...|R8
      entry NL_MAPPED, no ALLOW_EXISTING      EPT_ENTRY_STATE_INCORRECT|RCX + details
      version 1: R9..R11 not NULL_PA without L2 VMs   OPERAND_INVALID|R9..R11

    Effects: the page holds FREE entries; entry FREE -> NL_MAPPED; PAMT NDA -> PT_EPT,
    BEPOCH 0; CHLDCNT + 1.  Version 1 returns R8..R11 on every exit: NULL_PA
    if consumed, with bit 63 if ALLOW_EXISTING left it over, else without bit 63.

    Source: src/vmm_dispatcher/api_calls/tdh_mem_sept_add.c
    """
    if c.version > 1:
        raise Refused(TDX_OPERAND_INVALID | Operand.RAX)
    if c.version == 1:
        _mask_pages(c)
    with c.phase("locks"):
        if c.rdx & ~(PAGE_MASK | _ALLOW_EXISTING):
            raise Refused(TDX_OPERAND_INVALID | Operand.RDX)
        c.lock_tdr(c.rdx & PAGE_MASK, Operand.RDX, exclusive=False)
        c.build_state()
        c.page_info(1, c.module.sept.top)
        c.lock_tree(exclusive=False)
    c.walk()
    hpa = c.r8 if c.r8 == NULL_PA else c.r8 & ~BIT63
    with c.phase("lock entry"):
        c.lock_entry()
        state = c.require_state()
        if hpa == NULL_PA:
            if c.version == 0:
                raise Refused(TDX_OPERAND_INVALID | Operand.R8)
            if state is State.FREE:
                raise c.refuse_entry(TDX_EPT_ENTRY_STATE_INCORRECT)
            _no_l2_pages(c)
            return TDX_SUCCESS
        if state is State.NL_MAPPED:
            if c.rdx & _ALLOW_EXISTING:
                if c.version == 1:
                    c.regs.r8 |= BIT63
                _no_l2_pages(c)
                return TDX_SUCCESS
            raise c.refuse_entry(TDX_EPT_ENTRY_STATE_INCORRECT)
        page = c.lock_page(hpa, Operand.R8, PageType.NDA, exclusive=True)
        _no_l2_pages(c)
    with c.phase("commit"):
        c.module.sept.prepare(hpa)
        c.commit_entry(non_leaf(hpa))
        page.change(PageType.EPT, c.td.hpa)
        page.bepoch.poke(0)
        c.td.chldcnt.bump(1)
        if c.version == 1:
            c.regs.r8 = NULL_PA
        c.release()
    return TDX_SUCCESS


def _mask_pages(c: Call) -> None:
    """Version 1 returns its pages on every exit: without bit 63 unless set below."""
    for name in ("r8", "r9", "r10", "r11"):
        page = getattr(c.regs, name)
        if page != NULL_PA:
            setattr(c.regs, name, page & ~BIT63)


def _no_l2_pages(c: Call) -> None:
    """Version 1: a page for an L2 VM that does not exist."""
    if c.version == 1:
        for operand, page in ((9, c.regs.r9), (10, c.regs.r10), (11, c.regs.r11)):
            if page != NULL_PA:
                raise Refused(TDX_OPERAND_INVALID | operand)


def tdh_mem_sept_remove(c: Call) -> int:
    """Remove an S-EPT page whose entries are all FREE.

    In: RCX level of the *parent entry* (1..top) and GPA; RDX TDR page.

    Checks, in order:
      version > 0: R9..R11 := NULL_PA; version > 1   OPERAND_INVALID|RAX
      TDR, shared                     ...|RDX
      TD state; OP_STATE, shared
      RCX level, GPA                  OPERAND_INVALID|RCX
      S-EPT tree, exclusive           OPERAND_BUSY|SEPT_TREE
      walk                            EPT_WALK_FAILED|RCX + details
      entry lock                      OPERAND_BUSY|RCX + details
      state NL_MAPPED or NL_BLOCKED   EPT_ENTRY_STATE_INCORRECT|RCX + details
      PAMT of the page, exclusive     OPERAND_BUSY|RCX
      if OP_STATE tracks: blocked     GPA_RANGE_NOT_BLOCKED|RCX + details
                          tracked     TLB_TRACKING_NOT_DONE|RCX
      all children FREE               EPT_PAGE_NOT_FREE|RCX + details

    Effects: entry -> FREE; PAMT -> NDA; CHLDCNT - 1; RCX = the page's HPA.

    Source: src/vmm_dispatcher/api_calls/tdh_mem_sept_remove.c
    """
    if c.version > 0:
        c.regs.r9 = c.regs.r10 = c.regs.r11 = NULL_PA
    if c.version > 1:
        raise Refused(TDX_OPERAND_INVALID | Operand.RAX)
    with c.phase("locks"):
        c.lock_tdr(c.rdx, Operand.RDX, exclusive=False)
        c.build_state()
        c.page_info(1, c.module.sept.top)
        c.lock_tree(exclusive=True)
    with c.phase("lock entry"):
        c.walk()
        c.lock_entry()
        c.require_state()
        hpa = hpa_of(c.raw)
        page = c.module.pamt.entry(hpa, 0)
        c.lock_implicit(page, Operand.RCX, exclusive=True, kind=PageType.EPT)
    c.blocked_and_tracked(page)
    with c.phase("commit"):
        if not _all_free(c, hpa):
            raise c.refuse_entry(TDX_EPT_PAGE_NOT_FREE)
        c.commit_entry(FREE, unlock=True)
        c.module.sept.retire(hpa)
        page.free()
        c.td.chldcnt.bump(-1)
        c.regs.rcx = hpa
        c.release()
    return TDX_SUCCESS


def _all_free(c: Call, hpa: int) -> bool:
    """Every child is FREE (REMOVED is not)."""
    page = c.module.sept.page(hpa)
    if c.m.exploring:
        return all(state_of(page.word(i).read()) is State.FREE for i in range(page.size))
    return all(state_of(word.v) is State.FREE for word in page.words.values())


def tdh_mem_sept_rd(c: Call) -> int:
    """Read an S-EPT entry.

    In: RCX level (0..top) and GPA; RDX TDR page, bit 0 L2 attributes (debug TD only).

    Checks, in order:
      TDR, shared                     ...|RDX
      TD state; OP_STATE, shared
      RDX bit 0                       OPERAND_INVALID|RDX
      RCX level, GPA                  OPERAND_INVALID|RCX
      S-EPT tree, shared              OPERAND_BUSY|SEPT_TREE
      walk                            EPT_WALK_FAILED|RCX + details
      entry lock                      OPERAND_BUSY|RCX + details

    Effects: RCX, RDX = details.  The lock clears a pending host-priority flag.

    Source: src/vmm_dispatcher/api_calls/tdh_mem_sept_rd.c
    """
    with c.phase("locks"):
        c.lock_tdr(c.rdx & ~1, Operand.RDX, exclusive=False)
        c.build_state()
        if c.rdx & 1:
            raise Refused(TDX_OPERAND_INVALID | Operand.RDX)
        c.page_info(0, c.module.sept.top)
        c.lock_tree(exclusive=False)
    c.walk()
    with c.phase("lock entry"):
        c.lock_entry()
        c.details(c.raw, c.level)
    return TDX_SUCCESS
