# SPDX-License-Identifier: GPL-2.0-only
"""Secure-EPT entries: raw bits, states, public encodings (facts/tdx-module.md section 2).

An entry is the 64-bit word that hardware walks.  Its state is spread over seven bits,
{PS, IPAT, TDP, TDB, TDBW, TDEX, D}.  Bit 11 is the entry lock, which host and guest
share; bit 52 is the host-priority flag of that lock.  Bit 63 (suppress #VE) is 1 in
every state.  Every leaf, also a 4K one, has PS=1.

Source: ``src/common/x86_defs/x86_defs.h``, ``src/common/memory_handlers/sept_manager.h``,
``include/auto_gen/sept_state_lookup.{h,c}`` of TDX Module 1.5.01.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = [
    "ALLOWED",
    "FREE",
    "HPA_MASK",
    "HP_BIT",
    "IPAT_PS_WB",
    "LOCK_BIT",
    "NULL_PA",
    "PS",
    "RWX",
    "SVE",
    "TDP",
    "State",
    "acceptable",
    "any_blocked",
    "arch_entry",
    "blocked",
    "guest_accessible",
    "hpa_of",
    "is_leaf",
    "leaf",
    "level_state",
    "non_leaf",
    "public_state",
    "removed",
    "show",
    "state_of",
    "tracking_required",
    "unblocked",
]

RWX: Final = 0x7
IPAT: Final = 1 << 6
PS: Final = 1 << 7
D: Final = 1 << 9
LOCK_BIT: Final = 1 << 11
HP_BIT: Final = 1 << 52
TDEX: Final = 1 << 53
TDBW: Final = 1 << 54
TDB: Final = 1 << 55
TDP: Final = 1 << 56
SVE: Final = 1 << 63
MT_WB: Final = 6 << 3
HPA_MASK: Final = ((1 << 52) - 1) & ~0xFFF
IPAT_PS_WB: Final = IPAT | PS | MT_WB
NULL_PA: Final = 0xFFFFFFFFFFFFFFFF

FREE: Final = SVE | TDB | TDBW | TDEX
_REMOVED: Final = SVE | TDB | TDBW
_STATE_BITS: Final = PS | IPAT | TDP | TDB | TDBW | TDEX | D
# What RCX shows of an entry (facts 2.4).
_ARCH_LEAF: Final = RWX | (7 << 3) | IPAT | PS | HPA_MASK | SVE
_ARCH_OTHER: Final = RWX | PS


class State(IntEnum):
    """The sixteen L1 states; the value is the module's table index."""

    FREE = 0
    REMOVED = 1
    NL_MAPPED = 2
    NL_BLOCKED = 3
    MAPPED = 4
    BLOCKED = 5
    BLOCKEDW = 6
    EXPORTED_BLOCKEDW = 7
    EXPORTED_DIRTY = 8
    EXPORTED_DIRTY_BLOCKEDW = 9
    PENDING = 10
    PENDING_BLOCKED = 11
    PENDING_BLOCKEDW = 12
    PENDING_EXPORTED_BLOCKEDW = 13
    PENDING_EXPORTED_DIRTY = 14
    PENDING_EXPORTED_DIRTY_BLOCKEDW = 15


_S = State
_LEAF = PS | IPAT
_BITS: Final[dict[State, int]] = {
    _S.FREE: TDEX | TDBW | TDB,
    _S.REMOVED: TDBW | TDB,
    _S.NL_MAPPED: 0,
    _S.NL_BLOCKED: TDB,
    _S.MAPPED: _LEAF,
    _S.BLOCKED: _LEAF | TDB,
    _S.BLOCKEDW: _LEAF | TDBW,
    _S.EXPORTED_BLOCKEDW: _LEAF | TDEX | TDBW,
    _S.EXPORTED_DIRTY: _LEAF | D | TDEX,
    _S.EXPORTED_DIRTY_BLOCKEDW: _LEAF | D | TDEX | TDBW,
    _S.PENDING: _LEAF | TDP,
    _S.PENDING_BLOCKED: _LEAF | TDB | TDP,
    _S.PENDING_BLOCKEDW: _LEAF | TDBW | TDP,
    _S.PENDING_EXPORTED_BLOCKEDW: _LEAF | TDEX | TDBW | TDP,
    _S.PENDING_EXPORTED_DIRTY: _LEAF | D | TDEX | TDP,
    _S.PENDING_EXPORTED_DIRTY_BLOCKEDW: _LEAF | D | TDEX | TDBW | TDP,
}
_BY_BITS: Final = {bits: state for state, bits in _BITS.items()}
_PUBLIC: Final = (0, 5, 132, 129, 4, 1, 8, 9, 11, 12, 2, 3, 16, 17, 19, 20)
PUBLIC_STATES: Final = {public: State(i) for i, public in enumerate(_PUBLIC)}

