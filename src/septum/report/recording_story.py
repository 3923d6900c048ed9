# SPDX-License-Identifier: GPL-2.0-only
"""A recording as something to walk through: one step per change of an SPTE, in the form of
`septum.report.html.stories`.

The trees hold what the lines said so far, those before the first step too: entries that no line
named are not there, such as the children of a split huge page.  Trees that no event tells apart
share their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from septum.kvm.spte import is_shadow_present_pte
from septum.kvm.versions import FROZEN_VALUES, NPT, SpteFormat
from septum.report.layout import clean
from septum.trace.rules import describe_spte
from septum.trace.watch import Row

__all__ = ["AROUND", "before", "recording_story", "window"]

AROUND: Final = 2000
"""Changes on each side of the middle that a page of one recording shows: about 1.3 MB."""
_START: Final = 4000
"""Entries of the trees before the first step: more would not fit beside the steps."""

Json = dict[str, Any]
State = dict[str, str]


def window(rows: Sequence[Row], middle: int | None, around: int = AROUND) -> tuple[int, int]:
    """[first, end) of the changes around line ``middle``; without one, of the last ones.  Near
    an end of the recording there are more on the other side."""
    at = len(rows) - 1
    if middle is not None:
        at = next((n for n, row in enumerate(rows) if row.line >= middle), at)
    first = max(min(at - around, len(rows) - 2 * around - 1), 0)
    return first, min(first + 2 * around + 1, len(rows))


def before(rows: Sequence[Row], shown: Sequence[Row], fmt: SpteFormat) -> tuple[State, int]:
    """The entries that ``rows`` left present before ``shown``, and how many there is no room
    for: leafs of 2M ranges that ``shown`` does not touch go first."""
    state: dict[tuple[int, int], str] = {}
    for row in rows:
        if is_shadow_present_pte(row.new):
            state[row.level, row.gfn] = describe_spte(row.new, row.level, fmt)
        else:
            state.pop((row.level, row.gfn), None)
    touched = {row.gfn >> 9 for row in shown}
    order = sorted(state, key=lambda key: (key[0] == 1, key[1] >> 9 not in touched, key))
    kept = {f"direct|{level}|{gfn:x}": state[level, gfn] for level, gfn in order[:_START]}
    return kept, len(order) - len(kept)


def recording_story(
    rows: Sequence[Row],
    findings: Sequence[tuple[int, str]],
    fmt: SpteFormat | None = None,
    start: State | None = None,
) -> Json:
    """The steps of a recording.

    :param rows: changes in the order of their lines.
    :param findings: line and text of each finding.
    :param start: the trees before the first of ``rows``.
    """
    fmt = fmt or NPT
    tasks = list(dict.fromkeys(clean(row.task) for row in rows)) or ["nobody"]
    number = {task: n for n, task in enumerate(tasks)}
    said: dict[int, list[str]] = {}
    for line, text in findings:
        said.setdefault(line, []).append(clean(text))
    now: dict[str, str | None] = dict(start or {})
    begin = sorted(now.items())
    steps, marks = [], []
    for at, row in enumerate(rows):
        tree = f"as_id {row.as_id} " if row.as_id else ""
        old, new = (describe_spte(v, row.level, fmt) for v in (row.old, row.new))
        key = f"direct|{row.level}|{row.gfn:x}"
        left = None if row.new in FROZEN_VALUES else new  # its table is removed
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
                "changes": [(key, left)] if now.get(key) != left else [],
            }
        )
        now[key] = left
    first = marks[0] if marks else max(len(steps) - 1, 0)
    return {
        "tasks": tasks,
        "levels": 4,
        "start": begin,
        "steps": steps,
        "locks": [],
        "pair": [],
        "marks": marks,
        "first": first,
        "broken": first,
        "mail": "",
    }
