# SPDX-License-Identifier: GPL-2.0-only
"""The verdict table, what it sums up to, and the exit status of a check.

A verdict is never a bare "passed": each row says how it was earned.  Rows are grouped by
scenario, so that designs stand below each other; with one design only, the rows are its
scenarios.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from septum.explore import SearchResult
from septum.explore.estimate import left_text
from septum.report.layout import (
    WIDTH,
    Paint,
    clean,
    columns,
    duration,
    fill,
    number,
    plain,
    shorten,
)
from septum.scenarios.result import VERDICTS, CheckResult

__all__ = [
    "HYPOTHETICAL",
    "difference_lines",
    "exit_code",
    "how_earned",
    "progress_line",
    "searching_line",
    "summary_line",
    "verdict_counts",
    "verdict_table",
]

_INCONCLUSIVE = frozenset({"bounded", "sampled", "vacuous", "error"})
_LEAST_FINDING = 7
HYPOTHETICAL = "uses a hypothetical TDX Module feature"
_FOLDED = "r"
_HYPOTHETICAL = "h"
_MORE = "+"
_NOTES = {
    _FOLDED: "r: repeats of a failed attempt that nobody influenced are folded (--retries N)",
    _HYPOTHETICAL: f"h: {HYPOTHETICAL}",
    _MORE: "+n: n other rules broke as well (--wide names them)",
}


def how_earned(result: CheckResult) -> str:
    """``complete: 1234 executions``, ``bounded: ...``, ``sampled: ...``, ``stopped: ...``."""
    if result.verdict == "n/a":
        return "not run"
    runs = number(result.executions, "execution")
    if result.strategy == "stateful":
        runs = number(result.states, "state")
    if result.complete:
        return f"complete: {runs}"
    if result.strategy in ("random", "pct") or result.verdict == "sampled":
        return f"sampled: {runs}"
    if result.verdict == "error":
        return f"failed: {runs}"
    if result.verdict == "violated":
        return f"stopped: {runs}"
    return f"bounded: {runs}"


def exit_code(results: Sequence[CheckResult]) -> int:
    """1 if a rule broke, else 3 if anything is inconclusive, else 0.

    When nothing at all was checked (every row n/a), that is inconclusive too.
    """
    verdicts = {result.verdict for result in results}
    if "violated" in verdicts:
        return 1
    if verdicts & _INCONCLUSIVE or verdicts <= {"n/a"}:
        return 3
    return 0


def verdict_table(
    results: Sequence[CheckResult],
    *,
    files: Mapping[tuple[str, str], str] | None = None,
    width: int = WIDTH,
    wide: bool = False,
    paint: Paint = plain,
) -> str:
    """All rows.

    :param files: saved counterexample of a (design, scenario).
    :param wide: one line per row with every count, not bound to ``width``.
    """
    if not results:
        return "No rows.\n"
    if wide:
        lines = _wide(results, files or {}, paint)
    else:
        lines = _grouped(results, files or {}, width, paint)
    marks = "".join(_marks(r) + _MORE * bool(r.other_findings) for r in results)
    lines.append("")
    models = sorted({result.memory_model for result in results})
    lines += fill(f"memory model: {', '.join(map(clean, models))}", width)
    for mark, note in _NOTES.items():
        if mark in marks:
            lines += fill(note, width)
    return "\n".join(lines) + "\n"


def _grouped(
    results: Sequence[CheckResult],
    files: Mapping[tuple[str, str], str],
    width: int,
    paint: Paint,
) -> list[str]:
    by_scenario = len({r.design for r in results}) > 1
    groups: dict[str, list[CheckResult]] = {}
    for result in results:
        groups.setdefault(result.scenario if by_scenario else result.design, []).append(result)
    kind, other = ("scenario", "design") if by_scenario else ("design", "scenario")
    how = min(max(max(len(_how(r)) for r in results), len("how earned")), 31)
    room = width - 2 - 8 - how - 6 - 4 * 2
    label = min(
        max([len(other), *(len(_other(r, by_scenario)) for r in results)]), room - _LEAST_FINDING
    )
    found = room - label
    header = columns(
        [(other, "verdict", "how earned", "finding", "time")],
        indent="  ",
        widths=(label, 8, how, found, 6),
        right=(4,),
    )
    lines = list(header)
    for name, rows in groups.items():
        lines += ["", *fill(f"{kind} {clean(name)}", width)]
        for r in rows:
            name = _other(r, by_scenario)
            if len(name) > label:
                lines += fill(name, width, first="  ")
                name = ""
            cells = (
                name,
                f"{r.verdict:<8}",
                shorten(_how(r), how),
                _finding(r) if len(_finding(r)) <= found else "",
                "" if r.verdict == "n/a" else duration(r.seconds),
            )
            lines += columns(
                [cells],
                indent="  ",
                widths=(label, 8, how, found, 6),
                right=(4,),
                paint=_verdict_painter(paint, 1),
            )
            if len(_finding(r)) > found:
                lines += fill(f"finding: {_finding(r)}", width, first="      ")
            lines += _remarks(r, files, width)
    return lines


def _wide(
    results: Sequence[CheckResult], files: Mapping[tuple[str, str], str], paint: Paint
) -> list[str]:
    rows: list[Sequence[str]] = [
        (
            "design",
            "scenario",
            "verdict",
            "how earned",
            "finding",
            "time",
            "strategy",
            "model",
            "traces",
            "blocked",
            "steps",
            "also found",
            "parameters",
            "remarks",
        )
    ]
    for r in results:
        message = [clean(r.finding.message)] if r.finding is not None else []
        remarks = [*message, *(clean(text) for text in _texts(r))]
        saved = files.get((r.design, r.scenario), "")
        rows.append(
            (
                clean(r.design),
                clean(r.scenario),
                r.verdict,
                _how(r),
                _finding(r),
                duration(r.seconds),
                r.strategy,
                r.memory_model,
                str(r.traces),
                str(r.blocked),
                str(r.steps),
                " ".join(map(clean, r.other_findings)),
                clean(" ".join(f"{k}={v}" for k, v in r.params.items())),
                "; ".join([*remarks, *([clean(saved)] if saved else [])]),
            )
        )
    return columns(rows, right=(5, 8, 9, 10), paint=_verdict_painter(paint, 2))


def _verdict_painter(paint: Paint, at: int) -> Callable[[int, str], str]:
    """Colours the verdict's column by its verdict."""

    def cell(i: int, text: str) -> str:
        return paint(text.strip(), text) if i == at else text

    return cell


