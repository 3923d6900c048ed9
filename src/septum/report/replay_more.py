# SPDX-License-Identifier: GPL-2.0-only
"""The other views of a replay as text: a GFN's history, the trees, two recordings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from septum.kvm.versions import FORMATS, NPT, SpteFormat
from septum.report.replay_text import WIDTH
from septum.trace.result import LEVEL_NAMES, ReplayResult
from septum.trace.rules import describe_spte
from septum.trace.watch import Row, vm_name

__all__ = ["comparison_lines", "history_lines"]

_NAME: Final = 44


def history_lines(rows: Sequence[Row], more: int, result: ReplayResult, gfn: int) -> Iterator[str]:
    """Every change that touches a GFN, by VM and in order of the lines."""
    fmt = FORMATS.get(result.format or "", NPT)
    yield f"gfn {gfn:x}: {len(rows) + more} changes"
    vms = sorted({row.vm for row in rows}, key=lambda vm: (not vm, vm))
    for vm in vms:
        if result.vms > 1:
            yield f"by tasks of {vm_name(vm)}"
        yield from _changes([row for row in rows if row.vm == vm], fmt)
    if more:
        yield f"  and {more} more"


def _changes(rows: Sequence[Row], fmt: SpteFormat) -> Iterator[str]:
    for row in rows:
        old, new = (describe_spte(value, row.level, fmt) for value in (row.old, row.new))
        who = f"{row.line:>9} {row.time:>14.6f} {row.cpu:>3} {row.task[:20]:<20}"
        yield who[:WIDTH]
        yield f"{'':9} as_id {row.as_id} L{row.level} gfn {row.gfn:x}: {old} -> {new}"[:WIDTH]


def comparison_lines(one: ReplayResult, two: ReplayResult) -> Iterator[str]:
    """What two recordings show, side by side; equal rows are left out."""
    yield f"A: {one.file}"[:WIDTH]
    yield f"B: {two.file}"[:WIDTH]
    yield ""
    yield f"{'':<{_NAME}} {'A':>14} {'B':>14}"
    same = 0
    for name, a, b in _rows(one, two):
        if a == b:
            same += 1
            continue
        yield f"{name[:_NAME]:<{_NAME}} {a:>14} {b:>14}"
    yield f"equal rows left out: {same}"


def _rows(one: ReplayResult, two: ReplayResult) -> Iterator[tuple[str, str, str]]:
    yield "kernel", str(one.kernel), str(two.kernel)
    yield "seconds", f"{_seconds(one):.3f}", f"{_seconds(two):.3f}"
    yield "lost events", str(one.lost_events), str(two.lost_events)
    for name in sorted({*one.events, *two.events}):
        yield name, str(one.events.get(name, 0)), str(two.events.get(name, 0))
    for level, name in enumerate(LEVEL_NAMES):
        yield f"peak {name} leafs", str(one.peak[level]), str(two.peak[level])
    for heading in one.summary:
        a, b = one.summary[heading], two.summary.get(heading, {})
        for what in sorted({*a, *b}):
            yield f"{heading}: {what}", str(a.get(what, 0)), str(b.get(what, 0))
    rules = sorted({f.rule for f in one.findings} | {f.rule for f in two.findings})
    for rule in rules:
        counts = [str(sum(f.rule == rule for f in r.findings)) for r in (one, two)]
        yield f"findings of {rule}", counts[0], counts[1]


def _seconds(result: ReplayResult) -> float:
    return result.last_time - result.first_time
