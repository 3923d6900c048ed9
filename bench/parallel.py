# SPDX-License-Identifier: GPL-2.0-only
"""Workers and kills: what two workers gain on one row, and what 20 times kill -9 changes.

    python bench/parallel.py [DESIGN SCENARIO [KILLS]]

Part 1 checks one row (default v7.3 punch-files) with one and with two worker processes:
wall time and speed-up (on an idle machine with two cores), and CPU time of all workers
together, whose ratio is what the splitting costs whatever else the machine does.
Part 2 kills a campaign of that row and a second one (kill -9, each time after at least two
more units were committed, at a random moment) and lets the same command go on; verdicts,
counts and findings must be those of an undisturbed check.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import septum
from septum.scenarios.campaign import FILE
from septum.scenarios.check import check_many
from septum.scenarios.crew import ProcessCrew

SECOND = ("feb06", "install-accept")
CHECK = """
from septum.explore import frontier, units
frontier.UNIT = units.Size(30, 3000)  # small, so that there is much to interrupt
from septum.cli import main
main(prog_name="septum")
"""


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
    """Kill and go on until so many kills have hit; every campaign ends as if undisturbed."""
    words = ["check", "--format", "json", "--jobs", "2"]
    words += [word for design, _ in rows for word in ("-d", design)]
    words += [word for _, scenario in rows for word in ("-s", scenario)]
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        # A copy of its own: a campaign refuses to go on with another text of the program.
        shutil.copytree(Path(septum.__file__).parent, here / "lib" / "septum")
        whole = counts(Run(here, words).end())
        killed = rounds = 0
        repeated = 0.0
        while killed < wanted:
            rounds += 1
            campaign = here / f"campaign{rounds}"
            while True:
                before = committed(campaign)
                run = Run(here, [*words, "--campaign", str(campaign)])
                if killed >= wanted or not run.committed_more(campaign, random.randint(2, 12)):
                    break
                time.sleep(random.uniform(0, 0.3))
                if not run.kill():
                    break
                killed += 1
                repeated = max(repeated, time.time() - last_commit(campaign))
                print(f"  kill {killed}: units {before} -> {committed(campaign)}", flush=True)
            assert counts(run.end()) == whole, "a kill changed a result"
    print(
        f"{killed} kills in {rounds} campaigns: same verdicts, counts and findings; "
        f"at most {repeated:.1f}s since the last commit"
    )


class Run:
    """One ``septum`` process on the copied package."""

    def __init__(self, here: Path, words: list[str]) -> None:
        self.out, self.err = (here / "out").open("w+"), (here / "err").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHECK, *words],
            stdout=self.out,
            stderr=self.err,
            env={**os.environ, "PYTHONPATH": str(here / "lib")},
        )

    def committed_more(self, campaign: Path, units: int) -> bool:
        """Wait until it has committed so many units; whether it is still running then."""
        enough = committed(campaign) + units
        while self.process.poll() is None and committed(campaign) < enough:
            time.sleep(0.02)
        return self.process.poll() is None

    def kill(self) -> bool:
        """kill -9; whether it hit a living process."""
        if self.process.poll() is not None:
            return False
        self.process.kill()
        self.process.wait()
        return True

    def end(self) -> str:
        """What it prints in the end.  Exit status 1 and 3 are verdicts."""
        code = self.process.wait()
        for file in (self.out, self.err):
            file.seek(0)
        if code not in (0, 1, 3):
            raise SystemExit(f"septum ended with {code}: {self.err.read()}")
        return self.out.read()


def committed(campaign: Path) -> int:
    """Units that a campaign has committed."""
    return int(_ask(campaign, "SELECT max(rowid) FROM ticks") or 0)


def last_commit(campaign: Path) -> float:
    return float(_ask(campaign, "SELECT max(at) FROM ticks") or time.time())


def _ask(campaign: Path, question: str) -> float | None:
    try:
        db = sqlite3.connect(f"{(campaign / FILE).as_uri()}?mode=ro", uri=True)
    except sqlite3.Error:
        return None
    try:
        answer: float | None = db.execute(question).fetchone()[0]
        return answer
    except sqlite3.Error:  # not there yet
        return None
    finally:
        db.close()


def counts(text: str) -> list[dict[str, Any]]:
    rows = json.loads(text)["results"]
    clock = {"seconds", "counterexample"}
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]


if __name__ == "__main__":
    design, scenario = sys.argv[1:3] or ("v7.3", "punch-files")
    workers(design, scenario)
    kills([(design, scenario), SECOND], int(sys.argv[3]) if len(sys.argv) > 3 else 20)
