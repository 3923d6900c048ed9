# SPDX-License-Identifier: GPL-2.0-only
"""Which findings are the same one, and that each gets its own minimal schedule."""

from __future__ import annotations

import pytest

from septum.explore import MachineProgram, Options, search
from septum.explore.distinct import kind_of
from septum.explore.minimise import minimise
from septum.machine import Finding, Limits, Machine, Word


def two_places() -> MachineProgram:
    """Two functions see a lost update, on four words of two kinds."""
    m = Machine()
    words = [Word(m, name, 0) for name in ("page0", "page1", "flag0", "flag1")]

    def stale(word: Word) -> None:
        if word.read() != 0:
            m.report("LOST", f"{word.name} was {word.v}", word.name)

    def torn(word: Word) -> None:
        if word.read() == 1:
            m.report("LOST", f"{word.name} is torn", word.name)

    def reader() -> None:
        for word in words:
            stale(word)
        torn(words[0])

    def writer() -> None:
        for word in words:
            word.write(1)
            word.write(2)

    return MachineProgram(m, [("reader", reader), ("writer", writer)])


@pytest.mark.parametrize("strategy", ["optimal", "states", "bounded", "random"])
def test_by_function_and_kind_of_object(strategy: str) -> None:
    program = two_places()
    result = search(program, Options(strategy))
    assert set(result.found) == {"LOST"}
    assert sorted(result.each) == [
        "LOST|stale|read|flag#",
        "LOST|stale|read|page#",
        "LOST|torn|read|page#",
    ]
    for kind, found in result.each.items():
        small = minimise(program, program.actors, found, Limits())
        assert small.kind == kind and small.minimal
        shown = program.run(small.decisions)
        assert kind in {kind_of(f, shown.events) for f in shown.findings}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Finding("I1", "gfn 0 level 2", 0, 0), Finding("I1", "gfn 3 level 1", 1, 1), True),
        (Finding("I1", "", 0, 0, "sp13[0]"), Finding("I1", "", 1, 1, "sp0.2[1]"), True),
        (Finding("I1", "", 0, 0, "sp13[0]"), Finding("I1", "", 1, 1, "stat.pages[0]"), False),
        (Finding("I1", "", 0, 0, place="f"), Finding("I1", "", 1, 1, place="g"), False),
        (Finding("I1", "", 0, 0), Finding("I2", "", 1, 1), False),
        (Finding("I4", "pages[0] is 0", 1, -1), Finding("I4", "pages[1] is 7", 0, -1), True),
        (Finding("I4", "too many", 1, -1), Finding("I4", "too few", 1, -1), False),
    ],
)
def test_numbers_do_not_tell_findings_apart(one: Finding, other: Finding, same: bool) -> None:
    m = Machine()
    entries = [Word(m, f"sp{task}[0]", 0) for task in (0, 1)]
    events = m.run([("a", lambda: entries[0].write(1)), ("b", lambda: entries[1].write(1))]).events
    assert (kind_of(one, events) == kind_of(other, events)) == same
