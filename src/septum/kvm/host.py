# SPDX-License-Identifier: GPL-2.0-only
"""The host: page allocator and guest_memfd.

Every page that KVM hands to the TDX Module lies inside one TDMR, PFNs
[`TDMR_FIRST_PFN`, `TDMR_END_PFN`).  Its first part is left to TDX control pages (TDR,
TDCS, TDVPS).  PFNs come from one arena per task and are never used twice in an
execution, so they are the same in every execution that does the same, and a page that
is freed while the S-EPT still maps it stays recognisable (I12).

``owner(pfn)`` is who has the page: ``external_spt``, ``spt`` (its life is in
`septum.machine.Page`), ``gmem``, ``hva``, or ``free``.  `free_page` emits ``page_freed``.
A page that somebody else pins (`Host.get_page`) is only ``released`` by its owner, and
freed with the last pin.
"""

from __future__ import annotations

from typing import Final

from septum.machine import Cell, Machine, Word
from septum.machine.geometry import Geometry

__all__ = [
    "CONTROL_FIRST_PFN",
    "FREE",
    "GMEM_FIRST_PFN",
    "HVA_FIRST_PFN",
    "TABLE_FIRST_PFN",
    "TDMR_END_PFN",
    "TDMR_FIRST_PFN",
    "Host",
    "OutOfPages",
    "PageCache",
]

TDMR_FIRST_PFN: Final = 0x40000  # 1 GiB
CONTROL_FIRST_PFN: Final = 0x40000
TABLE_FIRST_PFN: Final = 0x50000
GMEM_FIRST_PFN: Final = 0x100000  # 4 GiB
_ARENA: Final = 0x800
_ARENAS: Final = (0x100000 - TABLE_FIRST_PFN) // _ARENA
_GENERATION: Final = 0x100000  # 4 GiB of guest pages per generation of a gmem page
_GENERATIONS: Final = 16
_FILE: Final = 0x10000  # how far the PFNs of two guest_memfd files are apart
TDMR_END_PFN: Final = GMEM_FIRST_PFN + _GENERATION * _GENERATIONS
HVA_FIRST_PFN: Final = TDMR_END_PFN

FREE: Final = "free"
RELEASED: Final = "released"


class OutOfPages(Exception):
    """A task used more pages than its arena has: raise the arena's size."""


class Host:
    """alloc_page(), free_page() and the guest_memfd page cache."""

    def __init__(self, m: Machine, geometry: Geometry) -> None:
        self.m = m
        self.geometry = geometry
        self._next: dict[int, Cell] = {}
        self._owner: dict[int, Cell] = {}
        self._pins: dict[int, Cell] = {}
        self.gmem = PageCache(self, "gmem", GMEM_FIRST_PFN)
        self.hva = PageCache(self, "hva", HVA_FIRST_PFN)
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
        self.page(pfn).set(owner)
        return pfn

    @staticmethod
    def arena_name(kind: str, pfn: int) -> str:
        """A name for what was made in the page: kind, task (if any), number."""
        task, n = divmod(pfn - TABLE_FIRST_PFN, _ARENA)
        return f"{kind}{task - 1}.{n}" if task else f"{kind}{n}"

    def gmem_file(self, number: int) -> PageCache:
        """The page cache of guest_memfd file ``number``; file 0 is ``gmem``."""
        if not number:
            return self.gmem
        return PageCache(self, f"gmem{number}", GMEM_FIRST_PFN + number * _FILE)

    def allocation_fails(self) -> bool:
        """Whether a GFP allocation fails now: a choice, while the budget lasts."""
        budget: int = self.alloc_failures.peek()  # tasks share it
        if budget and self.m.choose("allocation fails?", (False, True)):
            self.alloc_failures.poke(budget - 1)
            self.m.reach("an allocation failed")
            return True
        return False

    def free_page(self, pfn: int) -> None:
        """Its owner's reference goes.  Twice is finding I6."""
        m = self.m
        page = self.page(pfn)
        with m.step("free_page", page.name):
            if page.peek() in (FREE, RELEASED):
                m.report("I6", f"{page.name} is freed twice", page.name)
            if self.pins(pfn).peek():
                page.poke(RELEASED)
            else:
                page.poke(FREE)
                m.emit("page_freed", pfn)

    def get_page(self, pfn: int) -> None:
        """get_page(): a reference beside the owner's."""
        pins = self.pins(pfn)
        with self.m.step("get_page", pins.name):
            pins.poke(pins.peek() + 1)

    def put_page(self, pfn: int) -> None:
        """put_page() of such a reference; the last one frees a released page."""
        m = self.m
        pins, page = self.pins(pfn), self.page(pfn)
        with m.step("put_page", pins.name):
            left = pins.peek() - 1
            if left < 0:
                m.report("I6", f"{page.name} is unpinned twice", page.name)
            pins.poke(left)
            if left == 0 and page.peek() == RELEASED:
                page.poke(FREE)
                m.emit("page_freed", pfn)

    def owner(self, pfn: int) -> str:
        """Who has the page; for monitors (part of the current event)."""
        owner: str = self.page(pfn).peek()
        return owner

    def table_pages(self) -> list[tuple[int, str]]:
        """PFN and use of every page that is allocated to a table; for monitors."""
        kinds = ("spt", "external_spt")
        return [(pfn, page.v) for pfn, page in sorted(self._owner.items()) if page.v in kinds]

    def page(self, pfn: int) -> Cell:
        """The cell that holds the page's owner."""
        page = self._owner.get(pfn)
        if page is None:
            page = self._owner[pfn] = Cell(self.m, f"page {pfn:x}", FREE)
        return page

    def pins(self, pfn: int) -> Cell:
        """The cell that counts the page's pins."""
        pins = self._pins.get(pfn)
        if pins is None:
            pins = self._pins[pfn] = Cell(self.m, f"pins {pfn:x}", 0)
        return pins


