# SPDX-License-Identifier: GPL-2.0-only
"""Who runs, and which option is taken, where no prefix says so."""

from __future__ import annotations

import random

from septum.machine.events import MachineError, Policy
from septum.machine.state import Task

__all__ = ["Way"]


class Way:
    """A `Policy` at work in one execution of ``tasks`` tasks."""

    def __init__(self, policy: Policy, tasks: int) -> None:
        self.policy = policy
        self._script_at = 0
        self._choices_made: dict[int, int] = {}
        self._priority: list[float] = []
        self._changes: list[tuple[int, int]] = []
        self._random: random.Random | None = None
        if policy.kind in ("random", "pct"):
            self._random = random.Random(policy.seed)
            if policy.kind == "pct":
                self._plan_pct(self._random, tasks)

    def pick(self, candidates: list[Task], current: Task, position: int) -> Task:
        """One of the tasks that can run at that log position."""
        kind = self.policy.kind
        if kind == "continue":
            return current if current in candidates else candidates[0]
        if kind == "lowest":
            return candidates[0]
        if kind == "random":
            assert self._random is not None
            return self._random.choice(candidates)
        if kind == "pct":
            best = max(candidates, key=lambda t: self._priority[t.id])
            # A choice may have taken the very position: then at the next step.
            while self._changes and self._changes[0][0] <= position:
                self._priority[best.id] = -float(self._changes.pop(0)[1])
                best = max(candidates, key=lambda t: self._priority[t.id])
            return best
        if kind == "script":
            script = self.policy.script
            while self._script_at < len(script):
                wanted = script[self._script_at]
                self._script_at += 1
                for task in candidates:
                    if task.id == wanted:
                        return task
            return current if current in candidates else candidates[0]
        raise MachineError(f"unknown policy {kind!r}")

    def last(self, tasks: set[int]) -> None:
        """Tasks that are to come last, where there are priorities."""
        for task in sorted(tasks) if self._priority else ():
            self._priority[task] = min(self._priority) - 1

    def choose(self, tid: int, options: int) -> int:
        """One of so many options for the running task."""
        if self._random is not None:
            return self._random.randrange(options)
        if self.policy.kind == "script":
            return self._scripted(tid, options)
        return 0

    def _scripted(self, tid: int, options: int) -> int:
        """The task's next recorded choice, 0 where the record ends."""
        choices = self.policy.choices
        recorded = choices[tid] if tid < len(choices) else ()
        n = self._choices_made.get(tid, 0)
        self._choices_made[tid] = n + 1
        return recorded[n] if n < len(recorded) and recorded[n] < options else 0

    def _plan_pct(self, rng: random.Random, n: int) -> None:
        """Random priorities and change points (Burckhardt et al., ASPLOS 2010)."""
        self._priority = [float(p) for p in rng.sample(range(1, n + 1), n)]
        span = max(self.policy.span, 1)
        self._changes = sorted(
            (rng.randrange(span), i + 1) for i in range(max(0, self.policy.depth - 1))
        )
