# SPDX-License-Identifier: GPL-2.0-only
"""A journaled variable, and what the machine keeps per task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import add
from typing import TYPE_CHECKING, Any, Final

from greenlet import greenlet
from mypy_extensions import mypyc_attr

from septum.machine.dependency import ADD, READ, WRITE

if TYPE_CHECKING:
    from septum.machine.core import Machine

__all__ = ["Cell", "Task"]


@mypyc_attr(allow_interpreted_subclasses=True)
class Cell:
    """A journaled variable of the model: no scheduling point of its own.

    ``dynamic`` marks an object made during an execution; it is then part of the
    fingerprint whatever its value.
    """

    __slots__ = ("_v", "m", "name", "wseq")

    def __init__(self, m: Machine, name: str, v: Any, *, dynamic: bool = False) -> None:
        self.m = m
        self.name = name
        self._v = v
        self.wseq = -1
        if dynamic:
            m.journal.append((self, _UNBORN, -1))

    @property
    def v(self) -> Any:
        """The value, without a footprint: the running task's own, or what a lock protects."""
        rec = self.m.rec
        if rec is not None:
            rec.read(self)
        return self._v

    @v.setter
    def v(self, v: Any) -> None:
        self._v = v

    def set(self, v: Any) -> None:
        """Change the value (journaled), without a point and without a footprint."""
        m = self.m
        m.journal.append((self, self._v, self.wseq))
        self._v = v

    def poke(self, v: Any) -> None:
        """Change the value inside the current event: footprint `WRITE`."""
        m = self.m
        m.acc.append((self.name, WRITE))
        m.journal.append((self, self._v, self.wseq))
        self._v = v
        self.wseq = m.seq

    def bump(self, n: int) -> None:
        """Add to the value inside the current event: footprint `ADD` (result unused)."""
        m = self.m
        m.acc.append((self.name, ADD))
        m.journal.append((self, self._v, self.wseq))
        self._v += n
        self.wseq = m.seq
        if m.rec is not None:
            m.rec.change(self, partial(add, n), seq=True)

    def peek(self) -> Any:
        """The value, read inside the current event: footprint `READ`."""
        m = self.m
        m.acc.append((self.name, READ))
        if m.rec is not None:
            m.rec.read(self)
        if m.history is not None:
            m.history.append(self._v)
        return self._v


_UNBORN: Final = "<not yet made>"


class Task:
    """A thread of the model: a name, a body, and what the kernel keeps per thread."""

    __slots__ = (
        "arena",
        "blame",
        "body",
        "count",
        "daemon",
        "done",
        "glet",
        "held",
        "id",
        "name",
        "obj",
        "off",
        "op",
        "places",
        "rcu",
        "rcu_depth",
        "rcu_section",
        "ready",
        "retries",
        "since",
        "started",
        "trail",
        "wait",
    )

    def __init__(self, tid: int, name: str, body: Callable[[], None] | None) -> None:
        self.id = tid
        self.name = name
        self.body = body
        self.glet: greenlet | None = None
        self.count = 0
        self.op = ""
        self.obj = ""
        self.ready: Callable[[], bool] | None = None
        self.off = -1
        self.done = False
        self.daemon = False  # a store buffer: waits for work, need not finish
        self.started = False
        self.held: list[str] = []
        self.rcu: Cell | None = None  # the number of its open section, 0: none
        self.rcu_depth = 0
        self.rcu_section = 0
        self.blame: dict[Cell, int] = {}
        self.since: dict[str, int] | None = None
        self.retries = 0
        self.wait: tuple[Cell, Callable[[Any], bool]] | None = None
        self.arena: dict[str, int] = {}
        self.trail: list[int] = []  # log positions of its events
        # By access: how many events came before its last, and since the one before that.
        self.places: dict[tuple[str, str], tuple[int, int]] = {}
