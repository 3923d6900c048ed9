# SPDX-License-Identifier: GPL-2.0-only
"""A module feature that does not exist is marked in every output that used it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_rig import septum

ROW = ("v7.3+hugepage", "-s", "read-split-fault")
MARK = "hypothetical TDX Module feature"


@pytest.mark.parametrize("form", ["text", "ktap", "junit"])
def test_check(form: str, tmp_path: Path) -> None:
    output = septum("check", *ROW, "--save", tmp_path, "--format", form, "--no-tables").stdout
    assert MARK in output


def test_check_json(tmp_path: Path) -> None:
    output = septum("check", *ROW, "--save", tmp_path, "--format", "json").stdout
    assert '"hypothetical": true' in output


def test_compare() -> None:
    output = septum("compare", "v7.3+hugepage+shared-param", *ROW).stdout
    assert MARK in " ".join(output.split())


def test_show(tmp_path: Path) -> None:
    septum("check", *ROW, "--save", tmp_path, "--no-tables")
    (path,) = tmp_path.iterdir()
    output = " ".join(septum("show", path).stdout.split())
    assert "nonblocking-resize (hypothetical)" in output


def test_a_real_feature_is_not_marked(tmp_path: Path) -> None:
    output = septum("check", "v7.3+hugepage", "-s", "huge-split-fault", "--save", tmp_path).stdout
    assert "hypothetical" not in output
