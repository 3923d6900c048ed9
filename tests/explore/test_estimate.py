# SPDX-License-Identifier: GPL-2.0-only
"""The guess of what is left: never below what is surely left, near the truth in the end."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from programs import last_zero, readers

from septum.explore import MachineProgram, Options, SearchResult, search
from septum.explore.estimate import left_text
from septum.explore.frontier import Frontier
from septum.explore.units import Size, explore_unit
from septum.machine import Limits
from septum.scenarios.build import build
from septum.scenarios.suite import find


def guesses(program: MachineProgram, size: int) -> list[tuple[int, int, int]]:
    """Executions, and the guess from .. to, after every unit of a search."""
    frontier = Frontier.start("optimal")
    out = []
    while not frontier.finished:
        branch = frontier.tasks[0].branch
        frontier.merge(explore_unit(program, branch, Size(size, 10**6), limits=Limits()))
        out.append((frontier.found.executions, *frontier.found.expected))
    return out


@pytest.mark.parametrize(("make", "n"), [(readers, 7), (last_zero, 6)])
@pytest.mark.parametrize("size", [7, 50])
def test_a_search_never_claims_to_be_at_its_end(
    make: Callable[[int], MachineProgram], n: int, size: int
) -> None:
    *before, (total, low, high) = guesses(make(n), size)
    assert low == high == total
    assert before and all(now < low <= high <= 10 * low for now, low, high in before if high)


def test_on_a_row_it_is_of_the_right_size() -> None:
    told = guesses(build("v7.3", find("install-leaf-fails")).program, 25)
    *before, (total, _, _) = told
    late = [(now, low, high) for now, low, high in before if 3 * now > total]
    assert len(late) > 5
    assert all(low < 2 * total and total / 2 < high for _, low, high in late)
    shares = [now / high for now, _, high in late]
    assert sum(b < a for a, b in pairwise(shares)) <= len(shares) // 3


@pytest.mark.parametrize("strategy", ["optimal", "random"])
def test_the_api_tells_progress(strategy: str) -> None:
    told: list[tuple[int, tuple[int, int]]] = []
    result = search(
        readers(7),
        Options(strategy, max_executions=0 if strategy == "optimal" else 90),
        progress=lambda found: told.append((found.executions, found.expected)),
    )
    assert [now for now, _ in told] == list(range(1, result.executions + 1))
    assert all(low == 0 or now < low <= high for now, (low, high) in told[:-1])
    assert sum(1 for _, (low, _) in told if low) > len(told) // 2
    assert result.expected == (result.executions, result.executions)


@pytest.mark.parametrize("strategy", ["naive", "states"])
def test_searches_without_reduction_tell_how_far_they_are(strategy: str) -> None:
    told: list[int] = []
    result = search(
        readers(2), Options(strategy), progress=lambda found: told.append(found.executions)
    )
    assert told == list(range(1, result.executions + 1))
    assert len(told) > 2


def test_nothing_is_said_without_knowing() -> None:
    found = SearchResult("optimal", executions=100, seconds=10.0)
    assert left_text(found) == ""
    found.expected = (200, 500)
    assert left_text(found) == "about 20-50% done, 10s-40s of work left"
    found.expected = (100, 101)
    assert left_text(found) == "about 99% done, 1s of work left"
    found.complete = True
    assert left_text(found) == ""
