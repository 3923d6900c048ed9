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

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from septum.machine.behaviour import (
    CHANGE,
    CHOICE,
    DISCIPLINE,
    END,
    FATAL,
    LOOK,
    LOOK_EXCL,
    LOOK_HELD,
    NEVER,
    OPEN,
    REACH,
    REPORT,
    SET,
    Node,
    Op,
    Over,
    Table,
)
from septum.machine.could import Could, could_go_on
from septum.machine.dependency import Footprint, clash
from septum.machine.events import (
    Decision,
    Event,
    Execution,
    Finding,
    Limits,
    MachineError,
    last_footprint,
    step_start,
)

__all__ = ["AUDIT", "Memory"]

AUDIT: Final = 64
_MOST: Final = 1_000_000  # nodes; then all are forgotten

Judged = tuple[list[Finding], frozenset[str]]
"""Findings in a settled state, and what was reached on the way to them."""


class _Undo:
    """How it was before an event: whose it is, where that task was, and how much there was."""

    __slots__ = ("findings", "folded", "journal", "node", "offs", "reached", "task")

    def __init__(
        self, task: int, node: Node, memory: Memory, offs: list[int], journal: int
    ) -> None:
        self.task = task
        self.node = node
        self.journal = journal
        self.findings = len(memory.findings)
        self.reached = len(memory.reached)
        self.folded = memory.folded
        self.offs = offs


