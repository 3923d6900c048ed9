# SPDX-License-Identifier: GPL-2.0-only
"""What is left of one search, and what was found so far: the part that is kept.

Branches are numbered in the order in which they come up, and the results of their units
are merged in that order, whoever explored them when.  So the search is the same for any
number of workers, and for any number of interruptions.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from septum.explore.result import Found, SearchResult
from septum.explore.units import CLASSES as UNIT_CLASSES
from septum.explore.units import UNIT, Branch, Size, UnitResult
from septum.machine import Finding

__all__ = ["CLASSES", "Frontier", "Task"]


@dataclass(slots=True)
class Task:
    """A branch that waits or is being explored, and how many executions it may take
    (0: none are left of the bound until earlier tasks give theirs back)."""

    branch: Branch
    allowed: int = 0


@dataclass(slots=True)
class Frontier:
    """One search, put together from units.

    :ivar most: executions at most (0: no bound).
    :ivar first: stop at the first finding.
    :ivar tasks: what is left, in the order in which it is merged.
    """

    found: SearchResult
    most: int = 0
    first: bool = False
    tasks: deque[Task] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.tasks = deque(self.tasks)

    @classmethod
    def start(cls, strategy: str, *, most: int = 0, first: bool = False) -> Frontier:
        """A search of which nothing was explored."""
        frontier = cls(SearchResult(strategy), most, first, deque([Task(Branch())]))
        frontier._allow()
        return frontier

    @property
    def finished(self) -> bool:
        return not self.tasks

    def size(self, task: Task, seconds: float = 0.0) -> Size:
        """How much of a task's branch is one unit."""
        return Size(task.allowed, UNIT.steps, seconds)

    def merge(self, result: UnitResult) -> None:
        """Take the result of the first task's unit."""
        self.tasks.popleft()
        self.found.add(result.found)
        self.tasks.extend(Task(branch) for branch in result.rest)
        if self.first and self.found.found and self.tasks:
            self.stop("stopped at the first finding")
        elif self.most and self.found.executions >= self.most and self.tasks:
            self.stop(f"{self.most} executions")
        self.found.complete = not self.tasks and not self.found.bounds_hit
        self._allow()

    def stop(self, why: str) -> None:
        """Give up what is left."""
        self.tasks.clear()
        self.found.bounds_hit = sorted({*self.found.bounds_hit, why})
        self.found.complete = False

    def _allow(self) -> None:
        """Share what the bound leaves among the tasks, first come, first served."""
        left = self.most - self.found.executions - sum(task.allowed for task in self.tasks)
        for task in self.tasks:
            if task.allowed == 0:
                task.allowed = min(UNIT.executions, left) if self.most else UNIT.executions
                left -= task.allowed


CLASSES: tuple[type, ...] = (*UNIT_CLASSES, Frontier, Task, SearchResult, Found, Finding)
