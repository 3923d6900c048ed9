# SPDX-License-Identifier: GPL-2.0-only
"""Executions of optimal DPOR on the literature's programs, beside their traces.

    python bench/literature.py [--large] [--counts]

``naive`` is the number of traces counted by running every interleaving (up to 3000;
``-``: more).  Rates are per second of CPU time; ``--counts`` leaves them out, for
docs/explorer.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from time import process_time

from septum.explore import Options, search

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "explore"))
from literature import COUNTS
from programs import last_zero, readers
from traces import trace_of

LARGE = [(last_zero, {10: 3328}), (readers, {13: 8192})]


def main(large: bool, rates: bool) -> None:
    head = f"{'program':24}{'traces':>8}{'executions':>12}{'blocked':>9}{'naive':>8}"
    print(head + f"{'exec/s':>9}" * rates)
    for make, counts in [*COUNTS, *(LARGE if large else [])]:
        for n, traces in counts.items():
            begun = process_time()
            result = search(make(n))
            seconds = process_time() - begun
            seen: set[object] = set()
            every = Options("naive", max_executions=3000)
            brute = search(make(n), every, on_execution=lambda e, s=seen: s.add(trace_of(e)))
            print(
                f"{make.__name__ + f'({n})':24}{traces:8}{result.executions:12}"
                f"{result.blocked:9}{len(seen) if brute.complete else '-':>8}"
                + f"{result.executions / max(seconds, 1e-9):9.0f}"
                * rates
            )


if __name__ == "__main__":
    main("--large" in sys.argv[1:], "--counts" not in sys.argv[1:])
