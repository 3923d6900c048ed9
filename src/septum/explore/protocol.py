# SPDX-License-Identifier: GPL-2.0-only
"""Protocols of one's own: the public way in, for code that is not KVM's.

A `Protocol` has a name and a function that makes shared state on a fresh `Machine` and
returns the `Tasks` to be interleaved.  `check` explores it.  ``septum check FILE`` does the
same with every protocol of a file (docs/your-own-protocol.md).

Stable from version to version: what `septum.machine` and `septum.explore` export by name,
with the keyword arguments documented there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from septum.explore.minimise import minimise
from septum.explore.program import MachineProgram
from septum.explore.result import Found, SearchResult, schedule_key
from septum.explore.search import DEFAULTS, Options, search
from septum.machine import Limits, Machine

__all__ = ["Protocol", "Tasks", "Verdict", "best_found", "check", "program_of"]


@dataclass(frozen=True, slots=True)
class Tasks:
    """What runs.

    :ivar bodies: name and body of each task; at least one.
    :ivar settled: judges the state when every task has finished, with `Machine.report`.
    """

    bodies: Mapping[str, Callable[[], None]]
    settled: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Protocol:
    """A protocol to be checked.

    :ivar name: of the row, one word.
    :ivar build: makes words, locks and tasks on the machine given; called once per search.
    :ivar doc: one sentence for people.
    :ivar rules: name of a rule (capitals) and what it states; for reports only.
    :ivar must_occur: what some execution must pass to `Machine.reach`, else the verdict is
        ``vacuous``.
    :ivar cells_only: all that the tasks and ``settled`` look at is in words, locks and cells,
        nothing in Python variables that they share: then executions that hold nothing new are
        looked up, not run (`septum.machine.known`).
    """

    name: str
    build: Callable[[Machine], Tasks]
    doc: str = ""
    rules: Mapping[str, str] = field(default_factory=dict)
    must_occur: tuple[str, ...] = ()
    cells_only: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a search says about a protocol.

    :ivar verdict: ``holds`` (explored completely), ``bounded``, ``sampled``, ``vacuous``,
        ``violated``, or ``error`` (the protocol's code raised an exception).
    :ivar found: the finding with the smallest schedule, minimised; None if nothing broke.
    :ivar result: counts, and every finding.
    :ivar missing: what must occur and did not.
    """

    verdict: str
    found: Found | None
    result: SearchResult
    missing: tuple[str, ...] = ()


def program_of(protocol: Protocol, *, memory_model: str = "SC") -> MachineProgram:
    """The protocol on a fresh machine, as what explorers run.

    :param memory_model: ``SC`` or ``TSO``.
    :raises ValueError: it builds no tasks.
    """
    machine = Machine()
    machine.memory_model = memory_model
    tasks = protocol.build(machine)
    if not isinstance(tasks, Tasks) or not tasks.bodies:
        raise ValueError(f"protocol {protocol.name}: build() should return Tasks, at least one")
    program = MachineProgram(machine, list(tasks.bodies.items()), tasks.settled)
    program.remembers = protocol.cells_only
    return program


def check(
    protocol: Protocol,
    *,
    options: Options = DEFAULTS,
    progress: Callable[[SearchResult], None] | None = None,
) -> Verdict:
    """Explore every interleaving, as ``options`` say, and minimise what was found.

    :param progress: called after each execution with what was found so far; ``expected`` says from
        about how many to how many executions there are, (0, 0) while nothing is known.

    :raises ValueError: the protocol builds no tasks, or there is no such strategy.
    """
    program = program_of(protocol, memory_model=options.memory_model)
    result = search(program, options, progress=progress)
    missing = tuple(what for what in protocol.must_occur if what not in result.reached)
    best = best_found(result)
    if best is not None:
        small = minimise(program, program.actors, best, Limits(options.steps))
        broken = "error" if small.finding.rule == "EXCEPTION" else "violated"
        return Verdict(broken, small, result, missing)
    if missing:
        return Verdict("vacuous", None, result, missing)
    if result.complete:
        return Verdict("holds", None, result)
    sampled = result.strategy in ("random", "pct")
    return Verdict("sampled" if sampled else "bounded", None, result)


def best_found(result: SearchResult) -> Found | None:
    """The finding with the best schedule.  Those of one event keep the order in which they
    were made."""
    best: Found | None = None
    for found in result.found.values():
        cut = found.decisions[: found.finding.step + 1]
        if best is None or schedule_key(cut) < schedule_key(
            best.decisions[: best.finding.step + 1]
        ):
            best = found
    return best
