# SPDX-License-Identifier: GPL-2.0-only
"""An execution's events as steps: one scheduling decision and the choices inside it.

A choice is never scheduled on its own, so for ordering purposes it belongs to the
event before it, and the accesses after it count as that event's.
"""

from __future__ import annotations

from collections.abc import Sequence

from mypy_extensions import mypyc_attr

from septum.explore.wakeup import Chosen
from septum.machine import Decision, Event
from septum.machine.dependency import (
    ADD,
    AWAIT,
    EMPTY,
    EXCL,
    EXCL_REL,
    PUT,
    READ,
    SHARED,
    SHARED_REL,
    WAIT,
    WRITE,
    Access,
    Footprint,
    footprint,
)

__all__ = ["Step", "pending_step", "picks_of", "steps_of"]

_SURE = frozenset({READ, WRITE, ADD, AWAIT, WAIT, SHARED, EXCL, SHARED_REL, EXCL_REL})
_STORES = frozenset({"write", "xchg", "fetch_and", "fetch_or", "fetch_add"})


@mypyc_attr(serializable=True)
class Step:
    """One scheduling decision.

    ``number`` counts the steps of its task from 0; ``at`` is the log position of its
    first event, ``end`` that behind its last; ``choices`` are ``(option taken, number of
    options)``, made after as many of its accesses as ``cuts`` say; ``op`` is what its
    first event does; ``foot`` is the footprint of all of it; ``shared``: other steps have the
    same list of accesses.
    """

    __slots__ = (
        "_foot",
        "acc",
        "at",
        "choices",
        "could",
        "cuts",
        "end",
        "number",
        "off",
        "op",
        "shared",
        "since",
        "task",
    )

    def __init__(self, event: Event, number: int, at: int) -> None:
        self.task = event.task
        self.number = number
        self.at = at
        self.end = at + 1
        self.op = event.op
        self.acc: list[Access] = event.acc
        self.since = event.since
        self.off = event.off
        self.could = event.could
        self.choices: tuple[tuple[int, int], ...] = ()
        self.cuts: tuple[int, ...] = ()
        self._foot: Footprint | None = event.foot
        self.shared = event.foot is not None

    @property
    def foot(self) -> Footprint:
        if self._foot is None:
            self._foot = footprint(self.acc)
        return self._foot

    @property
    def certain(self) -> Footprint:
        """What the step does whatever it finds: at least its first access, and under TSO it
        waits for the own store buffer before."""
        foot: Footprint = {}
        for name, kind in self.acc:
            if kind == EMPTY:
                foot[name] = 1 << EMPTY
                continue
            if kind in (READ, WRITE):
                kind = WRITE if self.op in _STORES else READ
            if kind in _SURE:
                foot[name] = 1 << kind
            break
        return foot

    @property
    def picks(self) -> tuple[int, ...]:
        """The options taken; trailing first options do not count."""
        return picks_of(tuple(option for option, _ in self.choices)) if self.choices else ()

    @property
    def slept(self) -> Footprint:
        """What is kept of it where it sleeps."""
        if not self.choices:
            return self.foot
        return Chosen(self.foot.items(), tuple([options for _, options in self.choices]))

    @property
    def decisions(self) -> list[Decision]:
        return [Decision(self.task), *(Decision(self.task, o) for o, _ in self.choices)]


def picks_of(options: tuple[int, ...]) -> tuple[int, ...]:
    """Without trailing first options, which are taken where nothing is said."""
    n = len(options)
    while n and options[n - 1] == 0:
        n -= 1
    return options[:n]


def steps_of(events: Sequence[Event], before: Sequence[Step] = ()) -> list[Step]:
    """Group the events of an execution; ``before``: the steps it begins with, which are
    not made again."""
    steps: list[Step] = []
    counts: dict[int, int] = {}
    for known in before:
        counts[known.task] = known.number + 1
    for at in range(before[-1].end if before else 0, len(events)):
        event = events[at]
        if event.op == "choose":
            step = steps[-1]
            step.cuts += (len(step.acc),)
            step.acc = step.acc + event.acc
            step._foot = None
            step.shared = False
            step.choices += ((event.choice, len(event.options)),)
            step.end = at + 1
        else:
            number = counts.get(event.task, 0)
            counts[event.task] = number + 1
            steps.append(Step(event, number, at))
    return steps


def pending_step(event: Event, number: int) -> Step | None:
    """A blocked lock acquisition, or wait for a word's value, as a step, so that its races
    are seen; else None."""
    if event.could is not None:
        kind = WAIT
    elif event.op == "read_lock":
        kind = SHARED
    elif event.op in ("write_lock", "lock"):
        kind = EXCL
    else:
        return None
    step = Step(event, number, -1)
    if any(how == PUT for _, how in event.acc):
        return None  # the stores that it waits for are nowhere in the execution
    step.acc = [*event.acc, (event.obj, kind)]
    return step
