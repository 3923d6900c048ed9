# SPDX-License-Identifier: GPL-2.0-only
"""What an execution is made of: decisions, events, findings; and how to run one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mypy_extensions import mypyc_attr

from septum.machine.dependency import Access, Footprint, footprint

__all__ = [
    "CONTINUE",
    "DEFAULT_LIMITS",
    "Decision",
    "Event",
    "Execution",
    "Finding",
    "Halt",
    "Limits",
    "MachineError",
    "Policy",
    "last_footprint",
    "step_start",
]


class MachineError(Exception):
    """The model used the machine wrongly; never a property of what is checked."""


class Halt(BaseException):
    """Ends the running task (or, from `Machine.fatal`, the whole execution)."""


class Decision(NamedTuple):
    """One scheduling decision: which task, and the option if the event is a choice.  A choice
    of task ~t is t's, and where a prefix ends if t is not asked."""

    task: int
    choice: int = 0


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule.  ``rule`` is ``I<n>``, ``BUG:<function>``, ``WARN:<function>``,
    ``DEADLOCK``, ``STUCK``, ``LIVELOCK``, ``RACE`` or ``EXCEPTION``.  ``since``: log position
    from which on the steps up to ``step`` repeat for ever (-1: nothing does); ``place``: the
    function that made the step (judges of it, such as monitors, do not count)."""

    rule: str
    message: str
    step: int
    task: int
    obj: str = ""
    since: int = -1
    place: str = field(default="", compare=False)


@mypyc_attr(serializable=True)
class Event:
    """One executed point.

    ``acc`` is the footprint; ``seen``/``left`` the value before and after (words only);
    ``choice``/``options`` are set for choices; ``since`` maps an awaited object to the
    log position of the failed read; ``off`` is the last position at which the task was
    seen disabled while it waited for this event (-1: never); ``could`` the log positions of the
    changes of a word, of a wait for its value: without that change
    it could have gone on; ``enabled`` the tasks that
    could have run (empty for choices).
    """

    __slots__ = (
        "acc",
        "choice",
        "could",
        "enabled",
        "foot",
        "index",
        "label",
        "left",
        "obj",
        "off",
        "op",
        "options",
        "seen",
        "since",
        "stack",
        "task",
        "where",
    )

    def __init__(self, task: int, index: int, op: str, obj: str) -> None:
        self.task = task
        self.index = index
        self.op = op
        self.obj = obj
        self.acc: list[Access] = []
        self.seen: Any = None
        self.left: Any = None
        self.choice = 0
        self.options: tuple[Any, ...] = ()
        self.since: dict[str, int] | None = None
        self.off = -1
        self.could: tuple[tuple[int, ...], ...] | None = None
        self.enabled: tuple[int, ...] = ()
        self.foot: Footprint | None = None  # of `acc`, where it is known already
        self.label = ""
        self.where: tuple[str, str, int] | None = None
        self.stack: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Event(t{self.task}.{self.index} {self.op} {self.obj} {self.seen}->{self.left})"


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True)
class Policy:
    """How to go on where the prefix ends.  ``kind``: ``continue`` (stay with the running
    task), ``lowest``, ``random`` (uses ``seed``), ``pct`` (``seed``, ``depth``, and ``span``, the
    number of steps among which priorities change), ``script``
    (follow ``script``, a sequence of tasks, leaving out what cannot run; each task's
    choices in order from ``choices``)."""

    kind: str = "continue"
    seed: int = 0
    depth: int = 3
    script: tuple[int, ...] = ()
    choices: tuple[tuple[int, ...], ...] = ()
    span: int = 400


@mypyc_attr(native_class=False)
@dataclass(frozen=True, slots=True)
class Limits:
    """``steps``: events per execution before it is given up."""

    steps: int = 20_000


CONTINUE = Policy()
DEFAULT_LIMITS = Limits()


@mypyc_attr(serializable=True)
@dataclass(slots=True)
class Execution:
    """What one run left behind.

    ``status``: ``complete`` (every task finished), ``covered`` (the prefix turned out to
    be explored already), ``held`` (only tasks that the sleep set forbids could run),
    ``deadlock`` (all wait for locks), ``stuck`` (some
    await what no one will change), ``livelock`` (a fair cycle of states), ``matched`` (in a
    state that was met before), ``limit``, ``halted`` (BUG), ``diverged`` (the
    prefix named a task that could not run).  ``halts``: log positions of the last events of
    tasks that BUG() ended.
    """

    events: list[Event]
    status: str
    findings: list[Finding]
    pending: list[Event] = field(default_factory=list)
    diverged: str = ""
    fingerprint: Hashable = None
    reached: frozenset[str] = frozenset()
    halts: list[int] = field(default_factory=list)

    @property
    def decisions(self) -> list[Decision]:
        return [Decision(e.task, e.choice) for e in self.events]


def repeated(log: Sequence[Event], decisions: Sequence[Decision]) -> int:
    """How many events of an earlier execution these decisions begin with."""
    n = 0
    for event, decision in zip(log, decisions, strict=False):
        if event.task != decision.task or event.choice != decision.choice:
            break
        n += 1
    return n


def step_start(log: Sequence[Event], at: int) -> int:
    """Where the step begins that event ``at`` is part of: a choice belongs to the event before."""
    while at > 0 and log[at].op == "choose":
        at -= 1
    return at


def last_footprint(log: Sequence[Event]) -> Footprint:
    """What the last step did, its choices included; nothing if there was none."""
    if log and log[-1].op != "choose":
        event = log[-1]
        return footprint(event.acc) if event.foot is None else event.foot
    first = max(step_start(log, len(log) - 1), 0)
    return footprint([a for event in log[first:] for a in event.acc])
