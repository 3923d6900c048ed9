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
from traces import past_of, trace_of

from septum.explore import MachineProgram, Options, search
from septum.machine import RCU, SRCU, Execution, Machine, Mutex, RWLock, TryLock, Word
from septum.machine.sync import wait_until

__all__ = ["BUGS", "KINDS", "Compared", "Spec", "build", "compare", "specs"]

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
        self.gate = Word(m, "gate", 0)
        self.sum = Word(m, "sum", 0)
        self.lock = RWLock(m, "L")
        self.mutex = Mutex(m, "M")
        self.tried = TryLock(m, "T")
        self.rcu = RCU(m)
        self.srcu = SRCU(m, "S")


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


def _count_locked(p: _Parts, w: Word, v: int, note: Note) -> None:
    """Readers of the lock that depend on each other."""
    p.lock.read_lock()
    note(w.fetch_add(v))
    p.lock.read_unlock()


def _unlock_merged(p: _Parts, w: Word, v: int, note: Note) -> None:
    """What follows the section is part of its release."""
    p.lock.read_lock()
    p.flag.write(v)
    p.lock.read_unlock()
    w.poke(int(w.peek()) + v)


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


def _until(p: _Parts, w: Word, v: int, note: Note) -> None:
    wait_until(p.flag, lambda x: x == v, "until")


def _until_locked(p: _Parts, w: Word, v: int, note: Note, *, shared: bool) -> None:
    """A wait while others are kept out, for what may be changed inside only."""
    if shared:
        p.lock.read_lock()
        wait_until(p.gate, lambda x: x % 3 != v % 3, "until")
        note(w.fetch_add(v))
        p.lock.read_unlock()
    else:
        p.mutex.lock()
        wait_until(p.gate, lambda x: x % 3 != v % 3, "until")
        p.mutex.unlock()


def _until_twice(p: _Parts, w: Word, v: int, note: Note) -> None:
    wait_until(p.gate, lambda x: x >= v % 2, "first")
    note(w.read())
    wait_until(p.gate, lambda x: x % 2 == v % 2, "second")


def _until_sum(p: _Parts, w: Word, v: int, note: Note) -> None:
    """For a number of additions, which have no order among themselves."""
    wait_until(p.sum, lambda x: x % 4 == v % 3, "sum")


def _gate(p: _Parts, w: Word, v: int, note: Note) -> None:
    """Changes what is waited for inside a larger step, and back again."""
    with p.m.step("gate", "larger"):
        note(w.peek())
        p.gate.poke(v)
        p.gate.poke(int(p.gate.peek()) + 1)


def _gate_merged(p: _Parts, w: Word, v: int, note: Note) -> None:
    """The change is part of a read, as what follows an access is."""
    note(w.read())
    p.gate.poke(int(p.gate.peek()) + v)


def _gate_chosen(p: _Parts, w: Word, v: int, note: Note) -> None:
    """The change comes after a choice."""
    note(w.read())
    p.gate.poke(p.m.choose("g", (v, v + 1)))


def _store_sum(p: _Parts, w: Word, v: int, note: Note) -> None:
    p.sum.xchg(v)


def _choose(p: _Parts, w: Word, v: int, note: Note) -> None:
    note(p.flag.read())  # a choice belongs to the point before it
    w.write(p.m.choose("c", (v, v + 10)))


def _both(p: _Parts, w: Word, v: int, note: Note) -> None:
    """An atomic step over both words, as a SEAMCALL is."""
    with p.m.step("step", "both"):
        w.write(sum(int(x.read()) for x in p.words) + 1)


def _path(p: _Parts, w: Word, v: int, note: Note) -> None:
    """A step that takes one way or another, as a SEAMCALL does: the words that it touches
    depend on what it finds."""
    other = p.words[0] if w is p.words[1] else p.words[1]
    with p.m.step("path", w.name):
        if int(w.read()) == v % 2:
            other.write(v)
        elif p.flag.read() == v:
            note(other.read())


def _path_locked(p: _Parts, w: Word, v: int, note: Note) -> None:
    """The same, as part of an acquisition."""
    p.lock.write_lock()
    if int(w.peek()) == v % 2:
        p.flag.poke(v)
    else:
        note(p.gate.peek())
    p.lock.write_unlock()


def _path_merged(p: _Parts, w: Word, v: int, note: Note) -> None:
    """The same, after a read or a failed attempt."""
    if w.try_cmpxchg(v % 2, v)[0]:
        p.gate.poke(v)
    else:
        note(p.flag.peek())


