# SPDX-License-Identifier: GPL-2.0-only
"""The S-EPT of one TD, driven by its SEAMCALLs.

Each call is run on the TDX Module's model in the state that the calls before it left
(`septum.trace.sept_cases`, `module_run`); the module's answer gives the entry's new value.  What
no call named is unknown (absent), and a call on it is compared as far as its own registers tell.

A call whose status or registers the module could not have returned is told, and then believed:
success has the effect of facts/tdx-module.md section 3, any other status has none.  The guest's
ACCEPT is not recorded: a leaf stays PENDING until a call shows that it is MAPPED.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from septum.tdx import leaves, sept
from septum.tdx.pamt import PageType
from septum.tdx.sept import State
from septum.tdx.state import OpState
from septum.tdx.status import decode, status_class
from septum.trace.module_run import TOP, Answer, Use, answer
from septum.trace.sept_cases import DETAILS, NOWHERE, cases, entry_shown

__all__ = ["MEMORY_LEAFS", "Pages", "SeamCall", "Sept"]

_BITS: Final = 9
_ENTRIES: Final = 1 << _BITS
_COUNTER: Final = (_ENTRIES - 1) << 12
"""ACCEPT_COUNTER in the details of a large PENDING leaf."""
MEMORY_LEAFS: Final = {
    leaves.TDH_MEM_SEPT_ADD,
    leaves.TDH_MEM_SEPT_REMOVE,
    leaves.TDH_MEM_PAGE_ADD,
    leaves.TDH_MEM_PAGE_AUG,
    leaves.TDH_MEM_PAGE_DEMOTE,
    leaves.TDH_MEM_PAGE_PROMOTE,
    leaves.TDH_MEM_PAGE_RELOCATE,
    leaves.TDH_MEM_PAGE_REMOVE,
    leaves.TDH_MEM_RANGE_BLOCK,
    leaves.TDH_MEM_RANGE_UNBLOCK,
}
"""Leafs whose RCX is GPA | level and whose RDX is the TDR."""


class SeamCall(NamedTuple):
    """One SEAMCALL: entry and return lines put together."""

    line: int
    pid: int
    leaf: int
    rcx: int
    rdx: int
    r8: int
    status: int
    out: tuple[int, int] | None = None
    """RCX and RDX out; None: the probe does not show them (__seamcall keeps the inputs)."""
    cpu: int = 0
    begin: float = 0.0
    end: float = 0.0

    @property
    def number(self) -> int:
        return self.leaf & 0xFFFF

    @property
    def name(self) -> str:
        return leaves.SEAMCALL_NAMES.get(self.number, f"leaf {self.number}")

    @property
    def tdr(self) -> int:
        in_rcx = self.number not in MEMORY_LEAFS
        return (self.rcx if in_rcx else self.rdx) & sept.HPA_MASK

    @property
    def gfn(self) -> int:
        return (self.rcx & sept.HPA_MASK) >> 12

    @property
    def level(self) -> int:
        """KVM's level, 1 for 4K."""
        return (self.rcx & 7) + 1

    def text(self) -> str:
        where = ""
        if self.number in MEMORY_LEAFS:
            where = f"(gfn {self.gfn:x}, level {self.level})"
        return f"{self.name}{where} -> {decode(self.status)} (line {self.line})"


class Pages:
    """Which pages the TDs of a recording use, by their HPA (all TDs share one PAMT).  A page
    that is not here may be anything."""

    def __init__(self) -> None:
        self._used: dict[int, Use] = {}

    def use(self, hpa: int) -> Use | None:
        for size in range(3):
            use = self._used.get(hpa >> 12 + _BITS * size << 12 + _BITS * size)
            if use is not None and use.size >= size:
                return use
        return None

    def take(self, hpa: int, kind: PageType, size: int = 0) -> None:
        self._used[hpa] = Use(kind, size)

    def free(self, raw: int) -> None:
        self._used.pop(sept.hpa_of(raw), None)


