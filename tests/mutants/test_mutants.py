# SPDX-License-Identifier: GPL-2.0-only
"""Every mutant is caught, by the rule that docs/mutants.md says, or survives for a reason;
every monitor catches a mutant alone or first; the base itself is clean."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutant_doc import document
from mutant_rig import BY_NAME, STEPS, explore, is_default, outcome, scenario_of

from septum.designs import lookup, toggle_names
from septum.designs.mutant_table import MUTANTS, Mutant
from septum.explore import Options
from septum.kvm.monitors import MONITORS
from septum.scenarios.check import primary

DOC = Path(__file__).parents[2] / "docs" / "mutants.md"

CAUGHT = [m for m in MUTANTS if not m.survives]
SURVIVORS = [m for m in MUTANTS if m.survives]
SCENARIO_NAMES = sorted({m.scenario for m in MUTANTS})
ENOUGH = Options(max_executions=200, steps=STEPS)


def named(mutant: Mutant) -> str:
    return mutant.name


def test_the_table_has_every_mutant_once() -> None:
    own = [m.name for m in MUTANTS if m.hunks or m.replace]
    assert sorted(own) == toggle_names("mutant")
    assert len(BY_NAME) == len(MUTANTS)
    assert [m.name for m in MUTANTS if bool(m.rule) == bool(m.survives)] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=named)
def test_mutant_changes_what_it_says(mutant: Mutant) -> None:
    design = lookup(mutant.design)
    assert design.own
    assert all(lookup(mutant.base).functions[name] is not f for name, f in design.own.items())


@pytest.mark.parametrize("mutant", CAUGHT, ids=named)
def test_mutant_is_caught(mutant: Mutant) -> None:
    assert outcome(mutant.name).rule == mutant.rule


@pytest.mark.parametrize("mutant", SURVIVORS, ids=named)
def test_nothing_sees_the_mutant(mutant: Mutant) -> None:
    """If something does by now, its row moves to those that are caught."""
    result = outcome(mutant.name)
    assert (result.rules, result.complete) == (frozenset(), True)


@pytest.mark.parametrize("scenario", SCENARIO_NAMES)
def test_the_base_is_clean(scenario: str) -> None:
    mutant = next(m for m in MUTANTS if m.scenario == scenario)
    counts = [outcome(m.name).executions for m in CAUGHT if m.scenario == scenario]
    options = Options(max_executions=max([200, *counts]))
    result, _ = explore(mutant.base, scenario_of(mutant), options)
    assert result.found == {}


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.alone], ids=named)
def test_one_monitor_alone_catches_it(mutant: Mutant) -> None:
    result, _ = explore(mutant.design, scenario_of(mutant), Options(), monitors_off=(mutant.rule,))
    assert (result.found, result.complete) == ({}, True)


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.memory_model != "SC"], ids=named)
def test_a_missing_barrier_is_not_seen_without_store_buffers(mutant: Mutant) -> None:
    enough = Options(max_executions=1000, steps=STEPS)
    result, _ = explore(mutant.design, scenario_of(mutant), enough)
    assert result.found == {}


@pytest.mark.parametrize("monitor", [id_ for id_ in MONITORS if id_ != "I23"])
def test_each_monitor_catches_one_alone_or_first(monitor: str) -> None:
    """Alone is shown above; first: the row reports it, also when searched on."""
    mutants = [m for m in MUTANTS if m.rule == monitor]
    assert mutants
    if any(m.alone for m in mutants):
        return
    mutant = mutants[0]
    assert is_default(mutant)
    result, _ = explore(mutant.design, scenario_of(mutant), ENOUGH)
    best = primary(result)
    assert best is not None
    assert best.finding.rule == monitor


def test_a_fault_that_never_ends_is_stuck_and_i23() -> None:
    """The machine reports STUCK just before I23 judges the same event."""
    result = outcome("failure-not-restored")
    assert result.rules == {"STUCK", "I23"}


def test_the_document_is_current() -> None:
    assert DOC.read_text() == document(), (
        "run: python tests/mutants/mutant_doc.py > docs/mutants.md"
    )
