# SPDX-License-Identifier: GPL-2.0-only
"""The pairwise contention table of facts/tdx-module.md section 4.4, derived by exploration.

Two tasks run one call each on one TD; every interleaving is explored, and the busy
operands that occur in any of them are the cell: T tree, E entry, D TDR, Ep epoch.
Letters E, C and P of the document say "only if both touch the same object", so each
pair is explored twice: on objects of its own per task, and on one common entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from septum.explore import MachineProgram, Options, search
from septum.machine import Machine
from septum.machine.geometry import Geometry
from septum.tdx import GuestResult, Result, TdxModule, make_td
from septum.tdx.build import BuiltTd, add_tables, must
from septum.tdx.invariants import broken
from septum.tdx.status import Operand, is_operand_busy

CALLS = [
    "SEPT.ADD",
    "PAGE.ADD",
    "AUG",
    "BLOCK",
    "TRACK",
    "P.REMOVE",
    "DEMOTE",
    "PROMOTE",
    "S.REMOVE",
    "VP.ENTER",
    "0-STEP",
    "ACCEPT",
]
# Section 4.4, row by row from the diagonal on; without C and P, which are E and PAMT
# conflicts on a common object.
TABLE = """
E D E T - E E E T - T E
D D D D D D D D D D D
E T - E E E T - T E
T - T T T T - T E
Ep - - - - Ep Ep -
E E E T - T E
E E T - T E
E T - T E
T - T E
- - -
T -
E
"""
CELLS = {
    (CALLS[row], CALLS[row + column]): cell
    for row, line in enumerate(TABLE.strip().splitlines())
    for column, cell in enumerate(line.split())
}
GEOMETRY = Geometry(bits=2, levels=3)
LEAF = 0x1000 << GEOMETRY.bits
SPAN = LEAF << GEOMETRY.bits
HOST_ONLY = {"TRACK", "VP.ENTER", "0-STEP"}  # they address no entry


class Arena:
    """A TD with, per task, a 1 GiB-like range of its own whose entries suit its call."""

    def __init__(self, fine: bool) -> None:
        self.m = Machine()
        self.module = TdxModule(self.m, GEOMETRY, fine=fine)
        self.td: BuiltTd = make_td(self.module, 3)
        self.next = self.td.sept

    def page(self) -> int:
        self.next += 0x1000
        return self.next - 0x1000

    def block(self, gpa: int, level: int) -> None:
        must(self.module.tdh_mem_range_block(self.td.tdr, gpa, level))
        must(self.module.tdh_mem_track(self.td.tdr))

    def tables(self, gpa: int, level: int) -> None:
        self.next = add_tables(self.module, self.td, gpa, level, self.next)

    def prepare(self, call: str, task: int) -> Callable[[], Result | GuestResult]:
        """Make the call's objects; what runs it so that it would succeed alone."""
        module, tdr = self.module, self.td.tdr
        gpa = task * SPAN
        hpa = 0x80000000 + task * SPAN
        vcpu, lp = self.td.tdvprs[task], task
        self.tables(gpa, 1 if call in ("SEPT.ADD", "DEMOTE") else 0)
        if call == "SEPT.ADD":
            page = self.page()
            return lambda: module.tdh_mem_sept_add(tdr, gpa, 1, page)
        if call == "PAGE.ADD":
            return lambda: module.tdh_mem_page_add(tdr, gpa, hpa, 0x100000)
        if call == "AUG":
            return lambda: module.tdh_mem_page_aug(tdr, gpa, 0, hpa)
        if call == "TRACK":
            return lambda: module.tdh_mem_track(tdr)
        if call in ("BLOCK", "P.REMOVE", "ACCEPT"):
            must(module.tdh_mem_page_aug(tdr, gpa, 0, hpa))
            if call == "BLOCK":
                return lambda: module.tdh_mem_range_block(tdr, gpa, 0)
            if call == "ACCEPT":
                must(module.tdh_vp_enter(vcpu, lp=lp))
                return lambda: module.tdg_mem_page_accept(gpa, 0, lp=lp)
            self.block(gpa, 0)
            return lambda: module.tdh_mem_page_remove(tdr, gpa, 0)
        if call == "DEMOTE":
            must(module.tdh_mem_page_aug(tdr, gpa, 1, hpa))
            self.block(gpa, 1)
            page = self.page()
            return lambda: module.tdh_mem_page_demote(tdr, gpa, 1, page)
        if call == "PROMOTE":
            for i in range(GEOMETRY.entries):
                must(module.tdh_mem_page_aug(tdr, gpa + i * 0x1000, 0, hpa + i * 0x1000))
            self.block(gpa, 1)
            return lambda: module.tdh_mem_page_promote(tdr, gpa, 1)
        if call == "S.REMOVE":
            self.block(gpa, 1)
            return lambda: module.tdh_mem_sept_remove(tdr, gpa, 1)
        if call == "0-STEP":
            for _ in range(7):
                must(module.tdh_vp_enter(vcpu, lp=lp))
                module.guest_ept_violation(lp, gpa)
        return lambda: module.tdh_vp_enter(vcpu, lp=lp)

    def common(self, call: str, task: int) -> Callable[[], Result | GuestResult]:
        """The call on the 2M entry at GPA 0, whatever state that is in."""
        module, tdr, lp = self.module, self.td.tdr, task
        hpa = 0x80000000 + task * SPAN
        page = self.page()
        if call == "ACCEPT":
            must(module.tdh_vp_enter(self.td.tdvprs[task], lp=lp))
        runs: dict[str, Callable[[], Result | GuestResult]] = {
            "SEPT.ADD": lambda: module.tdh_mem_sept_add(tdr, 0, 1, page),
            "AUG": lambda: module.tdh_mem_page_aug(tdr, 0, 1, hpa),
            "BLOCK": lambda: module.tdh_mem_range_block(tdr, 0, 1),
            "P.REMOVE": lambda: module.tdh_mem_page_remove(tdr, 0, 1),
            "DEMOTE": lambda: module.tdh_mem_page_demote(tdr, 0, 1, page),
            "PROMOTE": lambda: module.tdh_mem_page_promote(tdr, 0, 1),
            "S.REMOVE": lambda: module.tdh_mem_sept_remove(tdr, 0, 1),
            "ACCEPT": lambda: module.tdg_mem_page_accept(0, 1, lp=lp),
        }
        return runs[call]

    def explore(self, calls: tuple[str, str], runs: Sequence[Callable[[], object]]) -> set[str]:
        """The busy letters that occur in any interleaving."""
        seen: set[str] = set()
        results: dict[int, int] = {}

        def body(task: int) -> None:
            result = runs[task]()
            assert isinstance(result, Result | GuestResult)
            results[task] = result.rax

        def collect(_: object) -> None:
            for task, rax in results.items():
                if is_operand_busy(rax):
                    seen.add(letter(calls[task], rax & 0xFFFFFFFF))
            results.clear()

        def settle() -> None:
            assert broken(self.module) == []

        bodies = [(f"{calls[n]} {n}", lambda n=n: body(n)) for n in range(2)]
        program = MachineProgram(self.m, bodies, settle)
        result = search(program, Options("optimal"), on_execution=collect)
        assert result.complete
        assert not result.found, result.found
        return seen


