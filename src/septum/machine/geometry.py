# SPDX-License-Identifier: GPL-2.0-only
"""The shape of page tables: bits per level, number of levels, the shared bit.

One `Geometry` is shared by ``kvm``, ``tdx`` and ``scenarios``.  Hardware has 9 bits per
level and 4 or 5 levels; for exploration fewer bits and levels make small tables whose
behaviour is the same: with ``bits=2`` a "2M" page is four 4K pages.

Levels are KVM's: 1 is a 4K page, 2 a "2M" page, 3 a "1G" page.  The TDX Module counts
from 0 (`septum.tdx` adds one where it calls).  A GFN is a GPA without its low 12 bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

__all__ = ["HARDWARE_4", "HARDWARE_5", "HARDWARE_5_WIDE", "PAGE_SHIFT", "PAGE_SIZE", "Geometry"]

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT


@dataclass(frozen=True, slots=True)
class Geometry:
    """Immutable shape of the tables.

    :param bits: index bits per level (9 in hardware, 1 or 2 for exploration).
    :param levels: number of table levels, 2 to 5; the root is table of level ``levels``.
    :param shared: bit number *in the GPA* of the shared bit.  Default: the topmost bit
        that the tables translate, as in hardware (47 for 4 levels, and for 5 levels
        with GPAW=0 it stays 47; pass 51 for GPAW=1).
    """

    bits: int = 9
    levels: int = 4
    shared: int = -1
    entries: int = field(init=False)
    mask: int = field(init=False)
    shared_gpa: int = field(init=False)
    shared_gfn: int = field(init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 9:
            raise ValueError(f"bits per level must be 1 to 9, not {self.bits}")
        if not 2 <= self.levels <= 5:
            raise ValueError(f"levels must be 2 to 5, not {self.levels}")
        put = object.__setattr__
        if self.shared < 0:
            top = PAGE_SHIFT + self.bits * self.levels - 1
            put(self, "shared", 47 if (self.bits, self.levels) == (9, 5) else top)
        if self.shared < PAGE_SHIFT:
            raise ValueError(f"shared bit {self.shared} lies inside a page")
        put(self, "entries", 1 << self.bits)
        put(self, "mask", (1 << self.bits) - 1)
        put(self, "shared_gpa", 1 << self.shared)
        put(self, "shared_gfn", 1 << (self.shared - PAGE_SHIFT))

    @property
    def hardware(self) -> bool:
        """A shape that real tables can have."""
        return self.bits == 9 and self.levels >= 4

    @property
    def gfn_bits(self) -> int:
        """Width of a GFN that the tables can translate."""
        return self.bits * self.levels

    def index(self, gfn: int, level: int) -> int:
        """Index of ``gfn``'s entry in its table of ``level``."""
        return (gfn >> (self.bits * (level - 1))) & self.mask

    def pages_per_level(self, level: int) -> int:
        """KVM_PAGES_PER_HPAGE(): how many 4K pages an entry of ``level`` covers."""
        return 1 << (self.bits * (level - 1))

    def bytes_per_level(self, level: int) -> int:
        """The size in bytes of a page mapped at ``level``."""
        return 1 << (PAGE_SHIFT + self.bits * (level - 1))

    def aligned(self, gfn: int, level: int) -> bool:
        """Whether ``gfn`` is the first GFN of an entry of ``level``."""
        return not gfn & ((1 << (self.bits * (level - 1))) - 1)

    def round_down(self, gfn: int, level: int) -> int:
        """gfn_round_for_level(): the first GFN of the entry of ``level``."""
        return gfn & -(1 << (self.bits * (level - 1)))

    def is_shared(self, gfn: int) -> bool:
        """The GFN has the shared bit set."""
        return bool(gfn & self.shared_gfn)


HARDWARE_4: Final = Geometry()
HARDWARE_5: Final = Geometry(levels=5, shared=47)
HARDWARE_5_WIDE: Final = Geometry(levels=5, shared=51)
