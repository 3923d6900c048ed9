# SPDX-License-Identifier: GPL-2.0-only
"""The designs on a TDX Module: whole lives, and what facts 6.11 says of D0 and D1."""

from __future__ import annotations

from dataclasses import replace
from errno import EBUSY, EEXIST, EINVAL, EIO
from typing import Any

import pytest

from septum.designs import lookup
from septum.kvm.host import FREE, RELEASED
from septum.kvm.monitors import Monitors
from septum.kvm.operations import OPERATIONS, force_huge_leaf
from septum.kvm.ret_pf import RET_PF_FIXED, RET_PF_RETRY
from septum.kvm.seamcall import Injection
from septum.kvm.spte import (
    SHADOW_NONPRESENT_VALUE,
    is_large_pte,
    is_last_spte,
    is_shadow_present_pte,
    spte_to_pfn,
)
from septum.kvm.structs import Kvm
from septum.kvm.tdp_iter import TdpIter
from septum.kvm.tdx_vm import create_tdx_vm
from septum.kvm.view import KvmView
from septum.machine import Machine
from septum.machine.geometry import Geometry
from septum.tdx.leaves import SEAMCALL_NUMBERS
from septum.tdx.profiles import PROFILES, hypothetical_resize
from septum.tdx.status import TDX_OPERAND_BUSY, TDX_OPERAND_INVALID

TINY = Geometry(bits=1, levels=3)
DESIGNS = ("void-callback", "v6.16", "rfc-v5-08", "rfc-v5", "feb06", "feb10-sp", "v7.3")


class Td:
    def __init__(
        self, design: str, finalized: bool = True, max_level: int = 1, **options: Any
    ) -> None:
        self.m = Machine()
        functions = lookup(design).functions
        self.kvm: Kvm = create_tdx_vm(
            self.m, TINY, functions, 1, finalized=finalized, slots=((0, 4),), **options
        )
        self.kvm.slots[0].arch.max_level = max_level
        self.kvm.host.gmem.folio_level = max_level
        self.view = KvmView(self.kvm)
        self.monitors = Monitors(self.view)
        self.calls: list[str] = []
        self.m.listeners.append(self._on)

    def _on(self, what: str, args: tuple[Any, ...]) -> None:
        if what == "seamcall":
            self.calls.append(args[0].removeprefix("TDH."))

    def take(self) -> list[str]:
        calls = self.calls[:]
        self.calls.clear()
        return calls

    def do(self, name: str, *args: Any, **more: Any) -> Any:
        return OPERATIONS[name](self.kvm, *args, **more)

    def fault_once(self, gfn: int) -> int:
        return int(self.kvm.fn.tdx_ept_violation_loop(self.kvm.vcpus[0], gfn << 12, 2, False))

    def fail(self, call: str, status: int) -> None:
        """The next ``call`` fails with ``status``."""
        leaf = SEAMCALL_NUMBERS[f"TDH.{call}"]
        self.kvm.tdx.injection = Injection(self.m, frozenset({leaf}), (status,))
        self.m.choose = lambda name, options: options[-1]  # type: ignore[method-assign]

    def init_mem(self, gfn: int, measure: bool = False) -> int:
        return int(self.kvm.fn.tdx_vcpu_init_mem_region(self.kvm.vcpus[0], gfn, 1, measure))

    def spte(self, gfn: int, level: int = 1) -> int:
        root = self.kvm.mmu_pages[self.kvm.vcpus[0].mirror_root_hpa.v >> 12]
        iter = TdpIter(self.kvm, root, level, gfn, 0)
        while iter.level != level:
            iter.next()
        return int(iter.old_spte)

    @property
    def rules(self) -> list[str]:
        self.monitors.settled()
        return [f.rule for f in self.m.findings]

    @property
    def external_pages(self) -> list[int]:
        """Pages that the host thinks the S-EPT has."""
        owner = self.kvm.host.owner
        return [pfn for pfn in self.kvm.host._owner if owner(pfn) == "external_spt"]


