# SPDX-License-Identifier: GPL-2.0-only
"""``septum kernel`` and counterexamples of compiled code: what needs no kernel tree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from septum.cli import main
from septum.scenarios.check import check
from septum.scenarios.counterexample import load, save

KERNEL = {"version": "7.3.4", "content": "0123456789abcdef", "tree": "linux", "words": ["x+8"]}


def septum(*words: object) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words], prog_name="septum")


def one_line(result: Result, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    for part in parts:
        assert part in result.stderr


@pytest.fixture(scope="module")
def of_design(tmp_path_factory: pytest.TempPathFactory) -> Path:
    row = check("feb06", "install-accept")
    assert row.counterexample is not None
    path = tmp_path_factory.mktemp("ce") / "design.json"
    save(row.counterexample, path)
    return path


@pytest.fixture
def of_kernel(of_design: Path, tmp_path: Path) -> Path:
    path = tmp_path / "kernel.json"
    path.write_text(json.dumps(json.loads(of_design.read_text()) | {"kernel": KERNEL}))
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-p", "bits=2"), "the hardware's shape"),
        (("-p", "levels=4"), "the hardware's shape"),
        (("-p", "yields=1"), "does not reschedule"),
        (("--memory-model", "tso"), "under sc only"),
        (("--cluster", "host:8786"), "give -j N"),
        (("--force",), "no code that could be run"),
    ],
)
def test_what_means_nothing_here_is_refused(words: tuple[str, ...], message: str) -> None:
    one_line(septum("kernel", "check", "--linux", "nowhere", *words), message)


def test_the_file_says_where_its_code_comes_from(of_kernel: Path, tmp_path: Path) -> None:
    ce = load(of_kernel)
    assert ce.kernel == KERNEL
    save(ce, tmp_path / "again.json")
    assert load(tmp_path / "again.json") == ce


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("7.3", "'kernel' should be a JSON object"),
        (KERNEL | {"content": 5}, "kernel: 'content' should be a JSON str"),
        (KERNEL | {"words": [5]}, "kernel: 'words' should be texts"),
    ],
)
def test_a_file_that_says_it_badly(of_kernel: Path, kernel: object, message: str) -> None:
    of_kernel.write_text(json.dumps(json.loads(of_kernel.read_text()) | {"kernel": kernel}))
    one_line(septum("show", of_kernel), message)


@pytest.mark.parametrize("command", ["show", "step"])
def test_no_build_is_there(
    of_kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    result = septum(command, of_kernel)
    one_line(result, str(of_kernel), "Linux 7.3.4 (linux, content 0123456789ab)", "--linux TREE")


def test_the_tree_named_is_none(of_kernel: Path, tmp_path: Path) -> None:
    one_line(septum("show", of_kernel, "--linux", tmp_path / "no"), "no such directory")


def test_designs_have_no_tree(of_design: Path, tmp_path: Path) -> None:
    one_line(septum("show", of_design, "--linux", tmp_path), "found in a Python design")


def test_each_command_searches_near_its_own(of_design: Path, of_kernel: Path) -> None:
    one_line(septum("check", "--from", of_kernel), "kernel check --linux TREE")
