# SPDX-License-Identifier: GPL-2.0-only
"""What a search found and how its verdict was earned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from mypy_extensions import mypyc_attr

from septum.explore.distinct import kind_of
from septum.machine import Decision, Execution, Finding

__all__ = ["Found", "SearchResult", "schedule_key", "switches"]


def switches(decisions: Sequence[Decision]) -> int:
    """Context switches of a schedule."""
    return sum(1 for a, b in pairwise(decisions) if a.task != b.task)


def schedule_key(
    decisions: Sequence[Decision],
) -> tuple[int, int, tuple[Decision, ...]]:
    """Orders schedules: fewest switches, then shortest, then lexicographic."""
    return (switches(decisions), len(decisions), tuple(decisions))


@mypyc_attr(serializable=True)
@dataclass(slots=True)
class Found:
    """A finding with the best schedule seen for it (the whole execution's decisions).

    :ivar kind: which of the findings of its rule it is (`distinct`); empty: any.
    :ivar minimal: no schedule that shows it has fewer switches, or as many and is shorter.
    """

    finding: Finding
    decisions: list[Decision]
    times: int = 1
    minimal: bool = False
    kind: str = ""


@mypyc_attr(serializable=True)
@dataclass(slots=True)
class SearchResult:
    """Counts and findings of one search.

    :ivar executions: every run, the blocked ones included.
    :ivar blocked: runs that ended because only sleeping tasks could go on.
    :ivar matched: runs that ended in a state met before (strategy ``states``).
    :ivar complete: nothing was left out (with retries folded as said by ``folded``).
    :ivar folded: whether some retry was folded into an await.
    :ivar bounds_hit: why the search is not complete.
    :ivar found: for each rule that broke, the best schedule.
    :ivar each: the same for each kind of finding (`distinct.kind_of`).
    :ivar states, transitions: met and taken (strategy ``stateful``); ``cycles``: how often the
        path came back to one of its states although every task went on.
    :ivar expected: executions in all, from about .. to (0, 0: nothing is known).
    :ivar words: what had to be scheduled, where a program learns it (compiled code).
    """

    strategy: str
    executions: int = 0
    blocked: int = 0
    matched: int = 0
    steps: int = 0
    seconds: float = 0.0
    complete: bool = False
    folded: bool = False
    bounds_hit: list[str] = field(default_factory=list)
    found: dict[str, Found] = field(default_factory=dict)
    each: dict[str, Found] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)
    finals: set[object] = field(default_factory=set)
    expected: tuple[int, int] = (0, 0)
    words: tuple[str, ...] = ()
    states: int = 0
    transitions: int = 0
    cycles: int = 0

    @property
    def traces(self) -> int:
        """Executions that ran to an end."""
        return self.executions - self.blocked - self.matched

    def take(self, execution: Execution, *, again: bool = False) -> None:
        """Count an execution, unless it only shows ``again`` what one has that was counted, with
        another end, and keep its findings."""
        if not again:
            self.executions += 1
            self.steps += len(execution.events)
            if execution.status == "covered":
                self.blocked += 1
            elif execution.status == "matched":
                self.matched += 1
        self.reached |= execution.reached
        if execution.findings:
            decisions = execution.decisions
            for finding in execution.findings:
                kind = kind_of(finding, execution.events)
                _keep(self.found, finding.rule, Found(finding, decisions))
                _keep(self.each, kind, Found(finding, decisions, kind=kind))

    def add(self, other: SearchResult) -> None:
        """Count what another part of the same search did, after what is counted here."""
        self.executions += other.executions
        self.blocked += other.blocked
        self.matched += other.matched
        self.steps += other.steps
        self.seconds += other.seconds
        self.folded = self.folded or other.folded
        self.bounds_hit = sorted({*self.bounds_hit, *other.bounds_hit})
        self.reached |= other.reached
        for key, found in other.found.items():
            _keep(self.found, key, found)
        for key, found in other.each.items():
            _keep(self.each, key, found)


def _keep(known: dict[str, Found], key: str, new: Found) -> None:
    """Count a finding; its schedule is kept if it is better than the one known."""
    old = known.get(key)
    if old is None:
        known[key] = replace(new)
        return
    old.times += new.times
    cut = new.decisions[: new.finding.step + 1]
    if schedule_key(cut) < schedule_key(old.decisions[: old.finding.step + 1]):
        old.finding = new.finding
        old.decisions = new.decisions
