# SPDX-License-Identifier: GPL-2.0-only
"""Points, locks, RCU, choices, retries and the journal."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from septum.machine import (
    RCU,
    SRCU,
    Decision,
    Finding,
    Halt,
    Machine,
    MachineError,
    Mutex,
    Page,
    Policy,
    RWLock,
    Word,
    wait_until,
)


def rules(findings: Sequence[Finding]) -> list[str]:
    return [f.rule for f in findings]


def test_a_point_announces_and_performs_when_resumed() -> None:
    """t0 announces its read first, but t1's write is executed first."""
    m = Machine()
    x = Word(m, "x", 0)
    seen: list[int] = []
    e = m.run(
        [("r", lambda: seen.append(x.read())), ("w", lambda: x.write(1))],
        prefix=[Decision(1), Decision(0)],
    )
    assert seen == [1]
    assert [(v.op, v.obj, v.seen, v.left) for v in e.events] == [
        ("write", "x", 0, 1),
        ("read", "x", 1, 1),
    ]


def test_every_execution_starts_from_the_same_state() -> None:
    m = Machine()
    x, lock = Word(m, "x", 3), RWLock(m, "L")

    def body() -> None:
        lock.write_lock()
        x.write(4)

    for _ in range(2):
        assert m.run([("t", body)]).status == "complete"
        assert x.v == 3 and lock.v == (None, ())


def test_without_an_explorer_points_are_plain_calls() -> None:
    m = Machine()
    x = Word(m, "x", 1)
    assert x.xchg(2) == 1
    assert x.try_cmpxchg(2, 3) == (True, 2)
    assert x.try_cmpxchg(2, 9) == (False, 3)
    assert x.fetch_and(1) == 3 and x.fetch_or(4) == 1 and x.fetch_add(1) == 5
    assert m.choose("c", ("first", "second")) == "first"
    assert m.log == []


def test_mark_and_rewind() -> None:
    m = Machine()
    x = Word(m, "x", 1)
    mark = m.mark()
    x.write(2)
    assert m.fingerprint(mark) == frozenset({("x", 2)})
    m.rewind(mark)
    assert x.v == 1


def test_deadlock_is_reported_with_who_waits_where() -> None:
    m = Machine()
    a, b = Mutex(m, "A"), Mutex(m, "B")

    def one() -> None:
        a.lock()
        b.lock()

    def two() -> None:
        b.lock()
        a.lock()

    e = m.run([("one", one), ("two", two)], prefix=[Decision(0), Decision(1)])
    assert e.status == "deadlock"
    assert e.findings[0].rule == "DEADLOCK"
    assert "one waits at lock B; two waits at lock A" in e.findings[0].message


def test_readers_are_admitted_while_a_writer_waits() -> None:
    m = Machine()
    lock = RWLock(m, "L")

    def reader() -> None:
        lock.read_lock()
        lock.read_unlock()

    def writer() -> None:
        lock.write_lock()
        lock.write_unlock()

    order = [Decision(t) for t in (0, 1, 1, 0, 2, 2)]
    e = m.run([("r0", reader), ("r1", reader), ("w", writer)], prefix=order)
    assert e.status == "complete"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda lock, rcu: (lock.read_lock(), lock.read_lock()), "recursive locking"),
        (lambda lock, rcu: lock.read_unlock(), "without the lock"),
        (lambda lock, rcu: lock.write_unlock(), "without the lock"),
        (lambda lock, rcu: rcu.read_unlock(), "without rcu_read_lock"),
    ],
)
def test_lockdep(body: object, message: str) -> None:
    m = Machine()
    lock, rcu = RWLock(m, "L"), RCU(m)
    e = m.run([("t", lambda: body(lock, rcu))])  # type: ignore[operator]
    assert [f.rule for f in e.findings] == ["I10"]
    assert message in e.findings[0].message


def test_lock_order() -> None:
    m = Machine()
    outer, inner = Mutex(m, "outer", order=1), Mutex(m, "inner", order=2)

    def wrong() -> None:
        inner.lock()
        outer.lock()

    assert rules(m.run([("t", wrong)]).findings) == ["I10"]


@pytest.mark.parametrize(
    ("reader_first", "locked", "expected"),
    [
        (True, True, []),  # the section is older than call_rcu(): legal
        (False, True, ["I6"]),  # younger
        (True, False, ["I6"]),  # no section at all
    ],
)
def test_rcu_grace_periods_are_judged(
    reader_first: bool, locked: bool, expected: list[str]
) -> None:
    m = Machine()
    rcu, page = RCU(m), Page(m, "pt", 4, 0)
    freed: list[str] = []

    def reader() -> None:
        if locked:
            rcu.read_lock()
        page.word(1).read()
        if locked:
            rcu.read_unlock()

    def remover() -> None:
        page.call_rcu(lambda: freed.append("pt"))

    tasks = [0, 1, 0] if reader_first and locked else [1, 0, 0]
    e = m.run(
        [("r", reader), ("u", remover)],
        prefix=[Decision(t) for t in tasks[: 3 if locked else 2]],
        settle=rcu.barrier,
    )
    assert rules(e.findings) == expected
    assert freed == ["pt"]


def test_use_after_free_and_double_free() -> None:
    m = Machine()
    page = Page(m, "pt", 4, 0)

    def body() -> None:
        page.free()
        page.word(0).read()
        page.free()

    messages = [f.message for f in m.run([("t", body)]).findings]
    assert messages == ["access to pt[0] of a freed page", "pt is freed twice"]


