# SPDX-License-Identifier: GPL-2.0-only
"""Random programs as data, so that Hypothesis can shrink them, and what they must agree on.

A program is a memory model, a word that the end state is judged by, and per task a list of
operations ``(kind, word, value)``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st
from traces import trace_of

from septum.explore import MachineProgram, Options, search
from septum.machine import RCU, Execution, Machine, Mutex, RWLock, TryLock, Word
from septum.machine.sync import wait_until

__all__ = ["KINDS", "Compared", "Spec", "build", "compare", "specs"]

Op = tuple[str, int, int]
Note = Callable[[object], None]


@dataclass(frozen=True)
class Spec:
    """A random program.  ``bad``: the sum of the words at the end that is a finding."""

    tasks: tuple[tuple[Op, ...], ...]
    model: str = "SC"
    bad: int = 5


class _Parts:
    """What the tasks share."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        self.words = [Word(m, f"w{i}", 0) for i in range(2)]
        self.flag = Word(m, "flag", 0)
        self.lock = RWLock(m, "L")
        self.mutex = Mutex(m, "M")
        self.tried = TryLock(m, "T")
        self.rcu = RCU(m)


def _read_locked(p: _Parts, w: Word, v: int, note: Note) -> None:
    p.lock.read_lock()
    note(w.read())
    p.lock.read_unlock()


def _write_locked(p: _Parts, w: Word, v: int, note: Note) -> None:
    p.lock.write_lock()
    w.write(v)
    p.lock.write_unlock()


def _read_merged(p: _Parts, w: Word, v: int, note: Note) -> None:
    """The read is part of the acquisition."""
    p.lock.read_lock()
    note(w.peek())
    p.lock.read_unlock()


def _write_merged(p: _Parts, w: Word, v: int, note: Note) -> None:
    p.lock.write_lock()
    w.poke(int(w.peek()) + v)
    p.lock.write_unlock()


def _add_locked(p: _Parts, w: Word, v: int, note: Note) -> None:
    p.mutex.lock()
    w.write(w.read() + v)
    p.mutex.unlock()


def _try(p: _Parts, w: Word, v: int, note: Note, *, shared: bool) -> None:
    with p.m.step("try", "T"):
        got = p.tried.try_shared() if shared else p.tried.try_excl()
    note(got)
    if got:
        if v % 2:
            note(w.read())
        with p.m.step("drop", "T"):
            if shared:
                p.tried.drop_shared()
            else:
                p.tried.drop_excl()


def _await(p: _Parts, w: Word, v: int, note: Note) -> None:
    """A retry loop, folded into an await."""
    for _ in range(3):
        if w.read() != 0:
            break
        p.m.blame(w)
        p.m.retry("spin")
    note("woke")


def _choose(p: _Parts, w: Word, v: int, note: Note) -> None:
    note(p.flag.read())  # a choice belongs to the point before it
    w.write(p.m.choose("c", (v, v + 10)))


def _both(p: _Parts, w: Word, v: int, note: Note) -> None:
    """An atomic step over both words, as a SEAMCALL is."""
    with p.m.step("step", "both"):
        w.write(sum(int(x.read()) for x in p.words) + 1)


def _bug(p: _Parts, w: Word, v: int, note: Note) -> None:
    if w.read() == v:
        p.m.fatal("BUG:f", f"{w.name} is {v}")


def _section(p: _Parts, w: Word, v: int, note: Note) -> None:
    p.rcu.read_lock()
    note(w.read())
    p.rcu.read_unlock()


