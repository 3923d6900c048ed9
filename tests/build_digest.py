# SPDX-License-Identifier: GPL-2.0-only
"""Everything that searches execute, as one line of text per program: run by test_compiled.py
in a process of each build."""

from __future__ import annotations

import hashlib
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from septum import compiled
from septum.explore import MachineProgram, Options, search
from septum.explore.minimise import minimise
from septum.explore.protocol import program_of
from septum.machine import Limits
from septum.scenarios.build import build

sys.path.insert(0, str(Path(__file__).parent / "explore"))
from programs import file_system, indexer, last_zero, random_program, readers

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "page_cache.py"
SMALL = {"levels": 2, "bits": 2, "epilogue": 0}


def programs() -> Iterator[tuple[str, MachineProgram, Options]]:
    every = Options()
    yield "readers(7)", readers(7), every
    yield "lastzero(6)", last_zero(6), every
    yield "filesystem(16)", file_system(16), every
    yield "indexer(12)", indexer(12), every
    for seed in range(120):
        yield f"random program {seed}", random_program(seed), every
    for name in ("fault-fault", "fault-punch", "install-zero-step", "subtree"):
        yield f"v7.3 {name}", build("v7.3", name, SMALL).program, every
        yield f"void-callback {name}", build("void-callback", name, SMALL).program, every
    for strategy in ("states", "bounded", "random", "pct"):
        options = Options(strategy, max_executions=60)
        yield f"{strategy} fault-punch", build("v7.3", "fault-punch", SMALL).program, options
    for protocol in runpy.run_path(str(EXAMPLE))["PROTOCOLS"]:
        yield protocol.name, program_of(protocol), every
    yield (
        "part of zap-accept",
        build("v7.3", "zap-accept", SMALL).program,
        Options(max_executions=150),
    )


def digest(program: MachineProgram, options: Options) -> str:
    """Counts, a hash over every event of every execution, and each finding's schedule."""
    seen = hashlib.sha256()

    def note(execution: Any) -> None:
        for e in execution.events:
            line = (e.task, e.index, e.op, e.obj, e.acc, e.choice, e.since, e.off, e.enabled)
            seen.update(re.sub(r" at 0x[0-9a-f]+", "", f"{line} {e.seen} {e.left}").encode())
        seen.update(repr((execution.status, execution.findings)).encode())

    result = search(program, options, on_execution=note)
    found = []
    for rule, f in sorted(result.found.items()):
        best = minimise(program, program.actors, f, Limits(), tries=60)
        found.append((rule, f.times, f.finding.message, [tuple(d) for d in best.decisions]))
    return f"{result.executions} {result.blocked} {result.steps} {seen.hexdigest()} {found}"


if __name__ == "__main__":
    print("compiled" if compiled() else "pure")
    for name, program, options in programs():
        print(f"{name}: {digest(program, options)}")
