# SPDX-License-Identifier: GPL-2.0-only
"""The reduction against brute force, on small KVM scenarios and their mutants.

The brute force visits every reachable state without any reduction and without looking at
the dependency table; the final states and the violated rules must be the same.
"""

from __future__ import annotations

import pytest

from septum.explore import Options, SearchResult, search
from septum.machine import Execution
from septum.machine.geometry import Geometry
from septum.scenarios.build import build
from septum.scenarios.model import Op, Scenario, Start, TaskSpec, op
from septum.scenarios.suite import find

TWO_LEVELS = Geometry(bits=2, levels=2)


def _tiny(name: str, left: tuple[Op, int], right: tuple[Op, int], start: Start) -> Scenario:
    tasks = tuple(TaskSpec(f"t{n}", (o,), vcpu=v) for n, (o, v) in enumerate((left, right)))
    return Scenario(name, "", "", tasks, start, geometry=TWO_LEVELS, epilogue=False)


HOST = -1
MAPPED = Start(mapped=(1,))
TINY = {
    s.name: s
    for s in (
        _tiny("same-leaf", (op("fault", 0), 0), (op("fault", 0), 1), MAPPED),
        _tiny("neighbour-leafs", (op("fault", 0), 0), (op("fault", 2), 1), MAPPED),
        _tiny("fault-zap", (op("fault", 0), 0), (op("zap_leafs", 0, 2), HOST), MAPPED),
        _tiny(
            "zap-zap",
            (op("zap_leafs", 0, 1), HOST),
            (op("zap_leafs", 0, 2), HOST),
            Start(mapped=(0, 1)),
        ),
        _tiny("fault-punch", (op("fault", 0), 0), (op("punch_hole", 0, 1), HOST), MAPPED),
        _tiny("walk-fault", (op("walk", 0), HOST), (op("fault", 0), 0), MAPPED),
        _tiny("walk-zap", (op("walk", 1), HOST), (op("zap_leafs", 0, 2), HOST), MAPPED),
        _tiny("prefault-fault", (op("prefault", 0), 0), (op("fault", 0), 1), MAPPED),
    )
}

ROWS = [
    *(("v7.3", name) for name in TINY),
    ("v7.3", "build-prefault"),
    ("v6.16", "build-prefault"),
    ("v7.3", "split-tripwire"),
    ("v7.3", "notifier-fault"),
    ("v7.3", "notifier-slot"),
    ("rfc-v5-08", "split-tripwire"),
    ("feb06+reread-sptep", "same-leaf"),
    ("feb06+reread-sptep", "fault-punch"),
    ("feb10-sp", "fault-zap"),
    # Mutants: what is broken must be seen broken in the same way.
    ("v7.3+in-progress-ignored", "fault-punch"),
    ("v7.3+no-stale-check", "fault-punch"),
    ("v7.3+zap-not-propagated", "fault-punch"),
    ("v7.3+no-track", "zap-zap"),
    ("v7.3+root-not-put", "zap-zap"),
    ("v7.3+stat-missing", "zap-zap"),
    ("v7.3+freeze-by-store", "neighbour-leafs"),
    ("v7.3+child-skipped", "subtree"),
    ("v7.3+prefault-before-runnable", "build-prefault"),
    ("v7.3+free-without-rcu", "subtree"),
    # Direct roots, with a running vCPU that I7 follows.
    ("v7.3", "run-collapse"),
    ("v7.3+collapse-no-flush", "run-collapse"),
    ("v7.3", "fast-pf-fast-pf"),
    ("v7.3", "fast-pf-write-track"),
    ("feb06", "age-collapse"),
    ("v7.3+direct-plain-store", "direct-fault-split"),
    ("v7.3+fast-pf-plain-store", "fast-pf-zap"),
    ("v7.3+pml-huge-pages-writable", "log-pml-huge"),
    ("v7.3+mmio-update-in-progress", "mmio-slot-create"),
    ("v7.3+swap-ignores-notifiers", "notifier-slot"),
]


def _search(design: str, scenario: Scenario, strategy: str) -> tuple[SearchResult, set[object]]:
    built = build(design, scenario)
    finals: set[object] = set()
    run = built.program.run

    def keep(execution: Execution) -> None:
        if execution.status == "complete":
            finals.add(execution.fingerprint)

    built.program.run = lambda *a, **k: run(*a, **{**k, "fingerprint": True})  # type: ignore[method-assign]
    result = search(built.program, Options(strategy), on_execution=keep)
    assert result.complete
    return result, finals


@pytest.mark.parametrize(("design", "name"), ROWS)
def test_reduced_and_brute_force_agree(design: str, name: str) -> None:
    scenario = TINY.get(name) or find(name)
    reduced, finals = _search(design, scenario, "optimal")
    brute, all_finals = _search(design, scenario, "states")
    assert finals == all_finals
    assert set(reduced.found) == set(brute.found)
    assert reduced.executions <= brute.executions
