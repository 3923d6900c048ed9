# SPDX-License-Identifier: GPL-2.0-only
"""Trees of what tasks do, for `septum.machine.recorder` and `septum.machine.known`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from septum.machine.dependency import Access, footprint
from septum.machine.events import Event
from septum.machine.reading import timeless

__all__ = [
    "CHANGE",
    "CHOICE",
    "DISCIPLINE",
    "END",
    "FATAL",
    "FOLD",
    "LOOK",
    "LOOK_EXCL",
    "LOOK_HELD",
    "NEVER",
    "OPEN",
    "POINT",
    "REACH",
    "REPORT",
    "SET",
    "Change",
    "Node",
    "Op",
    "Over",
    "Table",
]

# What a node is.
OPEN: Final = 0  # not known yet
LOOK: Final = 1  # the task looks at the value of a cell,
LOOK_EXCL: Final = 2  # at whether a lock that is tried is held exclusively,
LOOK_HELD: Final = 3  # or at all
POINT: Final = 4  # it announces its next event
CHOICE: Final = 5
END: Final = 6
FATAL: Final = 7  # the execution ends
NEVER: Final = 8  # what it does then is never looked up

# What an operation does.
SET: Final = 0  # a value that the path determines
CHANGE: Final = 1  # a function of the value, whatever that is
REPORT: Final = 2
REACH: Final = 3
FOLD: Final = 4

Change = Callable[[Any], Any]

DISCIPLINE: Final = "the tasks look at something that is no cell, or past its methods"


class Op:
    """One effect.  ``seq``: it is a change that waiters look for; ``shown``: the event shows
    the value before and after."""

    __slots__ = ("change", "cid", "code", "seq", "shown", "text", "to", "vid")

    def __init__(self, code: int, cid: int) -> None:
        self.code = code
        self.cid = cid
        self.vid = 0
        self.seq = False
        self.shown = False
        self.change: Change | None = None
        self.to: dict[int, int] = {}
        self.text: tuple[str, ...] = ()


class Over:
    """What is known of an event when it is over."""

    __slots__ = ("acc", "foot", "label", "left", "op", "seen", "shown")

    def __init__(self, event: Event, shown: bool) -> None:
        self.acc: list[Access] = event.acc
        self.foot = footprint(event.acc)
        self.op = event.op
        self.label = event.label
        self.seen = event.seen
        self.left = event.left
        self.shown = shown  # `seen` and `left` are by an operation


class Node:
    """A place in a task's tree, with what happens on the way there."""

    __slots__ = (
        "cid",
        "could",
        "kind",
        "length",
        "next",
        "obj",
        "op",
        "ops",
        "options",
        "over",
        "ready",
        "since",
        "wait",
        "waits",
    )

    def __init__(self) -> None:
        self.kind = OPEN
        self.ops: list[Op] = []
        self.cid = -1  # what it looks at, or waits for
        self.next: dict[int, Node] = {}
        self.over: Over | None = None
        self.op = ""
        self.obj = ""
        self.waits = False
        self.wait: Change | None = None  # until this holds of the value
        self.could = False  # races with changes that it could have done without
        self.ready: dict[int, bool] = {}  # by value
        self.since: list[tuple[int, int]] | None = None  # cells awaited, own event of the look
        self.options: tuple[Any, ...] = ()
        self.length = 0  # own events since that point was announced last, twice in a row


class Table:
    """Cells and values by number."""

    __slots__ = ("alike", "cells", "initial", "names", "numbers", "values")

    def __init__(self) -> None:
        self.cells: dict[str, int] = {}
        self.names: list[str] = []
        self.initial: list[int] = []  # in the start state
        self.values: list[Any] = []
        self.numbers: dict[tuple[int, type, Any], int] = {}
        self.alike: dict[int, Any] = {}  # values as `rounds.state_of` compares them

    def value(self, cid: int, v: Any) -> int:
        """The number of a value of a cell."""
        key = (cid, v.__class__, v)
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = len(self.values)
            self.values.append(v)
        return number

    def differs(self, cid: int, one: int, other: int) -> bool:
        """Whether a state is another one for this value of a cell (`rounds.state_of`)."""
        if one == other or self.names[cid].startswith("~"):
            return False
        return bool(self._timeless(one) != self._timeless(other))

    def _timeless(self, vid: int) -> Any:
        if vid not in self.alike:
            self.alike[vid] = timeless(self.values[vid])
        return self.alike[vid]
