# SPDX-License-Identifier: GPL-2.0-only
"""PAMT: who owns each physical page, at which size (facts/tdx-module.md section 4.3).

Every page of a TDMR has an entry per size (4K, 2M, 1G): a lock, a type, the owner's
TDR and the epoch in which the page was blocked (BEPOCH).  The *leaf* of an address is
the largest entry that is PT_REG, else the 4K entry.  Entries are made on first use with
type PT_NDA (PT_RSVD in a reserved range), so a huge TDMR costs nothing.

An *explicit* access walks 1G, 2M, 4K: shared on the larger entries, the wanted mode on
the leaf, where a shared 2M or 1G lock is upgraded.  So locking any 4K page pins its 2M
and 1G entries.  An *implicit* access locks the leaf entry only.

Freeing sets the type to PT_NDA; owner and BEPOCH stay stale, as in the module.  Only
ADD, AUG, SEPT.ADD, RELOCATE and DEMOTE's children set BEPOCH to 0 (section 5).

Source: ``src/common/memory_handlers/pamt_manager.c``.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from septum.machine import Cell, Machine
from septum.machine.geometry import PAGE_SHIFT, Geometry
from septum.tdx.config import Config
from septum.tdx.locks import ShareXHp

__all__ = ["PageType", "Pamt", "PamtEntry", "PamtWalk"]

SIZE_NAMES: Final = ("4K", "2M", "1G")


class PageType(IntEnum):
    """PT_*."""

    NDA = 0
    RSVD = 1
    REG = 3
    TDR = 4
    TDCX = 5
    TDVPR = 6
    EPT = 8


class PamtEntry(Cell):
    """One entry; ``v`` is ``(type, owner TDR)``, changed under the entry's lock."""

    __slots__ = ("bepoch", "hpa", "lock", "size")

    def __init__(self, m: Machine, hpa: int, size: int, kind: PageType) -> None:
        name = f"PAMT {hpa:#x}/{SIZE_NAMES[size]}"
        super().__init__(m, name, (kind, 0))
        self.hpa = hpa
        self.size = size
        self.lock = ShareXHp(m, f"{name}.lock")
        self.bepoch = Cell(m, f"{name}.bepoch", 0)

    @property
    def type(self) -> PageType:
        """The type, without a footprint (for dumps and invariants)."""
        kind: PageType = self.v[0]
        return kind

    @property
    def owner(self) -> int:
        return int(self.v[1])

    def set(self, v: tuple[PageType, int]) -> None:
        """Presets only."""
        super().set(v)

    def change(self, kind: PageType, owner: int) -> None:
        """Give the page a type and an owner."""
        m = self.m
        old = self.v[0]
        self.poke((kind, owner))
        m.emit("pamt", self.hpa, self.size, old, kind)

    def free(self) -> None:
        """Back to PT_NDA; owner and BEPOCH stay."""
        self.change(PageType.NDA, self.v[1])


class PamtWalk:
    """The locks of one explicit access, and the leaf it found."""

    __slots__ = ("held", "leaf")

    def __init__(self, leaf: PamtEntry, held: list[tuple[ShareXHp, bool]]) -> None:
        self.leaf = leaf
        self.held = held

    def release(self) -> None:
        for lock, exclusive in reversed(self.held):
            lock.release(exclusive)


class Pamt:
    """The entries of all TDMRs, by size and page number."""

    def __init__(self, m: Machine, geometry: Geometry, config: Config) -> None:
        self.m = m
        self.config = config
        self.entries_per_table = geometry.entries
        self.shift: Final = tuple(PAGE_SHIFT + geometry.bits * size for size in range(3))
        self.bits = geometry.bits
        self._by_size: tuple[dict[int, PamtEntry], ...] = ({}, {}, {})
        # 4K and 2M entries that exist, by the number of the next larger page.
        self._below: tuple[dict[int, list[PamtEntry]], ...] = ({}, {})

    def entry(self, hpa: int, size: int) -> PamtEntry:
        """The entry of ``hpa`` at ``size``; made on first use."""
        table = self._by_size[size]
        number = hpa >> self.shift[size]
        entry = table.get(number)
        if entry is None:
            base = number << self.shift[size]
            kind = PageType.NDA
            tdmr = self.config.tdmr_of(base)
            if size == 0 and tdmr is not None and tdmr.is_reserved(base):
                kind = PageType.RSVD
            entry = PamtEntry(self.m, base, size, kind)
            table[number] = entry
            if size < 2:
                self._below[size].setdefault(number >> self.bits, []).append(entry)
        return entry

    def made(self) -> Iterator[PamtEntry]:
        """Every entry that exists."""
        for table in self._by_size:
            yield from table.values()

    def leaf(self, hpa: int) -> PamtEntry:
        """The leaf of ``hpa``, without locks or footprint."""
        for size in (2, 1):
            entry = self.entry(hpa, size)
            if entry.v[0] is PageType.REG:
                return entry
        return self.entry(hpa, 0)

    def walk(self, hpa: int, size: int, exclusive: bool) -> PamtWalk | None:
        """Explicit access: lock from 1G down to the leaf or ``size``; None: busy."""
        held: list[tuple[ShareXHp, bool]] = []
        for at in (2, 1):
            entry = self.entry(hpa, at)
            if not entry.lock.acquire(False):
                PamtWalk(entry, held).release()
                return None
            if at == size or entry.peek()[0] is PageType.REG:
                if exclusive and not entry.lock.upgrade():
                    held.append((entry.lock, False))
                    PamtWalk(entry, held).release()
                    return None
                held.append((entry.lock, exclusive))
                return PamtWalk(entry, held)
            held.append((entry.lock, False))
        entry = self.entry(hpa, 0)
        if not entry.lock.acquire(exclusive):
            PamtWalk(entry, held).release()
            return None
        held.append((entry.lock, exclusive))
        return PamtWalk(entry, held)

    def smaller(self, hpa: int, size: int) -> Iterator[PamtEntry]:
        """All entries of the next smaller size inside the page ``hpa`` of ``size``."""
        step = 1 << self.shift[size - 1]
        for i in range(self.entries_per_table):
            yield self.entry(hpa + i * step, size - 1)

    def all_free_below(self, hpa: int, size: int) -> bool:
        """Every smaller entry inside the page is PT_NDA.

        Sequentially only entries that exist are looked at (the others have never been
        used); under an explorer all are, so that the footprint is complete.
        """
        if self.m.exploring:
            return all(e.peek()[0] is PageType.NDA for e in self.smaller(hpa, size))
        tdmr = self.config.tdmr_of(hpa)
        if tdmr is not None and tdmr.is_reserved(hpa, 1 << self.shift[size]):
            return all(e.peek()[0] is PageType.NDA for e in self.smaller(hpa, size))
        below = self._below[size - 1].get(hpa >> self.shift[size], ())
        return all(e.peek()[0] is PageType.NDA for e in below)
