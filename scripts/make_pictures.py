#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Write docs/pictures: sequence diagrams of executions of the models.

    python scripts/make_pictures.py [--check]

Each picture is an execution that the explorer met in which something named occurred, the
one with the fewest context switches.  ``--check`` writes nothing and exits 1 if one is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path

from septum.explore import Options, search
from septum.explore.result import schedule_key
from septum.machine import Decision, Execution
from septum.report.picture import Focus, sequence_svg
from septum.scenarios.build import build
from septum.scenarios.counterexample import run_traced, script, states_along
from septum.scenarios.result import Replay

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"

WANTED = {
    "freeze": (
        "v7.3",
        "fault-fault",
        "a fault met FROZEN_SPTE",
        Focus(0, 2),
        "A mirror SPTE is frozen while its S-EPT entry is set",
    ),
    "block-track-remove": (
        "v7.3",
        "zap-running",
        "kick interrupted a running vCPU",
        Focus(0, 1),
        "BLOCK, TRACK, REMOVE against a running vCPU",
    ),
    "demote": (
        "v7.3+hugepage",
        "huge-split-fault",
        "",
        Focus(0, 2),
        "A 2M page is split: BLOCK, TRACK, DEMOTE",
    ),
}
MOST = 400  # executions looked at


def execution(design: str, scenario: str, reached: str) -> list[tuple[Decision, str]]:
    """The schedule with the fewest switches in which it occurred."""
    best: list[Execution] = []

    def look(run: Execution) -> None:
        if run.status == "complete" and (not reached or reached in run.reached):
            if not best or schedule_key(run.decisions) < schedule_key(best[0].decisions):
                best[:] = [run]

    program = build(design, scenario).program
    search(program, Options(max_executions=MOST), on_execution=look)
    if not best:
        sys.exit(f"{design} {scenario}: {reached!r} did not occur")
    return [(Decision(e.task, e.choice), e.op) for e in best[0].events]


def picture(name: str) -> str:
    design, scenario, reached, focus, title = WANTED[name]
    schedule = execution(design, scenario, reached)
    states = states_along(build(design, scenario), script(schedule))
    built = build(design, scenario)
    run, told = run_traced(built, [d for d, _ in schedule])
    replay = Replay(run.events, built.program.task_names, run.findings, None, told, states)
    return sequence_svg(replay, focus, title=title)


def main(check: bool) -> int:
    stale = []
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in WANTED:
        path, text = PICTURES / f"{name}.svg", picture(name)
        if not path.exists() or path.read_text() != text:
            stale.append(path.name)
            if not check:
                path.write_text(text)
    if stale:
        print(("stale: " if check else "written: ") + ", ".join(stale))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
