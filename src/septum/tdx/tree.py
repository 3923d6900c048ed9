# SPDX-License-Identifier: GPL-2.0-only
"""The Secure-EPT of a TD as pages of entries: walks, entry locks.

A walk samples each entry once and unlocked: every read is a scheduling point.  It
ignores lock bits, so it passes through a locked parent (facts/tdx-module.md section
2.5).  The entry lock is bit 11 of the entry, shared by host and guest; bit 52 is its
host-priority flag (section 4.1).

Source: ``secure_ept_walk()`` in ``src/common/memory_handlers/sept_manager.c``,
``src/common/helpers/tdx_locks.h``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from septum.machine import Machine
from septum.machine.dependency import READ, WRITE
from septum.machine.geometry import PAGE_SHIFT, Geometry
from septum.machine.memory import FREED, LIVE, Page, Word
from septum.tdx.sept import (
    FREE,
    HP_BIT,
    LOCK_BIT,
    PS,
    RWX,
    State,
    hpa_of,
    state_of,
)

__all__ = ["HOST_PRIORITY", "LOCKED", "OK", "Sept", "Spot", "sept_page_of"]

OK = "ok"
LOCKED = "locked"
HOST_PRIORITY = "host-priority"


class Spot(NamedTuple):
    """Where a walk ended: the entry's word, the sample of it, the (TDX) level."""

    word: Word
    raw: int
    level: int


class Sept:
    """All S-EPT pages of the machine, by HPA (each belongs to at most one TD)."""

    def __init__(self, m: Machine, geometry: Geometry) -> None:
        self.m = m
        self.geometry = geometry
        self.top = geometry.levels - 1
        self._pages: dict[int, Page] = {}

    def page(self, hpa: int) -> Page:
        """The S-EPT page at ``hpa`` (its content means something only while in use)."""
        page = self._pages.get(hpa)
        if page is None:
            page = Page(self.m, f"SEPT {hpa:#x}", self.geometry.entries, FREE, owner=hpa)
            self._pages[hpa] = page
        return page

    def prepare(self, hpa: int) -> Page:
        """Fill a page with FREE entries; nobody can reach it yet."""
        page = self.page(hpa)
        if page.v == FREED:
            # A late reader through a stale pointer must be ordered with this.
            for i in range(page.size):
                self.m.acc.append((f"{page.name}[{i}]", WRITE))
            page.set(LIVE)
        for word in page.made():
            if word.v != FREE:
                word.init(FREE)
        return page

    def retire(self, hpa: int) -> None:
        """The page is no S-EPT page any more: a later access to it is finding I6."""
        page = self.page(hpa)
        if page.v is LIVE:
            page.free()

    def word(self, table: int, gpa: int, level: int) -> Word:
        """The entry of ``gpa`` in the table page at HPA ``table``, of TDX level ``level``."""
        return self.page(table).word(self.geometry.index(gpa >> PAGE_SHIFT, level + 1))

    # --- walking ---------------------------------------------------------------------

    def walk_to(self, root: int, gpa: int, want: int) -> tuple[Word | None, Spot | None]:
        """Read down to *above* ``want``: the addressed entry's word (not yet read), or
        the `Spot` at which the walk stopped."""
        level = self.top
        table = root
        while level != want:
            word = self.word(table, gpa, level)
            raw = word.read()
            if not raw & RWX or raw & PS:
                return None, Spot(word, raw, level)
            table = hpa_of(raw)
            level -= 1
        return self.word(table, gpa, level), None

    def walk(self, root: int, gpa: int, want: int) -> Spot:
        """Read down to ``want``, or to where the walk stops above it."""
        word, stop = self.walk_to(root, gpa, want)
        if stop is not None:
            return stop
        assert word is not None
        return Spot(word, word.read(), want)

    def peek(self, root: int, gpa: int, want: int) -> Spot:
        """As `walk` within the current event: for monitors and dumps."""
        m = self.m
        level = self.top
        table = root
        while True:
            word = self.word(table, gpa, level)
            m.acc.append((word.name, READ))
            raw = word.v
            if level == want or not raw & RWX or raw & PS:
                return Spot(word, raw, level)
            table = hpa_of(raw)
            level -= 1

    # --- entry locks -------------------------------------------------------------------

    def lock_host(self, word: Word) -> tuple[bool, int]:
        """Host: set bit 11; if it was set, set HP and fail.  Success clears HP."""
        m = self.m
        with m.step("lock entry", word.name):
            raw: int = word.read()
            if raw & LOCK_BIT:
                if not raw & HP_BIT:
                    self._mark(word, raw | HP_BIT)
                m.blame(word)
                return False, raw
            self._mark(word, (raw | LOCK_BIT) & ~HP_BIT)
            return True, raw & ~HP_BIT

    def lock_guest(self, word: Word) -> tuple[str, int]:
        """Guest: fail on bit 11; fail and release if a host has priority."""
        m = self.m
        with m.step("lock entry", word.name):
            raw: int = word.read()
            if raw & LOCK_BIT:
                m.blame(word)
                return LOCKED, raw
            if raw & HP_BIT:
                m.blame(word)
                return HOST_PRIORITY, raw
            self._mark(word, raw | LOCK_BIT)
            return OK, raw

    def unlock(self, word: Word) -> None:
        """Error path: clear bit 11 only, so an HP flag set meanwhile survives."""
        with self.m.step("unlock entry", word.name):
            word.write(word.read() & ~LOCK_BIT)

    def _mark(self, word: Word, raw: int) -> None:
        """Change lock bits.  Not a change that a waiter awaits: that is the release."""
        m = self.m
        m.acc.append((word.name, WRITE))
        m.journal.append((word, word.v, word.wseq))
        word.v = raw

    # --- whole trees -------------------------------------------------------------------

    def entries(self, root: int, *, through_blocked: bool = True) -> Iterator[tuple[int, int, int]]:
        """Every non-FREE entry reachable from ``root``: (gpa, level, raw), by GPA, top
        down; also through blocked tables."""
        yield from self._entries(root, self.top, 0, through_blocked)

    def _entries(
        self, table: int, level: int, gpa: int, through_blocked: bool
    ) -> Iterator[tuple[int, int, int]]:
        words = self.page(table).words
        span = self.geometry.bytes_per_level(level + 1)
        for index in sorted(words):
            raw = words[index].v
            state = state_of(raw)
            if state is State.FREE and not raw & (LOCK_BIT | HP_BIT):
                continue
            at = gpa + index * span
            yield at, level, raw
            down = state is State.NL_MAPPED or (through_blocked and state is State.NL_BLOCKED)
            if level and down:
                yield from self._entries(hpa_of(raw), level - 1, at, through_blocked)


def sept_page_of(word: Word) -> int:
    """HPA of the table that holds the entry."""
    assert word.page is not None
    return int(word.page.owner)
