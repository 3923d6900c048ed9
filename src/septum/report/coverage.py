# SPDX-License-Identifier: GPL-2.0-only
"""``septum coverage`` as text and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from septum.report.documents import document
from septum.report.layout import WIDTH, clean, columns, duration, fill, number
from septum.scenarios.coverage import Item, Measured
from septum.scenarios.coverage_review import Reviewed

__all__ = ["coverage_document", "coverage_text"]


def coverage_text(
    measured: Measured, reviewed: Reviewed, seconds: float, *, file: str, explained: bool
) -> str:
    """What was run, counts, what has no reason, stale reasons.

    :param explained: also list what has a reason.
    """
    lines = _what_was_run(measured, seconds)
    lines += ["", *_counts(measured)]
    if reviewed.unexplained:
        lines += ["", *fill(f"Never reached, and without a reason in {clean(file)}:", WIDTH)]
        lines += _items(reviewed.unexplained)
    if reviewed.stale:
        text = f"Stale reasons in {clean(file)} (reached by now, or gone):"
        lines += ["", *fill(text, WIDTH)]
        for reason in reviewed.stale:
            lines += fill(clean(f"{reason.kind} {reason}"), WIDTH, first="  ", rest="    ")
    if explained:
        lines += ["", "Never reached, with a reason:"]
        for reason, pairs in groupby(reviewed.explained, key=lambda pair: pair[1]):
            lines += fill(clean(reason.reason), WIDTH, first="  ")
            lines += _items([item for item, _ in pairs], "    ")
    lines += ["", _summary(reviewed)]
    return "\n".join(lines) + "\n"


def _what_was_run(measured: Measured, seconds: float) -> list[str]:
    designs = {design for design, _ in measured.rows}
    scenarios = {scenario for _, scenario in measured.rows}
    limit = measured.max_executions
    text = (
        f"{number(len(measured.rows), 'row')} ({number(len(designs), 'design')}, "
        f"{number(len(scenarios), 'scenario')}), "
        f"{number(measured.executions, 'execution')} in {duration(seconds)}"
    )
    if limit > 0:
        text += f"; each row at most {number(limit, 'execution')}"
    if measured.bounded:
        text += f"; {number(measured.bounded, 'row')} not explored to the end"
    return fill(text, WIDTH)


def _counts(measured: Measured) -> list[str]:
    rows: list[tuple[str, ...]] = [("", "reached", "of")]
    groups: dict[str, list[bool]] = {}
    for item, reached in measured.items.items():
        name = "SEAMCALL statuses" if item.kind == "status" else f"{_package(item)} branches"
        groups.setdefault(name, []).append(reached)
    rows += [(name, str(sum(got)), str(len(got))) for name, got in groups.items()]
    return columns(rows, indent="  ", right=(1, 2))


def _package(item: Item) -> str:
    return f"{item.where.partition('.')[0]}/"


def _items(items: list[Item], indent: str = "  ") -> list[str]:
    lines: list[str] = []
    for where, group in groupby(items, key=lambda item: item.where):
        found = list(group)
        at = f" ({found[0].line})" if found[0].line else ""
        lines += fill(clean(f"{where}{at}"), WIDTH, first=indent, rest=indent + "  ")
        for item in found:
            lines += fill(clean(item.what), WIDTH, first=indent + "  ", rest=indent + "      ")
    return lines


def _summary(reviewed: Reviewed) -> str:
    return (
        f"never reached: {len(reviewed.explained)} with a reason, "
        f"{len(reviewed.unexplained)} without; {number(len(reviewed.stale), 'stale reason')}"
    )


def coverage_document(measured: Measured, reviewed: Reviewed, seconds: float) -> dict[str, Any]:
    """The JSON object (docs/schemas/coverage.json)."""
    results = [_item(item, "unexplained", "") for item in reviewed.unexplained]
    results += [_item(item, "explained", r.reason) for item, r in reviewed.explained]
    for stale in reviewed.stale:
        item = Item(stale.kind, stale.where, stale.what)
        results.append(_item(item, "stale", stale.reason))
    summary = {
        "rows": len(measured.rows),
        "executions": measured.executions,
        "max_executions": measured.max_executions,
        "bounded_rows": measured.bounded,
        "branches": _count(measured, "branch"),
        "statuses": _count(measured, "status"),
        "returned": [
            {"call": call, "status": status, "by": sorted(who)}
            for (call, status), who in sorted(measured.by.items())
        ],
        "explained": len(reviewed.explained),
        "unexplained": len(reviewed.unexplained),
        "stale": len(reviewed.stale),
        "seconds": round(seconds, 3),
        "status": reviewed.status,
    }
    return document("coverage", results, summary)


def _item(item: Item, state: str, reason: str) -> Mapping[str, Any]:
    return {
        "kind": item.kind,
        "where": item.where,
        "what": item.what,
        "line": item.line or None,
        "state": state,
        "reason": reason,
    }


def _count(measured: Measured, kind: str) -> dict[str, int]:
    reached = [got for item, got in measured.items.items() if item.kind == kind]
    return {"reached": sum(reached), "all": len(reached)}
