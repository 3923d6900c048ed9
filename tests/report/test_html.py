# SPDX-License-Identifier: GPL-2.0-only
"""The HTML report without a browser: what it must not let through, and its size."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import report_samples

from septum.report.html import Code, Told, page, story
from septum.report.html.page import MOST
from septum.report.html.stories import state_map

CE = report_samples.counterexample()
HOSTILE = '"><script>alert(1)</script></script><!--'


def told(design: str = "feb06", mail: str = "the mail") -> Told:
    data = story(CE, report_samples.replayed(), mail=mail, levels=3, code=Code())
    return Told(f"{design} breaks I1", [("finding", HOSTILE)], data)


def test_nothing_from_outside_becomes_markup() -> None:
    rows = [replace(r, design=HOSTILE, scenario=HOSTILE) for r in report_samples.results()]
    text = page(HOSTILE, results=rows, told=[told(HOSTILE, HOSTILE)], summary=HOSTILE)
    assert "<script>alert" not in text
    assert len(re.findall(r"</script", text)) == len(re.findall(r"<script", text)) == 2


def test_every_step_is_a_row_in_its_task_column() -> None:
    one = told()
    rows = re.findall(r"<tr(?: class=\"minor\")?><td>(\d+)</td>(.*?)</tr>", page("t", told=[one]))
    assert [int(at) for at, _ in rows] == list(range(len(one.data["steps"])))
    for (_, cells), step in zip(rows, one.data["steps"], strict=True):
        columns = re.findall(r"<td[^>]*>(.*?)</td>", cells)
        assert [bool(c) for c in columns] == [t == step["task"] for t in (0, 1)]


def test_stories_beyond_the_limit_are_plain_text() -> None:
    big = replace(told(), facts=[("finding", "x" * (MOST // 3))])
    text = page("t", told=[big] * 5)
    assert len(text) < 2_000_000 and text.count('class="viewer"') == 2
    assert text.count("<article") == 5


def test_states_are_kept_as_changes() -> None:
    replay = report_samples.replayed()
    data = story(CE, replay, mail="", levels=3, code=Code())
    now = dict(data["start"])
    for at, step in enumerate(data["steps"]):
        for key, text in step["changes"]:
            if text is None:
                del now[key]
            else:
                now[key] = text
        if at in replay.states:
            assert now == state_map(replay.states[at])


@pytest.mark.parametrize("value", ["rows", "stories"])
def test_an_empty_report_is_a_page(value: str) -> None:
    text = page("nothing", results=()) if value == "rows" else page("nothing", told=())
    assert text.endswith("</html>\n")
