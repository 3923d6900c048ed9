# SPDX-License-Identifier: GPL-2.0-only
"""TDH.MEM.PAGE.ADD, AUG, REMOVE, RELOCATE (facts/tdx-module.md 3.4 to 3.6 and 3.9)."""

from __future__ import annotations

from septum.tdx.call import Call, Refused
from septum.tdx.pamt import PageType
from septum.tdx.sept import (
    FREE,
    HPA_MASK,
    State,
    any_blocked,
    hpa_of,
    leaf,
    removed,
    state_of,
    unblocked,
)
from septum.tdx.state import IMPORT_OP_STATES
from septum.tdx.status import (
    TDX_OPERAND_INVALID,
    TDX_PAGE_METADATA_INCORRECT,
    TDX_SUCCESS,
    Operand,
)

__all__ = [
    "tdh_mem_page_add",
    "tdh_mem_page_aug",
    "tdh_mem_page_relocate",
    "tdh_mem_page_remove",
]


def tdh_mem_page_add(c: Call) -> int:
    """Copy a source page into the TD and map it, before the TD is finalized.

    In: RCX level 0 and GPA; RDX TDR page; R8 target HPA; R9 source HPA.

    Checks, in order:
      TDR, exclusive                  ...|RDX
      TD state; OP_STATE INITIALIZED (read without its lock)
      RCX level 0, GPA                OPERAND_INVALID|RCX
      walk                            EPT_WALK_FAILED|RCX + details
      state FREE                      EPT_ENTRY_STATE_INCORRECT|RCX + details
      R9 aligned, a shared HKID       OPERAND_INVALID|R9
      R8 an NDA page, exclusive       ...|R8

    Effects: entry FREE -> MAPPED; MRTD extended with the GPA; PAMT -> PT_REG, BEPOCH 0;
    CHLDCNT + 1.  No tree or entry lock: the exclusive TDR implies them.  An entry that
    somebody holds locked would be a fatal error of the module.

    Source: src/vmm_dispatcher/api_calls/tdh_mem_page_add.c
    """
    with c.phase("locks"):
        c.lock_tdr(c.rdx, Operand.RDX, exclusive=True)
        c.build_state(lock=False)
        c.page_info(0, 0)
    with c.phase("walk"):
        c.walk()
        c.sample_entry()
        c.require_state()
        private = c.module.config.private_hkids[0] << c.module.config.hkid_shift
        if c.r9 & 0xFFF or c.r9 >> 52 or c.r9 >= private:
            raise Refused(TDX_OPERAND_INVALID | Operand.R9)
        page = c.lock_page(c.r8, Operand.R8, PageType.NDA, exclusive=True)
    with c.phase("commit"):
        c.commit_unlocked_entry(leaf(State.MAPPED, c.r8))
        c.td.mrtd.poke((*c.td.mrtd.peek(), ("MEM.PAGE.ADD", c.gpa)))
        page.change(PageType.REG, c.td.hpa)
        page.bepoch.poke(0)
        c.td.chldcnt.bump(1)
        c.release()
    return TDX_SUCCESS


def tdh_mem_page_aug(c: Call) -> int:
    """Map a new page as PENDING: the guest must accept it.

    In: RCX level 0..1 and GPA; RDX TDR page; R8 HPA.

    Checks, in order:
      TDR, shared                     ...|RDX
      TD state; OP_STATE, shared
      RCX level 0..1, GPA             OPERAND_INVALID|RCX
      S-EPT tree, shared              OPERAND_BUSY|SEPT_TREE
      walk                            EPT_WALK_FAILED|RCX + details
      entry lock                      OPERAND_BUSY|RCX + details
      state FREE or REMOVED           EPT_ENTRY_STATE_INCORRECT|RCX + details
      R8 an NDA page of that size, exclusive   ...|R8
      2M: all 4K PAMT entries NDA     PAGE_METADATA_INCORRECT|R8

    Effects: entry -> PENDING; PAMT at that size -> PT_REG, BEPOCH 0; CHLDCNT + pages.

    Source: src/vmm_dispatcher/api_calls/tdh_mem_page_aug.c
    """
    with c.phase("locks"):
        c.lock_tdr(c.rdx, Operand.RDX, exclusive=False)
        c.build_state()
        c.page_info(0, 1)
        c.lock_tree(exclusive=False)
    c.walk()
    with c.phase("lock entry"):
        c.lock_entry()
        c.require_state()
        page = c.lock_page(c.r8, Operand.R8, PageType.NDA, exclusive=True, size=c.level)
        if c.level and not c.module.pamt.all_free_below(c.r8, c.level):
            raise Refused(TDX_PAGE_METADATA_INCORRECT | Operand.R8)
    with c.phase("commit"):
        c.commit_entry(leaf(State.PENDING, c.r8), unlock=True)
        page.change(PageType.REG, c.td.hpa)
        page.bepoch.poke(0)
        c.td.chldcnt.bump(c.module.geometry.pages_per_level(c.level + 1))
        c.release()
    return TDX_SUCCESS