class PageCache:
    """Pages of guest memory by GFN: a guest_memfd file, or the VMM's anonymous memory.

    A page that was truncated comes back, on the next use, with another PFN.  With
    ``folio_level`` > 1 an empty aligned range is populated as one folio of that level, which
    the truncation of a part of it splits for good.
    """

    def __init__(self, host: Host, name: str, first_pfn: int) -> None:
        self.host = host
        self.name = name
        self.first_pfn = first_pfn
        self.folio_level = 1
        self._entries: dict[int, tuple[Word, Cell]] = {}

    def get_pfn(self, gfn: int) -> int:
        """The page backing ``gfn``, made on first use (lookup or insertion: one point)."""
        entry = self._entry(gfn)[0]
        with self.host.m.step(f"{self.name}_get_folio", entry.name):
            pfn: int = entry.peek()
            if not pfn:
                pages = self._folio(gfn)
                if any(self.peek(page) for page in pages):
                    pages = range(gfn, gfn + 1)
                n = max(self._entry(page)[1].peek() for page in pages)
                for page in pages:
                    self._populate(page, n)
                pfn = entry.peek()
        return pfn

    def _folio(self, gfn: int) -> range:
        """The GFNs that share a folio with ``gfn`` if it is not split."""
        if self.folio_level == 1:
            return range(gfn, gfn + 1)
        n = self.host.geometry.pages_per_level(self.folio_level)
        return range(gfn & -n, (gfn & -n) + n)

    def _populate(self, gfn: int, n: int) -> None:
        """Generation ``n`` of the page."""
        if n >= _GENERATIONS:
            raise OutOfPages(f"gfn {gfn:x} was populated {_GENERATIONS} times")
        entry, generation = self._entry(gfn)
        pfn = self.first_pfn + n * _GENERATION + gfn % _GENERATION
        generation.poke(n + 1)
        entry.poke(pfn)
        self.host.page(pfn).poke(self.name)

    def level(self, gfn: int) -> int:
        """The level of the folio that backs ``gfn`` (max_order of kvm_gmem_get_pfn()); part
        of the current event."""
        pages = self._folio(gfn)
        first = self.peek(pages.start)
        whole = first and all(self.peek(page) == first + page - pages.start for page in pages)
        return self.folio_level if whole else 1

    def truncate(self, gfn: int) -> None:
        """truncate_inode_pages_range() for one page: out of the cache, then freed."""
        entry, _ = self._entry(gfn)
        pfn: int = entry.xchg(0)
        if pfn:
            self.host.free_page(pfn)

    def entry_name(self, gfn: int) -> str:
        """The name of the word that holds the page."""
        return self._entry(gfn)[0].name

    def peek(self, gfn: int) -> int:
        """The PFN backing ``gfn`` now, 0 if none; for monitors."""
        pfn: int = self._entry(gfn)[0].peek()
        return pfn

    def _entry(self, gfn: int) -> tuple[Word, Cell]:
        entry = self._entries.get(gfn)
        if entry is None:
            m = self.host.m
            name = f"{self.name}[{gfn:x}]"
            entry = self._entries[gfn] = (Word(m, name, 0), Cell(m, f"{name}.generation", 0))
        return entry
