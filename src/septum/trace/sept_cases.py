# SPDX-License-Identifier: GPL-2.0-only
"""In which states a recorded SEAMCALL may have met the module, most likely first.

Entries that earlier calls named are known.  An unknown one is whatever the recorded status
allows: the registers out show it (facts/tdx-module.md 2.4), or success does (section 3).  If
nothing tells, there is no case, and the call is not compared.  What no line shows may always
have been so: a lock that a call of another CPU or the guest held, a vCPU that was still inside,
an ACCEPT of the guest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from septum.tdx import leaves, sept
from septum.tdx.pamt import PageType
from septum.tdx.sept import NULL_PA, PUBLIC_STATES, State
from septum.tdx.state import OpState
from septum.tdx.status import (
    NAMES,
    TDX_EPT_ENTRY_STATE_INCORRECT,
    TDX_EPT_PAGE_NOT_FREE,
    TDX_EPT_WALK_FAILED,
    TDX_GPA_RANGE_ALREADY_BLOCKED,
    TDX_GPA_RANGE_NOT_BLOCKED,
    TDX_INTERRUPTED_RESTARTABLE,
    TDX_OP_STATE_INCORRECT,
    TDX_OPERAND_ADDR_RANGE_ERROR,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_PAGE_METADATA_INCORRECT,
    TDX_PREVIOUS_TLB_EPOCH_BUSY,
    TDX_TD_FATAL,
    TDX_TD_KEYS_NOT_CONFIGURED,
    TDX_TDCS_NOT_ALLOCATED,
    TDX_TLB_TRACKING_NOT_DONE,
    Operand,
    status_class,
)
from septum.trace.module_run import TOP, Case, Use

if TYPE_CHECKING:
    from septum.trace.sept_shadow import SeamCall, Sept

__all__ = ["DETAILS", "NOWHERE", "cases", "entry_shown"]

NOWHERE: Final = sept.HPA_MASK & ~((1 << 30) - 1)
"""The address of a page that no line named."""
DETAILS: Final = frozenset(
    (
        *(TDX_EPT_WALK_FAILED, TDX_EPT_ENTRY_STATE_INCORRECT, TDX_GPA_RANGE_ALREADY_BLOCKED),
        *(TDX_GPA_RANGE_NOT_BLOCKED, TDX_EPT_PAGE_NOT_FREE),
    )
)
"""Statuses with which RCX and RDX show an entry."""
_NOT_THE_ENTRY: Final = frozenset(
    (TDX_TD_FATAL, TDX_TD_KEYS_NOT_CONFIGURED, TDX_TDCS_NOT_ALLOCATED, TDX_OPERAND_ADDR_RANGE_ERROR)
)
"""Statuses about what no SEAMCALL of the memory path shows: the TD's keys, the TDMRs."""
_LEAFS: Final = (State.BLOCKED, State.PENDING_BLOCKED, State.MAPPED, State.PENDING)
_TABLES: Final = (State.NL_BLOCKED, State.NL_MAPPED)
_MET: Final[dict[int, tuple[State, ...]]] = {
    leaves.TDH_MEM_PAGE_ADD: (State.FREE,),
    leaves.TDH_MEM_PAGE_AUG: (State.FREE,),
    leaves.TDH_MEM_SEPT_ADD: (State.FREE,),
    leaves.TDH_MEM_SEPT_REMOVE: _TABLES,
    leaves.TDH_MEM_PAGE_REMOVE: _LEAFS,
    leaves.TDH_MEM_PAGE_RELOCATE: _LEAFS,
    leaves.TDH_MEM_PAGE_DEMOTE: _LEAFS,
    leaves.TDH_MEM_RANGE_BLOCK: (State.MAPPED, State.PENDING),
    leaves.TDH_MEM_RANGE_UNBLOCK: (State.BLOCKED, State.PENDING_BLOCKED),
}
"""States of an unknown entry that a leaf works on (facts 2.3); of BLOCK and UNBLOCK those of a
4K entry."""
_EITHER_KIND: Final = (leaves.TDH_MEM_RANGE_BLOCK, leaves.TDH_MEM_RANGE_UNBLOCK)
_WITH_PAGE: Final = (
    *(leaves.TDH_MEM_PAGE_ADD, leaves.TDH_MEM_PAGE_AUG, leaves.TDH_MEM_SEPT_ADD),
    *(leaves.TDH_MEM_PAGE_DEMOTE, leaves.TDH_MEM_PAGE_RELOCATE),
)
_ACCEPTED: Final = {State.PENDING: State.MAPPED, State.PENDING_BLOCKED: State.BLOCKED}
_ALLOW_EXISTING: Final = 1


