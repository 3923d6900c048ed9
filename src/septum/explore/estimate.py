# SPDX-License-Identifier: GPL-2.0-only
"""How much of a search may be left: a guess, and how far guesses lay apart lately.

D. Knuth, "Estimating the efficiency of backtrack programs", Math. of Computation 29 (1975), as
P. Kilby, J. Slaney, S. Thiebaux, T. Walsh, "Estimating search tree size", AAAI 2006, use it along a
depth-first search: each sequence that begins at a state is taken for an equal part of what is
below it.  The parts that are over are the progress, and so many executions made it.

The sequences that wait at a state are not all that will begin there: some will turn out to be
covered, others will turn up, and later ones are smaller, as more sleeps.  So they count for what
those that waited at states that were left came to, compared with the mean of those before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from septum.explore.optimal import Level
from septum.explore.result import SearchResult

__all__ = ["Guesses", "left_text", "progress", "sequences"]

_LEAST = 20  # executions before anything is said
_APART = 10


def sequences(level: Level, begun: int, likely: float) -> float:
    """How many sequences there may be at a level where ``begun`` are being explored.

    :param likely: what one that waits counts for.
    """
    return level.done + begun + likely * len(level.todo)


def progress(levels: Sequence[Level], likely: float) -> float:
    """Which part of what is below the first level is done, where the last one comes next."""
    done = 0.0
    part = 1.0
    for level in levels:
        part /= sequences(level, 1, likely)
        done += part * level.done
    return done


@dataclass(slots=True)
class Guesses:
    """Guesses of how many executions there are in all, since half of those made so far.

    :ivar hoped: executions that sequences which waited should have come to, and what ``came``.
    """

    made: list[tuple[int, int]] = field(default_factory=list)
    hoped: float = 0.0
    came: int = 0

    @property
    def likely(self) -> float:
        """What a sequence that waits counts for."""
        return (self.came + 1) / (self.hoped + 1)

    def learn(self, hoped: float, came: int) -> None:
        """What came of sequences that waited at levels that were left."""
        self.hoped += hoped
        self.came += came

    def take(self, found: SearchResult, done: float, waiting: int, most: int = 0) -> None:
        """One more guess; sets ``found.expected``.

        :param done: which part of the search may be done.
        :param waiting: sequences that are surely left.
        :param most: bound on executions (0: none).
        """
        now = found.executions
        if found.complete or now < _LEAST or not done:
            found.expected = (now, now) if found.complete else (0, 0)
            return
        least = now + max(waiting, 1)
        self.made = [(at, guess) for at, guess in self.made if 2 * at >= now]
        self.made.append((now, max(round(now / done), least)))
        guesses = sorted(max(guess, least) for _, guess in self.made)
        few = len(guesses) // 5
        low, high = guesses[few], guesses[-1 - few]
        if high > _APART * low:
            low = high = 0  # that says nothing
        if most:
            low, high = min(low, most), min(high, most)  # where nothing is known: 0
        found.expected = (low, high)


def left_text(found: SearchResult) -> str:
    """``about 20-40% done, 2m-5m of work left``; empty where nothing can be said."""
    low, high = found.expected
    now = found.executions
    if found.complete or not low or not found.seconds or high <= now:
        return ""
    done = _span(f"{min(100 * now // high, 99)}", f"{min(100 * now // low, 99)}")
    each = found.seconds / now
    left = _span(_rough((low - now) * each), _rough((high - now) * each))
    return f"about {done}% done, {left} of work left"


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low}-{high}"


def _rough(seconds: float) -> str:
    if seconds < 60:
        return f"{max(round(seconds), 1)}s"
    if seconds < 3600:
        return f"{round(seconds / 60)}m"
    return f"{round(seconds / 3600)}h"
