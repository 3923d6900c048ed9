# SPDX-License-Identifier: GPL-2.0-only
"""What tasks are known to do: what was executed once is looked up the next time.

A task's code between two looks at shared state is a function of what it has seen so far.  So
each task has a tree: at a node it looks at a cell, and what it finds leads to the next
node; on the way there are the changes that it makes.  `septum.machine.recorder` grows the trees
while an execution runs in earnest; `Memory` runs an execution on them alone, with the values of
cells in a table of its own, and gives up as soon as a task sees what it has not yet seen there.
Then the execution runs in earnest.

What follows: code that tasks run may keep what they share in cells only (words and locks are
cells), and look at cells only through their methods and ``v``.  Code that does not cannot be
rewound either.  Every execution in earnest is compared with what the trees say, and so is
every `AUDIT`-th of those that were looked up; `MachineError` names the first difference.

Since nothing here has a stack, an execution begins where it parts from the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from septum.machine.behaviour import DISCIPLINE, END, FATAL
from septum.machine.dependency import Footprint, Sleep, clash
from septum.machine.events import (
    Decision,
    Event,
    Execution,
    Finding,
    Limits,
    MachineError,
    last_footprint,
    repeated,
    step_start,
)
from septum.machine.rounds import starving
from septum.machine.walk import Cycles, Undo, Walk

__all__ = ["AUDIT", "Judged", "Memory", "Wanted", "at_step"]

AUDIT: Final = 64
_MOST: Final = 1_000_000  # nodes; then all are forgotten

_UNKNOWN: Final = ("unknown", "diverged")

Judged = tuple[list[Finding], frozenset[str]]
"""Findings in a settled state, and what was reached on the way to them."""


class Wanted(NamedTuple):
    """What `Machine.run` is asked for; ``lowest``: of its policies, that one."""

    prefix: Sequence[Decision]
    sleep: Sleep
    covered: Sequence[Footprint]
    limits: Limits
    lowest: bool
    survivors: bool


class Memory(Walk):
    """The trees of all tasks of one program, and the last execution that was looked up."""

    def __init__(self, tasks: int) -> None:
        super().__init__(tasks)
        self._judged: dict[Any, Judged] = {}
        self._covered: Sequence[Footprint] = ()
        self.runs = 0  # executions begun
        self.looked_up = 0
        self.sleep: Sleep = ()
        self.retries_folded = 0  # in the whole execution
        self.pending: list[Event] = []
        self._auditing = False

    @property
    def full(self) -> bool:
        return self.size > _MOST

    def trusted(self) -> bool:
        """Whether the execution just looked up need not be compared with one in earnest."""
        self.looked_up += 1
        self._auditing = self.looked_up % AUDIT == 0
        return not self._auditing

    def forget(self) -> None:
        """Begin the next execution at the start: events may have been changed since."""
        self._rewind(0)

    def run(self, wanted: Wanted) -> Execution | None:
        """The execution that `Machine.run` would give; None: it is not known."""
        self._auditing = False
        status = self._walk(wanted)
        if status in _UNKNOWN:
            return None
        findings = self.findings
        reached = {what for what in self.told if isinstance(what, str)}
        if status == "complete" and not self.halts:
            judged = self._judged.get(self._state())
            if judged is None:
                return None
            findings += at_step(judged[0], len(self.log) - 1)
            reached.update(judged[1])
        return Execution(
            list(self.log),
            status,
            findings,
            self.pending,
            "",
            None,
            frozenset(reached),
            list(self.halts),
        )

    def _walk(self, wanted: Wanted) -> str:
        """As far as it is known; its status."""
        prefix, sleep, covered, limits, lowest, survivors = wanted
        if not self._start():
            return "unknown"
        same = repeated(self.log, prefix)
        given_up = self._given_up
        if given_up and given_up[0] < len(prefix):  # there nobody is picked any more
            same = min(same, given_up[0])
        if self.halts and not survivors:
            same = min(same, self.halts[0] + 1)
        self._rewind(same)
        self.sleep = sleep
        self._covered = covered
        status = ""
        while not status:
            offs = self.offs
            position = len(self.log)
            if position < len(prefix) and prefix[position].task < 0:  # nobody asked for that option
                prefix = prefix[:position]
            status = self._next(prefix, limits, lowest, survivors)
        self.retries_folded = self.told.count(None) + (status == "matched")
        known = status != "complete" and status not in _UNKNOWN
        self.pending = self._pending(survivors) if known else []
        self.offs = offs
        return status

    def _state(self) -> tuple[tuple[int, ...], tuple[tuple[str, str], ...]]:
        """What the judgement of a settled state depends on."""
        return tuple(self._now), tuple([(f.rule, f.message) for f in self.findings])

    def learn(self, execution: Execution, wanted: Wanted, judge: Callable[[], Judged]) -> Judged:
        """Compare an execution in earnest, yet to be judged, with what the trees say by now.

        :param judge: the state that it left behind.
        :raises MachineError: with the first difference.
        """
        status = self._walk(wanted)
        for n, (one, other) in enumerate(zip(self.log, execution.events, strict=False)):
            if not _same(one, other):
                raise MachineError(f"step {n}, {other}, was {one} before: {DISCIPLINE}")
        if status in _UNKNOWN:
            return judge()
        same = [(f, f.place) for f in self.findings] == [(f, f.place) for f in execution.findings]
        pending = len(self.pending) == len(execution.pending) and all(
            _same(one, other) for one, other in zip(self.pending, execution.pending, strict=True)
        )
        ends = status == execution.status and self.halts == execution.halts
        if not ends or not same or (status != "complete" and not pending):
            raise MachineError(f"an execution ended otherwise than before: {DISCIPLINE}")
        if len(self.log) != len(execution.events):
            raise MachineError(f"an execution had another length before: {DISCIPLINE}")
        return self._settled(judge) if status == "complete" and not self.halts else judge()

    def _settled(self, judge: Callable[[], Judged]) -> Judged:
        """What is found in the settled state; known ones are judged again now and then."""
        state = self._state()
        known = self._judged.get(state)
        if known is not None and not self._auditing:
            return known
        found, reached = judge()
        judged = at_step(found, -1), reached
        if known is not None and known != judged:
            raise MachineError(f"a settled state was judged otherwise before: {DISCIPLINE}")
        self._judged[state] = judged
        return judged

    # --- who is next ------------------------------------------------------------------------

    def _next(
        self,
        prefix: Sequence[Decision],
        limits: Limits,
        lowest: bool,
        survivors: bool,
    ) -> str:
        """One step, as `Machine._schedule` would have it; why there is none."""
        position = len(self.log)
        if self.halts and not survivors:
            return "halted"
        following = position < len(prefix)
        starts = self.rounds.starts
        if following and starts and self._in_vain(prefix[position].task):
            return "matched"
        if not following and self._covered:
            step = last_footprint(self.log)
            if any(not clash(seen, step) for seen in self._covered):
                return "covered"
            self._covered = ()
        undo = Undo(self)
        enabled = self._enabled_now(position)
        if following:
            chosen = prefix[position].task
            if chosen not in enabled:
                return "diverged"
        else:
            chosen, why = self._choice(enabled, position, limits, lowest)
            if why:
                return why
        if not self._step(chosen, undo, tuple(enabled), prefix):
            return "unknown"
        return ""

    def _enabled_now(self, position: int) -> list[int]:
        """Who can run where a decision is due; notes who waits."""
        enabled: list[int] = []
        for task, node in enumerate(self.at):
            if node.kind in (END, FATAL):
                continue
            if not node.waits or self._enabled(task):
                enabled.append(task)
            else:
                self._off(task, position)
        return enabled

    def _choice(
        self, enabled: list[int], position: int, limits: Limits, lowest: bool
    ) -> tuple[int, str]:
        """Who comes next where no prefix says so, or why nobody does."""
        if not enabled:
            waiting = any(node.kind not in (END, FATAL) for node in self.at)
            return -1, "unknown" if waiting else "complete"
        only: list[int] = []
        if self.rounds.starts:
            only = self._left(enabled)
            if not only:
                return -1, "unknown"
        if position >= limits.steps:
            return -1, "unknown"
        candidates = enabled
        sleep = self.sleep
        if sleep:
            last = last_footprint(self.log)
            sleep = self.sleep = [(t, step) for t, step in sleep if not clash(step, last)]
        if sleep or only:
            kept = [t for t, _ in sleep]
            candidates = [t for t in enabled if t not in kept and (not only or t in only)]
            if not candidates:
                return -1, "held"
        return self._pick(candidates, position, lowest), ""

    def _in_vain(self, wanted: int) -> bool:
        """As `Machine._in_vain`."""
        left = starving(self.log, self.rounds.starts[0], self._can_run())
        return bool(left) and wanted not in left

    def _left(self, enabled: list[int]) -> list[int]:
        """As `Machine._round`; nobody: a cycle is to be run on."""
        left: list[int] = []
        for start in reversed(self.rounds.starts):
            left = starving(self.log, start, enabled)
            if not left:
                return []
        return left

    def _pick(self, candidates: list[int], position: int, lowest: bool) -> int:
        """As `Machine._pick`."""
        if lowest:
            return candidates[0]
        rounds = self.rounds
        if position < rounds.until:
            wanted = self.log[position - rounds.period].task
            if wanted in candidates:
                return wanted
            rounds.until = 0
            self.cycles = Cycles(rounds)
            self._given_up.append(position)
        current = self.log[-1].task if position else 0
        return current if current in candidates else candidates[0]

    def _pending(self, survivors: bool) -> list[Event]:
        pending = []
        for task, node in enumerate(self.at):
            if node.kind == END or (survivors and node.kind == FATAL):
                continue
            if node.kind == FATAL:
                node = self._undo[step_start(self.log, self.own[task][-1])].node
            event = Event(task, len(self.own[task]), node.op, node.obj)
            event.off = self.offs[task]
            if node.could:
                event.could = self._could(node)
            pending.append(event)
        return pending


def at_step(found: list[Finding], step: int) -> list[Finding]:
    """Findings in a settled state, after that step."""
    return [replace(f, step=step) for f in found]


def _same(one: Event, other: Event) -> bool:
    """Whether they are the same to an explorer."""
    if one.task != other.task or one.index != other.index or one.off != other.off:
        return False
    if one.op != other.op or one.obj != other.obj or one.label != other.label:
        return False
    if one.acc is not other.acc and one.acc != other.acc:
        return False
    if one.seen is not other.seen and one.seen != other.seen:
        return False
    if one.left is not other.left and one.left != other.left:
        return False
    if one.choice != other.choice or one.options != other.options:
        return False
    return one.since == other.since and one.could == other.could and one.enabled == other.enabled
