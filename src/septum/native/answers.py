# SPDX-License-Identifier: GPL-2.0-only
"""Notes what Python does between two points, so that C can do it the next time.

While Python runs an execution, every question that compiled code asks it (a SEAMCALL, an SPTE
that changed, a page that was freed) becomes a path in the tree of `c/answers.c`: what Python
looked at, what it found, and what it did then.  Python's own state (the cells of the TDX
Module, of guests and monitors) is one number there: equal numbers, equal values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from septum.machine import Cell, Event, Machine
from septum.machine.dependency import Access
from septum.native.objects import Granule
from septum.native.tables import Tables

__all__ = ["Answers", "NativeMachine"]

SEAMCALL, SPTE, FREED, LOAD = range(1, 5)
"""Questions (enum question of c/engine.h)."""

(
    _UNKNOWN,
    _KEY,
    _STATE,
    _LOAD,
    _CALL,
    _HELD,
    _CHOICE,
    _POINT,
    _AWAIT,
    _RETURN,
    _PEEK,
) = range(11)
(
    _ACC,
    _TOUCH,
    _BLAME,
    _CLEAR_BLAME,
    _CLEAR_ATTEMPT,
    _ENTERED,
    _REACH,
    _SETSTATE,
    _REGISTER,
    _RESULT,
    _LEAVE,
    _SEEN,
    _EVENTFUL,
    _POKE_AT,
    _POKE,
) = range(1, 16)
_NOW, _CHANGED, _AT_POINT = 0, 1, 2
_DYING: Final = " dying"

Op = tuple[int, int, int]


class _Context:
    """A question that is being answered."""

    __slots__ = (
        "acc",
        "acc_at",
        "blame",
        "eventful",
        "journal_at",
        "known",
        "node",
        "ops",
        "points",
        "reached",
    )

    def __init__(self, m: Machine, node: int) -> None:
        self.node = node
        self.ops: list[Op] = []
        self.reached: list[str] = []
        self.points: list[int] = []
        self.eventful = False
        self.journal_at = len(m.journal)
        self.acc: list[Access] = m.acc
        self.acc_at = len(m.acc)
        self.blame: dict[Cell, int] = m.current.blame
        self.known: dict[Cell, int] = dict(self.blame)


class States:
    """Values of all cells, as numbers; 0 is the start state."""

    def __init__(self) -> None:
        self.number = 0
        self.values: dict[Cell, Any] = {}
        self._base: dict[Cell, Any] = {}
        self._numbers: dict[frozenset[tuple[Cell, Any]], int] = {frozenset(): 0}
        self.known: list[dict[Cell, Any]] = [{}]

    def start(self) -> None:
        self.number = 0
        self.values = {}

    def changed(self, cells: Sequence[tuple[Cell, Any, int]]) -> bool:
        """Take in what the journal says; whether the number is another one now."""
        values, base = self.values, self._base
        for cell, old, _ in cells:
            if isinstance(cell, Granule) or cell.name.endswith(_DYING):
                continue
            if cell not in values:
                base.setdefault(cell, old)
            if cell.v == base[cell]:
                values.pop(cell, None)
            else:
                values[cell] = cell.v
        key = frozenset(values.items())
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.known)
            self.known.append(dict(values))
        before, self.number = self.number, number
        return number != before


class Answers:
    """The tree, as Python builds it.

    :ivar now: the question that the running task asks; None between questions.
    :ivar conflict: why the answers are not to be trusted: Python did two things for one reason.
    """

    def __init__(self, tables: Tables, m: NativeMachine) -> None:
        self.tables = tables
        self.m = m
        self.states = States()
        self.now: _Context | None = None
        self.conflict = ""
        self._nodes: list[tuple[int, int, int, tuple[Op, ...]] | None] = [None, None]
        self._edges: dict[tuple[int, int], int] = {}
        self.options: dict[int, tuple[Any, ...]] = {}  # of a choice, by the number of its name
        m.answers = self

    def start(self) -> None:
        """An execution begins."""
        self.now = None
        self.states.start()

    # --- paths ---------------------------------------------------------------------------

    def _child(self, node: int, value: int) -> int:
        child = self._edges.get((node, value))
        if child is None:
            child = len(self._nodes)
            self._nodes.append(None)
            self._edges[node, value] = child
            self.tables.add_edge(node, value, child)
        return child

    def _say(self, kind: int, a: int = 0, b: int = 0, ops: tuple[Op, ...] = ()) -> int:
        """What happens at the present node; its number."""
        context = self.now
        assert context is not None
        node = context.node
        said = (kind, a, b, ops)
        known = self._nodes[node]
        if known is None:
            self._nodes[node] = said
            self.tables.set_node(node, kind, a, b, ops)
        elif known != said:
            self.conflict = f"the same call did something else: {known}, then {said}"
        return node

    def begin(self, *words: int) -> None:
        """The running task asks."""
        if self.tables.full:
            return
        node = 1
        for word in words:
            node = self._child(node, word & (1 << 64) - 1)
        self.now = _Context(self.m, node)
        self._look(_STATE, 0, 0, self.states.number)

    def _look(self, kind: int, a: int, b: int, value: int) -> None:
        context = self.now
        assert context is not None
        context.node = self._child(self._say(kind, a, b), value)

    def loaded(self, addr: int, size: int, value: int) -> None:
        """Python read the image's memory."""
        if self.now is not None and self.m.exploring:
            self._look(_LOAD, addr, size, value)

    def peeked(self, addr: int, value: int) -> None:
        """Python read a word of the image's memory for the running task."""
        if self.now is not None and self.m.exploring:
            self._look(_PEEK, addr, 8, value)

    def called(self, function: int, argument: int, value: int) -> None:
        """Python called a function of the image that changes nothing."""
        if self.now is not None and self.m.exploring:
            self._look(_CALL, function, argument, value)

    def held(self, task: int, lock: int, value: int) -> None:
        """Python asked whether a task holds a lock for writing."""
        if self.now is not None and self.m.exploring:
            self._look(_HELD, task, lock, value)

    # --- acts ----------------------------------------------------------------------------

    def register(self, number: int, value: int) -> None:
        if self.now is not None:
            self.now.ops.append((_REGISTER, number, value & (1 << 64) - 1))

    def leave(self, cpu: int) -> None:
        if self.now is not None:
            self.now.ops.append((_LEAVE, cpu, 0))

    def got_on(self) -> None:
        """The vCPU was in the guest, which made progress."""
        if self.now is not None:
            self.now.ops.append((_ENTERED, 0, 0))

    def attempt_over(self) -> None:
        """What the attempt before saw does not count any more."""
        if self.now is not None:
            self.now.ops.append((_CLEAR_ATTEMPT, 0, 0))

    def poked(self, addr: int, value: int) -> None:
        """Python wrote a word of the image's memory."""
        if self.now is not None:
            self.now.ops += [(_POKE_AT, 0, addr), (_POKE, 0, value)]

    def _acts(self) -> tuple[Op, ...]:
        """What was done since the last point."""
        context, m = self.now, self.m
        assert context is not None
        tables = self.tables
        ops = context.ops
        ops += [(_ACC, tables.object(n), kind) for n, kind in context.acc[context.acc_at :]]
        journal = m.journal[context.journal_at :]
        # Also what the step had written before: an answer does not depend on that.
        ops += [
            (_TOUCH, tables.object(cell.name), 0)
            for cell in dict.fromkeys(cell for cell, _, _ in journal)
            if cell.wseq == m.seq
        ]
        self._blames(context, ops)
        ops += [(_REACH, tables.text(what), 0) for what in context.reached]
        if self.states.changed(journal):
            ops.append((_SETSTATE, self.states.number, 0))
        event = m.log[-1] if context.points else None
        if event is not None and event.op != "choose" and event.seen is not None:
            ops.append((_SEEN, tables.value(event.seen), tables.value(event.left)))
        if context.eventful or tables.full:
            ops.append((_EVENTFUL, 0, 0))
        self._begin_portion(context)
        return tuple(ops)

    def _begin_portion(self, context: _Context) -> None:
        m = self.m
        context.ops = []
        context.reached = []
        context.journal_at = len(m.journal)
        context.acc = m.acc
        context.acc_at = len(m.acc)

    def _blames(self, context: _Context, ops: list[Op]) -> None:
        blame = self.m.current.blame
        if blame is not context.blame:
            ops.append((_CLEAR_BLAME, 0, 0))
            context.blame, context.known = blame, {}
        for cell, at in blame.items():
            if context.known.get(cell) == at:
                continue
            if at == -2:
                how = _CHANGED
            elif at == self.m.seq:
                how = _NOW
            elif at in context.points:
                how = _AT_POINT + context.points.index(at)
                self.tables.watch(self.tables.object(cell.name))
            else:
                context.eventful = True
                continue
            ops.append((_BLAME, self.tables.object(cell.name), how))
            context.known[cell] = at

    # --- points and ends ------------------------------------------------------------------

    def before_point(self, op: str, obj: str, waits: bool) -> _Context:
        """The answering task announces a point."""
        context, tables = self.now, self.tables
        assert context is not None
        if op == "await":
            # Machine.retry() has taken the blame away to wait for it.
            current = self.m.current
            emptied, current.blame = current.blame, context.blame
            ops = self._acts()
            current.blame = context.blame = emptied
            context.known = {}
            node = self._say(_AWAIT, tables.string(obj), 0, ops)
        else:
            context.eventful |= waits
            node = self._say(_POINT, tables.string(op), tables.string(obj), self._acts())
        context.node = self._child(node, 0)
        self.now = None
        return context

    def after_point(self, context: _Context) -> None:
        """It goes on."""
        self.now = context
        context.points.append(self.m.seq)
        self._begin_portion(context)
        self._look(_STATE, 0, 0, self.states.number)

    def before_choice(self, name: str, options: tuple[Any, ...]) -> None:
        number = self.tables.string(name)
        self.options[number] = options
        self._say(_CHOICE, number, len(options), self._acts())

    def after_choice(self, option: int) -> None:
        context = self.now
        assert context is not None
        context.node = self._child(context.node, option)
        self._begin_portion(context)

    def end(self, result: int | None = None) -> None:
        """The answer is complete."""
        context = self.now
        if context is None or not self.m.exploring:
            return
        if result is not None:
            context.ops.append((_RESULT, 0, result & (1 << 64) - 1))
        self._say(_RETURN, 0, 0, self._acts())
        self.now = None


