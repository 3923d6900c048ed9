# SPDX-License-Identifier: GPL-2.0-only
"""A walk through what tasks are known to do, for `septum.machine.known`: step by step, and back.

It has the values of cells in a table of its own, and no stacks.
"""

from __future__ import annotations

from collections.abc import Sequence

from septum.machine.behaviour import (
    CHANGE,
    CHOICE,
    END,
    FATAL,
    FOLD,
    LOOK,
    LOOK_EXCL,
    LOOK_HELD,
    NEVER,
    OPEN,
    REPORT,
    SET,
    Node,
    Op,
    Over,
    Table,
)
from septum.machine.could import Could, could_go_on
from septum.machine.events import Decision, Event, Finding, step_start
from septum.machine.rounds import LOOKS, Rounds

__all__ = ["Cycles", "Places", "Undo", "Walk"]

Places = tuple[Node, ...]
"""Of the tasks."""


class Undo:
    """How it was before an event: whose it is, where that task was, and how much there was."""

    __slots__ = ("cycles", "journal", "node", "offs", "task", "told")

    def __init__(self, walk: Walk) -> None:
        self.offs = walk.offs
        self.journal = len(walk.journal)
        self.told = len(walk.told)
        self.cycles = walk.cycles

    def of(self, task: int, node: Node) -> Undo:
        """Whose event it is, and where that task was."""
        self.task = task
        self.node = node
        return self


class Cycles:
    """What is known of repetitions: the fields of `Rounds`, and how many states."""

    __slots__ = ("period", "starts", "states", "until")

    def __init__(self, rounds: Rounds) -> None:
        self.starts = rounds.starts
        self.states = len(rounds.states)
        self.period = rounds.period
        self.until = rounds.until

    def restore(self, rounds: Rounds) -> None:
        """As it was."""
        rounds.starts = self.starts
        rounds.period = self.period
        rounds.until = self.until
        del rounds.states[self.states :]


