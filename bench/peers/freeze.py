# SPDX-License-Identifier: GPL-2.0-only
"""The freeze-and-propagate protocol, small: so many faults and a zap, one GFN, no tables yet.

The same steps, one by one, are in ``freeze.pml`` (Promela) and ``Freeze.tla`` (TLA+), for
``bench/peers.py``.  It is the core of v7.3's tdp_mmu_set_spte_atomic() and
tdp_mmu_set_spte() on a mirror page table, without the rest of KVM:

* a fault holds mmu_lock for read and walks from the root: it reads the entry; one that is
  FROZEN lets it drop the lock, wait until the entry is no longer frozen, and start over; one
  that is present leads down; one that is not is frozen with a cmpxchg (when lost: start
  over), the S-EPT gets its entry (which fails without the parent), the entry is unfrozen;
* the zap holds mmu_lock for write: walks down, clears the leaf, and takes it out of the S-EPT
  by BLOCK, TRACK, REMOVE;
* broken: the entry is unfrozen before the S-EPT gets its entry.

Differences: septum waits for a *write* of the frozen entry, the others for its value, and
septum runs one schedule per Mazurkiewicz trace where the others visit states.
"""

from functools import partial

from septum.explore import Protocol, Tasks
from septum.machine import Machine, RWLock, Word

LEVELS = 3
NONE, FROZEN, PRESENT = "none", "frozen", "present"


def freeze(m: Machine, *, faults: int, broken: bool = False) -> Tasks:
    """``faults`` vCPUs fault the same GFN, the host zaps its leaf."""
    mmu_lock = RWLock(m, "mmu_lock")
    mirror = [Word(m, f"mirror{n}", NONE) for n in range(LEVELS)]  # 0: the leaf
    sept = [Word(m, f"sept{n}", NONE) for n in range(LEVELS)]

    def add(level: int) -> None:
        """TDH.MEM.SEPT.ADD or PAGE.AUG: one step."""
        with m.step("SEAMCALL", f"sept{level}"):
            if level + 1 < LEVELS and sept[level + 1].read() != PRESENT:
                m.report("ORDER", f"level {level + 1} is added before its parent")
            if sept[level].read() != NONE:
                m.report("ORDER", f"level {level + 1} is added twice")
            sept[level].write(PRESENT)

    def install(level: int) -> bool:
        if not mirror[level].try_cmpxchg(NONE, FROZEN)[0]:
            return False
        if broken:
            mirror[level].write(PRESENT)
            add(level)
        else:
            add(level)
            mirror[level].write(PRESENT)
        return True

    def walk() -> bool:
        for level in reversed(range(LEVELS)):
            old = mirror[level].read()
            if old == FROZEN:
                m.blame(mirror[level])
                return False
            if old == NONE and not install(level):
                return False
        return True

    def fault() -> None:
        done = False
        while not done:
            mmu_lock.read_lock()
            done = walk()
            mmu_lock.read_unlock()
            if not done:
                m.retry("fault")

    def zap() -> None:
        mmu_lock.write_lock()
        if all(word.read() == PRESENT for word in reversed(mirror)):
            mirror[0].write(NONE)
            for call in ("BLOCK", "TRACK", "REMOVE"):
                with m.step(call, "sept0"):
                    if sept[0].read() != PRESENT:
                        m.report("ORDER", f"{call} of what is not there")
                    if call == "REMOVE":
                        sept[0].write(NONE)
        mmu_lock.write_unlock()

    def settled() -> None:
        for level in range(LEVELS):
            if mirror[level].v != sept[level].v:
                m.report("AGREE", f"level {level + 1}: {mirror[level].v}, {sept[level].v}")

    tasks = {f"vcpu{n}": fault for n in range(faults)} | {"host": zap}
    return Tasks(tasks, settled)


RULES = {
    "AGREE": "When all is quiet, mirror and S-EPT have the same entries and none is frozen.",
    "ORDER": "An S-EPT entry is added once, after its parent, and removed if it is there.",
}
PROTOCOLS = [
    Protocol("right", partial(freeze, faults=2), rules=RULES, cells_only=True),
    Protocol("broken", partial(freeze, faults=2, broken=True), rules=RULES, cells_only=True),
]
