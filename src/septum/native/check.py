# SPDX-License-Identifier: GPL-2.0-only
"""Rows of ``septum kernel check``: one scenario each, in a process of its own.

An image can be loaded once per process, and a crash of it must not take the report along: the
worker keeps the schedule it is about to run in memory that both share.
"""

from __future__ import annotations

import mmap
import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from time import process_time
from typing import Final

from septum.explore import Options, SearchResult, search
from septum.explore.minimise import deciding_race, minimise
from septum.explore.result import Found
from septum.machine import Decision, Limits
from septum.native.image import Image, ImageError
from septum.native.operations import unsupported
from septum.native.program import NativeBuilt, SharingGrew, build_native
from septum.native.symbols import Lines, read_symbols
from septum.scenarios.counterexample import record, run_traced
from septum.scenarios.model import Scenario
from septum.scenarios.result import CheckResult, Replay
from septum.scenarios.rows import primary
from septum.scenarios.start import StartError

__all__ = ["KernelRow", "check_here", "check_kernel", "check_row", "load_built"]

_SHARED: Final = 1 << 16
_RESTARTS: Final = 60
_MINIMISE: Final = 400  # executions


@dataclass(slots=True)
class KernelRow:
    """A row and, if a rule broke, its schedule run once more with source locations.

    :ivar cpu: processor seconds of the search that counts.
    :ivar restarts: how often the search began again because tasks were found to share
        another word.
    """

    result: CheckResult
    replay: Replay | None = None
    cpu: float = 0.0
    restarts: int = 0
    points: int = 0


def load_built(image: Path, tree: str, scenario: Scenario, name: str) -> NativeBuilt:
    """Load the image into this process (once!) and bring up the scenario's start state.

    :raises ImageError, StartError: why not.
    """
    loaded = Image(image, read_symbols(image))
    return build_native(loaded, Lines(image, tree), scenario, name=name)


def explore(built: NativeBuilt, options: Options) -> tuple[SearchResult, int, float]:
    """Search until a search finds no more words that tasks share; the search, how many
    were begun in vain, and its processor seconds."""
    built.program.use_engine(built.plans)
    built.program.warm_up()
    for restart in range(_RESTARTS):
        begun = process_time()
        try:
            return search(built.program, options), restart, process_time() - begun
        except SharingGrew:
            continue
    raise RuntimeError(f"{built.scenario.name}: tasks share ever more words; report this")


def check_here(built: NativeBuilt, options: Options) -> KernelRow:
    """Check in this process."""
    scenario = built.scenario
    if scenario.bound and not options.max_executions and not options.budget_s:
        options = replace(options, max_executions=scenario.bound)
    result, restarts, cpu = explore(built, options)
    row = CheckResult(
        built.design.name,
        scenario.name,
        built.params,
        "",
        complete=result.complete,
        strategy=result.strategy,
        memory_model=built.machine.memory_model,
        executions=result.executions,
        traces=result.traces,
        blocked=result.blocked,
        retries_folded=result.folded,
        bounds_hit=list(result.bounds_hit),
        reached=sorted(result.reached),
        seconds=result.seconds,
        steps=result.steps,
    )
    out = KernelRow(row, None, cpu, restarts)
    found = primary(result)
    row.missing = [w for w in scenario.must_occur if w not in result.reached]
    if found is not None:
        _violated(out, built, result, found, options)
    elif result.complete and row.missing:
        row.verdict = "vacuous"
        row.note = f"never occurred: {'; '.join(row.missing)}"
    elif result.complete:
        row.verdict = "holds"
    else:
        row.verdict = "sampled" if result.strategy in ("random", "pct") else "bounded"
    return out


def _violated(
    out: KernelRow, built: NativeBuilt, result: SearchResult, found: Found, options: Options
) -> None:
    program, row = built.program, out.result
    tasks = len(program.bodies)
    limits = Limits(options.steps)
    try:
        small = minimise(program, tasks, found, limits, tries=_MINIMISE)
    except SharingGrew:
        small = found
    row.finding = small.finding
    row.verdict = "error" if small.finding.rule in ("EXCEPTION", "UNMODELLED") else "violated"
    if row.verdict == "error":
        row.note = small.finding.message
    row.other_findings = sorted(r for r in result.found if r != small.finding.rule)
    row.counterexample = record(built, small)  # type: ignore[arg-type]
    execution, told = run_traced(built, list(small.decisions))  # type: ignore[arg-type]
    pair = deciding_race(program, tasks, small, limits)
    out.replay = Replay(execution.events, program.task_names, execution.findings, pair, told, {})


# --- workers -------------------------------------------------------------------------------


def check_row(image: Path, tree: str, name: str, scenario: Scenario, options: Options) -> KernelRow:
    """Check in a process of its own, so that a crash of the image is a row, too."""
    lacking = unsupported(scenario)
    if lacking:
        return KernelRow(CheckResult(name, scenario.name, {}, "n/a", note=lacking))
    board = mmap.mmap(-1, _SHARED)
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_worker, args=(theirs, board, image, tree, name, scenario, options)
    )
    process.start()
    theirs.close()
    try:
        row: KernelRow = mine.recv()
    except EOFError:
        process.join()
        row = _crashed(name, scenario, process.exitcode or 0, board)
    finally:
        mine.close()
        if process.is_alive():
            process.join(5)
        if process.is_alive():
            process.kill()
        board.close()
    return row


def _worker(
    pipe: Connection,
    board: mmap.mmap,
    image: Path,
    tree: str,
    name: str,
    scenario: Scenario,
    options: Options,
) -> None:
    def before(prefix: Sequence[Decision]) -> None:
        data = pickle.dumps(list(prefix))
        if len(data) < _SHARED - 8:
            board[:8] = len(data).to_bytes(8, "little")
            board[8 : 8 + len(data)] = data

    try:
        built = load_built(image, tree, scenario, name)
        built.program.before_run = before
        row = check_here(built, options)
    except (StartError, ImageError) as error:
        row = KernelRow(CheckResult(name, scenario.name, {}, "error", note=str(error)))
    pipe.send(row)
    pipe.close()


def _crashed(name: str, scenario: Scenario, code: int, board: mmap.mmap) -> KernelRow:
    size = int.from_bytes(board[:8], "little")
    prefix: list[Decision] = pickle.loads(board[8 : 8 + size]) if size else []
    names = [task.name for task in scenario.tasks]
    steps = " ".join(names[d.task] for d in prefix)
    note = (
        f"the image's process ended with status {code} while it ran this schedule: "
        f"{steps or 'the start state'}"
    )
    return KernelRow(CheckResult(name, scenario.name, {}, "error", note=note))


def check_kernel(
    image: Path, tree: str, name: str, scenarios: Sequence[Scenario], options: Options
) -> Iterator[KernelRow]:
    """Rows one after the other, as they are finished."""
    for scenario in scenarios:
        yield check_row(image, tree, name, scenario, options)
