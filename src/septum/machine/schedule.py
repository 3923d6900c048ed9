# SPDX-License-Identifier: GPL-2.0-only
"""One execution: its log, its findings, the undo journal, and who is next.

The base of `septum.machine.core.Machine`, which adds the points at which tasks switch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from mypy_extensions import mypyc_attr

from septum.machine.buffers import StoreBuffers
from septum.machine.could import Could, could_go_on
from septum.machine.dependency import Footprint, Sleep, clash
from septum.machine.events import CONTINUE, Decision, Event, Finding, Limits, last_footprint
from septum.machine.policy import Way
from septum.machine.recorder import Recorder
from septum.machine.rounds import Rounds, endless, starving, state_of
from septum.machine.state import Cell, Task
from septum.machine.where import function

__all__ = ["Schedule"]


@mypyc_attr(allow_interpreted_subclasses=True)
class Schedule:
    """What is the same in every execution, and the state of the present one; its fields are
    described in `septum.machine.core.Machine`."""

    def __init__(self) -> None:
        self.dead = False
        self.journal: list[tuple[Cell, Any, int]] = []
        self.log: list[Event] = []
        self.tasks: list[Task] = []
        self.sequential = Task(-1, "sequential", None)
        self.current = self.sequential
        self.findings: list[Finding] = []
        self.reached: set[str] = set()
        self.halts: list[int] = []
        self.opaque: tuple[str, ...] | None = ("septum.machine", "septum.explore")
        self.judges: tuple[str, ...] = ("septum.machine", "septum.explore")
        self.rounds: Rounds | None = None
        self.retries_folded = 0
        self.learning = False
        self.rec: Recorder | None = None
        self.state_hook: Callable[[], bool] | None = None
        self.buffers: StoreBuffers | None = None
        self._all_buffers: StoreBuffers | None = None
        self.muted: frozenset[str] = frozenset()
        self.listeners: list[Callable[[str, tuple[Any, ...]], None]] = []
        self._prefix: Sequence[Decision] = ()
        self._sleep: Sleep = ()
        self._covered: Sequence[Footprint] = ()
        self.enabled_now: tuple[int, ...] = ()
        self._way = Way(CONTINUE, 0)
        self._limits = Limits()
        self.begun = 0  # where in the journal the present run began
        self._status = ""
        self._diverged = ""

    # --- snapshots -------------------------------------------------------------

    def mark(self) -> int:
        """The present point in the journal, to `rewind` to."""
        return len(self.journal)

    def rewind(self, mark: int) -> None:
        """Undo every change since ``mark``."""
        journal = self.journal
        while len(journal) > mark:
            cell, v, wseq = journal.pop()
            cell._v = v
            cell.wseq = wseq

    def fingerprint(self, mark: int = 0) -> Hashable:
        """A hashable value of all state changed since ``mark``.

        Cells whose name begins with ``~`` hold bookkeeping of the machine (who was in an
        RCU section), which no model code can observe: they are left out.
        """
        first: dict[str, tuple[Any, Cell]] = {}
        journal = self.journal
        for i in range(mark, len(journal)):
            cell, old, _ = journal[i]
            if cell.name not in first:
                first[cell.name] = (old, cell)
        return frozenset(
            (n, c._v) for n, (old, c) in first.items() if c._v != old and not n.startswith("~")
        )

    # --- findings and reachability ------------------------------------------------

    def report(self, rule: str, message: str, obj: str = "", *, since: int = -1) -> None:
        """Record a finding at the current event; the execution goes on.  What others do after
        BUG() (`Machine.run`, ``survivors``) is none.

        :param since: position of the step at which what repeats for ever begins.
        """
        if rule in self.muted:
            return
        known = bool(self.halts) or any(
            f.rule == rule and f.message == message for f in self.findings
        )
        if known and self.rec is None:
            return
        at = len(self.log) - 1
        task = self.current.id
        place = "" if task < 0 else function((*(self.opaque or ()), *self.judges, "contextlib"))
        if self.rec is not None:
            self.rec.report(rule, message, obj, place)
            if known:
                return
        self.findings.append(Finding(rule, message, at, task, obj, since, place))

    def reach(self, what: str) -> None:
        """Note that something interesting happened (a scenario's *must occur*)."""
        if not self.halts:
            self.reached.add(what)
        if self.rec is not None:
            self.rec.reach(what)

    def emit(self, what: str, *args: Any) -> None:
        """Tell listeners (monitors) of something that happened in the current event.
        They see memory, not what waits in the running task's store buffer."""
        buffers = self.buffers
        self.buffers = None
        for listener in self.listeners:
            listener(what, args)
        self.buffers = buffers

    # --- who is next ----------------------------------------------------------------

    def _schedule(self) -> Task | None:
        """The task whose announced event runs next; None ends the execution."""
        position = len(self.log)
        if self._status or self.dead:
            return None
        starts: list[int] = []
        if self.rounds is not None:
            starts = self.rounds.starts
            if starts:
                self.rounds.starts = []
        if position < len(self._prefix) and self._prefix[position].task < 0:
            self._prefix = self._prefix[:position]
        if position < len(self._prefix):
            wanted = self._prefix[position].task
            if starts and self._in_vain(wanted, starts[0]):
                self._status = "matched"
                self.retries_folded += 1
                return None
            return self._follow(wanted, position)
        if self._covered:
            step = last_footprint(self.log)
            if any(not clash(seen, step) for seen in self._covered):
                self._status = "covered"
                return None
            self._covered = ()
        enabled = self._enabled(position)
        if not enabled:
            return None
        only: list[int] = []
        if self.rounds is not None and (starts or self.rounds.sure):
            following = self._round(self.rounds, starts, enabled)
            if following is None:
                return None
            only = following
            if self.rounds.sure:
                self.enabled_now = tuple([t.id for t in enabled])
                return self.tasks[only[0]]
        if position >= self._limits.steps:
            self._status = "limit"
            self.rec = None
            since = endless(self.log, [t.id for t in enabled])
            if since >= 0:
                text = f"no end after {position} steps: the last {position - since} repeat"
                self.report("LIVELOCK", text, since=since)
            return None
        if self.state_hook is not None:
            self.enabled_now = tuple([t.id for t in enabled])
            if not self.state_hook():
                self._status = "matched"
                return None
        self.enabled_now = tuple([t.id for t in enabled])
        sleep = self._sleep
        if sleep:
            last = last_footprint(self.log)
            sleep = self._sleep = [(t, step) for t, step in sleep if not clash(step, last)]
        candidates = enabled
        if sleep or only:
            kept = [t for t, _ in sleep]
            candidates = [t for t in enabled if t.id not in kept and (not only or t.id in only)]
            if not candidates:
                self._status = "held"
                return None
        return self._pick(candidates, position)

    def _enabled(self, position: int) -> list[Task]:
        """Who can run; nobody: the execution is over."""
        enabled: list[Task] = []
        waiting = False
        for task in self.tasks:
            if task.done:
                continue
            if task.ready is None or task.ready():
                enabled.append(task)
            else:
                task.off = position
                waiting = waiting or not task.daemon
        if not enabled:
            if not waiting:
                self._status = "complete"
            else:
                waits = [t.op for t in self.tasks if not t.done and not t.daemon]
                self._status = "deadlock" if all(w.endswith("lock") for w in waits) else "stuck"
                self._report_blocked()
        return enabled

    # --- going round in cycles (septum.machine.rounds) --------------------------------

    def _look(self, rounds: Rounds, task: Task, length: int) -> None:
        """A task may be about to do once more what it has done twice, in ``length`` events:
        compare the state with those in which that was so before."""
        if self.rec is not None:
            self.rec.repeats(length)
        if rounds.sure or not rounds.again(task.trail, length, self.log):
            return
        if self.opaque is not None and rounds.worth_a_look(task.id, task.op, task.obj):
            shared = self.fingerprint(self.begun)
            state = state_of(self.tasks, shared, task, self.opaque, rounds.places)
            earlier = rounds.states[:]
            rounds.seen(len(self.log), state)
            if self.rec is not None:
                alike = [at for at, known in earlier if known[0] == state[0]]
                self.rec.compared(len(self.log), {at: at in rounds.starts for at in alike})

    def _in_vain(self, wanted: int, start: int) -> bool:
        """Whether the prefix goes once more round a cycle out of which others would lead:
        all that follows follows without that, too."""
        enabled = [t.id for t in self.tasks if not t.done and (t.ready is None or t.ready())]
        left = starving(self.log, start, enabled)
        return bool(left) and wanted not in left

    def _round(self, rounds: Rounds, starts: list[int], enabled: list[Task]) -> list[int] | None:
        """Who may come next where cycles are over: those that they starve (empty: anybody).
        One that starves nobody is repeated; None if that went on long enough to be reported."""
        position = len(self.log)
        if not rounds.sure:
            ids = [t.id for t in enabled]
            for start in reversed(starts):
                left = starving(self.log, start, ids)
                if not left:
                    rounds.run_on(start, position, self.reached)
                    break
            else:
                self._way.last({event.task for event in self.log[starts[0] :]} - {*left})
                return left
        if not rounds.goes_on(self.log):
            return []
        if position >= rounds.until:
            self._endless(rounds)
            return None
        next_one = self.log[position - rounds.period].task
        for task in enabled:
            if task.id == next_one:
                return [next_one]
        rounds.give_up()
        return []

    def _endless(self, rounds: Rounds) -> None:
        """Report a cycle, and forget that it was run on."""
        self.log = self.log[: rounds.end]
        self.reached = rounds.reached
        self.findings = [f for f in self.findings if f.step < rounds.end]
        self._status = "livelock"
        self.rec = None
        going = {event.task for event in self.log[rounds.began :]}
        names = ", ".join([t.name for t in self.tasks if t.id in going])
        text = f"{names}: the last {rounds.period} steps repeat for ever"
        waits = [
            f"{t.name} waits at {t.op} {t.obj}"
            for t in self.tasks
            if not t.done and not t.daemon and t.id not in going
        ]
        self.report("LIVELOCK", "; ".join([text, *waits]), since=rounds.began)

    def _follow(self, wanted: int, position: int) -> Task | None:
        """The task that the prefix names, if it can run."""
        chosen: Task | None = None
        enabled: list[int] = []
        for task in self.tasks:
            if task.done:
                continue
            if task.ready is not None and not task.ready():
                task.off = position
                continue
            enabled.append(task.id)
            if task.id == wanted:
                chosen = task
        self.enabled_now = tuple(enabled)
        if chosen is None:
            self._status = "diverged"
            self._diverged = f"step {position}: task {wanted} cannot run"
        return chosen

    def _pick(self, candidates: list[Task], position: int) -> Task:
        rounds = self.rounds
        if rounds is not None and position < rounds.until and self.state_hook is None:
            if self._way.policy.kind == "continue":
                wanted = self.log[position - rounds.period].task  # let it repeat, or not
                for task in candidates:
                    if task.id == wanted:
                        return task
                rounds.until = 0
        return self._way.pick(candidates, self.current, position)

    def _report_blocked(self) -> None:
        waiting = [t for t in self.tasks if not t.done and not t.daemon]
        what = "; ".join(f"{t.name} waits at {t.op} {t.obj}" for t in waiting)
        rule = "DEADLOCK" if self._status == "deadlock" else "STUCK"
        self.rec = None
        self.emit("stuck", [(t.name, t.op, t.obj) for t in waiting])
        self.report(rule, what)

    def _pending(self) -> list[Event]:
        pending = []
        for task in self.tasks:
            idle = task.daemon and task.ready is not None and not task.ready()
            if not task.done and not idle:
                event = Event(task.id, task.count, task.op, task.obj)
                event.off = task.off
                if self._all_buffers is not None:
                    event.acc = self._all_buffers.awaited(task)
                if task.wait is not None:
                    event.could = self.could_go_on(*task.wait)
                pending.append(event)
        return pending

    def could_go_on(self, word: Cell, done: Callable[[Any], bool]) -> Could:
        """What `could.could_go_on` says.  A change may be part of a larger step, so the
        journal tells."""
        mine = [(old, wseq) for cell, old, wseq in self.journal[self.begun :] if cell is word]
        return could_go_on(word.name, [*mine, (word._v, word.wseq)], self.log, done)
