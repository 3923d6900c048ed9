# SPDX-License-Identifier: GPL-2.0-only
"""How good minimised schedules are: context switches, then steps up to the finding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from generated import Spec, build, specs
from hypothesis import assume, given, settings

from septum.explore import Found, MachineProgram, Options, best_found, search
from septum.explore.minimise import minimise
from septum.explore.result import schedule_key
from septum.machine import Execution, Limits, Machine, Mutex, Word
from septum.scenarios.build import build as build_row
from septum.scenarios.suite import find


def size(found: Found) -> tuple[int, int]:
    """Switches, and steps up to the finding."""
    return schedule_key(found.decisions[: found.finding.step + 1])[:2]


# --- programs with a known bug --------------------------------------------------------------


def lost_update(n: int) -> MachineProgram:
    """One of n increments is lost: a reads, b does all of its own, a writes, the others."""
    m = Machine()
    x = Word(m, "x", 0)

    def settle() -> None:
        if x.v < n:
            m.report("I99", "lost")

    return MachineProgram(m, [(f"t{i}", lambda: x.write(x.read() + 1)) for i in range(n)], settle)


def deadlock(n: int) -> MachineProgram:
    """n locks in a ring: each task must be left between its two acquisitions, but the last."""
    m = Machine()
    locks = [Mutex(m, f"L{i}") for i in range(n)]

    def body(i: int) -> Callable[[], None]:
        def run() -> None:
            locks[i].lock()
            locks[(i + 1) % n].lock()
            locks[(i + 1) % n].unlock()
            locks[i].unlock()

        return run

    return MachineProgram(m, [(f"t{i}", body(i)) for i in range(n)])


def check_then_act(noise: int) -> MachineProgram:
    """A check, then so many steps that concern nobody, then the act."""
    m = Machine()
    free, own = Word(m, "free", 0), Word(m, "own", 0)

    def act() -> None:
        if free.read() == 0:
            for _ in range(noise):
                own.read()
            if free.read() == 1:
                m.fatal("BUG:act", "freed meanwhile")

    def release() -> None:
        for _ in range(noise):
            own.read()
        free.write(1)

    return MachineProgram(m, [("act", act), ("free", release)])


def rare_choice(options: int) -> MachineProgram:
    """Only the last option of a choice, and only after the other task's write."""
    m = Machine()
    x = Word(m, "x", 0)

    def chooser() -> None:
        seen = x.read()
        if m.choose("c", tuple(range(options))) == options - 1 and seen == 1:
            m.report("I99", "the last option")

    return MachineProgram(m, [("c", chooser), ("w", lambda: x.write(1))])


# Program, size, fewest switches, fewest steps; derived beside each.
SEEDED = [
    # a | b b | a c c ...: the other tasks need one switch each; judged at the end.
    (lost_update, 2, 2, 4),
    (lost_update, 3, 3, 6),
    (lost_update, 4, 4, 8),
    (deadlock, 2, 1, 2),
    (deadlock, 3, 2, 3),
    # read, all of the noise, the write behind the other's noise, read.
    (check_then_act, 0, 2, 3),
    (check_then_act, 5, 2, 13),
    # write | read, choice.
    (rare_choice, 2, 1, 3),
    (rare_choice, 4, 1, 3),
]


@pytest.mark.parametrize(("make", "n", "switches", "steps"), SEEDED)
def test_seeded_bugs(
    make: Callable[[int], MachineProgram], n: int, switches: int, steps: int
) -> None:
    program = make(n)
    found = best_found(search(program))
    assert found is not None
    small = minimise(program, program.actors, found, Limits())
    assert small.minimal and size(small) == (switches, steps)


# Mutants and proposals: what was measured when every better schedule had been tried.
ROWS = [
    ("v7.3+no-stale-check", "fault-punch", 2, 47),
    ("v7.3+in-progress-ignored", "fault-punch", 2, 47),
    ("feb06", "install-accept", 3, 106),
    ("feb06+reread-sptep", "fault-fault", 0, 15),
    ("v7.3+free-without-rcu", "subtree", 2, 107),
    ("v7.3+direct-plain-store", "direct-fault-split", 2, 56),
    ("v7.3+no-track", "zap-running", 0, 29),
]


@pytest.mark.parametrize(("design", "scenario", "switches", "steps"), ROWS)
def test_rows(design: str, scenario: str, switches: int, steps: int) -> None:
    program = build_row(design, find(scenario)).program
    found = best_found(search(program))
    assert found is not None
    small = minimise(program, program.actors, found, Limits())
    assert small.minimal and size(small) == (switches, steps)
    again = program.run(small.decisions)
    assert small.finding in again.findings


# --- against the true optimum ---------------------------------------------------------------


def every_failure(program: MachineProgram, most: int) -> dict[str, list[Found]]:
    """Every schedule of every interleaving that shows a finding, by rule."""
    out: dict[str, list[Found]] = {}

    def keep(execution: Execution) -> None:
        seen = set()
        for finding in execution.findings:
            if finding.rule not in seen:
                seen.add(finding.rule)
                out.setdefault(finding.rule, []).append(Found(finding, execution.decisions))

    result = search(program, Options("naive", max_executions=most), on_execution=keep)
    assume(result.complete)
    return out


@settings(max_examples=80, deadline=None)
@given(specs())
def test_random_programs_reach_the_optimum_from_wherever_they_start(spec: Spec) -> None:
    """... and always by the same schedule."""
    program = build(spec)
    for failures in every_failure(program, 300).values():
        best = min(map(size, failures))
        for start in (failures[0], failures[-1]):
            small = minimise(program, program.actors, start, Limits())
            assert small.minimal and size(small) == best
            assert (
                small.decisions
                == minimise(program, program.actors, failures[0], Limits()).decisions
            )
            assert small.finding in program.run(small.decisions).findings


def test_where_tries_run_out_it_says_so() -> None:
    program = lost_update(4)
    found = best_found(search(program))
    assert found is not None
    small = minimise(program, program.actors, found, Limits(), tries=5)
    assert not small.minimal
