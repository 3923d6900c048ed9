# SPDX-License-Identifier: GPL-2.0-only
"""A user's own design, from the first check to the replayed counterexample."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_rig import NO_FREEZE, septum
from report_schemas import validate


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The counterexample's file, and what the check printed."""
    directory = tmp_path_factory.mktemp("story")
    mine = directory / "mine.py"
    mine.write_text(NO_FREEZE)
    result = septum("check", mine, "-s", "fault-fault", "--first", "--save", directory / "saved")
    assert result.exit_code == 1, result.output
    (saved,) = (directory / "saved").iterdir()
    return saved, result.stdout


def test_check_prints_table_path_and_interleaving(checked: tuple[Path, str]) -> None:
    saved, told = checked
    assert "rule broken here" in told
    assert "__tdp_mmu_set_spte_atomic()" in told
    assert "violated  stopped: " in told
    assert str(saved) in told.replace("\\\n", "").replace("\n      ", "")


def test_the_saved_file_follows_its_schema(checked: tuple[Path, str]) -> None:
    validate("counterexample", json.loads(checked[0].read_text()))


def test_show(checked: tuple[Path, str]) -> None:
    result = septum("show", checked[0])
    assert result.exit_code == 0, result.output
    assert "breaks I1 in scenario fault-fault" in " ".join(result.stdout.split())
    assert "Mirror tables: " in result.stdout
    folded = septum("show", "--all", "--states", checked[0])
    assert folded.exit_code == 0
    assert "steps)" not in folded.stdout
    assert "S-EPT level" in folded.stdout
    assert "mine.py:" in septum("show", "--wide", checked[0]).stdout


def test_a_schedule_that_no_longer_fits_is_stale(checked: tuple[Path, str], tmp_path: Path) -> None:
    data = json.loads(checked[0].read_text())
    data["decisions"][2][5] = "another_object"
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(data))
    result = septum("show", path)
    assert result.exit_code == 3
    assert "step 2" in result.stderr and "septum check --from" in result.stderr
    near = septum("check", "--from", path, "--save", tmp_path / "near")
    assert near.exit_code == 1, near.output
    told = " ".join(near.stdout.split())
    assert "breaks I1" in told and "bound hit: only " in told


def test_compare_shows_the_schedule_on_the_design_that_holds(
    checked: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mine = checked[0].parent.parent / "mine.py"
    result = septum("compare", "v7.3", mine, "-s", "fault-fault", "--max-executions", 40)
    assert result.exit_code == 1, result.output
    told = " ".join(result.stdout.split())
    assert "The same schedule of fault-fault: " in told
    assert "breaks I1, v7.3 keeps it" in told


def test_two_workers_find_the_same(checked: tuple[Path, str], tmp_path: Path) -> None:
    mine = checked[0].parent.parent / "mine.py"
    result = septum(
        *("check", mine, "-s", "fault-fault", "-s", "fault-neighbours", "--first"),
        *("--jobs", 2, "--save", tmp_path, "--format", "json"),
    )
    rows = json.loads(result.stdout)["results"]
    assert [row["scenario"] for row in rows] == ["fault-fault", "fault-neighbours"]
    assert (tmp_path / checked[0].name).read_text() == checked[0].read_text()


def test_lists() -> None:
    assert septum("--version").stdout.startswith("septum ")
    assert "check" in septum("--help").stdout
    assert "v7.3" in septum("designs").stdout
    assert "List the designs" in septum("designs", "--help").stdout
    assert "fault-fault" in septum("scenarios").stdout
    assert "Must occur" in septum("scenarios", "fault-fault").stdout
    assert "I12" in septum("monitors").stdout
    assert "judged at" in septum("monitors", "i4").stdout


def test_designs_diff(checked: tuple[Path, str]) -> None:
    mine = checked[0].parent.parent / "mine.py"
    told = septum("designs", "diff", "v7.3", mine).stdout
    assert "-    lockdep_assert_held_read(kvm.mmu_lock, name)" in told
    assert "do not differ" in septum("designs", "diff", "v7.3", "v7.3").stdout
