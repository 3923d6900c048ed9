# SPDX-License-Identifier: GPL-2.0-only
"""x86-TSO: litmus tests against what the model is known to allow, by brute force and by
the default strategy; and random programs, on which the two must agree."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from litmus import LITMUS, Litmus, Op, allows, outcomes, program
from programs import random_program

from septum.explore import MachineProgram, Options, search
from septum.explore.search import DEFAULTS
from septum.machine import RCU, Machine, MachineError, Page, SpinLock, Word


@pytest.mark.parametrize("model", ["SC", "TSO"])
@pytest.mark.parametrize("litmus", LITMUS, ids=lambda t: t.name)
def test_the_outcome_is_allowed_exactly_where_it_should_be(litmus: Litmus, model: str) -> None:
    expected = litmus.sc if model == "SC" else litmus.tso
    brute = outcomes(litmus.threads, model, "states")
    assert allows(brute, litmus.exists) == expected
    assert outcomes(litmus.threads, model, DEFAULTS.strategy) == brute


@pytest.mark.parametrize("litmus", LITMUS, ids=lambda t: t.name)
def test_tso_allows_all_that_sc_does(litmus: Litmus) -> None:
    sc, tso = (outcomes(litmus.threads, model, DEFAULTS.strategy) for model in ("SC", "TSO"))
    assert sc <= tso
    assert (sc != tso) >= (litmus.sc != litmus.tso)


_OPS = st.one_of(
    st.tuples(st.just("W"), st.sampled_from("xy"), st.integers(1, 2)),
    st.tuples(st.just("R"), st.sampled_from("xy")),
    st.tuples(st.just("X"), st.sampled_from("xy"), st.integers(3, 4)),
    st.just(("F",)),
)
_TWO = st.tuples(*[st.lists(_OPS, min_size=1, max_size=4).map(tuple)] * 2)
_THREE = st.tuples(*[st.lists(_OPS, min_size=1, max_size=2).map(tuple)] * 3)


@settings(max_examples=60, deadline=None)
@given(st.one_of(_TWO, _THREE))
def test_random_litmus_tests_have_the_outcomes_of_brute_force(
    threads: tuple[tuple[Op, ...], ...],
) -> None:
    assert outcomes(threads, "TSO", DEFAULTS.strategy) == outcomes(threads, "TSO", "states")


@pytest.mark.parametrize("seed", [1, 8, *range(17, 21), 25, *range(32, 36), 40, 44, 70, 73, 75, 76,
                                  86, 98, 109, 120, 126, 161])  # fmt: skip
def test_random_programs_with_locks_and_awaits_agree_with_brute_force(seed: int) -> None:
    made = random_program(seed)
    made.machine.memory_model = "TSO"
    brute = search(made, Options(strategy="states", max_executions=4000))
    assert brute.complete
    finals = set()

    mark, judge = made.machine.mark(), made.settle
    assert judge is not None

    def settle() -> None:
        finals.add(made.machine.fingerprint(mark))
        judge()

    made.settle = settle
    found = search(made)
    assert finals == brute.finals
    assert set(found.found) == set(brute.found)


def test_an_unknown_memory_model_is_refused() -> None:
    m = Machine()
    m.memory_model = "ARM"
    with pytest.raises(MachineError, match="no memory model 'ARM': SC or TSO"):
        m.run([("t", lambda: None)])


@pytest.mark.parametrize("model", ["SC", "TSO"])
def test_a_lock_keeps_its_section_together(model: str) -> None:
    m = Machine()
    lock, x = SpinLock(m, "L"), Word(m, "x", 0)
    finals = set()

    def body() -> None:
        lock.lock()
        x.write(x.read() + 1)
        lock.unlock()

    m.memory_model = model
    program_ = MachineProgram(m, [("a", body), ("b", body)], lambda: finals.add(x.v))
    assert search(program_).complete
    assert finals == {2}


def test_a_finding_at_a_flush_is_the_storing_tasks() -> None:
    m = Machine()
    m.memory_model = "TSO"
    page = Page(m, "p", 1, 0)
    rcu = RCU(m)

    def store() -> None:
        rcu.read_lock()
        page.word(0).write(1)
        rcu.read_unlock()

    def free() -> None:
        page.free()

    result = search(MachineProgram(m, [("store", store), ("free", free)]))
    [found] = result.found.values()
    assert (found.finding.rule, found.finding.task) == ("I6", 0)
    assert found.decisions[found.finding.step].task == 2  # the buffer of task 0


def test_a_grace_period_waits_for_stores_of_a_section_that_has_ended() -> None:
    m = Machine()
    m.memory_model = "TSO"
    page = Page(m, "p", 1, 0)
    rcu = RCU(m)

    def store() -> None:
        rcu.read_lock()
        if page.live:
            page.word(0).write(1)
        rcu.read_unlock()

    result = search(MachineProgram(m, [("store", store), ("free", lambda: page.call_rcu(_no))]))
    assert result.complete
    assert not result.found


def _no() -> None:
    return None


def test_what_waits_is_in_the_fingerprint_and_gone_at_the_end() -> None:
    made, _ = program(((("W", "x", 1), ("R", "y")),), "TSO")
    m, mark = made.machine, made.machine.mark()
    prints = []

    def hook() -> bool:
        prints.append(m.fingerprint(mark))
        return True

    m.state_hook = hook
    execution = made.run(fingerprint=True)
    m.state_hook = None
    assert any("store buffer of t0" in str(p) for p in prints)
    assert execution.fingerprint == frozenset({("x", 1)})
    assert m.fingerprint(mark) == frozenset()


def test_without_store_buffers_nothing_changes() -> None:
    made, _ = program(LITMUS[1].threads, "SC")
    names = [e.op for e in made.run().events]
    assert names == ["write", "read", "write", "read"]  # a fence is no point


_HERD = {"W": "MOV [{0}],${1}", "F": "MFENCE"}


def _herd_text(litmus: Litmus) -> str:
    """The test in herd7's syntax for x86."""
    columns = []
    for thread in litmus.threads:
        lines, register = [], 0
        for op in thread:
            if op[0] == "R":
                lines.append(f"MOV {('EAX', 'EBX', 'ECX')[register]},[{op[1]}]")
                register += 1
            elif op[0] == "X":
                lines.append(f"MOV {('EAX', 'EBX', 'ECX')[register]},${op[2]}")
                lines.append(f"XCHG [{op[1]}],{('EAX', 'EBX', 'ECX')[register]}")
                register += 1
            else:
                lines.append(_HERD[op[0]].format(*op[1:]))
        columns.append(lines)
    rows = max(map(len, columns))
    text = [" | ".join(f"P{n}" for n in range(len(columns))) + " ;"]
    for row in range(rows):
        text.append(" | ".join(c[row] if row < len(c) else "" for c in columns) + " ;")
    terms = []
    for where, value in litmus.exists.items():
        if isinstance(where, tuple):
            terms.append(f"{where[0]}:{('EAX', 'EBX', 'ECX')[where[1]]}={value}")
        else:
            terms.append(f"{where}={value}")
    name = re.sub(r"\W+", "-", litmus.name)
    exists = " /\\ ".join(terms)
    return "\n".join([f"X86 {name}", "{}", *text, f"exists ({exists})", ""])


@pytest.mark.skipif(shutil.which("herd7") is None, reason="herd7 is not installed")
@pytest.mark.parametrize("litmus", LITMUS, ids=lambda t: t.name)
def test_herd7_says_the_same(litmus: Litmus, tmp_path: Path) -> None:
    path = tmp_path / "test.litmus"
    path.write_text(_herd_text(litmus))
    out = subprocess.run(
        ["herd7", "-model", "x86tso.cat", str(path)], capture_output=True, text=True, check=True
    ).stdout
    assert ("\nNo\n" not in out) == litmus.tso
