# SPDX-License-Identifier: GPL-2.0-only
"""The S-EPT of one TD as its SEAMCALLs leave it.

Entries are raw S-EPT words of `septum.tdx.sept`.  A call is believed: success has the
effect of facts/tdx-module.md section 3, any other status has none.  What no call named is
unknown (absent).  The guest's ACCEPT is not recorded, so PENDING and MAPPED are not told
apart: a leaf stays as the call made it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from septum.tdx import leaves, sept
from septum.tdx.sept import State
from septum.tdx.status import decode

__all__ = ["MEMORY_LEAFS", "SeamCall", "Sept"]

_BITS: Final = 9
_ENTRIES: Final = 1 << _BITS
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

    @property
    def number(self) -> int:
        return self.leaf & 0xFFFF

    @property
    def name(self) -> str:
        return leaves.SEAMCALL_NAMES.get(self.number, f"leaf {self.number}")

    @property
    def tdr(self) -> int:
        in_rcx = self.number in (leaves.TDH_MEM_TRACK, leaves.TDH_MNG_KEY_FREEID)
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


@dataclass
class Sept:
    """Entries by (level, gfn of the entry), KVM's levels; HPAs are in the raw words."""

    tdr: int
    entries: dict[tuple[int, int], int] = field(default_factory=dict)
    blocked_unknown: set[tuple[int, int]] = field(default_factory=set)
    """Blocked entries of which no call told what they hold."""
    calls: dict[tuple[int, int], list[SeamCall]] = field(default_factory=dict)
    """The last calls on an entry."""
    gone: bool = False
    """The keys were freed: what follows is the end of the TD."""

    def entry(self, level: int, gfn: int) -> int | None:
        return self.entries.get((level, gfn))

    def apply(self, call: SeamCall) -> None:
        number, key = call.number, (call.level, call.gfn)
        if number == leaves.TDH_MNG_KEY_FREEID and not call.status:
            self.gone = True
        if number not in MEMORY_LEAFS:
            return
        past = self.calls.setdefault(key, [])
        past.append(call)
        del past[:-4]
        if call.status:
            return
        handler = _EFFECTS[number]
        handler(self, call, key)

    # ---------------------------------------------------------------------- effects

    def _put(self, key: tuple[int, int], raw: int) -> None:
        self.entries[key] = raw
        self.blocked_unknown.discard(key)

    def _add_table(self, call: SeamCall, key: tuple[int, int]) -> None:
        self._put(key, sept.non_leaf(call.r8 & sept.HPA_MASK))
        level, gfn = key
        if level < 2:
            return
        for child in self._children(level, gfn):
            self.entries.pop(child, None)

    def _children(self, level: int, gfn: int) -> list[tuple[int, int]]:
        """Known entries of the table below; a new one has none but free ones."""
        step = 1 << _BITS * (level - 2)
        return [(level - 1, gfn + i * step) for i in range(_ENTRIES)]

    def _remove(self, call: SeamCall, key: tuple[int, int]) -> None:
        self._put(key, sept.FREE)

    def _page_add(self, call: SeamCall, key: tuple[int, int]) -> None:
        self._put(key, sept.leaf(State.MAPPED, call.r8 & sept.HPA_MASK))

    def _page_aug(self, call: SeamCall, key: tuple[int, int]) -> None:
        self._put(key, sept.leaf(State.PENDING, call.r8 & sept.HPA_MASK))

    def _relocate(self, call: SeamCall, key: tuple[int, int]) -> None:
        raw = self.entries.get(key)
        if raw is not None:
            self._put(key, raw & ~sept.HPA_MASK | call.r8 & sept.HPA_MASK)

    def _block(self, call: SeamCall, key: tuple[int, int]) -> None:
        raw = self.entries.get(key)
        if raw is None:
            self.blocked_unknown.add(key)
        else:
            self._put(key, sept.blocked(raw))

    def _unblock(self, call: SeamCall, key: tuple[int, int]) -> None:
        self.blocked_unknown.discard(key)
        raw = self.entries.get(key)
        if raw is not None:
            self._put(key, sept.unblocked(raw))

    def _demote(self, call: SeamCall, key: tuple[int, int]) -> None:
        raw = self.entries.get(key)
        self._put(key, sept.non_leaf(call.r8 & sept.HPA_MASK))
        if raw is None or not sept.is_leaf(raw):
            return
        level, gfn = key
        small = 1 << 12 + _BITS * (level - 2)
        state = State.PENDING if raw & sept.TDP else State.MAPPED
        for number, child in enumerate(self._children(level, gfn)):
            self.entries[child] = sept.leaf(state, sept.hpa_of(raw) + number * small)

    def _promote(self, call: SeamCall, key: tuple[int, int]) -> None:
        level, gfn = key
        first = self.entries.get((level - 1, gfn))
        for child in self._children(level, gfn):
            self.entries.pop(child, None)
        if first is not None:
            self._put(key, sept.leaf(State.MAPPED, sept.hpa_of(first)))
        else:
            self.entries.pop(key, None)


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
