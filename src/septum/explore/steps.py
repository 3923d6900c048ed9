# SPDX-License-Identifier: GPL-2.0-only
"""An execution's events as steps: one scheduling decision and the choices inside it.

A choice is never scheduled on its own, so for ordering purposes it belongs to the
event before it, and the accesses after it count as that event's.
"""

from __future__ import annotations

from collections.abc import Sequence

from septum.machine import Event
from septum.machine.dependency import EXCL, SHARED, Access

__all__ = ["Step", "pending_step", "steps_of"]


class Step:
    """One scheduling decision.

    ``number`` counts the steps of its task from 0; ``at`` is the log position of its
    first event, ``end`` that behind its last; ``choices`` are ``(option taken, number of
    options)``.
    """

    __slots__ = ("acc", "at", "choices", "end", "number", "off", "since", "task")

    def __init__(self, event: Event, number: int, at: int) -> None:
        self.task = event.task
        self.number = number
        self.at = at
        self.end = at + 1
        self.acc: list[Access] = event.acc
        self.since = event.since
        self.off = event.off
        self.choices: tuple[tuple[int, int], ...] = ()


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
            step.acc = step.acc + event.acc
            step.choices += ((event.choice, len(event.options)),)
            step.end = at + 1
        else:
            number = counts.get(event.task, 0)
            counts[event.task] = number + 1
            steps.append(Step(event, number, at))
    return steps


def pending_step(event: Event, number: int) -> Step | None:
    """A blocked lock acquisition as a step, so that its races are seen; else None."""
    if event.op == "read_lock":
        kind = SHARED
    elif event.op in ("write_lock", "lock"):
        kind = EXCL
    else:
        return None
    step = Step(event, number, -1)
    step.acc = [(event.obj, kind)]
    return step
