# SPDX-License-Identifier: GPL-2.0-only
"""The schedule of a counterexample on another design.

Another design has other steps, so the schedule is followed as a script: the recorded
order of tasks, leaving out a task where it cannot run, and each task's choices in order.
"""

from __future__ import annotations

from septum.designs.registry import Design
from septum.scenarios.build import build
from septum.scenarios.counterexample import run_traced, script_of
from septum.scenarios.result import Counterexample, Replay

__all__ = ["follow"]


def follow(ce: Counterexample, design: str | Design) -> Replay:
    """Run the schedule of ``ce`` on ``design``."""
    built = build(design, ce.scenario, ce.params, memory_model=ce.memory_model)
    scripted = built.program.run((), (), script_of(ce))
    execution, told = run_traced(built, scripted.decisions)
    program = built.program
    buffers = program.actors - len(program.bodies)
    return Replay(
        execution.events, program.task_names, execution.findings, None, told, buffers=buffers
    )
