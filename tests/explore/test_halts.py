# SPDX-License-Identifier: GPL-2.0-only
"""BUG() ends an execution: every trace without it, every way to it, and what came before."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from generated import Spec, build, compare
from traces import past_of

from septum.explore import MachineProgram, Options, SearchResult, search
from septum.machine import Execution, Machine, Mutex, Word

SHAPES = {
    "two tasks, the same word": Spec(
        ((("bug", 0, 1),), (("bug", 0, 1),), (("radd", 0, 1), ("radd", 0, 1)))
    ),
    "two tasks, one after the other": Spec(
        ((("bug", 0, 1),), (("bug", 0, 2),), (("radd", 0, 1), ("radd", 0, 1)))
    ),
    "a lock is never released": Spec(
        ((("lbug", 0, 1), ("read", 1, 1)), (("wpoke", 0, 1),), (("wlock", 1, 2),))
    ),
    "a lock that is never released, behind others": Spec(
        ((("wpoke", 0, 1),), (("wpoke", 1, 1), ("lbug", 1, 1)), (("bug", 0, 2),))
    ),
    "what it left is a reason to fail": Spec(
        (((("tbug", 0, 1)),), (("try", 0, 1), ("write", 0, 1)))
    ),
    "in the middle of a step": Spec(((("ibug", 0, 1), ("write", 1, 1)), (("ibug", 0, 1),))),
    "in a section that others wait for": Spec(
        ((("sbug", 0, 1),), (("sync", 0, 1), ("write", 0, 1)))
    ),
    "for one option of a choice": Spec(((("cbug", 0, 1),), (("cbug", 0, 2),), (("write", 0, 2),))),
    "an exception in the model": Spec(((("raise", 0, 1),), (("write", 0, 1), ("bug", 1, 0)))),
    "TSO, a lock that waits for stores": Spec(
        ((("bug", 1, 1),), (("lbug", 0, 2),), (("write", 0, 1), ("wpoke", 1, 1))), "TSO"
    ),
    "TSO, a lock that is taken before somebody else's store": Spec(
        (
            (("lbug", 0, 1),),
            (("lbug", 0, 1), ("wpoke", 0, 1)),
            (("bug", 0, 1), ("write", 0, 1)),
        ),
        "TSO",
    ),
}


@pytest.mark.parametrize("spec", SHAPES.values(), ids=SHAPES)
def test_every_trace_and_every_way_to_bug(spec: Spec) -> None:
    done = compare(spec, states=20_000, naive=20_000)
    assert not done.given_up and any(r.startswith(("BUG", "EXCEPTION")) for r in done.rules)


def _program(*, late: bool) -> MachineProgram:
    """One task hits BUG() whatever happens; another one breaks a rule, and takes a lock that the
    first holds by then."""
    m = Machine()
    x, y, lock = Word(m, "x", 0), Word(m, "y", 0), Mutex(m, "L")

    def bug() -> None:
        if late:
            lock.lock()
        m.fatal("BUG:f", "boom") if x.read() == 0 else None

    def other() -> None:
        y.write(1)
        m.report("I99", "y was written")
        if late:
            lock.lock()
            lock.unlock()
        m.reach("the end")

    return MachineProgram(m, [("bug", bug), ("other", other)])


@pytest.mark.parametrize("late", [False, True])
def test_what_does_not_follow_bug_is_judged(late: bool) -> None:
    """Though it came later where the reduced search met it; and what follows is not."""
    seen: list[Execution] = []
    result = search(_program(late=late), on_execution=seen.append)
    every = search(_program(late=late), Options("naive"))
    assert set(result.found) == set(every.found) == {"BUG:f", "I99"}
    assert result.reached == every.reached == {"the end"}
    assert all(e.status == "halted" and e.findings[-1].rule == "BUG:f" for e in seen)
    assert result.executions == len(seen) == 1 + late


def test_bugs_that_do_not_depend_on_each_other_are_each_shown() -> None:
    """All of them commute: one trace, which is counted once, with three ends."""
    m = Machine()
    words = [Word(m, f"w{i}", 0) for i in range(3)]

    def task(n: int) -> None:
        if words[n].read() == 0:
            m.fatal(f"BUG:f{n}", "boom")

    program = MachineProgram(m, [(f"t{n}", partial(task, n)) for n in range(3)])
    ways: Counter[object] = Counter()
    result = search(program, on_execution=lambda e: ways.update([past_of(e)]))
    assert result.executions == 1 and sorted(result.found) == ["BUG:f0", "BUG:f1", "BUG:f2"]
    assert sorted(ways.values()) == [1, 1, 1]
    assert all(len(found.decisions) == 1 for found in result.found.values())


def test_who_waits_for_the_dead_spins_no_longer_than_for_the_living() -> None:
    """The others' rounds, which are in vain before BUG(), are not run again."""
    m = Machine()
    flag, x = Word(m, "flag", 0), Word(m, "x", 0)

    def bug() -> None:
        if x.read() == 0:
            m.fatal("BUG:f", "boom")
        flag.write(1)

    def spins() -> None:
        while flag.read() == 0:
            pass

    program = MachineProgram(m, [("bug", bug), ("spins", spins), ("x", lambda: x.write(1))])
    seen: list[Execution] = []
    result = search(program, on_execution=seen.append)
    every = search(program, Options("naive"))
    assert result.complete and set(result.found) == set(every.found) == {"BUG:f"}
    assert {e.status for e in seen} == {"complete", "halted", "matched"}


@pytest.mark.parametrize("spec", SHAPES.values(), ids=SHAPES)
def test_executions_that_are_looked_up_go_on_after_bug_as_well(spec: Spec) -> None:
    def everything(program: MachineProgram) -> tuple[list[object], SearchResult]:
        seen: list[object] = []
        result = search(
            program,
            on_execution=lambda e: seen.append((e.status, e.decisions, e.findings, e.reached)),
        )
        result.seconds = 0.0
        return seen, result

    known, earnest = build(spec), build(spec)
    known.remembers = True
    assert everything(known) == everything(earnest)