def entry_shown(call: SeamCall) -> tuple[int, int] | None:
    """(level, raw) of the entry that the registers out show."""
    if call.out is None or status_class(call.status) not in DETAILS:
        return None
    rcx, rdx = call.out
    state = PUBLIC_STATES.get(rdx >> 8 & 0xFF)
    if state is None or rdx & 7 > TOP:
        return None
    level = (rdx & 7) + 1
    if state >= State.MAPPED:
        hpa = rcx & sept.HPA_MASK
        if level > 1 and state in (State.PENDING, State.PENDING_BLOCKED):
            hpa &= -(1 << 12 + 9 * (level - 1))  # an ACCEPT_COUNTER is in these bits
        return level, sept.leaf(state, hpa)
    if state in _TABLES:
        return level, _table(state)
    return level, sept.FREE if state is State.FREE else sept.removed(0)


def _table(state: State) -> int:
    raw = sept.non_leaf(NOWHERE)
    return raw if state is State.NL_MAPPED else sept.blocked(raw)


def _raw(state: State, hpa: int) -> int:
    if state is State.FREE:
        return sept.FREE
    return _table(state) if state in _TABLES else sept.leaf(state, hpa)


def cases(td: Sept, call: SeamCall) -> Iterator[Case]:
    """The states in which the call may have run; none if too little is known."""
    status = status_class(call.status)
    number = call.number
    if status not in NAMES or status in _NOT_THE_ENTRY or number == leaves.TDH_MEM_PAGE_PROMOTE:
        return
    if status == TDX_OP_STATE_INCORRECT and td.op_state is None:
        return
    about_tdr = call.status & 0xFFFFFFFF == Operand.RDX or number == leaves.TDH_MEM_TRACK
    if status == TDX_PAGE_METADATA_INCORRECT and about_tdr:
        return
    if status == TDX_OPERAND_INVALID and not _must_be_valid(call):
        return
    if number == leaves.TDH_MEM_TRACK:
        yield from _with_op_state(td, _case(call, (sept.FREE,) * TOP, sept.FREE))
        return
    path = tuple(_above(td, call))
    for entry in _entries(td, call):
        for since in _since(td, call, entry):
            for children in _children(td, call, entry):
                case = _case(call, path, entry)._replace(since=since, children=children)
                yield from _with_op_state(td, case._replace(use=_use(td, call)))


def _must_be_valid(call: SeamCall) -> bool:
    """Whether the host's HKID bits and the TD's width cannot make an operand invalid."""
    return call.status & 0xFFFFFFFF == Operand.RCX and not call.rcx >> 47


def _case(call: SeamCall, path: tuple[int, ...], entry: int) -> Case:
    status, operand = status_class(call.status), call.status & 0xFFFFFFFF
    return Case(
        call.leaf,
        call.rcx,
        call.rdx & 0xFFF,
        call.r8,
        path,
        entry,
        busy=operand if status == TDX_OPERAND_BUSY else None,
        inside=status in (TDX_TLB_TRACKING_NOT_DONE, TDX_PREVIOUS_TLB_EPOCH_BUSY),
        interrupt=status == TDX_INTERRUPTED_RESTARTABLE,
    )


