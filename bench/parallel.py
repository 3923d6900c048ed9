# SPDX-License-Identifier: GPL-2.0-only
"""Workers and kills: what two workers gain on one row, and what 20 times kill -9 changes.

    python bench/parallel.py [DESIGN SCENARIO [KILLS]]

Part 1 checks one row (default v7.3 zap-running) with one and with two worker processes:
wall time and speed-up (on an idle machine with two cores), and CPU time of all workers
together, whose ratio is what the splitting costs whatever else the machine does.
Part 2 kills a campaign of that row and a second one at random moments and lets the same
command go on; verdicts and counts must be those of an undisturbed check.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from septum.scenarios.check import check_many
from septum.scenarios.crew import ProcessCrew

SECOND = ("feb06", "install-accept")


def workers(design: str, scenario: str) -> None:
    print(f"{'workers':8}{'executions':>11}{'traces':>8}{'blocked':>8}{'wall':>9}{'CPU':>9}")
    rows = []
    for count in (1, 2):
        before = used()
        begun = time.perf_counter()
        crew = ProcessCrew(count)
        ((_, row),) = check_many([(design, scenario)], crew=crew)
        wall = time.perf_counter() - begun
        crew.executor.shutdown()
        cpu = used() - before
        rows.append((wall, cpu, row.executions, row.traces, row.verdict))
        print(
            f"{count:<8}{row.executions:>11}{row.traces:>8}{row.blocked:>8}{wall:8.1f}s{cpu:8.1f}s"
        )
    (wall1, cpu1, *same1), (wall2, cpu2, *same2) = rows
    assert same1 == same2, "the number of workers changed a result"
    print(
        f"speed-up {wall1 / wall2:.2f} (efficiency {wall1 / wall2 / 2:.2f}); "
        f"CPU(2) / CPU(1) = {cpu2 / cpu1:.2f}"
    )


def used() -> float:
    """CPU time of this process and of the workers that have ended."""
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def kills(rows: list[tuple[str, str]], wanted: int) -> None:
    command = [sys.executable, "-m", "septum", "check", "--format", "json", "--jobs", "2"]
    command += [word for design, _ in rows for word in ("-d", design)]
    command += [word for _, scenario in rows for word in ("-s", scenario)]
    with tempfile.TemporaryDirectory() as directory:
        begun = time.perf_counter()
        whole = subprocess.run(command, capture_output=True, text=True)
        length = time.perf_counter() - begun
        killed = rounds = 0
        while killed < wanted:
            rounds += 1
            campaign = [*command, "--campaign", str(Path(directory) / str(rounds))]
            while True:
                process = subprocess.Popen(
                    campaign, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
                )
                try:
                    out, _ = process.communicate(timeout=random.uniform(0.05, length / 3))
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    killed += 1
            assert counts(out) == counts(whole.stdout), "a kill changed a result"
    print(f"{killed} kills in {rounds} campaigns: same verdicts, counts and findings")


def counts(text: str) -> list[dict[str, Any]]:
    rows = json.loads(text)["results"]
    clock = {"seconds", "counterexample"}
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]


if __name__ == "__main__":
    design, scenario = sys.argv[1:3] or ("v7.3", "zap-running")
    workers(design, scenario)
    kills([(design, scenario), SECOND], int(sys.argv[3]) if len(sys.argv) > 3 else 20)
