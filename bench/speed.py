# SPDX-License-Identifier: GPL-2.0-only
"""The pure and the compiled build side by side: ``make compiled && python bench/speed.py``.

The same searches in a process of each build: executions and steps per second of CPU time,
on the literature's programs and on KVM rows.  Exit status 1 if the counts differ
(tests/test_compiled.py compares everything that is executed).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

ROOT = Path(__file__).parents[1]
COMPILED = ROOT / "build" / "compiled"
BUILDS = {"pure": ROOT / "src", "compiled": COMPILED}
SMALL = {"levels": 2, "bits": 2, "epilogue": 0}
LITERATURE = (
    ("lastzero", "last_zero", 9),
    ("readers", "readers", 10),
    ("filesystem", "file_system", 18),
    ("indexer", "indexer", 13),
)
ROWS = (
    ("v7.3", "fault-fault"),
    ("v7.3", "fault-punch"),
    ("v7.3", "zap-accept"),
    ("feb06", "build-prefault"),
    ("rfc-v5", "subtree"),
)


def searches() -> dict[str, Callable[[], Any]]:
    """Makers of programs, by name."""
    sys.path.insert(0, str(ROOT / "tests" / "explore"))
    import programs

    from septum.scenarios.build import build

    found: dict[str, Callable[[], Any]] = {}
    for name, maker, n in LITERATURE:
        found[f"{name}({n})"] = lambda maker=maker, n=n: cells_only(getattr(programs, maker)(n))
    for design, scenario in ROWS:
        found[f"{design} {scenario}"] = lambda d=design, s=scenario: build(d, s, SMALL).program
    return found


def cells_only(program: Any) -> Any:
    """The literature's programs have words and locks only."""
    program.remembers = True
    return program


def measure(name: str) -> dict[str, Any]:
    """One search in this process."""
    from septum.explore import search

    program = searches()[name]()
    begun = process_time()
    result = search(program)
    seconds = process_time() - begun
    return {"executions": result.executions, "steps": result.steps, "seconds": seconds}


def run(build: str, name: str) -> dict[str, Any]:
    """One search in a process of ``build``."""
    command = [sys.executable, __file__, "--one", name]
    environment = {**os.environ, "PYTHONPATH": str(BUILDS[build])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{build} {name}: {done.stderr.strip().splitlines()[-1]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main() -> int:
    if not COMPILED.is_dir():
        sys.exit("no compiled build: make compiled")
    print(f"{'program':22}{'executions':>11}{'steps':>9}", end="")
    for build, width in (("pure", 8), ("compiled", 12)):
        print(f"{build + ' s':>{width}}{'exec/s':>8}{'steps/s':>9}", end="")
    print("  ratio")
    different = 0
    for name in searches():
        pure, compiled = run("pure", name), run("compiled", name)
        print(f"{name:22}{pure['executions']:11}{pure['steps']:9}", end="")
        for found, width in ((pure, 8), (compiled, 12)):
            rates = (found["executions"] / found["seconds"], found["steps"] / found["seconds"])
            print(f"{found['seconds']:{width}.2f}{rates[0]:8.0f}{rates[1]:9.0f}", end="")
        print(f"  {pure['seconds'] / compiled['seconds']:.2f}", flush=True)
        keys = ("executions", "steps")
        if [pure[k] for k in keys] != [compiled[k] for k in keys]:
            print(f"{name}: the builds differ", file=sys.stderr)
            different += 1
    return 1 if different else 0


if __name__ == "__main__":
    if "--one" in sys.argv:
        name = sys.argv[sys.argv.index("--one") + 1]
        print(json.dumps(measure(name)))
    else:
        sys.exit(main())
