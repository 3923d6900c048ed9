# SPDX-License-Identifier: GPL-2.0-only
"""Steps that take another path when their race is reversed, and then depend on others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import permutations

import pytest
from generated import Spec, build
from traces import trace_of

from septum.explore import MachineProgram, Options, search
from septum.machine import Execution, Machine, Word


def conditional(order: tuple[str, ...]) -> MachineProgram:
    """A step stores to b only as long as nobody has stored to a; b is read meanwhile."""
    m = Machine()
    a, b = Word(m, "a", 0), Word(m, "b", 0)

    def path() -> None:
        with m.step("path", "path"):
            if a.read() == 0:
                b.write(1)

    bodies: dict[str, Callable[[], None]] = {
        "store a": lambda: a.write(1),
        "read b": lambda: b.read(),
        "path": path,
    }
    return MachineProgram(m, [(name, bodies[name]) for name in order])


def _counted(make: Callable[[], MachineProgram], strategy: str) -> Counter[object]:
    seen: Counter[object] = Counter()

    def count(execution: Execution) -> None:
        if execution.status != "covered":
            seen[trace_of(execution)] += 1

    assert search(make(), Options(strategy), on_execution=count).complete
    return seen


@pytest.mark.parametrize("order", list(permutations(("store a", "read b", "path"))))
def test_a_step_that_stores_only_if_it_comes_first(order: tuple[str, ...]) -> None:
    assert search(conditional(order)).blocked == 0
    reduced = _counted(lambda: conditional(order), "optimal")
    assert set(reduced) == set(_counted(lambda: conditional(order), "naive"))
    assert len(reduced) == reduced.total() == 3


SHAPES = {
    # What a lock that is never got would do is not known at all.
    "a wait under a lock, and one that never ends": (
        ("until", 0, 1),
        ("runtil", 0, 2),
        ("gate", 0, 1),
        ("wpoke", 0, 1),
    ),
    # Only the second option stores: it must come first, not the first one.
    "a choice decides": (("write", 0, 1), ("cpath", 0, 1)),
    "a choice decides, among others": (("path", 0, 1), ("path", 0, 1), ("cpath", 0, 2)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_trace_once(name: str) -> None:
    spec = Spec(tuple((op,) for op in SHAPES[name]))
    assert search(build(spec)).blocked == 0
    reduced = _counted(lambda: build(spec), "optimal")
    assert set(reduced) == set(_counted(lambda: build(spec), "naive"))
    assert max(reduced.values()) == 1


def test_a_run_that_is_broken_off_may_have_steps_that_others_share() -> None:
    """Under TSO outcomes are not foretold.  The options and races of the steps that lead to where
    a run is broken off count in those that go on from them."""
    spec = Spec(((("choose", 1, 1),), (("path", 0, 2),), (("cpath", 0, 1),)), model="TSO")
    assert search(build(spec)).blocked > 0
    reduced = _counted(lambda: build(spec), "optimal")
    assert set(reduced) == set(_counted(lambda: build(spec), "naive"))
    assert max(reduced.values()) == 1
