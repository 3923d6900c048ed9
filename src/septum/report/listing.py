# SPDX-License-Identifier: GPL-2.0-only
"""Lists and explanations of what septum knows: designs, scenarios, monitors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from septum.designs import Design, Toggle, diff
from septum.report.counterexample import Rule, inject_text, parameters, start_text, task_table
from septum.report.layout import WIDTH, clean, facts, fill, number
from septum.scenarios.model import Scenario

__all__ = [
    "MonitorInfo",
    "design_diff",
    "design_list",
    "first_sentence",
    "monitor_list",
    "monitor_text",
    "scenario_list",
    "scenario_text",
]


class MonitorInfo(Rule, Protocol):
    """A monitor in full."""

    @property
    def judged(self) -> str: ...
    @property
    def example(self) -> str: ...


def first_sentence(doc: str) -> str:
    """The first paragraph of a doc string, up to its first full stop."""
    paragraph = " ".join(doc.strip().split("\n\n")[0].split()).replace("``", "")
    end = paragraph.find(". ")
    return paragraph if end < 0 else paragraph[: end + 1]


def design_list(
    designs: Sequence[Design],
    toggles: Sequence[tuple[Toggle, Sequence[str]]],
    *,
    width: int = WIDTH,
) -> str:
    """Every design: name, predecessor, one sentence, functions of its patch.

    :param toggles: with the designs to which each applies.
    """
    lines: list[str] = []
    for design in designs:
        after = f" (on {design.predecessor.name})" if design.predecessor is not None else ""
        lines += fill(clean(f"{design.name}{after}"), width)
        lines += fill(clean(first_sentence(design.doc)), width, first="    ")
        names = ", ".join(f"{name}()" for name in sorted(design.own))
        if names:
            lines += fill(f"replaces {clean(names)}", width, first="    ")
    if toggles:
        lines += ["", *fill("Added to a design with a plus sign, as in v7.3+NAME:", width)]
    for toggle, bases in toggles:
        every = len(bases) == len(designs)
        where = "any design" if every else ", ".join(bases)
        lines += fill(clean(f"+{toggle.name} ({toggle.kind}, on {where})"), width, rest="    ")
        lines += fill(clean(first_sentence(toggle.doc)), width, first="    ")
    return "\n".join([*lines, "", "septum designs diff A B shows what separates two designs.", ""])


def design_diff(old: Design, new: Design) -> str:
    """The unified diff of every function in which two designs differ."""
    lines = [line.rstrip() for line in diff(old, new)]
    if not lines:
        return f"{clean(old.name)} and {clean(new.name)} do not differ.\n"
    return "\n".join(lines) + "\n"


def scenario_list(scenarios: Sequence[Scenario], *, width: int = WIDTH) -> str:
    """Every scenario in two or three lines."""
    lines: list[str] = []
    for s in scenarios:
        tasks = number(len(s.tasks), "task")
        needs = ", ".join(sorted(s.needs))
        extra = f"; needs {needs}" if needs else ""
        optional = "" if s.default else "; not in the default suite"
        lines += fill(clean(f"{s.name} ({tasks}{extra}{optional})"), width, rest="    ")
        lines += fill(clean(s.summary), width, first="    ")
    return "\n".join([*lines, "", "septum scenarios NAME shows one in full.", ""])


def scenario_text(s: Scenario, *, width: int = WIDTH) -> str:
    """One scenario: its question, what each task does, what must occur."""
    lines = facts(
        [
            ("scenario", s.name),
            ("summary", s.summary),
            ("question", s.question),
            ("start", start_text(s.start)),
            ("injected", inject_text(s)),
            ("parameters", parameters(s.params())),
            ("needs", ", ".join(sorted(s.needs)) or "nothing beyond the base design"),
            ("default", "yes" if s.default else "no: name it with --scenario"),
        ],
        width=width,
    )
    lines += ["", *task_table(s, width=width), "", "Must occur in some execution:"]
    for must in s.must_occur:
        lines += fill(clean(must), width, first="  - ", rest="    ")
    if not s.must_occur:
        lines.append("  (nothing)")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def monitor_list(monitors: Sequence[MonitorInfo], *, width: int = WIDTH) -> str:
    """Every rule with its statement."""
    longest = max([len(m.id) for m in monitors] + [2])
    lines: list[str] = []
    for m in monitors:
        lines += fill(clean(m.statement), width, first=f"{m.id:<{longest}}  ")
    return "\n".join([*lines, "", "septum monitors ID explains one.", ""])


def monitor_text(m: MonitorInfo, *, width: int = WIDTH) -> str:
    """One rule: statement, when it is judged, where it comes from, an example."""
    lines = facts(
        [
            ("rule", m.id),
            ("statement", m.statement),
            ("judged at", m.judged),
            ("source", m.source),
            ("example", m.example),
        ],
        width=width,
    )
    return "\n".join(lines) + "\n"