any_blocked: Final = frozenset({_S.NL_BLOCKED, _S.BLOCKED, _S.PENDING_BLOCKED})
guest_accessible: Final = frozenset(
    {
        _S.MAPPED,
        _S.BLOCKEDW,
        _S.EXPORTED_BLOCKEDW,
        _S.EXPORTED_DIRTY,
        _S.EXPORTED_DIRTY_BLOCKEDW,
    }
)
acceptable: Final = frozenset({_S.PENDING, _S.PENDING_EXPORTED_DIRTY})
_UNTRACKED: Final = frozenset(
    {_S.FREE, _S.REMOVED, _S.EXPORTED_BLOCKEDW, _S.PENDING_EXPORTED_BLOCKEDW}
)
tracking_required: Final = frozenset(set(State) - _UNTRACKED)
_LEAF_STATES: Final = frozenset(s for s in State if s >= _S.MAPPED)
_WRITABLE: Final = frozenset({_S.MAPPED, _S.EXPORTED_DIRTY})

# Allowed entry states per call (facts 2.3: seamcall_sept_state_lookup and tdcall_...).
ALLOWED: Final[dict[str, frozenset[State]]] = {
    "TDH.MEM.PAGE.ADD": frozenset({_S.FREE}),
    "TDH.MEM.SEPT.ADD": frozenset({_S.FREE, _S.NL_MAPPED}),
    "TDH.MEM.PAGE.AUG": frozenset({_S.FREE, _S.REMOVED}),
    "TDH.MEM.RANGE.BLOCK": frozenset(
        {_S.NL_MAPPED, _S.MAPPED, _S.BLOCKEDW, _S.PENDING, _S.PENDING_BLOCKEDW}
    ),
    "TDH.MEM.RANGE.UNBLOCK": any_blocked,
    "TDH.MEM.PAGE.REMOVE": frozenset(
        {
            _S.MAPPED,
            _S.BLOCKED,
            _S.BLOCKEDW,
            _S.PENDING,
            _S.PENDING_BLOCKED,
            _S.PENDING_BLOCKEDW,
        }
    ),
    "TDH.MEM.SEPT.REMOVE": frozenset({_S.NL_MAPPED, _S.NL_BLOCKED}),
    "TDH.MEM.PAGE.DEMOTE": frozenset({_S.MAPPED, _S.BLOCKED, _S.PENDING, _S.PENDING_BLOCKED}),
    "TDH.MEM.PAGE.PROMOTE": frozenset({_S.NL_MAPPED, _S.NL_BLOCKED}),
    "TDH.MEM.PAGE.RELOCATE": _LEAF_STATES,
    "TDH.MEM.SEPT.RD": frozenset(State),
    "TDH.MR.EXTEND": frozenset({_S.MAPPED}),
    "TDG.MEM.PAGE.ACCEPT": acceptable,
    "TDG.MEM.PAGE.ATTR.RD": _LEAF_STATES - {_S.BLOCKED, _S.PENDING_BLOCKED},
    "TDG.MEM.PAGE.ATTR.WR": _WRITABLE | acceptable,
}


def state_of(raw: int) -> State:
    """The entry's state; undefined codes are treated like FREE, as by the module."""
    return _BY_BITS.get(raw & _STATE_BITS, _S.FREE)


def is_leaf(raw: int) -> bool:
    """PS=1 (at every level, 4K included)."""
    return bool(raw & PS)


def hpa_of(raw: int) -> int:
    """Bits 51:12: the page frame (plus the ACCEPT_COUNTER of a large PENDING leaf)."""
    return raw & HPA_MASK


def leaf(state: State, hpa: int) -> int:
    """A leaf entry of one of the states MAPPED, PENDING, BLOCKED or PENDING_BLOCKED."""
    raw = SVE | hpa | MT_WB | _BITS[state]
    return raw | RWX if state == _S.MAPPED else raw


def non_leaf(hpa: int) -> int:
    """An NL_MAPPED entry that points to the S-EPT page at ``hpa``."""
    return SVE | hpa | RWX


def removed(epoch: int) -> int:
    """A REMOVED entry: bits 43:12 the migration epoch, bit 44 valid (facts 2.1)."""
    return _REMOVED | ((epoch & 0xFFFFFFFF) << 12) | (1 << 44)


def blocked(raw: int) -> int:
    """RANGE.BLOCK's new value: blocked, no permissions, unlocked, no HP (facts 3.10)."""
    return (raw & ~(RWX | TDBW | LOCK_BIT | HP_BIT)) | TDB


def unblocked(raw: int) -> int:
    """The unblocked form: NL_BLOCKED and BLOCKED get RWX back, PENDING_BLOCKED does not."""
    new = raw & ~(TDB | LOCK_BIT | HP_BIT)
    return new if raw & TDP else new | RWX


def arch_entry(raw: int) -> int:
    """RCX of the details (facts 2.4): what the host may see of the entry."""
    if raw & PS:
        return raw & _ARCH_LEAF
    if state_of(raw) == _S.FREE:
        return SVE
    return raw & _ARCH_OTHER


def public_state(raw: int) -> int:
    """The architectural state number."""
    return _PUBLIC[state_of(raw)]


def level_state(raw: int, level: int) -> int:
    """RDX of the details: level 2:0, public state 15:8 (VM 17:16 is 0 for L1)."""
    return level | public_state(raw) << 8


def show(raw: int) -> str:
    """An entry for people: state, HPA, lock bits."""
    state = state_of(raw)
    text = state.name
    if state is not _S.FREE and state is not _S.REMOVED:
        text += f" {hpa_of(raw):#x}"
    if raw & LOCK_BIT:
        text += " locked"
    if raw & HP_BIT:
        text += " host-priority"
    return text
