# SPDX-License-Identifier: GPL-2.0-only
"""The host: page allocator and guest_memfd.

Every page that KVM hands to the TDX Module lies inside one TDMR, PFNs
[`TDMR_FIRST_PFN`, `TDMR_END_PFN`).  Its first part is left to TDX control pages (TDR,
TDCS, TDVPS).  PFNs come from one arena per task and are never used twice in an
execution, so they are the same in every execution that does the same, and a page that
is freed while the S-EPT still maps it stays recognisable (I12).

``owner(pfn)`` is who has the page: ``external_spt``, ``spt`` (its life is in
`septum.machine.Page`), ``gmem``, or ``free``.  `free_page` emits ``page_freed``.
"""

from __future__ import annotations

from typing import Final

from septum.machine import Cell, Machine, Word
from septum.machine.geometry import Geometry

__all__ = [
    "CONTROL_FIRST_PFN",
    "FREE",
    "GMEM_FIRST_PFN",
    "TABLE_FIRST_PFN",
    "TDMR_END_PFN",
    "TDMR_FIRST_PFN",
    "Host",
    "OutOfPages",
]

TDMR_FIRST_PFN: Final = 0x40000  # 1 GiB
CONTROL_FIRST_PFN: Final = 0x40000
TABLE_FIRST_PFN: Final = 0x50000
GMEM_FIRST_PFN: Final = 0x100000  # 4 GiB
_ARENA: Final = 0x800
_ARENAS: Final = (0x100000 - TABLE_FIRST_PFN) // _ARENA
_GENERATION: Final = 0x100000  # 4 GiB of guest pages per generation of a gmem page
_GENERATIONS: Final = 16
TDMR_END_PFN: Final = GMEM_FIRST_PFN + _GENERATION * _GENERATIONS

FREE: Final = "free"


class OutOfPages(Exception):
    """A task used more pages than its arena has: raise the arena's size."""


class Host:
    """alloc_page(), free_page() and the guest_memfd page cache."""

    def __init__(self, m: Machine, geometry: Geometry) -> None:
        self.m = m
        self.geometry = geometry
        self._next: dict[int, Cell] = {}
        self._owner: dict[int, Cell] = {}
        self._gmem: dict[int, Word] = {}
        self._generation: dict[int, Cell] = {}
        # How many allocations may fail (KVM's GFP_KERNEL_ACCOUNT ones); each is a choice.
        self.alloc_failures = Cell(m, "alloc_failures", 0)

    # --- pages --------------------------------------------------------------------

    def alloc_page(self, owner: str) -> int:
        """A page of the running task's arena; its PFN."""
        m = self.m
        task = m.current.id
        next_page = self._next.get(task)
        if next_page is None:
            next_page = self._next[task] = Cell(m, f"arena{task}", 0)
        n: int = next_page.v
        if n >= _ARENA or task + 1 >= _ARENAS:
            raise OutOfPages(f"{m.current.name}: no page left in its arena")
        next_page.set(n + 1)
        pfn = TABLE_FIRST_PFN + (task + 1) * _ARENA + n
        self._page(pfn).set(owner)
        return pfn

    def allocation_fails(self) -> bool:
        """Whether a GFP allocation fails now: a choice, while the budget lasts."""
        budget: int = self.alloc_failures.v
        if budget and self.m.choose("allocation fails?", (False, True)):
            self.alloc_failures.set(budget - 1)
            return True
        return False

    def free_page(self, pfn: int) -> None:
        """Back to the allocator.  Twice is finding I6."""
        m = self.m
        page = self._page(pfn)
        with m.step("free_page", page.name):
            if page.peek() == FREE:
                m.report("I6", f"{page.name} is freed twice", page.name)
            page.poke(FREE)
            m.emit("page_freed", pfn)

    def owner(self, pfn: int) -> str:
        """Who has the page; for monitors (part of the current event)."""
        owner: str = self._page(pfn).peek()
        return owner

    def _page(self, pfn: int) -> Cell:
        page = self._owner.get(pfn)
        if page is None:
            page = self._owner[pfn] = Cell(self.m, f"page {pfn:x}", FREE)
        return page

    # --- guest_memfd ----------------------------------------------------------------

    def gmem_pfn(self, gfn: int) -> int:
        """The page backing ``gfn``, made on first use (filemap lookup: one point)."""
        m = self.m
        entry = self._gmem_entry(gfn)
        with m.step("gmem_get_folio", entry.name):
            pfn: int = entry.peek()
            if not pfn:
                generation = self._generation[gfn]
                if generation.v >= _GENERATIONS:
                    raise OutOfPages(f"gfn {gfn:x} was populated {_GENERATIONS} times")
                pfn = GMEM_FIRST_PFN + generation.v * _GENERATION + gfn % _GENERATION
                generation.set(generation.v + 1)
                entry.poke(pfn)
                self._page(pfn).poke("gmem")
        return pfn

    def gmem_truncate(self, gfn: int) -> None:
        """truncate_inode_pages_range() for one page: out of the cache, then freed."""
        entry = self._gmem_entry(gfn)
        pfn: int = entry.xchg(0)
        if pfn:
            self.free_page(pfn)

    def gmem_peek(self, gfn: int) -> int:
        """The PFN backing ``gfn`` now, 0 if none; for monitors."""
        pfn: int = self._gmem_entry(gfn).peek()
        return pfn

    def _gmem_entry(self, gfn: int) -> Word:
        entry = self._gmem.get(gfn)
        if entry is None:
            entry = self._gmem[gfn] = Word(self.m, f"gmem[{gfn:x}]", 0)
            self._generation[gfn] = Cell(self.m, f"gmem[{gfn:x}].generation", 0)
        return entry
