# SPDX-License-Identifier: GPL-2.0-only
"""No line of a report is ever wider than 78 columns, and no step is lost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from septum.machine import Decision, Event, Finding
from septum.machine.dependency import ADD, AWAIT, EXCL, READ, SHARED, TRY_SHARED, WRITE
from septum.report.compare import compare_table, same_schedule
from septum.report.counterexample import counterexample_text
from septum.report.interleaving import interleaving
from septum.report.layout import WIDTH, clean, command, fill, shorten
from septum.report.verdicts import (
    difference_lines,
    summary_line,
    verdict_table,
)
from septum.scenarios.model import Inject, Scenario, Start, TaskSpec, op
from septum.scenarios.result import VERDICTS, CheckResult, Counterexample, Replay

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=90)
names = st.text("abcdef_0123456789[].+-/", min_size=1, max_size=60)
rules = st.sampled_from(["I1", "BUG:tdx_sept_remove_private_spte_with_a_long_name", "DEADLOCK"])
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, (1 << 64) - 1),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    names,
)
OPS = {
    "read": READ,
    "write": WRITE,
    "cmpxchg": WRITE,
    "cmpxchg-failed": READ,
    "add": ADD,
    "read_lock": SHARED,
    "write_lock": EXCL,
    "await": AWAIT,
    "TDH.MEM.PAGE.AUG": TRY_SHARED,
}


@st.composite
def events(draw: st.DrawFn, tasks: int) -> Event:
    kind = draw(st.sampled_from([*OPS, "choose"]))
    event = Event(draw(st.integers(0, tasks - 1)), 0, kind, draw(names))
    if kind == "choose":
        event.options = tuple(draw(st.lists(values, min_size=1, max_size=3)))
        event.choice = draw(st.integers(0, len(event.options) - 1))
        return event
    event.acc = [(event.obj, OPS[kind])]
    event.seen, event.left = draw(values), draw(values)
    if kind == "await":
        event.since = {event.obj: 0}
    if kind.startswith("TDH"):
        event.label = kind
    event.stack = tuple(draw(st.lists(names, max_size=2)))
    event.where = (draw(names), "/a/" + draw(names), draw(st.integers(1, 9999)))
    return event


@st.composite
def replays(draw: st.DrawFn) -> Replay:
    tasks = draw(st.integers(1, 9))
    log = draw(st.lists(events(tasks), min_size=2, max_size=25))
    steps = st.integers(0, len(log) - 1)
    found = [
        Finding(
            draw(rules), draw(words), draw(steps), draw(st.integers(-1, tasks - 1)), draw(names)
        )
        for _ in range(draw(st.integers(0, 3)))
    ]
    pair = draw(st.none() | st.tuples(steps, steps))
    told = {draw(steps): ["TDH.MEM.PAGE.AUG -> " + draw(names), draw(names)]}
    mirror = [(draw(names), 1, 0, draw(st.integers(0, 1 << 63)))]
    states: dict[int, Mapping[str, Any]] = {draw(steps): {"mirror": mirror}}
    return Replay(
        log, draw(st.lists(words, min_size=tasks, max_size=tasks)), found, pair, told, states
    )


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    tasks = tuple(
        TaskSpec(draw(words), tuple(op(draw(names), draw(names)) for _ in range(3)))
        for _ in range(draw(st.integers(1, 4)))
    )
    start = Start(mapped=tuple(draw(st.lists(st.integers(0, 1 << 40), max_size=30))))
    return Scenario(
        draw(names), draw(words), draw(words), tasks, start, inject=Inject((draw(names),))
    )


def assert_narrow(text: str) -> None:
    wide = [line for line in text.split("\n") if len(line) > WIDTH]
    assert not wide, wide
    assert all(c.isprintable() or c == "\n" for c in text)


@given(replays(), scenarios(), rules, words, names, st.booleans(), st.sampled_from([-1, 0, 5, 34]))
@settings(max_examples=50, deadline=None)
def test_counterexamples(
    replay: Replay, story: Scenario, rule: str, text: str, path: str, states: bool, budget: int
) -> None:
    decisions = tuple(Decision(e.task, e.choice) for e in replay.events)
    labels = tuple(("t", "f", e.op, e.obj) for e in replay.events)
    finding = Finding(rule, text, len(decisions) - 1, 0)
    ce = Counterexample(
        path, text, {"k": text}, "linux-7.3", "SC", decisions, labels, finding, "0.1.0"
    )
    assert_narrow(
        counterexample_text(
            ce, replay, story=story, path=path, doc=text, budget=budget, states=states, sources=True
        )
    )


@given(replays(), st.sampled_from([-1, 0, 5, 34]))
@settings(max_examples=50, deadline=None)
def test_every_step_is_shown_or_counted(replay: Replay, budget: int) -> None:
    replay.task_names = [f"t{n}" for n in range(len(replay.task_names))]
    for event in replay.events:
        event.obj = "x"
    replay.traces, replay.states = {}, {}
    table = interleaving(replay, budget=budget)[2:]
    shown = [int(m[1]) for line in table if (m := re.match(r"[* ][! ] ?(\d+) ", line))]
    folded = sum(int(n) for n in re.findall(r"\((\d+)\s+steps?\)", "\n".join(table)))
    assert shown == sorted(set(shown))
    assert len(shown) + folded == len(replay.events)
    if budget < 0:
        assert folded == 0
    elif replay.pair is not None:
        assert set(replay.pair) <= set(shown)


@st.composite
def rows(draw: st.DrawFn) -> CheckResult:
    found = draw(st.none() | rules.map(lambda rule: Finding(rule, "it broke", 3, 0)))
    return CheckResult(
        draw(names),
        draw(names),
        {},
        draw(st.sampled_from(VERDICTS)),
        complete=draw(st.booleans()),
        finding=found,
        strategy=draw(st.sampled_from(["optimal", "pct"])),
        executions=draw(st.integers(0, 10**8)),
        retries_folded=draw(st.booleans()),
        hypothetical=draw(st.booleans()),
        seconds=draw(st.floats(0, 10**6)),
        bounds_hit=draw(st.lists(words, max_size=2)),
        missing=draw(st.lists(words, max_size=2)),
        note=draw(words),
        other_findings=draw(st.lists(rules, max_size=3)),
    )


@given(st.lists(rows(), max_size=8), words)
@settings(max_examples=50, deadline=None)
def test_tables(results: list[CheckResult], path: str) -> None:
    files = {(r.design, r.scenario): path for r in results}
    assert_narrow(verdict_table(results, files=files))
    assert_narrow(summary_line(results, 1.0))
    assert_narrow("\n".join(difference_lines([r.note for r in results], path)))
    if results:
        assert_narrow(compare_table(results))


@given(replays(), replays(), words, st.none() | st.integers(0, 30))
@settings(max_examples=25, deadline=None)
def test_schedules_side_by_side(one: Replay, other: Replay, name: str, upto: int | None) -> None:
    assert_narrow(same_schedule((name, one), (name + "x", other), rule="I1", upto=upto))


@given(words, st.integers(8, 90), st.text(" ", max_size=6))
def test_fill_loses_nothing(text: str, width: int, first: str) -> None:
    lines = fill(clean(text), width, first=first)
    assert all(len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(clean(text).split())


@given(st.lists(st.text("abc /$'\"\\x", min_size=1, max_size=150), min_size=1, max_size=4))
def test_a_broken_command_is_still_the_command(args: list[str]) -> None:
    lines = command(args)
    assert all(len(line) <= WIDTH for line in lines)
    joined = "\n".join(lines).replace("\\\n", "")
    assert _split(joined) == [clean(arg) for arg in args]


def _split(text: str) -> list[str]:
    """Words as a shell sees them, backslash being the only quote."""
    found = re.findall(r"(?:[^\s\\]|\\.)+|''", text)
    assert all("'" not in re.sub(r"\\.", "", word) or word == "''" for word in found)
    return ["" if word == "''" else re.sub(r"\\(.)", r"\1", word) for word in found]


@given(words, st.integers(1, 100))
def test_shorten(text: str, width: int) -> None:
    assert len(shorten(text, width)) <= width
    assert len(text) > width or shorten(text, width) == text