def test_synchronize_srcu_waits_for_older_sections_only() -> None:
    m = Machine()
    srcu, x = SRCU(m, "s"), Word(m, "x", 0)

    def reader() -> None:
        token = srcu.read_lock()
        x.read()
        srcu.read_unlock(token)

    def writer() -> None:
        srcu.synchronize()
        x.write(1)

    e = m.run([("r", reader), ("w", writer)], prefix=[Decision(0), Decision(1), Decision(1)])
    assert e.status == "diverged"  # the wait cannot end before the reader leaves
    e = m.run([("r", reader), ("w", writer)], prefix=[Decision(1), Decision(0), Decision(1)])
    assert e.status == "complete"


def test_wait_until_needs_the_value() -> None:
    m = Machine()
    ack = Word(m, "ack", 0)

    def waiter() -> None:
        wait_until(ack, lambda v: v == 1, "ipi-wait")

    assert m.run([("w", waiter)]).findings[0].rule == "STUCK"
    e = m.run([("w", waiter), ("a", lambda: ack.write(1))])
    assert [v.op for v in e.events] == ["write", "ipi-wait"]


def test_a_retry_waits_for_another_tasks_write_to_what_it_blamed() -> None:
    m = Machine()
    frozen, other = Word(m, "spte", "FROZEN"), Word(m, "other", 0)

    def spinner() -> None:
        while frozen.read() == "FROZEN":
            m.blame(frozen)
            m.retry("spin")

    def owner() -> None:
        other.write(1)
        frozen.write("leaf")

    e = m.run([("s", spinner), ("o", owner)])
    assert [v.op for v in e.events] == ["read", "write", "write", "await", "read"]
    alone = m.run([("s", spinner)])
    assert alone.status == "stuck" and alone.findings[0].rule == "STUCK"


def test_a_lost_cmpxchg_may_retry_at_once() -> None:
    m = Machine()
    x = Word(m, "x", 0)

    def loser() -> None:
        expected = x.read()
        while not x.try_cmpxchg(expected, 5)[0]:
            m.retry("cas")
            expected = x.read()

    e = m.run(
        [("l", loser), ("w", lambda: x.write(1))],
        prefix=[Decision(0), Decision(1), Decision(0), Decision(0), Decision(0)],
    )
    assert e.status == "complete"


def test_choices_are_part_of_the_step() -> None:
    m = Machine()
    x = Word(m, "x", 0)

    def body() -> None:
        x.read()
        x.write(m.choose("which", ("a", "b")))

    e = m.run([("t", body)], prefix=[Decision(0), Decision(0, 1), Decision(0)])
    assert e.events[1].op == "choose" and e.events[2].left == "b"


def test_a_choice_before_the_first_point_is_a_model_error() -> None:
    m = Machine()
    e = m.run([("t", lambda: m.choose("c", (1, 2)))])
    assert e.findings[0].rule == "EXCEPTION" and "MachineError" in e.findings[0].message
    assert issubclass(MachineError, Exception)


def test_a_schedule_run_twice_gives_the_same_log() -> None:
    m = Machine()
    x = Word(m, "x", 0)
    bodies = [(f"t{i}", lambda: x.write(x.read() + 1)) for i in range(3)]
    first = m.run(bodies, policy=Policy("random", seed=7))
    again = m.run(bodies, prefix=first.decisions)
    assert repr(first.events) == repr(again.events)


def test_bug_ends_the_execution_and_unwinds_the_others() -> None:
    m = Machine()
    x, unwound = Word(m, "x", 0), []

    def victim() -> None:
        try:
            x.read()
            x.read()
        finally:
            x.write(9)  # points do nothing any more
            unwound.append(True)

    def bug() -> None:
        x.read()
        m.fatal("BUG:f", "boom")

    e = m.run([("v", victim), ("b", bug)], prefix=[Decision(0), Decision(1)])
    assert e.status == "halted" and rules(e.findings) == ["BUG:f"] and unwound == [True]
    assert x.v == 0


def test_an_exception_in_the_model_is_a_finding() -> None:
    m = Machine()
    x = Word(m, "x", 0)

    def body() -> None:
        x.read()
        raise ValueError("model bug")

    e = m.run([("t", body)])
    assert e.findings[0].rule == "EXCEPTION" and "model bug" in e.findings[0].message


def test_going_round_is_a_livelock() -> None:
    m = Machine()
    x = Word(m, "x", 0)

    def forever() -> None:
        while True:
            x.read()

    e = m.run([("t", forever)])
    assert e.status == "livelock" and rules(e.findings) == ["LIVELOCK"]
    assert e.findings[0].since == e.findings[0].step == len(e.events) - 1 < 10


def test_counting_for_ever_is_cut_off() -> None:
    """No state repeats, so nothing is known about it."""
    from septum.machine import Limits

    m = Machine()
    x = Word(m, "x", 0)

    def forever() -> None:
        while True:
            x.fetch_add(1)

    e = m.run([("t", forever)], limits=Limits(steps=50))
    assert e.status == "limit" and not e.findings and len(e.events) == 50


def test_a_blocked_sequential_call_is_reported_not_hung() -> None:
    m = Machine()
    lock = Mutex(m, "L")
    lock.v = (5, ())
    with pytest.raises(Halt):
        lock.lock()
    assert m.findings[0].rule == "DEADLOCK"
