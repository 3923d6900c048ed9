# SPDX-License-Identifier: GPL-2.0-only
"""The module's locks: tried, never waited for (facts/tdx-module.md section 4.1).

=============  ==========================  ====================================
kind           used for                    host priority (HP)
=============  ==========================  ====================================
`ShareX`       S-EPT tree, TD epoch, KOT   none
`ShareXHp`     PAMT entries, OP_STATE      a failing host sets it, a succeeding
                                           host clears it, release keeps it
`Mutex8`       CACHE.WB, one per package   none
entry lock     bit 11 of each S-EPT entry  bit 52 of the entry (`septum.tdx.tree`)
=============  ==========================  ====================================

Every operation is one scheduling point, unless the caller has put several into one
`Machine.step`.  HP lives in a cell of its own, so that successful shared acquisitions
commute while it is clear.  A failed shared attempt leaves its reader increment in the
real word until the exclusive holder releases; nobody can observe it, so it is left out.

Source: ``src/common/helpers/tdx_locks.h``.
"""

from __future__ import annotations

from septum.machine import Cell, Machine
from septum.machine.dependency import EXCL_REL, FAIL_EXCL, TRY_EXCL
from septum.machine.sync import TryLock

__all__ = ["Mutex8", "ShareX", "ShareXHp"]


class ShareX(TryLock):
    """A 16-bit sharex lock: bit 0 exclusive, bits 15:1 readers."""

    __slots__ = ()

    def acquire(self, exclusive: bool) -> bool:
        """Try once; whether it was got."""
        with self.m.step("try_excl" if exclusive else "try_shared", self.name):
            return self.try_excl() if exclusive else self.try_shared()

    def release(self, exclusive: bool) -> None:
        with self.m.step("drop_excl" if exclusive else "drop_shared", self.name):
            if exclusive:
                self.drop_excl()
            else:
                self.drop_shared()

    @property
    def raw(self) -> int:
        """The lock word as the module's memory holds it."""
        excl, readers = self.v
        return 1 if excl else int(readers) << 1


class ShareXHp(ShareX):
    """A 16-bit sharex lock with host priority: bit 0 exclusive, 1 HP, 15:2 readers."""

    __slots__ = ("hp",)

    def __init__(self, m: Machine, name: str) -> None:
        super().__init__(m, name)
        self.hp = Cell(m, f"{name}.hp", False)

    def acquire(self, exclusive: bool) -> bool:
        with self.m.step("try_excl" if exclusive else "try_shared", self.name):
            ok = self.try_excl() if exclusive else self.try_shared()
            self._priority(not ok)
            return ok

    def upgrade(self) -> bool:
        """Shared to exclusive: needs to be the only reader."""
        m = self.m
        with m.step("upgrade", self.name):
            ok = bool(self.v == (False, 1))
            if ok:
                self._take((True, 0), TRY_EXCL)
            else:
                self._fail(FAIL_EXCL)
            self._priority(not ok)
            return ok

    def _priority(self, wanted: bool) -> None:
        """Set or clear HP; nothing to order while it stays as it is."""
        if self.hp.v is not wanted:
            self.hp.poke(wanted)

    @property
    def raw(self) -> int:
        excl, readers = self.v
        word = 1 if excl else int(readers) << 2
        return word | 2 if self.hp.v else word


class Mutex8(TryLock):
    """An 8-bit mutex: 0 free, 1 held."""

    __slots__ = ()

    def acquire(self) -> bool:
        with self.m.step("try_mutex", self.name):
            return self.try_excl()

    def release(self) -> None:
        with self.m.step("drop_mutex", self.name):
            self._take((False, 0), EXCL_REL)
            self.wseq = self.m.seq

    @property
    def raw(self) -> int:
        return int(self.v[0])
