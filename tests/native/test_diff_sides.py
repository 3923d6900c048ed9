# SPDX-License-Identifier: GPL-2.0-only
"""What counts as a difference between a design and compiled code, if a search had no time left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from septum.native.diff import _differences, _Seen

A: Any = (("mirror", 1, 0, "leaf"),)
B: Any = (("mirror", 1, 0, "none"),)


@pytest.mark.parametrize(
    ("model", "code", "told"),
    [
        # rules, states, whole of either side; what is told
        ((set(), {A}, True), (set(), {A}, True), []),
        ((set(), {A}, True), (set(), {A, B}, True), ["only C reaches"]),
        ((set(), {A}, False), (set(), {A, B}, True), []),  # the design may get there yet
        ((set(), {A}, True), (set(), {A, B}, False), ["only C reaches"]),
        (({"I1"}, {A}, True), (set(), {A}, True), ["findings: D I1, C none"]),
        (({"I1"}, {A}, True), (set(), {A}, False), []),  # the code may break it yet
        (({"I1"}, {A}, False), (set(), {A}, True), ["findings: D I1, C none"]),
        (({"I1"}, {A}, False), ({"I2"}, {A}, True), ["findings: D I1, C I2"]),
    ],
)
def test_what_one_side_did_not_get_to_is_no_difference(
    model: tuple[set[str], set[Any], bool],
    code: tuple[set[str], set[Any], bool],
    told: list[str],
) -> None:
    sides: Any = tuple(
        SimpleNamespace(states={key: [0] for key in seen[1]}) for seen in (model, code)
    )
    lines = list(_differences(_Seen("D", *model), _Seen("C", *code), sides, ["vcpu0"]))
    assert len([line for line in lines if "schedule" not in line]) == len(told)
    assert all(any(text in line for line in lines) for text in told)