def _path_chosen(p: _Parts, w: Word, v: int, note: Note) -> None:
    """The same, for a choice decides."""
    note(p.flag.read())
    if p.m.choose("p", (0, 1)):
        w.poke(v)
    else:
        note(p.gate.peek())


def _bug(p: _Parts, w: Word, v: int, note: Note) -> None:
    if w.read() == v:
        p.m.fatal("BUG:f", f"{w.name} is {v}")


def _bug_locked(p: _Parts, w: Word, v: int, note: Note) -> None:
    """The execution ends with a section open, in the step that began it."""
    p.lock.write_lock()
    if int(w.peek()) == v:
        p.m.fatal("BUG:l", f"{w.name} is {v}")
    p.lock.write_unlock()


def _bug_in_mutex(p: _Parts, w: Word, v: int, note: Note) -> None:
    """Others wait for what it leaves locked."""
    p.mutex.lock()
    _bug(p, w, v, note)
    p.mutex.unlock()


def _bug_tried(p: _Parts, w: Word, v: int, note: Note) -> None:
    """Others fail to take what it leaves locked."""
    with p.m.step("try", "T"):
        got = p.tried.try_excl()
    note(got)
    if got:
        _bug(p, w, v, note)
        with p.m.step("drop", "T"):
            p.tried.drop_excl()


def _bug_inside(p: _Parts, w: Word, v: int, note: Note) -> None:
    """In the middle of an atomic step, after a change."""
    with p.m.step("step", "bug"):
        seen = int(w.read())
        p.gate.poke(int(p.gate.peek()) + 1)
        if seen == v:
            p.m.fatal("BUG:i", f"{w.name} is {v}")
        w.write(seen + 1)


def _bug_srcu(p: _Parts, w: Word, v: int, note: Note) -> None:
    """In a section that others wait for."""
    token = p.srcu.read_lock()
    _bug(p, w, v, note)
    p.srcu.read_unlock(token)


def _bug_chosen(p: _Parts, w: Word, v: int, note: Note) -> None:
    """For one option."""
    note(w.read())
    if p.m.choose("b", (0, 1)) == 1 and int(w.peek()) != v:
        p.m.fatal("BUG:c", f"{w.name} is not {v}")


def _raises(p: _Parts, w: Word, v: int, note: Note) -> None:
    """An error of the model ends executions, too."""
    if w.read() == v:
        raise ValueError(f"{w.name} is {v}")


def _section(p: _Parts, w: Word, v: int, note: Note) -> None:
    p.rcu.read_lock()
    note(w.read())
    p.rcu.read_unlock()


def _srcu_section(p: _Parts, w: Word, v: int, note: Note) -> None:
    token = p.srcu.read_lock()
    w.write(v)
    p.srcu.read_unlock(token)


def _srcu_counts(p: _Parts, w: Word, v: int, note: Note) -> None:
    token = p.srcu.read_lock()
    note(w.fetch_add(v))
    p.srcu.read_unlock(token)


def _synchronize(p: _Parts, w: Word, v: int, note: Note) -> None:
    """What comes after the wait may meet sections that began during it."""
    p.srcu.synchronize()
    note(w.read())


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
    "radd": _count_locked,
    "rend": _unlock_merged,
    "mutex": _add_locked,
    "try": lambda p, w, v, note: _try(p, w, v, note, shared=True),
    "tryx": lambda p, w, v, note: _try(p, w, v, note, shared=False),
    "choose": _choose,
    "await": _await,
    "until": _until,
    "runtil": lambda p, w, v, note: _until_locked(p, w, v, note, shared=True),
    "muntil": lambda p, w, v, note: _until_locked(p, w, v, note, shared=False),
    "until2": _until_twice,
    "usum": _until_sum,
    "sum": lambda p, w, v, note: p.sum.add(v),
    "xsum": _store_sum,
    "gate": _gate,
    "gmerged": _gate_merged,
    "gchosen": _gate_chosen,
    "gcount": lambda p, w, v, note: note(p.gate.fetch_add(v)),
    "step": _both,
    "path": _path,
    "lpath": _path_locked,
    "mpath": _path_merged,
    "cpath": _path_chosen,
    "bug": _bug,
    "lbug": _bug_locked,
    "mbug": _bug_in_mutex,
    "tbug": _bug_tried,
    "ibug": _bug_inside,
    "sbug": _bug_srcu,
    "cbug": _bug_chosen,
    "raise": _raises,
    "rcu": _section,
    "srcu": _srcu_section,
    "scount": _srcu_counts,
    "sync": _synchronize,
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


