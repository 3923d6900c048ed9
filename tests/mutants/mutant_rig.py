# SPDX-License-Identifier: GPL-2.0-only
"""Runs mutants: each once, with what its row of docs/mutants.md needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

from septum.designs.mutant_table import MUTANTS, Mutant
from septum.explore import Options, SearchResult, search
from septum.machine import Execution
from septum.scenarios.build import build
from septum.scenarios.check import primary
from septum.scenarios.model import Scenario
from septum.scenarios.suite import SCENARIOS

__all__ = ["BY_NAME", "Outcome", "explore", "is_default", "outcome", "scenario_of"]

STEPS: Final = 2000  # some mutants never end
SEARCHED: Final = {"SC": 2000, "TSO": 8000}  # executions; far more than any row needs

BY_NAME: Final = {m.name: m for m in MUTANTS}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a mutant's row says.

    :ivar rule: the rule reported, empty if nothing was found.
    :ivar rules: every rule found.
    :ivar executions: how many it took until ``rule`` was found, or in all.
    :ivar complete: nothing was found although everything was explored.
    """

    rule: str
    rules: frozenset[str]
    executions: int
    complete: bool


def scenario_of(mutant: Mutant) -> Scenario:
    return SCENARIOS[mutant.scenario]


def is_default(mutant: Mutant) -> bool:
    """Whether the scenario that shows it is an ordinary one of the default suite."""
    found = SCENARIOS.get(mutant.scenario)
    return found is not None and found.default


def explore(
    design: str, scenario: Scenario, options: Options, monitors_off: tuple[str, ...] = ()
) -> tuple[SearchResult, dict[str, int]]:
    """The result, and for each rule the number of the execution that found it first."""
    built = build(design, scenario, monitors_off=monitors_off, memory_model=options.memory_model)
    at: dict[str, int] = {}
    executions = 0

    def each(execution: Execution) -> None:
        nonlocal executions
        executions += 1
        for finding in execution.findings:
            at.setdefault(finding.rule, executions)

    return search(built.program, options, on_execution=each), at


@cache
def outcome(name: str) -> Outcome:
    """Run a mutant as its row says."""
    mutant = BY_NAME[name]
    options = Options(
        first=not mutant.executions,
        max_executions=mutant.executions or SEARCHED[mutant.memory_model],
        steps=STEPS,
        memory_model=mutant.memory_model,
    )
    result, at = explore(mutant.design, scenario_of(mutant), options)
    best = primary(result)
    rule = best.finding.rule if best is not None else ""
    return Outcome(rule, frozenset(result.found), at.get(rule, result.executions), result.complete)
