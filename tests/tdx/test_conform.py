# SPDX-License-Identifier: GPL-2.0-only
"""`septum.tdx.conform` on a sample of the recorded vectors, and on damaged ones.

The sample is 26 of the 400 training sequences, chosen to cover many (call, result)
pairs; the whole set agrees too (docs/tdx-model.md).
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from septum.tdx.conform import Report, check_file, check_sequence

SAMPLE = Path(__file__).parents[1] / "data" / "tdx-vectors-sample.jsonl.gz"


def lines() -> list[str]:
    return gzip.decompress(SAMPLE.read_bytes()).decode().splitlines()


def test_the_sample_agrees_entirely() -> None:
    report = check_file(SAMPLE)
    assert [str(d) for d in report.disagreements] == []
    assert report.bad_lines == []
    assert report.ok
    assert (report.sequences, report.finals_agreed) == (26, 26)
    assert report.steps == report.agreed > 1000
    assert len(report.by_call) >= 30
    assert report.by_call["TDH.MEM.TRACK"]["TDX_PREVIOUS_TLB_EPOCH_BUSY"][0] > 0


def test_json_form() -> None:
    found = check_file(SAMPLE).as_dict()
    assert json.loads(json.dumps(found)) == found
    assert {"file", "steps", "agreed", "disagreements", "by_call"} <= found.keys()


def damaged(change: Any) -> Report:
    """A report on the first sequence after ``change(sequence)``."""
    sequence = json.loads(lines()[0])
    change(sequence)
    report = Report("changed")
    check_sequence(sequence, report)
    return report


def test_a_wrong_status_is_a_disagreement_in_full() -> None:
    def change(sequence: dict[str, Any]) -> None:
        sequence["steps"][3]["out"] = {"rax": "0xc000030000000001"}

    report = damaged(change)
    assert report.agreed == report.steps - 1
    (found,) = report.disagreements
    assert found.step == 3
    assert "PAGE_METADATA_INCORRECT|RCX" in str(found)
    assert "recorded" in str(found)
    assert "model" in str(found)


def test_only_the_first_difference_of_a_sequence_is_kept() -> None:
    def change(sequence: dict[str, Any]) -> None:
        for step in sequence["steps"][2:6]:
            step["out"] = {"rax": "0x1"}

    report = damaged(change)
    assert report.steps - report.agreed == 4
    assert [d.step for d in report.disagreements] == [2]


def test_a_wrong_final_state() -> None:
    def change(sequence: dict[str, Any]) -> None:
        sequence["final"]["chldcnt"] += 1

    report = damaged(change)
    assert report.agreed == report.steps
    assert report.finals_agreed == 0
    assert report.disagreements[0].step == -1
    assert "chldcnt" in str(report.disagreements[0])


def test_an_event_that_the_model_cannot_have_is_a_disagreement() -> None:
    def change(sequence: dict[str, Any]) -> None:
        sequence["steps"].insert(
            0,
            {
                "call": "guest-interrupt",
                "lp": 0,
                "in": {"rip": "0x1000"},
                "out": {"event": "td-exit", "rax": "0x1", "rcx": "0x0", "rdx": "0x0", "r8": "0x0"},
            },
        )

    report = damaged(change)
    assert report.steps - report.agreed == 1
    assert "no vCPU is in the guest on LP 0" in str(report.disagreements[0])


def write(path: Path, text: bytes) -> Path:
    path.write_bytes(text)
    return path


def test_malformed_lines_are_named_and_the_rest_is_checked(tmp_path: Path) -> None:
    good = lines()
    broken = json.loads(good[1])
    del broken["config"]
    unknown = json.loads(good[2])
    unknown["steps"][0]["call"] = "TDH.NO.SUCH"
    rows = [good[0], good[1][:200], json.dumps(broken), json.dumps(unknown), "[]", "", good[3]]
    report = check_file(write(tmp_path / "v.jsonl", "\n".join(rows).encode()))
    assert report.finals_agreed == 2
    reasons = {b.line: b.reason for b in report.bad_lines}
    assert sorted(reasons) == [2, 3, 4, 5]
    assert "not JSON at column" in reasons[2]
    assert "'config' is missing" in reasons[3]
    assert "TDH.NO.SUCH" in reasons[4]
    assert "malformed" in reasons[5]
    assert not report.ok


def test_a_cut_compressed_file(tmp_path: Path) -> None:
    report = check_file(write(tmp_path / "v.jsonl.gz", SAMPLE.read_bytes()[:9000]))
    assert report.finals_agreed >= 1
    assert "cut here" in report.bad_lines[-1].reason


def test_not_text(tmp_path: Path) -> None:
    report = check_file(write(tmp_path / "v.jsonl", b"\xff\xfe\x00\n" + lines()[0].encode()))
    assert "not UTF-8" in report.bad_lines[0].reason
    assert report.finals_agreed == 1


def test_no_such_file(tmp_path: Path) -> None:
    report = check_file(tmp_path / "none.jsonl")
    assert "cannot read none.jsonl" in str(report.bad_lines[0])
    assert not report.ok


def test_crlf_and_plain(tmp_path: Path) -> None:
    text = "\r\n".join(lines()[:2]).encode()
    assert check_file(write(tmp_path / "v.jsonl", text)).finals_agreed == 2


@pytest.mark.parametrize("cut", [50, 3000])
def test_a_cut_last_line(tmp_path: Path, cut: int) -> None:
    text = lines()[0] + "\n" + lines()[1][:cut]
    report = check_file(write(tmp_path / "v.jsonl", text.encode()))
    assert [b.line for b in report.bad_lines] == [2]
    assert report.finals_agreed == 1
