# SPDX-License-Identifier: GPL-2.0-only
"""Something that can be walked through step by step, for the terminal stepper.

States are maps as in `septum.report.html.stories`: ``mirror|level|gfn`` to a text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["BadBreakpoint", "Breakpoint", "StoryWalk", "Walk", "WalkStep", "parse_breakpoint"]

State = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class WalkStep:
    """One step: ``task`` indexes `Walk.tasks`; ``mark`` is why it matters, or empty."""

    task: int
    text: str
    function: str
    where: str
    line: int
    told: Sequence[str]
    mark: str


class Walk(Protocol):
    """Steps with the state after each."""

    @property
    def title(self) -> str: ...
    @property
    def tasks(self) -> Sequence[str]: ...
    @property
    def first(self) -> int:
        """Where to begin: the step that breaks the rule."""
        ...

    def __len__(self) -> int: ...
    def step(self, at: int) -> WalkStep: ...
    def state(self, at: int) -> State: ...
    def locks(self, at: int) -> Sequence[str]: ...
    def code(self, at: int) -> Sequence[tuple[int, str]]:
        """Numbered source lines around the step; empty if there is none."""
        ...


class StoryWalk:
    """A counterexample, from the data of the HTML report (`stories.story`)."""

    def __init__(self, title: str, data: Mapping[str, Any], blocks: Sequence[Any]) -> None:
        self.title = title
        self.tasks: Sequence[str] = data["tasks"]
        self.first: int = data["first"]
        self._data = data
        self._blocks = blocks
        self._states: list[State] = []
        now: dict[str, str] = dict(data["start"])
        for step in data["steps"]:
            if step["changes"]:
                now = dict(now)
                for key, text in step["changes"]:
                    if text is None:
                        now.pop(key, None)
                    else:
                        now[key] = text
            self._states.append(now)

    def __len__(self) -> int:
        return len(self._states)

    def step(self, at: int) -> WalkStep:
        s = self._data["steps"][at]
        marks = ["rule broken here"] * (at in self._data["marks"])
        marks += ["racing pair"] * (at in self._data["pair"])
        return WalkStep(
            s["task"], s["text"], s["fn"], s["where"], s["line"], s["told"], ", ".join(marks)
        )

    def state(self, at: int) -> State:
        return self._states[at]

    def locks(self, at: int) -> Sequence[str]:
        return [
            f"{held['lock']}: {held['holder']} ({held['mode']})"
            for held in self._data["locks"]
            if held["from"] <= at < held["to"]
        ]

    def code(self, at: int) -> Sequence[tuple[int, str]]:
        block = self._data["steps"][at]["code"]
        return [] if block is None else [(number, text) for number, text in self._blocks[block]]


# --- breakpoints ------------------------------------------------------------------------


class BadBreakpoint(ValueError):
    """A breakpoint that cannot be understood; the message says what can be."""


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """``gfn``: an entry of that GFN changes; ``object``: the step's text names it;
    ``task``: that task runs; ``finding``: a rule breaks."""

    kind: str
    value: str = ""

    def hits(self, walk: Walk, at: int) -> bool:
        step = walk.step(at)
        if self.kind == "task":
            return walk.tasks[step.task] == self.value
        if self.kind == "finding":
            return "rule broken" in step.mark
        if self.kind == "object":
            return self.value in step.text
        if at == 0:
            return False
        now, before = walk.state(at), walk.state(at - 1)
        if now is before:
            return False
        changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        trees = [key.split("|") for key in changed if key.count("|") == 2]
        return any(gfn == self.value for tree, _, gfn in trees if tree != "differs")

    def __str__(self) -> str:
        return f"{self.kind} {self.value}".strip()


def parse_breakpoint(text: str, walk: Walk) -> Breakpoint:
    """``gfn 1f``, ``object mmu_lock``, ``task vcpu0`` or ``finding``.

    :raises BadBreakpoint: with what was expected.
    """
    kind, _, value = text.strip().partition(" ")
    value = value.strip()
    if kind == "finding" and not value:
        return Breakpoint(kind)
    if kind == "gfn":
        digits = value.lower().removeprefix("0x")
        if not re.fullmatch("[0-9a-f]+", digits):
            raise BadBreakpoint(f"{value!r} is not a GFN: write hexadecimal digits, as in gfn 1f")
        return Breakpoint(kind, f"{int(digits, 16):x}")
    if kind == "task":
        if value not in walk.tasks:
            raise BadBreakpoint(f"no task {value!r}: there are {', '.join(walk.tasks)}")
        return Breakpoint(kind, value)
    if kind == "object" and value:
        return Breakpoint(kind, value)
    raise BadBreakpoint(
        f"{text.strip()!r} is no breakpoint: write gfn HEX, object NAME, task NAME or finding"
    )
