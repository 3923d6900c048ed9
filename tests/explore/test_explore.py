# SPDX-License-Identifier: GPL-2.0-only
"""The reductions against brute force, and the literature's trace counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from programs import file_system, indexer, last_zero, random_program, readers
from traces import trace_of

from septum.explore import MachineProgram, Options, search
from septum.explore.optimal import NondeterminismError
from septum.machine import Machine, Mutex, Word

# Program, size, traces: from the papers named in programs.py.
TRACES: list[tuple[Callable[[int], MachineProgram], int, int]] = [
    (readers, 2, 4),
    (readers, 5, 32),
    (readers, 8, 256),
    (last_zero, 5, 64),
    (last_zero, 7, 320),
    (file_system, 14, 2),
    (file_system, 16, 8),
    (file_system, 18, 32),
    (indexer, 11, 1),
    (indexer, 12, 8),
]


@pytest.mark.parametrize(("make", "n", "traces"), TRACES)
def test_literature(make: Callable[[int], MachineProgram], n: int, traces: int) -> None:
    result = search(make(n))
    assert result.complete and result.executions == traces and result.blocked == 0


def agree(program: MachineProgram) -> tuple[int, int]:
    """The reduced search and brute force give the same final states and findings."""
    brute = search(program, Options("states", max_executions=30_000))
    assert brute.complete
    finals: set[object] = set()
    run = program.run
    program.run = lambda *a, **k: run(*a, **k, fingerprint=True)  # type: ignore[method-assign]
    reduced = search(
        program,
        on_execution=lambda e: finals.add(e.fingerprint) if e.status == "complete" else None,
    )
    assert reduced.complete
    assert finals == brute.finals
    assert set(reduced.found) == set(brute.found)
    return reduced.executions, brute.executions


@pytest.mark.parametrize("block", range(8))
def test_random_programs_agree_with_brute_force(block: int) -> None:
    """40 programs a block; scripts/fuzz_explore.py runs thousands."""
    kinds: Counter[str] = Counter()
    for seed in range(block * 40, block * 40 + 40):
        program = random_program(seed)
        for name, _ in program.bodies:
            kinds.update(name.split(":")[1].split(","))
        agree(program)
    assert len(kinds) >= 14, "the generator lost operations"


@pytest.mark.parametrize("block", range(4))
def test_one_execution_per_trace_and_none_blocked(block: int) -> None:
    """Traces are told apart by looking at all pairs of steps of every interleaving."""
    compared = 0
    for seed in range(block * 40, block * 40 + 40):
        program = random_program(seed)
        traces: set[object] = set()
        brute = search(
            program,
            Options("naive", max_executions=600),
            on_execution=lambda e, traces=traces: traces.add(trace_of(e)),  # type: ignore[misc]
        )
        if not brute.complete:
            continue
        mine: list[object] = []
        result = search(program, on_execution=lambda e, mine=mine: mine.append(trace_of(e)))  # type: ignore[misc]
        assert len(mine) == len(traces) and set(mine) == traces, f"seed {seed}"
        assert result.blocked == 0, f"seed {seed}"
        compared += len(traces)
    assert compared > 100


def test_states_and_naive_agree_where_naive_is_small() -> None:
    for seed in (1, 4, 9, 12):
        program = random_program(seed)
        naive = search(program, Options("naive", max_executions=3000))
        states = search(program, Options("states"))
        if naive.complete:
            assert naive.finals == states.finals
            assert set(naive.found) == set(states.found)


def test_deadlock_is_found_by_both() -> None:
    m = Machine()
    a, b = Mutex(m, "A"), Mutex(m, "B")

    def one() -> None:
        a.lock()
        b.lock()
        b.unlock()
        a.unlock()

    def two() -> None:
        b.lock()
        a.lock()
        a.unlock()
        b.unlock()

    program = MachineProgram(m, [("one", one), ("two", two)])
    for strategy in ("optimal", "states", "naive"):
        assert list(search(program, Options(strategy)).found) == ["DEADLOCK"]


def test_after_bug_the_other_tasks_are_still_tried() -> None:
    """The task that hits BUG() first must not hide what the others would find."""
    m = Machine()
    x, y = Word(m, "x", 0), Word(m, "y", 0)

    def bug() -> None:
        x.read()
        m.fatal("BUG:f", "boom")

    def other() -> None:
        y.write(1)
        m.report("WARN:g", "seen")

    program = MachineProgram(m, [("bug", bug), ("other", other)])
    assert set(search(program).found) == {"BUG:f", "WARN:g"}


def test_the_kept_schedule_has_the_fewest_switches() -> None:
    m = Machine()
    x = Word(m, "x", 0)

    def incr() -> None:
        x.write(x.read() + 1)

    def settle() -> None:
        if x.v == 1:
            m.report("I99", "lost update")

    found = search(MachineProgram(m, [("a", incr), ("b", incr)], settle)).found["I99"]
    tasks = [d.task for d in found.decisions]
    assert tasks in ([0, 1, 1, 0], [1, 0, 0, 1])


def test_nondeterminism_is_reported() -> None:
    m = Machine()
    x = Word(m, "x", 0)
    runs = [0]

    def odd() -> None:
        runs[0] += 1
        x.read()
        if runs[0] < 2:
            x.write(1)
            x.write(2)

    program = MachineProgram(m, [("odd", odd), ("w", lambda: x.write(5))])
    with pytest.raises(NondeterminismError, match="cannot run"):
        search(program)


def test_a_step_that_does_something_else_is_reported() -> None:
    """With two tasks too: what is run again must touch what it touched."""
    m = Machine()
    x, y, z = Word(m, "x", 0), Word(m, "y", 0), Word(m, "z", 0)
    runs = [0]

    def odd() -> None:
        runs[0] += 1
        (y if runs[0] < 2 else z).read()
        x.read()

    program = MachineProgram(m, [("w", lambda: x.write(5)), ("odd", odd)])
    with pytest.raises(NondeterminismError, match="task 1 did something else"):
        search(program)


def test_bounds_are_said() -> None:
    result = search(readers(8), Options(max_executions=10))
    assert not result.complete and result.bounds_hit == ["10 executions"]
    sampled = search(readers(3), Options("random", max_executions=5))
    assert not sampled.complete
    assert sampled.bounds_hit == [
        "sampled 5; no guarantee: a given schedule of the longest (4 steps, 4 tasks) has "
        "probability 4^-4 at least in each"
    ]


def test_unknown_strategy_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="optimal"):
        search(readers(1), Options("optimal-ish"))
