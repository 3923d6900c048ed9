# SPDX-License-Identifier: GPL-2.0-only
"""What steps are known to do, put aside and taken up again."""

from __future__ import annotations

import pytest
from programs import last_zero, random_program, readers

from septum.explore import MachineProgram
from septum.explore.optimal import Explorer
from septum.explore.outcomes import Outcomes
from septum.machine import Limits
from septum.machine.events import CONTINUE

PROGRAMS = {
    "last_zero(4)": last_zero(4),
    "readers(4)": readers(4),
    **{f"random program {seed}": random_program(seed) for seed in (3, 5, 11)},
}


def explorer_of(program: MachineProgram, runs: int) -> Explorer:
    """A search after some runs."""
    explorer = Explorer(program.actors)
    explorer._remember()
    explorer.run(program, CONTINUE, Limits())
    while runs > 1 and explorer.next():
        explorer.run(program, CONTINUE, Limits())
        runs -= 1
    return explorer


def tables(outcomes: Outcomes) -> list[object]:
    names = ("count", "_numbers", "_next", "_kind", "_parts", "_sums")
    return [getattr(outcomes, name) for name in names]


def orders(outcomes: Outcomes) -> list[list[object]]:
    return [list(table) for table in tables(outcomes)[1:]]  # type: ignore[call-overload]


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("runs", [1, 6])
def test_the_memory_is_the_same_from_its_text_and_from_the_process(name: str, runs: int) -> None:
    known = explorer_of(PROGRAMS[name], runs).outcomes
    assert known is not None
    text = known.dump()
    kept, read = Outcomes(1), Outcomes(1)
    kept.load(text)  # as this process still has it
    read.load(text)
    assert known.count > 3
    assert tables(known) == tables(kept) == tables(read)
    assert orders(known) == orders(kept) == orders(read)


def test_what_was_put_aside_does_not_change_any_more() -> None:
    program = last_zero(4)
    explorer = explorer_of(program, 2)
    assert explorer.outcomes is not None
    then = [*map(repr, tables(explorer.outcomes))]
    text = explorer.outcomes.dump()
    while explorer.next():
        explorer.run(program, CONTINUE, Limits())
    assert [*map(repr, tables(explorer.outcomes))] != then
    loaded = Outcomes(1)
    loaded.load(text)
    assert [*map(repr, tables(loaded))] == then
