# SPDX-License-Identifier: GPL-2.0-only
"""Shared words of an image as cells of a `Machine`, under names that people know.

A granule is eight aligned bytes.  What lies in one is one object to the explorer, which may
order more than it had to, never less.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from septum.machine import Cell
from septum.machine.dependency import ADD, READ, WRITE
from septum.native.image import (
    ARENA,
    ARENA_SIZE,
    ARENA_TASK,
    GMEM_PFN,
    PAGE,
    SEQUENTIAL,
    STRUCT_PAGE,
    STRUCTS,
    STRUCTS_SIZE,
    VMEMMAP,
)

if TYPE_CHECKING:
    from septum.native.kernel import Kernel

__all__ = ["COUNTER", "REFERENCES", "Granule", "Objects"]

_BLOCK: Final = 32  # sizeof(struct block)
COUNTERS: Final = frozenset(
    {"kvm.stat.pages_4k", "kvm.stat.pages_2m", "kvm.stat.pages_1g", "kvm.arch.tdp_mmu_pages"}
)
"""Atomics whose result nobody uses: two additions commute."""
PLAIN, COUNTER, REFERENCES = range(3)


class Granule(Cell):
    """Eight bytes of the image's memory; ``v`` is not used, the value is in memory.

    :ivar table: the entry lies in a page of a page table.
    :ivar dying: of a reference count: its owner has given up the reference that kept it
        above zero.
    """

    __slots__ = ("addr", "counter", "dying", "kernel", "table")

    def __init__(self, kernel: Kernel, name: str, addr: int, *, table: bool = False) -> None:
        super().__init__(kernel.m, name, None)
        self.kernel = kernel
        self.addr = addr
        self.table = table
        self.counter = PLAIN
        self.dying: Cell | None = None
        if name in COUNTERS:
            self.counter = COUNTER
        elif name.endswith((".f_ref", "._refcount")):
            self.counter = REFERENCES
            self.dying = Cell(kernel.m, f"{name} dying", False)

    def changed(self, before: int, after: int) -> int:
        """The kind of an atomic change of the value; its look at `dying` is noted.

        References: as long as the owner keeps its own, gets and puts do not show who came
        first, since nobody looks at the number.  From then on every change does: one of
        them is the last.
        """
        if self.dying is None:
            return ADD if self.counter == COUNTER else WRITE
        if before - after == 2:  # the page cache's own (c/files.c)
            self.dying.poke(True)
            return WRITE
        return WRITE if self.dying.peek() else ADD

    def peek(self) -> int:
        """The value now, read inside the current event."""
        m = self.m
        m.acc.append((self.name, READ))
        value = self.kernel.image.peek(self.addr, m.current.id if m.exploring else -1)
        if m.history is not None:
            m.history.append(value)
        return value

    def touch(self) -> None:
        """Note a write: its version, journaled."""
        m = self.m
        m.journal.append((self, self.v, self.wseq))
        self.wseq = m.seq


class Objects:
    """Cells by address."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.on_new: Callable[[Granule], None] | None = None
        self._cells: dict[int, Granule] = {}
        self._structs: list[tuple[int, int, str]] = []  # address, size, kind
        self._fields: dict[str, list[tuple[int, int, str]]] = {}
        for name, (offset, size) in kernel.fields.items():
            kind, _, member = name.partition(".")
            self._fields.setdefault(kind, []).append((offset, size, member))
        self._symbols = sorted(
            (a, n)
            for n, a in kernel.image.symbols.items()
            if kernel.image.symbols["septum_data"] <= a < kernel.image.symbols["septum_data_end"]
            and not n.startswith("septum_percpu")
        )

    def add(self, addr: int, size: int, kind: str) -> None:
        """A structure that is known: words in it get its members' names."""
        self._structs.append((addr, size, kind))

    def cell(self, addr: int) -> Granule:
        """The granule that holds ``addr``."""
        # struct page packs what different code uses (type, references) into eight bytes.
        addr &= ~3 if STRUCTS <= addr < STRUCTS + STRUCTS_SIZE else ~7
        cell = self._cells.get(addr)
        if cell is None:
            cell = self._cells[addr] = self._new(addr)
        return cell

    def cells(self) -> list[Granule]:
        """All that are known so far."""
        return list(self._cells.values())

    def _new(self, addr: int) -> Granule:
        # A name, once found, stays: looking for it is no part of what a call looks at.
        image = self.kernel.image
        answers, image.answers = image.answers, None
        name, table = self._name(addr)
        image.answers = answers
        cell = Granule(self.kernel, name, addr, table=table)
        if self.on_new is not None:
            self.on_new(cell)
        return cell

    # --- names ---------------------------------------------------------------------------

    def _name(self, addr: int) -> tuple[str, bool]:
        for start, size, kind in self._structs:
            if start <= addr < start + size:
                return self._member(kind.split("[")[0], kind, addr - start), False
        if ARENA <= addr < ARENA + ARENA_SIZE:
            return self._in_arena(addr)
        if STRUCTS <= addr < STRUCTS + STRUCTS_SIZE:
            pfn = (addr - VMEMMAP) // STRUCT_PAGE
            what = f"gmem page {pfn - GMEM_PFN:x}" if pfn >= GMEM_PFN else f"page {pfn:x}"
            return self._member("page", what, (addr - VMEMMAP) % STRUCT_PAGE), False
        return self._symbol(addr), False

    def _in_arena(self, addr: int) -> tuple[str, bool]:
        task, offset = divmod(addr - ARENA, ARENA_TASK)
        start, size = self.block(addr)
        mine = "" if task == SEQUENTIAL else f"{task}."
        if size == PAGE:
            return f"sp{mine}{offset // PAGE}[{(addr & PAGE - 1) // 8}]", True
        if size == self.kernel.sp_block:
            spt = self.kernel.image.u64(start + self.kernel.fields["kvm_mmu_page.spt"][0])
            if spt:
                owner, page = divmod(spt - ARENA, ARENA_TASK)
                mine = "" if owner == SEQUENTIAL else f"{owner}."
                name = f"sp{mine}{page // PAGE}"
                return self._member("kvm_mmu_page", name, addr - start), False
        if start:
            return f"object {mine}{start & ARENA_TASK - 1:x}+{addr - start:x}", False
        return f"memory {addr:x}", False

    def _member(self, kind: str, name: str, offset: int) -> str:
        # A granule is named after the first known member that begins in it or spans it.
        for at, size, member in self._fields.get(kind, ()):
            first = at & ~3 if kind == "page" else at & ~7
            if first <= offset < at + size:
                extra = offset - first
                return f"{name}.{member}" + (f"+{extra:x}" if extra else "")
        return f"{name}+{offset:x}"

    def _symbol(self, addr: int) -> str:
        low, high = 0, len(self._symbols)
        while low < high:
            middle = (low + high) // 2
            if self._symbols[middle][0] <= addr:
                low = middle + 1
            else:
                high = middle
        if not low:
            return f"image {addr:x}"
        start, name = self._symbols[low - 1]
        return name if start == addr else f"{name}+{addr - start:x}"

    def block(self, addr: int) -> tuple[int, int]:
        """Start and size of the allocation that holds ``addr``; (0, 0) if none does."""
        image = self.kernel.image
        table = image.symbols["septum_blocks"]
        for n in range(image.u64(image.symbols["septum_blocks_used"]) - 1, -1, -1):
            start = image.u64(table + n * _BLOCK)
            size = image.u64(table + n * _BLOCK + 8)
            if start <= addr < start + size:
                return start, size
        return 0, 0
