# SPDX-License-Identifier: GPL-2.0-only
"""Executions that are looked up (`septum.machine.known`) are those that would have run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from generated import Spec, specs
from generated import build as build_random
from hypothesis import given, settings
from hypothesis import strategies as st
from literature import COUNTS
from loops import OPS, Loops
from loops import program as looping

from septum.explore import MachineProgram, Options, Protocol, Tasks, search
from septum.explore.protocol import program_of
from septum.machine import Event, Execution, Machine, MachineError, SpinLock, Word
from septum.scenarios.build import build

# Classes of the compiled build have no __slots__ to ask.
FIELDS = (
    *("task", "op", "obj", "label", "acc", "seen", "left", "choice", "options"),
    *("since", "off", "could", "enabled"),
)


def facts(events: list[Event]) -> str:
    return re.sub(r" at 0x\w+", "", repr([[getattr(e, f) for f in FIELDS] for e in events]))


def everything(program: MachineProgram, most: int = 0, **options: Any) -> list[Any]:
    """All that a search sees of each execution."""
    seen: list[Any] = []
    program.machine.remember_after = 0

    def note(e: Execution) -> None:
        findings = [(f, f.place) for f in e.findings]
        seen.append((e.status, facts(e.events), facts(e.pending), findings))

    result = search(program, Options(max_executions=most, **options), on_execution=note)
    return [*seen, result.blocked, result.folded, result.reached]


@settings(max_examples=60, deadline=None)
@given(specs(("SC",)))
def test_random_programs_execute_the_same(spec: Spec) -> None:
    known, earnest = build_random(spec), build_random(spec)
    known.remembers = True
    assert everything(known, 150) == everything(earnest, 150)


@pytest.mark.parametrize(("make", "sizes"), COUNTS)
def test_the_literatures_programs_execute_the_same(
    make: Callable[[int], MachineProgram], sizes: dict[int, int]
) -> None:
    n = max(sizes)
    known, earnest = make(n), make(n)
    known.remembers = True
    assert everything(known, 200) == everything(earnest, 200)


@pytest.mark.parametrize("design", ["v7.3", "void-callback", "v7.3+reread-sptep"])
@pytest.mark.parametrize("scenario", ["fault-fault", "refault-punch", "install-zero-step"])
def test_designs_execute_the_same(design: str, scenario: str) -> None:
    known, earnest = build(design, scenario).program, build(design, scenario).program
    earnest.remembers = False
    assert everything(known, 120) == everything(earnest, 120)


OPERATIONS = st.tuples(st.sampled_from(OPS), st.integers(0, 1), st.integers(0, 1))


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.lists(OPERATIONS, min_size=1, max_size=3), min_size=2, max_size=3),
    st.sampled_from(["optimal", "bounded"]),
)
def test_loops_execute_the_same(tasks: list[list[tuple[str, int, int]]], strategy: str) -> None:
    """Cycles end them, starving tasks come next, and what goes round is let go round."""
    spec = Loops(tuple(tuple(ops) for ops in tasks))
    known, earnest = looping(spec), looping(spec)
    known.remembers = True
    assert everything(known, 50, strategy=strategy) == everything(earnest, 50, strategy=strategy)


@pytest.mark.parametrize(
    ("design", "scenario", "most"),
    [
        ("v6.16", "delete-fault", 0),
        ("v7.3", "td-fast-zap-private", 100),
        ("v7.3", "zap-running", 290),
    ],
)
def test_designs_that_repeat_themselves_execute_the_same(
    design: str, scenario: str, most: int
) -> None:
    """Retries are never folded here; the first two go round for ever, and in the last one it
    matters whether a prefix passes where a task gave up what it might have repeated."""

    def schedules(program: MachineProgram) -> list[Any]:
        seen: list[Any] = []
        options = Options(max_executions=most, retries=-1)
        program.machine.remember_after = 0
        search(program, options, on_execution=lambda e: seen.append((e.status, e.decisions)))
        return seen

    known, earnest = build(design, scenario).program, build(design, scenario).program
    earnest.remembers = False
    assert schedules(known) == schedules(earnest)


@pytest.mark.parametrize("scenario", ["refault-punch", "zap-zero-step"])
def test_most_of_a_search_is_looked_up(scenario: str) -> None:
    built = build("v7.3", scenario)
    result = search(built.program, Options(max_executions=400))
    memory = built.machine.memory
    assert memory is not None
    assert memory.looked_up > result.executions * 0.8


def program(look: str) -> MachineProgram:
    """Two tasks share a list under a lock, which is no cell; a third one makes schedules."""
    m = Machine()
    lock, x = SpinLock(m, "lock"), Word(m, "x", 0)
    shared: list[int] = []

    def task(n: int) -> None:
        lock.lock()
        if look == "list" and shared:
            x.write(n)
        shared.append(n)
        lock.unlock()
        x.read()

    return MachineProgram(m, [(f"t{n}", lambda n=n: task(n)) for n in range(2)])  # type: ignore[misc]


def test_a_task_that_looks_at_no_cell_is_found_out() -> None:
    fine, odd = program("nothing"), program("list")
    for made in (fine, odd):
        made.remembers = True
        made.machine.remember_after = 0
    search(fine)
    with pytest.raises(MachineError, match="no cell"):
        search(odd)


def test_what_settled_states_hold_is_judged_again_now_and_then() -> None:
    """So a judge that looks at something else is found out."""
    m = Machine()
    words = [Word(m, f"x{i}", 0) for i in range(8)]
    judged: list[int] = []

    def settle() -> None:
        judged.append(len(judged))
        if len(judged) > 1:
            m.report("I0", "another time")

    def task(mine: int) -> None:
        for word in words:
            word.write(0)
            word.read()

    made = MachineProgram(m, [(f"t{n}", lambda n=n: task(n)) for n in range(2)], settle)  # type: ignore[misc]
    made.remembers = True
    made.machine.remember_after = 0
    with pytest.raises(MachineError, match="settled state was judged otherwise"):
        search(made, Options(max_executions=400))
    assert len(judged) == 2


@pytest.mark.parametrize("cells_only", [False, True])
def test_a_protocol_says_whether_its_tasks_may_be_looked_up(cells_only: bool) -> None:
    def build_it(m: Machine) -> Tasks:
        x = Word(m, "x", 0)
        return Tasks({f"t{n}": lambda: (x.fetch_add(1), x.read(), None)[2] for n in range(3)})

    made = program_of(Protocol("counter", build_it, cells_only=cells_only))
    result = search(made)
    assert (made.machine.memory is not None) == cells_only
    assert (result.executions, result.blocked) == (36, 0)  # 3! orders; reads after 3, 2, 1 adds