class Memory:
    """The trees of all tasks of one program, and the last execution that was looked up."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.tasks = len(names)
        self.table = Table()
        self.roots = [Node() for _ in names]
        self.size = 0
        self._judged: dict[Any, Judged] = {}
        self._covered: Sequence[Footprint] = ()
        self.looked_up = 0
        self.begun = False
        self.sleep: dict[int, Footprint] = {}
        self.folded = 0
        self.log: list[Event] = []
        self.findings: list[Finding] = []
        self.reached: list[str] = []
        self._now: list[int] = []  # the value of each cell,
        self._wseq: list[int] = []  # and where in the log it was last changed
        self._journal: list[tuple[int, int, int]] = []
        self._undo: list[_Undo] = []
        self._at: list[Node] = list(self.roots)
        self._offs = [-1] * self.tasks
        self._own: list[list[int]] = [[] for _ in names]
        self._halted = False

    def grow(self) -> None:
        """A cell is known that was not; so far nobody looked at it here."""
        self._now.append(self.table.initial[-1])
        self._wseq.append(-1)

    @property
    def full(self) -> bool:
        return self.size > _MOST

    def trusted(self) -> bool:
        """Whether the execution just looked up need not be compared with one in earnest."""
        self.looked_up += 1
        return self.looked_up % AUDIT != 0

    def forget(self) -> None:
        """Begin the next execution at the start: events may have been changed since."""
        self._rewind(0)

    # --- back --------------------------------------------------------------------------

    def _rewind(self, length: int) -> None:
        """To where the event of that number is yet to be chosen."""
        log = self.log
        if length < len(log):
            length = step_start(log, length)
        while len(log) > length:
            del log[-1]
            undo = self._undo.pop()
            self._back(undo)

    def _back(self, undo: _Undo) -> None:
        journal = self._journal
        while len(journal) > undo.journal:
            cid, vid, wseq = journal.pop()
            self._now[cid] = vid
            self._wseq[cid] = wseq
        self._at[undo.task] = undo.node
        self._own[undo.task].pop()
        self._offs = undo.offs
        del self.findings[undo.findings :]
        del self.reached[undo.reached :]
        self.folded = undo.folded
        self._halted = False

    # --- forth ---------------------------------------------------------------------------

    def _apply(self, op: Op, task: int, event: Event | None) -> None:
        code = op.code
        if code in (SET, CHANGE):
            cid = op.cid
            old = self._now[cid]
            new = op.vid
            if code == CHANGE:
                found = op.to.get(old)
                if found is None:
                    assert op.change is not None
                    found = op.to[old] = self.table.value(cid, op.change(self.table.values[old]))
                new = found
                if op.shown and event is not None:
                    event.seen = self.table.values[old]
                    event.left = self.table.values[new]
            self._journal.append((cid, old, self._wseq[cid]))
            self._now[cid] = new
            if op.seq:
                self._wseq[cid] = len(self.log) - 1
        elif code == REPORT:
            self._report(op.text, task)
        elif code == REACH:
            self.reached.append(op.text[0])
        else:
            self.folded += 1

    def _report(self, text: tuple[str, ...], task: int) -> None:
        rule, message, obj, place = text
        for f in self.findings:
            if f.rule == rule and f.message == message:
                return
        self.findings.append(Finding(rule, message, len(self.log) - 1, task, obj, -1, place))

    def _follow(
        self, node: Node | None, task: int, event: Event | None, prefix: Sequence[Decision]
    ) -> bool:
        """Let the task go on from ``node`` to its next point; False: that is not known."""
        now = self._now
        values = self.table.values
        while node is not None:
            for op in node.ops:
                self._apply(op, task, event)
            kind = node.kind
            if kind == LOOK:
                node = node.next.get(now[node.cid])
            elif kind == LOOK_EXCL:
                excl, _ = values[now[node.cid]]
                node = node.next.get(1 if excl else 0)
            elif kind == LOOK_HELD:
                excl, readers = values[now[node.cid]]
                node = node.next.get(1 if excl or readers else 0)
            elif kind in (OPEN, NEVER):
                return False
            else:
                if event is not None and node.over is not None:
                    _finish(event, node.over)
                if kind == CHOICE:
                    event = self._choose(node, task, prefix)
                    if event is None:
                        return False
                    node = node.next.get(event.choice)
                else:
                    self._at[task] = node
                    self._halted = kind == FATAL
                    return True
        return False

    def _choose(self, node: Node, task: int, prefix: Sequence[Decision]) -> Event | None:
        position = len(self.log)
        event = Event(task, len(self._own[task]), "choose", node.op)
        event.off = self._offs[task]
        choice = prefix[position].choice if position < len(prefix) else 0
        if choice >= len(node.options):
            return None
        event.choice = choice
        event.options = node.options
        event.seen = node.options[choice]
        # Undone together with the event that it is part of.
        self._undo.append(_Undo(task, self._at[task], self, self._offs, len(self._journal)))
        self.log.append(event)
        self._own[task].append(position)
        return event

    def _step(
        self, task: int, offs: list[int], enabled: tuple[int, ...], prefix: Sequence[Decision]
    ) -> bool:
        """One event of the task, and the choices in it; False, and nothing has happened, if
        it is not known what it does."""
        node = self._at[task]
        position = len(self.log)
        event = Event(task, len(self._own[task]), node.op, node.obj)
        event.off = self._offs[task]
        event.enabled = enabled
        self._undo.append(_Undo(task, node, self, offs, len(self._journal)))
        self.log.append(event)
        self._own[task].append(position)
        if node.since is not None:
            event.since = {
                self.table.names[cid]: self._position(task, own) for cid, own in node.since
            }
        elif node.could:
            event.could = self._could(node)
        if not self._follow(node.next.get(0), task, event, prefix):
            self._rewind(position)
            return False
        if not self._halted:
            self._offs[task] = -1
        return True

    def _position(self, task: int, own: int) -> int:
        return self._own[task][own] if own >= 0 else -1

    def _enabled(self, task: int) -> bool:
        node = self._at[task]
        if node.wait is not None:
            vid = self._now[node.cid]
            known = node.ready.get(vid)
            if known is None:
                known = node.ready[vid] = bool(node.wait(self.table.values[vid]))
            return known
        if node.since is not None:
            wseq = self._wseq
            return any(wseq[cid] > self._position(task, own) for cid, own in node.since)
        return True

    def _could(self, node: Node) -> Could:
        """As `Machine.could_go_on`."""
        cid = node.cid
        assert node.wait is not None
        values = self.table.values
        mine = [(values[old], wseq) for c, old, wseq in self._journal if c == cid]
        mine.append((values[self._now[cid]], self._wseq[cid]))
        return could_go_on(self.table.names[cid], mine, self.log, node.wait)

    def _start(self) -> bool:
        """Every task at its first point; False: that is not known."""
        if self.begun:
            return True
        self.findings, self.reached, self.folded = [], [], 0
        self._now = list(self.table.initial)
        self._wseq = [-1] * len(self._now)
        for task, root in enumerate(self.roots):
            if not self._follow(root, task, None, ()):
                return False
        self._journal.clear()
        self.begun = True
        return True

    def run(
        self,
        prefix: Sequence[Decision],
        sleep: Mapping[int, Footprint],
        covered: Sequence[Footprint],
        limits: Limits,
        lowest: bool,
        judged: Judged | None = None,
    ) -> Execution | None:
        """The execution that `Machine.run` would give; None: it is not known.

        :param judged: what the settled state was found to be, if all tasks finish.
        """
        if not self._start():
            return None
        same = 0
        for event, decision in zip(self.log, prefix, strict=False):
            if event.task != decision.task or event.choice != decision.choice:
                break
            same += 1
        self._rewind(same)
        self.sleep = dict(sleep)
        self._covered = covered
        status = ""
        while not status:
            status = self._next(prefix, limits, lowest)
        if status in ("unknown", "diverged"):
            return None
        pending = [] if status == "complete" else self._pending()
        findings = list(self.findings)
        reached = set(self.reached)
        if status == "complete":
            state = self._state()
            if judged is not None:
                self._judged[state] = judged
            known = self._judged.get(state)
            if known is None:
                return None
            at = len(self.log) - 1
            findings += [replace(f, step=at) for f in known[0]]
            reached.update(known[1])
        return Execution(list(self.log), status, findings, pending, "", None, frozenset(reached))

    def _state(self) -> tuple[tuple[int, ...], tuple[tuple[str, str], ...]]:
        """What the judgement of a settled state depends on."""
        return tuple(self._now), tuple([(f.rule, f.message) for f in self.findings])

    def learn(
        self,
        execution: Execution,
        prefix: Sequence[Decision],
        sleep: Mapping[int, Footprint] | None,
        covered: Sequence[Footprint],
        limits: Limits,
        lowest: bool,
        judged: Judged,
    ) -> None:
        """Compare an execution in earnest with what the trees say by now.

        :raises MachineError: with the first difference.
        """
        known = self.run(prefix, sleep or {}, covered, limits, lowest, judged)
        if known is None:
            return
        for n, (one, other) in enumerate(zip(known.events, execution.events, strict=False)):
            if _facts(one) != _facts(other):
                raise MachineError(f"step {n}, {other}, was {one} before: {DISCIPLINE}")
        same = [(f, f.place) for f in known.findings] == [(f, f.place) for f in execution.findings]
        pending = [_facts(e) for e in known.pending] == [_facts(e) for e in execution.pending]
        if not same or not pending or known.status != execution.status:
            raise MachineError(f"an execution ended otherwise than before: {DISCIPLINE}")
        if len(known.events) != len(execution.events):
            raise MachineError(f"an execution had another length before: {DISCIPLINE}")

    def _next(
        self,
        prefix: Sequence[Decision],
        limits: Limits,
        lowest: bool,
    ) -> str:
        """One step, as `Machine._schedule` would have it; why there is none."""
        position = len(self.log)
        if self._halted:
            return "halted"
        following = position < len(prefix)
        if not following and self._covered:
            step = last_footprint(self.log)
            if any(not clash(seen, step) for seen in self._covered):
                return "covered"
            self._covered = ()
        before = self._offs
        offs = list(before)
        enabled: list[int] = []
        waiting = False
        for task, node in enumerate(self._at):
            if node.kind == END:
                continue
            if self._enabled(task):
                enabled.append(task)
            else:
                offs[task] = position
                waiting = True
        self._offs = offs
        if following:
            chosen = prefix[position].task
            if chosen not in enabled:
                self._offs = before
                return "diverged"
        elif not enabled:
            self._offs = before
            return "unknown" if waiting else "complete"
        elif position >= limits.steps:
            self._offs = before
            return "unknown"
        else:
            candidates = enabled
            sleep = self.sleep
            if sleep:
                last = last_footprint(self.log)
                for tid in [t for t, step in sleep.items() if clash(step, last)]:
                    del sleep[tid]
                candidates = [t for t in enabled if t not in sleep]
                if not candidates:
                    return "held"
            current = self.log[-1].task if position else 0
            chosen = current if not lowest and current in candidates else candidates[0]
        if not self._step(chosen, before, tuple(enabled), prefix):
            return "unknown"
        return ""

    def _pending(self) -> list[Event]:
        pending = []
        for task, node in enumerate(self._at):
            if node.kind == END:
                continue
            if node.kind == FATAL:
                node = self._undo[step_start(self.log, self._own[task][-1])].node
            event = Event(task, len(self._own[task]), node.op, node.obj)
            event.off = self._offs[task]
            if node.could:
                event.could = self._could(node)
            pending.append(event)
        return pending


def _finish(event: Event, over: Over) -> None:
    event.acc = over.acc
    event.foot = over.foot
    event.op = over.op
    event.label = over.label
    if not over.shown:
        event.seen = over.seen
        event.left = over.left


def _facts(e: Event) -> tuple[Any, ...]:
    """What an explorer knows of an event."""
    return (
        (e.task, e.index, e.op, e.obj, e.acc, e.seen, e.left),
        (e.choice, e.options, e.since, e.off, e.could, e.enabled, e.label),
    )
