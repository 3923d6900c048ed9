# SPDX-License-Identifier: GPL-2.0-only
"""A recording as something to walk through: one step per change of an SPTE, in the form of
`septum.report.html.stories`.

The trees hold what the lines said so far: entries that no line named are not there, such
as the children of a split huge page.  Trees that no event tells apart share their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from septum.kvm.versions import NPT, SpteFormat
from septum.report.layout import clean
from septum.trace.rules import describe_spte
from septum.trace.watch import Row

__all__ = ["AROUND", "recording_story", "window"]

AROUND: Final = 150
"""Changes before the first finding, and after it, that a page shows."""

Json = dict[str, Any]


def window(rows: Sequence[Row], findings: Sequence[int], around: int = AROUND) -> Sequence[Row]:
    """The changes around the line of the first finding; without one, the last ones."""
    at = len(rows) - 1
    if findings:
        at = next((n for n, row in enumerate(rows) if row.line >= findings[0]), at)
    return rows[max(at - around, 0) : at + around + 1]


def recording_story(
    rows: Sequence[Row], findings: Sequence[tuple[int, str]], fmt: SpteFormat | None = None
) -> Json:
    """The steps of a recording.

    :param rows: changes in the order of their lines.
    :param findings: line and text of each finding.
    """
    fmt = fmt or NPT
    tasks = list(dict.fromkeys(clean(row.task) for row in rows)) or ["nobody"]
    number = {task: n for n, task in enumerate(tasks)}
    said: dict[int, list[str]] = {}
    for line, text in findings:
        said.setdefault(line, []).append(clean(text))
    now: dict[str, str] = {}
    steps, marks = [], []
    for at, row in enumerate(rows):
        tree = f"as_id {row.as_id} " if row.as_id else ""
        old, new = (describe_spte(v, row.level, fmt) for v in (row.old, row.new))
        key = f"direct|{row.level}|{row.gfn:x}"
        if row.line in said:
            marks.append(at)
        steps.append(
            {
                "task": number[clean(row.task)],
                "text": f"{tree}gfn {row.gfn:x} level {row.level}: {old} -> {new}",
                "fn": "",
                "where": f"line {row.line}, {row.time:.6f}, CPU {row.cpu}",
                "line": row.line,
                "code": None,
                "told": said.get(row.line, []),
                "minor": False,
                "changes": [(key, new)] if now.get(key) != new else [],
            }
        )
        now[key] = new
    first = marks[0] if marks else max(len(steps) - 1, 0)
    return {
        "tasks": tasks,
        "levels": 4,
        "start": [],
        "steps": steps,
        "locks": [],
        "pair": [],
        "marks": marks,
        "first": first,
        "broken": first,
        "mail": "",
    }
