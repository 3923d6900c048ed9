# SPDX-License-Identifier: GPL-2.0-only
"""Compiled code under the explorer, without a kernel: gcc's instrumentation, our runtime."""

from __future__ import annotations

import shutil

import pytest
from native_rig import Rig

from septum.explore import Options, search
from septum.machine import Decision, Halt, Policy
from septum.native.words import united

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("gcc", "ld", "nm", "addr2line")),
    reason="gcc and binutils are needed: apt install gcc binutils",
)


def finals(reached: set[str]) -> set[str]:
    return {r for r in reached if "=" in r}


def test_a_race_shows_in_the_final_states(rig: Rig) -> None:
    """Both orders, and the lost update: a word read before and written after the other's."""
    result = rig.explore(rig.program("increment", "increment", final=("x",)))
    assert result.complete
    assert finals(result.reached) == {"x=1", "x=2"}


@pytest.mark.parametrize("function", ["atomic_increment", "locked_increment"])
def test_no_update_is_lost(rig: Rig, function: str) -> None:
    result = rig.explore(rig.program(function, function, function, final=("x",)))
    assert result.complete
    assert finals(result.reached) == {"x=3"}


def test_store_buffering_is_sequentially_consistent(rig: Rig) -> None:
    result = rig.explore(rig.program("store_both", "store_other"))
    assert result.complete
    outcomes = {r for r in result.reached if r.startswith("results")}
    assert outcomes == {"results [0, 1]", "results [1, 0]", "results [1, 1]"}


@pytest.mark.parametrize(
    "functions",
    [
        ("increment", "increment"),
        ("claim", "claim", "set_flag"),
        ("locked_increment", "shared_read", "store_both"),
        ("reader", "unlink_rcu"),
        ("a_then_b", "locked_increment"),
        ("own_reads", "observe"),
        ("own_reads", "increment"),
    ],
)
def test_reduction_loses_nothing(rig: Rig, functions: tuple[str, ...]) -> None:
    """The same outcomes as every interleaving without reduction."""
    program = rig.program(*functions, final=("x", "y", "flag"))
    reduced = rig.explore(program)
    whole = rig.explore(program, Options(strategy="naive"))
    assert reduced.complete
    assert whole.complete
    assert reduced.reached == whole.reached
    assert set(reduced.found) == set(whole.found)
    assert reduced.executions <= whole.executions


def test_opposite_lock_orders_deadlock(rig: Rig) -> None:
    result = rig.explore(rig.program("a_then_b", "b_then_a"))
    assert set(result.found) == {"DEADLOCK"}
    assert "lock_a" in result.found["DEADLOCK"].finding.message


def test_what_only_one_task_uses_is_no_point(rig: Rig) -> None:
    program = rig.program("private_work", "private_work")
    result = rig.explore(program)
    assert (result.executions, result.steps) == (1, 0)
    assert "results [2016, 2016]" in result.reached


def test_the_only_writers_own_reads_are_no_points(unlearned: Rig) -> None:
    """Until another task is found to write the word."""
    rig = unlearned
    program = rig.program("own_reads", "observe")
    result = rig.explore(program)
    assert {r for r in result.reached if "results" in r} == {"results [10, 0]", "results [10, 1]"}
    assert result.steps == 2 * result.executions
    assert [word for word in program.words() if "@" in word] == ["x+0@0"]
    program = rig.program("own_reads", "increment")
    assert rig.explore(program).complete
    assert "x+0" in program.words()


def test_what_searches_learned_is_united() -> None:
    assert united(["a+0@1", "a+0@1", "b+8"]) == ("a+0@1", "b+8")
    assert united(["a+0@1", "a+0@0"]) == united(["a+0", "a+0@0"]) == ("a+0",)


def test_a_freed_lock(rig: Rig) -> None:
    """Both orders of locking and freeing are tried: one of them uses freed memory."""
    for functions in (("lock_inside", "unlink_now"), ("unlink_now", "lock_inside")):
        result = rig.explore(rig.program(*functions))
        assert result.complete
        assert set(result.found) == {"I6"}
        assert "lock_inside" in result.found["I6"].finding.message


def test_what_python_reads_for_a_task_shares_the_word(unlearned: Rig) -> None:
    """A monitor's read beside the only writer: nothing else would make it a point."""
    rig = unlearned
    program = rig.program("own_reads", "private_work")
    assert not rig.explore(program).steps
    image, addr = rig.image, rig.image.symbols["x"]
    image.restore()
    image.begin()
    image.exploring.value = 1
    assert image.peek(addr, 1) == image.peek(addr, -1) == 0
    image.poke(addr, 1, 0)
    image.exploring.value = 0
    assert image.new_shared_count.value == 1
    assert (addr, 0) in image.shared()
    program.forget_sharing()


