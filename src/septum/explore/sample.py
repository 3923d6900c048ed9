# SPDX-License-Identifier: GPL-2.0-only
"""Sampled schedules: random walk and PCT.  A sample can refute, never prove.

PCT (Burckhardt, Kothari, Musuvathi, Nagarakatti, ASPLOS 2010) finds a bug of depth d
in a program of n tasks and k steps with probability at least 1/(n * k**(d-1)) per run.
What k is shows in the runs; those that turn out longer than was assumed do not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter

from septum.explore.program import Program
from septum.explore.result import SearchResult
from septum.machine import Execution, Limits, Policy
from septum.machine.events import CONTINUE

__all__ = ["sample"]


def _floor(p: float) -> str:
    """A probability with three significant digits, rounded down: it is a lower bound."""
    scale = 10.0 ** (2 - math.floor(math.log10(p))) if p > 0 else 1.0
    return f"{math.floor(p * scale) / scale:.3g}"


def sample(
    program: Program,
    kind: str,
    runs: int,
    *,
    tasks: int,
    limits: Limits,
    seed: int = 0,
    depth: int = 3,
    deadline: float = 0.0,
    first: bool = False,
    progress: Callable[[SearchResult], None] | None = None,
    on_execution: Callable[[Execution], None] | None = None,
) -> SearchResult:
    """``runs`` executions under policy ``kind`` (``random`` or ``pct``)."""
    result = SearchResult(kind, expected=(runs, runs))
    begun = perf_counter()
    span = longest = 0
    missed = 1.0  # probability that no run so far had to find a bug of that depth
    if kind == "pct":
        span = max(len(program.run((), (), CONTINUE, limits).events), 1)
    for i in range(runs):
        execution = program.run((), (), Policy(kind, seed + i, depth, span=span), limits)
        result.take(execution)
        longest = max(longest, len(execution.events))
        if span:
            if len(execution.events) <= span:
                missed *= 1 - 1 / (tasks * float(span) ** (depth - 1))
            span = max(span, len(execution.events))
        if on_execution is not None:
            on_execution(execution)
        if progress is not None:
            result.seconds = perf_counter() - begun
            progress(result)
        if first and result.found:
            break
        if deadline and perf_counter() >= deadline:
            break
    why = f"sampled {result.executions}"
    if kind == "random":
        why += (
            f"; no guarantee: a given schedule of the longest ({longest} steps, {tasks} tasks) has "
            f"probability {tasks}^-{longest} at least in each"
        )
    if span:
        why += (
            f"; a bug of depth {depth} is found with probability {_floor(1 - missed)} at least "
            f"({tasks} tasks, {span} steps)"
        )
    result.bounds_hit.append(why)
    result.seconds = perf_counter() - begun
    return result
