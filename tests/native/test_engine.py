# SPDX-License-Identifier: GPL-2.0-only
"""Executions by the scheduler in C are those that Python would have run, event by event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from native_rig import Rig

from septum.explore import Options, search
from septum.machine import Event, Execution, Policy
from septum.native.program import NativeProgram, SharingGrew

PROGRAMS = (
    ("increment", "increment", "increment"),
    ("claim", "claim", "set_flag"),
    ("locked_increment", "shared_read", "store_both"),
    ("reader", "unlink_rcu"),
    ("wait_for_flag", "set_flag", "increment"),
    ("first_wins", "increment", "increment"),
    ("unlink_now", "increment", "store_both"),
    ("create_td", "create_td", "create_other_td"),
    ("create_until_it_works", "create_td"),
)


def everything(event: Event) -> tuple[Any, ...]:
    names = ("task", "index", "op", "obj", "acc", "off", "since", "enabled", "choice", "options")
    return tuple(getattr(event, name) for name in (*names, "seen", "left", "could"))


def executions(rig: Rig, program: NativeProgram) -> list[Execution]:
    """Of a whole search."""
    program.warm_up()
    for _ in range(20):
        done: list[Execution] = []
        try:
            search(program, Options(), on_execution=done.append)
        except SharingGrew:
            continue
        return done
    raise AssertionError("sharing grows for ever")


@pytest.fixture(autouse=True)
def _python_again(rig: Rig) -> Iterator[None]:
    yield
    rig.image.answers = None


@pytest.mark.parametrize("functions", PROGRAMS, ids="+".join)
def test_c_and_python_run_the_same(rig: Rig, functions: tuple[str, ...]) -> None:
    by_python = executions(rig, rig.program(*functions))
    program = rig.program(*functions, engine=True)
    by_c = executions(rig, program)
    engine = program.engine
    assert engine is not None
    assert not engine.answers.conflict
    assert engine.served > 0
    assert [e.status for e in by_c] == [e.status for e in by_python]
    for one, other in zip(by_c, by_python, strict=True):
        assert list(map(everything, one.events)) == list(map(everything, other.events))


def test_what_is_to_be_reported_is_run_by_python(rig: Rig) -> None:
    """Deadlocks, crashes and rules of RCU: the same findings, with their schedules."""
    for functions in (
        ("a_then_b", "b_then_a"),
        ("careless_reader", "unlink_rcu"),
        ("increment", "null_dereference"),
        ("wait_for_flag", "increment"),
    ):
        plain = rig.explore(rig.program(*functions))
        fast = rig.explore(rig.program(*functions, engine=True))
        assert plain.found.keys() == fast.found.keys()
        assert {r: f.decisions for r, f in plain.found.items()} == {
            r: f.decisions for r, f in fast.found.items()
        }


def test_answers_are_learned_once(rig: Rig) -> None:
    """The module is asked for what is new only: a second search asks nothing."""
    program = rig.program("create_td", "create_td", "create_other_td", engine=True)
    rig.explore(program)
    engine = program.engine
    assert engine is not None
    engine.asked.clear()
    result = rig.explore(program)
    assert result.complete
    assert not engine.asked


def test_an_answer_that_changes_is_noticed(rig: Rig) -> None:
    """State that is in no cell would make remembered answers wrong: then Python runs all."""
    program = rig.program("create_td", "create_td", engine=True)
    rig.explore(program)
    module = program.driver.kernel.module
    seamcall, calls = module.seamcall, []

    def moody(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        program.machine.reach(f"call {len(calls)}")
        return seamcall(*args, **kwargs)

    module.seamcall = moody
    with pytest.raises(SharingGrew):
        for _ in range(2):
            program.engine.python_runs()  # type: ignore[union-attr]
            program.machine.forget()
            program.run((), (), Policy("random", seed=1))
    assert program.engine is None
