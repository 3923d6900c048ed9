# SPDX-License-Identifier: GPL-2.0-only
"""Going round for ever: under a fair schedule it is LIVELOCK, under an unfair one nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import OPS, Loops, oracle, program

from septum.explore import MachineProgram, Options, SearchResult, search
from septum.explore.minimise import minimise
from septum.machine import Limits, Machine, Word

STRATEGIES = ("optimal", "states", "naive", "bounded", "random", "pct")


def flag(*, sets: bool = True, rounds: int = 0, hidden: bool = False) -> MachineProgram:
    """A reader spins on a flag, or looks ``rounds`` times at it (``hidden``: counted where no
    variable shows it); a writer sets it, or does not."""
    m = Machine()
    word, other = Word(m, "flag", 0), Word(m, "other", 0)

    def reader() -> None:
        if hidden:
            for _ in repeat(None, rounds):
                if word.read():
                    return
        elif rounds:
            for _ in range(rounds):
                if word.read():
                    return
        else:
            while not word.read():
                pass

    def writer() -> None:
        other.write(1)
        if sets:
            word.write(1)

    return MachineProgram(m, [("reader", reader), ("writer", writer)])


def peterson() -> MachineProgram:
    """Peterson's lock: everybody waits, and everybody gets it."""
    m = Machine()
    wants, turn = [Word(m, f"wants{i}", 0) for i in (0, 1)], Word(m, "turn", 0)

    def body(me: int) -> Callable[[], None]:
        def run() -> None:
            wants[me].write(1)
            turn.write(1 - me)
            while wants[1 - me].read() and turn.read() == 1 - me:
                pass
            wants[me].write(0)

        return run

    return MachineProgram(m, [("a", body(0)), ("b", body(1))])


def ping_pong() -> MachineProgram:
    """Each undoes what the other waits for; both loops are awaits."""
    m = Machine()
    x = Word(m, "x", 0)

    def wants(value: int) -> Callable[[], None]:
        def run() -> None:
            while x.read() == value:
                x.write(1 - value)
                m.blame(x)
                m.retry("again")

        return run

    return MachineProgram(m, [("a", wants(0)), ("b", wants(1))])


def polite() -> MachineProgram:
    release = (("write", 0, 0), ("write", 1, 0))
    return program(Loops(((("polite", 0, 0), *release), (("polite", 1, 0), *release))))


def rules(result: SearchResult) -> set[str]:
    return set(result.found)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: flag(sets=True), set()),
        (lambda: flag(sets=False), {"LIVELOCK"}),
        (lambda: flag(sets=False, rounds=20), set()),
        (lambda: flag(sets=False, rounds=100, hidden=True), set()),
        (peterson, set()),
    ],
    ids=["ends with the write", "nobody writes", "counted", "counted by an iterator", "peterson"],
)
def test_only_fair_cycles_are_livelocks(
    make: Callable[[], MachineProgram], found: set[str], strategy: str
) -> None:
    result = search(make(), Options(strategy, max_executions=300))
    assert rules(result) == found
    assert "steps per execution" not in result.bounds_hit


@pytest.mark.parametrize("strategy", ["optimal", "states", "random"])
def test_two_that_give_way_to_each_other(strategy: str) -> None:
    """Needs a switch per step, so fewer preemptions than that (bounded, pct) do not show it."""
    most = 500 if strategy == "random" else 5000
    result = search(polite(), Options(strategy, max_executions=most))
    assert rules(result) == {"LIVELOCK"}
    assert result.complete == (strategy != "random")
    finding = result.found["LIVELOCK"].finding
    assert finding.message == "t0, t1: the last 6 steps repeat for ever"
    assert finding.step - finding.since == 5


def test_awaits_that_wake_each_other() -> None:
    for strategy in ("optimal", "bounded"):
        assert "LIVELOCK" in rules(search(ping_pong(), Options(strategy, max_executions=2000)))


def test_the_schedule_shows_the_cycle() -> None:
    """From ``since`` on it can be run again and again, by all tasks; a replay finds it."""
    made = polite()
    result = search(made, Options(max_executions=300))
    small = minimise(made, made.actors, result.found["LIVELOCK"], Limits(), tries=300)
    since, end = small.finding.since, small.finding.step + 1
    again = made.run(small.decisions)
    assert again.findings == [small.finding] and len(again.events) == end
    cycle = small.decisions[since:end]
    assert {decision.task for decision in cycle} == {0, 1}
    longer = made.run([*small.decisions[:end], *cycle * 5])
    did = [(e.task, e.op, e.obj, e.seen) for e in longer.events]
    assert did[since : since + 6 * len(cycle)] == did[since:end] * 6


def test_a_failed_attempt_that_is_never_folded() -> None:
    """With retries = -1 an await that nobody ends is shown as what it is in the field."""

    def alone() -> MachineProgram:
        m = Machine()
        word = Word(m, "word", 0)

        def body() -> None:
            while not word.read():
                m.blame(word)
                m.retry("again")

        return MachineProgram(m, [("t", body)])

    assert rules(search(alone())) == {"STUCK"}
    assert rules(search(alone(), Options(retries=-1))) == {"LIVELOCK"}


OPERATIONS = st.tuples(st.sampled_from(OPS), st.integers(0, 1), st.integers(0, 1))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.lists(st.lists(OPERATIONS, min_size=1, max_size=2), min_size=2, max_size=2))
def test_loops_against_enumerated_states(tasks: list[list[tuple[str, int, int]]]) -> None:
    spec = Loops(tuple(tuple(ops) for ops in tasks))
    finals, goes_round = oracle(spec)
    made = program(spec)
    run = made.run
    ends = set()
    made.run = lambda *a, **k: run(*a, **k, fingerprint=True)  # type: ignore[method-assign]

    def each(execution: object) -> None:
        if execution.status == "complete":  # type: ignore[attr-defined]
            left = dict(execution.fingerprint)  # type: ignore[attr-defined]
            ends.add(tuple(left.get(f"x{i}", 0) for i in range(spec.words)))

    result = search(made, Options(max_executions=200), on_execution=each)
    assert ends <= finals and rules(result) <= ({"LIVELOCK"} if goes_round else set())
    if result.complete:
        assert ends == finals and rules(result) == ({"LIVELOCK"} if goes_round else set())
