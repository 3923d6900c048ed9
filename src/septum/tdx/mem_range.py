# SPDX-License-Identifier: GPL-2.0-only
"""TDH.MEM.RANGE.BLOCK, RANGE.UNBLOCK and TRACK (facts/tdx-module.md 3.10 to 3.12, 5).

BLOCK takes the guest's access away and notes the epoch in which it did (BEPOCH).
TRACK starts the next epoch once no vCPU runs in the previous one.  A translation that
a vCPU cached before the block is gone for certain when every vCPU of the block's epoch
has left the guest: see `Call.is_tlb_tracked`.
"""

from __future__ import annotations

from septum.tdx.call import Call, Refused
from septum.tdx.pamt import PamtEntry
from septum.tdx.sept import ALLOWED, PS, any_blocked, blocked, hpa_of, state_of, unblocked
from septum.tdx.status import (
    TDX_EPT_ENTRY_STATE_INCORRECT,
    TDX_GPA_RANGE_ALREADY_BLOCKED,
    TDX_OPERAND_BUSY,
    TDX_PREVIOUS_TLB_EPOCH_BUSY,
    TDX_SUCCESS,
    TDX_TLB_TRACKING_NOT_DONE,
    Operand,
)

__all__ = ["tdh_mem_range_block", "tdh_mem_range_unblock", "tdh_mem_track"]


def _target(c: Call) -> PamtEntry:
    """PAMT of the mapped page at its size, or of the S-EPT page."""
    return c.module.pamt.entry(hpa_of(c.raw), c.level if c.raw & PS else 0)


def tdh_mem_range_block(c: Call) -> int:
    """Block a leaf or a whole table's range from new guest translations.

    In: RCX level 0..top and GPA; RDX TDR page.

    Checks, in order:
      TDR, shared                     ...|RDX
      TD state; OP_STATE, shared
      RCX level, GPA                  OPERAND_INVALID|RCX
      S-EPT tree, exclusive           OPERAND_BUSY|SEPT_TREE
      walk                            EPT_WALK_FAILED|RCX + details
      entry lock                      OPERAND_BUSY|RCX + details
      already blocked                 GPA_RANGE_ALREADY_BLOCKED|RCX + details
      allowed state                   EPT_ENTRY_STATE_INCORRECT|RCX + details

    Effects: NL_MAPPED -> NL_BLOCKED, MAPPED/BLOCKEDW -> BLOCKED, PENDING(_BLOCKEDW) ->
    PENDING_BLOCKED (the ACCEPT_COUNTER of a 2M page is cleared); then BEPOCH := TD_EPOCH,
    sampled after the entry was written, with no PAMT lock; the entry stays locked until
    then.  Descendants are not touched.

    Source: src/vmm_dispatcher/api_calls/tdh_mem_range_block.c
    """
    with c.phase("locks"):
        c.lock_tdr(c.rdx, Operand.RDX, exclusive=False)
        c.build_state()
        c.page_info(0, c.module.sept.top)
        c.lock_tree(exclusive=True)
    with c.phase("lock entry"):
        c.walk()
        c.lock_entry()
        state = state_of(c.raw)
        if state in any_blocked:
            raise c.refuse_entry(TDX_GPA_RANGE_ALREADY_BLOCKED)
        if state not in ALLOWED[c.name]:
            raise c.refuse_entry(TDX_EPT_ENTRY_STATE_INCORRECT)
        page = _target(c)
        c.drop_accept_counter()
    with c.phase("commit"):
        c.commit_entry(blocked(c.raw))
    with c.phase("BEPOCH"):
        page.bepoch.poke(c.td.epoch.peek())
        c.release()
    return TDX_SUCCESS


def tdh_mem_range_unblock(c: Call) -> int:
    """Undo BLOCK once the block has been tracked.

    In: RCX level 0..top and GPA; RDX TDR page.

    Checks, in order:
      TDR, shared                     ...|RDX
      TD state; OP_STATE, shared
      RCX level, GPA                  OPERAND_INVALID|RCX
      S-EPT tree, exclusive           OPERAND_BUSY|SEPT_TREE
      walk                            EPT_WALK_FAILED|RCX + details
      entry lock                      OPERAND_BUSY|RCX + details
      a blocked state                 EPT_ENTRY_STATE_INCORRECT|RCX + details
      if OP_STATE tracks: tracked     TLB_TRACKING_NOT_DONE|SEPT_TREE

    Effects: NL_BLOCKED -> NL_MAPPED, BLOCKED -> MAPPED, PENDING_BLOCKED -> PENDING.

    Source: src/vmm_dispatcher/api_calls/tdh_mem_range_unblock.c
    """
    with c.phase("locks"):
        c.lock_tdr(c.rdx, Operand.RDX, exclusive=False)
        c.build_state()
        c.page_info(0, c.module.sept.top)
        c.lock_tree(exclusive=True)
    with c.phase("lock entry"):
        c.walk()
        c.lock_entry()
        state = c.require_state()
        page = _target(c)
    if c.tracked_state(state) and not c.is_tlb_tracked(page):
        raise Refused(TDX_TLB_TRACKING_NOT_DONE | Operand.SEPT_TREE)
    with c.phase("commit"):
        c.commit_entry(unblocked(c.raw), unlock=True)
        c.release()
    return TDX_SUCCESS


def tdh_mem_track(c: Call) -> int:
    """Start the next TLB epoch.

    In: RCX TDR page.

    Checks, in order:
      TDR, shared                     ...|RCX
      TD state; OP_STATE, shared
      TD epoch lock, exclusive        OPERAND_BUSY|TD_EPOCH
      no vCPU runs in the previous epoch   PREVIOUS_TLB_EPOCH_BUSY

    Effects: TD_EPOCH + 1.  vCPUs of the present epoch are not waited for.

    Source: src/vmm_dispatcher/api_calls/tdh_mem_track.c
    """
    with c.phase("locks"):
        td = c.lock_tdr(c.rcx, Operand.RCX, exclusive=False)
        c.build_state()
        if not td.epoch_lock.acquire(True):
            raise Refused(TDX_OPERAND_BUSY | Operand.TD_EPOCH)
        c.held.append(lambda: td.epoch_lock.release(True))
    with c.phase("commit"):
        epoch: int = td.epoch.peek()
        previous = td.refcounts[1 - (epoch & 1)]
        if previous.peek():
            c.m.blame(previous)
            raise Refused(TDX_PREVIOUS_TLB_EPOCH_BUSY)
        td.epoch.poke(epoch + 1)
        c.release()
    return TDX_SUCCESS
