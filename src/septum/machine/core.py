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
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn, Protocol

from greenlet import getcurrent, greenlet
from mypy_extensions import mypyc_attr

from septum.machine.buffers import MEMORY_MODELS, StoreBuffers
from septum.machine.dependency import AWAIT, Access, Footprint, Sleep
from septum.machine.events import (
    CONTINUE,
    DEFAULT_LIMITS,
    Decision,
    Event,
    Execution,
    Halt,
    Limits,
    MachineError,
    Policy,
    repeated,
)
from septum.machine.known import Judged, Memory, Wanted, at_step
from septum.machine.policy import Way
from septum.machine.reading import Moment
from septum.machine.recorder import Recorder
from septum.machine.rounds import Rounds
from septum.machine.schedule import Schedule
from septum.machine.state import Cell, Task
from septum.machine.where import caller

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
class Machine(Schedule):
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
    :ivar halts: log positions at which BUG() ended a task in this execution.
    :ivar remember_after: so many executions, for few hold what is looked up later.
    :ivar learning: the present execution is one of a search that looks up.
    :ivar rec: what notes it, from where it is new.
    :ivar memory_model: ``SC`` or ``TSO`` (`septum.machine.buffers`).
    :ivar buffers: the store buffers while tasks run under TSO; None under SC, and where
        nothing is buffered: in an atomic step, and while monitors look.
    :ivar locked_point: as `point`, for an access that waits for the own store buffer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exploring = False
        self.interleaving = False
        self.tracing = False
        self.seq = -1
        self.acc: list[Access] = _Discard()
        self.retries_allowed = 0
        self.remembers = False
        self.remember_after = 16
        self.memory: Memory | None = None
        self._memory_of: tuple[Any, ...] = ()
        self.history: list[Any] | None = None
        self.histories: list[list[Any]] = []
        self.memory_model = "SC"
        self.locked_point: _Point = self.point
        self._atomic = _Step(self)
        self._main: greenlet | None = None
        self._last: list[Event] = []
        self._last_bodies: Sequence[tuple[str, Callable[[], None]]] = ()
        self._new = -1  # where the present run does what is not known
        self._known = 0  # how many events of `_last` the present run repeats
        self._known_acc: list[Access] = []
        self._survivors = False
        self.rcu = Cell(self, "~rcu", ())  # callbacks not yet run

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
            if self.rec is not None:
                self.rec.point(op, obj, ready is not None)
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
        elif position == self._new:
            assert self.memory is not None
            self.rec = Recorder(self, self.memory)
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

    def fatal(self, rule: str, message: str, obj: str = "") -> NoReturn:
        """Record a finding and end the execution (BUG())."""
        self.report(rule, message, obj)
        self.die()

    def die(self) -> NoReturn:
        """End the running task, and with it the execution, unless others are to survive it
        (`run`).  The task keeps its locks, and is not unwound before the execution is over."""
        if self.rec is not None:
            self.rec.end(fatal=True)
        if self.exploring and getcurrent() is not self._main and not self.dead:
            assert self._main is not None
            self._main.switch(self._survivor())
        else:
            self._status = "halted"
        raise Halt

    def _survivor(self) -> Task | None:
        """The running task is dead: who goes on, if anybody does."""
        here = getcurrent()
        task = next(t for t in self.tasks if t.glet is here)
        self.halts.append(len(self.log) - 1)
        if not self._survivors or not task.started:
            self._status = "halted"
            return None
        task.done = True
        self._atomic.depth = 0
        self._atomic.outer = False
        self.interleaving = True
        self.buffers = self._all_buffers
        return self._schedule()

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
        sleep: Sleep = (),
        policy: Policy = CONTINUE,
        limits: Limits = DEFAULT_LIMITS,
        settle: Callable[[], None] | None = None,
        fingerprint: bool = False,
        covered: Sequence[Footprint] = (),
        survivors: bool = False,
    ) -> Execution:
        """Execute the tasks once and rewind all state.

        :param prefix: decisions to follow first.
        :param sleep: tasks and footprints of their next steps (several, if it has options):
            none of these tasks may run before something dependent on all that is named of it
            (as of just before the last step of the prefix).
        :param covered: footprints of steps from which everything was explored (as of
            just before the last step of the prefix): if that step commutes with one of
            them, the execution ends with it.
        :param settle: called in sequential mode after the last event, to judge.
        :param fingerprint: keep the state after the last event, before ``settle``.
        :param survivors: BUG() ends only the task that hits it, and what comes after it is not
            judged: for explorers, who want to know what the other tasks would have done.
        """
        self._sleep = sleep
        wanted = Wanted(prefix, sleep, covered, limits, policy.kind == "lowest", survivors)
        self.learning = self._may_remember(policy, fingerprint)
        learn = self._remembered(bodies, settle) if self.learning else None
        if learn is not None:
            known = learn.run(wanted)
            if known is not None and learn.trusted():
                self._sleep = learn.sleep
                self.retries_folded = learn.retries_folded
                self.learning = False
                return known
        mark = self.begun = len(self.journal)
        self._prefix = prefix
        self._covered = covered
        self._limits = limits
        self._status = ""
        self._diverged = ""
        self._known = self._repeated(bodies, prefix)
        self.log = []
        self.findings = []
        self.reached = set()
        self.halts = []
        self._survivors = survivors
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
        self._new = -1
        if learn is not None:
            if learn.begun:
                self._new = len(learn.log)
            else:
                self.rec = Recorder(self, learn)
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
            self.learning = False
            pending = self._pending()
            self._kill()
            execution = Execution(
                self.log,
                self._status,
                list(self.findings),
                pending,
                self._diverged,
                self.fingerprint(mark) if fingerprint else None,
                frozenset(self.reached),
                self.halts,
            )
            self._last = self.log
            judge = partial(self._judge, settle)
            judged = judge() if learn is None else learn.learn(execution, wanted, judge)
            execution.findings += at_step(judged[0], len(self.log) - 1)
            execution.reached |= judged[1]
        finally:
            self.rec = None
            self.learning = False
            self._kill()
            self._known_acc.clear()
            self.rewind(mark)
        return execution

    def _judge(self, settle: Callable[[], None] | None) -> Judged:
        """What is found in the present state, and what was reached on the way to that."""
        before, reached = len(self.findings), frozenset(self.reached)
        if settle is not None and self._status == "complete" and not self.halts:
            with suppress(Halt):  # BUG() in the epilogue is recorded as a finding
                settle()
        return self.findings[before:], frozenset(self.reached) - reached

    def _may_remember(self, policy: Policy, fingerprint: bool) -> bool:
        """Whether what is known of the tasks may be used."""
        return (
            self.remembers
            and policy.kind in ("continue", "lowest")
            and not fingerprint
            and not self.tracing
            and self.history is None
            and self.state_hook is None
            and self.memory_model == "SC"
        )

    def _remembered(
        self, bodies: Sequence[tuple[str, Callable[[], None]]], settle: Callable[[], None] | None
    ) -> Memory | None:
        """What is known of the tasks, unless few executions have begun so far."""
        of = (bodies, settle, self.muted, self.retries_allowed, tuple(self.listeners))
        if self.memory is None or self.memory.full or of != self._memory_of:
            self.memory = Memory(len(bodies))
            self._memory_of = of
        self.memory.runs += 1
        return self.memory if self.memory.runs > self.remember_after else None

    @property
    def sleeping(self) -> Sleep:
        """What the last run kept asleep to its end."""
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
        return repeated(self._last, prefix)

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
            return self._survivor()
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
