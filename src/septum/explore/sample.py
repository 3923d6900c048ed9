# SPDX-License-Identifier: GPL-2.0-only
"""Sampled schedules: random walk and PCT.  A sample can refute, never prove.

PCT (Burckhardt, Kothari, Musuvathi, Nagarakatti, ASPLOS 2010) finds a bug of depth d
in a program of n tasks and k steps with probability at least 1/(n * k**(d-1)) per run.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from septum.explore.program import Program
from septum.explore.result import SearchResult
from septum.machine import Execution, Limits, Policy

__all__ = ["sample"]


def sample(
    program: Program,
    kind: str,
    runs: int,
    *,
    limits: Limits,
    seed: int = 0,
    depth: int = 3,
    deadline: float = 0.0,
    first: bool = False,
    on_execution: Callable[[Execution], None] | None = None,
) -> SearchResult:
    """``runs`` executions under policy ``kind`` (``random`` or ``pct``)."""
    result = SearchResult(kind)
    begun = perf_counter()
    for i in range(runs):
        execution = program.run((), None, Policy(kind, seed + i, depth), limits)
        result.take(execution)
        if on_execution is not None:
            on_execution(execution)
        if first and result.found:
            break
        if deadline and perf_counter() >= deadline:
            break
    result.bounds_hit.append(f"sampled {result.executions}")
    result.seconds = perf_counter() - begun
    return result
