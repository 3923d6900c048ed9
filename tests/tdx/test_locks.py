# SPDX-License-Identifier: GPL-2.0-only
"""Host priority and lock walks, exactly (facts/tdx-module.md sections 4.1 and 4.3)."""

from __future__ import annotations

import pytest
from tdx_rig import M2, TDR, V0, G, P, Rig, S, text

from septum.machine import Halt, Machine
from septum.tdx import Conditions
from septum.tdx.locks import Mutex8, ShareX, ShareXHp
from septum.tdx.sept import HP_BIT, LOCK_BIT


def test_sharex() -> None:
    lock = ShareX(Machine(), "l")
    assert lock.acquire(False)
    assert lock.acquire(False)
    assert lock.raw == 4
    assert not lock.acquire(True)
    lock.release(False)
    lock.release(False)
    assert lock.acquire(True)
    assert not lock.acquire(False)
    assert lock.raw == 1
    lock.release(True)
    assert lock.raw == 0


def test_sharex_host_priority_transitions() -> None:
    lock = ShareXHp(Machine(), "l")
    assert lock.acquire(True)
    assert not lock.acquire(False)
    assert lock.raw == 3  # a failed shared attempt sets HP
    lock.release(True)
    assert lock.raw == 2  # release keeps it
    assert lock.acquire(True)  # exclusive on HP alone succeeds and clears it
    assert lock.raw == 1
    lock.release(True)
    assert lock.acquire(False)
    assert not lock.acquire(True)
    assert lock.raw == 4 | 2
    assert lock.acquire(False)
    assert lock.raw == 8


def test_upgrade_needs_to_be_the_only_reader() -> None:
    lock = ShareXHp(Machine(), "l")
    assert lock.acquire(False)
    assert lock.upgrade()
    assert lock.raw == 1
    lock.release(True)
    lock.acquire(False)
    lock.acquire(False)
    assert not lock.upgrade()
    assert lock.raw == 8 | 2


def test_mutex() -> None:
    mutex = Mutex8(Machine(), "l")
    assert mutex.acquire()
    assert not mutex.acquire()
    mutex.release()
    assert mutex.raw == 0


def test_a_new_page_that_is_the_tdr_itself_is_busy() -> None:
    rig = Rig("R 1 +T")
    assert text(rig.sept_add(G + M2, 1, TDR)) == "OPERAND_BUSY|R8"
    assert rig.module.pamt.entry(TDR, 0).lock.raw == 2
    assert text(rig.track()) == "SUCCESS"  # whose TDR lock clears the flag
    assert rig.module.pamt.entry(TDR, 0).lock.raw == 0


def test_any_holder_in_the_2m_region_makes_a_2m_aug_busy() -> None:
    rig = Rig("R 1 +T")
    rig.sept_add(2 * G, 2, S(3))
    assert rig.lock("pamt-walk", "shared", hpa=hex(P(0x5000)), size=0)
    assert text(rig.aug(2 * G, 1, P(0))) == "OPERAND_BUSY|R8"
    assert text(rig.aug(2 * G, 1, P(M2))) == "SUCCESS"


def test_a_running_vcpu_pins_the_2m_entry_of_its_tdvpr() -> None:
    rig = Rig("R 1")
    rig.enter(V0)
    assert [rig.module.pamt.entry(V0, size).lock.raw for size in range(3)] == [4, 4, 4]
    assert rig.module.pamt.entry(TDR, 0).lock.raw == 4
    rig.interrupt()
    assert [rig.module.pamt.entry(V0, size).lock.raw for size in range(3)] == [0, 0, 0]


def test_entry_host_priority_is_lost_by_a_rewrite_and_kept_by_an_error() -> None:
    rig = Rig("R 1 +T")
    rig.aug(G, 0, P(0))
    where = {"gpa": hex(G), "level": 0}
    rig.lock("sept-entry", "", "acquire", **where)
    rig.remove(G, 0)
    assert rig.entry(G, 0) & (LOCK_BIT | HP_BIT) == LOCK_BIT | HP_BIT
    rig.lock("sept-entry", "", "release", **where)
    assert rig.entry(G, 0) & HP_BIT
    assert text(rig.block(G, 0)) == "SUCCESS"
    assert not rig.entry(G, 0) & HP_BIT


def test_host_priority_timeout() -> None:
    rig = Rig("R 1 +T")
    rig.aug(G, 0, P(0))
    where = {"gpa": hex(G), "level": 0}
    rig.lock("sept-entry", "", "acquire", **where)
    rig.remove(G, 0)
    rig.lock("sept-entry", "", "release", **where)
    rig.enter(V0)
    limit = rig.td.params.v.hp_lock_timeout

    def accept(tsc: int) -> object:
        return text(rig.module.tdcall(6, {"rcx": G}, 0, Conditions(tsc=tsc)))

    assert accept(1000) == "OPERAND_BUSY|RCX"
    assert accept(1000 + limit - 1) == "OPERAND_BUSY|RCX"
    assert accept(1000 + limit) == "exit HOST_PRIORITY_BUSY_TIMEOUT"
    # The trap-type exit makes the hint bit of VP.ENTER legal.
    assert text(rig.raw("TDH.VP.ENTER", rcx=V0 | 1 << 52)) == "td-entry"


def test_page_add_on_a_locked_entry_stops_the_module() -> None:
    rig = Rig("I 1 +T")
    rig.lock("sept-entry", "", "acquire", gpa=hex(G), level=0)
    with pytest.raises(Halt):
        rig.add(G, 0, P(0))
    assert rig.module.m.findings[0].rule == "BUG:tdx_module"
