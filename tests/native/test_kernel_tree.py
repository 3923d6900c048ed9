# SPDX-License-Identifier: GPL-2.0-only
"""On a real tree, where there is one: ``SEPTUM_LINUX=TREE``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from septum.explore import Options
from septum.kvm.monitors import MONITORS
from septum.machine import Policy
from septum.native.build import build
from septum.native.process import ImageProcess, Wanted
from septum.native.program import NativeBuilt, SharingGrew
from septum.native.services import HAPPENED, Answer
from septum.native.subject import search_whole
from septum.scenarios.counterexample import states_along
from septum.scenarios.suite import find

TREE = os.environ.get("SEPTUM_LINUX", "")
pytestmark = [
    pytest.mark.skipif(not TREE, reason="no kernel tree: set SEPTUM_LINUX to one"),
    pytest.mark.slow,
]


def septum(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: an image's address is taken once it is loaded."""
    code = "from septum.cli import main; main()"
    command = [sys.executable, "-c", code, "kernel", *arguments, "--linux", TREE]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_it_is_built_and_holds() -> None:
    built = septum("build")
    assert built.returncode == 0, built.stderr
    rows = ("fault-neighbours", "fault-punch", "install-accept", "vm-dies")
    words = [word for name in rows for word in ("-s", name)]
    result = septum("check", "--format", "json", *words)
    verdicts = {r["scenario"]: r["verdict"] for r in json.loads(result.stdout)["results"]}
    assert verdicts == dict.fromkeys(rows, "holds"), result.stderr


def test_epilogues_end_after_slots_are_gone() -> None:
    """What is touched last are the GFNs with a memslot, as in the Python models."""
    rows = ("notifier-slot", "delete-shared")
    words = [word for name in rows for word in ("-s", name)]
    result = septum("check", "--format", "json", "--strategy", "stateful", *words)
    verdicts = {r["scenario"]: r["verdict"] for r in json.loads(result.stdout)["results"]}
    assert verdicts == dict.fromkeys(rows, "holds"), result.stderr


def test_a_td_with_huge_shared_pages_starts() -> None:
    """Memslots on a guest_memfd keep their size: only userspace's are made whole 2M pages."""
    result = septum("check", "--format", "json", "--budget", "1s", "-s", "td-shared-huge")
    (row,) = json.loads(result.stdout)["results"]
    assert row["verdict"] in ("bounded", "holds"), result.stdout
    assert row["executions"] > 0


def test_it_does_what_the_python_design_does() -> None:
    result = septum("diff", "-s", "fault-punch", "-s", "install-accept")
    assert result.returncode == 0, result.stdout
    assert "2 scenarios compared; 0 differ, 0 not complete" in result.stdout


def _both(built: NativeBuilt) -> dict[str, Any]:
    """In the image process: what each strategy finds, reaches, and settles in."""
    program = built.program
    engine = program.engine
    assert engine is not None
    program.warm_up()
    out: dict[str, Any] = {}
    settled: dict[str, Any] = {}
    search_whole(built, Options())  # what Python runs itself, it settles itself: learn all answers
    for strategy in ("stateful", "optimal"):
        engine.settled.clear()
        result = search_whole(built, Options(strategy))
        out[strategy] = (result.complete, set(result.found), result.reached)
        settled[strategy] = set(engine.settled)
    return {**out, "settled": settled}


def _seen(built: NativeBuilt) -> tuple[set[str], list[str]]:
    """In the image process: who judges, and what one execution tells of lines and deaths while
    tasks race."""
    told: list[str] = []
    wanted = {"spte", "trace", "vm_dead"}
    machine = built.machine

    def listen(what: str, _: tuple[Any, ...]) -> None:
        if what in wanted and machine.exploring:
            told.append(what)

    machine.listeners.append(listen)
    built.program.warm_up()
    built.program.give_up_engine()
    told.clear()
    built.program.run(())
    return {monitor.id for monitor in built.monitors.active}, told


def _line_follows() -> bool:
    """Up to 6.19 a new SPTE's line follows its publication (facts 6.2); four hooks tell them."""
    hooks = Path(TREE, "arch/x86/include/asm/kvm-x86-ops.h")
    return bool(TREE) and "link_external_spt" in hooks.read_text()


NEW_SPTE = ["spte", "spte", "trace"] if _line_follows() else ["spte", "trace", "spte"]


