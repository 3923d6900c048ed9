# SPDX-License-Identifier: GPL-2.0-only
"""Summary, history, trees, comparison, export, plots."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import xml.etree.ElementTree as ET
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result
from trace_rig import DATA, EMPTY, FROZEN, Writer, leaf, run, table

from septum.cli import main, replaying
from septum.kvm.versions import NPT
from septum.report.plots import _rates, heat_map, line_chart, replay_plots
from septum.report.recording_story import before, window
from septum.report.replay_more import comparison_lines
from septum.report.replay_text import WIDTH
from septum.trace import replay
from septum.trace.recording import MAX_SAMPLES, Replay
from septum.trace.watch import Row, tree_lines

SCHEMA = json.loads((DATA.parents[2] / "docs/schemas/replay.json").read_text())
DIRTYLOG = DATA / "linux-7.3-dirtylog.trace.xz"
BEGIN = DATA / "linux-7.3-begin.trace"


def septum(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["replay", *map(str, args)])


def tree() -> Writer:
    w = Writer()
    w.tree()
    return w


def test_summary_counts_what_happened() -> None:
    w = tree()
    w.change(2, 0x200, EMPTY, leaf(0x400, 0xEE7))
    w.change(2, 0x200, leaf(0x400, 0xEE7), table(0x21))
    w.prepare_zap(1, 0x200)
    for gfn in range(512):
        w.change(1, 0x200 + gfn, leaf(0x400 + gfn), FROZEN)
    w.change(2, 0x200, table(0x21), leaf(0x400, 0xEE7))
    w.change(1, 1, EMPTY, leaf(0x91))
    w.change(1, 1, leaf(0x91), leaf(0x91, 0xE65))
    w.line("kvm_unmap_hva_range: mmu notifier unmap range: 0x007f31c4200000 -- 0x007f31c4400000")
    w.change(1, 1, leaf(0x91), EMPTY)
    w.change(2, 0, table(0x13), EMPTY)
    assert run(w.lines).summary == {
        "faults": {},
        "installs": {"tables": 3, "2M leafs": 1, "4K leafs": 1},
        "zaps": {
            "4K leafs: with a table that is removed": 512,
            "4K leafs: MMU notifier": 1,
            "tables: memslot, teardown or unrecorded": 1,
        },
        "changes of shape": {"splits of 2M": 1, "collapses to 2M": 1},
        "changes of bits": {"4K leafs": 1},
    }


def test_the_heat_of_all_samples_is_the_number_of_changes() -> None:
    w = tree()
    for step in range(3000):
        gfn = step % 400
        w.change(1, gfn, EMPTY, leaf(0x100 + gfn))
        w.change(1, gfn, leaf(0x100 + gfn), EMPTY)
    result = run(w.lines)
    assert len(result.heat) == len(result.samples) <= MAX_SAMPLES + 1
    assert sum(sum(column.values()) for column in result.heat) == 3 + 6000
    assert result.samples[-1].zaps == 3000


def test_history_of_a_gfn() -> None:
    result = septum(BEGIN, "--gfn", "1")
    assert result.exit_code == 0
    assert result.output.startswith("gfn 1: ")
    assert "L4 gfn 0: empty -> table" in result.output
    assert "L1 gfn 1: empty -> leaf 4K pfn" in result.output
    assert max(map(len, result.output.splitlines())) <= WIDTH


def test_trees_show_runs_and_nesting() -> None:
    w = tree()
    for gfn in (1, 2, 3, 7):
        w.change(1, gfn, EMPTY, leaf(0x90 + gfn))
    replayed = Replay("x")
    replayed.feed(w.lines)
    assert tree_lines(replayed.tables) == [
        "root 0: as_id 0 gfn 0 level 4",
        "  0                     table 11",
        "    0                     table 12",
        "      0                     table 13",
        "        1..3                  leaf 4K pfn 91 WDA",
        "        7                     leaf 4K pfn 97 WDA",
    ]
    assert tree_lines(replayed.tables, 7)[-1] == "        7                     leaf 4K pfn 97 WDA"
    assert len(tree_lines(replayed.tables, 7)) == 5


@pytest.mark.parametrize("at", ["60", "10.407"])
def test_at_stops_there(at: str) -> None:
    result = septum(BEGIN, "--at", at)
    assert result.exit_code == 0
    assert result.output.startswith("after line ")
    assert "root 0: as_id 0 gfn 0 level 4" in result.output
    line = int(result.output.split()[2].rstrip(","))
    assert line <= 60


def test_two_recordings_side_by_side() -> None:
    one, two = replay(BEGIN), replay(DIRTYLOG)
    lines = list(comparison_lines(one, two))
    assert max(map(len, lines)) <= WIDTH
    assert any(line.split()[:3] == ["peak", "2M", "leafs"] for line in lines)
    assert lines[-1].startswith("equal rows left out: ")
    same = list(comparison_lines(one, one))
    assert len(same) == 5
    assert septum(BEGIN, "--against", DIRTYLOG).exit_code == 0


def test_looks_as_json() -> None:
    result = septum(BEGIN, "--gfn", "40000", "--at", "100", "--format", "json")
    assert result.exit_code == 0
    document = json.loads(result.output)
    (recording,) = document["results"]
    assert recording["history"] and all(int(r["gfn"]) <= 0x40000 for r in recording["history"])
    (root,) = recording["trees"]
    assert (root["as_id"], root["level"], root["gfn"]) == (0, 4, "0")
    below = root["entries"][0]["table"]
    assert below["level"] == 3 and root["entries"][0]["is"] == f"table {below['pfn']}"
    jsonschema.validate(document, SCHEMA)


def test_csv_has_every_change(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    assert septum(BEGIN, "--export", file).exit_code == 0
    rows = list(csv.DictReader(file.open()))
    assert len(rows) == replay(BEGIN).events["kvm_tdp_mmu_spte_changed"]
    assert rows[0]["old"] == "8000000000000000"


def test_parquet_has_the_same_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "x.parquet"
    assert septum(BEGIN, "--export", file).exit_code == 0
    rows = parquet.read_table(file).to_pylist()
    assert len(rows) == replay(BEGIN).events["kvm_tdp_mmu_spte_changed"]
    assert rows[0]["old"] == EMPTY


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--gfn", "zz", BEGIN], "is no GFN"),
        (["--at", "noon", BEGIN], "a line number, or a time stamp"),
        (["--gfn", "1", BEGIN, DIRTYLOG], "take one FILE"),
        (["--export", "x.xlsx", BEGIN], "export writes .parquet or .csv"),
    ],
)
def test_wrong_options_are_one_line(args: list[str | Path], why: str) -> None:
    result = septum(*args)
    assert result.exit_code == 2
    assert why in result.output
    assert "Traceback" not in result.output


def test_jobs_do_not_change_the_result() -> None:
    files = [str(BEGIN), str(DIRTYLOG)]
    one = json.loads(septum("--format", "json", *files).output)
    two = json.loads(septum("--format", "json", "--jobs", "2", *files).output)
    assert one == two


def test_ctrl_c_keeps_the_recordings_that_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(waiting: set[Any], **_: Any) -> tuple[set[Any], set[Any]]:
        first = min(waiting, key=id)
        first.result()
        if len(waiting) == 1:
            raise KeyboardInterrupt
        return {first}, waiting - {first}

    monkeypatch.setattr(replaying, "wait", interrupted)
    result = septum("--jobs", "2", str(BEGIN), str(DIRTYLOG))
    assert result.exit_code == 130
    assert "interrupted: 1 of 2 replayed" in result.output
    assert result.output.count("Findings: none") == 1


def killing(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Let all workers be killed so many times, each time before anything is done; the number of
    times that it was so."""
    kills = [0]

    def wait_less(waiting: set[Any], **how: Any) -> Any:
        if kills[0] < times:
            kills[0] += 1
            for process in multiprocessing.active_children():
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
        return wait(waiting, **how)

    monkeypatch.setattr(replaying, "wait", wait_less)
    return kills


