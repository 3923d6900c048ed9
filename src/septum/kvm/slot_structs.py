# SPDX-License-Identifier: GPL-2.0-only
"""``struct kvm_memory_slot``, its x86 part, and the guest_memfd file it is bound to.

``kvm->memslots`` is one pointer to an immutable set: a slot is never changed where others
can see it, it is replaced by a copy and the pointer is swapped (`septum.kvm.memslots`).
What the kernel's copies share by pointer (``slot->arch``, ``slot->gmem.file``) is a
`SlotArch`, the same for every copy of a slot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from septum.machine import Cell, Machine, Mutex, Word

if TYPE_CHECKING:
    from septum.kvm.host import PageCache

__all__ = [
    "KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS",
    "KVM_MEMSLOT_INVALID",
    "KVM_MEM_GUEST_MEMFD",
    "KVM_MEM_LOG_DIRTY_PAGES",
    "Binding",
    "GmemFile",
    "KvmMemorySlot",
    "SlotArch",
    "SlotSpec",
]

KVM_MEM_LOG_DIRTY_PAGES: Final = 1 << 0
KVM_MEM_GUEST_MEMFD: Final = 1 << 2
KVM_MEMSLOT_INVALID: Final = 1 << 16
KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS: Final = 1 << 63

Binding = tuple[int, int, "KvmMemorySlot"]
"""(first index, end index, slot) of a range of a guest_memfd file."""

SlotSpec = tuple[int, ...]
"""(first GFN, pages), and optionally the number of the guest_memfd file that backs it:
-1 for none.  The index in the file, and the page of userspace memory, is the GFN."""


class GmemFile:
    """A guest_memfd file: its pages, and which slots are bound to which of them.

    One file per inode and VM; ``invalidate_lock`` (filemap_invalidate_lock) guards the
    bindings (facts/kvm-tdp-mmu.md 5.5, virt/kvm/guest_memfd.c).
    """

    def __init__(self, m: Machine, number: int, cache: PageCache, size: int) -> None:
        suffix = str(number) if number else ""
        self.number = number
        self.init_shared = False  # GUEST_MEMFD_FLAG_INIT_SHARED
        self.user = f"gmem{number}"
        self.cache = cache
        self.size = size
        self.invalidate_lock = Mutex(m, f"invalidate_lock{suffix}", order=15)
        self.bindings = Cell(m, f"gmem{suffix}.bindings", ())
        self._prepared: dict[int, Cell] = {}

    def prepared(self, pfn: int) -> Cell:
        """The folio's uptodate flag, which says before 7.0 that the page was prepared."""
        cell = self._prepared.get(pfn)
        if cell is None:
            cell = self._prepared[pfn] = Cell(self.bindings.m, f"gmem prepared[{pfn:x}]", False)
        return cell

    def bound(self, start: int, end: int) -> list[Binding]:
        """The bindings that overlap [start, end), clipped to it; in the current event."""
        bindings: tuple[Binding, ...] = self.bindings.peek()
        clipped = ((max(start, first), min(end, last), slot) for first, last, slot in bindings)
        return sorted((b for b in clipped if b[0] < b[1]), key=lambda b: b[0])


class SlotArch:
    """What every copy of a slot shares.

    :ivar gmem_file: the bound `GmemFile`, None once unbound or released.
    :ivar max_level: the largest page that the backing memory has.
    :ivar dirty_bitmap: one word, so a slot has at most 64 pages if it is logged.
    """

    def __init__(self, m: Machine, name: str, max_level: int) -> None:
        self.m = m
        self.name = name
        self.gmem_file = Word(m, f"{name}.gmem.file", None)
        self.max_level = max_level
        self.dirty_bitmap = Word(m, f"{name}.dirty_bitmap", 0)
        self._mixed: dict[tuple[int, int], Cell] = {}
        self._inhibited: dict[tuple[int, int], Word] = {}

    def mixed(self, gfn: int, level: int) -> Cell:
        """KVM_LPAGE_MIXED_FLAG of ``lpage_info``: written under mmu_lock for write."""
        cell = self._mixed.get((gfn, level))
        if cell is None:
            name = f"{self.name}.mixed[{gfn:x},{level}]"
            cell = self._mixed[gfn, level] = Cell(self.m, name, False)
        return cell

    def guest_inhibit(self, gfn: int, level: int) -> Word:
        """KVM_LPAGE_GUEST_INHIBIT_FLAG (`septum.designs.hugepage`): written under mmu_lock
        for write, also tested without."""
        word = self._inhibited.get((gfn, level))
        if word is None:
            name = f"{self.name}.guest_inhibit[{gfn:x},{level}]"
            word = self._inhibited[gfn, level] = Word(self.m, name, False)
        return word


@dataclass(frozen=True, slots=True, repr=False)
class KvmMemorySlot:
    """``struct kvm_memory_slot``.  ``userspace_addr`` counts pages; ``pgoff`` is the index
    of the first page in the guest_memfd file."""

    id: int
    base_gfn: int
    npages: int
    flags: int = 0
    userspace_addr: int = 0
    pgoff: int = 0
    as_id: int = 0
    arch: SlotArch = field(compare=False, kw_only=True)

    def __repr__(self) -> str:
        marks = "".join(
            f" {mark}" for mark, on in (("invalid", self.invalid), ("logged", self.logged)) if on
        )
        return f"{self.name} {self.base_gfn:x}+{self.npages:x}{marks}"

    @property
    def name(self) -> str:
        return f"slot{self.id}"

    @property
    def has_gmem(self) -> bool:
        """kvm_slot_has_gmem()."""
        return bool(self.flags & KVM_MEM_GUEST_MEMFD)

    @property
    def invalid(self) -> bool:
        """The copy that stands in while the slot is deleted or moved."""
        return bool(self.flags & KVM_MEMSLOT_INVALID)

    @property
    def logged(self) -> bool:
        """kvm_slot_dirty_track_enabled()."""
        return bool(self.flags & KVM_MEM_LOG_DIRTY_PAGES)

    @property
    def dirty_bitmap(self) -> Word:
        return self.arch.dirty_bitmap

    @property
    def max_level(self) -> int:
        """The largest page that the backing memory has."""
        return self.arch.max_level

    def __contains__(self, gfn: int) -> bool:
        return self.base_gfn <= gfn < self.base_gfn + self.npages

    def hva(self, gfn: int) -> int:
        """gfn_to_hva_memslot(), in pages."""
        return self.userspace_addr + gfn - self.base_gfn

    def index(self, gfn: int) -> int:
        """kvm_gmem_get_index()."""
        return gfn - self.base_gfn + self.pgoff