@pytest.mark.parametrize(
    ("scenario", "told"),
    [
        # freeze, line, table: twice; the leaf alike; zapped under the write lock, its line
        ("fault-punch", [*NEW_SPTE * 2, "spte", "trace"]),
        # 512 entries are filled before anything leads to them: no change
        ("direct-fault-split", ["spte", "trace"]),
        ("vm-dies", ["vm_dead"]),
    ],
)
def test_monitors_are_told_of_lines_and_deaths(scenario: str, told: list[str]) -> None:
    process = ImageProcess(Wanted(build(Path(TREE)).code, find(scenario)))
    try:
        judges, seen = process.ask(_seen)
    finally:
        process.close()
    assert judges == set(MONITORS)
    assert seen == told


def _lines_are_lost(built: NativeBuilt) -> list[tuple[str, str]]:
    """In the image process: findings of an execution whose epilogue's lines nobody gets."""
    services, machine = built.driver.services, built.machine
    serve = services.serve

    def deaf(number: int, what: int, *registers: int) -> Answer:
        epilogue = not machine.exploring and what == HAPPENED
        return Answer() if epilogue else serve(number, what, *registers)

    built.program.warm_up()
    built.program.give_up_engine()
    assert not built.program.run(()).findings
    built.settled.clear()
    services.serve = deaf  # type: ignore[method-assign]
    return [(f.rule, f.message) for f in built.program.run(()).findings]


@pytest.mark.parametrize("scenario", ["fault-punch", "direct-fault-split", "age-fault"])
def test_lines_of_the_epilogue_are_judged(scenario: str) -> None:
    process = ImageProcess(Wanted(build(Path(TREE)).code, find(scenario)))
    try:
        findings = process.ask(_lines_are_lost)
    finally:
        process.close()
    assert {rule for rule, _ in findings} == {"I20"}
    assert all("no line for" in m and "[epilogue step" in m for _, m in findings)


def _reads_that_change(built: NativeBuilt) -> list[str]:
    """In the image process: entries of page tables that a step changed which only read them."""
    built.program.warm_up()
    built.program.give_up_engine()
    changed: list[str] = []
    for seed in range(20):
        with suppress(SharingGrew):
            events = built.program.run((), policy=Policy("random", seed=seed)).events
            changed += [e.obj for e in events if e.op == "read" and e.seen != e.left]
    return [name for name in changed if name.startswith("sp") and "[" in name]


@pytest.mark.parametrize("scenario", ["age-zap", "age-collapse", "log-clear-write"])
def test_an_atomic_and_is_one_step(scenario: str) -> None:
    """Ageing before 7.2, and clearing a dirty log: monitors are told of what they change."""
    process = ImageProcess(Wanted(build(Path(TREE)).code, find(scenario)))
    try:
        changed = process.ask(_reads_that_change)
    finally:
        process.close()
    assert not changed


def _look_along(built: NativeBuilt) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """In the image process: the scheduling points before and after the trees were looked at after
    every step of an execution."""
    built.program.warm_up()
    built.program.give_up_engine()
    search_whole(built, Options(max_executions=20))  # learns what this schedule shares
    tasks = tuple(decision.task for decision in built.program.run(()).decisions)
    before = built.program.words()
    assert states_along(built, Policy("script", script=tasks))
    return before, built.program.words()


@pytest.mark.parametrize("scenario", ["fault-punch", "build-prefault"])
def test_looking_at_the_trees_makes_no_scheduling_point(scenario: str) -> None:
    process = ImageProcess(Wanted(build(Path(TREE)).code, find(scenario)))
    try:
        before, after = process.ask(_look_along)
    finally:
        process.close()
    assert before == after


@pytest.mark.parametrize("scenario", ["td-shared-zap-both", "run-unmap-yield"])
def test_stateful_gives_no_row_up(scenario: str) -> None:
    """Not for S-EPT pages of which more was seen, nor for steps of many choices."""
    result = septum(
        "check", "--format", "json", "--strategy", "stateful", "--budget", "5s", "-s", scenario
    )
    (row,) = json.loads(result.stdout)["results"]
    assert row["states"] > 5_000
    assert set(row["bounds_hit"]) <= {"time budget"}


@pytest.mark.parametrize(
    "scenario", ["fault-punch", "install-accept", "install-zero-step", "vm-dies", "build-prefault"]
)
def test_states_and_traces_agree(scenario: str) -> None:
    code = build(Path(TREE)).code
    process = ImageProcess(Wanted(code, find(scenario)))
    try:
        answer = process.ask(_both)
    finally:
        process.close()
    assert answer["stateful"] == answer["optimal"]
    assert answer["optimal"][0]
    if not answer["optimal"][1]:  # what broke a rule, Python settles itself
        settled = answer["settled"]
        assert settled["stateful"] == settled["optimal"]
