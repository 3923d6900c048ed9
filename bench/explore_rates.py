# SPDX-License-Identifier: GPL-2.0-only
"""Executions, steps and seconds: reduced and brute force side by side, in one run.

    python bench/explore_rates.py [SECONDS]

For the literature's programs and the small KVM scenarios: what optimal DPOR explores, how
much of that was blocked, and what the unreduced search over states needs (given up after
SECONDS, default 20).  Ratios are between the two columns of one run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from septum.explore import MachineProgram, Options, search
from septum.scenarios.build import build

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "explore"))
from programs import file_system, indexer, last_zero, readers

SMALL = {"levels": 2, "bits": 2, "epilogue": 0}


def programs() -> Iterator[tuple[str, MachineProgram]]:
    yield "readers(8)", readers(8)
    yield "lastzero(7)", last_zero(7)
    yield "filesystem(16)", file_system(16)
    yield "indexer(12)", indexer(12)
    for name in ("fault-fault", "fault-punch", "build-prefault", "subtree", "install-zero-step"):
        yield f"v7.3 {name}", build("v7.3", name, SMALL).program


def main(seconds: float) -> None:
    print(
        f"{'program':24}{'optimal':>9}{'blocked':>9}{'exec/s':>8}{'steps/s':>9}{'brute':>10}  ratio"
    )
    for name, program in programs():
        reduced = search(program)
        brute = search(program, Options("states", budget_s=seconds))
        given_up = "" if brute.complete else "+"
        print(
            f"{name:24}{reduced.executions:9}{reduced.blocked:9}"
            f"{reduced.executions / reduced.seconds:8.0f}{reduced.steps / reduced.seconds:9.0f}"
            f"{brute.executions:9}{given_up or ' '}  "
            f"{brute.seconds / reduced.seconds:.0f}x time{given_up}"
        )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)
