# SPDX-License-Identifier: GPL-2.0-only
"""BUG() and WARN() in compiled code while others run: as in a Python program of the same text."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from native_rig import Rig
from test_states import settled

from septum.explore import MachineProgram, Options, SearchResult, search
from septum.machine import Execution, Machine, Mutex, Word
from septum.native.program import NativeProgram

sys.path.insert(0, str(Path(__file__).parents[1] / "explore"))
from traces import past_of, trace_of

PROGRAMS = (
    ("bug_unless_x", "set_x"),
    ("bug_unless_x", "set_x", "wait_for_flag"),
    ("bug_with_lock", "set_x", "store_locked", "look_at_y"),
    ("bug_unless_x", "bug_with_lock", "set_x", "store_locked"),
    ("warn_unless_x", "set_x", "wait_for_flag"),
    ("warn_unless_x", "bug_with_lock", "set_x"),
)
WORDS = ("flag+0", "lock_a+0", "x+0", "y+0")


def twin(*functions: str) -> MachineProgram:
    """The fixture's functions, in Python."""
    m = Machine()
    x, y, flag, lock = (Word(m, "x", 0), Word(m, "y", 0), Word(m, "flag", 0), Mutex(m, "lock_a"))

    def bug_unless_x() -> None:
        if not x.read():
            m.fatal("BUG:bug_unless_x", "")
        flag.write(2)

    def bug_with_lock() -> None:
        lock.lock()
        if not x.read():
            m.fatal("BUG:bug_with_lock", "")
        lock.unlock()

    def warn_unless_x() -> None:
        if not x.read():
            m.report("WARN:warn_unless_x", "")
        flag.write(3)

    def wait_for_flag() -> None:
        while not flag.read():
            m.blame(flag)
            m.retry("wait_for_flag")
        x.read()

    def store_locked() -> None:
        y.write(4)
        lock.lock()
        y.write(5)
        lock.unlock()

    known: dict[str, Callable[[], object]] = {
        "bug_unless_x": bug_unless_x,
        "bug_with_lock": bug_with_lock,
        "warn_unless_x": warn_unless_x,
        "wait_for_flag": wait_for_flag,
        "store_locked": store_locked,
        "set_x": lambda: x.write(1),
        "look_at_y": y.read,
    }

    def run(function: str) -> None:
        known[function]()

    return MachineProgram(m, [(f"t{n}", partial(run, f)) for n, f in enumerate(functions)])


def executed(program: MachineProgram) -> tuple[SearchResult, list[Execution]]:
    seen: list[Execution] = []
    return search(program, on_execution=seen.append), seen


def told(executions: list[Execution]) -> Counter[object]:
    """Each complete execution's trace, and of one that BUG() ends the way there, with the rules
    that broke."""
    out: Counter[object] = Counter()
    for execution in executions:
        way = past_of if execution.status == "halted" else trace_of
        rules = tuple(f.rule for f in execution.findings)
        out[execution.status, way(execution), rules] += 1
    return out


@pytest.fixture(autouse=True)
def _python_again(rig: Rig) -> Iterator[None]:
    yield
    rig.image.answers = None


def compiled(rig: Rig, *functions: str, engine: bool) -> NativeProgram:
    program = rig.program(*functions, engine=engine)
    program.settle = None
    program.know(WORDS)
    return program


@pytest.mark.parametrize("engine", [False, True], ids=["Python", "C"])
@pytest.mark.parametrize("functions", PROGRAMS, ids="+".join)
def test_traces_and_findings_are_the_twins(
    rig: Rig, functions: tuple[str, ...], engine: bool
) -> None:
    """Whoever schedules; with each way to a BUG(), and what the others do without one."""
    by_twin, of_twin = executed(twin(*functions))
    by_c, of_c = executed(compiled(rig, *functions, engine=engine))
    assert by_c.complete
    assert by_c.found.keys() == by_twin.found.keys()
    assert by_c.executions == by_twin.executions
    assert told(of_c) == told(of_twin)


@pytest.mark.parametrize("functions", PROGRAMS, ids="+".join)
def test_a_search_over_states_finds_the_same(rig: Rig, functions: tuple[str, ...]) -> None:
    """BUG() ends what it comes in; all else is explored, and settles alike."""
    by_twin, _ = executed(twin(*functions))
    reduced = compiled(rig, *functions, engine=True)
    for _ in range(2):  # what Python runs itself, it settles itself: learn all answers
        executed(reduced)
    program = compiled(rig, *functions, engine=True)
    by_states = search(program, Options(strategy="stateful"))
    assert by_states.complete
    assert by_states.found.keys() == by_twin.found.keys()
    assert settled(program) == settled(reduced)
    for rule, found in by_states.found.items():
        again = rig.program(*functions).run(found.decisions)
        assert rule in {f.rule for f in again.findings}
        assert again.status == "halted" or not rule.startswith("BUG")


def test_nothing_that_follows_a_bug_is_told(rig: Rig) -> None:
    """Who waits for what the dead task holds, or would have written, is no finding."""
    functions = ("bug_with_lock", "store_locked", "wait_for_flag")
    for strategy in ("optimal", "stateful"):
        program = compiled(rig, *functions, engine=True)
        result = search(program, Options(strategy=strategy))
        assert result.complete
        assert set(result.found) == {"BUG:bug_with_lock"}
        assert "fixture.c:" in result.found["BUG:bug_with_lock"].finding.message
