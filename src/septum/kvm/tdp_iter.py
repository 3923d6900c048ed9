# SPDX-License-Identifier: GPL-2.0-only
"""``struct tdp_iter``: pre-order walk over a root's tables (facts 3; mmu/tdp_iter.c).

``old_spte`` is a snapshot.  Every ``LD`` is a scheduling point; in particular, the step
down reads the SPTE *again*, so a table that vanished meanwhile makes the walk leave
sideways.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from septum.kvm.bug import WARN_ON
from septum.kvm.spte import is_last_spte, is_shadow_present_pte, spte_to_child_sp

if TYPE_CHECKING:
    from septum.kvm.structs import Kvm, KvmMmuPage, PageTable, Spte

__all__ = [
    "TdpIter",
    "for_each_tdp_pte",
    "for_each_tdp_pte_min_level",
    "gfn_round_for_level",
    "kvm_gfn_root_bits",
    "kvm_mmu_max_gfn",
]

PT64_ROOT_MAX_LEVEL = 5


def gfn_round_for_level(kvm: Kvm, gfn: int, level: int) -> int:
    return gfn & -kvm.pages_per_hpage[level]


def kvm_gfn_root_bits(kvm: Kvm, root: KvmMmuPage) -> int:
    """What the iterator ORs into every index: the shared bit in a TD's direct root."""
    return 0 if root.is_mirror else kvm.gfn_direct_bits


def kvm_mmu_max_gfn(kvm: Kvm) -> int:
    """Last GFN that a walk may cover; above the shared bit (facts 2.4)."""
    return kvm.pages_per_hpage[kvm.geometry.levels + 1] - 1


class TdpIter:
    """The fields of the kernel's iterator, and ``tdp_iter_{start,restart,next}()``."""

    __slots__ = (
        "as_id",
        "gfn",
        "gfn_bits",
        "kvm",
        "level",
        "min_level",
        "next_last_level_gfn",
        "old_spte",
        "pt_path",
        "root_level",
        "sptep",
        "valid",
        "yielded",
        "yielded_gfn",
    )

    sptep: Spte

    def __init__(
        self, kvm: Kvm, root: KvmMmuPage, min_level: int, next_last_level_gfn: int, gfn_bits: int
    ) -> None:
        """tdp_iter_start()."""
        self.kvm = kvm
        self.valid = False
        root_level = root.role.level
        if WARN_ON(
            not 1 <= root_level <= PT64_ROOT_MAX_LEVEL
            or (gfn_bits and next_last_level_gfn >= gfn_bits),
            kvm,
            "tdp_iter_start",
            "bad root level, or a GFN with the shared bit",
        ):
            return
        self.next_last_level_gfn = next_last_level_gfn
        self.gfn_bits = gfn_bits
        self.root_level = root_level
        self.min_level = min_level
        self.as_id = root.role.as_id
        self.pt_path: list[PageTable | None] = [None] * root_level
        self.pt_path[root_level - 1] = root.spt
        self.restart()

    @classmethod
    def of_table(cls, kvm: Kvm, sp: KvmMmuPage) -> TdpIter:
        """An iterator made by hand that stands at the SPTE of the table ``sp``; it cannot
        be moved."""
        assert sp.ptep is not None
        it = cls.__new__(cls)
        it.kvm = kvm
        it.valid = True
        it.yielded = False
        it.old_spte = sp.ptep.read()
        it.sptep = sp.ptep
        it.level = sp.role.level + 1
        it.gfn = sp.gfn
        it.as_id = sp.role.as_id
        return it

    def restart(self) -> None:
        """tdp_iter_restart()."""
        self.yielded = False
        self.yielded_gfn = self.next_last_level_gfn
        self.level = self.root_level
        self.gfn = gfn_round_for_level(self.kvm, self.next_last_level_gfn, self.level)
        self._refresh_sptep()
        self.valid = True

    def _refresh_sptep(self) -> None:
        """tdp_iter_refresh_sptep()."""
        pt = self.pt_path[self.level - 1]
        assert pt is not None
        self.sptep = pt.word(self._index())
        self.old_spte = self.sptep.read()

    def _index(self) -> int:
        return self.kvm.geometry.index(self.gfn | self.gfn_bits, self.level)

    def _try_step_down(self) -> bool:
        if self.level == self.min_level:
            return False
        # Reread the SPTE: it may have changed while the loop's body ran.
        self.old_spte = self.sptep.read()
        child_pt = spte_to_child_pt(self.kvm, self.old_spte, self.level)
        if child_pt is None:
            return False
        self.level -= 1
        self.pt_path[self.level - 1] = child_pt
        self.gfn = gfn_round_for_level(self.kvm, self.next_last_level_gfn, self.level)
        self._refresh_sptep()
        return True

    def _try_step_side(self) -> bool:
        index = self._index()
        if index == self.kvm.geometry.entries - 1:
            return False
        self.gfn += self.kvm.pages_per_hpage[self.level]
        self.next_last_level_gfn = self.gfn
        self.sptep = self.sptep.page.word(self.sptep.index + 1)
        self.old_spte = self.sptep.read()
        return True

    def _try_step_up(self) -> bool:
        if self.level == self.root_level:
            return False
        self.level += 1
        self.gfn = gfn_round_for_level(self.kvm, self.gfn, self.level)
        self._refresh_sptep()
        return True

    def next(self) -> None:
        """tdp_iter_next(): down if possible, else sideways, else up until sideways."""
        if self.yielded:
            self.restart()
            return
        if self._try_step_down():
            return
        while True:
            if self._try_step_side():
                return
            if not self._try_step_up():
                self.valid = False
                return


def spte_to_child_pt(kvm: Kvm, spte: int, level: int) -> PageTable | None:
    if not is_shadow_present_pte(spte) or is_last_spte(spte, level):
        return None
    return spte_to_child_sp(kvm, spte).spt


def for_each_tdp_pte_min_level(
    kvm: Kvm, root: KvmMmuPage, min_level: int, start: int, end: int
) -> Iterator[TdpIter]:
    """Visit every SPTE of [start, end) from the root down to ``min_level``, pre-order."""
    it = TdpIter(kvm, root, min_level, start, kvm_gfn_root_bits(kvm, root))
    while it.valid and it.gfn < end:
        yield it
        it.next()


def for_each_tdp_pte(kvm: Kvm, root: KvmMmuPage, start: int, end: int) -> Iterator[TdpIter]:
    return for_each_tdp_pte_min_level(kvm, root, 1, start, end)
