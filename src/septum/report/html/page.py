# SPDX-License-Identifier: GPL-2.0-only
"""One self-contained HTML file: no network, no other file, opened by double click.

The page can be read without JavaScript: verdicts, stories and lanes are plain HTML.  The
script adds what moves: the slider, the trees at a step, the copy button.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any, Final

from septum import __version__
from septum.report.html.stories import Code
from septum.report.layout import clean
from septum.report.verdicts import how_earned
from septum.scenarios.result import CheckResult

__all__ = ["MOST", "Told", "page"]

Json = dict[str, Any]

MOST: Final = 1_900_000
_OWN: Final = 30_000  # style and script


@dataclass(frozen=True, slots=True)
class Told:
    """Something to walk through: its data (`septum.report.html.stories`), and ``facts``,
    what is to be said of it: name and text.  ``row`` is the design and scenario whose
    verdict links to it."""

    title: str
    facts: Sequence[tuple[str, str]]
    data: Json
    row: tuple[str, str] = ("", "")


def page(
    title: str,
    *,
    results: Sequence[CheckResult] = (),
    told: Sequence[Told] = (),
    code: Code | None = None,
    sections: Iterable[str] = (),
    summary: str = "",
    stories: str = "Counterexamples",
) -> str:
    """The file's text.

    Stories that would make the file larger than `MOST` bytes are there as plain text.

    :param code: the source that the stories show.
    :param stories: the heading above the stories.
    :param sections: further parts as HTML, between the verdicts and the stories.
    """
    parts = [_matrix(results, told)] if results else []
    parts += sections
    data: Json = {"stories": {}, "code": code.blocks if code is not None else []}
    size = len(_script_json(data)) + sum(map(len, parts)) + _OWN
    if told:
        parts.append(f"<h2>{escape(stories)}</h2>")
    for n, t in enumerate(told):
        html = _story(n, t)
        needs = len(html) + len(_script_json(t.data))
        if size + needs <= MOST:
            data["stories"][n] = t.data
        else:
            html = _plain_story(n, t)
            needs = len(html)
        size += needs
        parts.append(html)
    return _PAGE.format(
        title=escape(clean(title)),
        summary=escape(clean(summary)),
        css=_resource("page.css"),
        body="\n".join(parts),
        version=escape(__version__),
        data=_script_json(data),
        js=_resource("page.js"),
    )


def _resource(name: str) -> str:
    return files("septum.report.html").joinpath(name).read_text(encoding="utf-8")


def _script_json(data: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="septum {version}">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{css}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{summary}</p>
<button type="button" data-go="theme" aria-label="Change between light and dark">Dark</button>
</header>
<main>
{body}
</main>
<footer>Made by septum {version}. A verdict says how it was earned; what the models leave out is
in septum's docs/fidelity.md.</footer>
<script type="application/json" id="septum-data">{data}</script>
<script>
{js}</script>
</body>
</html>
"""


# --- verdicts ---------------------------------------------------------------------------


