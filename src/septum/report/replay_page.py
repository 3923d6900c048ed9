# SPDX-License-Identifier: GPL-2.0-only
"""Replays as one self-contained HTML file: plots, counts, findings, the text report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from septum import __version__
from septum.report.plots import replay_plots
from septum.report.replay_text import replay_lines
from septum.trace.result import ReplayResult

__all__ = ["replay_page"]

_CSS: Final = """
:root{color-scheme:light dark;--fg:#444;--bg:#fff;--line:#ccc}
@media(prefers-color-scheme:dark){:root{--fg:#ccc;--bg:#161616;--line:#444}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);
max-width:760px;margin:1rem auto;padding:0 1rem}
pre{overflow-x:auto;border:1px solid var(--line);padding:.5rem;font-size:13px}
table{border-collapse:collapse}td,th{border-bottom:1px solid var(--line);padding:.1rem .6rem;
text-align:left}td.n{text-align:right}
"""


def replay_page(results: Sequence[ReplayResult]) -> str:
    """The whole file, as text."""
    body = "".join(part for result in results for part in _recording(result))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>septum replay</title><style>{_CSS}</style></head><body>"
        f"<h1>septum replay</h1><p>septum {escape(__version__)}</p>{body}</body></html>\n"
    )


def _recording(result: ReplayResult) -> Iterator[str]:
    yield f"<section><h2>{escape(result.file)}</h2>"
    count = len(result.findings)
    yield f"<p><strong>Findings: {count or 'none'}</strong></p>"
    for heading, svg in replay_plots(result):
        yield f"<h3>{escape(heading)}</h3>{svg}"
    if any(result.summary.values()):
        yield "<h3>What happened</h3><table>"
        for heading, counts in result.summary.items():
            for what, number in sorted(counts.items(), key=lambda item: -item[1]):
                yield (
                    f"<tr><td>{escape(heading)}</td><td>{escape(what)}</td>"
                    f'<td class="n">{number}</td></tr>'
                )
        yield "</table>"
    text = "\n".join(replay_lines(result))
    yield f"<h3>Report</h3><pre>{escape(text)}</pre></section>"
