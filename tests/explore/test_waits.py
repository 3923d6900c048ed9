# SPDX-License-Identifier: GPL-2.0-only
"""Waits for a word's value and for locks, where the other order takes more than one step.

* A change of a word inside a larger step has no value of its own in the log; an explorer that
  overlooks it takes the wait for one that had to come later, and loses the other order.
* A sequence that is planned must be able to run: readers may keep a lock because their
  releases depend on the very step that is to come later, and all of them must then come later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from traces import trace_of

from septum.explore import MachineProgram, Options, search
from septum.machine import SRCU, Machine, RWLock, Word, wait_until

SENT = 1


def kick(changed_in: str) -> MachineProgram:
    """A target closes its window (IRQs off), a kicker sends an IPI if the window is closed
    and waits until it was taken; a flag that the kicker sets meanwhile is seen or not."""
    m = Machine()
    ipi, flag = Word(m, "ipi", 0), Word(m, "flag", 0)
    name = {"own": ipi.name, "other": "window"}[changed_in]

    def target() -> None:
        with m.step("window", name):
            ipi.poke(0)
        if flag.read():
            m.report("SEEN", "the flag was set before the second window")
        with m.step("window", name):
            ipi.poke(0)

    def kicker() -> None:
        with m.step("send", name):
            ipi.poke(SENT)
        wait_until(ipi, lambda state: not state, "ack")
        flag.write(1)

    return MachineProgram(m, [("target", target), ("kicker", kicker)])


@pytest.mark.parametrize("changed_in", ["own", "other"])
def test_both_windows_may_end_the_wait(changed_in: str) -> None:
    brute = search(kick(changed_in), Options("states"))
    reduced = search(kick(changed_in))
    assert reduced.complete and brute.complete
    assert set(reduced.found) == set(brute.found) == {"SEEN", "STUCK"}


def merged_release() -> MachineProgram:
    """One reader's release looks at what the other one did inside its section."""
    m = Machine()
    lock, x, y, z = RWLock(m, "L"), Word(m, "x", 0), Word(m, "y", 0), Word(m, "z", 0)

    def one() -> None:
        lock.read_lock()
        lock.read_unlock()
        x.peek()

    def two() -> None:
        lock.read_lock()
        x.write(1)
        y.write(1)
        lock.read_unlock()

    def writer() -> None:
        lock.write_lock()
        z.write(1)
        lock.write_unlock()

    return MachineProgram(m, [("one", one), ("two", two), ("writer", writer)])


def readers_need_each_other() -> MachineProgram:
    """Neither reader's section ends without the other's: the writer is before both or after."""
    m = Machine()
    lock, x, y = RWLock(m, "L"), Word(m, "x", 0), Word(m, "y", 0)

    def one() -> None:
        lock.read_lock()
        wait_until(x, bool, "x")
        y.write(1)
        lock.read_unlock()

    def two() -> None:
        lock.read_lock()
        x.write(1)
        wait_until(y, bool, "y")
        lock.read_unlock()

    def writer() -> None:
        lock.write_lock()
        m.report("FIRST" if x.peek() == 0 else "LAST", "the writer")
        lock.write_unlock()

    return MachineProgram(m, [("one", one), ("two", two), ("writer", writer)])


def readers_stay() -> MachineProgram:
    """Both readers are stuck in their sections: the writer gets in before both or never."""
    m = Machine()
    lock, x = RWLock(m, "L"), Word(m, "x", 0)

    def reader() -> None:
        lock.read_lock()
        wait_until(x, bool, "x")

    def writer() -> None:
        lock.write_lock()
        m.report("FIRST", "the writer")
        lock.write_unlock()

    return MachineProgram(m, [("one", reader), ("two", reader), ("writer", writer)])


def additions() -> MachineProgram:
    """A sum that is right with some of the additions only: which ones is a trace each."""
    m = Machine()
    total = Word(m, "sum", 0)
    bodies: list[tuple[str, Callable[[], None]]] = [
        ("none or two", lambda: wait_until(total, lambda v: v in (0, 2), "sum"))
    ]
    return MachineProgram(m, [*((f"t{i}", lambda: total.add(1)) for i in range(3)), *bodies])


@pytest.mark.parametrize(
    ("make", "traces", "rules"),
    [
        (merged_release, 6, set()),
        (readers_need_each_other, 2, {"FIRST", "LAST"}),
        (readers_stay, 2, {"FIRST", "STUCK"}),
        (additions, 5, {"STUCK"}),
    ],
)
def test_every_order_that_can_be_and_no_other(
    make: Callable[[], MachineProgram], traces: int, rules: set[str]
) -> None:
    every: set[object] = set()
    brute = search(make(), Options("naive"), on_execution=lambda e: every.add(trace_of(e)))
    seen: Counter[object] = Counter()
    reduced = search(make(), on_execution=lambda e: seen.update([trace_of(e)]))
    assert set(seen) == every and max(seen.values()) == 1 and reduced.blocked == 0
    assert set(reduced.found) == set(brute.found) == rules
    assert len(every) == traces


def grace_period() -> MachineProgram:
    """A section that begins while another one is waited for is no business of the wait's: what
    it does after the wait is as possible as before."""
    m = Machine()
    srcu, word = SRCU(m, "S"), Word(m, "w", 0)

    def section(store: bool) -> Callable[[], None]:
        def run() -> None:
            token = srcu.read_lock()
            if store:
                word.write(1)
            srcu.read_unlock(token)

        return run

    def waiter() -> None:
        srcu.synchronize()
        m.report("SEEN" if word.read() else "MISSED", "the younger section's store")

    return MachineProgram(
        m, [("old", section(False)), ("waiter", waiter), ("young", section(True))]
    )


def test_a_grace_period_does_not_wait_for_younger_sections() -> None:
    seen: Counter[object] = Counter()
    every: set[object] = set()
    naive = search(grace_period(), Options("naive"), on_execution=lambda e: every.add(trace_of(e)))
    reduced = search(grace_period(), on_execution=lambda e: seen.update([trace_of(e)]))
    assert naive.complete and reduced.complete
    assert set(reduced.found) == set(naive.found) == {"SEEN", "MISSED"}
    assert set(seen) == every
    assert max(seen.values()) == 1
