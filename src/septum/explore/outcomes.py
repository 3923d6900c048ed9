# SPDX-License-Identifier: GPL-2.0-only
"""What a step does, from what it finds: a memory of all steps that were executed.

A step is a function of what its task has seen so far and of the states of the objects
that it looks at.  Both are identified here without looking at values: an object's state
by the accesses that made it, a task's by the states it has seen.  All is numbered, so
that equal numbers mean equal histories.

The explorer asks: what would this task do after those steps?  If the answer is not
known, no execution so far had the task in that position.
"""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Final

from mypy_extensions import mypyc_attr

from septum.explore.steps import Step
from septum.explore.wakeup import Effect, Move
from septum.machine.dependency import (
    ADD,
    EMPTY,
    EXCL,
    EXCL_REL,
    FAIL_EXCL,
    FAIL_SHARED,
    FORWARD,
    PUT,
    READ,
    SHARED,
    SHARED_REL,
    TAKE,
    TRY_EXCL,
    TRY_SHARED,
    WRITE,
    Footprint,
)

__all__ = ["NondeterminismError", "Outcomes"]


@mypyc_attr(native_class=False)
class NondeterminismError(RuntimeError):
    """The same decisions led elsewhere: the model reads something that is not rewound."""


# What an access looks at.
_NOTHING: Final = 0
_VALUE: Final = 1
_EXCLUSIVE: Final = 2  # whether the lock is held exclusively
_HELD: Final = 3  # whether it is held at all
_CHOICE: Final = 4
_END: Final = 5  # of the step
_DONE: Final = 6  # of the task

_LOOKS: Final = {
    READ: _VALUE,
    WRITE: _VALUE,
    TRY_SHARED: _EXCLUSIVE,
    FAIL_SHARED: _EXCLUSIVE,
    TRY_EXCL: _HELD,
    FAIL_EXCL: _HELD,
}
_BUFFERS: Final = frozenset({PUT, TAKE, FORWARD, EMPTY})
_ACQUIRES: Final = {SHARED: 0, TRY_SHARED: 0, EXCL: 1, TRY_EXCL: 1}
_RELEASES: Final = {SHARED_REL: 0, EXCL_REL: 1}
_CHANGES: Final = frozenset({ADD, WRITE, *_ACQUIRES, *_RELEASES})

# What was seen, where it is no state (which are numbers >= 0).
_BLIND: Final = -1
_FREE: Final = -2
_TAKEN: Final = -3
_ENDED: Final = -4
_OPTION: Final = -5  # and below

_MOST: Final = 1_000_000

# A state that several accesses made together: the last write, and as a set the additions
# since, (-1, -1, number), and who holds it how, (task, mode, number).
Parts = tuple[int, tuple[tuple[int, int, int], ...]]


