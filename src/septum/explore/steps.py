# SPDX-License-Identifier: GPL-2.0-only
"""An execution's events as steps: one scheduling decision and the choices inside it.

A choice is never scheduled on its own, so for ordering purposes it belongs to the
event before it, and the accesses after it count as that event's.
"""

from __future__ import annotations

from collections.abc import Sequence

from septum.machine import Decision, Event
from septum.machine.dependency import EXCL, SHARED, Access

__all__ = ["Step", "pending_step", "steps_of"]


class Step:
    """One scheduling decision.

    ``number`` counts the steps of its task from 0; ``at`` is the log position of its
    first event; ``choices`` are ``(option taken, number of options)``.
    """

    __slots__ = ("acc", "at", "choices", "number", "off", "since", "task")

    def __init__(self, event: Event, number: int, at: int) -> None:
        self.task = event.task
        self.number = number
        self.at = at
        self.acc: list[Access] = event.acc
        self.since = event.since
        self.off = event.off
        self.choices: tuple[tuple[int, int], ...] = ()

    def decisions(self) -> list[Decision]:
        return [Decision(self.task), *(Decision(self.task, c) for c, _ in self.choices)]


def steps_of(events: Sequence[Event]) -> list[Step]:
    """Group the events of an execution."""
    steps: list[Step] = []
    counts: dict[int, int] = {}
    for at, event in enumerate(events):
        if event.op == "choose":
            step = steps[-1]
            step.acc = step.acc + event.acc
            step.choices += ((event.choice, len(event.options)),)
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