def test_what_a_lost_worker_had_is_replayed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [str(DIRTYLOG), str(DIRTYLOG), str(BEGIN)]
    whole = septum("--format", "json", *files)
    kills = killing(monkeypatch, 1)
    again = septum("--format", "json", "--jobs", "2", *files)
    assert kills == [1]
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == json.loads(whole.stdout)


def test_workers_that_die_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    killing(monkeypatch, 99)
    result = septum("--jobs", "2", str(DIRTYLOG), str(DIRTYLOG))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("septum: workers died 3 times (out of memory?): use fewer")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        ([BEGIN, "/nowhere"], 2, "/nowhere: No such file or directory"),
        ([BEGIN, "-"], 2, "stdin (-) cannot be read in a worker"),
    ],
)
def test_what_a_worker_cannot_read(args: list[str | Path], status: int, words: str) -> None:
    result = septum("--jobs", "2", *args)
    assert result.exit_code == status
    assert words in result.output


def test_plots_are_svg_with_names() -> None:
    plots = replay_plots(replay(DIRTYLOG))
    assert [heading for heading, _ in plots] == [
        "Present leafs by level",
        "Fault and zap rates",
        "Changes by GFN and time",
    ]
    for _, svg in plots:
        root = ET.fromstring(svg)
        assert root.tag.endswith("svg") and root.get("role") == "img"
        assert len(svg) < 300_000
    assert replay_plots(run(["# tracer: nop"])) == []


