# SPDX-License-Identifier: GPL-2.0-only
"""Sequences of steps that are to be explored from a state.

P. Abdulla, S. Aronis, B. Jonsson, K. Sagonas, JACM 64(4), 2017: *initials* and *weak
initials* of a sequence.  A step is a task with the options it picks; two steps of a
task with different picks exclude each other.

The last step of a sequence is the one whose race is reversed.  What it will do there may
not be known (a cmpxchg may succeed where it failed): it is *unsure*, and its footprint
holds only what it does in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from mypy_extensions import mypyc_attr

from septum.machine import Decision
from septum.machine.dependency import Footprint, clash, conflicts

__all__ = [
    "NO",
    "UNKNOWN",
    "WEAK",
    "Chosen",
    "Early",
    "Effect",
    "Key",
    "Move",
    "Wakeup",
    "begins",
    "early",
    "initial",
    "left_awake",
    "within",
]

Key = tuple[int, tuple[int, ...]]  # task, options picked (without trailing firsts)
Effect = tuple[str, int, int]  # object, kind, number of the access (`outcomes`)


@mypyc_attr(serializable=True)
class Move:
    """A step as it will be taken: who, which options, its footprint.

    ``effects`` are its accesses as `outcomes` numbers them (of a sure step), ``local``
    the number of what its task has seen before (of a step that is not sure; 0: unknown).
    """

    __slots__ = ("decisions", "effects", "foot", "key", "local", "sure", "task")

    def __init__(self, key: Key, foot: Footprint, decisions: list[Decision], sure: bool) -> None:
        self.key = key
        self.task = key[0]
        self.foot = foot
        self.decisions = decisions
        self.sure = sure
        self.effects: list[Effect] = []
        self.local = 0

    def copy(self) -> Move:
        """One that may learn its footprint on its own (in another place)."""
        if self.sure:
            return self
        other = Move(self.key, self.foot, self.decisions, False)
        other.local = self.local
        return other


@mypyc_attr(serializable=True)
class Wakeup:
    """A sequence to explore.  ``certain``: nothing explored before it will cover it."""

    __slots__ = ("certain", "moves")

    def __init__(self, moves: list[Move], certain: bool) -> None:
        self.moves = moves
        self.certain = certain

    @property
    def name(self) -> tuple[Key, ...]:
        return tuple([m.key for m in self.moves])


NO: Final = -3
UNKNOWN: Final = -2
WEAK: Final = -1


def initial(key: Key, foot: Footprint, sure: bool, moves: Sequence[Move]) -> int:
    """Whether a step that can be taken now can come first in a continuation of
    ``moves``: its position among them, `WEAK` if it is not one of them but commutes with
    them all, `NO`, or `UNKNOWN`."""
    task = key[0]
    known = sure
    for n, move in enumerate(moves):
        if move.task == task:
            if move.key != key:
                return NO
            # If all before commutes with it, it is this very step.
            return n if known or n == 0 else UNKNOWN
        if clash(foot, move.foot):
            return NO
        if not move.sure:
            known = False
    return WEAK if known else UNKNOWN


@mypyc_attr(native_class=False)
class Chosen(Footprint):
    """The footprint of a step that sleeps and made choices.

    :ivar options: how many each of them has.
    """

    __slots__ = ("options",)

    def __init__(self, foot: Iterable[tuple[str, int]] = (), options: tuple[int, ...] = ()) -> None:
        super().__init__(foot)
        self.options = options


@mypyc_attr(native_class=False)
class Early(Chosen):
    """The footprint of a step that sleeps at a level that is shared: what others will plan
    there, who began before, is not known yet."""

    __slots__ = ()


def early(foot: Footprint) -> Early:
    """The same, seen from where others explore, too."""
    return Early(foot.items(), foot.options if isinstance(foot, Chosen) else ())


def left_awake(asleep: Sequence[tuple[Key, Early]]) -> tuple[int, ...] | None:
    """The first options of a task's step that do not sleep, as far as they must be named; None:
    all sleep.

    :param asleep: those of its options that do.
    """
    trees = [
        ((*key[1], *(0,) * (len(foot.options) - len(key[1]))), foot.options) for key, foot in asleep
    ]
    return _awake(trees, 0)


def _awake(
    trees: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], n: int
) -> tuple[int, ...] | None:
    """The same, of those that agree in their first ``n`` options."""
    asked = [options[n] for _, options in trees if len(options) > n]
    if not asked:
        return None
    for option in range(asked[0]):
        same = [tree for tree in trees if tree[0][n] == option]
        rest = _awake(same, n + 1) if same else ()
        if rest is not None:
            return (option, *rest)
    return None


def asleep(key: Key, foot: Footprint, moves: Sequence[Move]) -> int:
    """`initial` for a step that sleeps.  At a level that is shared, what only commutes with it is
    not taken for covered: source sets instead of wakeup trees."""
    at = initial(key, foot, True, moves)
    return NO if at < 0 and isinstance(foot, Early) else at


def begins(first: Sequence[Move], moves: Sequence[Move]) -> bool:
    """Whether all of ``first`` surely comes first in ``moves``, up to equivalence."""
    rest = list(moves)
    for move in first:
        at = initial(move.key, move.foot, move.sure, rest)
        if at < 0:
            return False
        del rest[at]
    return True


def within(foot: Footprint, known: Footprint) -> bool:
    """Whether whatever commutes with a step that does ``known`` commutes with ``foot``."""
    return all(conflicts(mask) & ~conflicts(known.get(name, 0)) == 0 for name, mask in foot.items())
