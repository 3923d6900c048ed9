# SPDX-License-Identifier: GPL-2.0-only
"""On a real tree, where there is one: ``SEPTUM_LINUX=TREE``."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

TREE = os.environ.get("SEPTUM_LINUX", "")
pytestmark = [
    pytest.mark.skipif(not TREE, reason="no kernel tree: set SEPTUM_LINUX to one"),
    pytest.mark.slow,
]


def septum(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: an image's address is taken once it is loaded."""
    code = "from septum.cli import main; main()"
    command = [sys.executable, "-c", code, "kernel", *arguments, "--linux", TREE]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_it_is_built_and_holds() -> None:
    built = septum("build")
    assert built.returncode == 0, built.stderr
    rows = ("fault-neighbours", "fault-punch", "install-accept", "vm-dies")
    words = [word for name in rows for word in ("-s", name)]
    result = septum("check", "--format", "json", *words)
    verdicts = {r["scenario"]: r["verdict"] for r in json.loads(result.stdout)["results"]}
    assert verdicts == dict.fromkeys(rows, "holds"), result.stderr


def test_it_does_what_the_python_design_does() -> None:
    result = septum("diff", "-s", "fault-punch", "-s", "install-accept")
    assert result.returncode == 0, result.stdout
    assert "2 compared: 0 differ, 0 not complete" in result.stdout
