# SPDX-License-Identifier: GPL-2.0-only
"""The dependency table, pair by pair: COMMUTE means both orders give the same.

Each kind is performed by a small operation.  From many start states, `first` then
`second` is executed; if the table says COMMUTE, the swapped order must be possible and
give the same outcomes and the same state.  For RACE and ENABLE some state must exist in
which the order matters, else the entry only costs executions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from septum.machine import Decision, Machine, RWLock, TryLock, Word
from septum.machine.dependency import (
    COMMUTE,
    ENABLE,
    KIND_NAMES,
    RACE,
    RELATION,
    UnknownPair,
    relation,
)

Outcome = Any
WORD_OPS: dict[int, list[Callable[[Word], Outcome]]] = {
    0: [lambda w: w.read(), lambda w: w.try_cmpxchg(-1, 9)],
    1: [lambda w: w.write(7), lambda w: w.xchg(8), lambda w: w.fetch_and(1)],
    2: [lambda w: w.add(2), lambda w: w.add(3)],
}
STATES = (0, 1, 2, 5)


def _word_run(start: int, ops: list[tuple[int, Callable[[Word], Outcome]]]) -> tuple[Any, ...]:
    word = Word(Machine(), "w", start)
    outcomes = {who: op(word) for who, op in ops}
    return (tuple(sorted(outcomes.items(), key=lambda p: p[0])), word.v)


@pytest.mark.parametrize(("k1", "k2"), list(itertools.product(WORD_OPS, repeat=2)))
def test_word_pairs(k1: int, k2: int) -> None:
    differs = False
    for op1, op2, start in itertools.product(WORD_OPS[k1], WORD_OPS[k2], STATES):
        one = _word_run(start, [(0, op1), (1, op2)])
        two = _word_run(start, [(1, op2), (0, op1)])
        differs = differs or one != two
        if relation(k1, k2) == COMMUTE:
            assert one == two, (KIND_NAMES[k1], KIND_NAMES[k2], start)
    if relation(k1, k2) != COMMUTE:
        assert differs, f"{KIND_NAMES[k1]} and {KIND_NAMES[k2]} always commute"


class LockState:
    """An rwlock or try-lock as two kinds of holders, to test every lock kind on."""

    def __init__(self, readers: frozenset[int], writer: int | None) -> None:
        self.readers = readers
        self.writer = writer

    def do(self, kind: int, who: int) -> str | None:
        """The outcome, or None if the kind cannot be executed here."""
        name = KIND_NAMES[kind]
        free_for_readers = self.writer is None
        free = free_for_readers and not self.readers
        if name in ("shared", "try-shared"):
            if not free_for_readers:
                return None
            self.readers |= {who}
        elif name in ("excl", "try-excl"):
            if not free:
                return None
            self.writer = who
        elif name == "shared-release":
            if who not in self.readers:
                return None
            self.readers -= {who}
        elif name == "excl-release":
            if self.writer != who:
                return None
            self.writer = None
        elif name == "fail-shared":
            if free_for_readers:
                return None
        elif name == "fail-excl" and free:
            return None
        return name


LOCK_KINDS = range(5, 13)
LOCK_STATES = [
    (frozenset(r), w)
    for r, w in [((), None), ((0,), None), ((1,), None), ((0, 1), None), ((2,), None),
                 ((0, 2), None), ((1, 2), None), ((), 0), ((), 1), ((), 2)]
]  # fmt: skip


@pytest.mark.parametrize(("k1", "k2"), list(itertools.product(LOCK_KINDS, repeat=2)))
def test_lock_pairs(k1: int, k2: int) -> None:
    possible = differs = False
    for readers, writer in LOCK_STATES:
        lock = LockState(readers, writer)
        if lock.do(k1, 0) is None or lock.do(k2, 1) is None:
            continue
        possible = True
        swapped = LockState(readers, writer)
        back = swapped.do(k2, 1) is not None and swapped.do(k1, 0) is not None
        same = back and (swapped.readers, swapped.writer) == (lock.readers, lock.writer)
        differs = differs or not same
        if relation(k1, k2) == COMMUTE:
            assert same, (KIND_NAMES[k1], KIND_NAMES[k2], readers, writer)
    if relation(k1, k2) != COMMUTE and possible and not (k1 in (6, 10) or k2 in (6, 10)):
        # Two acquires that exclude each other are never adjacent; all else must matter.
        blocked = {KIND_NAMES[k1], KIND_NAMES[k2]} & {"fail-excl", "fail-shared", "shared"}
        assert differs or blocked, f"{KIND_NAMES[k1]}, {KIND_NAMES[k2]} always commute"


BUFFER = ("put", "take", "forward", "empty")


def _order(first: str, second: str, x: int) -> tuple[Any, ...] | None:
    """The outcome of two operations on the buffer of task 0 that holds one store of 7 to x,
    or is about to; None if the second one comes too early.  Then another task stores 8."""
    m = Machine()
    m.memory_model = "TSO"
    word, other = Word(m, "x", x), Word(m, "y", 0)
    got: list[Any] = []
    holds = "put" not in (first, second)

    def owner() -> None:
        if holds:
            word.write(7)
        for op in (first, second):
            if op == "put":
                word.write(7)
            elif op == "forward":
                got.append(word.read())
            elif op == "empty":
                got.append(other.xchg(1))

    tasks = [*([0] if holds else []), *(2 if op == "take" else 0 for op in (first, second))]
    between = [*tasks[:-1], 1, *tasks[-1:]]  # another task stores before the second one
    finals = []
    for order in (tasks, between):
        execution = m.run(
            [("owner", owner), ("other", lambda: word.xchg(8))],
            prefix=[Decision(t) for t in order],
            settle=lambda: got.append(word.v),
        )
        if execution.status == "diverged":
            return None
        finals.append((tuple(sorted(map(str, got))), execution.status))
        got.clear()
    return tuple(finals)


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(BUFFER, 2)))
def test_store_buffer_pairs(first: str, second: str) -> None:
    """ENABLE: in one of the two orders one operation cannot run; RACE: it makes a difference."""
    table = relation_or_none(KIND_NAMES.index(first), KIND_NAMES.index(second))
    if table is None:
        assert "take" not in (first, second)  # one task's own steps: never compared
        return
    one, two = _order(first, second, 5), _order(second, first, 5)
    if table == ENABLE:
        assert one is None or two is None
    else:
        assert table == RACE
        assert one is not None
        assert two is not None
        assert one != two


def relation_or_none(first: int, second: int) -> int | None:
    try:
        return relation(first, second)
    except UnknownPair:
        return None


def test_unknown_pair_is_an_error_not_a_guess() -> None:
    unknown = [
        (a, b) for a in range(len(KIND_NAMES)) for b in range(len(KIND_NAMES)) if RELATION[a][b] > 2
    ]
    assert unknown, "the table has grown complete: drop this test"
    with pytest.raises(UnknownPair, match=KIND_NAMES[unknown[0][0]]):
        relation(*unknown[0])


def test_footprints_of_the_real_locks_use_the_table_kinds() -> None:
    m = Machine()
    rw, tried = RWLock(m, "L"), TryLock(m, "T")

    def reader() -> None:
        rw.read_lock()
        with m.step("try", "T"):
            assert tried.try_shared()
            assert not tried.try_excl()
            tried.drop_shared()
        rw.read_unlock()

    execution = m.run([("r", reader)])
    names = [[KIND_NAMES[k] for _, k in e.acc] for e in execution.events]
    assert names == [["shared"], ["try-shared", "fail-excl", "shared-release"], ["shared-release"]]
