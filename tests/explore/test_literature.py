# SPDX-License-Identifier: GPL-2.0-only
"""One execution per trace on the literature's programs, and what enumeration says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from literature import COUNTS
from traces import trace_of

from septum.explore import MachineProgram, Options, search

SIZES = [(make, n, traces) for make, counts in COUNTS for n, traces in counts.items()]


@pytest.mark.parametrize(
    ("make", "n", "traces"), SIZES, ids=[f"{make.__name__}({n})" for make, n, _ in SIZES]
)
def test_executions_are_traces(make: Callable[[int], MachineProgram], n: int, traces: int) -> None:
    result = search(make(n))
    assert (result.complete, result.executions, result.blocked) == (True, traces, 0)
    found: set[object] = set()
    every = Options("naive", max_executions=800)
    brute = search(make(n), every, on_execution=lambda e: found.add(trace_of(e)))
    assert len(found) == traces if brute.complete else len(found) <= traces
