# SPDX-License-Identifier: GPL-2.0-only
"""Faults that never resolve and zap storms are told, but are no findings."""

from __future__ import annotations

import pytest
from trace_rig import EMPTY, Writer, judged, leaf

from septum.trace.notices import AGAIN, STORM


def notes(writer: Writer) -> list[str]:
    result = judged(writer.lines)
    assert result.findings == []
    return result.notes


@pytest.mark.parametrize(
    ("faults", "code", "told"),
    [(AGAIN - 1, 0x6, False), (AGAIN, 0x6, True), (AGAIN, 0xE, False)],
    ids=["few", "many", "MMIO"],
)
def test_a_fault_that_never_resolves(faults: int, code: int, told: bool) -> None:
    w = Writer()
    w.tree()
    for _ in range(faults):
        w.line(f"kvm_page_fault: vcpu 0 rip 0x0 address 0x0000000000005000 error_code {code:#x}")
        w.line("kvm_mmu_spte_requested: gfn 5 pfn 95 level 1 access f")
    said = [note for note in notes(w) if "never resolves" in note]
    assert bool(said) is told
    if told:
        assert f"CPU 0/KVM-100 on gfn 5, {AGAIN} times from line 7 on" in said[0]
        w.line(f"kvm_mmu_set_spte: gfn 5 spte {leaf(0x95):x} (rwxu) level 1 at 13028")
        (resolved,) = notes(w)
        assert resolved.startswith(f"1 fault was taken {AGAIN} times or more in a row before")


@pytest.mark.parametrize("zaps", [STORM - 1, STORM])
def test_a_zap_storm(zaps: int) -> None:
    w = Writer()
    w.tree()
    for _ in range(zaps):
        w.change(1, 5, EMPTY, leaf(0x95))
        w.change(1, 5, leaf(0x95), EMPTY)
    said = [note for note in notes(w) if "zap storm" in note]
    assert len(said) == (zaps >= STORM)


def test_zaps_of_different_seconds_do_not_add_up() -> None:
    w = Writer()
    w.tree()
    for _ in range(STORM):
        w.change(1, 5, EMPTY, leaf(0x95))
        w.change(1, 5, leaf(0x95), EMPTY)
        w.time += 0.1
    assert not any("storm" in note for note in notes(w))
