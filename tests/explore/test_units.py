# SPDX-License-Identifier: GPL-2.0-only
"""A search in units: the same traces and findings as in one piece, shared in any order."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable

import pytest
from generated import BUGS, Spec, build
from programs import file_system, indexer, last_zero, random_program, readers

from septum.explore import MachineProgram, Options, frontier, search
from septum.explore.frontier import CLASSES, Frontier
from septum.explore.plain import pack, unpack
from septum.explore.units import Size, UnitResult, explore_unit
from septum.explore.wakeup import Early, left_awake
from septum.machine import Limits, Machine, Word


def explore(
    program: MachineProgram,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    *,
    width: int = 8,
    order: int | None = None,
    put_aside: bool = False,
) -> Frontier:
    """Units of ``size`` executions, explored in a random order if ``order`` is a seed;
    ``put_aside``: everything is written to text and read again between units."""
    monkeypatch.setattr(frontier, "UNIT", Size(size, 10**9))
    monkeypatch.setattr(frontier, "_LEAST", width)
    search = Frontier.start("optimal")
    rng = random.Random(order)
    results: dict[int, UnitResult] = {}
    while not search.finished:
        if put_aside:
            search, results = unpack(pack(search, CLASSES), CLASSES), {}
        waiting = [task for task in search.tasks if id(task) not in results]
        task = waiting[0] if order is None or put_aside else rng.choice(waiting)
        branch = pickle.loads(pickle.dumps(task.branch))
        results[id(task)] = explore_unit(program, branch, search.size(task), limits=Limits())
        while search.tasks and id(search.tasks[0]) in results:
            search.merge(results.pop(id(search.tasks[0])))
    assert search.nodes == {}
    return search


PROGRAMS: list[tuple[Callable[[int], MachineProgram], int]] = [
    (readers, 6),
    (last_zero, 5),
    (file_system, 16),
    (indexer, 12),
]


@pytest.mark.parametrize(("make", "n"), PROGRAMS)
@pytest.mark.parametrize("size", [1, 7])
def test_literature(
    make: Callable[[int], MachineProgram], n: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(make(n))
    parts = explore(make(n), monkeypatch, size)
    assert parts.found.complete and parts.found.traces == whole.traces
    assert parts.units > 1


@pytest.mark.parametrize("block", range(4))
def test_random_programs(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any order of the units gives the same; and the same traces as one piece."""
    for seed in range(block * 20, block * 20 + 20):
        whole = search(random_program(seed))
        if whole.executions > 100:
            continue  # takes long in units of one or two
        shared = [
            explore(random_program(seed), monkeypatch, 1 + seed % 3, order=order).found
            for order in (None, seed)
        ]
        aside = explore(random_program(seed), monkeypatch, 1 + seed % 3, put_aside=True).found
        for found in (*shared, aside):
            found.seconds = 0.0
            assert found.complete and found.traces == whole.traces, seed
            assert set(found.found) == set(whole.found)
            assert found == shared[0]


def _with_bug(seed: int) -> Spec:
    rng = random.Random(seed)
    tasks, longest = rng.choice([(2, 3), (3, 2)])

    def op() -> tuple[str, int, int]:
        return (rng.choice(BUGS), rng.randrange(2), rng.randint(1, 3))

    return Spec(tuple(tuple(op() for _ in range(rng.randint(1, longest))) for _ in range(tasks)))


def test_programs_that_bug_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same findings and traces in any order, though BUG() ends executions."""
    compared = 0
    for seed in range(60):
        spec = _with_bug(seed)
        whole = search(build(spec))
        if whole.executions > 60 or not any(rule.startswith("BUG") for rule in whole.found):
            continue
        compared += 1
        size = 1 + seed % 3
        shared = [
            explore(build(spec), monkeypatch, size, order=order).found for order in (None, seed)
        ]
        shared.append(explore(build(spec), monkeypatch, size, put_aside=True).found)
        for found in shared:
            found.seconds = 0.0
            assert found.traces == whole.traces and set(found.found) == set(whole.found), seed
            assert found == shared[0], seed
    assert compared > 5


@pytest.mark.parametrize("make", [lambda: readers(6), lambda: last_zero(5)])
def test_alone_a_search_in_units_is_the_search(
    make: Callable[[], MachineProgram], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not shared, it makes the very same executions, none of them blocked."""
    whole = search(make())
    monkeypatch.setattr(frontier, "_MOST", 1)
    for size in (1, 10):
        parts = explore(make(), monkeypatch, size, width=1).found
        assert (parts.executions, parts.traces, parts.steps) == (
            whole.executions,
            whole.traces,
            whole.steps,
        )


