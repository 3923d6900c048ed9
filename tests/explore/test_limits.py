# SPDX-License-Identifier: GPL-2.0-only
"""Where the reduced search is not exact yet (docs/explorer.md, "Known limits").

When a limit falls, its test passes, and pytest says so (strict): take it out here, there, and
in generated.py.
"""

from __future__ import annotations

import pytest
from generated import Spec, build
from traces import past_of, trace_of

from septum.explore import Options, search
from septum.explore.outcomes import NondeterminismError
from septum.machine import Execution


def _met(spec: Spec, strategy: str) -> tuple[set[object], set[object]]:
    """The traces, and the ways to BUG()."""
    traces: set[object] = set()
    ends: set[object] = set()

    def note(e: Execution) -> None:
        if e.status in ("complete", "deadlock", "stuck"):
            traces.add(trace_of(e))
        else:
            ends.add(past_of(e))

    search(build(spec), Options(strategy), on_execution=note)
    return traces, ends


@pytest.mark.xfail(reason="two tasks may BUG(): a trace or a way to BUG() is missed", strict=True)
@pytest.mark.parametrize("second", [1, 2])
def test_every_trace_and_every_way_to_bug(second: int) -> None:
    spec = Spec(((("bug", 0, 1),), (("bug", 0, second),), (("radd", 0, 1), ("radd", 0, 1))))
    assert _met(spec, "optimal") == _met(spec, "naive")


@pytest.mark.xfail(
    reason="TSO: a plan lacks the flush of a store", raises=NondeterminismError, strict=True
)
def test_plans_under_tso_can_run_after_a_bug() -> None:
    tasks = ((("bug", 1, 1),), (("lbug", 0, 2),), (("write", 0, 1), ("wpoke", 1, 1)))
    _met(Spec(tasks, "TSO"), "optimal")


@pytest.mark.xfail(reason="a wait that never ends under a lock: a trace is missed", strict=True)
def test_every_trace_with_a_wait_under_a_lock() -> None:
    tasks = ((("until", 0, 1),), (("runtil", 0, 2),), (("gate", 0, 1),), (("wpoke", 0, 1),))
    assert _met(Spec(tasks), "optimal") == _met(Spec(tasks), "naive")
