# SPDX-License-Identifier: GPL-2.0-only
"""What the models cannot see, as tests that are expected to fail.

Each reason stands word for word in docs/fidelity.md.  When a limit falls, its test passes,
and pytest says so (strict): take it out here and there.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from septum.explore import search
from septum.machine import Decision, Machine, RWLock, Word
from septum.scenarios.build import build

FIDELITY = Path(__file__).parents[1] / "docs" / "fidelity.md"
QUEUED_RWLOCK = "queued rwlock: a reader gets in although a writer has been waiting"
CACHE_LINES = "cache lines: a missing WBINVD is not found"


@pytest.mark.xfail(reason=QUEUED_RWLOCK, strict=True)
def test_a_waiting_writer_keeps_readers_out() -> None:
    m = Machine()
    lock, x = RWLock(m, "L"), Word(m, "x", 0)

    def reader() -> None:
        lock.read_lock()
        lock.read_unlock()

    def holder() -> None:
        lock.read_lock()
        x.read()
        lock.read_unlock()

    def writer() -> None:
        lock.write_lock()
        lock.write_unlock()

    # The holder has the lock and the writer waits for it when the reader comes.
    order = [Decision(0), Decision(2)]
    e = m.run([("holder", holder), ("writer", writer), ("reader", reader)], prefix=order)
    assert e.status == "diverged"


@pytest.mark.xfail(reason=CACHE_LINES, strict=True)
def test_a_missing_wbinvd_is_found() -> None:
    built = build("v7.3+no-wbinvd", "fault-punch")
    assert search(built.program).found


@pytest.mark.parametrize("reason", [QUEUED_RWLOCK, CACHE_LINES])
def test_the_fidelity_page_says_so(reason: str) -> None:
    assert reason in re.sub(r"\s+", " ", FIDELITY.read_text())