def _with_op_state(td: Sept, case: Case) -> Iterator[Case]:
    if td.op_state is not None:
        yield case._replace(op_state=td.op_state)
        return
    yield case
    yield case._replace(op_state=OpState.INITIALIZED)


def _above(td: Sept, call: SeamCall) -> Iterator[int]:
    """The entries above the addressed one; unknown ones map tables if the walk went on."""
    failed = status_class(call.status) == TDX_EPT_WALK_FAILED
    shown = entry_shown(call) if failed else None
    ends = shown[0] if shown is not None else call.level + 1 if failed else 0
    for level in range(TOP + 1, call.level, -1):
        gfn = call.gfn >> 9 * (level - 1) << 9 * (level - 1)
        raw = td.entry(level, gfn)
        if raw is not None:
            yield raw
        elif level == ends and shown is not None:
            yield shown[1]
        elif (level, gfn) in td.blocked_unknown:
            yield sept.leaf(State.BLOCKED, NOWHERE)
        else:
            yield sept.FREE if level == ends else sept.non_leaf(NOWHERE)


def _entries(td: Sept, call: SeamCall) -> Iterator[int]:
    key = (call.level, call.gfn)
    raw = td.entry(*key)
    held = _held(call)
    if raw is not None:
        if sept.hpa_of(raw) == NOWHERE and held is not None:
            raw = raw & ~sept.HPA_MASK | held
        yield raw
        accepted = _ACCEPTED.get(sept.state_of(raw))
        if accepted is not None:
            yield sept.leaf(accepted, sept.hpa_of(raw))
        return
    shown = entry_shown(call)
    if status_class(call.status) == TDX_EPT_WALK_FAILED:
        yield sept.FREE
    elif shown is not None:
        yield shown[1]
    else:
        yield from _unknown(td, call, key, NOWHERE if held is None else held)


def _unknown(td: Sept, call: SeamCall, key: tuple[int, int], held: int) -> Iterator[int]:
    """An entry that no call named, as the leaf needs it."""
    number = call.number
    blocked = key in td.blocked_unknown
    if number in _EITHER_KIND and call.level > 1:
        return
    states = _MET.get(number, ())
    if number == leaves.TDH_MEM_SEPT_ADD and call.rdx & _ALLOW_EXISTING:
        states = (*states, State.NL_MAPPED)
    for state in states:
        if not blocked or state in sept.any_blocked:
            raw = _raw(state, held)
            if state in _TABLES and held != NOWHERE:
                raw = raw & ~sept.HPA_MASK | held
            yield raw


def _held(call: SeamCall) -> int | None:
    """The page that a call says it took out of the entry."""
    gives = (
        *(leaves.TDH_MEM_PAGE_REMOVE, leaves.TDH_MEM_SEPT_REMOVE),
        leaves.TDH_MEM_PAGE_RELOCATE,
    )
    if call.status or call.out is None or call.number not in gives:
        return None
    return call.out[0] & sept.HPA_MASK


def _since(td: Sept, call: SeamCall, entry: int) -> tuple[int, ...]:
    """TRACKs since the block; both if that is not known."""
    if sept.state_of(entry) not in sept.any_blocked:
        return (2,)
    at = td.blocked_at.get((call.level, call.gfn))
    return (2, 0) if at is None else (min(td.epoch - at, 2),)


def _children(td: Sept, call: SeamCall, entry: int) -> tuple[bool, ...]:
    if call.number != leaves.TDH_MEM_SEPT_REMOVE:
        return (False,)
    holds = td.holds_children(call.level, call.gfn)
    return (False, True) if holds is None else (holds,)


def _use(td: Sept, call: SeamCall) -> Use | None:
    if call.number not in _WITH_PAGE or call.r8 == NULL_PA:
        return None
    use = td.pages.use(call.r8 & sept.HPA_MASK)
    told = TDX_PAGE_METADATA_INCORRECT | Operand.R8
    return Use(PageType.REG) if use is None and call.status == told else use
