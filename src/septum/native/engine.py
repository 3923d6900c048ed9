# SPDX-License-Identifier: GPL-2.0-only
"""Executions in C, one call each; Python runs those that C cannot (`c/engine.h`).

Events, footprints and findings are those of `septum.native.driver`: what C logged becomes the
same `Execution`.  Where C meets a question that it has no answer to, or something that is to be
reported, the caller runs the execution in Python, which also teaches C the answer.
"""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from septum.machine import Decision, Event, Execution, Halt, Limits
from septum.machine.dependency import Access, Footprint, Sleep
from septum.native.answers import Answers, NativeMachine
from septum.native.objects import COUNTER, REFERENCES, Granule
from septum.native.source import lost, rmw_name
from septum.native.tables import BODY_CALLS, EDGES, LOGGED, SNAPSHOTS, VISITED, Tables, place

if TYPE_CHECKING:
    from septum.native.driver import Driver

__all__ = ["Engine", "Plan"]

ON, COMPLETE, COVERED, DIVERGED, ASK, BLOCKED = range(6)
_ACCESS, _LOCK, _UNLOCK, _FREE, _WAIT, _RETRY = 1, 2, 3, 4, 5, 6
_CHOICE = 9
_POINT, _AWAIT, _CHOSEN = 32, 33, 34
_WRITE, _RMW, _RCU = 1, 2, 0x100
_TABLE, _COUNTER, _REFERENCES, _SEQ, _PROGRESS, _ZAP = 1, 2, 4, 8, 16, 32
_NAMED: Final = {"kvm.mmu_invalidate_seq": _SEQ, "kvm.mmu_invalidate_in_progress": _PROGRESS}
_LOCK_OPS: Final = ("write_lock", "read_lock", "try_lock", "read_trylock")
_SIZE: Final = struct.calcsize(LOGGED)
_IF_ASKED: Final = 1 << 31


def _word(decision: Decision) -> int:
    """A decision as C reads it."""
    task, choice = decision.task, decision.choice << 8
    return ~task | choice | _IF_ASKED if task < 0 else task | choice


class Plan(NamedTuple):
    """One operation of a task: a function of the image, its arguments, the CPU; what the
    guest is given to do before it (None: nothing)."""

    function: str
    args: tuple[int, ...]
    cpu: int
    load: Callable[[], None] | None = None


class _Request(ctypes.Structure):
    """struct request."""

    _fields_ = [
        *((n, ctypes.c_uint32) for n in ("decisions", "sleeps", "covereds", "steps", "lowest")),
        ("known", ctypes.c_uint32),
        *((n, ctypes.c_uint64) for n in ("decision", "sleep", "covered")),
        *((n, ctypes.c_uint32) for n in ("logged", "folded", "pending", "why")),
    ]


