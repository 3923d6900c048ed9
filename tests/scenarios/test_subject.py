# SPDX-License-Identifier: GPL-2.0-only
"""Rows whose code is no design: what is learned on the way, and how the row begins again."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from functools import cache

import pytest

from septum.explore import SearchResult
from septum.explore.units import Branch, Size, UnitResult
from septum.scenarios.build import Built, build
from septum.scenarios.check import check
from septum.scenarios.crew import ProcessCrew
from septum.scenarios.result import CheckResult
from septum.scenarios.rows import Row, explore_here, judge, make
from septum.scenarios.scheduling import run_rows
from septum.scenarios.subject import Learned

SCENARIO = "fault-punch"


@cache
def built() -> Built:
    return build("v7.3", SCENARIO)


@dataclass(frozen=True)
class Learner:
    """A design that says after its first units that it has learned other words."""

    words: tuple[str, ...] = ("a", "b", "c")

    @property
    def text(self) -> str:
        return "text"

    def unexplored(self, row: Row) -> CheckResult | None:
        return None

    def explore(
        self, row: Row, pickled: bytes, size: Size, words: tuple[str, ...]
    ) -> UnitResult | CheckResult | Learned:
        branch: Branch = pickle.loads(pickled)
        if words != self.words and (branch.levels or not words):
            return Learned(self.words[: len(words) + 1])
        return explore_here(row, built(), branch, replace(size, executions=5))

    def conclude(self, row: Row, found: SearchResult) -> CheckResult:
        row_result = judge(row, built(), found)
        row_result.note = " ".join(found.words)
        return row_result

    def forget(self) -> None:
        built.cache_clear()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_row_that_learns_begins_again(jobs: int) -> None:
    crew = ProcessCrew(jobs) if jobs > 1 else None
    row = make("v7.3", SCENARIO, subject=Learner())
    try:
        ((_, result),) = run_rows([row], crew=crew)
    finally:
        if crew is not None:
            crew.close()
    plain = check("v7.3", SCENARIO)
    assert result.note == "a b c"
    assert result.verdict == plain.verdict == "holds"
    assert result.executions == plain.executions, "what was explored before does not count"
