# SPDX-License-Identifier: GPL-2.0-only
"""Cached translations: I7.

A CPU may have cached a translation if it could walk it at some time since its last flush
while a vCPU ran there in the guest.  Nothing here looks at what the guest did access: CPUs
walk speculatively.  Shared translations are followed walk by walk, in the direct root that
the vCPU has loaded.  For private ones the TDX Module's epochs say the same: a vCPU that
entered in the epoch of the BLOCK, or before, may have the page cached.
"""

from __future__ import annotations

from septum.kvm.monitors.base import Monitor
from septum.kvm.spte import is_last_spte, is_shadow_present_pte, spte_to_pfn
from septum.kvm.view import SpteChange, View
from septum.machine import Cell
from septum.machine.geometry import PAGE_SHIFT
from septum.tdx import sept

__all__ = ["NoStaleTranslation"]

Translation = tuple[str, int, int, int]
"""(name of the direct root, GFN, level, PFN)."""


class NoStaleTranslation(Monitor):
    id = "I7"
    statement = (
        "No vCPU uses a translation to a page after the invalidation that removed it is "
        "completed: at the hand-over no vCPU in the guest may have it cached, and none enters "
        "later without a flush."
    )
    judged = (
        "the hand-over (notifier's start returned, ioctl returned, before pages are truncated; "
        "private pages: PAGE.REMOVE), every TDH.VP.ENTER, every guest access"
    )
    source = "facts/kvm-tdp-mmu.md 5.3, 5.6, 7(a) I7; facts/tdx-module.md 5; design.md Judging I7"
    example = "an invalidation returns without kvm_flush_remote_tlbs()"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        m = view.m
        # Who is in the guest on each CPU, and what the CPU may have cached.
        self.guest = {lp: Cell(m, f"I7 guest {lp}", None) for lp in view.lps()}
        self.cached = {lp: Cell(m, f"I7 cached {lp}", frozenset()) for lp in view.lps()}
        self.live: dict[Translation, Cell] = {}
        self.version = Cell(m, "I7 version", 0)  # changes with every cell of `live`
        self.removed: dict[int, Cell] = {}  # by task: what it has yet to hand over
        self.gone = Cell(m, "I7 handed over", frozenset())
        self._begin()

    def _begin(self) -> None:
        """What could be walked before the start may be cached everywhere."""
        known = []
        for entry in self.view.entries():
            if not entry.table.is_mirror and self._is_leaf(entry.value, entry.level):
                pfn = spte_to_pfn(entry.value)
                known.append((entry.table.root, entry.gfn, entry.level, pfn))
        for translation in known:
            self._live(translation).set(True)
        for cached in self.cached.values():
            cached.set(frozenset(known))

    # --- what can be walked -------------------------------------------------------------

    @staticmethod
    def _is_leaf(value: int, level: int) -> bool:
        return is_shadow_present_pte(value) and is_last_spte(value, level)

    def _live(self, translation: Translation) -> Cell:
        cell = self.live.get(translation)
        if cell is None:
            cell = self.live[translation] = Cell(self.view.m, f"I7 live {translation}", False)
        return cell

    def _mine(self) -> Cell:
        task = self.view.m.current.id
        cell = self.removed.get(task)
        if cell is None:
            cell = self.removed[task] = Cell(self.view.m, f"I7 removed {task}", frozenset())
        return cell

    def _walkable(self, vcpu: int, translation: Translation) -> bool:
        return translation[0] == self.view.vcpu_root(vcpu)

    def _appears(self, translation: Translation) -> None:
        self._live(translation).poke(True)
        self.version.bump(1)

    def _disappears(self, translation: Translation) -> None:
        """Until now every vCPU in the guest could walk it."""
        self._live(translation).poke(False)
        self.version.bump(1)
        for lp, guest in self.guest.items():
            vcpu = guest.peek()
            if vcpu is not None and self._walkable(vcpu, translation):
                cached = self.cached[lp]
                cached.poke(cached.v | {translation})
        mine = self._mine()
        mine.set(mine.v | {translation})

    def on_spte(self, change: SpteChange) -> None:
        table, level, gfn = change.entry.table, change.entry.level, change.entry.gfn
        if table.is_mirror:
            return
        was, now = self._is_leaf(change.old, level), self._is_leaf(change.new, level)
        old, new = spte_to_pfn(change.old), spte_to_pfn(change.new)
        if was and not (now and old == new):
            self._disappears((table.root, gfn, level, old))
        if now and not (was and old == new):
            self._appears((table.root, gfn, level, new))

    def on_sept(self, tdr: int, table_hpa: int, index: int, old: int, new: int) -> None:
        """PAGE.REMOVE hands a private page over."""
        if sept.state_of(new) != sept.State.FREE or not sept.is_leaf(old):
            return
        pfn = sept.hpa_of(old) >> PAGE_SHIFT
        blocked_in = self.view.block_epoch(pfn)
        for lp, guest in self.guest.items():
            vcpu = guest.peek()
            if vcpu is not None and self.view.vcpu_epoch(vcpu) <= blocked_in:
                self.report(
                    f"private page {pfn:x} is given up while the vCPU on CPU {lp} is in the guest "
                    "since before it was blocked"
                )

    # --- who may have it ------------------------------------------------------------------

    def on_td_exit(self, vcpu: int, lp: int) -> None:
        self.version.peek()
        walked = {t for t, cell in self.live.items() if cell.v and self._walkable(vcpu, t)}
        self.cached[lp].poke(self.cached[lp].v | walked)
        self.guest[lp].poke(None)

    def on_tlb_flush(self, vcpu: int, lp: int) -> None:
        self.cached[lp].poke(frozenset())

    def on_tlb_flush_shared(self, lp: int) -> None:
        self.cached[lp].poke(frozenset())

    # --- judging ----------------------------------------------------------------------------

    def on_handed_over(self) -> None:
        mine = self._mine()
        translations: frozenset[Translation] = mine.v
        mine.set(frozenset())
        self._hand_over(translations)

    def _hand_over(self, translations: frozenset[Translation]) -> None:
        stale = {t for t in translations if not self._live(t).peek()}
        if not stale:
            return
        self.gone.poke(self.gone.v | stale)
        for lp, guest in self.guest.items():
            if guest.peek() is not None:
                for translation in sorted(stale & self.cached[lp].peek()):
                    self.report(
                        f"{_text(translation)} is given up while the vCPU on CPU {lp} is in the "
                        "guest and may have it cached"
                    )

    def on_td_enter(self, vcpu: int, lp: int) -> None:
        self.guest[lp].poke(vcpu)
        for translation in sorted(self.cached[lp].peek() & self.gone.peek()):
            if not self._live(translation).peek():
                self.report(
                    f"a vCPU enters the guest on CPU {lp}, which may have cached "
                    f"{_text(translation)}, given up since"
                )

    def on_guest_access(self, vcpu: int, gfn: int, pfn: int, op: str) -> None:
        if self.view.page_is_free(pfn):
            self.report(f"the guest on vCPU {vcpu} uses page {pfn:x}, which the host has back")


def _text(translation: Translation) -> str:
    root, gfn, _, pfn = translation
    return f"gfn {gfn:x} to page {pfn:x} of the direct root {root}"
