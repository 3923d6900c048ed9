# SPDX-License-Identifier: GPL-2.0-only
"""Compiled code in rows of a check: what is asked of its image process.

Which words are scheduling points is learned (docs/kernel.md).  A unit is explored with exactly
the words that its row knows; one that finds another word says so, and the row begins again.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Final

from septum.explore import Options, SearchResult, search
from septum.explore.minimise import minimise
from septum.explore.result import Found
from septum.explore.units import Branch, Size, UnitResult
from septum.machine import Limits
from septum.native.build import own_digest
from septum.native.code import Code
from septum.native.image import ImageError
from septum.native.operations import unsupported
from septum.native.process import ImageDied, ImageProcess, Wanted, end, here
from septum.native.program import NativeBuilt, SharingGrew
from septum.native.words import united
from septum.scenarios.result import CheckResult
from septum.scenarios.rows import OURS, Row, at_fault, explore_here, judge
from septum.scenarios.start import StartError
from septum.scenarios.subject import Learned

__all__ = ["KernelSubject", "search_whole"]

_MINIMISE: Final = 400  # executions
_LEARNING: Final = "words that tasks share were still being found"
_FAILED: Final = (StartError, ImageError, ImageDied)


@dataclass(frozen=True, slots=True)
class KernelSubject:
    """A `septum.scenarios.subject.Subject`: an image."""

    code: Code

    @property
    def text(self) -> str:
        both = f"{self.code.content} {own_digest()}"
        return hashlib.sha256(both.encode()).hexdigest()[:12]

    def unexplored(self, row: Row) -> CheckResult | None:
        lacking = unsupported(row.found)
        return _row(row, "n/a", lacking) if lacking else None

    def explore(
        self, row: Row, pickled: bytes, size: Size, words: tuple[str, ...]
    ) -> UnitResult | CheckResult | Learned:
        known = self.unexplored(row)
        if known is not None:
            return known
        try:
            return self._process(row).ask(_explore, row, pickled, size, words)
        except _FAILED as error:
            return _row(row, "error", str(error))
        except OURS as error:
            return at_fault(row, error)

    def conclude(self, row: Row, found: SearchResult) -> CheckResult:
        try:
            return self._process(row).ask(_conclude, row, found)
        except _FAILED as error:
            return _row(row, "error", str(error))
        except OURS as error:
            return at_fault(row, error)

    def forget(self) -> None:
        end()

    def _process(self, row: Row) -> ImageProcess:
        return here(Wanted(self.code, row.found, row.params, row.monitors_off))


def _row(row: Row, verdict: str, note: str) -> CheckResult:
    return CheckResult(row.design, row.name, dict(row.params), verdict, note=note)


# --- in the image process ------------------------------------------------------------------


def _explore(
    built: NativeBuilt, row: Row, pickled: bytes, size: Size, words: tuple[str, ...]
) -> UnitResult | CheckResult | Learned:
    program, words = built.program, united(words)
    branch: Branch = pickle.loads(pickled)
    program.know(words)
    if not branch.levels and not words:
        program.warm_up()
    if not row.in_units:
        return judge(row, built, search_whole(built, row.options), _shrinker(built, row))
    if program.words() != words:
        return Learned(program.words())
    try:
        return explore_here(row, built, branch, size)
    except SharingGrew:
        return Learned(program.words())


def search_whole(built: NativeBuilt, options: Options) -> SearchResult:
    """A search as one piece of work, until it finds no more words that tasks share; what that
    takes is part of the row's time."""
    begun, left = perf_counter(), options
    while True:
        with suppress(SharingGrew):
            return search(built.program, left)
        if options.budget_s:
            left = replace(options, budget_s=options.budget_s - (perf_counter() - begun))
            if left.budget_s <= 0:
                return SearchResult(options.strategy, bounds_hit=[_LEARNING, "time budget"])


def _conclude(built: NativeBuilt, row: Row, found: SearchResult) -> CheckResult:
    built.program.know(united(found.words))
    return judge(row, built, found, _shrinker(built, row))


def _shrinker(built: NativeBuilt, row: Row) -> Callable[[Found], Found]:
    """Smaller schedules, as far as they use no word that is not known."""
    program, limits = built.program, Limits(row.options.steps)
    words = program.words()

    def shrink(found: Found) -> Found:
        try:
            return minimise(program, program.actors, found, limits, tries=_MINIMISE)
        except SharingGrew:
            program.know(words)
            return found

    return shrink