def tdh_mem_page_remove(c: Call) -> int:
    """Remove a leaf from the TD.

    In: RCX level 0..2 and GPA; RDX TDR page.

    Checks, in order:
      TDR, shared                     ...|RDX
      TD state; OP_STATE, shared
      RCX level 0..2, GPA             OPERAND_INVALID|RCX
      S-EPT tree, *shared*            OPERAND_BUSY|SEPT_TREE
      walk                            EPT_WALK_FAILED|RCX + details
      entry lock                      OPERAND_BUSY|RCX + details
      a leaf of an allowed state      EPT_ENTRY_STATE_INCORRECT|RCX + details
      PAMT of the page, exclusive     OPERAND_BUSY|RCX
      if OP_STATE tracks: blocked     GPA_RANGE_NOT_BLOCKED|RCX + details
                          tracked     TLB_TRACKING_NOT_DONE|RCX

    Effects: entry -> FREE (REMOVED during an import); PAMT -> NDA, owner and BEPOCH
    stale; CHLDCNT - pages; RCX = HPA.  Details of a partially accepted 2M page show
    no ACCEPT_COUNTER here.

    Source: src/vmm_dispatcher/api_calls/tdh_mem_page_remove.c
    """
    with c.phase("locks"):
        c.lock_tdr(c.rdx, Operand.RDX, exclusive=False)
        c.build_state()
        c.page_info(0, 2)
        c.lock_tree(exclusive=False)
    c.walk()
    with c.phase("lock entry"):
        c.lock_entry()
        c.require_state()
        c.drop_accept_counter()
        hpa = c.leaf_hpa()
        page = c.module.pamt.entry(hpa, c.level)
        c.lock_implicit(page, Operand.RCX, exclusive=True, kind=PageType.REG)
    c.blocked_and_tracked(page)
    with c.phase("commit"):
        importing = c.op_state in IMPORT_OP_STATES
        c.commit_entry(removed(c.td.mig_epoch.peek()) if importing else FREE, unlock=True)
        page.free()
        c.td.chldcnt.bump(-c.module.geometry.pages_per_level(c.level + 1))
        c.regs.rcx = hpa
        c.release()
    return TDX_SUCCESS


def tdh_mem_page_relocate(c: Call) -> int:
    """Move a 4K page to another HPA; the entry ends up unblocked.

    In: RCX level 0 and GPA; RDX TDR page; R8 new HPA.

    Checks, in order:
      TDR, shared                     ...|RDX
      TD state; OP_STATE, shared
      RCX level 0, GPA                OPERAND_INVALID|RCX
      S-EPT tree, shared              OPERAND_BUSY|SEPT_TREE
      walk                            EPT_WALK_FAILED|RCX + details
      entry lock                      OPERAND_BUSY|RCX + details
      a leaf                          EPT_ENTRY_STATE_INCORRECT|RCX + details
      R8 is not the old HPA           OPERAND_INVALID|R8
      PAMT of the old page, exclusive OPERAND_BUSY|RCX
      if OP_STATE tracks: blocked     GPA_RANGE_NOT_BLOCKED|RCX + details
                          tracked     TLB_TRACKING_NOT_DONE|RCX
      R8 an NDA page, exclusive       ...|R8

    Effects: old PAMT -> NDA; new PAMT -> PT_REG, BEPOCH 0; BLOCKED -> MAPPED,
    PENDING_BLOCKED -> PENDING; RCX = old HPA.

    Source: src/vmm_dispatcher/api_calls/tdh_mem_page_relocate.c
    """
    with c.phase("locks"):
        c.lock_tdr(c.rdx, Operand.RDX, exclusive=False)
        c.build_state()
        c.page_info(0, 0)
        c.lock_tree(exclusive=False)
    c.walk()
    with c.phase("lock entry"):
        c.lock_entry()
        c.require_state()
        old = hpa_of(c.raw)
        if old == c.r8:
            raise Refused(TDX_OPERAND_INVALID | Operand.R8)
        before = c.module.pamt.entry(old, 0)
        c.lock_implicit(before, Operand.RCX, exclusive=True, kind=PageType.REG)
    c.blocked_and_tracked(before)
    with c.phase("lock page"):
        page = c.lock_page(c.r8, Operand.R8, PageType.NDA, exclusive=True)
    with c.phase("commit"):
        raw = (c.raw & ~HPA_MASK) | c.r8
        c.commit_entry(unblocked(raw) if state_of(raw) in any_blocked else raw)
        before.free()
        page.change(PageType.REG, c.td.hpa)
        page.bepoch.poke(0)
        c.regs.rcx = old
        c.release()
    return TDX_SUCCESS
