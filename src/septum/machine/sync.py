# SPDX-License-Identifier: GPL-2.0-only
"""Locks, RCU, SRCU and waits: every operation is one scheduling point.

Blocking locks (`RWLock`, `SpinLock`, `Mutex`) disable the task until they can be had.
`TryLock` is the TDX Module's kind: tried, never waited for.  Readers of a rwlock are
admitted while a writer only waits (an over-approximation, docs/fidelity.md).

lockdep is a property of the code, so its violations are findings ``I10``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from mypy_extensions import mypyc_attr

from septum.machine.core import Machine
from septum.machine.dependency import (
    EXCL,
    EXCL_REL,
    FAIL_EXCL,
    FAIL_SHARED,
    READ,
    SHARED,
    SHARED_REL,
    TRY_EXCL,
    TRY_SHARED,
    WAIT,
)
from septum.machine.events import Halt
from septum.machine.memory import Word
from septum.machine.reading import Moment
from septum.machine.state import Cell

__all__ = ["RCU", "SRCU", "Mutex", "RWLock", "SpinLock", "TryLock", "wait_until"]

_State = tuple[int | None, tuple[int, ...]]  # of a rwlock: writer, readers
_FREE: Final[_State] = (None, ())


def _can_read(state: _State) -> bool:
    return state[0] is None


def _can_write(state: _State) -> bool:
    return state[0] is None and not state[1]


def _reader_in(me: int, state: _State) -> _State:
    return state[0], tuple(sorted((*state[1], me)))


def _reader_out(me: int, state: _State) -> _State:
    left = list(state[1])
    left.remove(me)
    return state[0], tuple(left)


def _share(count: int, state: tuple[bool, int]) -> tuple[bool, int]:
    """``count`` more shared holders of a lock that is tried."""
    return state[0], state[1] + count


def _section_in(entry: tuple[int, int], state: tuple[tuple[int, int], ...]) -> Any:
    return tuple(sorted((*state, entry)))


def _section_out(entry: tuple[int, int], state: tuple[tuple[int, int], ...]) -> Any:
    return tuple(sorted([e for e in state if e != entry]))


@mypyc_attr(allow_interpreted_subclasses=True)
class RWLock(Cell):
    """rwlock_t; ``v`` is ``(writer task or None, reader tasks)``.

    :param order: locks with a higher order nest inside those with a lower one.
    """

    __slots__ = ("order",)

    def __init__(self, m: Machine, name: str, order: int = 0) -> None:
        super().__init__(m, name, _FREE)
        self.order = order

    def can_read(self) -> bool:
        return _can_read(self._v)

    def can_write(self) -> bool:
        return _can_write(self._v)

    def read_lock(self) -> None:
        self._acquire("read_lock", _can_read, SHARED)
        self._turn(_reader_in, released=False)

    def write_lock(self) -> None:
        self._acquire("write_lock", _can_write, EXCL)
        self._change((self.m.current.id, ()))

    def read_unlock(self) -> None:
        readers = self._v[1]
        me = self.m.current.id
        if me not in readers and not self.m.dead:
            self.m.report("I10", f"{self.name}: read_unlock() without the lock", self.name)
            return
        if self.m.dead:
            return
        self._release("read_unlock", SHARED_REL)
        self._turn(_reader_out, released=True)

    def write_unlock(self) -> None:
        if self.m.dead:
            return
        if self._v[0] != self.m.current.id:
            self.m.report("I10", f"{self.name}: write_unlock() without the lock", self.name)
            return
        self._release("write_unlock", EXCL_REL)
        self._change(_FREE)
        self.wseq = self.m.seq

    def held(self) -> bool:
        """By the running task, in any mode."""
        me = self.m.current.id
        return bool(self._v[0] == me or me in self._v[1])

    def held_write(self) -> bool:
        return bool(self._v[0] == self.m.current.id)

    def held_read(self) -> bool:
        return self.m.current.id in self._v[1]

    def contended(self) -> bool:
        """rwlock_needbreak(): another task waits for it."""
        m = self.m
        if m.rec is not None:
            m.rec.never()  # others' next steps are no cells
        return any(
            t is not m.current and not t.done and t.obj == self.name and t.op.endswith("lock")
            for t in m.tasks
        )

    def _change(self, v: tuple[int | None, tuple[int, ...]]) -> None:
        m = self.m
        m.journal.append((self, self._v, self.wseq))
        self._v = v

    def _turn(self, change: Callable[[int, _State], _State], *, released: bool) -> None:
        """A change for which it does not matter who else reads."""
        m = self.m
        me = m.current.id
        self._change(change(me, self._v))
        if released:
            self.wseq = m.seq
        if m.rec is not None:
            m.rec.change(self, partial(change, me), seq=released)

    def _acquire(self, op: str, free: Callable[[_State], bool], kind: int) -> None:
        m = self.m
        task = m.current

        def ready() -> bool:
            return free(self._v)

        if self.held():
            m.report("I10", f"{op}({self.name}): possible recursive locking", self.name)
            if m.rec is not None:
                m.rec.read(self)
            if not ready():
                raise Halt
        for other in task.held:
            if _ORDER.get(other, 0) > self.order > 0:
                m.report("I10", f"{op}({self.name}) while holding {other}: wrong lock order")
        _ORDER[self.name] = self.order
        if m.rec is not None:
            if m.interleaving:
                m.rec.wait_for(self, free)
            else:
                m.rec.read(self)
        if m.interleaving:
            m.locked_point(op, self.name, ready)
        elif not ready() and not m.dead:
            m.report(
                "DEADLOCK",
                f"{task.name} waits at {op} {self.name} with nobody to release it",
            )
            raise Halt
        m.acc.append((self.name, kind))
        task.held.append(self.name)

    def _release(self, op: str, kind: int) -> None:
        m = self.m
        if m.interleaving:
            m.locked_point(op, self.name)
        m.acc.append((self.name, kind))
        if self.name in m.current.held:
            m.current.held.remove(self.name)


_ORDER: dict[str, int] = {}


@mypyc_attr(allow_interpreted_subclasses=True)
class SpinLock(RWLock):
    """spinlock_t or mutex: only the exclusive half."""

    __slots__ = ()

    def lock(self) -> None:
        self._acquire("lock", _can_write, EXCL)
        self._change((self.m.current.id, ()))

    def unlock(self) -> None:
        if self.m.dead:
            return
        if self._v[0] != self.m.current.id:
            self.m.report("I10", f"{self.name}: unlock() without the lock", self.name)
            return
        self._release("unlock", EXCL_REL)
        self._change(_FREE)
        self.wseq = self.m.seq


@mypyc_attr(allow_interpreted_subclasses=True)
class Mutex(SpinLock):
    """struct mutex: as `SpinLock`, but may sleep (never under a spinning lock)."""

    __slots__ = ()


@mypyc_attr(allow_interpreted_subclasses=True)
class TryLock(Cell):
    """A lock that is tried inside a step, never waited for (TDX Module sharex).

    ``v`` is ``(exclusive, shared count)``.  Call inside `Machine.step`.
    """

    __slots__ = ()

    def __init__(self, m: Machine, name: str) -> None:
        super().__init__(m, name, (False, 0))

    def try_shared(self) -> bool:
        m = self.m
        if m.rec is not None:
            m.rec.tried(self, exclusive=False)
        if self._v[0]:
            return self._fail(FAIL_SHARED)
        self._share(1, TRY_SHARED)
        return True

    def try_excl(self) -> bool:
        m = self.m
        if m.rec is not None:
            m.rec.tried(self, exclusive=True)
        if self._v != (False, 0):
            return self._fail(FAIL_EXCL)
        self._take((True, 0), TRY_EXCL)
        return True

    def drop_shared(self) -> None:
        self._share(-1, SHARED_REL)

    def drop_excl(self) -> None:
        self._take((False, 0), EXCL_REL)
        self.wseq = self.m.seq

    def _share(self, count: int, kind: int) -> None:
        """One shared holder more or less; how many others there are does not matter."""
        m = self.m
        self._take(_share(count, self._v), kind)
        if count < 0:
            self.wseq = m.seq
        if m.rec is not None:
            m.rec.change(self, partial(_share, count), seq=count < 0)

    def _take(self, v: tuple[bool, int], kind: int) -> None:
        m = self.m
        m.acc.append((self.name, kind))
        m.journal.append((self, self._v, self.wseq))
        self._v = v
        if m.history is not None and kind in (TRY_SHARED, TRY_EXCL):
            m.history.append(True)

    def _fail(self, kind: int) -> bool:
        m = self.m
        m.acc.append((self.name, kind))
        m.blame(self)
        if m.history is not None:
            m.history.append(False)
        return False


class RCU:
    """rcu_read_lock() and the callbacks of call_rcu(), which run when all is settled."""

    def __init__(self, m: Machine) -> None:
        self.m = m

    def read_lock(self) -> None:
        m = self.m
        task = m.current
        if task.rcu_depth == 0:
            if m.interleaving:
                m.point("rcu_read_lock", "rcu")
            # When the section began relative to a call_rcu() decides what is legal.
            m.acc.append((m.rcu.name, READ))
            task.rcu_section += 1
            if task.rcu is not None:
                task.rcu.set(task.rcu_section)
        task.rcu_depth += 1

    def read_unlock(self) -> None:
        m = self.m
        if m.dead:
            return
        if m.current.rcu_depth == 0:
            m.report("I10", "rcu_read_unlock() without rcu_read_lock()")
            return
        m.current.rcu_depth -= 1
        if m.current.rcu_depth == 0 and m.current.rcu is not None:
            m.current.rcu.set(0)
        if m.current.rcu_depth == 0 and m.listeners:
            m.emit("rcu_read_unlock")

    def held(self) -> bool:
        return self.m.current.rcu_depth > 0

    def barrier(self) -> None:
        """rcu_barrier(): run every callback.  Only when no task is in a section."""
        m = self.m
        while m.rcu._v:
            callback = m.rcu._v[0]
            m.rcu.set(m.rcu._v[1:])
            callback()


@mypyc_attr(allow_interpreted_subclasses=True)
class SRCU(Cell):
    """srcu_struct: `synchronize` waits for the sections that began before it."""

    __slots__ = ()

    def __init__(self, m: Machine, name: str) -> None:
        super().__init__(m, name, ())  # (task, start) of every open section

    def read_lock(self) -> Moment:
        m = self.m
        if m.interleaving:
            m.locked_point("srcu_read_lock", self.name)
        token = Moment(m.current.count)
        m.acc.append((self.name, SHARED))
        self._change(_section_in, (m.current.id, token), left=False)
        return token

    def read_unlock(self, token: int, *, mb: bool = True) -> None:
        """``mb``: with the full barrier of __srcu_read_unlock(), which SRCU-fast lacks."""
        m = self.m
        if m.dead:
            return
        if m.interleaving:
            (m.locked_point if mb else m.point)("srcu_read_unlock", self.name)
        entry = (m.current.id, token)
        if entry not in self._v:
            m.report("I10", f"{self.name}: srcu_read_unlock() without the section", self.name)
            return
        m.acc.append((self.name, SHARED_REL))
        m.acc.append((self._section(entry), SHARED_REL))
        self._change(_section_out, entry, left=True)

    def _section(self, entry: tuple[int, int]) -> str:
        """The object that its release and the waits for it share: a wait has nothing to do
        with sections that began later."""
        return f"{self.name}:{entry[0]}.{int(entry[1])}"

    def _change(
        self, change: Callable[[tuple[int, int], Any], Any], entry: tuple[int, int], *, left: bool
    ) -> None:
        m = self.m
        m.journal.append((self, self._v, self.wseq))
        self._v = change(entry, self._v)
        if left:
            self.wseq = m.seq
        if m.rec is not None:
            m.rec.change(self, partial(change, entry), seq=left)

    def synchronize(self) -> None:
        m = self.m
        with m.step("synchronize_srcu", self.name):
            before = set(self.peek())
        if any(tid == m.current.id for tid, _ in before):
            m.report("I10", f"synchronize_srcu({self.name}) inside its own read section")
            raise Halt
        self._wait(lambda sections: not before.intersection(sections))
        m.acc.extend([(self._section(entry), WAIT) for entry in sorted(before)])

    def _wait(self, left: Callable[[Any], bool]) -> None:
        m = self.m
        if m.rec is not None:
            if m.interleaving:
                m.rec.wait_for(self, left)
            else:
                m.rec.read(self)
        if m.interleaving:
            m.point("synchronize_srcu-wait", self.name, lambda: left(self._v))
        elif not left(self._v) and not m.dead:
            m.report("STUCK", f"synchronize_srcu({self.name}) waits with nobody to leave")
            raise Halt


def wait_until(word: Word, done: Callable[[Any], bool], why: str) -> None:
    """Block until ``done(value of word)`` holds (an IPI's acknowledgement).

    Of additions to the word (`Word.add`), which have no order, there may be a dozen only.
    """
    m = word.m
    if m.interleaving:
        m.smp_mb()  # the IPI has drained the buffer already, as a rule
        task = m.current
        task.wait = (word, done)
        if m.rec is not None:
            m.rec.wait_for(word, done, could=True)
        event = m.point(why, word.name, lambda: done(word._v))
        task.wait = None
        event.could = m.could_go_on(word, done)
    elif not done(word.v) and not m.dead:
        m.report("STUCK", f"{why}: {word.name} waits with nobody to change it")
        raise Halt
    m.acc.append((word.name, WAIT))
