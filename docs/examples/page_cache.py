# SPDX-License-Identifier: GPL-2.0-only
"""A per-VM cache of pages: check, drop the lock, top up, retake, recheck, consume."""

from functools import partial

from septum.explore import Protocol, Tasks
from septum.machine import Machine, RWLock, Word


def page_cache(m: Machine, *, recheck: bool, shared: bool) -> Tasks:
    """Two vCPUs fault, each takes a page from the cache that both fill."""
    mmu_lock = RWLock(m, "mmu_lock")
    cached = Word(m, "cached", 0)
    lock = mmu_lock.read_lock if shared else mmu_lock.write_lock
    unlock = mmu_lock.read_unlock if shared else mmu_lock.write_unlock

    def fault() -> None:
        lock()
        while cached.read() < 1:
            unlock()
            cached.add(1)  # allocating may sleep: not under the lock
            lock()
            if not recheck:
                break
        if cached.fetch_add(-1) < 1:
            m.report("EMPTY", "a page is taken from an empty cache")
        unlock()

    return Tasks({"vcpu0": fault, "vcpu1": fault})


RULES = {"EMPTY": "Whoever takes a page finds one."}
PROTOCOLS = [
    Protocol("no-recheck", partial(page_cache, recheck=False, shared=False), rules=RULES),
    Protocol("shared", partial(page_cache, recheck=True, shared=True), rules=RULES),
    Protocol("exclusive", partial(page_cache, recheck=True, shared=False), rules=RULES),
]