def _other(result: CheckResult, by_scenario: bool) -> str:
    return clean(result.design if by_scenario else result.scenario)


def _marks(result: CheckResult) -> str:
    return _FOLDED * result.retries_folded + _HYPOTHETICAL * result.hypothetical


def _how(result: CheckResult) -> str:
    marks = _marks(result)
    return how_earned(result) + (f" {marks}" if marks else "")


def _finding(result: CheckResult) -> str:
    if result.finding is None:
        return ""
    more = len(result.other_findings)
    return clean(result.finding.rule) + (f" +{more}" if more else "")


def _texts(result: CheckResult) -> list[str]:
    """What a reader must know beside the verdict."""
    texts = []
    if result.missing and result.verdict == "vacuous":
        texts.append("never occurred: " + "; ".join(result.missing))
    if result.bounds_hit:
        texts.append("bound hit: " + "; ".join(result.bounds_hit))
    if result.note:
        texts.append(result.note)
    return list(dict.fromkeys(texts))


def _remarks(result: CheckResult, files: Mapping[tuple[str, str], str], width: int) -> list[str]:
    lines = []
    for text in _texts(result):
        lines += fill(clean(text), width, first="      ")
    saved = files.get((result.design, result.scenario), "")
    if saved:
        lines += fill(f"counterexample: {clean(saved)}", width, first="      ")
    return lines


def summary_line(results: Sequence[CheckResult], seconds: float) -> str:
    """``12 rows: 9 holds, 2 violated, 1 n/a; 5321 executions in 12.3s``."""
    counts = Counter(result.verdict for result in results)
    parts = [f"{counts[v]} {v}" for v in VERDICTS if counts[v]]
    runs = sum(result.executions for result in results)
    head = number(len(results), "row")
    tail = f"{number(runs, 'execution')} in {duration(seconds)}"
    text = f"{head}: {', '.join(parts)}; {tail}" if parts else f"{head}; {tail}"
    return "\n".join(fill(text, WIDTH))


def difference_lines(differences: Sequence[str], path: str, *, width: int = WIDTH) -> list[str]:
    """What differs from the reviewed expectations in ``path``."""
    if not differences:
        return fill(clean(f"Every row is as reviewed in {path}."), width)
    lines = fill(clean(f"{number(len(differences), 'row')} not as reviewed in {path}:"), width)
    for difference in differences:
        lines += fill(clean(difference), width, first="  ", rest="      ")
    return lines


def progress_line(result: CheckResult, done: int, total: int) -> str:
    """One row as it is finished, for a log."""
    rule = f" {result.finding.rule}" if result.finding is not None else ""
    return clean(
        f"[{done}/{total}] {result.design} / {result.scenario}: "
        f"{result.verdict}{rule} ({how_earned(result)}, {duration(result.seconds)})"
    )


def searching_line(
    design: str, scenario: str, found: SearchResult, done: int = 0, total: int = 0
) -> str:
    """A row that is being explored, for a log; ``done`` of ``total`` rows are finished."""
    many = found.states or found.executions
    rate = f", {many / found.seconds:.0f}/s" if found.seconds else ""
    broke = f", broke {' '.join(found.found)}" if found.found else ""
    head = f"[{done}/{total}] " if total else ""
    runs = number(many, "state" if found.states else "execution")
    left = left_text(found)
    left = f"; {left}" if left else ""
    return clean(f"{head}{design} / {scenario}: {runs}{rate}{broke} so far{left}")


def verdict_counts(results: Iterable[CheckResult]) -> dict[str, int]:
    """How many rows have each verdict; every verdict is a key."""
    counts = Counter(result.verdict for result in results)
    return {verdict: counts[verdict] for verdict in VERDICTS}
