# SPDX-License-Identifier: GPL-2.0-only
"""The scripts beside the package, and ``python -m septum``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True)


def test_the_fuzzer_of_the_searches() -> None:
    done = python("scripts/fuzz_explore.py", "20", "7000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("20 different programs: all agree\n")
    assert "programs with: " in done.stdout and "programs that break: none " in done.stdout
    counted = re.search(r" by brute force; (\d+) traces counted$", done.stdout, re.M)
    assert counted is not None and int(counted[1]) > 0


def test_python_m_septum() -> None:
    done = python("-m", "septum", "check", "-d", "v7.4")
    assert done.returncode == 2
    assert done.stderr.startswith("septum: no design 'v7.4'")


def test_the_package_says_that_it_has_types() -> None:
    assert (ROOT / "src" / "septum" / "py.typed").is_file()


def test_pictures_are_current() -> None:
    done = python("scripts/make_pictures.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_of_replay_are_current() -> None:
    done = python("scripts/make_replay_rules.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tutorials_log_is_of_this_tutorial() -> None:
    """Every command of the page is in the log, in order, and nothing printed was different."""
    code = "import follow_tutorial as f; print(*[s.command for s in f.steps()], sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True
    )
    commands = [f"$ {line}" for line in done.stdout.splitlines()]
    log = (ROOT / "docs" / "tutorial-log.txt").read_text().splitlines()
    assert len(commands) > 10, done.stderr
    assert [line for line in log if line.startswith("$ ")] == commands
    assert log[-1].startswith(f"{len(commands)} commands, ")
    assert log[-1].endswith(" compared, 0 different")


def test_screenshots_are_small() -> None:
    pictures = list((ROOT / "docs" / "pictures").glob("*.png"))
    assert len(pictures) >= 4
    assert sum(p.stat().st_size for p in pictures) < 600 * 1024