@dataclass
class Sept:
    """Entries by (level, gfn of the entry), KVM's levels; HPAs are in the raw words."""

    tdr: int
    pages: Pages = field(default_factory=Pages)
    entries: dict[tuple[int, int], int] = field(default_factory=dict)
    whole: set[tuple[int, int]] = field(default_factory=set)
    """Entries whose table was seen being made: what it does not hold is FREE."""
    blocked_unknown: set[tuple[int, int]] = field(default_factory=set)
    """Blocked entries of which no call told what they hold."""
    blocked_at: dict[tuple[int, int], int] = field(default_factory=dict)
    """BEPOCH: `epoch` when the entry was blocked."""
    epoch: int = 0
    """TD_EPOCH, counted from the begin of the recording."""
    op_state: OpState | None = None
    calls: dict[tuple[int, int], list[SeamCall]] = field(default_factory=dict)
    """The last calls on an entry."""
    gone: bool = False
    """The keys were freed: what follows is the end of the TD."""
    compared: int = 0
    """Calls that the module answered as recorded."""
    open: int = 0
    """Calls of which too little was known to ask the module."""

    def entry(self, level: int, gfn: int) -> int | None:
        raw = self.entries.get((level, gfn))
        if raw is not None or (level, gfn) in self.blocked_unknown:
            return raw
        above = (level + 1, gfn >> _BITS * level << _BITS * level)
        return sept.FREE if above in self.whole else None

    def holds_children(self, level: int, gfn: int) -> bool | None:
        """Whether a table holds anything; None if not all its entries are known."""
        children = [self.entry(*child) for child in self._children(level, gfn)]
        if any(raw is not None and raw != sept.FREE for raw in children):
            return True
        return None if None in children else False

    def apply(self, call: SeamCall) -> Answer | None:
        """Run the call.  The module's answer if it could not have been the recorded one; then
        the recorded one is believed."""
        key = (call.level, call.gfn)
        if call.number in MEMORY_LEAFS:
            past = self.calls.setdefault(key, [])
            past.append(call)
            del past[:-4]
        if self.gone or call.number not in _RUN:
            self._other(call)
            return None
        first: Answer | None = None
        for case in cases(self, call):
            out = answer(case)
            if _agree(call, out, case.entry):
                self.compared += 1
                self._learn_path(call, case.path)
                self._follow(call, case.entry, out)
                if self.op_state is None and case.op_state is not OpState.RUNNABLE:
                    self.op_state = case.op_state
                return None
            first = first or out
        if first is None:
            self.open += 1
        self._believe(call)
        return first

    def forget(self, call: SeamCall) -> None:
        """The order of calls on this entry is not certain."""
        key = (call.level, call.gfn)
        self.entries.pop(key, None)
        self.blocked_unknown.discard(key)
        self.blocked_at.pop(key, None)
        self.whole -= {key, (call.level + 1, call.gfn >> _BITS * call.level << _BITS * call.level)}

    def _other(self, call: SeamCall) -> None:
        """Calls of the TD's life; their effect is believed."""
        if call.status:
            return
        if call.number == leaves.TDH_MNG_KEY_FREEID:
            self.gone = True
        elif call.number == leaves.TDH_MNG_INIT:
            self.op_state = OpState.INITIALIZED
        elif call.number == leaves.TDH_MR_FINALIZE:
            self.op_state = OpState.RUNNABLE

    def _learn_path(self, call: SeamCall, path: tuple[int, ...]) -> None:
        """The walk went through these tables."""
        if call.status and status_class(call.status) not in DETAILS:
            return
        for level, raw in zip(range(TOP + 1, call.level, -1), path, strict=False):
            key = (level, call.gfn >> _BITS * (level - 1) << _BITS * (level - 1))
            known = self.entry(*key) is not None or key in self.blocked_unknown
            if not known and sept.state_of(raw) is State.NL_MAPPED:
                self.entries[key] = raw

    def _follow(self, call: SeamCall, before: int, out: Answer) -> None:
        """The module did as the host's did."""
        shown = entry_shown(call)
        if shown is not None:
            level, raw = shown
            key = (level, call.gfn >> _BITS * (level - 1) << _BITS * (level - 1))
            if self.entry(*key) is None and sept.is_leaf(raw):
                self._put(key, raw)
        if call.status:
            return
        key = (call.level, call.gfn)
        if call.number != leaves.TDH_MEM_TRACK:
            self.entries[key] = before
        self._believe(call)
        if call.number != leaves.TDH_MEM_TRACK:
            self.entries[key] = out.entry & ~(sept.LOCK_BIT | sept.HP_BIT)
            self.blocked_unknown.discard(key)

    def _believe(self, call: SeamCall) -> None:
        if call.status:
            return
        if call.number == leaves.TDH_MEM_TRACK:
            self.epoch += 1
            return
        _EFFECTS[call.number](self, call, (call.level, call.gfn))

    # ---------------------------------------------------------------------- effects

    def _put(self, key: tuple[int, int], raw: int) -> None:
        self.entries[key] = raw
        self.blocked_unknown.discard(key)

    def _add_table(self, call: SeamCall, key: tuple[int, int]) -> None:
        if sept.state_of(self.entries.get(key, sept.FREE)) is State.NL_MAPPED:
            return  # ALLOW_EXISTING
        hpa = call.r8 & sept.HPA_MASK
        self._put(key, sept.non_leaf(hpa))
        self.pages.take(hpa, PageType.EPT)
        self._drop_children(key)
        self.whole.add(key)

    def _drop_children(self, key: tuple[int, int]) -> None:
        for child in self._children(*key):
            self.entries.pop(child, None)
            self.blocked_unknown.discard(child)
            self.blocked_at.pop(child, None)

    def _children(self, level: int, gfn: int) -> list[tuple[int, int]]:
        """The entries of the table below."""
        if level < 2:
            return []
        step = 1 << _BITS * (level - 2)
        return [(level - 1, gfn + i * step) for i in range(_ENTRIES)]

    def _remove(self, call: SeamCall, key: tuple[int, int]) -> None:
        self.pages.free(self.entries.get(key, 0))
        self._put(key, sept.FREE)
        self.blocked_at.pop(key, None)
        if key in self.whole:
            self.whole.discard(key)
            self._drop_children(key)

    def _page_add(self, call: SeamCall, key: tuple[int, int]) -> None:
        self._page(call, key, State.MAPPED)

    def _page_aug(self, call: SeamCall, key: tuple[int, int]) -> None:
        self._page(call, key, State.PENDING)

    def _page(self, call: SeamCall, key: tuple[int, int], state: State) -> None:
        hpa = call.r8 & sept.HPA_MASK
        self._put(key, sept.leaf(state, hpa))
        self.pages.take(hpa, PageType.REG, call.level - 1)

    def _relocate(self, call: SeamCall, key: tuple[int, int]) -> None:
        raw = self.entries.get(key)
        if raw is not None:
            self.pages.free(raw)
            self._put(key, raw & ~sept.HPA_MASK | call.r8 & sept.HPA_MASK)
            self.pages.take(call.r8 & sept.HPA_MASK, PageType.REG)

    def _block(self, call: SeamCall, key: tuple[int, int]) -> None:
        raw = self.entries.get(key)
        self.blocked_at[key] = self.epoch
        if raw is None:
            self.blocked_unknown.add(key)
        else:
            self._put(key, sept.blocked(raw))

    def _unblock(self, call: SeamCall, key: tuple[int, int]) -> None:
        self.blocked_unknown.discard(key)
        self.blocked_at.pop(key, None)
        raw = self.entries.get(key)
        if raw is not None:
            self._put(key, sept.unblocked(raw))

    def _demote(self, call: SeamCall, key: tuple[int, int]) -> None:
        raw = self.entries.get(key)
        page = call.r8 & sept.HPA_MASK
        self._put(key, sept.non_leaf(page))
        self.pages.take(page, PageType.EPT)
        self.blocked_at.pop(key, None)
        if raw is None or not sept.is_leaf(raw):
            return
        self.pages.free(raw)
        level, _ = key
        size = 12 + _BITS * (level - 2)
        state = State.PENDING if raw & sept.TDP else State.MAPPED
        if sept.hpa_of(raw) == NOWHERE:
            return
        for number, child in enumerate(self._children(*key)):
            hpa = sept.hpa_of(raw) + (number << size)
            self.entries[child] = sept.leaf(state, hpa)
            self.pages.take(hpa, PageType.REG, level - 2)

    def _promote(self, call: SeamCall, key: tuple[int, int]) -> None:
        level, gfn = key
        self.pages.free(self.entries.get(key, 0))
        first = self.entries.get((level - 1, gfn))
        for child in self._children(level, gfn):
            self.pages.free(self.entries.pop(child, 0))
        self.whole.discard(key)
        self.blocked_at.pop(key, None)
        if first is not None:
            self._put(key, sept.leaf(State.MAPPED, sept.hpa_of(first)))
            self.pages.take(sept.hpa_of(first), PageType.REG, level - 1)
        else:
            self.entries.pop(key, None)


