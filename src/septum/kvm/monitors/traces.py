# SPDX-License-Identifier: GPL-2.0-only
"""The trace says what happened to the tables (I20)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from septum.kvm.monitors.base import Monitor
from septum.kvm.spte import (
    FROZEN_SPTE,
    SHADOW_ACC_TRACK_SAVED_BITS_SHIFT,
    VMX_EPT_ACCESS_BIT,
    VMX_EPT_DIRTY_BIT,
    shadow_acc_track_mask,
)
from septum.kvm.view import SpteChange, View
from septum.machine import Cell

__all__ = ["TraceConsistency"]

_UNTRACED: Final = (
    VMX_EPT_ACCESS_BIT
    | VMX_EPT_DIRTY_BIT
    | shadow_acc_track_mask
    | (shadow_acc_track_mask & ~2) << SHADOW_ACC_TRACK_SAVED_BITS_SHIFT
)
"""A, D, W and the access-track bits: the CPU and the fast path change them without a line."""


class Due(NamedTuple):
    """A change without its line, or (``traced`` is a line's new value) an entry frozen for a
    change whose line has come already, or (``early``) a line without its change yet.
    ``exact``: a mirror entry, or the write lock."""

    task: int
    entry: str
    old: int
    new: int
    exact: bool
    untraced: int
    traced: int = -1
    early: bool = False

    def answers(self, task: int, new: int) -> bool:
        """Whether a line of ``task`` with this new value is about the change: it comes
        after it, or while the entry is frozen for it."""
        open = self.task == task and self.traced == -1 and not self.early
        return open and self.new in (new, FROZEN_SPTE)


class TraceConsistency(Monitor):
    """A line names GFN and level only, so changes wait for lines by those; which of the two
    roots of a TD a line is about follows from who writes it."""

    id = "I20"
    statement = (
        "Replaying the kvm_tdp_mmu_spte_changed lines gives the tables' contents.  Mirror "
        "entries and changes under the write lock: lines in the order of the changes, with "
        "exact old values.  Direct entries otherwise: one line per change, in any order, "
        "and A, D, W and access-track bits may differ."
    )
    judged = "settled"
    source = "facts/kvm-tdp-mmu.md 4.19, 7(b) I20, docs/model.md; Linux tdp_mmu.c"
    example = "the line's old value is the one that was hoped for, not the one replaced"
    # As I4: a hook that fails under the write lock skips line and statistics (facts 4.3).
    silenced_by_bug = True

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.due: dict[tuple[int, int], Cell] = {}
        self.broken = Cell(view.m, "I20 broken", ())

    def _cell(self, gfn: int, level: int) -> Cell:
        key = gfn & ~self.view.geometry.shared_gfn, level
        cell = self.due.get(key)
        if cell is None:
            cell = self.due[key] = Cell(self.view.m, f"I20 {key}", ())
        return cell

    def _break(self, message: str) -> None:
        self.broken.set((*self.broken.v, message))

    def on_spte(self, change: SpteChange) -> None:
        entry = change.entry
        old, new = change.old, change.new
        if old == new or not self.view.is_traced(entry.index):
            return
        mirror = entry.table.is_mirror
        name = f"{entry.table.name}[{entry.index}]"
        cell = self._cell(entry.gfn, entry.level)
        due: tuple[Due, ...] = cell.v
        if old == FROZEN_SPTE:
            for d in due:
                if (d.task, d.entry, d.new) == (change.task, name, FROZEN_SPTE):
                    cell.set(tuple(e for e in due if e is not d))
                    self._unfrozen(cell, d, new)
                    return
        untraced = 0 if mirror else _UNTRACED
        for d in due:
            if d.early and (d.task, d.new) == (change.task, new) and not (d.old ^ old) & ~untraced:
                cell.set(tuple(e for e in due if e is not d))
                return
        if (old ^ new) & ~untraced:
            exact = mirror or change.mmu_lock_write
            cell.set((*due, Due(change.task, name, old, new, exact, untraced)))

    def _unfrozen(self, cell: Cell, frozen: Due, new: int) -> None:
        """The end of freeze, hook, unfreeze: one change from the value before the freeze."""
        if frozen.traced not in (-1, new):
            self._break(f"{frozen.entry}: a line said {frozen.traced:x}, the entry became {new:x}")
        elif frozen.traced == -1 and new != frozen.old:
            cell.set((*cell.v, frozen._replace(new=new)))

    def on_trace(self, what: str, fields: Mapping[str, Any]) -> None:
        if what != "kvm_tdp_mmu_spte_changed":
            return
        cell = self._cell(fields["gfn"], fields["level"])
        due: tuple[Due, ...] = cell.v
        old, new = fields["old_spte"], fields["new_spte"]
        task = self.view.m.current.id
        d = next((d for d in due if d.answers(task, new)), None)
        if d is None:
            if (old ^ new) & ~_UNTRACED:
                name = f"gfn {fields['gfn']:x} level {fields['level']}"
                cell.set((*due, Due(task, name, old, new, False, 0, early=True)))
            return
        if (old ^ d.old) & ~d.untraced:
            self._break(f"{d.entry}: the line's old value is {old:x}, it was {d.old:x}")
        earlier = due[: due.index(d)]
        if d.exact and any(e.entry == d.entry for e in earlier):
            self._break(f"{d.entry}: a line comes before that of an earlier change")
        kept = (d._replace(traced=new),) if d.new != new else ()
        cell.set((*earlier, *kept, *due[len(earlier) + 1 :]))

    def settled(self) -> None:
        for message in self.broken.v:
            self.report(message)
        for cell in self.due.values():
            for d in cell.v:
                if d.early:
                    self.report(f"{d.entry}: a line without a change, {d.old:x} -> {d.new:x}")
                elif d.traced == -1 and d.new != FROZEN_SPTE:  # what stays frozen is I2
                    self.report(f"{d.entry}: no line for {d.old:x} -> {d.new:x}", d.entry)
