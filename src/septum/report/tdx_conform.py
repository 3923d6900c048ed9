# SPDX-License-Identifier: GPL-2.0-only
"""What `septum.tdx.conform` found, as text and as JSON; the profiles of the module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from septum.report.documents import document
from septum.report.layout import WIDTH, clean, columns, facts, fill, number, shorten
from septum.tdx.conform import Disagreement, Report
from septum.tdx.profiles import PROFILES, Profile, hypothetical_resize

__all__ = ["conform_document", "conform_lines", "conform_status", "profile_lines"]

_SHOWN_BAD_LINES = 20
_RESULT_WIDTH = 54


def conform_status(reports: Sequence[Report]) -> int:
    """2 if a file holds nothing that could be checked, else 1 for a disagreement, else 3 if
    some line could not be checked, else 0."""
    if any(not r.finals for r in reports):
        return 2
    if any(r.agreed < r.steps or r.finals_agreed < r.finals for r in reports):
        return 1
    return 3 if any(r.bad_lines for r in reports) else 0


def conform_document(reports: Sequence[Report]) -> dict[str, Any]:
    """``septum tdx conform --format json``."""
    summary = {
        "files": len(reports),
        "sequences": sum(r.sequences for r in reports),
        "steps": sum(r.steps for r in reports),
        "agreed": sum(r.agreed for r in reports),
        "finals": sum(r.finals for r in reports),
        "finals_agreed": sum(r.finals_agreed for r in reports),
        "bad_lines": sum(len(r.bad_lines) for r in reports),
        "status": conform_status(reports),
    }
    return document("tdx conform", [r.as_dict() for r in reports], summary)


def conform_lines(report: Report, *, brief: bool = False, shown: int = 5) -> list[str]:
    """One file's agreement per call and recorded result, and what disagrees.

    :param brief: calls only.
    :param shown: how many disagreements to print in full.
    """
    return [
        *fill(clean(report.file), WIDTH),
        *fill(_summary(report), WIDTH, first="  "),
        *_table(report, brief),
        *_bad_lines(report),
        *_disagreements(report, shown),
    ]


def _summary(report: Report) -> str:
    if not report.steps:
        return "nothing in it could be checked"
    return (
        f"{number(report.sequences, 'sequence')}: "
        f"{report.agreed} of {number(report.steps, 'step')} agree"
        f" ({_percent(report.agreed, report.steps)}),"
        f" {report.finals_agreed} of {number(report.finals, 'final state')}"
    )


def _percent(part: int, whole: int) -> str:
    """Rounded down, so that 100 % means all."""
    return f"{part * 1000 // whole / 10:g} %"


def _table(report: Report, brief: bool) -> Iterator[str]:
    if not report.by_call:
        return
    yield ""
    rows: list[Sequence[str]] = [("call, recorded result", "steps", "agree", "")]
    for call, results in sorted(report.by_call.items()):
        rows.append(_row(clean(call), *_total(results)))
        if not brief:
            for result, (steps, agreed) in sorted(results.items()):
                name = f"  {clean(result).replace('TDX_', '')}"
                rows.append(_row(shorten(name, _RESULT_WIDTH), steps, agreed))
    rows.append(_row("all", report.steps, report.agreed))
    yield from columns(rows, indent="  ", right=(1, 2, 3))


def _total(results: dict[str, list[int]]) -> tuple[int, int]:
    return sum(n[0] for n in results.values()), sum(n[1] for n in results.values())


def _row(name: str, steps: int, agreed: int) -> tuple[str, str, str, str]:
    return name, str(steps), str(agreed), "" if agreed == steps else _percent(agreed, steps)


def _bad_lines(report: Report) -> Iterator[str]:
    if not report.bad_lines:
        return
    yield ""
    yield f"  Not checked: {number(len(report.bad_lines), 'line')}"
    for bad in report.bad_lines[:_SHOWN_BAD_LINES]:
        yield from fill(clean(bad), WIDTH, first="    ", rest="      ")
    if len(report.bad_lines) > _SHOWN_BAD_LINES:
        yield f"    and {len(report.bad_lines) - _SHOWN_BAD_LINES} more"


def _disagreements(report: Report, shown: int) -> Iterator[str]:
    if not report.disagreements or not shown:
        return
    yield ""
    yield "  First disagreements (after it a sequence's states have diverged)"
    for found in report.disagreements[:shown]:
        yield ""
        yield from _disagreement(found)
    left = len(report.disagreements) - shown
    if left > 0:
        yield f"  and {left} more (--show N shows more, --format json has them)"


def _disagreement(found: Disagreement) -> Iterator[str]:
    for line in str(found).split("\n"):
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        yield from fill(clean(line), WIDTH, first=indent, rest=indent + " " * 9)


# --- profiles ----------------------------------------------------------------------------------


def profile_lines() -> list[str]:
    """Every profile: where it comes from, how it differs from the first, what is unknown."""
    base, *others = PROFILES.values()
    lines: list[str] = []
    for profile in (base, *others, hypothetical_resize(base)):
        lines += [str(profile), *_profile(profile, base), ""]
    return lines[:-1]


def _profile(profile: Profile, base: Profile) -> list[str]:
    differences = [
        _difference(f.name, getattr(profile, f.name))
        for f in fields(Profile)
        if f.name not in ("name", "source", "unknown")
        and getattr(profile, f.name) != getattr(base, f.name)
    ]
    told = "; ".join(differences) or "every rule of the model"
    pairs = [("source", profile.source)]
    pairs += [("differs" if differences else "checked", told)]
    if profile.hypothetical:
        pairs[0] = ("source", "none: no such module is known; a question, not a claim")
    pairs += [("unknown", text) for text in profile.unknown]
    return facts(pairs)


def _difference(name: str, value: Any) -> str:
    return {
        "vp_init_versions": f"TDH.VP.INIT versions {_numbers(value)}",
        "vp_init_tdr_exclusive": "TDH.VP.INIT version 1 takes the TDR exclusive",
        "non_recoverable_td": f"TDX_NON_RECOVERABLE_TD is {value:#x}"
        if isinstance(value, int)
        else "",
        "nonblocking_resize": "TDH.MEM.PAGE.DEMOTE needs neither BLOCK nor TRACK",
        "demote_interruptible": "TDH.MEM.PAGE.DEMOTE cannot be interrupted",
    }.get(name) or f"{name} {value}"


def _numbers(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
