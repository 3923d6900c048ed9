# SPDX-License-Identifier: GPL-2.0-only
"""How fast is compiled code explored, next to the Python design?  Processor time of one core.

Per scenario: executions and steps a second of a DPOR search with the scheduler in C, with the
scheduler in Python (the same image), and of the Python design; the same executions again by C
alone, without logs and analysis; and states and transitions a second of the search over states.

Usage: native_speed.py TREE [SECONDS] [SCENARIO...]
"""

from __future__ import annotations

import ctypes
import multiprocessing
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from time import process_time

from septum.explore import MachineProgram, Options, SearchResult, search
from septum.machine import Execution
from septum.native.build import build
from septum.native.errors import SharingGrew
from septum.native.process import Wanted
from septum.native.program import NativeProgram
from septum.scenarios.build import build as build_design
from septum.scenarios.suite import find

SCENARIOS = ("fault-punch", "install-accept", "zap-running", "refault-punch")
DESIGN = "v7.3"


def timed(
    program: MachineProgram, options: Options, kept: list[Execution] | None = None
) -> tuple[SearchResult, float]:
    """A search that finds no new shared word, and its processor seconds."""
    while True:
        if kept is not None:
            kept.clear()
        begun = process_time()
        try:
            result = search(
                program, options, on_execution=kept.append if kept is not None else None
            )
        except SharingGrew:
            continue
        return result, process_time() - begun


def line(what: str, runs: int, steps: int, seconds: float, unit: str = "executions") -> None:
    rate = f"{runs / seconds:>9,.0f} {unit}/s {steps / seconds:>11,.0f} steps/s"
    print(f"  {what:34} {rate}   ({runs} in {seconds:.2f}s)", flush=True)


def again(program: NativeProgram, executions: Sequence[Execution], seconds: float) -> None:
    """The executions of a search, by C alone."""
    engine = program.engine
    assert engine is not None
    request = engine.request()
    request.sleeps = request.covereds = 0
    request.steps = 20_000
    vectors = [
        array("I", [e.task | e.choice << 8 for e in x.events])
        for x in executions
        if x.status == "complete"
    ]
    runs = steps = 0
    begun = process_time()
    while process_time() - begun < seconds / 4:
        for vector in vectors:
            request.decisions, request.decision = len(vector), vector.buffer_info()[0]
            engine.execute(ctypes.addressof(request))
            runs += 1
            steps += len(vector)
    line("C alone, no log, no analysis", runs, steps, process_time() - begun)


def measure(tree: Path, name: str, seconds: float) -> None:
    scenario = find(name)
    limited = Options(budget_s=seconds)
    built = Wanted(build(tree).code, scenario).build()
    program = built.program
    program.use_engine(built.plans)
    program.warm_up()
    kept: list[Execution] = []
    result, spent = timed(program, limited, kept)
    line("DPOR, scheduler in C", result.executions, result.steps, spent)
    again(program, kept[:2000], seconds)
    kept.clear()
    result, spent = timed(program, Options("stateful", budget_s=seconds))
    whole = "all states" if result.complete else "time's up"
    line(f"over states ({whole})", result.states, result.transitions, spent, "states")
    program.give_up_engine()
    result, spent = timed(program, limited)
    line("DPOR, scheduler in Python", result.executions, result.steps, spent)
    result, spent = timed(build_design(DESIGN, scenario).program, limited)
    line(f"DPOR, Python design {DESIGN}", result.executions, result.steps, spent)


def main(arguments: Sequence[str]) -> int:
    tree = Path(arguments[0])
    seconds = float(arguments[1]) if len(arguments) > 1 else 10.0
    context = multiprocessing.get_context("fork")
    for name in arguments[2:] or SCENARIOS:
        print(name, flush=True)
        process = context.Process(target=measure, args=(tree, name, seconds))
        process.start()
        process.join()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
