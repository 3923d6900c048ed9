# SPDX-License-Identifier: GPL-2.0-only
"""Counterexamples as files: replayed, and every way in which a file can be bad."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from septum.scenarios.check import check
from septum.scenarios.counterexample import BadCounterexample, Diverged, load, replay, save


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    row = check("feb06", "install-accept")
    assert row.verdict == "violated" and row.counterexample is not None
    path = tmp_path_factory.mktemp("ce") / "i4.json"
    save(row.counterexample, path)
    return path


def test_round_trip_and_replay(saved: Path) -> None:
    ce = load(saved)
    again = replay(ce)
    assert again.findings[0].rule == ce.finding.rule == "I4"
    assert again.pair is not None, "some race decides it"
    first, second = again.pair
    assert first < second <= ce.finding.step
    assert again.events[first].task != again.events[second].task


def test_the_same_counterexample_every_time(saved: Path) -> None:
    row = check("feb06", "install-accept")
    assert row.counterexample is not None
    assert row.counterexample == load(saved)


def test_states_show_both_trees(saved: Path) -> None:
    again = replay(load(saved), states=True)
    assert again.states
    last = again.states[max(again.states)]
    assert last["mirror"] and last["sept"]


def _edit(path: Path, tmp: Path, **changes: object) -> Path:
    data = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del data[key]
        else:
            data[key] = value
    out = tmp / "edited.json"
    out.write_text(json.dumps(data))
    return out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"design": None}, "'design' is missing"),
        ({"decisions": "none"}, "'decisions' should be a JSON list"),
        ({"decisions": [[0, 0]]}, r"decisions\[0\] should be"),
        ({"decisions": [[0, -1, "a", "b", "c", "d"]]}, r"decisions\[0\] should be"),
        ({"format": 99}, "newer than this septum reads"),
        ({"finding": {"id": "I4"}}, "finding: 'message' is missing"),
    ],
)
def test_edited_files(
    saved: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(BadCounterexample, match=message):
        load(_edit(saved, tmp_path, **changes))


def test_cut_file_names_line_and_column(saved: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.json"
    cut.write_text(saved.read_text()[:200])
    with pytest.raises(BadCounterexample, match=r"cut\.json:\d+:\d+: not complete JSON"):
        load(cut)


def test_not_a_counterexample(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("[1, 2]")
    with pytest.raises(BadCounterexample, match="a JSON object was expected"):
        load(other)
    with pytest.raises(BadCounterexample, match="cannot be read"):
        load(tmp_path / "missing.json")


def test_a_schedule_that_no_longer_fits_names_the_step(saved: Path, tmp_path: Path) -> None:
    data = json.loads(saved.read_text())
    rows = data["decisions"]
    rows[3][5] = "some other object"
    with pytest.raises(Diverged, match=r"step 3: recorded .*some other object.*--from"):
        replay(load(_edit(saved, tmp_path, decisions=rows)))


def test_a_task_that_does_not_exist(saved: Path, tmp_path: Path) -> None:
    data = json.loads(saved.read_text())
    data["decisions"][0][0] = 7
    with pytest.raises(Diverged, match="there is no task 7"):
        replay(load(_edit(saved, tmp_path, decisions=data["decisions"])))


def test_the_minimised_schedule_is_short(saved: Path) -> None:
    """Quality: two tasks need no more than a handful of switches for this finding."""
    ce = load(saved)
    tasks = [d.task for d in ce.decisions]
    assert sum(a != b for a, b in pairwise(tasks)) <= 4
