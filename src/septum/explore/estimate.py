# SPDX-License-Identifier: GPL-2.0-only
"""How much of a search may be left: a guess, and how far guesses lay apart lately.

P. Kilby, J. Slaney, S. Thiebaux, T. Walsh, "Estimating search tree size", AAAI 2006, the recursive
estimator: at each state on the way, the sequences that wait are taken to be as large as the mean of
those that were begun.  Sequences that will only turn up later are not known, and of those known
some will turn out covered, so a guess may be far off, either way; the range is that of the
middle three fifths of the guesses lately, and nothing is said where that is wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from septum.explore.optimal import Level
from septum.explore.result import SearchResult

__all__ = ["Guesses", "expected", "left_text", "whole"]

_LEAST = 20  # executions before anything is said
_APART = 10


def expected(levels: Sequence[Level]) -> float:
    """Executions in all at and below the first level, those made included."""
    guess = 1.0
    for level in reversed(levels):
        guess = whole(level, guess, 1)
    return guess


def whole(level: Level, active: float, count: int) -> float:
    """Executions in all below a level, where those being made come to ``active`` in ``count``
    sequences."""
    begun = level.done + count
    return (level.runs + active) * (1 + len(level.todo) / begun) if begun else 0.0


@dataclass(slots=True)
class Guesses:
    """Guesses of how many executions there are in all, since half of those made so far."""

    made: list[tuple[int, int]] = field(default_factory=list)

    def take(self, found: SearchResult, guess: float, waiting: int, most: int = 0) -> None:
        """One more guess; sets ``found.expected``.

        :param guess: of how many executions there are.
        :param waiting: sequences that are surely left.
        :param most: bound on executions (0: none).
        """
        now = found.executions
        if found.complete or now < _LEAST:
            found.expected = (now, now) if found.complete else (0, 0)
            return
        least = now + max(waiting, 1)
        self.made = [(at, guess) for at, guess in self.made if 2 * at >= now]
        self.made.append((now, max(round(guess), least)))
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
