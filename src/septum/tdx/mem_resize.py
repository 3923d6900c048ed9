# SPDX-License-Identifier: GPL-2.0-only
"""TDH.MEM.PAGE.DEMOTE and PROMOTE (facts/tdx-module.md sections 3.7 and 3.8)."""

from __future__ import annotations

from septum.machine.memory import Word
from septum.tdx.call import PAGE_MASK, Call, Refused
from septum.tdx.pamt import PageType
from septum.tdx.sept import (
    HPA_MASK,
    LOCK_BIT,
    NULL_PA,
    State,
    any_blocked,
    hpa_of,
    non_leaf,
    state_of,
    unblocked,
)
from septum.tdx.status import (
    TDX_EPT_INVALID_PROMOTE_CONDITIONS,
    TDX_INTERRUPTED_RESTARTABLE,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_SUCCESS,
    Operand,
)

__all__ = ["tdh_mem_page_demote", "tdh_mem_page_promote"]


def tdh_mem_page_demote(c: Call) -> int:
    """Split a large leaf into entries of a new S-EPT page.

    In: RCX level 1..2 of the large page and GPA; RDX TDR page, bit 0 L2_SEPT_ADD_MODE;
    R8 HPA of the new S-EPT page (bit 63 is not ignored).

    Checks, in order:
      RDX bits 11:1, 63:52            OPERAND_INVALID|RDX
      TDR, shared                     ...|RDX
      TD state; OP_STATE, shared
      RCX level 1..2, GPA             OPERAND_INVALID|RCX
      S-EPT tree, *shared*            OPERAND_BUSY|SEPT_TREE
      walk                            EPT_WALK_FAILED|RCX + details
      entry lock                      OPERAND_BUSY|RCX + details
      (PENDING_)MAPPED or (PENDING_)BLOCKED    EPT_ENTRY_STATE_INCORRECT|RCX + details
      if OP_STATE tracks: blocked     GPA_RANGE_NOT_BLOCKED|RCX + details
                          tracked     TLB_TRACKING_NOT_DONE|RCX
      R8 an NDA page, exclusive       ...|R8
      pending interrupt               INTERRUPTED_RESTARTABLE, RCX and RDX as they were
      PAMT of the large page, exclusive        OPERAND_BUSY|RCX

    Effects: every child is the old leaf unblocked, one size down; entry -> NL_MAPPED;
    PAMT large -> NDA, small -> PT_REG with BEPOCH 0, new page -> PT_EPT (BEPOCH kept);
    CHLDCNT + 1.  An ACCEPT_COUNTER is lost.  R8's content is overwritten even if the
    call ends interrupted or busy.

    A profile with `nonblocking_resize` (hypothetical) skips blocked and tracked.

    Source: src/vmm_dispatcher/api_calls/tdh_mem_page_demote.c
    """
    module = c.module
    with c.phase("locks"):
        if c.rdx & ~(PAGE_MASK | 1):
            raise Refused(TDX_OPERAND_INVALID | Operand.RDX)
        c.lock_tdr(c.rdx & PAGE_MASK, Operand.RDX, exclusive=False)
        c.build_state()
        c.page_info(1, 2)
        c.lock_tree(exclusive=False)
    c.walk()
    with c.phase("lock entry"):
        c.lock_entry()
        c.require_state()
        c.drop_accept_counter()
        large = module.pamt.entry(c.leaf_hpa(), c.level)
    if not module.profile.nonblocking_resize:
        c.blocked_and_tracked(large)
    with c.phase("lock page"):
        page = c.lock_page(c.r8, Operand.R8, PageType.NDA, exclusive=True)
        if module.profile.demote_interruptible and c.interrupted():
            c.regs.rcx, c.regs.rdx = c.rcx, c.rdx
            return TDX_INTERRUPTED_RESTARTABLE
        c.lock_implicit(large, Operand.RCX, exclusive=True, kind=PageType.REG)
    with c.phase("commit"):
        _fill_children(c)
        c.commit_entry(non_leaf(c.r8))
        large.free()
        for small in module.pamt.smaller(large.hpa, c.level):
            small.change(PageType.REG, large.owner)
            small.bepoch.poke(0)
        page.change(PageType.EPT, c.td.hpa)
        c.td.chldcnt.bump(1)
        c.release()
    return TDX_SUCCESS


def _fill_children(c: Call) -> None:
    """The new S-EPT page's entries; nobody can reach them yet."""
    raw = (c.raw & ~HPA_MASK) | c.leaf_hpa()
    if state_of(raw) in any_blocked:
        raw = unblocked(raw)
    table = c.module.sept.prepare(c.r8)
    step = c.module.geometry.bytes_per_level(c.level)
    for i in range(table.size):
        table.word(i).init(raw + i * step)


