# SPDX-License-Identifier: GPL-2.0-only
"""`septum.machine.geometry`: the hardware shapes and small ones."""

from __future__ import annotations

import pytest

from septum.machine.geometry import HARDWARE_4, HARDWARE_5, HARDWARE_5_WIDE, Geometry


def test_hardware_shapes() -> None:
    assert (HARDWARE_4.entries, HARDWARE_4.levels, HARDWARE_4.shared) == (512, 4, 47)
    assert (HARDWARE_5.levels, HARDWARE_5.shared) == (5, 47)
    assert (HARDWARE_5_WIDE.levels, HARDWARE_5_WIDE.shared) == (5, 51)
    assert Geometry(levels=5) == HARDWARE_5
    assert all(g.hardware for g in (HARDWARE_4, HARDWARE_5, HARDWARE_5_WIDE))
    assert [HARDWARE_4.pages_per_level(n) for n in (1, 2, 3)] == [1, 512, 512 * 512]
    assert HARDWARE_4.bytes_per_level(2) == 2 << 20


def test_small_shape() -> None:
    small = Geometry(bits=2, levels=2)
    assert (small.entries, small.mask, small.gfn_bits) == (4, 3, 4)
    assert small.pages_per_level(2) == 4
    assert [small.index(gfn, 1) for gfn in range(5)] == [0, 1, 2, 3, 0]
    assert [small.index(gfn, 2) for gfn in (0, 3, 4, 15)] == [0, 0, 1, 3]
    assert small.shared_gfn == 8
    assert small.is_shared(9)
    assert not small.is_shared(7)
    assert not small.hardware


def test_alignment() -> None:
    small = Geometry(bits=2, levels=3)
    assert small.aligned(4, 2)
    assert not small.aligned(5, 2)
    assert small.round_down(23, 2) == 20
    assert small.round_down(23, 3) == 16


@pytest.mark.parametrize(
    "bad", [{"bits": 0}, {"bits": 10}, {"levels": 1}, {"levels": 6}, {"shared": 11}]
)
def test_impossible_shapes(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be|inside a page"):
        Geometry(**bad)


def test_frozen_and_hashable() -> None:
    assert len({Geometry(), Geometry(), Geometry(bits=2)}) == 2
