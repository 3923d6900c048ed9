# SPDX-License-Identifier: GPL-2.0-only
"""Bounded search against all interleavings with as many preemptions; deepening; samples."""

from __future__ import annotations

from itertools import pairwise

import pytest
from programs import last_zero, random_program, readers

from septum.explore import MachineProgram, Options, search
from septum.explore.bounded import preempts
from septum.machine import Execution, Machine, Word


def preemptions(execution: Execution) -> int:
    return sum(preempts(a, b) for a, b in pairwise(execution.events))


@pytest.mark.parametrize("bound", [0, 1, 2])
def test_the_search_is_sound_at_its_bound(bound: int) -> None:
    """Final states and findings are those of all interleavings within the bound."""
    compared = 0
    for seed in range(60):
        program = random_program(seed)
        finals: set[object] = set()
        rules: set[str] = set()

        def keep(e: Execution, finals: set[object] = finals, rules: set[str] = rules) -> None:
            if preemptions(e) <= bound:
                rules.update(f.rule for f in e.findings)
                if e.status == "complete":
                    finals.add(e.fingerprint)

        if not search(program, Options("naive", max_executions=500), on_execution=keep).complete:
            continue
        result = search(program, Options("bounded", bound=bound))
        assert result.finals == finals, f"seed {seed}"
        assert set(result.found) == rules, f"seed {seed}"
        compared += 1
    assert compared > 30


def lost_update(preemptions: int) -> MachineProgram:
    """Both tasks increment; lost only if each increment of the first is preempted."""
    m = Machine()
    x = Word(m, "x", 0)

    def slow() -> None:
        for _ in range(preemptions):
            x.write(x.read() + 1)

    def fast() -> None:
        for _ in range(preemptions):
            seen = x.read()
            x.write(seen + 1)

    def settle() -> None:
        if x.v == preemptions:
            m.report("I99", "every second update is lost")

    return MachineProgram(m, [("slow", slow), ("fast", fast)], settle)


def test_a_bound_that_leaves_something_out_is_said() -> None:
    none = search(lost_update(1), Options("bounded", bound=0))
    assert not none.found and not none.complete
    assert none.bounds_hit == ["all schedules within 0 preemptions"]
    assert "I99" in search(lost_update(1), Options("bounded", bound=1)).found


def test_a_bound_that_leaves_nothing_out_is_complete() -> None:
    result = search(readers(2), Options("bounded", bound=9))
    assert result.complete and not result.bounds_hit


def test_deepening_ends_when_nothing_is_left_out() -> None:
    result = search(readers(3), Options("bounded", deep=True))
    assert result.complete and not result.bounds_hit
    assert result.finals == search(readers(3), Options("states")).finals


def test_deepening_says_the_last_bound_that_was_finished() -> None:
    result = search(last_zero(3), Options("bounded", deep=True, max_executions=100))
    assert not result.complete
    assert result.bounds_hit[0] == "all schedules within 0 preemptions"
    assert "executions: not all within 1 preemption" in result.bounds_hit[1]


def test_progress_of_deepening_counts_all_bounds() -> None:
    told: list[tuple[int, list[str]]] = []
    result = search(
        last_zero(3),
        Options("bounded", deep=True, max_executions=100),
        progress=lambda found: told.append((found.executions, found.bounds_hit)),
    )
    assert [now for now, _ in told] == list(range(1, result.executions + 1))
    assert told[0][1] == [] and told[-1][1][0].startswith("all schedules within ")


def test_pct_says_what_it_gives() -> None:
    """Depth 1 among two tasks: one run finds it with probability 1/2, ten with 1 - 2**-10."""
    result = search(lost_update(1), Options("pct", max_executions=10, depth=1))
    assert result.bounds_hit == [
        "sampled 10; a bug of depth 1 is found with probability 0.999 at least (2 tasks, 4 steps)"
    ]
    result = search(lost_update(1), Options("pct", max_executions=10, depth=2))
    assert "with probability 0.736 at least (2 tasks, 4 steps)" in result.bounds_hit[0]


def test_pct_finds_at_least_as_often_as_it_says() -> None:
    """Depth 2 (one preemption), n = 2, k = 4: at least one run in eight."""
    hits = sum(
        bool(search(lost_update(1), Options("pct", max_executions=1, depth=2, seed=s)).found)
        for s in range(400)
    )
    assert hits >= 400 / 8
