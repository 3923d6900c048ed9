# SPDX-License-Identifier: GPL-2.0-only
"""``septum check FILE`` and ``septum show`` for protocols of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_rig import one_line_error, septum

from septum.cli.running import Outcome, Places, go_on, select_rows
from septum.explore import Options
from septum.scenarios.check import check_many

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "page_cache.py"


def test_a_row_per_protocol_and_a_counterexample_to_show(tmp_path: Path) -> None:
    result = septum("check", EXAMPLE, "--save", tmp_path)
    assert result.exit_code == 1
    assert "no-recheck breaks EMPTY" in result.stdout
    assert "Whoever takes a page finds one." in result.stdout
    rows = [line.split()[:2] for line in result.stdout.splitlines() if "complete: " in line]
    assert rows == [["no-recheck", "violated"], ["shared", "violated"], ["exclusive", "holds"]]
    [saved] = tmp_path.glob("no-recheck-*.json")
    shown = septum("show", saved, "--all")
    assert shown.exit_code == 0
    assert "write_lock mmu_lock" in shown.stdout
    near = septum("check", "--from", saved, "--save", tmp_path)
    assert near.exit_code == 1


def test_json_and_workers(tmp_path: Path) -> None:
    result = septum("check", EXAMPLE, "--format", "json", "-j", 2, "--save", tmp_path)
    assert result.exit_code == 1
    assert '"verdict": "holds"' in result.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("PROTOCOLS = [1]\n", "PROTOCOLS should list septum.explore.Protocol objects, not int"),
        ("PROTOCOLS = []\n", "PROTOCOLS should have at least one, each with its own name"),
        (
            "from septum.explore import Protocol, Tasks\n"
            "PROTOCOL = Protocol('p', lambda m: Tasks({}))\n",
            "p: ValueError: protocol p: build() should return Tasks",
        ),
        ("PROTOCOL = (\n", "cannot be imported: SyntaxError"),
    ],
)
def test_a_file_that_is_wrong_says_how(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    one_line_error(septum("check", path), str(path), said)


def test_a_counterexample_whose_protocol_is_gone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(EXAMPLE.read_text())
    septum("check", mine, "--save", tmp_path, "--no-tables")
    mine.unlink()
    from septum.scenarios import protocols

    protocols._protocols.cache_clear()
    [saved] = tmp_path.glob("no-recheck-*.json")
    one_line_error(septum("show", saved), "mine.py: no such file")


def test_scenarios_do_not_apply() -> None:
    one_line_error(septum("check", EXAMPLE, "-s", "fault-fault"), "-s is for designs")


def test_after_an_interrupt_the_rest_is_named_by_file() -> None:
    rows = select_rows([str(EXAMPLE)], ())
    lines = go_on(Outcome([], 0.0, rows[1:]))
    assert lines[0].startswith("Interrupted: 2 rows left")
    assert "page_cache.py" in "".join(lines[1:])
    assert "-s" not in "".join(lines[1:]).split()


def test_after_an_interrupt_the_options_are_kept() -> None:
    outcome = Outcome([], 0.0, [("v7.3", "fault-fault")])
    lines = go_on(outcome, Places(options=["--deep", "-p", "bits=2"]))
    assert lines[1:] == ["  septum check -d v7.3 -s fault-fault --deep -p bits=2"]


def test_searches_in_one_piece_tell_what_they_have_found() -> None:
    """So that Ctrl-C loses nothing."""
    told: list[tuple[int, int]] = []
    [(_, result)] = check_many(
        [("v7.3", "fault-punch")],
        options=Options("random", max_executions=300),
        progress=lambda n, found: told.append((n, found.executions)),
    )
    assert result.executions == 300
    assert told and all(n == 0 and 1 <= now <= 300 for n, now in told)