_RUN: dict[str, Callable[[_Parts, Word, int, Note], None]] = {
    "read": lambda p, w, v, note: note(w.read()),
    "write": lambda p, w, v, note: w.write(v),
    "add": lambda p, w, v, note: w.add(v),
    "fetch_add": lambda p, w, v, note: note(w.fetch_add(v)),
    "xchg": lambda p, w, v, note: note(w.xchg(v)),
    "cas": lambda p, w, v, note: note(w.try_cmpxchg(v % 2, v + 1)[0]),
    "set": lambda p, w, v, note: p.flag.write(v),
    "flag": lambda p, w, v, note: note(p.flag.read()),
    "rlock": _read_locked,
    "wlock": _write_locked,
    "rpeek": _read_merged,
    "wpoke": _write_merged,
    "mutex": _add_locked,
    "try": lambda p, w, v, note: _try(p, w, v, note, shared=True),
    "tryx": lambda p, w, v, note: _try(p, w, v, note, shared=False),
    "choose": _choose,
    "await": _await,
    "until": lambda p, w, v, note: wait_until(p.flag, lambda x: x == v, "until"),
    "step": _both,
    "bug": _bug,
    "rcu": _section,
    "fence": lambda p, w, v, note: p.m.smp_mb(),
}
KINDS = tuple(_RUN)


def build(spec: Spec) -> MachineProgram:
    """The program on a fresh machine."""
    m = Machine()
    m.memory_model = spec.model
    parts = _Parts(m)
    out = [Word(m, f"out{i}", ()) for i in range(len(spec.tasks))]

    def body(tid: int, ops: tuple[Op, ...]) -> Callable[[], None]:
        def note(v: object) -> None:
            out[tid].init((*out[tid].v, v))

        def run() -> None:
            for kind, w, v in ops:
                _RUN[kind](parts, parts.words[w], v, note)

        return run

    def settle() -> None:
        if sum(int(x.v) for x in parts.words) == spec.bad:
            m.report("I99", f"the sum is {spec.bad}")

    return MachineProgram(m, [(f"t{n}", body(n, ops)) for n, ops in enumerate(spec.tasks)], settle)


_OPS = st.tuples(st.sampled_from(KINDS), st.integers(0, 1), st.integers(1, 3))


def _tasks(count: int, longest: int) -> st.SearchStrategy[tuple[tuple[Op, ...], ...]]:
    one = st.lists(_OPS, min_size=1, max_size=longest).map(tuple)
    return st.tuples(*[one] * count)


def specs(models: tuple[str, ...] = ("SC", "TSO")) -> st.SearchStrategy[Spec]:
    """Two tasks of up to four operations, or three of up to two."""
    return st.builds(
        Spec,
        st.one_of(_tasks(2, 4), _tasks(3, 2)),
        st.sampled_from(models),
        st.integers(2, 8),
    )


_ENDS = frozenset({"complete", "deadlock", "stuck"})


@dataclass
class Compared:
    """What was compared for one program; ``traces`` 0: too many interleavings to count."""

    executions: int
    states: int
    traces: int
    rules: list[str]
    given_up: bool = False


def compare(spec: Spec, *, states: int = 6000, naive: int = 400) -> Compared:
    """The reduced search against brute force: final states, findings, traces.

    A run that BUG() ends says nothing of the other tasks, so it is no trace of its own
    (docs/explorer.md): traces are those of the runs that end by themselves.

    :raises AssertionError: they differ.
    """
    program = build(spec)
    brute = search(program, Options("states", max_executions=states))
    if not brute.complete:
        return Compared(0, brute.executions, 0, [], given_up=True)
    finals: set[object] = set()
    seen: Counter[object] = Counter()
    run = program.run
    program.run = lambda *a, **k: run(*a, **{**k, "fingerprint": True})  # type: ignore[method-assign]

    def keep(execution: Execution) -> None:
        if execution.status in _ENDS:
            seen[trace_of(execution)] += 1
        if execution.status == "complete":
            finals.add(execution.fingerprint)

    reduced = search(program, on_execution=keep)
    program.run = run  # type: ignore[method-assign]
    assert reduced.complete
    assert finals == brute.finals, "final states differ"
    assert set(reduced.found) == set(brute.found), "findings differ"
    traces: set[object] = set()
    every = search(
        program,
        Options("naive", max_executions=naive),
        on_execution=lambda e: traces.add(trace_of(e)) if e.status in _ENDS else None,
    )
    if spec.model == "SC":
        assert reduced.blocked == 0, "blocked runs"
        assert max(seen.values(), default=1) == 1, "a trace was executed twice"
        if every.complete:
            assert set(seen) == traces, "not the traces"
    return Compared(
        reduced.executions,
        brute.executions,
        len(traces) if every.complete else 0,
        sorted(brute.found),
    )
