# SPDX-License-Identifier: GPL-2.0-only
"""Tasks, scheduling points, the execution log and the undo journal.

A *task* is a greenlet that runs ordinary Python.  Code between two *points* is
atomic and touches shared state only through the points' primitives (`Word`, the locks
of `septum.machine.sync`, `Machine.step`).  A point first *announces* the access; the
access is performed when the scheduler resumes the task.

Without an explorer (`Machine.exploring` false) every point is a plain call, so the
same model code serves unit tests, the shell and replay.

All mutable state is held in `Cell` objects, whose changes go to the undo journal:
`Machine.mark` and `Machine.rewind` give snapshots of everything but live stacks, and
`Machine.fingerprint` is the set of values that differ from the mark.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from greenlet import getcurrent, greenlet
from mypy_extensions import mypyc_attr

from septum.machine.buffers import MEMORY_MODELS, StoreBuffers
from septum.machine.dependency import ADD, AWAIT, WRITE, Access, Footprint, clash, footprint
from septum.machine.events import (
    CONTINUE,
    DEFAULT_LIMITS,
    Decision,
    Event,
    Execution,
    Finding,
    Halt,
    Limits,
    MachineError,
    Policy,
)
from septum.machine.frames import Moment
from septum.machine.known import Memory
from septum.machine.policy import Way
from septum.machine.recorder import Recorder
from septum.machine.rounds import Rounds, alike, endless, starving, state_of
from septum.machine.state import Cell, Task
from septum.machine.where import caller, function

__all__ = ["Machine"]


class _Point(Protocol):
    """The type of `Machine.point`."""

    def __call__(self, op: str, obj: str, ready: Callable[[], bool] | None = None) -> Event: ...


@mypyc_attr(native_class=False)
class _Discard(list[Access]):
    """Where footprints go when nobody explores."""

    def append(self, item: Access) -> None:
        return None


@mypyc_attr(allow_interpreted_subclasses=True)
class Machine:
    """The shared memory, the scheduler and the log of one model instance.

    :ivar exploring: an explorer decides who runs; else points are plain calls.
    :ivar interleaving: `exploring`, and not inside an atomic step or a dead machine.
    :ivar seq: index of the event being executed.
    :ivar muted: rules that `report` drops (monitors switched off).
    :ivar enabled_now: tasks that can run where a decision is due.
    :ivar judges: modules that report what others did (`Finding.place`).
    :ivar opaque: modules whose frames say nothing about where a task is (None: none do, so
        states are not compared, `septum.machine.rounds`).
    :ivar remembers: executions that hold nothing new are looked up (`septum.machine.known`).
    :ivar rec: what notes the present execution for that.
    :ivar memory_model: ``SC`` or ``TSO`` (`septum.machine.buffers`).
    :ivar buffers: the store buffers while tasks run under TSO; None under SC, and where
        nothing is buffered: in an atomic step, and while monitors look.
    :ivar locked_point: as `point`, for an access that waits for the own store buffer.
    """

    def __init__(self) -> None:
        self.exploring = False
        self.interleaving = False
        self.dead = False
        self.tracing = False
        self.seq = -1
        self.acc: list[Access] = _Discard()
        self.journal: list[tuple[Cell, Any, int]] = []
        self.log: list[Event] = []
        self.tasks: list[Task] = []
        self.sequential = Task(-1, "sequential", None)
        self.current = self.sequential
        self.findings: list[Finding] = []
        self.reached: set[str] = set()
        self.opaque: tuple[str, ...] | None = ("septum.machine", "septum.explore")
        self.judges: tuple[str, ...] = ("septum.machine", "septum.explore")
        self.rounds: Rounds | None = None
        self.retries_allowed = 0
        self.retries_folded = 0
        self.rec: Recorder | None = None
        self.remembers = False
        self.memory: Memory | None = None
        self._memory_of: tuple[Any, ...] = ()
        self.history: list[Any] | None = None
        self.histories: list[list[Any]] = []
        self.state_hook: Callable[[], bool] | None = None
        self.memory_model = "SC"
        self.buffers: StoreBuffers | None = None
        self._all_buffers: StoreBuffers | None = None
        self.locked_point: _Point = self.point
        self.muted: frozenset[str] = frozenset()
        self.listeners: list[Callable[[str, tuple[Any, ...]], None]] = []
        self._atomic = _Step(self)
        self._main: greenlet | None = None
        self._prefix: Sequence[Decision] = ()
        self._sleep: dict[int, Footprint] = {}
        self._covered: Sequence[Footprint] = ()
        self.enabled_now: tuple[int, ...] = ()
        self._way = Way(CONTINUE, 0)
        self._limits = Limits()
        self._begun = 0  # where in the journal the present run began
        self._status = ""
        self._diverged = ""
        self._last: list[Event] = []
        self._last_bodies: Sequence[tuple[str, Callable[[], None]]] = ()
        self._known = 0  # how many events of `_last` the present run repeats
        self._known_acc: list[Access] = []
        self.rcu = Cell(self, "~rcu", ())  # callbacks not yet run

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

    # --- events ----------------------------------------------------------------

    def point(self, op: str, obj: str, ready: Callable[[], bool] | None = None) -> Event:
        """Announce an access, let the scheduler choose, and begin the event.

        Call only while `interleaving`.  ``ready`` says whether the access is enabled.
        """
        task = self.current
        task.op = op
        task.obj = obj
        task.ready = ready
        task.off = -1
        if not task.started:
            task.started = True
            task.places[(op, obj)] = (0, 0)
            if self.rec is not None:
                self.rec.point(op, obj, ready is not None)
            assert self._main is not None
            self._main.switch()
        else:
            places = task.places
            key = (op, obj)
            n = len(task.trail)
            before = places.get(key)
            if before is None:
                places[key] = (n, 0)
            else:
                length = n - before[0]
                places[key] = (n, length)
                if length == before[1] and self.rounds is not None:
                    self._look(self.rounds, task, length)
            if self.rec is not None:
                self.rec.point(op, obj, ready is not None)
            chosen = self._schedule()
            if chosen is None:
                assert self._main is not None
                self._main.switch(None)
            elif chosen is not task:
                self.current = chosen
                assert chosen.glet is not None
                chosen.glet.switch()
        if self.dead:
            raise Halt
        return self._begin(task, op, obj)

    def _begin(self, task: Task, op: str, obj: str) -> Event:
        log = self.log
        position = self.seq = len(log)
        if position < self._known:
            # Same decisions, same events: the last run's serve, footprints included.
            event = self._last[position]
            self.acc = self._known_acc
        else:
            event = Event(task.id, task.count, op, obj)
            event.off = task.off
            if op != "choose":
                event.enabled = self.enabled_now
            self.acc = event.acc
        task.count += 1
        task.ready = None
        log.append(event)
        task.trail.append(position)
        if self.rec is not None:
            self.rec.begin(position, op)
        if self.history is not None:
            self.history = self.histories[task.id]
        if self.tracing:
            event.where, event.stack = caller()
        return event

    def step(self, op: str, obj: str, *, plain: bool = False) -> _Step:
        """``with m.step(...):`` one point; everything inside is one atomic event.

        Under TSO it begins when the own store buffer is empty, and its stores are visible
        at once (a SEAMCALL, an IPI); ``plain``: they are buffered as others are.
        """
        if self.interleaving:
            event = (self.point if plain else self.locked_point)(op, obj)
            event.label = op
            self.interleaving = False
            self._atomic.outer = True
            if not plain:
                self.buffers = None
        else:
            self._atomic.depth += 1
        return self._atomic

    def choose(self, name: str, options: tuple[Any, ...]) -> Any:
        """One of ``options``, every one of which is explored.  No task switch: the
        choice is part of the step in which it is made, and commutes with everything.
        Without an explorer: the first option."""
        if not self.exploring or self.dead:
            return options[0]
        task = self.current
        if not task.started:
            raise MachineError(f"choice {name} before the first point of {task.name}")
        if self.rec is not None:
            self.rec.choose(name, options)
        event = self._begin(task, "choose", name)
        position = self.seq
        if position < len(self._prefix):
            choice = self._prefix[position].choice
            if choice >= len(options):
                self._diverged = f"step {position}: choice {name} has no option {choice}"
                choice = 0
        elif self.rounds is not None and self.rounds.sure:
            choice = min(self.log[position - self.rounds.period].choice, len(options) - 1)
        else:
            choice = self._way.choose(task.id, len(options))
        event.choice = choice
        event.options = options
        event.seen = options[choice]
        if self.rec is not None:
            self.rec.chosen(choice)
        if self.history is not None:
            self.history.append(("choose", choice))
        return options[choice]

    # --- findings and reachability ------------------------------------------------

    def report(self, rule: str, message: str, obj: str = "", *, since: int = -1) -> None:
        """Record a finding at the current event; the execution goes on.

        :param since: position of the step at which what repeats for ever begins.
        """
        if rule in self.muted:
            return
        if self.rec is not None:
            self.rec.report(rule, message, obj)
        for f in self.findings:
            if f.rule == rule and f.message == message:
                return
        at = len(self.log) - 1
        task = self.current.id
        place = "" if task < 0 else function((*(self.opaque or ()), *self.judges, "contextlib"))
        self.findings.append(Finding(rule, message, at, task, obj, since, place))

    def fatal(self, rule: str, message: str, obj: str = "") -> None:
        """Record a finding and end the execution (BUG())."""
        self.report(rule, message, obj)
        self._status = "halted"
        if self.rec is not None:
            self.rec.end(fatal=True)
        if self.exploring and getcurrent() is not self._main and not self.dead:
            assert self._main is not None
            self._main.switch(None)
        raise Halt

    def reach(self, what: str) -> None:
        """Note that something interesting happened (a scenario's *must occur*)."""
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

    def buffered_sections(self) -> set[tuple[int, int]]:
        """RCU sections (task, number) whose stores still wait in a buffer."""
        buffers = self._all_buffers
        return set() if buffers is None else buffers.pending_sections()

    def smp_mb(self) -> None:
        """A full fence.  No point where there are no store buffers."""
        if self.buffers is not None:
            self.buffers.fence()

    # --- retry loops are awaits -------------------------------------------------

    def now(self) -> Moment:
        """When a read was made that an attempt may later fail because of (for `Task.blame`)."""
        return Moment(self.seq)

    def blame(self, cell: Cell, *, changed: bool = False) -> None:
        """The running attempt fails because of ``cell`` as just read.  ``changed``: the
        cell has already changed since (a lost cmpxchg), so a retry is worth it now."""
        blame = self.current.blame
        position = -2 if changed else self.seq
        if cell not in blame or blame[cell] < position or changed:
            blame[cell] = position

    def retry(self, head: str) -> None:
        """At the head of a retry loop after a failed attempt: wait until another task
        writes something that made the attempt fail.  Nothing blamed: the failure was
        injected, so the retry may run at once."""
        task = self.current
        blame = task.blame
        task.blame = {}
        if not blame or (self.retries_allowed < 0 and self.exploring):
            return
        if not self.exploring or self.dead:
            if any(cell.wseq > at for cell, at in blame.items()):
                return
            self.report("STUCK", f"{head}: retries what nobody will change")
            raise Halt
        if any(at == -2 for at in blame.values()):
            return  # a value it used is stale by now: the next attempt differs
        if task.retries < self.retries_allowed:
            task.retries += 1
            return
        cells = list(blame.items())
        self.retries_folded += 1
        if self.rec is not None:
            self.rec.fold()
            self.rec.wait_since(blame)

        def ready() -> bool:
            return any(cell.wseq > at for cell, at in cells)

        was = self.interleaving
        if not was:
            raise MachineError(f"{head}: retry inside an atomic step")
        event = self.point("await", head, ready)
        event.since = {cell.name: int(at) for cell, at in cells}
        self.acc.extend([(cell.name, AWAIT) for cell, _ in cells])

    # --- running ----------------------------------------------------------------

    def run(
        self,
        bodies: Sequence[tuple[str, Callable[[], None]]],
        prefix: Sequence[Decision] = (),
        sleep: Mapping[int, Footprint] | None = None,
        policy: Policy = CONTINUE,
        limits: Limits = DEFAULT_LIMITS,
        settle: Callable[[], None] | None = None,
        fingerprint: bool = False,
        covered: Sequence[Footprint] = (),
    ) -> Execution:
        """Execute the tasks once and rewind all state.

        :param prefix: decisions to follow first.
        :param sleep: per task, the footprint of its next step, which must not run
            before something dependent on it (as of just before the last step of
            the prefix; the runner updates it from there on).
        :param covered: footprints of steps from which everything was explored (as of
            just before the last step of the prefix): if that step commutes with one of
            them, the execution ends with it.
        :param settle: called in sequential mode after the last event, to judge.
        :param fingerprint: keep the state after the last event, before ``settle``.
        """
        self._sleep = dict(sleep) if sleep else {}
        lowest = policy.kind == "lowest"
        learn = self._remembered(bodies, policy, settle, fingerprint)
        if learn is not None:
            known = learn.run(prefix, self._sleep, covered, limits, lowest)
            if known is not None and learn.trusted():
                self._sleep = learn.sleep
                self.retries_folded = learn.folded
                return known
        mark = self._begun = len(self.journal)
        self._prefix = prefix
        self._covered = covered
        self._limits = limits
        self._status = ""
        self._diverged = ""
        self._known = self._repeated(bodies, prefix)
        self.log = []
        self.findings = []
        self.reached = set()
        self.retries_folded = 0
        self.seq = -1
        self.dead = False
        self.sequential = Task(-1, "sequential", None)
        self.tasks = [Task(i, name, body) for i, (name, body) in enumerate(bodies)]
        self._choose_memory_model()
        self.rounds = None if self.opaque is None else Rounds()
        if self.history is not None:
            self.histories = [[] for _ in self.tasks]
        self._way = Way(policy, len(self.tasks))
        self._main = getcurrent()
        if learn is not None:
            self.rec = Recorder(self, learn, len(self.tasks))
            for task in self.tasks:
                task.rcu = Cell(self, f"~rcu {task.name}", 0)
        try:
            self._start()
            self.current = self.tasks[0]
            chosen = self._schedule()
            while chosen is not None:
                self.current = chosen
                assert chosen.glet is not None
                chosen = chosen.glet.switch()
            self.rec = None
            pending = self._pending()
            self._kill()
            before, reached = len(self.findings), frozenset(self.reached)
            state = self.fingerprint(mark) if fingerprint else None
            if settle is not None and self._status == "complete":
                with suppress(Halt):  # BUG() in the epilogue is recorded as a finding
                    settle()
            execution = Execution(
                self.log,
                self._status,
                list(self.findings),
                pending,
                self._diverged,
                state,
                frozenset(self.reached),
            )
            self._last = self.log
            if learn is not None:
                judged = execution.findings[before:], execution.reached - reached
                learn.learn(execution, prefix, sleep, covered, limits, lowest, judged)
        finally:
            self.rec = None
            self._kill()
            self._known_acc.clear()
            self.rewind(mark)
        return execution

    def _remembered(
        self,
        bodies: Sequence[tuple[str, Callable[[], None]]],
        policy: Policy,
        settle: Callable[[], None] | None,
        fingerprint: bool,
    ) -> Memory | None:
        """What is known of the tasks, where it may be used."""
        if (
            not self.remembers
            or policy.kind not in ("continue", "lowest")
            or fingerprint
            or self.tracing
            or self.history is not None
            or self.state_hook is not None
            or self.memory_model != "SC"
        ):
            return None
        of = (bodies, settle, self.muted, self.retries_allowed, tuple(self.listeners))
        if self.memory is None or self.memory.full or of != self._memory_of:
            self.memory = Memory([name for name, _ in bodies])
            self._memory_of = of
        return self.memory

    @property
    def sleeping(self) -> Mapping[int, Footprint]:
        """Tasks that the last run kept asleep to its end."""
        return self._sleep

    def forget(self) -> None:
        """Make every event of the next run anew."""
        self._last = []
        if self.memory is not None:
            self.memory.forget()

    def _repeated(
        self, bodies: Sequence[tuple[str, Callable[[], None]]], prefix: Sequence[Decision]
    ) -> int:
        """How many events of the last run this one will repeat."""
        if self.tracing or self.history is not None or bodies is not self._last_bodies:
            self._last_bodies = bodies
            return 0
        n = 0
        for event, decision in zip(self._last, prefix, strict=False):
            if event.task != decision.task or event.choice != decision.choice:
                break
            n += 1
        return n

    def _choose_memory_model(self) -> None:
        """Under TSO every task gets a store buffer, an actor that the explorer schedules."""
        if self.memory_model not in MEMORY_MODELS:
            raise MachineError(f"no memory model {self.memory_model!r}: SC or TSO")
        self.buffers = self._all_buffers = None
        self.locked_point = self.point
        if self.memory_model == "TSO":
            self.buffers = self._all_buffers = StoreBuffers(self, self.tasks)
            self.locked_point = self.buffers.locked_point
            self.tasks = self.tasks + self.buffers.actors

    def _start(self) -> None:
        """Let every task run to its first point (nothing shared happens before it)."""
        self.exploring = self.interleaving = True
        self._atomic.depth = 0
        self._atomic.outer = False
        for task in self.tasks:
            self.current = task
            task.glet = greenlet(lambda t=task: self._body(t))
            task.glet.switch()

    def _body(self, task: Task) -> Task | None:
        """A task's greenlet: its body, then the choice of who goes on."""
        try:
            assert task.body is not None
            task.body()
        except Halt:
            if self.dead or self._status == "halted":
                return None
        except Exception as error:
            if self.dead:
                return None
            if self.rec is not None:
                self.rec.never()
            at = traceback.extract_tb(error.__traceback__)[-1]
            self.report(
                "EXCEPTION",
                f"{type(error).__name__}: {error} ({at.name}, line {at.lineno})",
            )
            self._status = "halted"
            return None
        task.done = True
        if self.rec is not None:
            self.rec.end()
        if not task.started:
            task.started = True
            return None
        return self._schedule()

    def _kill(self) -> None:
        """Unwind unfinished tasks; points do nothing meanwhile."""
        self.dead = True
        self.exploring = self.interleaving = False
        self.buffers = self._all_buffers = None
        self.locked_point = self.point
        self.rounds = None
        for task in self.tasks:
            glet = task.glet
            if glet is not None and not glet.dead:
                self.current = task
                glet.throw(Halt)
        self.dead = False
        self._atomic.depth = 0
        self._atomic.outer = False
        self.current = self.sequential
        self.acc = _Discard()
        self.history = None if self.history is None else []

    def _pending(self) -> list[Event]:
        pending = []
        for task in self.tasks:
            idle = task.daemon and task.ready is not None and not task.ready()
            if not task.done and not idle:
                event = Event(task.id, task.count, task.op, task.obj)
                event.off = task.off
                if task.wait is not None:
                    event.could = self.could_go_on(*task.wait)
                pending.append(event)
        return pending

    def could_go_on(self, word: Cell, done: Callable[[Any], bool]) -> frozenset[int]:
        """Positions of the changes of ``word`` without which (and what depends on them)
        ``done`` would hold.  A change may be part of a larger step, so the journal tells."""
        mine = [(old, wseq) for cell, old, wseq in self.journal[self._begun :] if cell is word]
        ends = [*mine, (word._v, word.wseq)][1:]
        out = set()
        first: dict[int, Any] = {}  # position -> the value before its first change there
        for (before, _), (after, at) in zip(mine, ends, strict=True):
            if at < 0:
                continue
            before = first.setdefault(at, before)
            kinds = {kind for name, kind in self.log[at].acc if name == word.name}
            without = word._v - (after - before) if ADD in kinds and WRITE not in kinds else before
            if done(without):
                out.add(at)
            else:
                out.discard(at)
        return frozenset(out)

    # --- scheduling ---------------------------------------------------------------

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
        if position < len(self._prefix):
            wanted = self._prefix[position].task
            if starts and self._in_vain(wanted, starts[0]):
                self._status = "matched"
                self.retries_folded += 1
                return None
            return self._follow(wanted, position)
        if self._covered:
            step = self._last_step()
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
            since = endless(self.log, enabled)
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
            last = self._last_step()
            for tid in [t for t, step in sleep.items() if clash(step, last)]:
                del sleep[tid]
        candidates = enabled
        if sleep or only:
            candidates = [t for t in enabled if t.id not in sleep and (not only or t.id in only)]
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
        if self.rec is not None and alike(task.trail, length, self.log):
            self.rec.never()  # whether the state was so before is no matter of one task
        if rounds.sure or not rounds.again(task.trail, length, self.log):
            return
        if self.opaque is not None and rounds.worth_a_look(task.id, task.op, task.obj):
            shared = self.fingerprint(self._begun)
            rounds.seen(len(self.log), state_of(self.tasks, shared, task, self.opaque))

    def _in_vain(self, wanted: int, start: int) -> bool:
        """Whether the prefix goes once more round a cycle out of which others would lead:
        all that follows follows without that, too."""
        enabled = [t for t in self.tasks if not t.done and (t.ready is None or t.ready())]
        left = starving(self.log, start, enabled)
        return bool(left) and wanted not in left

    def _round(self, rounds: Rounds, starts: list[int], enabled: list[Task]) -> list[int] | None:
        """Who may come next where cycles are over: those that they starve (empty: anybody).
        One that starves nobody is repeated; None if that went on long enough to be reported."""
        position = len(self.log)
        if not rounds.sure:
            for start in reversed(starts):
                left = starving(self.log, start, enabled)
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

    def _last_step(self) -> Footprint:
        """What the last step did, its choices included."""
        log = self.log
        first = len(log) - 1
        while first >= 0 and log[first].op == "choose":
            first -= 1
        return footprint([a for event in log[max(first, 0) :] for a in event.acc])

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


class _Step:
    """The body of `Machine.step`: scheduling points inside it are plain accesses."""

    __slots__ = ("depth", "m", "outer")

    def __init__(self, m: Machine) -> None:
        self.m = m
        self.depth = 0
        self.outer = False

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        if self.depth:
            self.depth -= 1
        elif self.outer:
            self.outer = False
            m = self.m
            m.interleaving = m.exploring and not m.dead
            m.buffers = m._all_buffers