def _matrix(results: Sequence[CheckResult], told: Sequence[Told]) -> str:
    designs = list(dict.fromkeys(r.design for r in results))
    scenarios = list(dict.fromkeys(r.scenario for r in results))
    rows = {(r.design, r.scenario): r for r in results}
    links = {t.row: n for n, t in enumerate(told)}
    head = "".join(f'<th scope="col">{escape(clean(d))}</th>' for d in designs)
    body = []
    for scenario in scenarios:
        cells = "".join(_cell(rows.get((d, scenario)), links) for d in designs)
        body.append(f'<tr><th scope="row">{escape(clean(scenario))}</th>{cells}</tr>')
    models = ", ".join(sorted({clean(r.memory_model) for r in results}))
    return (
        '<h2>Verdicts</h2>\n<div class="scroll" tabindex="0" role="region" aria-label="Verdicts">'
        f'<table class="matrix"><caption>Memory model {escape(models)}; &#8220;complete&#8221;: '
        "every interleaving was explored, up to the order of steps that commute.</caption>"
        f'<thead><tr><th scope="col">scenario</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(r: CheckResult | None, links: Mapping[tuple[str, str], int]) -> str:
    if r is None:
        return "<td></td>"
    word = escape(r.verdict)
    if r.finding is not None:
        rule = escape(clean(r.finding.rule))
        n = links.get((r.design, r.scenario))
        word = f"{word}: " + (f'<a href="#story-{n}">{rule}</a>' if n is not None else rule)
    notes = [how_earned(r)]
    if r.retries_folded:
        notes.append("retries folded")
    if r.hypothetical:
        notes.append("hypothetical module feature")
    small = escape("; ".join(notes))
    return f'<td class="{escape(r.verdict.replace("/", ""))}">{word}<small>{small}</small></td>'


# --- stories ----------------------------------------------------------------------------


def _head(n: int, t: Told) -> str:
    return (
        f'<article class="story" id="story-{n}" aria-labelledby="story-{n}-title">\n'
        f'<h3 id="story-{n}-title">{escape(clean(t.title))}</h3>\n'
    )


def _plain_story(n: int, t: Told) -> str:
    text = escape(t.data["mail"])
    return f'{_head(n, t)}<pre class="scroll" tabindex="0">{text}</pre></article>'


def _story(n: int, t: Told) -> str:
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(clean(text))}</dd>" for name, text in t.facts if text
    )
    data = t.data
    last = len(data["steps"]) - 1
    return f"""{_head(n, t)}<dl>{facts}</dl>
<div class="controls" role="group" aria-label="Walk through the interleaving">
<button type="button" data-go="back" aria-label="One step back">&#9664;</button>
<button type="button" data-go="on" aria-label="One step on">&#9654;</button>
<input type="range" min="0" max="{last}" value="{data["first"]}" aria-label="Step">
<output></output>
<button type="button" data-go="broken">Where it breaks</button>
<button type="button" data-go="brief" aria-pressed="true">Only what matters</button>
<button type="button" data-go="copy">Copy as mail text</button>
</div>
<div class="viewer">
<div class="lanes brief" tabindex="0" role="region" aria-label="Interleaving {n}, arrow keys move">
{_lanes(data)}
</div>
<div class="side">
<section><h3>Trees</h3>
<div class="scroll" tabindex="0" role="region" aria-label="Trees {n}"><table class="tree">
<caption>Underlined: changed by this step</caption>
<thead><tr></tr></thead><tbody></tbody></table></div></section>
<section><h3>Code</h3><p class="where mono"></p><pre class="source" tabindex="0"></pre></section>
<section><h3>Told at this step</h3><ul class="told mono"></ul></section>
<section><h3>Locks</h3><ul class="locks mono"></ul></section>
<section><h3>vCPUs and epoch</h3><ul class="cpu mono"></ul></section>
</div>
</div>
<p class="sr" aria-live="polite"></p>
</article>"""


def _lanes(data: Json) -> str:
    names = data["tasks"]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    inside: dict[int, str] = {}
    rows = []
    for at, step in enumerate(data["steps"]):
        task = step["task"]
        function = step["fn"] if step["fn"] != inside.get(task) else ""
        inside[task] = step["fn"]
        label = f'<span class="fn mono">{escape(function)}()</span>' if function else ""
        racing, broken = at in data["pair"], at in data["marks"]
        kinds = " ".join(["racing"] * racing + ["broken"] * broken)
        text = f"{label}{escape(step['text'])}"
        if broken:
            text += ' <span class="mark">rule broken here</span>'
        if racing:
            text += ' <span class="mark">racing pair</span>'
        cells = "".join(
            f'<td class="mono {kinds}">{text}</td>' if t == task else "<td></td>"
            for t in range(len(names))
        )
        minor = ' class="minor"' if step["minor"] else ""
        rows.append(f"<tr{minor}><td>{at}</td>{cells}</tr>")
    return (
        f'<table><thead><tr><th scope="col">step</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
