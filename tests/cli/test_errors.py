# SPDX-License-Identifier: GPL-2.0-only
"""Bad input: one line that says what, where and what to do; never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_rig import made_up, one_line_error, septum

from septum.explore.outcomes import NondeterminismError
from septum.machine import MachineError


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["check", "-d", "v7.4"], ["v7.4", "v7.3", "septum designs"]),
        (["check", "-d", "v7.3+shard-param"], ["shard-param", "septum designs"]),
        (["check", "-d", "v7.3", "-s", "falt-fault"], ["falt-fault", "fault-fault"]),
        (["check", "-d", "v7.3", "-s", "fault-fault", "-p", "bots=2"], ["bots", "bits"]),
        (["check", "-d", "v7.3", "-s", "fault-fault", "-p", "bits=x"], ["bits", "x", "an integer"]),
        (["check", "-p", "bits"], ["key=value"]),
        (["check", "--budget", "3x"], ["3x", "10m"]),
        (["check", "--budget", "0s"], ["--budget", "'0s'", "no time at all", "leave it out"]),
        (["compare", "v7.3", "feb06", "--budget", "0"], ["--budget", "no time at all"]),
        (["check", "--strategy", "dfs"], ["dfs", "optimal"]),
        (["check", "--nonsense"], ["--nonsense", "septum check --help"]),
        (["check", "nothere.py"], ["nothere.py"]),
        (["check", "--expect", "nothere.toml"], ["nothere.toml"]),
        (["compare", "v7.3"], ["two designs"]),
        (["show", "nothere.json"], ["nothere.json"]),
        (["chek"], ["chek", "check", "septum --help"]),
        (["monitors", "I99"], ["I99"]),
        (["scenarios", "falt-fault"], ["fault-fault"]),
        (["designs", "diff", "v7.3", "v7.4"], ["v7.4"]),
        (["replay", "nothere.trace"], ["nothere.trace"]),
        (["check", "tests"], ["tests", "ends in .py"]),
        (["check", ""], ["no design ''", "septum designs"]),
        (["check", "--deep", "--strategy", "pct"], ["--deep", "pct"]),
        (["-x"], ["-x", "septum --help"]),
        (["replay", "x", "--at", "0"], ["'0'", "line number", "time stamp"]),
        (["replay", "x", "--at", "-1.5"], ["'-1.5'", "time stamp"]),
        (["check", "-s", "subtree", "--html", "nothere/x.html"], ["nothere/x.html", "another"]),
        (["check", "-s", "subtree", "--save", "README.md"], ["README.md", "file"]),
        (["replay", "x", "--html", "nothere/x.html"], ["nothere/x.html", "another"]),
        (["check", "-s", "subtree", "--cluster", "nowhere"], ["nowhere", "tcp://host:8786"]),
    ],
)
def test_one_line(args: list[str], parts: list[str]) -> None:
    one_line_error(septum(*args), *parts)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "1:1"),
        ('{"format": 1, "septum"', "1:"),
        ("[]", "object"),
        ('{"format": 1}', "septum"),
        ("\x00\x01", "not a counterexample file"),
    ],
)
def test_a_file_that_is_no_counterexample(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "ce.json"
    path.write_text(text)
    one_line_error(septum("show", path), str(path), part)
    one_line_error(septum("check", "--from", path), str(path), part)


def test_a_binary_file_is_no_counterexample(tmp_path: Path) -> None:
    path = tmp_path / "ce.json"
    path.write_bytes(b"\x80\xff\x00")
    one_line_error(septum("show", path), str(path), "not a counterexample file")


EXAMPLE = Path(__file__).parents[2] / "docs/examples/reread-sptep.json"


@pytest.mark.parametrize(
    ("was", "now", "part"),
    [
        ('"format": 1', '"format": 99', "take a newer septum"),
        ('"task": 0', '"task": "zz"', "'task' should be a number"),
        ('"step": 12', '"step": true', "'step' should be a number"),
        ('"memory_model": "SC"', '"memory_model": "ARM"', "SC and TSO"),
        ('"decisions": [', '"decisions": [1,', "decisions[0]"),
    ],
)
def test_an_edited_counterexample(tmp_path: Path, was: str, now: str, part: str) -> None:
    path = tmp_path / "ce.json"
    text = EXAMPLE.read_text()
    assert was in text
    path.write_text(text.replace(was, now, 1))
    one_line_error(septum("show", path), str(path), part)


def test_expectations_are_read_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = made_up(monkeypatch, lambda design, scenario: "holds")
    path = tmp_path / "verdicts.toml"
    path.write_text("x =")
    one_line_error(septum("check", "--expect", path), str(path), "not TOML")
    assert calls == []


def test_a_report_that_cannot_be_written_costs_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, lambda design, scenario: "holds")
    result = septum("check", "v7.3", "-s", "subtree", "--html", "/dev/full")
    assert result.exit_code == 2
    assert "holds" in result.stdout
    assert "No space left on device; name another place" in result.stderr


@pytest.mark.parametrize("group", ["tdx", "kernel"])
def test_a_group_alone_prints_its_help(group: str) -> None:
    lines = septum(group).stderr.splitlines()
    assert lines[0] == f"Usage: septum {group} [OPTIONS] COMMAND [ARGS]..."
    assert "Commands:" in lines


def test_output_that_cannot_be_written() -> None:
    command = [sys.executable, "-m", "septum", "scenarios"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "septum: the output cannot be written: No space left on device\n"


def test_a_closed_stdout_is_no_error() -> None:
    command = f"{sys.executable} -m septum show {EXAMPLE} >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("def f(:\n", [":1: ", "SyntaxError"]),
        ("\nimport nothere\n", [":2: ", "nothere"]),
        ("PREDECESSOR = 'v9'\n", [": PREDECESSOR: ", "v9"]),
        ("def tdx_track(kvm, why):\n    pass\n", [":1: ", "take (kvm) as in v7.3"]),
        ("def tdx_track(kvm):\n    kvm.fn.tdx_trak(kvm)\n", [":2: ", "nearest: tdx_track"]),
    ],
)
def test_a_wrong_design_file(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    one_line_error(septum("check", path), str(path), *parts)
    one_line_error(septum("designs", "diff", "v7.3", path), str(path), *parts)


FAILS = """
def tdp_mmu_set_spte_atomic(kvm, iter, new_spte):
    if kvm.m.exploring is {racing}:
        return kvm.no_such_field
    return kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, new_spte)
