# SPDX-License-Identifier: GPL-2.0-only
"""``septum check --campaign`` and ``septum campaign``: output, interruption, bad input."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cli_rig import one_line_error, septum

from septum.explore import units

ROWS = ("v7.3", "-s", "fault-punch", "-s", "vm-dies", "--no-tables")


def told(directory: Path) -> str:
    """``septum campaign`` without what depends on version and clock."""
    text = septum("campaign", directory).stdout
    text = re.sub(r"septum \S+\s+\S+\)", "septum V)", text)
    return re.sub(r"\d+\.\d+s", "TIME", text)


DONE = """\
  campaign    c (septum V); nobody is working on it
  rows        2: 2 done
  executions  {total}; TIME of work

  scenario     design  state  executions   work
  fault-punch  v7.3    done  {a:>11}  TIME  holds
  vm-dies      v7.3    done  {b:>11}  TIME  holds

Done.  To print the verdicts again:
  septum check v7.3 --scenario fault-punch --scenario vm-dies --no-tables \\
    --campaign c
"""


def squeezed(text: str) -> list[str]:
    return text.replace("\\\n", " ").split()


def test_a_campaign_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = septum("check", *ROWS, "--campaign", "c")
    assert result.exit_code == 0, result.output
    a, b = re.findall(r"complete: (\d+) execution", result.stdout)
    expected = DONE.format(total=int(a) + int(b), a=a, b=b)
    assert squeezed(told(Path("c"))) == squeezed(expected)
    again = septum("check", *ROWS, "--campaign", "c")
    assert again.stdout.splitlines()[:-1] == result.stdout.splitlines()[:-1]


def test_a_campaign_of_another_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be looked at; what would be refused is not proposed."""
    row = ("check", "v7.3", "-s", "vm-dies", "--campaign", tmp_path / "c")
    assert septum(*row).exit_code == 0
    monkeypatch.setattr("septum.scenarios.campaign.code", lambda: "9.9 abc")
    one_line_error(septum(*row), "begun by another septum", "9.9 abc", "in another directory")
    text = septum("campaign", tmp_path / "c").stdout
    assert "only that one goes on with it" in text
    assert "septum check" not in text


def test_ctrl_c_gives_the_partial_verdict_and_the_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("septum.explore.frontier.UNIT", units.Size(5, 10**6))
    whole = septum("check", "v7.3", "-s", "fault-punch", "--no-tables")
    saved = 0

    def interrupt(self: object, n: int, found: object) -> None:
        nonlocal saved
        saved += 1
        if saved == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("septum.cli.watch.Watch.unit", interrupt)
        cut = septum("check", "v7.3", "-s", "fault-punch", "--no-tables", "--campaign", "c")
    assert cut.exit_code == 130
    assert re.search(r"bounded: \d+ executions", cut.stdout)
    assert "bound hit: interrupted" in cut.stdout
    assert "Interrupted: 1 row left.  To go on where it stopped:" in cut.stderr
    assert "septum check v7.3 --scenario fault-punch --no-tables --campaign c" in cut.stderr
    shown = septum("campaign", "c").stdout
    assert "1: 1 running" in shown and "To go on:" in shown
    on = septum("check", "v7.3", "-s", "fault-punch", "--no-tables", "--campaign", "c")
    assert on.exit_code == 0
    (count,) = re.findall(r"complete: \d+ executions", on.stdout)
    assert count in whole.stdout


def test_other_options_are_refused(tmp_path: Path) -> None:
    row = ("check", "v7.3", "-s", "vm-dies", "--no-tables", "--campaign", tmp_path)
    assert septum(*row).exit_code == 0
    one_line_error(septum(*row, "--retries", 1), str(tmp_path), "begun with retries=0, not 1")
    one_line_error(septum(*row, "-p", "bits=2"), str(tmp_path), "begun without bits, not 2")


def test_not_a_campaign(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    row = ("check", "v7.3", "-s", "vm-dies", "--campaign")
    one_line_error(septum(*row, tmp_path), "holds notes and no campaign")
    one_line_error(septum(*row, tmp_path / "notes"), "File exists", "--campaign")
    one_line_error(septum("campaign", tmp_path), "no campaign is there")


def test_from_takes_no_campaign(tmp_path: Path) -> None:
    path = tmp_path / "ce.json"
    path.write_text("{}")
    one_line_error(septum("check", "--from", path, "--campaign", tmp_path / "c"), "--from")
