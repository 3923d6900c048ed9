# SPDX-License-Identifier: GPL-2.0-only
"""Random lines: a session survives all of them, undo is exact, a saved script repeats."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from typing import Any

import pytest

from septum.tdx.console.calls import CALLS
from septum.tdx.console.explain import INDENT, WIDTH, explain
from septum.tdx.console.lexer import ScriptError
from septum.tdx.console.script import Verdict, parse_script, run_script
from septum.tdx.console.session import Session
from septum.tdx.dump import dump

WORDS = {
    "gpa": ["G", "G+4K", "G+2M", "0", "0x3000", "G+0x800", "G+512G"],
    "level": ["4K", "2M", "1G", "0", "1", "512G", "7"],
    "page": ["p0", "p1", "m0", "s0", "s3", "p0+0x800", "0x100000", "td", "tdcx0"],
    "vcpu": ["vcpu0", "vcpu1", "vcpu0", "p0"],
}
LOCKS = [
    *("sept-tree", "td-epoch", "op-state", "kot", "wbcache 0", "pamt p0", "pamt-walk p1 2M"),
    *("sept-entry G 4K", "sept-entry G 4K guest", "pamt td shared", "sept-tree shared"),
]
OTHERS = [
    *("guest touch G", "guest read G+4K", "guest interrupt", "guest ept-violation G"),
    *("td vcpus=2 tables=G", "td b", "td state=INITIALIZED associate", "tables G+2M"),
    *("TDH.VP.ENTER vcpu0", "TDH.VP.ENTER vcpu1 @lp1", "show all", "pamt", "names", "page x"),
    *("TDH.MEM.PAGE.AUG G 4K p0", "TDG.MEM.PAGE.ACCEPT G 4K", "TDH.MEM.RANGE.BLOCK G 4K"),
    *("TDH.MEM.TRACK", "TDH.MEM.PAGE.REMOVE G 4K", "platform levels=5", "tree"),
    *("TDH.MEM.PAGE.AUG G 2M m0", "TDH.MEM.SEPT.REMOVE G 2M", "TDG.MEM.PAGE.ACCEPT G 2M intr=3"),
]


def random_line(rng: random.Random) -> str:
    """A line that often parses."""
    pick = rng.random()
    if pick < 0.5:
        return rng.choice(OTHERS)
    if pick < 0.6:
        return f"{rng.choice(['hold', 'drop'])} {rng.choice(LOCKS)}"
    form = rng.choice(list(CALLS.values()))
    words = [form.name]
    words += [rng.choice(WORDS.get(o.kind, ["0", "18"])) for o in form.positional]
    extras = [
        "@lp0",
        "@lp1",
        "x3",
        "intr=1",
        "version=1",
        "rcx=G",
        "r8=p0",
        "-> SUCCESS",
        "no_entropy",
    ]
    return " ".join([*words, *rng.sample(extras, rng.choice([0, 0, 0, 1, 2]))])


def garbled(rng: random.Random, line: str) -> str:
    """One character changed, dropped or doubled."""
    at = rng.randrange(len(line))
    new = rng.choice(["", line[at] * 2, rng.choice(string.printable), "\u00e9", "\x00"])
    return line[:at] + new + line[at + 1 :]


def steps(rng: random.Random, count: int) -> Iterator[tuple[Session, Any]]:
    """A session, and its state after each line that did something."""
    session = Session()
    for n in range(count):
        line = "td vcpus=2 tables=G" if n == 0 else random_line(rng)
        if rng.random() < 0.1:
            line = garbled(rng, line)
        before = len(session.done)
        try:
            outcome = session.run(line)
        except ScriptError as error:
            assert error.message and len(session.done) == before
            continue
        if outcome is not None:
            told = explain(session, outcome, registers=rng.random() < 0.3)
            assert all(len(text) <= WIDTH - INDENT for text in told), told
        if len(session.done) > before:
            yield session, state(session)


def state(session: Session) -> Any:
    return dump(session.module), session.names, session.platform, session.holds


@pytest.mark.parametrize("seed", range(8))
def test_undo_is_exact_and_a_saved_script_repeats(seed: int) -> None:
    rng = random.Random(seed)
    states = list(steps(rng, 120))
    assert len(states) > 30
    session = states[-1][0]
    text = session.script()
    end = state(session)
    again = Session()
    script = parse_script(text.encode(), again)
    assert script.errors == ()
    verdict = Verdict()
    lines = list(run_script(again, script, verdict))
    assert verdict.unmet == (), [line for line in lines if "NOT AS" in line]
    assert state(again) == end
    for _, expected in reversed(states):
        assert state(session) == expected
        assert session.undo() is not None
    assert session.undo() is None
    assert state(session) == state(Session())


def test_noise() -> None:
    rng = random.Random(1)
    session = Session()
    wrong = 0
    for _ in range(3000):
        line = "".join(rng.choice(string.printable) for _ in range(rng.randrange(30)))
        try:
            session.run(line.replace("\n", " "))
        except ScriptError:
            wrong += 1
    assert wrong > 2000