CHOICES = ("choose", "gchosen", "cpath", "cbug", "path", "read", "write", "set", "gate", "wlock")


def _with_choices(seed: int) -> Spec:
    rng = random.Random(seed)
    tasks, longest = rng.choice([(2, 4), (3, 2), (4, 1)])

    def op() -> tuple[str, int, int]:
        return (rng.choice(CHOICES), rng.randrange(2), rng.randint(1, 2))

    return Spec(
        tuple(tuple(op() for _ in range(rng.randint(1, longest))) for _ in range(tasks)),
        "TSO" if seed % 4 == 0 else "SC",
    )


@pytest.mark.parametrize("block", range(2))
def test_programs_that_choose(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step from which others explore may have options that nobody explores yet."""
    compared = 0
    for seed in range(block, 80, 2):
        spec = _with_choices(seed)
        whole = search(build(spec), Options(max_executions=70))
        if not whole.complete:
            continue
        compared += 1
        for order in (None, seed):
            parts = explore(build(spec), monkeypatch, 1 + seed % 3, order=order).found
            assert parts.complete and parts.traces == whole.traces, spec
            assert set(parts.found) == set(whole.found), spec
    assert compared > 20


@pytest.mark.parametrize(
    ("asleep", "awake"),
    [
        # picks and options of each sleeper; the first options that are awake
        ([((), ())], None),
        ([((), (3,))], (1,)),
        ([((1,), (3,))], (0,)),
        ([((), (2,)), ((1,), (2,))], None),
        ([((), (2, 3)), ((1,), (2,))], (0, 1)),
        ([((), (2, 2)), ((0, 1), (2, 2))], (1,)),
        ([((), (2, 2)), ((0, 1), (2, 2)), ((1,), (2,))], None),
    ],
)
def test_which_options_are_left_awake(
    asleep: list[tuple[tuple[int, ...], tuple[int, ...]]], awake: tuple[int, ...] | None
) -> None:
    sleepers = [((0, picks), Early((), options)) for picks, options in asleep]
    assert left_awake(sleepers) == awake


def test_a_plan_that_comes_too_late_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part that begins with task 2 is begun before task 1's says what else is to come first;
    all below task 0's step is explored by then."""
    tasks = ((("runtil", 1, 3),), (("rend", 1, 3),), (("write", 0, 1), ("lbug", 1, 3)))
    spec = Spec((*tasks, (("cas", 0, 2),)), "TSO")
    for size in (1, 2, 3, 4):
        parts = explore(build(spec), monkeypatch, size)
        assert parts.found.traces == search(build(spec)).traces == 6


def test_a_late_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes up when the search is shared already."""

    def make() -> MachineProgram:
        m = Machine()
        x, y = Word(m, "x", 0), Word(m, "y", 0)

        def late() -> None:
            if x.read() == 2:
                y.write(m.choose("c", (1, 2, 3)))
            y.read()

        def two() -> None:
            x.write(1)
            y.write(7)
            x.write(2)

        return MachineProgram(m, [("late", late), ("two", two), ("r", lambda: (y.read(), None)[1])])

    whole = search(make())
    parts = explore(make(), monkeypatch, 1)
    assert parts.units > 1 and parts.found.traces == whole.traces


def test_a_bound_is_kept_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontier, "UNIT", Size(5, 10**9))
    program = readers(6)
    for most in (1, 5, 12, 33):
        search = Frontier.start("optimal", most=most)
        while not search.finished:
            task = search.tasks[0]
            search.merge(explore_unit(program, task.branch, search.size(task), limits=Limits()))
        assert search.found.executions == most
        assert search.found.bounds_hit == [f"{most} executions"] and not search.found.complete