def _agree(call: SeamCall, out: Answer, entry: int) -> bool:
    """The recorded status, and registers out where the probe shows them, are the module's."""
    if call.status != out.status:
        return False
    if call.out is None or call.number == leaves.TDH_MEM_TRACK:
        return True
    if out.status and status_class(out.status) not in DETAILS:
        return True  # BUSY shows a sample that may be older
    rcx, rdx = call.out
    ignore = _COUNTER if out.status and rdx & 7 else 0
    if NOWHERE in (out.rcx & sept.HPA_MASK, sept.hpa_of(entry)):
        ignore = sept.HPA_MASK
    return not (rcx ^ out.rcx) & ~ignore and rdx == out.rdx


_EFFECTS: Final = {
    leaves.TDH_MEM_SEPT_ADD: Sept._add_table,
    leaves.TDH_MEM_SEPT_REMOVE: Sept._remove,
    leaves.TDH_MEM_PAGE_ADD: Sept._page_add,
    leaves.TDH_MEM_PAGE_AUG: Sept._page_aug,
    leaves.TDH_MEM_PAGE_DEMOTE: Sept._demote,
    leaves.TDH_MEM_PAGE_PROMOTE: Sept._promote,
    leaves.TDH_MEM_PAGE_RELOCATE: Sept._relocate,
    leaves.TDH_MEM_PAGE_REMOVE: Sept._remove,
    leaves.TDH_MEM_RANGE_BLOCK: Sept._block,
    leaves.TDH_MEM_RANGE_UNBLOCK: Sept._unblock,
}
_RUN: Final = {*_EFFECTS, leaves.TDH_MEM_TRACK}
