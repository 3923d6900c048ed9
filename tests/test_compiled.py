# SPDX-License-Identifier: GPL-2.0-only
"""The compiled build does what the pure one does: same executions, findings, schedules, text.

Needs ``make compiled``; ``make test-compiled`` makes it and runs this and the tests of the
compiled packages on it.
"""

from __future__ import annotations

import filecmp
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILDS = {"pure": ROOT / "src", "compiled": ROOT / "build" / "compiled"}
DIGEST = [str(ROOT / "tests" / "build_digest.py")]
SEPTUM = ["-m", "septum"]
CHECKS = {
    "designs": "v7.3 rfc-v5 void-callback -s fault-fault -s fault-punch -s subtree",
    "a toggle, with its interleaving": "v7.3+reread-sptep -s fault-fault",
    "JSON": "v7.3 void-callback -s fault-punch --format json",
    "a design file": "docs/examples/mine.py -s fault-fault",
    "a protocol file": "docs/examples/page_cache.py --no-tables",
    "store buffers": "v7.3 -s fault-fault --memory-model tso",
    "two workers": "v7.3 void-callback -s fault-punch --jobs 2",
    "samples": "v7.3 void-callback -s fault-punch --strategy pct --max-executions 50",
}


def _stale() -> str:
    """Why the compiled build cannot be compared, if so."""
    compiled = BUILDS["compiled"] / "septum"
    if not compiled.is_dir():
        return "no compiled build: make compiled"
    for path in (BUILDS["pure"] / "septum").rglob("*.py"):
        copy = compiled / path.relative_to(BUILDS["pure"] / "septum")
        if not copy.exists() or not filecmp.cmp(path, copy, shallow=False):
            return f"the compiled build is older than {path.name}: make compiled"
    return ""


STALE = _stale()
needs_build = pytest.mark.skipif(bool(STALE), reason=STALE)


def output(build: str, arguments: list[str]) -> str:
    """What a process of ``build`` prints; times are left out."""
    own = {"PYTHONPATH": str(BUILDS[build]), "NO_COLOR": "1", "PYTHONHASHSEED": "0"}
    environment = {**os.environ, **own}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode in (0, 1, 3), done.stderr
    text = done.stdout.replace(str(BUILDS[build]), "SOURCE")
    # The column of times is as wide as they are.
    return re.sub(r' *\b\d+(\.\d+)? ?m?s\b|"seconds": [\d.e-]+', " TIME", text)


@needs_build
def test_the_builds_are_what_they_are_called() -> None:
    assert output("pure", [*SEPTUM, "--version"]).endswith("(pure Python)\n")
    assert output("compiled", [*SEPTUM, "--version"]).endswith("(compiled)\n")


@needs_build
def test_searches_execute_the_same() -> None:
    pure, compiled = (output(build, DIGEST).splitlines() for build in BUILDS)
    assert (pure[0], compiled[0]) == ("pure", "compiled")
    assert len(pure) > 130
    assert pure[1:] == compiled[1:]


@needs_build
@pytest.mark.parametrize("check", CHECKS)
def test_the_command_prints_the_same(check: str) -> None:
    arguments = [*SEPTUM, "check", *CHECKS[check].split()]
    assert output("pure", arguments) == output("compiled", arguments)
