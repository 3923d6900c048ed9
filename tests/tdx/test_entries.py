# SPDX-License-Identifier: GPL-2.0-only
"""S-EPT encodings and status codes against the concrete values of the facts (2.2, 2.4, 7)."""

from __future__ import annotations

import pytest

from septum.tdx import sept
from septum.tdx.sept import FREE, HP_BIT, LOCK_BIT, State, leaf, non_leaf
from septum.tdx.status import (
    TDX_INTERRUPTED_RESTARTABLE,
    TDX_PREVIOUS_TLB_EPOCH_BUSY,
    decode,
    is_error,
    is_operand_busy,
)

HPA = 0x80000000


@pytest.mark.parametrize(
    ("raw", "state", "value", "rcx", "rdx"),
    [
        (FREE, State.FREE, 0x80E0000000000000, 1 << 63, 0x3),
        (sept.removed(0), State.REMOVED, 0x80C0100000000000, 0, 0x503),
        (leaf(State.MAPPED, HPA), State.MAPPED, 0x80000000800000F7, 0x80000000800000F7, 0x403),
        (leaf(State.PENDING, HPA), State.PENDING, 0x81000000800000F0, 0x80000000800000F0, 0x203),
        (leaf(State.BLOCKED, HPA), State.BLOCKED, 0x80800000800000F0, 0x80000000800000F0, 0x103),
        (
            leaf(State.PENDING_BLOCKED, HPA),
            State.PENDING_BLOCKED,
            0x81800000800000F0,
            0x80000000800000F0,
            0x303,
        ),
        (non_leaf(HPA), State.NL_MAPPED, 0x8000000080000007, 0x7, 0x8403),
        (sept.blocked(non_leaf(HPA)), State.NL_BLOCKED, 0x8080000080000000, 0, 0x8103),
    ],
    ids=lambda v: v.name if isinstance(v, State) else "",
)
def test_raw_values(raw: int, state: State, value: int, rcx: int, rdx: int) -> None:
    assert raw == value
    assert sept.state_of(raw) is state
    assert sept.arch_entry(raw | LOCK_BIT | HP_BIT) == rcx
    assert sept.level_state(raw, 3) == rdx
    assert sept.state_of(raw | LOCK_BIT | HP_BIT) is state


def test_block_and_unblock_are_inverse_but_for_locks() -> None:
    for raw in (leaf(State.MAPPED, HPA), leaf(State.PENDING, HPA), non_leaf(HPA)):
        assert sept.unblocked(sept.blocked(raw | LOCK_BIT | HP_BIT)) == raw


def test_public_states_are_distinct() -> None:
    assert sorted(sept.PUBLIC_STATES.values()) == list(State)


def test_show() -> None:
    assert sept.show(leaf(State.PENDING, HPA) | LOCK_BIT) == "PENDING 0x80000000 locked"
    assert sept.show(FREE | HP_BIT) == "FREE host-priority"


@pytest.mark.parametrize(
    ("rax", "words"),
    [
        (0, "TDX_SUCCESS"),
        (0x30, "TDX_SUCCESS|exit reason 48"),
        (0x8000020000000092, "TDX_OPERAND_BUSY|SEPT_TREE"),
        (0xC000010000000000, "TDX_OPERAND_INVALID|RAX"),
        (0xC0000B0300000000, "TDX_EPT_ENTRY_NOT_PRESENT"),
        (0x00000B0A00000001, "TDX_PAGE_ALREADY_ACCEPTED|level 1"),
        (0x6000000500000030, "TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE|exit reason 48"),
        (0x80000200000000FE, "TDX_OPERAND_BUSY|0xfe"),
        (0x1234567800000000, "0x1234567800000000"),
    ],
)
def test_decode(rax: int, words: str) -> None:
    assert decode(rax) == words


def test_predicates() -> None:
    assert is_operand_busy(0x8000020000000001)
    assert not is_operand_busy(TDX_PREVIOUS_TLB_EPOCH_BUSY)
    assert is_error(TDX_INTERRUPTED_RESTARTABLE)
    assert not is_error(0x00000B0700000001)
