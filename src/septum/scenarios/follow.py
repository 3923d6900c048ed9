# SPDX-License-Identifier: GPL-2.0-only
"""The schedule of a counterexample on another design.

Another design has other steps, so the schedule is followed as a script: the recorded
order of tasks, leaving out a task where it cannot run, and each task's choices in order.
"""

from __future__ import annotations

from septum.designs.registry import Design
from septum.machine import Policy
from septum.scenarios.build import build
from septum.scenarios.counterexample import run_traced
from septum.scenarios.result import Counterexample, Replay

__all__ = ["follow", "script_of"]


def script_of(ce: Counterexample) -> Policy:
    """A counterexample's schedule as a script.  Choices are no decisions of who runs."""
    tasks: list[int] = []
    choices: dict[int, list[int]] = {}
    for decision, (_, _, op, _) in zip(ce.decisions, ce.labels, strict=True):
        if op == "choose":
            choices.setdefault(decision.task, []).append(decision.choice)
        else:
            tasks.append(decision.task)
    count = max(tasks, default=0) + 1
    return Policy(
        "script",
        script=tuple(tasks),
        choices=tuple(tuple(choices.get(task, ())) for task in range(count)),
    )


def follow(ce: Counterexample, design: str | Design) -> Replay:
    """Run the schedule of ``ce`` on ``design``."""
    built = build(design, ce.scenario, ce.params, memory_model=ce.memory_model)
    scripted = built.program.run((), None, script_of(ce))
    execution, told = run_traced(built, scripted.decisions)
    program = built.program
    buffers = program.actors - len(program.bodies)
    return Replay(
        execution.events, program.task_names, execution.findings, None, told, buffers=buffers
    )
