# SPDX-License-Identifier: GPL-2.0-only
"""Random programs against brute force; what fails is shrunk.  scripts/fuzz_explore.py runs
thousands."""

from __future__ import annotations

from generated import KINDS, Spec, build, compare, specs
from hypothesis import example, given, settings


@settings(max_examples=100, deadline=None)
@example(Spec(((("read", 0, 1), ("mutex", 1, 1)), (("write", 1, 1), ("bug", 1, 1)))))
@example(Spec(((("write", 1, 1), ("write", 1, 2)), (("bug", 1, 1),))))
@given(specs(("SC",)))
def test_one_execution_per_trace_and_the_findings_of_brute_force(spec: Spec) -> None:
    compare(spec, states=2000, naive=150)


@settings(max_examples=30, deadline=None)
@given(specs(("TSO",)))
def test_under_tso_the_states_and_findings_of_brute_force(spec: Spec) -> None:
    compare(spec, states=1000, naive=1)


def test_every_operation_does_something() -> None:
    """Alone, each leaves an event behind (a fence only where stores are buffered)."""
    for kind in KINDS:
        helper = (("set", 0, 2), ("write", 0, 1), ("sum", 0, 2))
        other = (helper,) if kind in ("until", "usum", "await") else ()
        execution = build(Spec((((kind, 0, 2), ("read", 0, 1)), *other), "TSO")).run()
        assert execution.status == "complete", kind
        assert sum(e.task == 0 for e in execution.events) >= 1 + (kind != "fence"), kind
