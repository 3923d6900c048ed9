# SPDX-License-Identifier: GPL-2.0-only
"""Strategy ``stateful``: the same findings and settled states as DPOR's, over fewer steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from native_rig import Rig
from test_engine import PROGRAMS

from septum.explore import Options, SearchResult, search
from septum.native.program import NativeProgram, SharingGrew

STATEFUL = Options(strategy="stateful")

BROKEN = (
    ("a_then_b", "b_then_a"),
    ("careless_reader", "unlink_rcu"),
    ("reader", "unlink_now"),
    ("unlink_now", "unlink_now", "reader"),
    ("increment", "null_dereference"),
    ("increment", "bug", "increment"),
    ("wait_for_flag", "increment"),
    ("unlock_only", "locked_increment"),
)


@pytest.fixture(autouse=True)
def _python_again(rig: Rig) -> Iterator[None]:
    yield
    rig.image.answers = None


def settled(program: NativeProgram) -> set[tuple[int, int]]:
    """Settled states that broke no rule; memory only, since numbers of Python's states are
    given as they are met."""
    assert program.engine is not None
    return {(0, memory) for _, memory in program.engine.settled}


def both(rig: Rig, *functions: str) -> tuple[SearchResult, SearchResult, bool]:
    """DPOR, the search over states, and whether they settle in the same states."""
    reduced = rig.program(*functions, engine=True)
    by_traces = rig.explore(reduced)
    stateful = rig.program(*functions, engine=True)
    by_states = rig.explore(stateful, STATEFUL)
    return by_traces, by_states, settled(reduced) == settled(stateful)


@pytest.mark.parametrize("functions", PROGRAMS, ids="+".join)
def test_states_and_traces_end_alike(rig: Rig, functions: tuple[str, ...]) -> None:
    by_traces, by_states, same = both(rig, *functions)
    assert by_states.complete
    assert by_states.states
    assert by_states.transitions >= by_states.states - 1
    assert not by_states.found
    assert by_states.reached == by_traces.reached
    assert same


@pytest.fixture
def flag_is_shared(rig: Rig) -> None:
    """Also where nobody sets it: else a task that waits for it has no points."""
    rig.explore(rig.program("wait_for_flag", "set_flag"))


@pytest.mark.usefixtures("flag_is_shared")
@pytest.mark.parametrize("functions", BROKEN, ids="+".join)
def test_the_same_rules_break(rig: Rig, functions: tuple[str, ...]) -> None:
    """And the schedule that shows it is one that the ordinary path runs."""
    by_traces, by_states, _ = both(rig, *functions)
    assert by_states.complete
    assert by_states.found.keys() == by_traces.found.keys()
    for rule, found in by_states.found.items():
        program = rig.program(*functions)
        execution = program.run(found.decisions)
        assert rule in {f.rule for f in execution.findings}


def test_fewer_steps_than_traces_take(rig: Rig) -> None:
    by_traces, by_states, _ = both(rig, "increment", "increment", "increment")
    assert by_states.transitions < by_traces.steps


def test_choices_are_explored(rig: Rig) -> None:
    """A choice is part of its step: every option leads to a state of its own."""
    program = rig.program("first_wins", "increment", "increment", engine=True)
    with_choice = rig.explore(program, STATEFUL)
    without = rig.explore(rig.program("increment", "increment", engine=True), STATEFUL)
    assert with_choice.complete
    assert with_choice.states > without.states


def test_a_step_makes_as_many_choices_as_a_walk_has_entries(rig: Rig) -> None:
    _, by_states, same = both(rig, "may_stop_anywhere", "increment")
    assert by_states.complete, by_states.bounds_hit
    assert same


def test_a_cycle_that_leaves_nobody_out_is_a_livelock(rig: Rig) -> None:
    """Two tasks that make each other try again, for ever; found where a state comes back."""
    result = rig.explore(rig.program("give_way", "give_way", engine=True), STATEFUL)
    assert set(result.found) == {"LIVELOCK"}
    assert result.cycles
    assert "repeat" in result.found["LIVELOCK"].finding.message
    fair = rig.explore(rig.program("give_way", "increment", engine=True), STATEFUL)
    assert not fair.found


def test_budget_and_first_end_it_early(rig: Rig) -> None:
    program = rig.program("a_then_b", "b_then_a", engine=True)
    result = rig.explore(program, Options(strategy="stateful", first=True))
    assert result.found
    assert result.bounds_hit == ["stopped at the first finding"]
    program = rig.program("create_td", "create_td", "create_other_td", engine=True)
    result = rig.explore(program, Options(strategy="stateful", budget_s=1e-9))
    assert not result.complete
    assert result.bounds_hit == ["time budget"]


def test_what_a_search_over_states_has_noted_is_reported_again(rig: Rig) -> None:
    """A search over traces that follows it in the same image begins with a clean slate."""
    rig.explore(rig.program("increment", "null_dereference", engine=True), STATEFUL)
    found = rig.explore(rig.program("unlock_only", "locked_increment", engine=True)).found
    assert set(found) == {"I10"}


# --- learning, by searches over states alone -----------------------------------------------


def from_scratch(rig: Rig, *functions: str) -> tuple[SearchResult, NativeProgram, int]:
    """Without random executions that learn; and how often the search began."""
    program = rig.program(*functions, engine=True)
    program.know(())
    assert program.engine is not None
    for begun in range(1, 20):
        program.engine.settled.clear()
        try:
            return search(program, STATEFUL), program, begun
        except SharingGrew:
            continue
    raise AssertionError("sharing grows for ever")


@pytest.mark.parametrize("functions", [*PROGRAMS, *BROKEN], ids="+".join)
def test_a_search_over_states_learns_what_it_needs(rig: Rig, functions: tuple[str, ...]) -> None:
    rig.explore(rig.program("wait_for_flag", "set_flag"))  # else who waits has no points
    reduced = rig.program(*functions, engine=True)
    by_traces = rig.explore(reduced)
    by_states, program, _ = from_scratch(rig, *functions)
    if "wait_for_flag" not in functions:
        assert by_states.complete
        assert by_states.found.keys() == by_traces.found.keys()
        assert functions in BROKEN or settled(program) == settled(reduced)


def test_what_different_branches_touch_is_not_shared(unlearned: Rig) -> None:
    """Whoever is last uses the object; marks of both branches alone would make it a race."""
    by_states, program, begun = from_scratch(unlearned, "last_frees", "last_frees")
    assert by_states.complete
    assert not by_states.found
    assert program.words() == ("x+0",)
    assert begun <= 4
    assert len(settled(program)) == 1


def test_what_python_does_before_a_task_has_points_is_another_question(unlearned: Rig) -> None:
    """Nothing is known of x at first: the page is handed back before any point."""
    by_states, program, begun = from_scratch(unlearned, "look_and_hand_back", "set_x")
    assert begun > 1
    assert program.engine is not None
    assert by_states.complete


WALKS: tuple[tuple[tuple[str, ...], set[str]], ...] = (
    (("walk_locked", "free_table"), set()),
    (("walk_locked", "free_table", "free_table"), set()),
    (("walk_on_unlocked", "free_table"), {"I6"}),
    (("walk_and_lock_between", "free_table"), {"I6"}),
    (("walk_locked", "write_table", "free_table"), set()),
    (("walk_on_unlocked", "write_table", "free_table"), {"I6"}),
)


@pytest.mark.parametrize(("functions", "rules"), WALKS)
def test_of_a_page_that_is_freed_one_read_of_a_step_is_a_point(
    unlearned: Rig, functions: tuple[str, ...], rules: set[str]
) -> None:
    """The same rules as with a point at each word break."""
    by_states, program, _ = from_scratch(unlearned, *functions)
    words = program.words()
    assert by_states.complete
    assert by_states.states < 500
    assert set(by_states.found) == rules
    freed = [word for word in words if word.endswith("@free")]
    assert len(freed) == (15 if "write_table" in functions else 16)
    by_traces = unlearned.explore(unlearned.program(*functions, engine=True))
    assert by_traces.complete
    assert set(by_traces.found) == rules
    each = unlearned.program(*functions, engine=True)
    each.know(tuple(word.removesuffix("@free") for word in words))
    assert len(search(each, STATEFUL).found) == len(rules)
