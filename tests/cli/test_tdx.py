# SPDX-License-Identifier: GPL-2.0-only
"""``septum tdx``: conform, run, shell, help, profiles."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cli_rig import one_line_error, septum
from click.testing import CliRunner
from report_schemas import validate

from septum.cli import main

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "data" / "tdx-vectors-sample.jsonl.gz"
EXAMPLES = ROOT / "docs" / "examples"


def sequences() -> list[dict[str, Any]]:
    lines = gzip.decompress(SAMPLE.read_bytes()).decode().splitlines()
    return [json.loads(line) for line in lines]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
    return path


# --- conform -----------------------------------------------------------------------------------


def test_conform() -> None:
    result = septum("tdx", "conform", SAMPLE)
    assert result.exit_code == 0, result.output
    assert "1310 of 1310 steps agree (100 %), 26 of 26 final states" in " ".join(
        result.stdout.split()
    )
    assert "PREVIOUS_TLB_EPOCH_BUSY" in result.stdout
    assert "PREVIOUS_TLB_EPOCH_BUSY" not in septum("tdx", "conform", "--brief", SAMPLE).stdout


def test_conform_json() -> None:
    result = septum("tdx", "conform", SAMPLE, "--format", "json")
    found = json.loads(result.stdout)
    validate("tdx-conform", found)
    (row,) = found["results"]
    assert row["steps"] == row["agreed"] == 1310 and row["disagreements"] == []
    assert row["by_call"]["TDH.MEM.TRACK"]["TDX_SUCCESS"]["steps"] > 0
    assert found["summary"]["status"] == 0


def test_a_disagreement(tmp_path: Path) -> None:
    rows = sequences()[:2]
    step = next(s for s in rows[1]["steps"] if s["call"].startswith("TDH."))
    step["out"] = {"rax": "0xc000030000000001"}
    path = write(tmp_path / "v.jsonl", *rows)
    result = septum("tdx", "conform", path)
    assert result.exit_code == 1
    text = " ".join(result.stdout.split())
    assert "First disagreements" in text and "TDX_PAGE_METADATA_INCORRECT|RCX" in text
    assert max(map(len, result.stdout.replace(str(path), "v").split("\n"))) <= 78
    assert "First disagreements" not in septum("tdx", "conform", path, "--show", 0).stdout
    found = json.loads(septum("tdx", "conform", path, "--format", "json").stdout)
    validate("tdx-conform", found)
    (told,) = found["results"][0]["disagreements"]
    assert told["sequence"] == str(rows[1]["id"]) and told["recorded"] == step["out"]


def test_a_cut_line_is_named_and_the_rest_is_checked(tmp_path: Path) -> None:
    one, two, three = sequences()[:3]
    del two["steps"][4]["out"]
    path = write(tmp_path / "v.jsonl", one, two, three, json.dumps(one)[:300])
    result = septum("tdx", "conform", path)
    assert result.exit_code == 3
    text = " ".join(result.stdout.split())
    assert "2 of 2 final states" in text and "Not checked: 2 lines" in text
    assert "line 2: step 4: 'out' is missing" in text
    assert "line 4: not JSON at column" in text
    found = json.loads(septum("tdx", "conform", path, "--format", "json").stdout)
    validate("tdx-conform", found)
    assert [b["line"] for b in found["results"][0]["bad_lines"]] == [2, 4]


@pytest.mark.parametrize("text", ["", "\n\n", "{}\n", "hello\n"])
def test_a_file_without_a_sequence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text(text)
    result = septum("tdx", "conform", path, SAMPLE, "--brief")
    assert result.exit_code == 2
    assert "nothing in it could be checked" in " ".join(result.stdout.split())
    assert "1310 of 1310" in result.stdout


def test_no_such_file() -> None:
    one_line_error(septum("tdx", "conform", "nothere.jsonl"), "nothere.jsonl")
    one_line_error(septum("tdx", "conform"), "FILE")


# --- run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.tdx")), ids=lambda path: path.stem)
def test_run_an_example(path: Path) -> None:
    result = septum("tdx", "run", path)
    assert result.exit_code == 0, result.output
    assert "expectations met" in result.stdout


def test_run_with_a_failed_expectation(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tdx", "td tables=G", "AUG G 4K p0 -> OPERAND_BUSY|SEPT_TREE")
    result = septum("tdx", "run", path)
    assert result.exit_code == 1
    assert "NOT AS EXPECTED: OPERAND_BUSY|SEPT_TREE" in result.stdout
    assert "1 of 1 expectations failed: line 2" in result.stdout


def test_run_refuses_what_does_not_parse_before_it_runs_anything(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tdx", "td tables=G", "AUG G 3K p0", "TDH.MEM.TARCK")
    result = septum("tdx", "run", path)
    assert result.exit_code == 2 and result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first.startswith(f"septum: {path}:2:7: expected a level (4K, 2M")
    assert f"{path}:3:1: unknown call 'TDH.MEM.TARCK' (nearest: TDH.MEM.TRACK" in second


def test_run_stops_where_something_is_impossible(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tdx", "td", "guest interrupt")
    result = septum("tdx", "run", path)
    assert result.exit_code == 2
    assert f"septum: {path}:2: no vCPU is in the guest" in result.stderr
    assert "Traceback" not in result.output


def test_run_from_stdin_with_a_profile() -> None:
    args = ["tdx", "run", "-", "--profile", "1.5.01+nonblocking-resize", "--registers"]
    lines = "td tables=G\nAUG G+2M 2M m0\nDEMOTE G+2M 2M s3 -> SUCCESS\n"
    result = CliRunner().invoke(main, args, input=lines, prog_name="septum")
    assert result.exit_code == 0, result.output
    assert "1.5.01+nonblocking-resize (hypothetical)" in result.stdout
    assert "in   rax=0xf" in result.stdout


def test_wrong_usage() -> None:
    one_line_error(septum("tdx", "run", "none.tdx"), "none.tdx")
    one_line_error(septum("tdx", "run", "-", "--profile", "1.5.2"), "1.5.2", "1.5.01")
    one_line_error(septum("tdx", "help", "TDH.MEM.PAGE.AGU"), "TDH.MEM.PAGE.AUG")
    one_line_error(septum("tdx", "rnu"), "rnu")


# --- shell, help, profiles ---------------------------------------------------------------------


def shell(text: bytes, *args: object) -> str:
    result = CliRunner().invoke(
        main, ["tdx", "shell", *map(str, args)], input=text, prog_name="septum"
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_shell_from_a_pipe() -> None:
    told = shell(b"AUG G 4K p0\nxyzzy\n\xff\xfe\x1b[2J\n\ntree\nquit\nnever\n")
    assert "tdx> AUG G 4K p0\n  TDX_SUCCESS\n" in told
    assert "unknown call or statement 'xyzzy'" in told
    assert "PENDING    p0" in told and "never" not in told and "\x1b" not in told


def test_the_shell_begins_where_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tdx", "td tables=G", "AUG G 4K p0")
    assert "PENDING    p0" in shell(b"tree\n", path)
    assert "no TDCS" in shell(b"tree", "--empty")
    bad = write(tmp_path / "b.tdx", "AUG G 9K")
    assert "nothing was loaded" in shell(b"", bad)
    assert "linux-7.3" in shell(b"list\n", "--profile", "linux-7.3", "--empty")


def test_help_and_profiles() -> None:
    assert "OPERAND_BUSY|SEPT_TREE" in septum("tdx", "help", "TDH.MEM.PAGE.AUG").stdout
    assert "Topics: " in septum("tdx", "help").stdout
    told = septum("tdx", "profiles").stdout
    for part in ("1.5.01\n", "linux-7.3\n", "unknown ", "(hypothetical)", "0x4000000200000000"):
        assert part in told
    assert max(map(len, told.split("\n"))) <= 78
    assert "conform" in septum("tdx", "--help").stdout


# --- the page ----------------------------------------------------------------------------------


def regen_docs() -> ModuleType:
    path = ROOT / "scripts" / "regen_docs.py"
    spec = importlib.util.spec_from_file_location("regen_docs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_output_in_the_docs_is_real() -> None:
    docs = regen_docs()
    blocks = list(docs.blocks(ROOT / "docs" / "tdx-shell.md"))
    assert len(blocks) >= 10
    assert [block.what for block in blocks if block.stale()] == []
    session = blocks[0].body
    for call in ("AUG", "ACCEPT", "BLOCK", "TRACK", "REMOVE"):
        assert call in session
    assert "1 vCPU in the guest since epoch 1" in session
