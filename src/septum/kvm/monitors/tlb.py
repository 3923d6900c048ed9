# SPDX-License-Identifier: GPL-2.0-only
"""Cached translations: I7.

A CPU may have cached a translation if it could walk it at some time since its last flush
while a vCPU ran there in the guest.  Nothing here looks at what the guest did access: CPUs
walk speculatively.  What hangs in direct roots (all of an ordinary VM, a TD's shared half)
is followed walk by walk, in the root that the vCPU has loaded: pages, and the tables on the
way, which CPUs cache as well.  For private pages the TDX Module's epochs say the same: a
vCPU that entered in the epoch of the BLOCK, or before, may have the page cached.

A page is handed over by whoever took it from the guest; a removed table may be freed as soon
as its remover leaves the RCU section in which it did so.  A page that is mapped to the same
PFN by a smaller or larger leaf is still mapped, whoever has cached the other one.  Access
and dirty bits, and W that is cleared for a dirty log, are not I7's (I22).
"""

from __future__ import annotations

from typing import NamedTuple

from septum.kvm.monitors.base import Monitor
from septum.kvm.view import Translation, View
from septum.machine import Cell
from septum.machine.geometry import PAGE_SHIFT
from septum.tdx import sept

__all__ = ["NoStaleTranslation"]


class Inside(NamedTuple):
    """A vCPU in the guest: its TDVPR's HPA (0: an ordinary VM's) and its direct root."""

    vcpu: int
    root: str


class NoStaleTranslation(Monitor):
    id = "I7"
    statement = (
        "No vCPU uses a translation to a page after the invalidation that removed it is "
        "completed, nor one through a table that may be freed: at the hand-over no vCPU in the "
        "guest may have it cached, and none enters later without a flush."
    )
    judged = (
        "the hand-over (notifier's start returned, ioctl returned, before pages are truncated; "
        "private pages: PAGE.REMOVE; tables: their remover's rcu_read_unlock()), every entry "
        "into the guest, every guest access"
    )
    source = (
        "facts/kvm-tdp-mmu.md 4.16, 4.17, 5.3, 5.6, 7(a) I7; facts/tdx-module.md 5; "
        "docs/model.md; Linux recover_huge_pages_range(), kvm_recover_nx_huge_pages()"
    )
    example = "an invalidation returns without kvm_flush_remote_tlbs()"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        m = view.m
        # Who is in the guest on each CPU, and what the CPU may have cached.
        self.guest = {lp: Cell(m, f"I7 guest {lp}", None) for lp in view.lps()}
        self.cached = {lp: Cell(m, f"I7 cached {lp}", frozenset()) for lp in view.lps()}
        self.live: dict[Translation, Cell] = {}
        self.walkable = Cell(m, "~I7 walkable", frozenset())  # those whose cell is true
        self.version = Cell(m, "I7 version", 0)  # changes with every cell of `live`
        self.removed: dict[int, Cell] = {}  # by task: what it has yet to hand over
        self.gone = Cell(m, "I7 handed over", frozenset())
        self._begin()

    def _begin(self) -> None:
        """What could be walked before the start may be cached everywhere."""
        known: set[Translation] = set()
        for entry in self.view.entries():
            if not entry.table.is_mirror:
                known |= self.view.walks(entry, entry.value)
        for translation in known:
            self._live(translation).set(True)
        self.walkable.set(frozenset(known))
        for cached in self.cached.values():
            cached.set(frozenset(known))

    # --- what can be walked -------------------------------------------------------------

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

    def on_walks(self, gained: frozenset[Translation], lost: frozenset[Translation]) -> None:
        for translation in sorted(gained):
            self._live(translation).poke(True)
        if gained:
            self.walkable.set(self.walkable.v | gained)
        if lost:
            self._disappear(lost)
        self.version.bump(1)

    def _disappear(self, gone: frozenset[Translation]) -> None:
        """Until now every vCPU in the guest could walk them."""
        for translation in sorted(gone):
            self._live(translation).poke(False)
        self.walkable.set(self.walkable.v - gone)
        for lp, guest in self.guest.items():
            inside: Inside | None = guest.peek()
            if inside is not None:
                walked = {t for t in gone if t.root == inside.root}
                if walked:
                    cached = self.cached[lp]
                    cached.poke(cached.v | walked)
        mine = self._mine()
        mine.set(mine.v | gone)

    def on_sept(self, tdr: int, table_hpa: int, index: int, old: int, new: int) -> None:
        """PAGE.REMOVE hands a private page over."""
        if sept.state_of(new) != sept.State.FREE or not sept.is_leaf(old):
            return
        pfn = sept.hpa_of(old) >> PAGE_SHIFT
        blocked_in = self.view.block_epoch(pfn)
        for lp, guest in self.guest.items():
            inside: Inside | None = guest.peek()
            if inside is not None and self.view.vcpu_epoch(inside.vcpu) <= blocked_in:
                self.report(
                    f"private page {pfn:x} is given up while the vCPU on CPU {lp} is in the guest "
                    "since before it was blocked"
                )

    # --- who may have it ------------------------------------------------------------------

    def on_td_enter(self, vcpu: int, lp: int) -> None:
        self._enter(Inside(vcpu, self.view.vcpu_root(vcpu)), lp)

    def on_vm_enter(self, root: str, lp: int) -> None:
        self._enter(Inside(0, root), lp)

    def on_td_exit(self, vcpu: int, lp: int) -> None:
        self._exit(lp)

    def on_vm_exit(self, lp: int) -> None:
        self._exit(lp)

    def _exit(self, lp: int) -> None:
        self.version.peek()
        inside: Inside | None = self.guest[lp].v
        if inside is not None:
            walked = {t for t in self.walkable.v if t.root == inside.root}
            self.cached[lp].poke(self.cached[lp].v | walked)
        self.guest[lp].poke(None)

    def on_tlb_flush(self, vcpu: int, lp: int) -> None:
        self.cached[lp].poke(frozenset())

    def on_tlb_flush_shared(self, lp: int) -> None:
        self.cached[lp].poke(frozenset())

    # --- judging ----------------------------------------------------------------------------

    def on_handed_over(self) -> None:
        self._give_up(table=False)

    def on_rcu_read_unlock(self) -> None:
        """A grace period may end now."""
        self._give_up(table=True)

    def _give_up(self, table: bool) -> None:
        mine = self._mine()
        given: frozenset[Translation] = frozenset(t for t in mine.v if t.table == table)
        if given:
            mine.set(mine.v - given)
            self._hand_over(given)

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

    def _enter(self, inside: Inside, lp: int) -> None:
        self.guest[lp].poke(inside)
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
    root, gfn, pfn, table = translation
    what = f"the table {pfn:x} from gfn {gfn:x} on" if table else f"gfn {gfn:x} to page {pfn:x}"
    return f"{what} of the direct root {root}"
