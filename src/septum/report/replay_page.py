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
from septum.report.recording_story import recording_story, window
from septum.report.replay_text import replay_lines
from septum.trace.result import ReplayResult
from septum.trace.watch import Row

__all__ = ["replay_page"]


def replay_page(results: Sequence[ReplayResult], changes: Sequence[Sequence[Row]]) -> str:
    """The whole file, as text.

    :param changes: of each recording, in the order of its lines.
    """
    told = [_story(r, rows) for r, rows in zip(results, changes, strict=True) if rows]
    found = sum(len(r.findings) for r in results)
    return page(
        "septum replay",
        told=told,
        stories="Changes to walk through",
        sections=["".join(_recording(n, result)) for n, result in enumerate(results)],
        summary=f"{number(len(results), 'recording')}, {number(found, 'finding')}",
    )


def _story(result: ReplayResult, rows: Sequence[Row]) -> Told:
    findings = [(f.line, f"{f.rule}: {f.message}") for f in result.findings]
    shown = window(rows, [line for line, _ in findings])
    first = f"line {shown[0].line} to line {shown[-1].line}"
    where = "around the first finding" if findings else "the last ones; there is no finding"
    facts = [
        ("recording", result.file),
        ("changes shown", f"{len(shown)} of {len(rows)}, {first}: {where}"),
        *(("finding", f"line {line}: {text}") for line, text in findings[:5]),
        ("not seen", "; ".join(result.unobservable[:3])),
    ]
    fmt = FORMATS.get(result.format or "", NPT)
    title = f"Changes of {result.file}"
    return Told(title, facts, recording_story(shown, findings, fmt))


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
