# SPDX-License-Identifier: GPL-2.0-only
"""Which accesses to one object depend on each other: one table, as data.

An event's footprint is a list of ``(object name, kind)``.  Two events of different
tasks are *dependent* iff some object occurs in both with a pair of kinds that the
table does not call ``COMMUTE``.  The kinds carry the *outcome*: a failed cmpxchg is
a ``READ``, a failed try-lock is a ``FAIL_*``.

``RELATION[first][second]`` says what holds when ``first`` executed before ``second``:

* ``COMMUTE``: executing them in the other order gives the same outcomes and state.
* ``RACE``: they do not commute and the other order may be possible.
* ``ENABLE``: ``first`` is what allowed ``second`` to run (release, then acquire): the
  pair is ordered, and that order is never reversed.

The table is tested pair by pair, by executing both orders from many states
(tests/machine/test_dependency.py).  A pair that is not in the table is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

__all__ = [
    "ACQUIRE_KINDS",
    "COMMUTE",
    "ENABLE",
    "KIND_NAMES",
    "RACE",
    "RELATION",
    "Access",
    "Footprint",
    "Sleep",
    "UnknownPair",
    "clash",
    "dependent",
    "footprint",
    "relation",
]

Access = tuple[str, int]

# Kinds on a word of memory.
READ: Final = 0  # read, failed cmpxchg, a monitor's peek
WRITE: Final = 1  # store, exchange, successful cmpxchg, any RMW whose result is used
ADD: Final = 2  # atomic add whose result is not used
AWAIT: Final = 3  # wait until another task writes the word (version, not value)
WAIT: Final = 4  # wait until a predicate over the word holds

# Kinds on a lock.
SHARED: Final = 5  # blocking shared acquire
EXCL: Final = 6  # blocking exclusive acquire
SHARED_REL: Final = 7
EXCL_REL: Final = 8
TRY_SHARED: Final = 9  # successful try
TRY_EXCL: Final = 10
FAIL_SHARED: Final = 11  # failed try
FAIL_EXCL: Final = 12

# Kinds on a store buffer (septum.machine.buffers).
PUT: Final = 13  # a store entered
TAKE: Final = 14  # it left for memory
FORWARD: Final = 15  # an own load took its value
EMPTY: Final = 16  # a fence or locked operation, after everything left

KIND_NAMES: Final = (
    "read",
    "write",
    "add",
    "await",
    "wait",
    "shared",
    "excl",
    "shared-release",
    "excl-release",
    "try-shared",
    "try-excl",
    "fail-shared",
    "fail-excl",
    "put",
    "take",
    "forward",
    "empty",
)

COMMUTE: Final = 0
RACE: Final = 1
ENABLE: Final = 2
_UNKNOWN: Final = 3

ACQUIRE_KINDS: Final = frozenset({SHARED, EXCL})

_WORD = (READ, WRITE, ADD, AWAIT, WAIT)
_LOCK = (
    SHARED,
    EXCL,
    SHARED_REL,
    EXCL_REL,
    TRY_SHARED,
    TRY_EXCL,
    FAIL_SHARED,
    FAIL_EXCL,
)


class UnknownPair(ValueError):
    """Two kinds met on one object for which the table has no entry (a model bug)."""


def _build() -> list[list[int]]:
    n = len(KIND_NAMES)
    table = [[_UNKNOWN] * n for _ in range(n)]

    def put(firsts: Iterable[int], seconds: Iterable[int], value: int) -> None:
        for first in firsts:
            for second in seconds:
                table[first][second] = value

    # Words: everything that only looks commutes; so do two adds.
    looks = (READ, AWAIT, WAIT)
    put(_WORD, _WORD, RACE)
    put(looks, looks, COMMUTE)
    put((ADD,), (ADD,), COMMUTE)
    # Whether a write enabled the waiter depends on the execution: races.py decides it.

    # Locks: shared with shared commutes, except that a failed attempt saw a holder.
    put(_LOCK, _LOCK, RACE)
    shared = (SHARED, SHARED_REL, TRY_SHARED)
    put(shared, shared, COMMUTE)
    put((SHARED_REL,), (EXCL,), ENABLE)
    put((EXCL_REL,), (SHARED, EXCL), ENABLE)
    fails = (FAIL_SHARED, FAIL_EXCL)
    put(fails, fails, COMMUTE)
    # A shared attempt fails only on an exclusive holder: shared holders do not matter.
    put((FAIL_SHARED,), (SHARED_REL,), COMMUTE)
    put((SHARED_REL,), (FAIL_SHARED,), COMMUTE)
    # synchronize_srcu() waits for the sections it saw, not for younger ones.
    put((SHARED,), (WAIT,), COMMUTE)
    put((WAIT,), (SHARED, SHARED_REL), COMMUTE)
    put((SHARED_REL,), (WAIT,), RACE)
    # A word's awaits may name a lock: a release (or an acquire) is its write.
    put((AWAIT,), (AWAIT, READ), COMMUTE)
    put(_LOCK, (AWAIT, READ), RACE)
    put((AWAIT, READ), _LOCK, RACE)
    put(shared, (AWAIT,), RACE)
    put(fails, (AWAIT, READ), COMMUTE)
    put((AWAIT, READ), fails, COMMUTE)

    # Store buffers.  A load before the flush was forwarded; after it, it reads memory, which
    # others may have changed.  What follows what is fixed in all other pairs.
    put((FORWARD,), (TAKE,), RACE)
    put((TAKE,), (FORWARD,), RACE)
    put((PUT, EMPTY), (TAKE,), ENABLE)
    put((TAKE,), (PUT, EMPTY), ENABLE)
    return table


RELATION: Final = _build()


def relation(first: int, second: int) -> int:
    """How ``first`` then ``second`` on one object relate.

    :raises UnknownPair: the table has no entry for the pair.
    """
    value = RELATION[first][second]
    if value == _UNKNOWN:
        raise UnknownPair(
            f"no dependency rule for {KIND_NAMES[first]} and {KIND_NAMES[second]} on one object"
        )
    return value


Footprint = dict[str, int]  # object -> the kinds of access to it, as a bit mask
Sleep = Sequence[tuple[int, Footprint]]  # tasks that must not run until something clashes


_CONFLICTS: Final[dict[int, int]] = {}  # mask of kinds: mask of kinds some of it clashes with


def _conflicts(mask: int) -> int:
    n = range(len(KIND_NAMES))
    out = 0
    for kind in n:
        if mask >> kind & 1:
            for other in n:
                if RELATION[kind][other] != COMMUTE or RELATION[other][kind] != COMMUTE:
                    out |= 1 << other
    _CONFLICTS[mask] = out
    return out


def footprint(acc: Iterable[Access]) -> Footprint:
    """The accesses of a step by object."""
    out: Footprint = {}
    for name, kind in acc:
        out[name] = out.get(name, 0) | 1 << kind
    return out


def clash(one: Footprint, other: Footprint) -> bool:
    """Whether two footprints (of different tasks) do not commute."""
    if len(one) > len(other):
        one, other = other, one
    for name, mask in one.items():
        if name in other:
            known = _CONFLICTS.get(mask)
            if (_conflicts(mask) if known is None else known) & other[name]:
                return True
    return False


def dependent(one: Iterable[Access], other: Iterable[Access]) -> bool:
    """Whether two lists of accesses (of different tasks) do not commute."""
    return clash(footprint(one), footprint(other))


def conflicts(mask: int) -> int:
    """The kinds with which some of the kinds ``mask`` do not commute."""
    known = _CONFLICTS.get(mask)
    return _conflicts(mask) if known is None else known
