# SPDX-License-Identifier: GPL-2.0-only
"""Turns single accesses into what monitors and scenarios speak of: SPTE changes, retries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from septum.kvm.spte import FROZEN_SPTE, is_last_spte, is_shadow_present_pte, spte_to_pfn
from septum.kvm.tdx import (
    EPT_VIOLATION_PROT_MASK,
    EXIT_REASON_EPT_VIOLATION,
    TDX_EXT_EXIT_QUAL_TYPE_MASK,
    TDX_EXT_EXIT_QUAL_TYPE_PENDING_EPT_VIOLATION,
)
from septum.machine import Cell
from septum.native.answers import SPTE
from septum.native.image import ARENA, FIRST_PFN, PAGE
from septum.native.source import lost
from septum.tdx.status import is_operand_busy

if TYPE_CHECKING:
    from septum.machine import Event
    from septum.native.kernel import Kernel
    from septum.native.objects import Granule

__all__ = ["Notice"]

_RMW: Final = 2
_WRITE: Final = 1


class Notice:
    """Watches the accesses of all tasks."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.m = kernel.m
        self.seq: dict[int, int] = {}  # task -> mmu_invalidate_seq as first read
        self.linked_at_start: frozenset[int] = frozenset()  # tables, by their page
        self._linked: dict[int, Cell] = {}  # the others: whether anything has led to them
        self._names: dict[str, str] = {
            "kvm.mmu_invalidate_seq": "seq",
            "kvm.mmu_invalidate_in_progress": "progress",
        }

    def start(self) -> None:
        """A new execution begins."""
        self.seq.clear()

    def retried(self, number: int) -> None:
        """A task begins its attempt again."""
        self.seq.pop(number, None)

    def accessed(
        self,
        number: int,
        cell: Granule,
        addr: int,
        kind: int,
        before: int,
        after: int,
        event: Event | None,
        pc: int,
    ) -> None:
        """``pc``: of the access."""
        if cell.table:
            self._entry(number, addr, kind, before, after, event, pc)
            return
        what = self._names.get(cell.name)
        if what is not None and not kind & (_RMW | _WRITE):
            self._invalidation(number, what, before)
        elif what == "progress" and 1 < after & 0xFFFFFFFF > before & 0xFFFFFFFF:
            self.m.reach("two invalidations were in progress")
        elif cell is self.kernel.zap_word and not kind & (_RMW | _WRITE):
            if self.kernel.wait_for_sept_zap() and self.m.current.name.startswith("vcpu"):
                self.m.reach("vCPU saw wait_for_sept_zap")

    def _invalidation(self, number: int, what: str, value: int) -> None:
        if what == "progress":
            if value & 0xFFFFFFFF and number in self.seq:
                self.m.reach("an invalidation in progress forced a retry")
                self.m.reach("mmu_seq forced a retry")
            return
        if self.seq.setdefault(number, value) != value:
            self.m.reach("mmu_seq forced a retry")

    def _entry(
        self,
        number: int,
        addr: int,
        kind: int,
        before: int,
        after: int,
        event: Event | None,
        pc: int,
    ) -> None:
        kernel, m = self.kernel, self.m
        if not kind & (_RMW | _WRITE):
            if before == kernel.frozen:
                m.reach("a fault met FROZEN_SPTE")
            return
        if before == after:
            if event is not None and event.op == "cmpxchg-failed":
                for what in lost(kernel.lines, pc):
                    m.reach(what)
            return
        answers = kernel.image.answers if m.exploring else None
        if answers is not None:
            answers.begin(SPTE, number, addr, before, after)
        self.entry_changed(addr, before, after, number)
        if answers is not None:
            answers.end()

    def entry_changed(self, addr: int, before: int, after: int, number: int = -1) -> None:
        """An entry of what may be a page table has another value.  ``number``: the task's in the
        image; -1: the CPU changed it."""
        kernel, m = self.kernel, self.m
        sp = kernel.sp_of(addr)
        if not sp or self._is_being_filled(addr & -PAGE, sp):
            return
        old, new = kernel.value_of(before), kernel.value_of(after)
        level = kernel.level(sp)
        if is_shadow_present_pte(new) and not is_last_spte(new, level):
            self._link(ARENA + (spte_to_pfn(new) - FIRST_PFN << 12))
        was_table = is_shadow_present_pte(old) and not is_last_spte(old, level)
        if was_table and (new == FROZEN_SPTE or not is_shadow_present_pte(new)):
            m.reach("a table was removed")
            if m.current.name == "nx":
                m.reach("NX recovery zapped a table")
        elif was_table and is_last_spte(new, level) and not m.current.name.startswith("vcpu"):
            m.reach("a table became a huge leaf again")
        was_leaf = is_shadow_present_pte(old) and not was_table
        if was_leaf and new == FROZEN_SPTE and not kernel.is_mirror(sp):
            m.reach("a direct leaf was zapped")  # with the table that holds it
        if m.listeners:
            held = number >= 0 and kernel.image.held_write(number, kernel.mmu_lock)
            m.emit("spte", sp, addr, old, new, bool(held))

    def _is_being_filled(self, page: int, sp: int) -> bool:
        """Nothing has led to the table yet: a huge page is being split into it."""
        if page in self.linked_at_start or not self.kernel.value("kvm_mmu_page.ptep", sp):
            return False
        linked = self._linked.get(page)
        return linked is None or not linked.v

    def _link(self, page: int) -> None:
        if page in self.linked_at_start:
            return
        cell = self._linked.get(page)
        if cell is None:
            cell = self._linked[page] = Cell(self.m, f"table {page:x} linked", False)
        if not cell.v:
            cell.set(True)

    # --- the module ------------------------------------------------------------------------

    def seamcall(self, number: int, name: str, result: Any) -> None:
        if is_operand_busy(result.rax):
            self.m.reach(f"{name} returned BUSY")
        if self.kernel.wait_for_sept_zap() and name != "TDH.VP.ENTER":
            self.m.reach("the second no-vCPUs call was made")

    def exited(self, number: int, result: Any) -> None:
        """A TD exit."""
        if result.rax & 0xFFFFFFFF != EXIT_REASON_EPT_VIOLATION:
            return
        kind = result.rdx & TDX_EXT_EXIT_QUAL_TYPE_MASK
        pending = kind == TDX_EXT_EXIT_QUAL_TYPE_PENDING_EPT_VIOLATION
        if pending and not result.rcx & EPT_VIOLATION_PROT_MASK:
            self.m.reach("guest touched a PENDING page")