class Walk:
    """The trees of all tasks, and an execution that goes through them.

    :ivar size: of the trees, in nodes.
    :ivar same: whether two states are the same whose shared memory is.
    :ivar offs: of tasks, as `Event.off`; replaced, not changed, for it is kept for `Undo`.
    :ivar halts: as of `Machine`.
    :ivar told: what was said on the way: findings, what was reached, retries folded.
    :ivar rounds: as of `Machine`; ``states`` have the length of the journal, and the tasks' places.
    """

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.table = Table()
        self.roots = [Node() for _ in range(tasks)]
        self.size = 0
        self.same: dict[tuple[Places, Places], bool] = {}
        self.begun = False
        self.log: list[Event] = []
        self.told: list[Finding | str | None] = []
        self.journal: list[tuple[int, int, int]] = []
        self.offs = [-1] * tasks
        self.rounds = Rounds()
        self.cycles = Cycles(self.rounds)  # of `rounds`, as long as that does not change
        self._now: list[int] = []  # the value of each cell,
        self._wseq: list[int] = []  # and where in the log it was last changed
        self._undo: list[Undo] = []
        self.at: list[Node] = list(self.roots)
        self.own: list[list[int]] = [[] for _ in range(tasks)]
        self.halts: list[int] = []
        self._given_up: list[int] = []  # where `_pick` let nobody repeat what had been done

    def grow(self) -> None:
        """A cell is known that was not; so far nobody looked at it here."""
        self._now.append(self.table.initial[-1])
        self._wseq.append(-1)

    # --- back --------------------------------------------------------------------------

    def _rewind(self, length: int) -> None:
        """To where the event of that number is yet to be chosen."""
        log = self.log
        if length < len(log):
            length = step_start(log, length)
        while len(log) > length:
            log.pop()
            self._back(self._undo.pop())
        while self._given_up and self._given_up[-1] >= len(log):
            self._given_up.pop()
        while self.halts and self.halts[-1] >= len(log):
            self.halts.pop()

    def _back(self, undo: Undo) -> None:
        journal = self.journal
        while len(journal) > undo.journal:
            cid, vid, wseq = journal.pop()
            self._now[cid] = vid
            self._wseq[cid] = wseq
        self.at[undo.task] = undo.node
        self.own[undo.task].pop()
        self.offs = undo.offs
        if len(self.told) != undo.told:
            del self.told[undo.told :]
        if self.cycles is not undo.cycles:
            self.cycles = undo.cycles
            self.cycles.restore(self.rounds)

    # --- forth ---------------------------------------------------------------------------

    def _start(self) -> bool:
        """Every task at its first point; False: that is not known."""
        if self.begun:
            return True
        self.told, self.halts = [], []
        self._now = list(self.table.initial)
        self._wseq = [-1] * len(self._now)
        for task, root in enumerate(self.roots):
            if not self._go_on(root, task, None, ()) or self.halts:
                return False
        self.journal.clear()
        self.begun = True
        return True

    def _step(
        self, task: int, undo: Undo, enabled: tuple[int, ...], prefix: Sequence[Decision]
    ) -> bool:
        """One event of the task, and the choices in it; False, and nothing has happened, if
        it is not known what it does."""
        node = self.at[task]
        position = len(self.log)
        event = Event(task, len(self.own[task]), node.op, node.obj)
        event.off = self.offs[task]
        event.enabled = enabled
        self._undo.append(undo.of(task, node))
        self.log.append(event)
        self.own[task].append(position)
        if node.since is not None:
            event.since = {
                self.table.names[cid]: self._position(task, own) for cid, own in node.since
            }
        elif node.could:
            event.could = self._could(node)
        if self.rounds.starts:
            self.rounds.starts = []
            self.cycles = Cycles(self.rounds)
        if not self._go_on(node.next.get(0), task, event, prefix) or not self._look(task):
            self._rewind(position)
            return False
        if event.off >= 0 and self.at[task].kind != FATAL:
            self._off(task, -1)
        return True

    def _off(self, task: int, position: int) -> None:
        """Where it was last seen disabled."""
        self.offs = list(self.offs)
        self.offs[task] = position

    def _go_on(
        self, node: Node | None, task: int, event: Event | None, prefix: Sequence[Decision]
    ) -> bool:
        """Let the task go on from ``node`` to its next point; False: that is not known."""
        now = self._now
        values = self.table.values
        while node is not None:
            for op in node.ops:
                if op.code == SET:
                    self._set(op, op.vid)
                else:
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
                    self.at[task] = node
                    if kind == FATAL:
                        self.halts.append(len(self.log) - 1)
                    return True
        return False

    def _set(self, op: Op, vid: int) -> None:
        cid = op.cid
        self.journal.append((cid, self._now[cid], self._wseq[cid]))
        self._now[cid] = vid
        if op.seq:
            self._wseq[cid] = len(self.log) - 1

    def _apply(self, op: Op, task: int, event: Event | None) -> None:
        code = op.code
        if code == CHANGE:
            old = self._now[op.cid]
            new = op.to.get(old, -1)
            if new < 0:
                assert op.change is not None
                new = op.to[old] = self.table.value(op.cid, op.change(self.table.values[old]))
            if op.shown and event is not None:
                event.seen = self.table.values[old]
                event.left = self.table.values[new]
            self._set(op, new)
        elif code == FOLD:
            self.told.append(None)
        elif self.halts:
            return  # what others do after BUG() is not judged
        elif code == REPORT:
            self._report(op.text, task)
        else:
            self.told.append(op.text[0])

    @property
    def findings(self) -> list[Finding]:
        return [f for f in self.told if isinstance(f, Finding)]

    def _report(self, text: tuple[str, ...], task: int) -> None:
        rule, message, obj, place = text
        for f in self.findings:
            if f.rule == rule and f.message == message:
                return
        self.told.append(Finding(rule, message, len(self.log) - 1, task, obj, -1, place))

    def _choose(self, node: Node, task: int, prefix: Sequence[Decision]) -> Event | None:
        position = len(self.log)
        event = Event(task, len(self.own[task]), "choose", node.op)
        event.off = self.offs[task]
        choice = prefix[position].choice if position < len(prefix) else 0
        if choice >= len(node.options):
            return None
        event.choice = choice
        event.options = node.options
        event.seen = node.options[choice]
        # Undone together with the event that it is part of.
        self._undo.append(Undo(self).of(task, self.at[task]))
        self.log.append(event)
        self.own[task].append(position)
        return event

    def _position(self, task: int, own: int) -> int:
        return self.own[task][own] if own >= 0 else -1

    def _enabled(self, task: int) -> bool:
        node = self.at[task]
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
        mine = [(values[old], wseq) for c, old, wseq in self.journal if c == cid]
        mine.append((values[self._now[cid]], self._wseq[cid]))
        return could_go_on(self.table.names[cid], mine, self.log, node.wait)

    # --- going round in cycles ------------------------------------------------------------

    def _look(self, task: int) -> bool:
        """As `Machine._look`, where a task has announced its next event; False: it is not
        known whether the execution was in this state before."""
        length = self.at[task].length
        rounds = self.rounds
        if not length or not rounds.again(self.own[task], length, self.log):
            return True
        if len(rounds.states) >= LOOKS:
            return False
        starts = []
        for position, then in rounds.states:
            same = self._as_at(position, *then)
            if same is None:
                return False
            if same:
                starts.append(position)
        if starts:
            rounds.starts = starts
            rounds.period = rounds.until = 0
        rounds.states.append((len(self.log), (len(self.journal), tuple(self.at))))
        self.cycles = Cycles(rounds)
        return True

    def _as_at(self, position: int, journal: int, then: Places) -> bool | None:
        """Whether the state is that of a decision before; None: that is not known."""
        seen: set[int] = set()
        for cid, old, _ in self.journal[journal:]:
            if cid not in seen:
                seen.add(cid)
                if self.table.differs(cid, old, self._now[cid]):
                    return False
        for one, other in zip(then, self.at, strict=True):
            if one.op != other.op or one.obj != other.obj or one.kind != other.kind:
                return False
        if self.log[position].enabled != tuple(self._can_run()):
            return False
        return self.same.get((then, tuple(self.at)))

    def _can_run(self) -> list[int]:
        return [
            task
            for task, node in enumerate(self.at)
            if node.kind not in (END, FATAL) and self._enabled(task)
        ]


def _finish(event: Event, over: Over) -> None:
    event.acc = over.acc
    event.foot = over.foot
    event.op = over.op
    event.label = over.label
    if not over.shown:
        event.seen = over.seen
        event.left = over.left
