# SPDX-License-Identifier: GPL-2.0-only
"""A synthetic recording made from compiled kernel code (scripts/make_kernel_recording.py)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from trace_rig import run, sample

from septum.native.build import build
from septum.scenarios import find
from septum.trace.synthetic_kernel import FAULTS, record_kernel

NAME = "synthetic-linux-7.3-zap.trace"


def test_it_says_what_it_is() -> None:
    assert sample(NAME)[2].startswith("# SYNTHETIC: made by septum from compiled Linux 7.3")


def test_calls_and_changes_of_compiled_code_agree() -> None:
    """BLOCK, TRACK, REMOVE, WBINVD, the zap's line; then the fault's AUG and its line."""
    result = run(sample(NAME))
    assert result.findings == []
    assert result.events == {
        "seamcall_ret": 5,
        "seamcall_ret_done": 5,
        "kvm_tdp_mmu_spte_changed": 2,
    }
    assert any("answers alike: 4" in note for note in result.notes)


@pytest.mark.parametrize(
    ("fault", "rules", "words"),
    [
        ("lost-remove", ["I1", "TDX-status"], "the mirror holds nothing, the S-EPT holds BLOCKED"),
        ("wrong-status", ["TDX-status", "I8", "I1"], "the TDX Module model returns TDX_SUCCESS"),
        ("other-page", ["I1"], "the mirror maps pfn 48802, the S-EPT holds PENDING 0x48801000"),
    ],
)
def test_inserted_faults_are_found(fault: str, rules: list[str], words: str) -> None:
    result = run(FAULTS[fault](sample(NAME)))
    assert [finding.rule for finding in result.findings] == rules
    assert words in result.findings[0].message


def test_the_sample_is_what_the_tree_gives() -> None:
    tree = os.environ.get("SEPTUM_LINUX")
    if not tree:
        pytest.skip("SEPTUM_LINUX names no Linux 7.3 tree")
    assert record_kernel(build(Path(tree)).code, find("zap-running")) == sample(NAME)
