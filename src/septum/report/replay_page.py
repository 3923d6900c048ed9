# SPDX-License-Identifier: GPL-2.0-only
"""Replays as one self-contained HTML file: plots, counts, findings, the text report, and the
changes around the first finding to walk through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from septum.kvm.versions import FORMATS, NPT
from septum.report.html import Told, page
from septum.report.layout import number
from septum.report.plots import replay_plots
from septum.report.recording_story import AROUND, before, recording_story, window
from septum.report.replay_text import replay_lines
from septum.trace.result import ReplayResult
from septum.trace.watch import Row

__all__ = ["replay_page"]


def replay_page(
    results: Sequence[ReplayResult], changes: Sequence[Sequence[Row]], middle: int | None = None
) -> str:
    """The whole file, as text.

    :param changes: of each recording, in the order of its lines.
    :param middle: line around which the changes to walk through lie; None: the first finding's.
    """
    pairs = [(r, rows) for r, rows in zip(results, changes, strict=True) if rows]
    told = [_story(r, rows, middle, AROUND // len(pairs)) for r, rows in pairs]
    found = sum(len(r.findings) for r in results)
    return page(
        "septum replay",
        told=told,
        stories="Changes to walk through",
        sections=["".join(_recording(n, result)) for n, result in enumerate(results)],
        summary=f"{number(len(results), 'recording')}, {number(found, 'finding')}",
    )


def _story(result: ReplayResult, rows: Sequence[Row], middle: int | None, around: int) -> Told:
    fmt = FORMATS.get(result.format or "", NPT)
    findings = [(f.line, f"{f.rule}: {f.message}") for f in result.findings]
    if middle is not None:
        where = f"around line {middle}"
    elif findings:
        middle, where = findings[0][0], "around the first finding"
    else:
        where = "the last ones; there is no finding"
    first, end = window(rows, middle, around)
    shown = rows[first:end]
    start, left_out = before(rows[:first], shown, fmt)
    lines = f"line {shown[0].line} to line {shown[-1].line}"
    more = "" if len(shown) == len(rows) else ". Others: --around LINE"
    facts = [
        ("recording", result.file),
        ("changes shown", f"{len(shown)} of {len(rows)}, {lines}: {where}{more}"),
        *(("finding", f"line {line}: {text}") for line, text in findings[:5]),
        ("not seen", "; ".join(result.unobservable[:3])),
    ]
    if left_out:
        facts.insert(2, ("trees at the first one", f"without {left_out} entries far from them"))
    title = f"Changes of {result.file}"
    data = recording_story(shown, findings, fmt, start)
    if middle is not None:
        data["first"] = next((n for n, r in enumerate(shown) if r.line >= middle), len(shown) - 1)
    return Told(title, facts, data)


def _recording(n: int, result: ReplayResult) -> Iterator[str]:
    yield f'<section aria-labelledby="recording-{n}">'
    yield f'<h2 id="recording-{n}">{escape(result.file)}</h2>'
    count = len(result.findings)
    yield f"<p><strong>Findings: {count or 'none'}</strong></p>"
    for heading, svg in replay_plots(result):
        yield f'<h3>{escape(heading)}</h3><div class="plot">{svg}</div>'
    if any(result.summary.values()):
        yield "<h3>What happened</h3><table><thead><tr>"
        yield '<th scope="col">kind</th><th scope="col">what</th><th scope="col">times</th>'
        yield "</tr></thead><tbody>"
        for heading, counts in result.summary.items():
            for what, times in sorted(counts.items(), key=lambda item: -item[1]):
                yield (
                    f"<tr><td>{escape(heading)}</td><td>{escape(what)}</td>"
                    f'<td class="n">{times}</td></tr>'
                )
        yield "</tbody></table>"
    text = "\n".join(replay_lines(result))
    label = f'tabindex="0" role="region" aria-label="Report {n}"'
    yield f'<h3>Report</h3><div class="scroll" {label}><pre>{escape(text)}</pre></div></section>'
