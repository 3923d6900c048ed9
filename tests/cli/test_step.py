# SPDX-License-Identifier: GPL-2.0-only
"""``septum step``: the stepper driven by keys, without a terminal."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from septum.cli import main
from septum.cli.step import recording_walk, story_walk
from septum.cli.stepper import Stepper
from septum.report.walk import BadBreakpoint, Walk, parse_breakpoint

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "reread-sptep.json"


@pytest.fixture(scope="module")
def walk() -> Walk:
    return story_walk(EXAMPLE)


def drive(walk: Walk, keys: Callable[[Pilot[None], Stepper], Awaitable[None]]) -> Stepper:
    app = Stepper(walk)

    async def run() -> None:
        async with app.run_test(size=(140, 45)) as pilot:
            await keys(pilot, app)

    asyncio.run(run())
    return app


def text(app: Stepper, where: str) -> str:
    return str(app.query_one(f"#{where}", Static).render())


def test_it_begins_where_the_rule_breaks(walk: Walk) -> None:
    async def keys(pilot: Pilot[None], app: Stepper) -> None:
        await pilot.pause()
        assert app.at == walk.first
        assert f"step {walk.first} of" in text(app, "status")
        lanes = app.query_one("#lanes", DataTable)
        assert lanes.row_count == len(walk) and lanes.cursor_row == walk.first
        assert "rule broken here" in str(lanes.get_row_at(walk.first))

    drive(walk, keys)


def test_keys_move_and_the_panes_follow(walk: Walk) -> None:
    async def keys(pilot: Pilot[None], app: Stepper) -> None:
        await pilot.press("home")
        assert app.at == 0
        await pilot.press("right", "right", "left", "down")
        await pilot.pause()
        assert app.at == 2
        await pilot.press("end")
        assert app.at == len(walk) - 1
        await pilot.press("f")
        await pilot.pause()
        assert app.at == walk.first
        assert walk.step(app.at).function in text(app, "code")
        trees = app.query_one("#trees", DataTable)
        cells = [" ".join(map(str, trees.get_row_at(n))) for n in range(trees.row_count)]
        assert any("table pfn" in c and "differs" in c for c in cells)

    drive(walk, keys)


def test_breakpoints_stop_at_what_they_name(walk: Walk) -> None:
    async def keys(pilot: Pilot[None], app: Stepper) -> None:
        await pilot.press("home", "b", *"gfn", "space", "1", "enter", "c")
        await pilot.pause()
        hit = app.at
        assert walk.state(hit)["mirror|1|1"] != walk.state(hit - 1).get("mirror|1|1")
        await pilot.press("x", "home", "b", *"task", "space", *"vcpu1", "enter", "c")
        await pilot.pause()
        assert walk.tasks[walk.step(app.at).task] == "vcpu1"
        await pilot.press("x", "c")
        assert "no breakpoint yet" in text(app, "status")
        await pilot.press("b", *"nonsense", "enter")
        assert "is no breakpoint" in text(app, "status") and not app.breakpoints

    drive(walk, keys)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("gfn zz", "hexadecimal"),
        ("task nobody", "there are vcpu0, vcpu1"),
        ("object", "is no breakpoint"),
        ("", "is no breakpoint"),
    ],
)
def test_bad_breakpoints_say_what_is_expected(walk: Walk, given: str, said: str) -> None:
    with pytest.raises(BadBreakpoint, match=said):
        parse_breakpoint(given, walk)


def test_without_textual_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any) -> object:
        if name == "septum.cli.stepper":
            raise ModuleNotFoundError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", absent)
    result = CliRunner().invoke(main, ["step", str(EXAMPLE)])
    assert result.exit_code == 2 and "pip install 'septum[tui]'" in result.output


def test_a_file_that_is_no_counterexample(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{")
    result = CliRunner().invoke(main, ["step", str(path)])
    assert result.exit_code == 2 and str(path) in result.output


RECORDING = Path(__file__).parents[1] / "data" / "traces" / "linux-7.3-begin.trace"


def test_a_recording_is_walked_through_change_by_change() -> None:
    walk = recording_walk(RECORDING)
    changes = RECORDING.read_text().count(" kvm_tdp_mmu_spte_changed: ")
    assert len(walk) == changes > 10
    last = walk.step(len(walk) - 1)
    assert " -> " in last.text and last.where.startswith("line ")
    for at in range(len(walk)):
        new = walk.step(at).text.rsplit(" -> ", 1)[1]
        assert new in walk.state(at).values()


def test_a_recording_begins_at_the_line_asked_for_or_at_its_finding(tmp_path: Path) -> None:
    lines = RECORDING.read_text().splitlines(keepends=True)
    walk = recording_walk(RECORDING, 40)
    assert walk.step(walk.first).line >= 40 > walk.step(walk.first - 1).line
    at = [n for n, text in enumerate(lines) if "spte_changed" in text and "level 1" in text][5]
    broken = tmp_path / "broken.trace"
    broken.write_text("".join([*lines[: at + 1], *lines[at:]]))
    walk = recording_walk(broken)
    assert "rule broken here" in walk.step(walk.first).mark
    assert parse_breakpoint("finding", walk).hits(walk, walk.first)


def test_a_recording_without_a_change_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.trace"
    path.write_text("".join(RECORDING.read_text().splitlines(keepends=True)[:11]))
    result = CliRunner().invoke(main, ["step", str(path)])
    assert result.exit_code == 2 and "nothing to walk through" in result.output