class NativeMachine(Machine):
    """A machine that tells `Answers` what the running task does.

    :ivar answers: None: nobody wants to know.
    """

    answers: Answers | None = None

    def point(self, op: str, obj: str, ready: Callable[[], bool] | None = None) -> Event:
        answers = self.answers
        if answers is None or answers.now is None:
            return super().point(op, obj, ready)
        context = answers.before_point(op, obj, ready is not None)
        event = super().point(op, obj, ready)
        answers.after_point(context)
        return event

    def choose(self, name: str, options: tuple[Any, ...]) -> Any:
        answers = self.answers
        if answers is None or answers.now is None or not self.exploring or self.dead:
            return super().choose(name, options)
        answers.before_choice(name, options)
        chosen = super().choose(name, options)
        answers.after_choice(self.log[-1].choice)
        return chosen

    def die(self) -> NoReturn:
        if self.answers is not None:
            self.answers.now = None  # others go on
        super().die()

    def report(self, rule: str, message: str, obj: str = "", *, since: int = -1) -> None:
        if self.answers is not None and self.answers.now is not None:
            self.answers.now.eventful |= rule not in self.muted
        super().report(rule, message, obj, since=since)

    def reach(self, what: str) -> None:
        if self.answers is not None and self.answers.now is not None:
            self.answers.now.reached.append(what)
        super().reach(what)
