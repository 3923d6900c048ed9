# SPDX-License-Identifier: GPL-2.0-only
"""Litmus tests as data: threads of plain stores and loads, and what may be observed.

A thread is a list of operations: ``("W", x, v)`` stores, ``("R", x)`` loads into the next
register, ``("F",)`` is mfence, ``("X", x, v)`` is xchg whose old value is the next register.
The outcome asked about names registers as ``(thread, number)`` and final values of words.

Shapes and their names are those of J. Alglave, L. Maranget, M. Tautschnig, "Herding cats",
TOPLAS 36(2), 2014.  What x86-TSO allows is from P. Sewell et al., "x86-TSO", CACM 53(7),
2010, whose n5 and n6 test loads that read the own buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from septum.explore import MachineProgram, Options, search
from septum.machine import Machine, Word

Op = tuple[Any, ...]
Outcome = frozenset[tuple[Any, int]]


@dataclass(frozen=True)
class Litmus:
    """``exists``: the outcome in question.  ``sc``, ``tso``: whether the model allows it."""

    name: str
    threads: tuple[tuple[Op, ...], ...]
    exists: Mapping[Any, int]
    sc: bool
    tso: bool


def W(x: str, v: int) -> Op:
    return ("W", x, v)


def R(x: str) -> Op:
    return ("R", x)


def X(x: str, v: int) -> Op:
    return ("X", x, v)


F: Op = ("F",)

LITMUS = (
    Litmus(
        "SB",
        ((W("x", 1), R("y")), (W("y", 1), R("x"))),
        {(0, 0): 0, (1, 0): 0},
        sc=False,
        tso=True,
    ),
    Litmus(
        "SB+mfences",
        ((W("x", 1), F, R("y")), (W("y", 1), F, R("x"))),
        {(0, 0): 0, (1, 0): 0},
        sc=False,
        tso=False,
    ),
    Litmus(
        "SB+mfence+po",
        ((W("x", 1), F, R("y")), (W("y", 1), R("x"))),
        {(0, 0): 0, (1, 0): 0},
        sc=False,
        tso=True,
    ),
    Litmus(
        "SB+xchgs",
        ((X("x", 1), R("y")), (X("y", 1), R("x"))),
        {(0, 1): 0, (1, 1): 0},
        sc=False,
        tso=False,
    ),
    Litmus(
        "SB+rfi-pos",  # each reads its own store before: iwp2.4, amd10
        ((W("x", 1), R("x"), R("y")), (W("y", 1), R("y"), R("x"))),
        {(0, 0): 1, (0, 1): 0, (1, 0): 1, (1, 1): 0},
        sc=False,
        tso=True,
    ),
    Litmus(
        "MP",
        ((W("x", 1), W("y", 1)), (R("y"), R("x"))),
        {(1, 0): 1, (1, 1): 0},
        sc=False,
        tso=False,
    ),
    Litmus(
        "LB",
        ((R("x"), W("y", 1)), (R("y"), W("x", 1))),
        {(0, 0): 1, (1, 0): 1},
        sc=False,
        tso=False,
    ),
    Litmus(
        "IRIW",
        ((W("x", 1),), (W("y", 1),), (R("x"), R("y")), (R("y"), R("x"))),
        {(2, 0): 1, (2, 1): 0, (3, 0): 1, (3, 1): 0},
        sc=False,
        tso=False,
    ),
    Litmus(
        "2+2W",
        ((W("x", 1), W("y", 2)), (W("y", 1), W("x", 2))),
        {"x": 1, "y": 1},
        sc=False,
        tso=False,
    ),
    Litmus(
        "R",
        ((W("x", 1), W("y", 1)), (W("y", 2), R("x"))),
        {"y": 2, (1, 0): 0},
        sc=False,
        tso=True,
    ),
    Litmus(
        "R+po+mfence",
        ((W("x", 1), W("y", 1)), (W("y", 2), F, R("x"))),
        {"y": 2, (1, 0): 0},
        sc=False,
        tso=False,
    ),
    Litmus(
        "S",
        ((W("x", 2), W("y", 1)), (R("y"), W("x", 1))),
        {(1, 0): 1, "x": 2},
        sc=False,
        tso=False,
    ),
    Litmus(
        "n6",
        ((W("x", 1), R("x"), R("y")), (W("y", 2), W("x", 2))),
        {(0, 0): 1, (0, 1): 0, "x": 1},
        sc=False,
        tso=True,
    ),
    Litmus(
        "n5",
        ((W("x", 1), R("x")), (W("x", 2), R("x"))),
        {(0, 0): 2, (1, 0): 1},
        sc=False,
        tso=False,
    ),
    Litmus(
        "CoRR",
        ((W("x", 1),), (R("x"), R("x"))),
        {(1, 0): 1, (1, 1): 0},
        sc=False,
        tso=False,
    ),
    Litmus(
        "WRC",
        ((W("x", 1),), (R("x"), W("y", 1)), (R("y"), R("x"))),
        {(1, 0): 1, (2, 0): 1, (2, 1): 0},
        sc=False,
        tso=False,
    ),
    Litmus(
        "SB, the other way",  # an outcome that both models allow, so that tests see one
        ((W("x", 1), R("y")), (W("y", 1), R("x"))),
        {(0, 0): 1, (1, 0): 1},
        sc=True,
        tso=True,
    ),
)


def program(threads: tuple[tuple[Op, ...], ...], model: str) -> tuple[MachineProgram, Any]:
    """The machine's program, and a function that tells the last execution's outcome."""
    m = Machine()
    m.memory_model = model
    names = sorted({op[1] for thread in threads for op in thread if len(op) > 1})
    words = {name: Word(m, name, 0) for name in names}
    registers: list[list[int]] = [[] for _ in threads]
    last: list[Outcome] = []

    def body(tid: int) -> Callable[[], None]:
        def run() -> None:
            mine = registers[tid]
            mine.clear()
            for op in threads[tid]:
                if op[0] == "W":
                    words[op[1]].write(op[2])
                elif op[0] == "R":
                    mine.append(words[op[1]].read())
                elif op[0] == "X":
                    mine.append(words[op[1]].xchg(op[2]))
                else:
                    m.smp_mb()

        return run

    def settle() -> None:
        seen: list[tuple[Any, int]] = [(name, word.v) for name, word in words.items()]
        for tid, values in enumerate(registers):
            seen += [((tid, n), v) for n, v in enumerate(values)]
        last.append(frozenset(seen))

    bodies = [(f"t{tid}", body(tid)) for tid in range(len(threads))]
    return MachineProgram(m, bodies, settle), last


def outcomes(threads: tuple[tuple[Op, ...], ...], model: str, strategy: str) -> set[Outcome]:
    """Everything that the strategy sees happen."""
    made, last = program(threads, model)
    result = search(made, Options(strategy=strategy))
    assert result.complete
    return set(last)


def allows(seen: set[Outcome], exists: Mapping[Any, int]) -> bool:
    return any(set(exists.items()) <= outcome for outcome in seen)
