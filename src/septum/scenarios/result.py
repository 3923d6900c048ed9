# SPDX-License-Identifier: GPL-2.0-only
"""The result of checking one design in one scenario, and its counterexample as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from septum.machine import Decision, Event, Finding

__all__ = ["CheckResult", "Counterexample", "Replay"]

VERDICTS = ("holds", "bounded", "sampled", "violated", "vacuous", "n/a", "error")


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A schedule that breaks a rule, as data (docs/schemas/counterexample.json).

    ``retries`` is what `Options.retries` was: it decides where attempts become awaits.
    ``labels`` has one ``(task, function, operation, object)`` per decision, as it was
    when recorded; replay compares it and names the first step that differs.

    :ivar kernel: of compiled code: ``version``, ``content`` (digest of what is under test),
        ``tree`` as the user named it, and ``words``, the scheduling points of the schedule.
        Empty for designs.
    """

    design: str
    scenario: str
    params: Mapping[str, Any]
    profile: str
    memory_model: str
    decisions: tuple[Decision, ...]
    labels: tuple[tuple[str, str, str, str], ...]
    finding: Finding
    septum: str
    geometry: Mapping[str, Any] = field(default_factory=dict)
    kernel: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 0


@dataclass(slots=True)
class Replay:
    """An execution run again with source locations.

    :ivar events: every event; ``event.where`` = (function, file, line), ``event.stack``
        = functions from the task's body down.
    :ivar task_names: by task number.
    :ivar findings: in order; `Finding.step` indexes ``events``.
    :ivar pair: positions of the racing pair whose other order keeps the rule, or None.
    :ivar traces: position of an event -> what the model told at it (SEAMCALL leaf and
        status, trace lines), as short texts.
    :ivar states: position of an event -> state after it, filled on request only.
    :ivar buffers: how many of the last names in ``task_names`` are store buffers, in the
        order of the tasks they belong to (memory model TSO).
    """

    events: list[Event]
    task_names: list[str]
    findings: list[Finding]
    pair: tuple[int, int] | None = None
    traces: dict[int, list[str]] = field(default_factory=dict)
    states: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    buffers: int = 0

    def owner(self, task: int) -> int:
        """The task itself, or the one whose store buffer it is."""
        tasks = len(self.task_names) - self.buffers
        return task if task < tasks else task - tasks


@dataclass(slots=True)
class CheckResult:
    """One row of the verdict table (docs/schemas/check.json).

    :ivar missing: must-occur events that never occurred (verdict ``vacuous``).
    :ivar other_findings: rules found besides ``finding``, in order of first schedule.
    :ivar others: their counterexamples, if they were asked for.
    :ivar states, transitions: of strategy ``stateful``.
    :ivar note: why a row is n/a, or what went wrong.
    """

    design: str
    scenario: str
    params: dict[str, Any]
    verdict: str
    complete: bool = False
    finding: Finding | None = None
    strategy: str = "optimal"
    memory_model: str = "SC"
    executions: int = 0
    traces: int = 0
    blocked: int = 0
    retries_folded: bool = False
    bounds_hit: list[str] = field(default_factory=list)
    reached: list[str] = field(default_factory=list)
    seconds: float = 0.0
    counterexample: Counterexample | None = None
    other_findings: list[str] = field(default_factory=list)
    others: list[Counterexample] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    note: str = ""
    hypothetical: bool = False
    steps: int = 0
    states: int = 0
    transitions: int = 0