class _Foot(ctypes.Structure):
    _fields_ = [
        ("task", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("entries", ctypes.c_uint64),
    ]


class Engine:
    """Runs the tasks of one program.

    :param plans: what each task does; ``names`` how they are called.
    :ivar asked: executions that Python had to run, by reason (enum why of c/engine.h).
    :ivar settled: states in which all tasks had finished and no rule was broken.
    """

    def __init__(
        self, driver: Driver, names: Sequence[str], plans: Sequence[Sequence[Plan]]
    ) -> None:
        self.driver = driver
        kernel = driver.kernel
        self.kernel = kernel
        self.image = image = kernel.image
        assert isinstance(driver.m, NativeMachine)
        self.m = driver.m
        self.tables = Tables(image)
        self.answers = Answers(self.tables, self.m)
        self.plans = plans
        self.asked: dict[int, int] = {}
        self.served = 0
        self.settle: Callable[[], None] | None = None
        self.settled: set[tuple[int, int]] = set()
        self.execute = image.function("septum_execute", 1)
        self._forget = image.function("septum_forget_last", 0)
        self._request = _Request()
        self._at = ctypes.addressof(self._request)
        self._said = (ctypes.c_uint8 * 1024).from_address(image.symbols["septum_said"])
        self._texts = (ctypes.c_uint64 * 64).from_address(image.symbols["septum_texts"])
        self._texts_used = ctypes.c_uint64.from_address(image.symbols["septum_texts_used"])
        self._folded = ctypes.c_uint32.from_address(image.symbols["septum_folded"])
        self._state = ctypes.c_uint32.from_address(image.symbols["septum_state"])
        self._pairs: dict[int, Access] = {}
        self._tables: set[str] = set()  # names of entries of page tables
        self._ops: dict[tuple[int, int], str] = {}
        self._feet: dict[int, tuple[Footprint, Any]] = {}
        self._events: list[Event] = []
        self._lost: list[int] = []  # where SPTEs were to change and did not, in new events
        self._bodies(names, plans)
        zap = kernel.fields.get("kvm_tdx.wait_for_sept_zap", (0, 0))[0] + kernel.struct
        self.tables.configure(
            {
                "edges_size": EDGES,
                "visited_size": VISITED,
                "snapshots_size": SNAPSHOTS,
                "frozen": kernel.frozen,
                "tasks": len(plans),
                "leave": image.symbols.get("septum_leave", 0),
                "zap": zap if kernel.struct else 0,
            }
        )
        kernel.objects.on_new = self._adopt
        for cell in kernel.objects.cells():
            self._adopt(cell)
        image.answers = self.answers
        driver.answers = self.answers

    def _bodies(self, names: Sequence[str], plans: Sequence[Sequence[Plan]]) -> None:
        """struct body of every task."""
        words = 1 + BODY_CALLS * 6
        for n, (name, plan) in enumerate(zip(names, plans, strict=True)):
            out = (ctypes.c_uint64 * words).from_address(place("bodies") + n * 8 * words)
            out[0] = len(plan) | int(name.startswith("vcpu")) << 32
            for k, call in enumerate(plan):
                at = 1 + 6 * k
                args = [a & (1 << 64) - 1 for a in (*call.args, 0, 0, 0, 0)[:4]]
                out[at : at + 5] = [self.image.symbols[call.function], *args]
                out[at + 5] = call.cpu | int(call.load is not None) << 32

    def _adopt(self, cell: Granule) -> None:
        """A word that C may meet."""
        number = self.tables.object(cell.name)
        flags = _TABLE if cell.table else _NAMED.get(cell.name, 0)
        if cell.counter:
            flags |= {COUNTER: _COUNTER, REFERENCES: _REFERENCES}[cell.counter]
        if cell.name == "kvm_tdx.wait_for_sept_zap" or cell is self.kernel.zap_word:
            flags |= _ZAP
        if cell.table:
            self._tables.add(cell.name)
        dying = self.tables.object(cell.dying.name) if cell.dying is not None else 0
        self.tables.flags(number, flags, dying)
        self.tables.name_object(cell.addr, number)

    def python_runs(self) -> None:
        """The next execution is run by Python."""
        self._forget()
        self._events = []
        self.answers.start()

    # --- one execution -------------------------------------------------------------------

    def run(
        self,
        prefix: Sequence[Decision],
        sleep: Sleep,
        limits: Limits,
        covered: Sequence[Footprint],
    ) -> Execution | None:
        """The execution; None: Python has to run it."""
        request = self._request
        decisions = array("I", [_word(d) for d in prefix])
        request.decisions = len(decisions)
        request.decision = decisions.buffer_info()[0]
        sleepers = self._footprints(sleep)
        covers = self._footprints([(0, foot) for foot in covered])
        request.sleeps, request.covereds = len(sleep), len(covered)
        request.sleep = ctypes.addressof(sleepers)
        request.covered = ctypes.addressof(covers)
        request.steps = limits.steps
        result = self.execute(self._at)
        self.image.check_kept()
        if result in (ASK, BLOCKED) or self.image.new_shared_count.value:
            self.asked[request.why] = self.asked.get(request.why, 0) + 1
            return None
        if result == DIVERGED:
            self.asked[-1] = self.asked.get(-1, 0) + 1
            return None
        events = self._log(request.logged, request.known)
        self.m.log = events
        if result == COMPLETE and not self.judged():
            self.asked[-2] = self.asked.get(-2, 0) + 1
            return None
        self.served += 1
        self._events = events
        self.m.retries_folded = request.folded
        status = "complete" if result == COMPLETE else "covered"
        return Execution(events, status, [], [], reached=frozenset(self._reached()))

    def request(self) -> Any:
        """A struct request of one's own, for `execute`."""
        return _Request()

    def _footprints(self, items: Sequence[tuple[int, Footprint]]) -> Any:
        out = (_Foot * len(items))()
        for slot, (task, foot) in zip(out, items, strict=True):
            known = self._feet.get(id(foot))
            if known is None or known[0] is not foot:
                entries = array("Q", [self.tables.object(n) << 32 | k for n, k in foot.items()])
                if len(self._feet) > 100_000:
                    self._feet.clear()
                known = self._feet[id(foot)] = (foot, entries)
            slot.task, slot.size = task, len(foot)
            slot.entries = known[1].buffer_info()[0]
        return out

    def noted(self) -> set[str]:
        """What C found worth noting since it began."""
        texts = self.tables.texts
        said = bytes(self._said[: len(texts)])
        out = {texts[n] for n in range(len(texts)) if said[n]}
        return out | {self.image.text(at) for at in self._texts[: self._texts_used.value]}

    @property
    def folded(self) -> int:
        """Retries that were folded since C began."""
        return self._folded.value

    def _reached(self) -> set[str]:
        out = self.noted()
        for pc in self._lost:
            out.update(lost(self.kernel.lines, pc))
        return out

    # --- the log -------------------------------------------------------------------------

    def _log(self, logged: int, known: int) -> list[Event]:
        """Events of the execution; the first ``known`` are the last one's."""
        events = self._events[:known]
        self._lost.clear()
        if logged == known:
            return events
        data = ctypes.string_at(place("log") + known * _SIZE, (logged - known) * _SIZE)
        entries = list(struct.iter_unpack(LOGGED, data))
        begin = entries[0][3]
        end = entries[-1][3] + entries[-1][4]
        accesses = array("I", ctypes.string_at(place("acc") + 4 * begin, 4 * (end - begin)))
        pairs = self._pairs
        for entry in entries:
            task, kind, obj, acc, accs = entry[:5]
            index, pc, type_, before, after = entry[12], *entry[14:18]
            event = self._event(task, kind, obj, index, entry, pc, type_, before, after)
            event.off = entry[8]
            event.acc = [
                pairs[a] if a in pairs else self._pair(a)
                for a in accesses[acc - begin : acc - begin + accs]
            ]
            events.append(event)
        return events

    def _pair(self, packed: int) -> Access:
        pair = self._pairs[packed] = (self.tables.objects[packed >> 5], packed & 31)
        return pair

    def _event(
        self,
        task: int,
        kind: int,
        obj: int,
        index: int,
        entry: tuple[int, ...],
        pc: int,
        type_: int,
        before: int,
        after: int,
    ) -> Event:
        tables = self.tables
        if kind == _ACCESS:
            event = Event(task, index, self._op(pc, type_), tables.objects[obj])
            if not type_ & _RCU:
                self._values(event, before, after, type_)
                if event.op == "cmpxchg-failed" and event.obj in self._tables:
                    self._lost.append(pc)
        elif kind == _POINT:
            event = Event(task, index, tables.strings[entry[11]], tables.strings[obj])
            event.seen, event.left = tables.values[before], tables.values[after]
        elif kind == _CHOSEN:
            return self._choice(task, index, entry, before)
        elif kind == _AWAIT:
            head = tables.strings[obj] if obj else "vcpu_run"
            if not obj and type_ == _RETRY:
                head = self.image.text(before)
            event = Event(task, index, "await", head)
            event.since = self._since(entry[5], entry[6])
        elif kind == _LOCK:
            event = Event(task, index, _LOCK_OPS[type_ & 3], tables.objects[obj])
        elif kind == _UNLOCK:
            op = "read_unlock" if type_ & 1 else "write_unlock"
            event = Event(task, index, op, tables.objects[obj])
        elif kind == _CHOICE:
            event = Event(task, index, "choice", self.image.text(before))
        else:
            event = Event(task, index, "free" if kind == _FREE else "wait", tables.objects[obj])
        event.enabled = tuple([t for t in range(len(self.plans)) if entry[7] >> t & 1])
        return event

    def _choice(self, task: int, index: int, entry: tuple[int, ...], name: int) -> Event:
        options = self.answers.options.get(name)
        text = self.tables.strings[name] if options is not None else self.image.text(name)
        event = Event(task, index, "choose", text)
        event.options = options or tuple(range(entry[10]))
        event.choice = entry[9]
        event.seen = event.options[event.choice]
        return event

    def _op(self, pc: int, type_: int) -> str:
        op = self._ops.get((pc, type_))
        if op is None:
            if type_ & _RCU:
                op = "call_rcu" if type_ & _WRITE else "rcu_read_lock"
            elif type_ & _RMW:
                op = rmw_name(pc)
            else:
                op = "write" if type_ & _WRITE else "read"
            self._ops[pc, type_] = op
        return op

    def _values(self, event: Event, before: int, after: int, type_: int) -> None:
        if event.obj in self._tables:
            event.seen = self.kernel.value_of(before)
            event.left = self.kernel.value_of(after)
        else:
            event.seen = str(before) if before < 0x10000 else f"{before:#x}"
            event.left = str(after) if after < 0x10000 else f"{after:#x}"
        if type_ & _RMW and before == after and event.op == "cmpxchg":
            event.op = "cmpxchg-failed"

    def _since(self, first: int, count: int) -> dict[str, int]:
        data = ctypes.string_at(place("waits") + 8 * first, 8 * count)
        objects = self.tables.objects
        return {objects[obj]: at for obj, at in struct.iter_unpack("<Ii", data)}

    # --- judging -------------------------------------------------------------------------

    def judged(self) -> bool:
        """Whether the settled state in which C is breaks no rule."""
        state = (self._state.value, self.image.memory_hash())
        if state in self.settled:
            return True
        m = self.m
        mark = m.mark()
        findings, reached = m.findings, m.reached
        m.findings, m.reached = [], set()
        for cell, value in self.answers.states.known[state[0]].items():
            cell.set(value)
        try:
            if self.settle is not None:
                self.settle()
        except Halt:
            pass
        good = not m.findings
        m.findings, m.reached = findings, reached
        m.rewind(mark)
        if good:
            self.settled.add(state)
        return good
