# SPDX-License-Identifier: GPL-2.0-only
"""Help texts and docstrings: complete, and in agreement with the recorded vectors."""

from __future__ import annotations

from pathlib import Path

import pytest

from septum.tdx import TdxModule
from septum.tdx.conform import check_file
from septum.tdx.console.calls import CALLS
from septum.tdx.console.manual import TOPICS, errors_of, overview, topic

SAMPLE = Path(__file__).parents[1] / "data" / "tdx-vectors-sample.jsonl.gz"


@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_explained(call: str) -> None:
    text = topic(call)
    for part in (call, "Script   ", "\nIn: ", "\nChecks, in order", "\nEffects: ", "\nSource: "):
        assert part in text
    assert max(map(len, text.split("\n"))) <= 78


@pytest.mark.parametrize("call", CALLS)
def test_the_typed_method_documents_the_call(call: str) -> None:
    method = getattr(TdxModule, call.lower().replace(".", "_"))
    doc = method.__doc__
    for part in (call, "\nIn: ", "\nChecks, in order", "\nEffects: ", "\nSource: "):
        assert part in doc


def test_every_recorded_error_is_documented() -> None:
    checked = 0
    for call, results in check_file(SAMPLE).by_call.items():
        for result in results:
            status = result.replace("TDX_", "").removeprefix("resume ")
            if call not in CALLS or status.startswith(("SUCCESS", "td-", "retry")):
                continue
            known = {
                error.replace("|level", f"|{status.partition('|')[2]}") for error in errors_of(call)
            }
            assert status in known, (call, status)
            checked += 1
    assert checked > 100


def test_topics() -> None:
    for name in TOPICS:
        assert len(topic(name).split("\n")) > 5
        assert max(map(len, topic(name).split("\n"))) <= 78
    assert "PAGE.AUG" in overview() and topic("td") == topic("fixtures")


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("aug", "TDH.MEM.PAGE.AUG  (SEAMCALL leaf 6)"),
        ("0xc0000b0800000001", "TDX_TLB_TRACKING_NOT_DONE|RCX"),
        ("PREVIOUS_TLB_EPOCH_BUSY", "Returned by TDH.MEM.TRACK"),
        ("tdx_gpa_range_already_blocked", "informational"),
        ("OPERAND_BUSY|KOT", "TDH.MNG.CREATE"),
        ("TDX_SUCCESS", "success"),
    ],
)
def test_what_help_knows(word: str, part: str) -> None:
    assert part in topic(word)


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("xyzzy", "no help on"),
        ("PAGE.AGU", "nearest"),
        ("ADDCX", "MNG.ADDCX or"),
        ("0x7" * 9, "no help"),
    ],
)
def test_what_help_does_not_know(word: str, part: str) -> None:
    with pytest.raises(KeyError, match=part):
        topic(word)
