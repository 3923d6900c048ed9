# SPDX-License-Identifier: GPL-2.0-only
"""Locks taken and dropped by "another agent": how vectors and shells make contention.

Sequential mode only.  The lock words shown are those of the module's memory; for an
S-EPT entry bit 0 is the lock and bit 1 host priority.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from septum.machine.memory import Word
from septum.tdx.locks import Mutex8, ShareX, ShareXHp
from septum.tdx.module import TdxModule
from septum.tdx.sept import HP_BIT, LOCK_BIT
from septum.tdx.tree import OK

__all__ = ["Locks"]


class Locks:
    """Lock operations on the locks of one TD and the platform's."""

    def __init__(self, module: TdxModule, tdr: int) -> None:
        self.module = module
        self.td = module.td(tdr)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """One operation: ``lock``, ``op`` acquire or release, ``mode`` and the lock's
        address; returns ``ok`` and the words ``before`` and ``after``."""
        which, acquire = inputs["lock"], inputs["op"] == "acquire"
        exclusive = inputs.get("mode") == "exclusive"
        if which == "sept-entry":
            return self._entry(inputs, acquire)
        if which == "pamt-walk":
            return self._walk(_int(inputs["hpa"]), inputs["size"], acquire, exclusive)
        lock = self._lock(which, inputs)
        before = [hex(lock.raw)]
        ok = True
        if isinstance(lock, Mutex8):
            if acquire:
                ok = lock.acquire()
            else:
                lock.release()
        elif acquire:
            ok = lock.acquire(exclusive)
        else:
            lock.release(exclusive)
        return {"ok": int(ok), "before": before, "after": [hex(lock.raw)]}

    def _lock(self, which: str, inputs: Mapping[str, Any]) -> ShareX | Mutex8:
        if which == "sept-tree":
            return self.td.tree
        if which == "td-epoch":
            return self.td.epoch_lock
        if which == "op-state":
            return self.td.op_lock
        if which == "kot":
            return self.module.kot.lock
        if which == "wbcache":
            package: int = inputs["pkg"]
            return self.module.kot.wbcache[package]
        if which == "pamt":
            return self.module.pamt.entry(_int(inputs["hpa"]), inputs["size"]).lock
        raise ValueError(f"unknown lock {which!r}")

    def _walk(self, hpa: int, size: int, acquire: bool, exclusive: bool) -> dict[str, Any]:
        """1G and 2M shared, then the entry of ``size`` in the wanted mode."""
        entries = [self.module.pamt.entry(hpa, at) for at in (2, 1, 0) if at >= size]
        before = [hex(e.lock.raw) for e in entries]
        plan = [(e.lock, exclusive and e.size == size) for e in entries]
        ok = True
        if acquire:
            taken: list[tuple[ShareXHp, bool]] = []
            for lock, excl in plan:
                if not lock.acquire(excl):
                    ok = False
                    break
                taken.append((lock, excl))
            if not ok:
                for lock, excl in reversed(taken):
                    lock.release(excl)
        else:
            for lock, excl in reversed(plan):
                lock.release(excl)
        return {"ok": int(ok), "before": before, "after": [hex(e.lock.raw) for e in entries]}

    def _entry(self, inputs: Mapping[str, Any], acquire: bool) -> dict[str, Any]:
        sept = self.module.sept
        spot = sept.peek(self.td.root, _int(inputs["gpa"]), inputs["level"])
        before = [_word(spot.word)]
        ok = spot.level == inputs["level"]
        if ok and not acquire:
            sept.unlock(spot.word)
        elif ok and inputs["agent"] == "host":
            ok = sept.lock_host(spot.word)[0]
        elif ok:
            ok = sept.lock_guest(spot.word)[0] == OK
        return {"ok": int(ok), "before": before, "after": [_word(spot.word)]}


def _word(word: Word) -> str:
    return hex(int(bool(word.v & LOCK_BIT)) | 2 * bool(word.v & HP_BIT))


def _int(value: str | int) -> int:
    return int(value, 16) if isinstance(value, str) else value
