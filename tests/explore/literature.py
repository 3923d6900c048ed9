# SPDX-License-Identifier: GPL-2.0-only
"""Programs of the literature on partial-order reduction, with their numbers of traces.

`COUNTS` are goldens: what one execution per trace must come to.  Where a formula is given
it is derived in the comment; the smaller sizes are confirmed by enumerating every
interleaving (tests/explore/test_literature.py).
"""

from __future__ import annotations

from collections.abc import Callable

from programs import file_system, indexer, last_zero, readers

from septum.explore import MachineProgram
from septum.machine import Machine, RWLock, SpinLock, Word
from septum.machine.sync import wait_until

__all__ = ["COUNTS"]

Body = Callable[[], None]
Make = Callable[[int], MachineProgram]


def writers(n: int) -> MachineProgram:
    """n writers of one word: n! orders."""
    m = Machine()
    x = Word(m, "x", 0)
    return MachineProgram(m, [(f"w{i}", lambda i=i: x.write(i)) for i in range(n)])  # type: ignore[misc]


def adders(n: int) -> MachineProgram:
    """n atomic additions whose result nobody uses: they commute, 1 trace."""
    m = Machine()
    x = Word(m, "x", 0)
    return MachineProgram(m, [(f"a{i}", lambda: x.add(1)) for i in range(n)])


def floating_read(n: int) -> MachineProgram:
    """n writers and one reader of one word.  The reader falls in one of n + 1 places of
    each of the n! orders of the writes: (n + 1)! traces (the observers that make them
    fewer are another equivalence: Aronis, Jonsson, Lang, Sagonas, TACAS 2018)."""
    m = Machine()
    x = Word(m, "x", 0)
    bodies: list[tuple[str, Body]] = [(f"w{i}", lambda i=i: x.write(i)) for i in range(n)]  # type: ignore[misc]
    return MachineProgram(m, [*bodies, ("r", lambda: (x.read(), None)[1])])


def ring(n: int) -> MachineProgram:
    """Task i writes word i and reads word i + 1: each of n pairs (write, read) in two
    orders, all of them but the one that is a cycle: 2**n - 1."""
    m = Machine()
    x = [Word(m, f"x{i}", 0) for i in range(n)]

    def body(i: int) -> Body:
        def run() -> None:
            x[i].write(1)
            x[(i + 1) % n].read()

        return run

    return MachineProgram(m, [(f"t{i}", body(i)) for i in range(n)])


def critical_sections(n: int) -> MachineProgram:
    """n tasks take one lock once: n! orders."""
    m = Machine()
    lock, x = SpinLock(m, "L"), Word(m, "x", 0)

    def body() -> None:
        lock.lock()
        x.write(x.read() + 1)
        lock.unlock()

    return MachineProgram(m, [(f"t{i}", body) for i in range(n)])


def two_locks(n: int) -> MachineProgram:
    """n tasks take two locks, one after the other: (n!)**2 pairs of orders."""
    m = Machine()
    a, b = SpinLock(m, "A"), SpinLock(m, "B")

    def body() -> None:
        a.lock()
        a.unlock()
        b.lock()
        b.unlock()

    return MachineProgram(m, [(f"t{i}", body) for i in range(n)])


def ticket_lock(n: int) -> MachineProgram:
    """A ticket lock whose waiters await their number: the tickets' order is all, n!."""
    m = Machine()
    nxt, owner = Word(m, "next", 0), Word(m, "owner", 0)

    def body() -> None:
        mine = nxt.fetch_add(1)
        wait_until(owner, lambda v: v == mine, "ticket")
        owner.write(mine + 1)

    return MachineProgram(m, [(f"t{i}", body) for i in range(n)])