class Outcomes:
    """The memory, and the states along the present execution."""

    __slots__ = (
        "_kind",
        "_local",
        "_next",
        "_numbers",
        "_parts",
        "_states",
        "_steps",
        "_sums",
        "count",
    )

    def __init__(self, tasks: int) -> None:
        self.count = tasks
        self._numbers: dict[int, int] = {}  # `_key` of a position and of what was seen: position
        self._next: dict[int, tuple[str, int]] = {}  # what comes then, and what it looks at
        self._kind: dict[int, int] = {}
        self._parts: dict[int, Parts] = {}
        self._sums: dict[Parts, int] = {}
        self._local: list[list[int]] = [[t + 1] for t in range(tasks)]
        self._states: dict[str, list[tuple[int, int]]] = {}  # step, state from there on
        self._steps: list[tuple[int, list[Effect]]] = []

    def _number(self, at: int, seen: int) -> int:
        key = _key(at, seen)
        number = self._numbers.get(key)
        if number is None:
            self.count += 1
            number = self._numbers[key] = self.count
        return number

    def add(self, step: Step) -> None:
        """The next step of the present execution."""
        task = step.task
        if self.count == _BLIND or any(kind in _BUFFERS for _, kind in step.acc):
            self._give_up()
            self._steps.append((task, []))
            self._local[task].append(0)
            return
        local = self._local[task]
        at = local[-1]
        index = len(self._steps)
        effects: list[Effect] = []
        following = self._next
        cuts = step.cuts
        made = 0
        for n, (name, kind) in enumerate(step.acc):
            while made < len(cuts) and cuts[made] == n:
                at = self._choose(at, step, made)
                made += 1
            looks = _LOOKS.get(kind, _NOTHING)
            now = (name, looks)
            if following.setdefault(at, now) != now:
                self._odd(step)
            past = self._states.get(name)
            state = past[-1][1] if past else 0
            at = self._number(at, self._seen(state, looks))
            self._kind[at] = kind
            if kind in _CHANGES:
                effects.append((name, kind, at))
                if past is None:
                    past = self._states[name] = []
                past.append((index, self._changed(state, task, kind, at)))
        while made < len(cuts):
            at = self._choose(at, step, made)
            made += 1
        if following.setdefault(at, ("", _END)) != ("", _END):
            self._odd(step)
        local.append(self._number(at, _ENDED))
        self._steps.append((task, effects))
        if len(self._numbers) > _MOST:
            self._numbers.clear()
            self._next.clear()
            self._kind.clear()

    def _give_up(self) -> None:
        """Whether a load meets an own buffered store is no access of its own, so with store
        buffers nothing can be foretold."""
        self.count = _BLIND
        self._numbers.clear()
        self._next.clear()
        self._kind.clear()

    def _choose(self, at: int, step: Step, n: int) -> int:
        if self._next.setdefault(at, ("", _CHOICE)) != ("", _CHOICE):
            self._odd(step)
        return self._number(at, _OPTION - step.choices[n][0])

    def finish(self) -> None:
        """All tasks have finished."""
        if self.count == _BLIND:
            return
        for task, local in enumerate(self._local):
            if self._next.setdefault(local[-1], ("", _DONE)) != ("", _DONE):
                raise NondeterminismError(
                    f"task {task} ended after its step {len(local) - 2}, but went on before"
                )

    def _odd(self, step: Step) -> None:
        raise NondeterminismError(
            f"task {step.task} saw the same as before and did something else, in or after "
            f"its step {step.number}, {step.op}"
        )

    def cut(self, length: int) -> None:
        """Forget the steps of the present execution from ``length`` on."""
        while len(self._steps) > length:
            task, effects = self._steps.pop()
            self._local[task].pop()
            for name, _, _ in effects:
                self._states[name].pop()

    def effects(self, index: int) -> list[Effect]:
        """What step ``index`` of the present execution did to objects."""
        return self._steps[index][1]

    def local(self, task: int, number: int) -> int:
        """What ``task`` has seen before its step ``number``."""
        return self._local[task][number]

    def predict(self, last: Move, start: int, moves: Sequence[Move]) -> Footprint | None:
        """The footprint of ``last``, taken after the first ``start`` steps of the present
        execution and then the other ``moves``; None: not known."""
        return self._walk(last, start, moves)[0]

    @property
    def foretells(self) -> bool:
        """Whether anything can be foretold: there are no store buffers."""
        return self.count != _BLIND

    def asked(self, last: Move, start: int, moves: Sequence[Move]) -> int:
        """How often ``last`` will surely be asked for an option there."""
        return self._walk(last, start, moves)[1]

    def _walk(self, last: Move, start: int, moves: Sequence[Move]) -> tuple[Footprint | None, int]:
        at = last.local
        picks = last.key[1]
        foot: Footprint = {}
        chosen = 0
        changed: dict[str, int] = {}
        while True:
            name, looks = self._next.get(at, ("", _DONE))
            if looks == _DONE:
                return None, chosen
            if looks == _END:
                return foot, chosen
            if looks == _CHOICE:
                seen = _OPTION - (picks[chosen] if chosen < len(picks) else 0)
                chosen += 1
            else:
                state = changed[name] if name in changed else self._state(name, start, moves)
                seen = self._seen(state, looks)
            known = self._numbers.get(_key(at, seen))
            if known is None:
                return None, chosen
            at = known
            if looks != _CHOICE:
                kind = self._kind[at]
                foot[name] = foot.get(name, 0) | 1 << kind
                if kind in _CHANGES:
                    changed[name] = self._changed(state, last.task, kind, at)

    # --- states of objects ------------------------------------------------------------

    def _state(self, name: str, start: int, moves: Sequence[Move]) -> int:
        state = 0
        for index, then in reversed(self._states.get(name, ())):
            if index < start:
                state = then
                break
        for move in moves:
            for other, kind, number in move.effects:
                if other == name:
                    state = self._changed(state, move.task, kind, number)
        return state

    def _changed(self, state: int, task: int, kind: int, number: int) -> int:
        if kind == WRITE:
            return number
        write, members = self._parts.get(state, (state, ()))
        if kind == ADD:
            members = tuple(sorted((*members, (-1, -1, number))))
        elif kind in _ACQUIRES:
            members = tuple(sorted((*members, (task, _ACQUIRES[kind], number))))
        else:
            for n in range(len(members) - 1, -1, -1):
                if members[n][:2] == (task, _RELEASES[kind]):
                    members = members[:n] + members[n + 1 :]
                    break
        parts = (write, members)
        if not members:
            return write
        known = self._sums.get(parts)
        if known is None:
            self.count += 1
            known = self._sums[parts] = self.count
            self._parts[known] = parts
        return known

    def _seen(self, state: int, looks: int) -> int:
        if looks == _NOTHING:
            return _BLIND
        if looks == _VALUE:
            return state
        members = self._parts[state][1] if state in self._parts else ()
        held = any(mode == 1 for _, mode, _ in members) if looks == _EXCLUSIVE else bool(members)
        return _TAKEN if held else _FREE

    # --- to keep and to go on ----------------------------------------------------------

    def dump(self) -> str:
        """The memory as text, without the present execution."""
        names: dict[str, int] = {}
        nexts = self._next.values()
        columns = [
            array("q", numbers)
            for numbers in (
                list(self._numbers),
                list(self._numbers.values()),
                list(self._next),
                [names.setdefault(name, len(names)) for name, _ in nexts],
                [looks for _, looks in nexts],
                list(self._kind),
                list(self._kind.values()),
            )
        ]
        head = {
            "count": self.count,
            "lengths": [len(column) for column in columns],
            "parts": list(self._parts.items()),
            "names": list(names),
        }
        data = [json.dumps(head, separators=(",", ":")).encode(), b"\n", *map(_bytes, columns)]
        text = b64encode(zlib.compress(b"".join(data), 1)).decode()
        _dumped.clear()
        _dumped[text] = (
            self.count,
            self._numbers.copy(),
            self._next.copy(),
            self._kind.copy(),
            self._parts.copy(),
            self._sums.copy(),
        )
        return text

    def load(self, text: str) -> None:
        """Take up what `dump` gave."""
        dumped = _dumped.pop(text, None)
        if dumped is not None:
            self.count, self._numbers, self._next, self._kind, self._parts, self._sums = dumped
            return
        line, _, rest = zlib.decompress(b64decode(text)).partition(b"\n")
        head = json.loads(line)
        columns: list[array[int]] = []
        for length in head["lengths"]:
            columns.append(_column(rest[: 8 * length]))
            rest = rest[8 * length :]
        keys, to, places, what, looks, kinds, kind = columns
        names = head["names"]
        self.count = head["count"]
        self._numbers = dict(zip(keys, to, strict=True))
        self._next = {p: (names[n], how) for p, n, how in zip(places, what, looks, strict=True)}
        self._kind = dict(zip(kinds, kind, strict=True))
        self._parts = {n: (w, tuple([tuple(m) for m in ms])) for n, (w, ms) in head["parts"]}
        self._sums = {parts: n for n, parts in self._parts.items()}


def _key(at: int, seen: int) -> int:
    """Both as one number; there are fewer than 2**31 of each."""
    return (at << 32) + seen + (1 << 31)


def _bytes(column: array[int]) -> bytes:
    """Little-endian."""
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def _column(data: bytes) -> array[int]:
    column = array("q")
    column.frombytes(data)
    if sys.byteorder == "big":
        column.byteswap()
    return column


# The last memory that was put aside, by its text: mostly it is this process that goes on.
_dumped: Final[
    dict[
        str,
        tuple[
            int,
            dict[int, int],
            dict[int, tuple[str, int]],
            dict[int, int],
            dict[int, Parts],
            dict[Parts, int],
        ],
    ]
] = {}
