# SPDX-License-Identifier: GPL-2.0-only
"""A wait for a word's value that others change inside larger steps.

Such a change has no value of its own in the log; an explorer that overlooks it takes the
wait for one that had to come later, and loses the other order.
"""

from __future__ import annotations

import pytest

from septum.explore import MachineProgram, Options, search
from septum.machine import Machine, Word, wait_until

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
