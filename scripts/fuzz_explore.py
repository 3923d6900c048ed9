# SPDX-License-Identifier: GPL-2.0-only
"""The reduced search against brute force on thousands of random programs.

    python scripts/fuzz_explore.py [N [SEED]]

Hypothesis draws N programs (default 2000) of tests/explore/generated.py; final states,
findings and, where every interleaving can be run, traces must agree.  Prints what the
programs contained, so that a generator that has lost its variety shows.  A program on which
the searches disagree is shrunk and printed; exit status 1.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "explore"))
from generated import KINDS, Spec, compare, specs


class Told:
    """What the programs contained."""

    def __init__(self) -> None:
        self.seen: set[Spec] = set()
        self.kinds: Counter[str] = Counter()
        self.sizes: Counter[str] = Counter()
        self.rules: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()

    def one(self, spec: Spec) -> None:
        """Compare one program, and count what is in it."""
        done = compare(spec)
        if spec in self.seen:
            return
        self.seen.add(spec)
        self.kinds.update({op[0] for task in spec.tasks for op in task})
        self.sizes.update([f"{len(spec.tasks)} tasks", spec.model])
        self.sizes["traces counted"] += done.traces > 0
        self.sizes["given up"] += done.given_up
        if not done.given_up:
            self.rules.update(done.rules or ["none"])
        self.runs.update(reduced=done.executions, brute=done.states, traces=done.traces)

    def print(self) -> None:
        """The distributions."""
        for title, counter in (
            ("programs", self.sizes),
            ("programs with", self.kinds),
            ("programs that break", self.rules),
        ):
            print(f"{title}: {', '.join(f'{what} {n}' for what, n in counter.most_common())}")
        print(
            f"executions: {self.runs['reduced']} reduced, {self.runs['brute']} by brute force; "
            f"{self.runs['traces']} traces counted"
        )


def main(count: int, first: int) -> int:
    told = Told()

    @seed(first)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(specs())
    def every(spec: Spec) -> None:
        told.one(spec)

    wrong = ""
    try:
        every()
    except AssertionError as error:
        wrong = "\n".join([str(error), *getattr(error, "__notes__", [])])
    told.print()
    missing = sorted(set(KINDS) - set(told.kinds))
    print(f"operations never drawn: {', '.join(missing) or 'none'}")
    print(f"{len(told.seen)} different programs: {wrong or 'all agree'}")
    # Of a few programs nobody expects every operation.
    return 1 if wrong or (missing and count >= 3000) else 0


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:3]]
    sys.exit(main(*[*numbers, *(2000, 0)[len(numbers) :]]))