BUGS = ("bug", "lbug", "radd", "rend", "write", "cas", "wpoke", "await", "gate", "runtil")
# Few operations in a program meet each other more often than many.
_PALETTES = (
    KINDS,
    ("rlock", "wlock", "rpeek", "wpoke", "radd", "rend", "lbug"),
    ("runtil", "muntil", "until2", "gate", "gmerged", "gchosen", "gcount", "wlock", "mutex"),
    ("usum", "sum", "xsum", "radd", "wlock"),
    ("until", "set", "flag", "rend", "runtil", "gate", "wpoke", "wlock"),
    ("srcu", "scount", "sync", "write"),
    ("path", "lpath", "mpath", "cpath", "read", "write", "set", "flag", "cas", "gate"),
    ("choose", "gchosen", "cpath", "path", "read", "write", "set", "gate"),
    BUGS,
    ("bug", "lbug", "mbug", "tbug", "ibug", "raise", "write", "add", "mutex", "tryx", "gate"),
    ("sbug", "scount", "sync", "write", "cbug", "ibug", "until2"),
)


def _tasks(palette: tuple[str, ...]) -> st.SearchStrategy[tuple[tuple[Op, ...], ...]]:
    op = st.tuples(st.sampled_from(palette), st.integers(0, 1), st.integers(1, 3))

    def some(count: int, longest: int) -> st.SearchStrategy[tuple[tuple[Op, ...], ...]]:
        return st.tuples(*[st.lists(op, min_size=1, max_size=longest).map(tuple)] * count)

    return st.one_of(some(2, 4), some(3, 2), some(4, 1))


def specs(models: tuple[str, ...] = ("SC", "TSO")) -> st.SearchStrategy[Spec]:
    """Two tasks of up to four operations, three of up to two, or four of one."""
    return st.builds(
        Spec,
        st.one_of([_tasks(palette) for palette in _PALETTES]),
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
    (docs/explorer.md): traces are those of the runs that end by themselves.  Of the others,
    what led to BUG() is compared.

    :raises AssertionError: they differ.
    """
    program = build(spec)
    told: set[object] = set()
    brute = search(
        program,
        Options("states", max_executions=states),
        on_execution=lambda e: told.update((f.rule, f.message) for f in e.findings),
    )
    if not brute.complete:
        return Compared(0, brute.executions, 0, [], given_up=True)
    finals: set[object] = set()
    seen: Counter[object] = Counter()
    ended: set[object] = set()
    broken: set[object] = set()
    run = program.run
    program.run = lambda *a, **k: run(*a, **{**k, "fingerprint": True})  # type: ignore[method-assign]

    def keep(execution: Execution) -> None:
        broken.update((f.rule, f.message) for f in execution.findings)
        if execution.status in _ENDS:
            seen[trace_of(execution)] += 1
        elif execution.status == "halted":
            ended.add(past_of(execution))
        if execution.status == "complete":
            finals.add(execution.fingerprint)

    reduced = search(program, on_execution=keep)
    program.run = run  # type: ignore[method-assign]
    assert reduced.complete
    assert finals == brute.finals, "final states differ"
    assert set(reduced.found) == set(brute.found), "findings differ"
    assert broken == told, "what the findings say differs"
    traces: set[object] = set()
    ends: set[object] = set()

    def count(execution: Execution) -> None:
        if execution.status in _ENDS:
            traces.add(trace_of(execution))
        elif execution.status == "halted":
            ends.add(past_of(execution))

    every = search(program, Options("naive", max_executions=naive), on_execution=count)
    if spec.model == "SC":
        # With two tasks, outcomes are remembered only if the first execution had a choice.
        late = len(spec.tasks) == 2 and any(
            kind in ("choose", "gchosen", "cbug") for task in spec.tasks for kind, _, _ in task
        )
        assert late or reduced.blocked == 0, "blocked runs"
        assert max(seen.values(), default=1) == 1, "a trace was executed twice"
        if every.complete:
            assert set(seen) == traces, "not the traces"
            assert ended == ends, "not the ways to BUG()"
    return Compared(
        reduced.executions,
        brute.executions,
        len(traces) if every.complete else 0,
        sorted(brute.found),
    )
