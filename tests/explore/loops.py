# SPDX-License-Identifier: GPL-2.0-only
"""Programs with loops, and an oracle that enumerates their states.

A program is a list of instructions per task; the oracle knows program counters and words,
nothing of frames, footprints or histories.  A fair cycle is a strongly connected component in
which each unfinished task takes a step (all instructions can always be executed).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from septum.explore import MachineProgram
from septum.machine import Machine, Word

Op = tuple[str, int, int]  # name, word, value
State = tuple[tuple[int, ...], tuple[int, ...]]  # program counters, words

OPS = ("write", "read", "spin", "acquire", "polite")


@dataclass(frozen=True)
class Loops:
    """Per task its operations: write, read, ``spin`` until a word has a value, ``acquire`` a
    word (0 -> 1) by trying, ``polite``: word 0 then the other, giving the first back."""

    tasks: tuple[tuple[Op, ...], ...]
    words: int = 2


def program(spec: Loops) -> MachineProgram:
    """As ordinary code."""
    m = Machine()
    words = [Word(m, f"x{i}", 0) for i in range(spec.words)]

    def body(ops: tuple[Op, ...]) -> Callable[[], None]:
        def run() -> None:
            for name, w, v in ops:
                word = words[w]
                if name == "write":
                    word.write(v)
                elif name == "read":
                    word.read()
                elif name == "spin":
                    while word.read() != v:
                        pass
                elif name == "acquire":
                    while not word.try_cmpxchg(0, 1)[0]:
                        pass
                elif name == "polite":
                    _polite(word, words[(w + 1) % len(words)])

        return run

    return MachineProgram(m, [(f"t{i}", body(ops)) for i, ops in enumerate(spec.tasks)])


def _polite(first: Word, second: Word) -> None:
    while True:
        if first.try_cmpxchg(0, 1)[0]:
            if second.try_cmpxchg(0, 1)[0]:
                return
            first.write(0)


def _code(spec: Loops, ops: tuple[Op, ...]) -> list[tuple[str, int, int, int, int]]:
    """(access, word, value, next if it succeeds, next if not) per program counter."""
    out: list[tuple[str, int, int, int, int]] = []
    for name, w, v in ops:
        at = len(out)
        if name in ("write", "read"):
            out.append((name, w, v, at + 1, at + 1))
        elif name == "spin":
            out.append(("test", w, v, at + 1, at))
        elif name == "acquire":
            out.append(("cas", w, 1, at + 1, at))
        else:
            other = (w + 1) % spec.words
            out.append(("cas", w, 1, at + 1, at))
            out.append(("cas", other, 1, at + 3, at + 2))
            out.append(("write", w, 0, at, at))
    return out


def oracle(spec: Loops) -> tuple[set[tuple[int, ...]], bool]:
    """The words in which it can end, and whether it can go round for ever fairly."""
    codes = [_code(spec, ops) for ops in spec.tasks]

    def steps(state: State) -> Iterator[tuple[int, State]]:
        counters, words = state
        for task, code in enumerate(codes):
            if counters[task] == len(code):
                continue
            access, w, v, good, bad = code[counters[task]]
            hit = access in ("write", "read") or words[w] == (0 if access == "cas" else v)
            left = list(words)
            if hit and access in ("write", "cas"):
                left[w] = v
            after = list(counters)
            after[task] = good if hit else bad
            yield task, (tuple(after), tuple(left))

    start: State = (tuple(0 for _ in codes), tuple(0 for _ in range(spec.words)))
    graph: dict[State, list[tuple[int, State]]] = {}
    waiting = [start]
    while waiting:
        state = waiting.pop()
        if state not in graph:
            graph[state] = list(steps(state))
            waiting += [s for _, s in graph[state]]
    finals = {words for (counters, words), out in graph.items() if not out}
    return finals, any(_fair(graph, part, codes) for part in _components(graph))


def _fair(
    graph: dict[State, list[tuple[int, State]]], part: set[State], codes: Sequence[Sequence[object]]
) -> bool:
    inside = {task for s in part for task, to in graph[s] if to in part}
    counters = next(iter(part))[0]
    unfinished = {t for t, code in enumerate(codes) if counters[t] < len(code)}
    return bool(inside) and unfinished <= inside


def _components(graph: dict[State, list[tuple[int, State]]]) -> list[set[State]]:
    """Strongly connected components: states that reach each other (small graphs only)."""
    reach: dict[State, set[State]] = {}
    for state in graph:
        seen: set[State] = set()
        waiting = [state]
        while waiting:
            for _, to in graph[waiting.pop()]:
                if to not in seen:
                    seen.add(to)
                    waiting.append(to)
        reach[state] = seen
    left = set(graph)
    out = []
    while left:
        state = left.pop()
        part = {s for s in reach[state] if state in reach[s]} | {state}
        left -= part
        out.append(part)
    return out