"""


@pytest.mark.parametrize("racing", [False, True])
def test_a_design_that_raises(tmp_path: Path, racing: bool) -> None:
    """In the start state or in a race: a row that names function, file and line."""
    path = tmp_path / "mine.py"
    path.write_text(FAILS.format(racing=racing))
    result = septum("check", path, "-s", "fault-fault", "--first", "--save", tmp_path)
    assert result.exit_code == 3, result.output
    told = " ".join(result.stdout.split())
    assert "(mine.py:4 in tdp_mmu_set_spte_atomic())" in told
    assert "no_such_field" in told and "fault-fault error" in told
    assert ("EXCEPTION" in told) is racing


def test_a_design_that_raises_only_in_the_epilogue(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def tdx_mmu_release_hkid(kvm):\n    raise KeyError('keys')\n")
    options = ("--first", "--max-executions", 30, "--save", tmp_path)
    told = " ".join(septum("check", path, "-s", "fault-fault", *options).stdout.split())
    assert "KeyError: 'keys' (mine.py:2 in tdx_mmu_release_hkid()) [epilogue step" in told


def test_expectations_without_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, lambda design, scenario: "holds")
    path = tmp_path / "verdicts.toml"
    path.write_text('[[row]]\ndesign = "v7.3"\nscenario = "subtree"\nverdict = "holds"\n')
    result = septum("check", "-d", "v7.3", "-s", "subtree", "--expect", path)
    assert result.exit_code == 2
    assert "reason" in result.stderr


def test_a_fault_of_septum_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(design: str, scenario: str) -> str:
        raise RuntimeError("the table is flat")

    made_up(monkeypatch, broken)
    result = septum("check", "-d", "v7.3", "-s", "subtree")
    one_line_error(result, "internal error", "the table is flat", "SEPTUM_DEBUG")
    one_line_error(result, "please report", "septum check -d v7.3 -s subtree (")


@pytest.mark.parametrize("error", [NondeterminismError, MachineError])
def test_the_explorer_is_not_sure_of_itself(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside rows, such as in a comparison of schedules."""

    def broken(design: str, scenario: str) -> str:
        raise error("task 1 did something else")

    made_up(monkeypatch, broken)
    result = septum("check", "-d", "v7.3", "-s", "subtree", "-p", "bits=2")
    one_line_error(
        result, "a bug in septum", "task 1 did something else", "report it with this command"
    )
    one_line_error(result, "septum check -d v7.3 -s subtree -p bits=2")


SHARES_NO_WORD = """
from septum.explore import Protocol, Tasks
from septum.machine import SpinLock, Word


def build(m):
    lock, x = SpinLock(m, "lock"), Word(m, "x", 0)
    shared = []

    def task(n):
        lock.lock()
        if shared:
            x.write(n)
        shared.append(n)
        lock.unlock()
        x.read()

    return Tasks({"a": lambda: task(1), "b": lambda: task(2)})


PROTOCOLS = [Protocol("odd", build), Protocol("even", lambda m: Tasks({"a": Word(m, "x", 0).read}))]
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_ran_differs_from_what_ran_before(tmp_path: Path, jobs: int) -> None:
    """A row of its own; the others go on."""
    path = tmp_path / "mine.py"
    path.write_text(SHARES_NO_WORD)
    result = septum("check", path, "-j", jobs, "--format", "json")
    assert result.exit_code == 3, result.output
    odd, even = json.loads(result.stdout)["results"]
    assert (odd["verdict"], even["verdict"]) == ("error", "holds")
    assert odd["note"].startswith("a bug in septum, or odd lets tasks share what is no word")
    assert f"with this command: septum check {path} -j {jobs}" in odd["note"]
    assert "Traceback" not in result.output


def test_from_excludes_other_rows(tmp_path: Path) -> None:
    path = tmp_path / "ce.json"
    path.write_text("{}")
    one_line_error(septum("check", "--from", path, "-d", "v7.3"), "--from")
