# SPDX-License-Identifier: GPL-2.0-only
"""``septum doctor``, ``septum completion`` and the man pages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from septum.cli import main
from septum.report.doctor import PROBES, Probe, doctor_lines, examine


def test_doctor_names_every_tool_with_what_it_is_for() -> None:
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    for probe in PROBES:
        assert any(li.startswith(probe.name) and probe.purpose in li for li in lines), probe.name
    assert max(map(len, lines)) <= 78


def test_doctor_says_how_to_get_what_is_missing() -> None:
    absent = Probe("vapour", "nothing", "apt install vapour", lambda: "")
    assert any("no: apt install vapour" in li for li in doctor_lines(examine([absent]), 78))
    needed = Probe("vapour", "all", "apt install vapour", lambda: "", required=True)
    assert doctor_lines(examine([needed]), 78)[-1] == "septum does not work without vapour."


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_shells_script(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0 and "_SEPTUM_COMPLETE" in result.output


def complete(*words: str) -> list[str]:
    """What bash would offer for the last word."""
    run = subprocess.run(
        [sys.executable, "-m", "septum"],
        env={
            "COMP_WORDS": " ".join(["septum", *words]),
            "COMP_CWORD": str(len(words)),
            "_SEPTUM_COMPLETE": "bash_complete",
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split(",", 1)[1] for line in run.stdout.splitlines()]


def test_names_are_completed() -> None:
    assert complete("ch") == ["check"]
    assert "v7.3" in complete("check", "v7")
    assert complete("check", "feb06+reread") == ["feb06+reread-sptep"]
    assert complete("check", "v7.3", "-s", "install-z") == ["install-zero-step"]
    assert "I1" in complete("monitors", "I")


MAN = Path(__file__).parents[2] / "docs" / "man"


def test_every_command_has_a_man_page_that_is_current() -> None:
    script = Path(__file__).parents[2] / "scripts" / "make_man.py"
    run = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    names = {path.name for path in MAN.glob("*.1")}
    assert {
        "septum.1",
        *(f"septum-{c}.1" for c in main.list_commands(click.Context(main))),
    } == names


def test_the_guide_lists_every_command() -> None:
    page = Path(__file__).parents[2] / "docs" / "guide.md"
    table = page.read_text().split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.M)
    named = {word.split()[0] for cell in cells for word in re.findall("`([^`]+)`", cell)}
    assert named == set(main.list_commands(click.Context(main)))