def letter(call: str, operand: int) -> str:
    if operand == Operand.RCX and call != "TRACK":
        return "E"
    return {
        Operand.SEPT_TREE: "T",
        Operand.TD_EPOCH: "Ep",
        Operand.R8: "P",
    }.get(Operand(operand), "D")


@pytest.mark.parametrize("fine", [False, True], ids=["coarse", "fine"])
@pytest.mark.parametrize("pair", CELLS, ids=" x ".join)
def test_own_objects(pair: tuple[str, str], fine: bool) -> None:
    arena = Arena(fine)
    runs = [arena.prepare(call, task) for task, call in enumerate(pair)]
    wanted = {CELLS[pair]} - {"-", "E"}
    assert arena.explore(pair, runs) == wanted


SHARING = [p for p in CELLS if not HOST_ONLY.intersection(p) and "PAGE.ADD" not in p]


@pytest.mark.parametrize("pair", SHARING, ids=" x ".join)
@pytest.mark.parametrize("start", ["free", "leaf", "table"])
def test_common_entry(pair: tuple[str, str], start: str) -> None:
    arena = Arena(False)
    arena.tables(0, 0 if start == "table" else 1)
    if start == "leaf":
        must(arena.module.tdh_mem_page_aug(arena.td.tdr, 0, 1, 0xA0000000))
    runs = [arena.common(call, task) for task, call in enumerate(pair)]
    assert arena.explore(pair, runs) == {CELLS[pair]}