@pytest.mark.parametrize("design", DESIGNS)
def test_a_whole_life(design: str) -> None:
    """Build, finalize, fault, punch, refault, destroy: no finding, and nothing leaks."""
    td = Td(design, finalized=False)
    fn = td.kvm.fn
    assert td.init_mem(0, measure=True) == 0
    # v6.16 publishes the leaf, and only then has it added (facts 6.11).
    assert td.rules == (["I1"] if design == "v6.16" else [])
    td.m.findings.clear()
    assert fn.tdx_td_finalize(td.kvm) == 0
    assert td.do("fault", 0, 1) == RET_PF_FIXED
    assert td.do("fault", 0, 2) == RET_PF_FIXED
    td.do("punch_hole", 0, 2)
    assert td.do("fault", 0, 0) == RET_PF_FIXED
    assert td.rules == []
    OPERATIONS["destroy_vm"](td.kvm)
    td.kvm.rcu.barrier()
    assert td.rules == []
    assert td.external_pages == []
    assert td.kvm.host.gmem.peek(0) == 0
    assert not any(pins.v for pins in td.kvm.host._pins.values())


REMOVAL = ["MEM.RANGE.BLOCK", "MEM.TRACK", "MEM.PAGE.REMOVE", "PHYMEM.PAGE.WBINVD"]


@pytest.mark.parametrize("design", DESIGNS)
def test_seamcalls_of_an_install_and_a_removal(design: str) -> None:
    td = Td(design)
    td.do("fault", 0, 0)
    assert td.take() == ["MEM.SEPT.ADD", "MEM.SEPT.ADD", "MEM.PAGE.AUG"]
    td.do("zap_range", 0, 1)
    assert td.take() == REMOVAL
    assert td.rules == []


# --- void-callback ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [TDX_OPERAND_BUSY, TDX_OPERAND_INVALID])
def test_void_callback_publishes_what_the_sept_does_not_have(status: int) -> None:
    td = Td("void-callback")
    td.fail("MEM.PAGE.AUG", status)
    assert td.fault_once(0) == RET_PF_FIXED
    assert is_shadow_present_pte(td.spte(0))
    assert td.kvm.vm_bugged.v
    sept = td.view.sept(0, 1)
    assert sept is not None and sept.state.name == "FREE"
    assert td.kvm.host.pins(td.kvm.host.gmem.peek(0)).v == 0


@pytest.mark.parametrize("design", DESIGNS[1:])
def test_every_other_design_restores_and_retries(design: str) -> None:
    td = Td(design)
    td.fail("MEM.PAGE.AUG", TDX_OPERAND_BUSY)
    assert td.fault_once(0) == RET_PF_RETRY
    assert td.spte(0) == SHADOW_NONPRESENT_VALUE
    assert not td.kvm.vm_bugged.v
    assert td.do("fault", 0, 0) == RET_PF_FIXED
    late_statistics = design in ("feb06", "feb10-sp")
    assert td.rules == (["I4", "I20"] if late_statistics else [])


def test_void_callback_splits_huge_leafs_and_takes_tables_out_of_the_sept() -> None:
    td = Td("void-callback", max_level=2)
    assert td.do("fault", 0, 0) == RET_PF_FIXED
    assert is_large_pte(td.spte(0, 2))
    td.take()
    td.do("split", 0, 2)
    assert td.take() == ["MEM.RANGE.BLOCK", "MEM.TRACK", "MEM.PAGE.DEMOTE"]
    assert td.rules == []
    td.do("zap_table", 0, level=2)
    end = ["MEM.RANGE.BLOCK", "MEM.TRACK", "MEM.SEPT.REMOVE", "PHYMEM.PAGE.WBINVD"]
    assert td.take() == REMOVAL * 2 + end
    assert td.rules == []