def test_line_chart_scales_to_its_top() -> None:
    svg = line_chart("x & y", [0.0, 1.0, 2.0], [("a", [0.0, 50.0, 100.0])])
    assert "x &amp; y" in svg
    assert 'points="70.0,172.0 389.0,101.0 708.0,30.0"' in svg


def test_heat_map_bounds_its_cells() -> None:
    columns = [dict.fromkeys(range(1000), 1) for _ in range(300)]
    assert heat_map("x", [float(n) for n in range(300)], columns).count("<rect") <= 96 * 48


def test_page_is_one_file_without_network(tmp_path: Path) -> None:
    file = tmp_path / "x.html"
    assert septum(DIRTYLOG, "--html", file).exit_code == 0
    text = file.read_text()
    assert text.count("<svg") == 3
    assert "Findings: none" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert len(text) < 2_000_000


def test_rates_survive_samples_of_one_time_stamp() -> None:
    """11 zaps, ten of them at one moment, in two parts of 1 s."""
    assert _rates([0.0, 0.5, 0.5, 2.0], [0, 10, 10, 11], [0.0, 1.0, 2.0]) == [0.0, 10.0, 1.0]
    assert _rates([1.0, 1.0], [0, 5], [1.0, 1.0]) == [0.0, 0.0]


# ------------------------------------------------------- changes to walk through on a page


def rows(count: int) -> list[Row]:
    return [Row(n + 1, n / 1000, 0, "t-1", 0, n, 1, EMPTY, leaf(n)) for n in range(count)]


@pytest.mark.parametrize(
    ("middle", "expected"),
    [(None, (89, 100)), (50, (44, 55)), (1, (0, 11)), (100, (89, 100)), (7000, (89, 100))],
)
def test_the_window_of_changes(middle: int | None, expected: tuple[int, int]) -> None:
    assert window(rows(100), middle, 5) == expected


def test_trees_before_the_window_hold_what_is_left() -> None:
    past = [*rows(3), Row(9, 1.0, 0, "t-1", 0, 1, 1, leaf(1), EMPTY)]
    state, left_out = before(past, rows(1), NPT)
    assert list(state) == ["direct|1|0", "direct|1|2"]
    assert left_out == 0
    state, left_out = before(rows(9000), rows(600)[520:], NPT)
    assert left_out == 5000
    assert "direct|1|208" in state  # of the 2M range that the window touches


def test_around_needs_one_page() -> None:
    assert "--around chooses what --html shows" in septum(BEGIN, "--around", "5").output
