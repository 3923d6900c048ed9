# SPDX-License-Identifier: GPL-2.0-only
"""Invalidations that end (I17), and private pages that stay (I21)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from septum.kvm.monitors.base import Monitor
from septum.kvm.view import View
from septum.machine import Cell
from septum.machine.geometry import PAGE_SHIFT
from septum.tdx import sept

__all__ = ["AcceptedPageStays", "InvalidationsEnd"]


class InvalidationsEnd(Monitor):
    id = "I17"
    statement = "mmu_invalidate_in_progress and mn_active_invalidate_count are 0."
    judged = "settled"
    source = "facts/kvm-tdp-mmu.md 4.7, 7(b) I17; Linux kvm_mmu_invalidate_start(), ..._end()"
    example = "an error exit leaves out the end: every fault in the range retries for ever"

    def settled(self) -> None:
        in_progress = self.view.mmu_invalidate_in_progress()
        if in_progress:
            self.report(f"mmu_invalidate_in_progress is {in_progress}")
        active = self.view.mn_active_invalidate_count()
        if active:
            self.report(f"mn_active_invalidate_count is {active}")


class AcceptedPageStays(Monitor):
    id = "I21"
    statement = (
        "A page that the guest has accepted (or that was part of its initial image) is removed "
        "only by its own conversion, hole or slot deletion, or with the whole VM."
    )
    judged = "every successful TDH.MEM.PAGE.REMOVE"
    source = "facts/kvm-tdp-mmu.md 4.11, 5.5, docs/model.md; Linux guest_memfd.c"
    example = "converting one page unmaps its neighbour: the guest loses its contents"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.accepted: dict[int, Cell] = {}
        self.allowed: dict[int, Cell] = {}
        for level, gfn, raw in view.sept_entries():
            if sept.state_of(raw) == sept.State.MAPPED:
                self._accept(gfn, level)

    def _cell(self, gfn: int) -> Cell:
        cell = self.accepted.get(gfn)
        if cell is None:
            cell = self.accepted[gfn] = Cell(self.view.m, f"I21 accepted {gfn:x}", False)
        return cell

    def _range(self, gfn: int, level: int) -> range:
        pages = self.view.geometry.pages_per_level(level)
        return range(gfn & -pages, (gfn & -pages) + pages)

    def _accept(self, gfn: int, level: int) -> None:
        for page in self._range(gfn, level):
            self._cell(page).poke(True)

    def _allowed(self) -> Cell:
        """The ranges that the running task's operation may remove."""
        task = self.view.m.current.id
        cell = self.allowed.get(task)
        if cell is None:
            cell = self.allow(task, ())
        return cell

    def allow(self, task: int, ranges: tuple[tuple[int, int], ...]) -> Cell:
        """What a task may remove until it says otherwise."""
        cell = self.allowed[task] = Cell(self.view.m, f"I21 allowed {task}", ranges)
        return cell

    def on_may_remove(self, ranges: tuple[tuple[int, int], ...]) -> None:
        self._allowed().set(ranges)

    def on_guest_accepted(self, vcpu: int, gfn: int, level: int) -> None:
        self._accept(gfn, level)

    def on_seamcall(self, name: str, regs: Mapping[str, int], result: Any) -> None:
        if result.rax or name not in ("TDH.MEM.PAGE.REMOVE", "TDH.MEM.PAGE.ADD"):
            return
        gfn, level = regs["rcx"] >> PAGE_SHIFT, (regs["rcx"] & 7) + 1
        if name == "TDH.MEM.PAGE.ADD":
            self._accept(gfn, level)
            return
        ranges: tuple[tuple[int, int], ...] = self._allowed().v
        for page in self._range(gfn, level):
            cell = self._cell(page)
            if cell.peek() and not any(start <= page < end for start, end in ranges):
                self.report(f"gfn {page:x}, accepted by the guest, is removed by another's change")
            cell.poke(False)