def test_void_callback_goes_on_after_a_failed_block() -> None:
    """The field report: the mirror shows small leafs, the S-EPT still has the huge one."""
    td = Td("void-callback", max_level=2)
    td.do("fault", 0, 0)
    td.take()
    td.fail("MEM.RANGE.BLOCK", TDX_OPERAND_BUSY)
    td.do("split", 0, 2)
    assert td.take() == ["MEM.RANGE.BLOCK", "MEM.TRACK", "MEM.PAGE.DEMOTE"]
    assert not is_last_spte(td.spte(0, 2), 2)
    sept = td.view.sept(0, 1)
    assert sept is not None and sept.level == 2
    assert td.kvm.vm_bugged.v


# --- v6.16 ----------------------------------------------------------------------------------


def test_v6_16_pins_pages_until_they_are_removed() -> None:
    td = Td("v6.16")
    td.do("fault", 0, 0)
    pfn = spte_to_pfn(td.spte(0))
    assert td.kvm.host.pins(pfn).v == 1
    td.do("zap_range", 0, 1)
    assert td.kvm.host.pins(pfn).v == 0
    td.fail("MEM.PAGE.AUG", TDX_OPERAND_BUSY)
    td.fault_once(0)
    assert td.kvm.host.pins(pfn).v == 0


@pytest.mark.parametrize(("design", "owner"), [("v6.16", RELEASED), ("v7.3", FREE)])
def test_a_page_whose_removal_failed(design: str, owner: str) -> None:
    """I12: only a pin keeps it from the host's allocator (facts 6.4)."""
    td = Td(design)
    td.do("fault", 0, 0)
    pfn = spte_to_pfn(td.spte(0))
    td.fail("MEM.PAGE.REMOVE", TDX_OPERAND_INVALID)
    td.do("punch_hole", 0, 1)
    assert td.kvm.host.owner(pfn) == owner
    assert ("I12" in td.rules) is (design == "v7.3")


def test_v6_16_adds_pages_after_the_hook_and_counts_them() -> None:
    td = Td("v6.16", finalized=False)
    premapped = td.kvm.tdx.nr_premapped
    td.fail("MEM.PAGE.ADD", TDX_OPERAND_BUSY)
    assert td.init_mem(0) == -EBUSY
    assert td.take() == ["MEM.SEPT.ADD", "MEM.SEPT.ADD", "MEM.PAGE.ADD"]
    # The leaf, the count and the VM stay; finalization has to wait.
    assert is_shadow_present_pte(td.spte(0)) and premapped.v == 1
    assert not td.kvm.vm_bugged.v
    assert td.kvm.fn.tdx_td_finalize(td.kvm) == -EINVAL
    # The fault has prepared the page, so that it is refused until a hole takes it away.
    td.kvm.tdx.injection = None
    assert td.init_mem(0) == -EEXIST
    td.do("punch_hole", 0, 1)
    assert td.take() == ["MEM.RANGE.BLOCK"] and premapped.v == 0
    assert td.init_mem(0) == 0
    assert td.take() == ["MEM.PAGE.ADD"]
    assert premapped.v == 0
    assert td.kvm.fn.tdx_td_finalize(td.kvm) == 0


def test_v6_16_zaps_a_leaf_that_page_add_has_not_reached() -> None:
    td = Td("v6.16", finalized=False)
    td.fail("MEM.PAGE.ADD", TDX_OPERAND_INVALID)
    assert td.init_mem(0) == -EIO
    td.kvm.tdx.injection = None
    td.take()
    td.do("zap_range", 0, 1)
    assert td.take() == ["MEM.RANGE.BLOCK"]
    assert td.kvm.tdx.nr_premapped.v == 0
    assert td.spte(0) == SHADOW_NONPRESENT_VALUE
    assert td.rules == ["I1"]  # from the publication before PAGE.ADD


def test_v6_16_measurement_failure_does_not_bug_the_vm() -> None:
    for design, bugged in (("v6.16", False), ("v7.3", True)):
        td = Td(design, finalized=False)
        td.fail("MR.EXTEND", TDX_OPERAND_INVALID)
        assert td.init_mem(0, measure=True) == -EIO
        assert td.kvm.vm_bugged.v is bugged


