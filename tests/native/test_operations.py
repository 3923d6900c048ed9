# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios' operations as calls of the glue: GFNs of small tables become the kernel's."""

from __future__ import annotations

import re

import pytest

from septum.machine.geometry import Geometry
from septum.native.kbuild import CODE
from septum.native.operations import (
    _OPS,
    bind,
    scenario_slots,
    unsupported,
    uses_direct_roots,
)
from septum.scenarios.model import Op, Start, op, run_vcpu
from septum.scenarios.suite import SCENARIOS, find

SMALL = Geometry(bits=1, levels=3)
SHARED = Geometry().shared_gfn


@pytest.mark.parametrize(
    ("what", "vcpu", "call"),
    [
        (op("fault", 3), 1, ("septum_op_fault", (1, 0x201))),
        (op("fault", 2, 1), 0, ("septum_op_fault", (0, 0x200, 1))),
        (op("access", 1), 0, ("septum_op_access", (0, 1, 1))),
        (op("access", 4, "fetch"), 0, ("septum_op_access", (0, 0x40000, 2))),
        (op("unmap_hva", 1, 3), -1, ("septum_op_unmap_hva", (1, 0x201))),
        (op("punch_hole", 2, 3, 1), -1, ("septum_op_punch_hole", (0x200, 0x201, 1))),
        (op("create_slot", 1, 4, 2), -1, ("septum_op_create_slot", (1, 0x40000, 0x40002))),
        (op("move_slot", 1, 3), -1, ("septum_op_move_slot", (1, 0x201))),
        (op("clear_dirty", 9), -1, ("septum_op_clear_dirty", (9,))),
        (op("zap_table", 0, 3), -1, ("septum_op_zap_mirror", (0,))),
        (op("zap_table", 0, 2, 0, 1), -1, ("septum_op_zap_table", (0, 2, 0, 1))),
    ],
)
def test_an_operation_is_a_call(what: Op, vcpu: int, call: tuple[str, tuple[int, ...]]) -> None:
    function, args, program = bind(SMALL, vcpu, what)
    assert (function, args, program) == (*call, ())


def test_shared_guest_accesses_carry_the_shared_bit() -> None:
    _, _, program = bind(SMALL, 0, run_vcpu(op("read_shared", 2), op("write", 1)))
    assert [g.gfn for g in program] == [0x200 | SHARED, 1]


def test_every_operation_is_a_function_of_the_glue() -> None:
    text = "".join(path.read_text() for path in CODE.glob("*.c"))
    defined = set(re.findall(r"^long (septum_op_\w+)\(", text, re.M))
    assert {function for function, _, _ in _OPS.values()} <= defined


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("huge-split-fault", "no tree has huge private pages"),
        ("huge-split-interrupted", "no tree has huge private pages"),
        ("log-enable-alloc", ""),
        ("log-enable-yield", ""),
        ("migrate-zap", ""),
        ("teardown-kick", ""),
        ("run-unmap", ""),
        ("notifier-slot", ""),
    ],
)
def test_what_is_lacking_is_said(name: str, why: str) -> None:
    lacking = unsupported(find(name))
    assert why in lacking if why else not lacking


def test_slots_and_roots_of_the_suite() -> None:
    assert scenario_slots(Start()) == ((0, 4, 0),)
    direct = {name for name, s in SCENARIOS.items() if uses_direct_roots(s)}
    assert {"run-unmap", "td-fast-zap", "shared-zap", "convert-guest"} <= direct
    assert not direct & {"fault-fault", "zap-running", "delete-fault"}