def page_table(n: int) -> MachineProgram:
    """n faults at different GFNs under one root: each reads the shared upper entry and sets
    a leaf of its own.  Reads commute and the leafs differ, so there is 1 trace."""
    m = Machine()
    upper = Word(m, "upper", 1)
    leafs = [Word(m, f"leaf{i}", 0) for i in range(n)]

    def fault(i: int) -> Body:
        def body() -> None:
            if upper.read():
                leafs[i].try_cmpxchg(0, 1)

        return body

    return MachineProgram(m, [(f"t{i}", fault(i)) for i in range(n)])


def same_leaf(n: int) -> MachineProgram:
    """n faults at one GFN: who wins the cmpxchg is all that differs, for the losers' failed
    ones are reads: n traces."""
    m = Machine()
    upper, leaf = Word(m, "upper", 1), Word(m, "leaf", 0)

    def body() -> None:
        upper.read()
        leaf.try_cmpxchg(0, 1)

    return MachineProgram(m, [(f"t{i}", body) for i in range(n)])


def levels_under_lock(n: int) -> MachineProgram:
    """n tasks change two levels each with mmu_lock held for write, at different GFNs: only
    the order of the sections differs, n!."""
    m = Machine()
    lock = RWLock(m, "mmu_lock")
    entries = [(Word(m, f"upper{i}", 0), Word(m, f"leaf{i}", 0)) for i in range(n)]

    def change(i: int) -> Body:
        def body() -> None:
            lock.write_lock()
            for entry in entries[i]:
                entry.write(1)
            lock.write_unlock()

        return body

    return MachineProgram(m, [(f"t{i}", change(i)) for i in range(n)])


def levels_under_shared_lock(n: int) -> MachineProgram:
    """The same with mmu_lock held for read: sections and entries commute, 1 trace."""
    m = Machine()
    lock = RWLock(m, "mmu_lock")
    entries = [(Word(m, f"upper{i}", 0), Word(m, f"leaf{i}", 0)) for i in range(n)]

    def change(i: int) -> Body:
        def body() -> None:
            lock.read_lock()
            for entry in entries[i]:
                entry.try_cmpxchg(0, 1)
            lock.read_unlock()

        return body

    return MachineProgram(m, [(f"t{i}", change(i)) for i in range(n)])


def producers(n: int) -> MachineProgram:
    """n producers add to a counter, one consumer waits until all have: 1 trace."""
    m = Machine()
    done = Word(m, "done", 0)
    bodies: list[tuple[str, Body]] = [(f"p{i}", lambda: done.add(1)) for i in range(n)]
    return MachineProgram(m, [*bodies, ("c", lambda: wait_until(done, lambda v: v == n, "all"))])


def barrier(n: int) -> MachineProgram:
    """n tasks count themselves in and wait for all: the order of arrival, n!."""
    m = Machine()
    count = Word(m, "count", 0)

    def body() -> None:
        count.fetch_add(1)
        wait_until(count, lambda v: v == n, "barrier")

    return MachineProgram(m, [(f"t{i}", body) for i in range(n)])


COUNTS: list[tuple[Make, dict[int, int]]] = [
    (readers, {2: 4, 5: 32, 8: 256}),
    (last_zero, {5: 64, 7: 320}),
    (file_system, {14: 2, 16: 8, 18: 32}),
    (indexer, {11: 1, 12: 8}),
    (writers, {2: 2, 4: 24, 5: 120}),
    (adders, {5: 1}),
    (floating_read, {2: 6, 3: 24, 4: 120}),
    (ring, {2: 3, 3: 7, 5: 31, 7: 127}),
    (critical_sections, {2: 2, 4: 24, 5: 120}),
    (two_locks, {2: 4, 3: 36}),
    (ticket_lock, {2: 2, 3: 6, 4: 24}),
    (page_table, {2: 1, 5: 1}),
    (same_leaf, {2: 2, 5: 5}),
    (levels_under_lock, {2: 2, 4: 24}),
    (levels_under_shared_lock, {2: 1, 4: 1}),
    (producers, {2: 1, 5: 1}),
    (barrier, {2: 2, 3: 6, 4: 24}),
]