# --- removals under the write lock ------------------------------------------------------------


@pytest.mark.parametrize("call", ["MEM.RANGE.BLOCK", "MEM.TRACK", "MEM.PAGE.REMOVE"])
@pytest.mark.parametrize("design", DESIGNS[1:])
def test_busy_is_met_by_a_second_call_without_vcpus(design: str, call: str) -> None:
    td = Td(design)
    td.do("fault", 0, 0)
    td.take()
    td.fail(call, TDX_OPERAND_BUSY)
    td.do("zap_range", 0, 1)
    again = REMOVAL.index(call)
    assert td.take() == REMOVAL[: again + 1] + REMOVAL[again:]
    assert not td.kvm.tdx.wait_for_sept_zap.v
    assert td.rules == []


# --- splits -------------------------------------------------------------------------------------

SPLIT = ["MEM.RANGE.BLOCK", "MEM.TRACK", "MEM.PAGE.DEMOTE"]
# Facts 6.6: how far each goes with a huge mirror leaf, and what stops it.
TRIPWIRES = {
    "v6.16": (SPLIT[:2], "BUG:tdp_mmu_set_spte"),
    "rfc-v5-08": ([], "BUG:tdx_sept_remove_private_spte"),
    "rfc-v5-08+nonpresent": ([], "BUG:tdp_mmu_set_spte"),
    "rfc-v5": ([], "BUG:tdx_sept_set_private_spte"),
    "rfc-v5+t-rm": ([], "BUG:tdx_sept_remove_leaf_spte"),
    "rfc-v5+t-split": (SPLIT, ""),
    "feb06": (SPLIT, ""),
    "feb06+t-bug": ([], "BUG:tdx_sept_set_private_spte"),
    "feb06+t-rm": ([], "BUG:tdx_sept_remove_leaf_spte"),
    "feb10-sp": (SPLIT, ""),
    "v7.3": ([], "BUG:tdx_sept_remove_leaf_spte"),
}


def huge_leaf(td: Td, gfn: int) -> None:
    """A 2M mirror leaf, made without the design's hook for it."""
    assert force_huge_leaf(td.kvm, 0, gfn) == 0
    td.take()


@pytest.mark.parametrize("design", TRIPWIRES)
def test_split_of_a_huge_mirror_leaf(design: str) -> None:
    td = Td(design)
    huge_leaf(td, 0)
    td.do("split", 0, 2)
    calls, stopped_by = TRIPWIRES[design]
    assert td.take() == calls
    if stopped_by:
        assert td.rules[0] == stopped_by or stopped_by in td.rules
        assert td.kvm.vm_bugged.v
    else:
        assert td.rules == []


def test_shared_param_lets_a_split_under_the_read_lock_fail_gently() -> None:
    """With the hypothetical module that needs neither BLOCK nor TRACK (facts 6.7)."""
    profile = hypothetical_resize(PROFILES["linux-7.3"])
    td = Td("feb06+shared-param", profile=replace(profile, demote_interruptible=False))
    huge_leaf(td, 0)
    td.fail("MEM.PAGE.DEMOTE", TDX_OPERAND_BUSY)
    td.do("split", 0, 2, shared=True)
    assert td.take() == ["MEM.PAGE.DEMOTE", "MEM.PAGE.DEMOTE"]
    assert not is_last_spte(td.spte(0, 2), 2)
    assert not td.kvm.vm_bugged.v
    # Statistics and trace line of the failed attempt stay, as everywhere in feb06.
    assert td.rules == ["I4", "I20"]


def test_without_it_the_hook_breaks_lockdep() -> None:
    td = Td("feb06")
    huge_leaf(td, 0)
    td.do("split", 0, 2, shared=True)
    assert td.take() == SPLIT
    assert set(td.rules) == {"I10"}
