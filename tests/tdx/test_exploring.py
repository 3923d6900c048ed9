# SPDX-License-Identifier: GPL-2.0-only
"""The module under an explorer: TLB tracking, injection, profiles, fine-grained locks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from septum.explore import MachineProgram, Options, search
from septum.machine import Cell, Machine
from septum.machine.geometry import Geometry
from septum.tdx import Conditions, TdxModule, make_td
from septum.tdx.build import BuiltTd, add_tables, must
from septum.tdx.call import Call
from septum.tdx.invariants import broken
from septum.tdx.leaves import TDG_MEM_PAGE_ACCEPT, TDH_MEM_SEPT_ADD, TDH_VP_ENTER
from septum.tdx.mem_range import tdh_mem_range_block
from septum.tdx.module import HANDLERS
from septum.tdx.pamt import PageType
from septum.tdx.profiles import PROFILES, hypothetical_resize
from septum.tdx.sept import FREE, State, leaf, state_of
from septum.tdx.status import (
    TDX_INTERRUPTED_RESTARTABLE,
    TDX_OPERAND_INVALID,
    decode,
)

HPA = 0x80000000
SMALL = Geometry(bits=1, levels=2)
SPLITTABLE = Geometry(bits=1, levels=3)


def ready(
    geometry: Geometry = SMALL, *, vcpus: int = 2, fine: bool = False, state: str = "RUNNABLE"
) -> tuple[TdxModule, BuiltTd]:
    """A TD with tables for GPA 0."""
    module = TdxModule(Machine(), geometry, fine=fine)
    td = make_td(module, vcpus, state)
    add_tables(module, td, 0, 0, td.sept)
    return module, td


class Tlb:
    """What each LP has cached, and whether it uses what is gone."""

    def __init__(self, module: TdxModule) -> None:
        self.module = module
        m = module.m
        self.cached = [Cell(m, f"tlb {lp}", ()) for lp in range(4)]
        m.listeners.append(self.listen)

    def listen(self, what: str, args: tuple[Any, ...]) -> None:
        if what == "tlb_flush":
            self.cached[args[1]].poke(())

    def access(self, lp: int, gpa: int) -> bool:
        """A guest read: through the TLB, else by a walk; whether the guest goes on."""
        m = self.module.m
        cell = self.cached[lp]
        for at, hpa in cell.v:
            if at == gpa:
                with m.step("cached access", cell.name):
                    if self.module.peek_pamt(hpa)[0] is not PageType.REG:
                        m.report("STALE", f"LP {lp} uses {gpa:#x} after its removal")
                return True
        result = self.module.guest_access(lp, gpa, write=False)
        if result.event == "ok":
            cell.poke((*cell.v, (gpa, result.hpa)))
        return result.event == "ok"


def tracked_removal(module: TdxModule, td: BuiltTd) -> Callable[[], None]:
    def host() -> None:
        if module.tdh_mem_range_block(td.tdr, 0, 0).rax:
            return
        module.tdh_mem_track(td.tdr)
        module.tdh_mem_page_remove(td.tdr, 0, 0)

    return host


def guest(module: TdxModule, td: BuiltTd, tlb: Tlb) -> Callable[[], None]:
    def run() -> None:
        for _ in range(2):
            if module.tdh_vp_enter(td.tdvprs[0], lp=0).event != "td-entry":
                return
            if tlb.access(0, 0) and tlb.access(0, 0):
                module.guest_interrupt(0)

    return run


def tlb_program(*, fine: bool = False, tracker: bool = False) -> MachineProgram:
    """BLOCK, TRACK, REMOVE of an accepted page next to a guest that reads it.

    :param tracker: one more host thread that calls TRACK.
    """
    module, td = ready(fine=fine)
    must(module.tdh_mem_page_aug(td.tdr, 0, 0, HPA))
    must(module.tdh_vp_enter(td.tdvprs[1], lp=1))
    assert module.tdg_mem_page_accept(0, 0, lp=1).rax == 0
    module.guest_interrupt(1)
    tlb = Tlb(module)

    def track() -> None:
        module.tdh_mem_track(td.tdr)

    def settle() -> None:
        assert broken(module) == []

    bodies = [("host", tracked_removal(module, td)), ("guest", guest(module, td, tlb))]
    if tracker:
        bodies.append(("tracker", track))
    return MachineProgram(module.m, bodies, settle)


@pytest.mark.parametrize("fine", [False, True], ids=["coarse", "fine"])
def test_no_guest_uses_a_removed_page(fine: bool) -> None:
    result = search(tlb_program(fine=fine), Options("optimal"))
    assert result.complete
    assert not result.found
    assert {
        "TDH.MEM.PAGE.REMOVE SUCCESS",
        "TDH.MEM.PAGE.REMOVE returned TDX_TLB_TRACKING_NOT_DONE|RCX",
        "TDH.VP.ENTER returned TDX_OPERAND_BUSY|TD_EPOCH",
        "TDH.MEM.TRACK returned TDX_OPERAND_BUSY|TD_EPOCH",
    } <= result.reached


def early_epoch(c: Call) -> int:
    """RANGE.BLOCK with TD_EPOCH read before the entry is blocked: the wrong order."""
    with c.m.step("early", "TD_EPOCH"):
        epoch = c.module.td(c.rdx).epoch.peek()
    status = tdh_mem_range_block(c)
    with c.m.step("late", "BEPOCH"):
        c.module.pamt.entry(HPA, 0).bepoch.poke(epoch)
    return status


def test_reading_the_epoch_before_blocking_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HANDLERS, "TDH.MEM.RANGE.BLOCK", early_epoch)
    result = search(tlb_program(tracker=True), Options("optimal", first=True, budget_s=60))
    assert "STALE" in result.found


def test_the_search_agrees_with_brute_force() -> None:
    reduced = search(tlb_program(), Options("optimal"))
    every = search(tlb_program(), Options("states"))
    assert reduced.complete
    assert every.complete
    assert reduced.reached == every.reached


def test_injected_interrupt_of_demote() -> None:
    module, td = ready(SPLITTABLE, state="INITIALIZED")
    gpa = SPLITTABLE.bytes_per_level(2)
    must(module.tdh_mem_page_aug(td.tdr, gpa, 1, HPA))
    module.inject_interrupts = True
    module.interrupt_budget.set(1)
    seen: set[tuple[int, int]] = set()

    def host() -> None:
        first = module.tdh_mem_page_demote(td.tdr, gpa, 1, td.sept + 0x9000).rax
        seen.add((first, module.tdh_mem_page_demote(td.tdr, gpa, 1, td.sept + 0x9000).rax))

    search(MachineProgram(module.m, [("host", host)]), Options("optimal"))
    assert (TDX_INTERRUPTED_RESTARTABLE, 0) in seen
    assert len(seen) == 2


def test_no_interrupt_by_default() -> None:
    module, td = ready(SPLITTABLE, state="INITIALIZED")
    gpa = SPLITTABLE.bytes_per_level(2)
    must(module.tdh_mem_page_aug(td.tdr, gpa, 1, HPA))

    def host() -> None:
        must(module.tdh_mem_page_demote(td.tdr, gpa, 1, td.sept + 0x9000))

    assert search(MachineProgram(module.m, [("host", host)]), Options("optimal")).executions == 1


def test_promote_before_finalize_can_race_with_a_walk() -> None:
    """Without TRK nothing keeps a walker out of the S-EPT page that PROMOTE frees: a
    property of the rules of facts 3.8, not verified on the module ([U])."""
    module, td = ready(SPLITTABLE, state="INITIALIZED")
    for i in range(2):
        must(module.tdh_mem_page_aug(td.tdr, i * 0x1000, 0, HPA + i * 0x1000))

    def promote() -> None:
        must(module.tdh_mem_page_promote(td.tdr, 0, 1))

    def rd() -> None:
        module.tdh_mem_sept_rd(td.tdr, 0, 0)

    bodies = [("promote", promote), ("rd", rd)]
    result = search(MachineProgram(module.m, bodies), Options("optimal"))
    assert "I6" in result.found


# --- profiles ------------------------------------------------------------------------------


def test_vp_init_versions() -> None:
    for name, wanted in (("1.5.01", TDX_OPERAND_INVALID), ("linux-7.3", 0)):
        module = TdxModule(Machine(), SMALL, name)
        td = make_td(module, 1, "INITIALIZED")
        tdvpr = 0x40180000
        must(module.tdh_vp_create(td.tdr, tdvpr))
        for i in range(1, 6):
            must(module.tdh_vp_addcx(tdvpr, tdvpr + i * 0x1000))
        assert module.tdh_vp_init(tdvpr, version=1).rax == wanted


def test_nonblocking_resize_is_hypothetical_and_skips_block_and_track() -> None:
    profile = hypothetical_resize(PROFILES["1.5.01"])
    assert str(profile).endswith("(hypothetical)")
    assert not PROFILES["linux-7.3"].hypothetical
    module = TdxModule(Machine(), SPLITTABLE, profile)
    td = make_td(module)
    gpa = SPLITTABLE.bytes_per_level(2)
    add_tables(module, td, gpa, 1, td.sept)
    must(module.tdh_mem_page_aug(td.tdr, gpa, 1, HPA))
    must(module.tdh_mem_page_demote(td.tdr, gpa, 1, td.sept + 0x9000))
    assert state_of(module.peek_sept(td.tdr, gpa, 0).raw) is State.PENDING


def test_profiles_say_what_is_unknown() -> None:
    assert PROFILES["linux-7.3"].unknown
    assert PROFILES["linux-7.3"].non_recoverable_td != PROFILES["1.5.01"].non_recoverable_td


# --- the plain entry -------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", [999, 6 | 1 << 16, 6 | 1 << 24, 22 | 1 << 16])
def test_bad_rax(leaf: int) -> None:
    module, td = ready()
    assert module.seamcall(leaf, {"rcx": 0, "rdx": td.tdr}).rax == TDX_OPERAND_INVALID


def test_guest_calls_need_a_guest() -> None:
    module, _ = ready()
    with pytest.raises(ValueError, match=r"TDH\.VP\.ENTER comes first"):
        module.guest_access(0, 0)


def test_shared_memory_is_not_the_modules() -> None:
    module, td = ready()
    must(module.tdh_vp_enter(td.tdvprs[0]))
    with pytest.raises(ValueError, match="is shared"):
        module.guest_access(0, SMALL.shared_gpa)


def test_describe_is_the_manual() -> None:
    module, _ = ready()
    text = module.describe("TDH.MEM.PAGE.AUG")
    assert "Checks, in order" in text
    assert "EPT_WALK_FAILED|RCX" in text
    assert "Source: src/vmm_dispatcher" in text
    with pytest.raises(KeyError):
        module.describe("TDH.NO")


@pytest.mark.parametrize("call", sorted(HANDLERS))
def test_every_call_documents_itself(call: str) -> None:
    module, _ = ready()
    text = module.describe(call)
    assert "Source:" in text or call == "TDH.MNG.KEY.RECLAIMID"


def test_a_freed_table_is_free_again() -> None:
    module, td = ready(SPLITTABLE, state="INITIALIZED")
    must(module.tdh_mem_page_aug(td.tdr, 0, 0, HPA))
    must(module.tdh_mem_page_remove(td.tdr, 0, 0))
    page = must(module.tdh_mem_sept_remove(td.tdr, 0, 1)).rcx
    must(module.tdh_mem_sept_add(td.tdr, 0, 1, page))
    assert module.peek_sept(td.tdr, 0, 0).raw == FREE


# --- fine points of the handlers that no vector shows ---------------------------------------


def test_sept_add_v1_returns_its_pages_on_every_exit() -> None:
    module, td = ready(SPLITTABLE)
    null, gpa, page = (1 << 64) - 1, SPLITTABLE.bytes_per_level(2), td.sept + 0x9000
    regs = {"rcx": gpa | 1, "rdx": td.tdr, "r8": page | 1 << 63, "r9": 1 << 63 | 0x1000}
    regs |= {"r10": null, "r11": null}
    rax = TDH_MEM_SEPT_ADD | 1 << 16
    result = module.seamcall(rax, {**regs, "rcx": 0x4001})
    assert (decode(result.rax), result.r8, result.r9) == ("TDX_OPERAND_INVALID|RCX", page, 0x1000)
    assert decode(module.seamcall(rax, regs).rax) == "TDX_OPERAND_INVALID|R9"
    result = module.seamcall(rax, {**regs, "r9": null})
    assert (result.rax, result.r8, result.r9) == (0, null, null)


def test_a_1g_leaf_promoted_with_an_accept_counter() -> None:
    """PROMOTE copies child 0 with its counter; BLOCK keeps it; DEMOTE loses it."""
    module, td = ready(SPLITTABLE, vcpus=1)
    tdr, half = td.tdr, SPLITTABLE.bytes_per_level(2)
    must(module.tdh_mem_range_block(tdr, 0, 1))
    must(module.tdh_mem_track(tdr))
    must(module.tdh_mem_sept_remove(tdr, 0, 1))
    for i in range(2):
        must(module.tdh_mem_page_aug(tdr, i * half, 1, HPA + i * half))
    must(module.tdh_vp_enter(td.tdvprs[0]))
    assert module.tdcall(TDG_MEM_PAGE_ACCEPT, {"rcx": 1}, 0, Conditions(intr_at=1)).event == "retry"
    module.guest_interrupt(0)
    must(module.tdh_mem_range_block(tdr, 0, 2))
    must(module.tdh_mem_track(tdr))
    must(module.tdh_mem_page_promote(tdr, 0, 2))
    assert module.peek_sept(tdr, 0, 2).raw == leaf(State.PENDING, HPA) | 0x1000
    must(module.tdh_mem_range_block(tdr, 0, 2))
    assert module.peek_sept(tdr, 0, 2).raw == leaf(State.PENDING_BLOCKED, HPA) | 0x1000
    must(module.tdh_mem_track(tdr))
    must(module.tdh_mem_page_demote(tdr, 0, 2, td.sept + 0x9000))
    assert module.peek_sept(tdr, 0, 1).raw == leaf(State.PENDING, HPA)
    assert module.peek_sept(tdr, half, 1).raw == leaf(State.PENDING, HPA + half)
    assert broken(module) == []


def test_accept_while_the_host_maps_the_page() -> None:
    """ACCEPT tests the leaf bit of its sample and the state of the locked entry, so a page
    that AUG maps in between looks like a table: PAGE_SIZE_MISMATCH."""
    module, td = ready(vcpus=1)
    must(module.tdh_vp_enter(td.tdvprs[0]))
    seen: set[str] = set()

    def guest_side() -> None:
        seen.add(decode(module.tdg_mem_page_accept(0, 0).rax))

    def host() -> None:
        must(module.tdh_mem_page_aug(td.tdr, 0, 0, HPA))

    bodies = [("host", host), ("guest", guest_side)]
    search(MachineProgram(module.m, bodies), Options("optimal"))
    assert seen == {
        "TDX_SUCCESS|exit reason 48",
        "TDX_OPERAND_BUSY|RCX",
        "TDX_PAGE_SIZE_MISMATCH|level 0",
        "TDX_SUCCESS",
    }


def test_a_refused_entry_is_no_trap_type_exit() -> None:
    module, td = ready(vcpus=1)
    vcpu = module.vcpu(td.tdvprs[0])
    for _ in range(7):
        must(module.tdh_vp_enter(vcpu.hpa))
        module.guest_ept_violation(0, 0)
    vcpu.trap_exit.set(True)
    result = module.seamcall(TDH_VP_ENTER, {"rcx": vcpu.hpa, "r9": 5})
    assert (result.rax, result.r8, result.r9, vcpu.trap_exit.v) == (48, 0, 0, False)
