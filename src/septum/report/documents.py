# SPDX-License-Identifier: GPL-2.0-only
"""Results as JSON objects: ``septum``, ``command``, ``results``, ``summary``.

The schemas are in docs/schemas.  A key is never left out: what a row does not have is
null, empty or 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from septum import __version__
from septum.machine import Finding
from septum.report.compare import differing
from septum.report.verdicts import exit_code, verdict_counts
from septum.scenarios.result import CheckResult
from septum.trace import ReplayResult
from septum.trace.watch import Row

__all__ = [
    "check_document",
    "compare_document",
    "document",
    "dump",
    "replay_document",
    "replay_look_document",
    "replay_status",
]

Files = Mapping[tuple[str, str], str]
Others = Mapping[tuple[str, str], Sequence[str]]


def document(
    command: str, results: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> dict[str, Any]:
    """The envelope that every command shares."""
    return {
        "septum": __version__,
        "command": command,
        "results": list(results),
        "summary": dict(summary),
    }


def check_document(
    results: Sequence[CheckResult],
    *,
    seconds: float,
    files: Files | None = None,
    others: Others | None = None,
    differences: Sequence[str] | None = None,
    interrupted: bool = False,
) -> dict[str, Any]:
    """``septum check``.  ``differences`` are those to ``--expect FILE``, null without it.

    :param files: where the counterexample of a row is saved; ``others``: its `CheckResult.others`.
    """
    summary = _summary(results, seconds, interrupted)
    summary["differences"] = None if differences is None else list(differences)
    return document("check", [_row(r, files or {}, others or {}) for r in results], summary)


def compare_document(
    results: Sequence[CheckResult],
    *,
    seconds: float,
    files: Files | None = None,
    others: Others | None = None,
    interrupted: bool = False,
) -> dict[str, Any]:
    """``septum compare``.  ``differing`` are the scenarios on which the designs part."""
    summary = _summary(results, seconds, interrupted)
    summary["differing"] = differing(results)
    return document("compare", [_row(r, files or {}, others or {}) for r in results], summary)


def replay_document(results: Sequence[ReplayResult]) -> dict[str, Any]:
    """``septum replay``."""
    summary = {
        "files": len(results),
        "events": sum(r.event_count for r in results),
        "findings": sum(len(r.findings) for r in results),
        "partial": sum(r.partial for r in results),
        "status": replay_status(results),
    }
    rows = [r.to_json() | {"history": None, "trees": None} for r in results]
    return document("replay", rows, summary)


def replay_look_document(
    result: ReplayResult, history: Sequence[Row] | None, trees: Sequence[dict[str, Any]] | None
) -> dict[str, Any]:
    """``septum replay`` with ``--gfn`` (``history``) or ``--at`` (``trees``)."""
    out = replay_document([result])
    (recording,) = out["results"]
    if history is not None:
        recording["history"] = [
            asdict(row) | {"old": f"{row.old:x}", "new": f"{row.new:x}"} for row in history
        ]
    if trees is not None:
        recording["trees"] = list(trees)
    return out


def replay_status(results: Sequence[ReplayResult]) -> int:
    """1 for a finding, else 3 if some file is damaged or cut, else 0.  Lost events and
    lines that cannot be read are normal in recordings; they are reported, not judged."""
    if any(r.findings for r in results):
        return 1
    return 3 if any(r.cut for r in results) else 0


def dump(doc: Mapping[str, Any]) -> str:
    """One JSON object, readable, ASCII."""
    return json.dumps(doc, indent=2, ensure_ascii=True) + "\n"


def _summary(results: Sequence[CheckResult], seconds: float, interrupted: bool) -> dict[str, Any]:
    return {
        "rows": len(results),
        "verdicts": verdict_counts(results),
        "executions": sum(r.executions for r in results),
        "seconds": round(seconds, 3),
        "status": exit_code(results),
        "interrupted": interrupted,
    }


def _row(r: CheckResult, files: Files, others: Others) -> dict[str, Any]:
    return {
        "design": r.design,
        "scenario": r.scenario,
        "params": {name: _json(value) for name, value in r.params.items()},
        "verdict": r.verdict,
        "complete": r.complete,
        "finding": None if r.finding is None else _finding(r.finding),
        "strategy": r.strategy,
        "memory_model": r.memory_model,
        "executions": r.executions,
        "traces": r.traces,
        "blocked": r.blocked,
        "retries_folded": r.retries_folded,
        "bounds_hit": list(r.bounds_hit),
        "reached": sorted(r.reached),
        "seconds": round(r.seconds, 3),
        "counterexample": files.get((r.design, r.scenario)),
        "other_findings": list(r.other_findings),
        "other_counterexamples": _others(r, others.get((r.design, r.scenario), ())),
        "missing": list(r.missing),
        "note": r.note,
        "hypothetical": r.hypothetical,
        "steps": r.steps,
        **({"states": r.states, "transitions": r.transitions} if r.states else {}),
    }


def _others(r: CheckResult, paths: Sequence[str]) -> list[dict[str, Any]]:
    saved: Sequence[str | None] = paths or [None] * len(r.others)
    return [
        {"finding": _finding(ce.finding), "counterexample": path}
        for ce, path in zip(r.others, saved, strict=True)
    ]


def _finding(f: Finding) -> dict[str, Any]:
    out = {"id": f.rule, "message": f.message, "step": f.step, "task": f.task, "object": f.obj}
    return {**out, "since": f.since} if f.since >= 0 else out


def _json(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)
