# SPDX-License-Identifier: GPL-2.0-only
"""The reduced search against brute force on thousands of random programs.

    python scripts/fuzz_explore.py [N [FIRST]]

Takes the seeds FIRST .. FIRST+N-1 (default 0 .. 1999) of tests/explore/programs.py, compares
final states and findings and, where every interleaving can be run, the number of executions
with that of traces, and prints what the programs contained, so that a generator that
has lost its variety shows.  Exit status 1, with the seeds, if the searches disagree.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from septum.explore import Options, search

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "explore"))
from programs import random_program
from traces import trace_of

BRUTE = Options("states", max_executions=100_000)
NAIVE = Options("naive", max_executions=2000)


def main(count: int, first: int) -> int:
    ops: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    executions: Counter[str] = Counter()
    wrong: list[int] = []
    for seed in range(first, first + count):
        program = random_program(seed)
        brute = search(program, BRUTE)
        run, finals = program.run, set()
        program.run = lambda *a, run=run, **k: run(*a, **{**k, "fingerprint": True})
        reduced = search(
            program,
            on_execution=lambda e, finals=finals: (
                finals.add(e.fingerprint) if e.status == "complete" else None
            ),
        )
        ops.update(op for name, _ in program.bodies for op in name.split(":")[1].split(","))
        rules.update(list(brute.found) or ["none"])
        executions.update(reduced=reduced.executions, brute=brute.executions)
        sizes[f"{len(program.bodies)} tasks"] += 1
        traces: set[object] = set()
        every = search(
            program, NAIVE, on_execution=lambda e, traces=traces: traces.add(trace_of(e))
        )
        sizes["with traces counted"] += every.complete
        executions["blocked"] += reduced.blocked
        if reduced.blocked or (every.complete and reduced.executions != len(traces)):
            wrong.append(seed)
            print(f"seed {seed}: {reduced.executions} executions, {len(traces)} traces")
        if not (brute.complete and reduced.complete):
            sizes["given up"] += 1
        elif finals != brute.finals or set(reduced.found) != set(brute.found):
            wrong.append(seed)
            print(f"seed {seed} disagrees: {', '.join(name for name, _ in program.bodies)}")
    for title, counter in (("programs", sizes), ("operations", ops), ("findings", rules)):
        print(f"{title}: {', '.join(f'{what} {n}' for what, n in counter.most_common())}")
    print(
        f"executions: {executions['reduced']} reduced, {executions['brute']} by brute force, "
        f"{executions['blocked']} blocked"
    )
    print(f"{count} programs, {len(wrong)} disagree{': seeds ' if wrong else ''}{wrong or ''}")
    return 1 if wrong else 0


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:3]]
    sys.exit(main(*[*numbers, *(2000, 0)[len(numbers) :]]))