def tdh_mem_page_promote(c: Call) -> int:
    """Merge all entries of an S-EPT page into one large leaf, implicitly unblocked.

    In: RCX level 1..2 of the resulting leaf and GPA; RDX TDR page.

    Checks, in order:
      version > 0: R9..R11 := NULL_PA; version > 1   OPERAND_INVALID|RAX
      TDR, shared                     ...|RDX
      TD state; OP_STATE, shared
      RCX level 1..2, GPA             OPERAND_INVALID|RCX
      S-EPT tree, *shared*            OPERAND_BUSY|SEPT_TREE
      walk                            EPT_WALK_FAILED|RCX + details
      entry lock                      OPERAND_BUSY|RCX + details
      state NL_MAPPED or NL_BLOCKED   EPT_ENTRY_STATE_INCORRECT|RCX + details
      PAMT of the S-EPT page, exclusive   OPERAND_BUSY|RCX
      if OP_STATE tracks: blocked     GPA_RANGE_NOT_BLOCKED|RCX + details
                          tracked     TLB_TRACKING_NOT_DONE|RCX
      per child: its entry lock       OPERAND_BUSY|RCX + details of the parent
                 child 0 aligned, MAPPED or PENDING; the others equal and contiguous
                                      EPT_INVALID_PROMOTE_CONDITIONS|RCX + parent's details
      pending interrupt               INTERRUPTED_RESTARTABLE, RCX and RDX as they were
      PAMT of the result, exclusive   OPERAND_BUSY|RCX

    Effects: entry := child 0 (with its ACCEPT_COUNTER, if it has one); PAMT large ->
    PT_REG, small -> NDA, S-EPT page -> NDA; CHLDCNT - 1; RCX = the freed S-EPT page.

    Source: src/vmm_dispatcher/api_calls/tdh_mem_page_promote.c
    """
    module = c.module
    if c.version > 0:
        c.regs.r9 = c.regs.r10 = c.regs.r11 = NULL_PA
    if c.version > 1:
        raise Refused(TDX_OPERAND_INVALID | Operand.RAX)
    with c.phase("locks"):
        c.lock_tdr(c.rdx, Operand.RDX, exclusive=False)
        c.build_state()
        c.page_info(1, 2)
        c.lock_tree(exclusive=False)
    c.walk()
    with c.phase("lock entry"):
        c.lock_entry()
        c.require_state()
        table_hpa = hpa_of(c.raw)
        table = module.pamt.entry(table_hpa, 0)
        c.lock_implicit(table, Operand.RCX, exclusive=True, kind=PageType.EPT)
    c.blocked_and_tracked(table)
    locked: list[Word] = []
    c.held.append(lambda: _unlock(c, locked))
    with c.phase("lock children"):
        first = _lock_children(c, table_hpa, locked)
        if c.interrupted():
            c.regs.rcx, c.regs.rdx = c.rcx, c.rdx
            return TDX_INTERRUPTED_RESTARTABLE
        large = module.pamt.entry(hpa_of(first), c.level)
        c.lock_implicit(large, Operand.RCX, exclusive=True, kind=PageType.NDA)
    with c.phase("commit"):
        c.commit_entry(first)
        locked.clear()
        module.sept.retire(table_hpa)
        large.change(PageType.REG, c.td.hpa)
        for small in module.pamt.smaller(large.hpa, c.level):
            small.free()
        table.free()
        c.td.chldcnt.bump(-1)
        c.regs.rcx = table_hpa
        c.release()
    return TDX_SUCCESS


def _unlock(c: Call, locked: list[Word]) -> None:
    for word in reversed(locked):
        c.module.sept.unlock(word)
    locked.clear()


def _lock_children(c: Call, table_hpa: int, locked: list[Word]) -> int:
    """Lock and compare every child; child 0's value without the lock bit."""
    module = c.module
    table = module.sept.page(table_hpa)
    step = module.geometry.bytes_per_level(c.level)
    # 2M children are compared without their ACCEPT_COUNTER.
    ignore = module.counter_mask if c.level > 1 else 0
    first = 0
    for i in range(table.size):
        word = table.word(i)
        ok, raw = module.sept.lock_host(word)
        if not ok:
            raise c.refuse_entry(TDX_OPERAND_BUSY)
        locked.append(word)
        raw &= ~LOCK_BIT
        if i == 0:
            first = raw
            hpa = hpa_of(raw) & ~ignore
            large = module.geometry.bytes_per_level(c.level + 1)
            if hpa & (large - 1) or state_of(raw) not in (State.MAPPED, State.PENDING):
                raise c.refuse_entry(TDX_EPT_INVALID_PROMOTE_CONDITIONS)
        elif raw & ~ignore != (first & ~ignore) + i * step:
            raise c.refuse_entry(TDX_EPT_INVALID_PROMOTE_CONDITIONS)
    return first