def test_a_retry_that_nobody_sees_ends(rig: Rig) -> None:
    """Start states and epilogues are run by nobody else: what does not end there is an error."""
    rig.image.restore()
    driver = rig.driver()
    with pytest.raises(Halt):
        driver.sequential("retry_for_ever")
    (finding,) = driver.m.findings
    assert finding.rule == "EXCEPTION"
    assert "retry_for_ever() does not end with nobody else running" in finding.message
    assert "it repeats 'retry_for_ever'" in finding.message
    assert "fixture.c:" in finding.message


def test_a_failed_attempt_waits_for_others(rig: Rig) -> None:
    result = rig.explore(rig.program("wait_for_flag", "set_flag"))
    assert result.complete
    assert result.folded
    assert "results [9, 0]" in result.reached
    alone = rig.explore(rig.program("wait_for_flag", "increment"))
    assert set(alone.found) == {"STUCK"}


def test_a_word_is_learned_although_who_waits_for_it_comes_first(rig: Rig) -> None:
    rig.image.share_only([])
    rig.explore(rig.program("increment", "increment"))  # set_flag stops at x, before the flag
    result = rig.explore(rig.program("wait_for_flag", "set_flag"))
    assert result.complete and not result.found


def test_rcu_readers_are_judged(rig: Rig) -> None:
    """Legal inside a section older than call_rcu(); everything else is use of freed memory."""
    assert not rig.explore(rig.program("reader", "unlink_rcu")).found
    for functions in (("careless_reader", "unlink_rcu"), ("reader", "unlink_now")):
        result = rig.explore(rig.program(*functions))
        assert set(result.found) == {"I6"}, functions
        assert "fixture.c" in result.found["I6"].finding.message


@pytest.mark.parametrize(
    ("function", "rule", "text"),
    [
        ("null_dereference", "BUG:null_dereference", "bad address 0x8"),
        ("bug", "BUG:bug", "invalid opcode"),
        ("endless", "LIVELOCK", "no end"),
        ("unlock_only", "I10", "unlock without the lock"),
    ],
)
def test_a_crash_is_a_finding(rig: Rig, function: str, rule: str, text: str) -> None:
    """Contained, with the place in the source; the process and later runs are unharmed."""
    result = rig.explore(rig.program("increment", function))
    assert rule in result.found
    message = result.found[rule].finding.message
    assert text in message
    assert "fixture.c:" in message
    assert not rig.explore(rig.program("increment", "atomic_increment")).found


def test_choices_are_explored(rig: Rig) -> None:
    result = rig.explore(rig.program("increment", "increment", "first_wins"))
    outcomes = {r.rpartition(", ")[2] for r in result.reached if r.startswith("results")}
    assert outcomes == {"1]", "2]", "3]"}


def test_the_same_decisions_give_the_same_log(rig: Rig) -> None:
    program = rig.program("increment", "locked_increment", "set_flag")
    rig.explore(program)
    program.machine.forget()
    first = program.run((), (), Policy("random", seed=4))
    log = [(e.task, e.op, e.obj, e.seen, e.left, list(e.acc)) for e in first.events]
    program.machine.forget()
    again = program.run([Decision(e.task, e.choice) for e in first.events])
    assert [(e.task, e.op, e.obj, e.seen, e.left, list(e.acc)) for e in again.events] == log


def test_every_execution_begins_from_the_saved_memory(rig: Rig) -> None:
    program = rig.program("set_flag", "unlink_now", final=("x", "flag"))
    rig.explore(program)
    rig.image.restore()
    assert (rig.value("x"), rig.value("flag")) == (0, 0)
    assert rig.image.u64(rig.value("object") + 16) == 5


def test_scheduling_points_are_carried_to_another_search(rig: Rig) -> None:
    """By names; with those of another search, what this one learned is forgotten."""
    program = rig.program("increment", "increment", final=("x",))
    program.know(())
    assert program.words() == ()
    program.warm_up()
    learned = program.words()
    assert "x+0" in learned
    program.know(())
    assert program.words() == ()
    program.know((*learned, "no such symbol+8", "x"))
    assert program.words() == learned
    assert search(program, Options()).complete, "nothing more is found"
