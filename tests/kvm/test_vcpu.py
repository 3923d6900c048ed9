# SPDX-License-Identifier: GPL-2.0-only
"""Kicks against running vCPUs, with real interleavings (facts 5.2, 5.6).

Each protocol step of the zap has a mutant that leaves it out; random schedules must find
it, and must find nothing in the protocol itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from glue_rig import TdxRig, explore, findings, reached, statuses

from septum.designs import lookup
from septum.explore import MachineProgram, Options, search
from septum.kvm.guest import accept, touch
from septum.kvm.operations import OPERATIONS
from septum.kvm.seamcall import Injection
from septum.kvm.structs import (
    EXITING_GUEST_MODE,
    IN_GUEST_MODE,
    KVM_REQ_OUTSIDE_GUEST_MODE,
    KVM_REQ_TLB_FLUSH,
    KVM_REQ_VM_DEAD,
    OUTSIDE_GUEST_MODE,
    Kvm,
)
from septum.kvm.tdx_vm import arm_zero_step
from septum.kvm.x86 import IRQS_OFF
from septum.machine import Policy
from septum.machine.geometry import Geometry
from septum.tdx.leaves import TDH_MEM_PAGE_AUG, TDH_MEM_RANGE_BLOCK
from septum.tdx.status import TDX_OPERAND_BUSY, TDX_PAGE_METADATA_INCORRECT, Operand

TINY = Geometry(bits=1, levels=2)
V7_3 = lookup("v7.3").functions

Body = tuple[str, Callable[[], Any]]


def vcpu_task(rig: TdxRig, vcpu: int, *program: Any) -> Body:
    return f"vcpu{vcpu}", lambda: rig.run(*program, vcpu=vcpu)


def zap_task(rig: TdxRig, start: int = 0, end: int = 1) -> Body:
    return "zap", lambda: rig.zap(start, end)


def zap_against_guests(replace: dict[str, Callable[..., Any]] | None = None) -> TdxRig:
    """Two vCPUs in and out of the guest, page 0 accepted."""
    rig = TdxRig(2, geometry=TINY, slots=((0, 2),), replace=replace)
    rig.run(accept(0))
    return rig


# --- one step at a time -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "after"),
    [
        (OUTSIDE_GUEST_MODE, OUTSIDE_GUEST_MODE),
        (IN_GUEST_MODE, EXITING_GUEST_MODE),
        (EXITING_GUEST_MODE, EXITING_GUEST_MODE),
    ],
)
def test_kick_changes_the_mode_and_sets_no_request(mode: int, after: int) -> None:
    rig = TdxRig()
    rig.vcpu.mode.write(mode)
    # IRQs are on in this CPU, so an IPI is handled at once.
    rig.fn.kvm_make_all_cpus_request(rig.kvm, KVM_REQ_OUTSIDE_GUEST_MODE)
    assert rig.vcpu.mode.v == after
    assert rig.vcpu.requests.v == 0
    assert rig.vcpu.ipi.v == 0


def test_kicker_waits_while_irqs_are_off() -> None:
    rig = TdxRig()
    rig.vcpu.mode.write(IN_GUEST_MODE)
    rig.vcpu.ipi.write(IRQS_OFF)

    def kick() -> None:
        rig.fn.kvm_make_all_cpus_request(rig.kvm, KVM_REQ_TLB_FLUSH)

    (stuck,) = {(e.status, e.findings[0].rule) for e in explore(rig, [("kick", kick)], 1)}
    assert stuck == ("stuck", "STUCK")
    both = explore(rig, [("kick", kick), ("irqs on", lambda: rig.vcpu.ipi.write(0))], 20)
    assert statuses(both) == {"complete"}


def test_dead_vm_stays_dead() -> None:
    rig = TdxRig(2)
    rig.fn.kvm_vm_dead(rig.kvm)
    for vcpu in rig.kvm.vcpus:
        assert vcpu.requests.v == KVM_REQ_VM_DEAD
        assert rig.fn.kvm_handle_requests(vcpu) < 0
        assert vcpu.requests.v == KVM_REQ_VM_DEAD


# --- interleavings ------------------------------------------------------------------------


def test_accepting_the_same_page() -> None:
    rig = TdxRig(2, geometry=TINY, slots=((0, 2),))
    runs = explore(rig, [vcpu_task(rig, i, accept(0), touch(0)) for i in (0, 1)])
    assert statuses(runs) == {"complete"}
    assert findings(runs) == set()
    assert {"a fault met FROZEN_SPTE", "guest ACCEPT returned BUSY"} <= reached(runs)


def test_zap_against_running_vcpus() -> None:
    rig = zap_against_guests()
    runs = explore(
        rig,
        [vcpu_task(rig, 0, accept(0)), vcpu_task(rig, 1, accept(0), accept(1)), zap_task(rig)],
        120,
    )
    assert statuses(runs) == {"complete"}
    assert findings(runs) == set()
    assert {
        "kick interrupted a running vCPU",
        "the second no-vCPUs call was made",
        "vCPU saw wait_for_sept_zap",
        "a request stopped a vCPU before it entered",
    } <= reached(runs)


def test_touch_against_zap_of_the_neighbour_exhaustively() -> None:
    rig = TdxRig(1, geometry=TINY, slots=((0, 2),))
    rig.run(accept(0), accept(1))
    program = MachineProgram(rig.m, [vcpu_task(rig, 0, touch(1)), zap_task(rig)])
    result = search(program, Options())
    assert result.complete
    assert result.blocked == 0
    assert not result.found
    assert {
        "kick interrupted a running vCPU",
        "the second no-vCPUs call was made",
        "vCPU saw wait_for_sept_zap",
        "VP.ENTER returned BUSY",
    } <= result.reached


def test_zero_step_vcpu_against_install_and_zap() -> None:
    rig = TdxRig(2, geometry=Geometry(bits=1, levels=3))
    rig.run(accept(1), vcpu=1)
    arm_zero_step(rig.vcpu, 0)
    runs = explore(
        rig,
        [vcpu_task(rig, 0, accept(0)), vcpu_task(rig, 1, accept(0)), zap_task(rig, 1, 2)],
        120,
    )
    assert statuses(runs) == {"complete"}
    assert findings(runs) == set()
    assert "TDH.VP.ENTER returned TDX_OPERAND_BUSY|SEPT_TREE" in reached(runs)
    assert "TDH.MEM.RANGE.BLOCK returned TDX_OPERAND_BUSY|SEPT_TREE" in reached(runs)


def test_slot_deletion_ends_the_local_retry() -> None:
    rig = TdxRig(2, geometry=Geometry(bits=1, levels=3))
    delete = ("delete", lambda: OPERATIONS["delete_slot"](rig.kvm, 0))
    runs = explore(rig, [vcpu_task(rig, i, accept(0)) for i in (0, 1)] + [delete], 80)
    assert statuses(runs) == {"complete"}
    assert findings(runs) == set()
    assert "the slot's deletion ended a local retry" in reached(runs)


def test_death_of_the_vm_stops_everybody() -> None:
    """One vCPU touches a page that it did not accept while another runs."""
    rig = TdxRig(2, geometry=TINY, slots=((0, 2),))
    entered: list[int] = []
    dead: list[int] = []

    def listen(what: str, args: tuple[Any, ...]) -> None:
        if what == "vm_dead":
            dead.append(rig.m.seq)
        elif what == "td_enter" and dead:
            entered.append(rig.m.seq)

    rig.m.listeners.append(listen)
    bodies = [vcpu_task(rig, 0, touch(0)), vcpu_task(rig, 1, accept(1), touch(1), accept(1))]
    for seed in range(60):
        dead.clear()
        run = rig.m.run(bodies, policy=Policy("random", seed=seed))
        assert run.status == "complete"
        assert not run.findings
        assert dead
    assert entered == []


@pytest.mark.parametrize(
    ("leaf", "status", "dies"),
    [
        (TDH_MEM_PAGE_AUG, TDX_OPERAND_BUSY | Operand.R8, False),
        (TDH_MEM_PAGE_AUG, TDX_PAGE_METADATA_INCORRECT | Operand.R8, True),
        (TDH_MEM_RANGE_BLOCK, TDX_OPERAND_BUSY | Operand.SEPT_TREE, False),
    ],
)
def test_one_injected_failure(leaf: int, status: int, dies: bool) -> None:
    rig = TdxRig(2, geometry=TINY, slots=((0, 2),))
    rig.run(accept(0))
    rig.kvm.tdx.injection = Injection(rig.m, frozenset({leaf}), (status,))
    dead: list[int] = []
    rig.m.listeners.append(lambda what, _: dead.append(1) if what == "vm_dead" else None)
    runs = explore(rig, [vcpu_task(rig, 0, accept(1)), zap_task(rig)])
    assert statuses(runs) == {"complete"}
    assert findings(runs) == set()  # nothing but the failure itself
    assert "a failure was injected" in reached(runs)
    assert bool(dead) is dies


# --- mutants of the zap -------------------------------------------------------------------


def no_kick(kvm: Kvm, req: int) -> bool:
    """KVM_REQ_OUTSIDE_GUEST_MODE does nothing."""
    if req == KVM_REQ_OUTSIDE_GUEST_MODE:
        return False
    return bool(V7_3["kvm_make_all_cpus_request"](kvm, req))


def no_flag(kvm: Kvm, func: Callable[..., Any], *args: Any) -> Any:
    """tdh_do_no_vcpus() without wait_for_sept_zap."""
    result = func(kvm, *args)
    if kvm.fn.tdx_operand_busy(result.rax):
        kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_OUTSIDE_GUEST_MODE)
        result = func(kvm, *args)
    return result


def kick_before_flag(kvm: Kvm, func: Callable[..., Any], *args: Any) -> Any:
    result = func(kvm, *args)
    if kvm.fn.tdx_operand_busy(result.rax):
        kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_OUTSIDE_GUEST_MODE)
        kvm.tdx.wait_for_sept_zap.write(True)
        result = func(kvm, *args)
        kvm.tdx.wait_for_sept_zap.write(False)
    return result


def no_second_call(kvm: Kvm, func: Callable[..., Any], *args: Any) -> Any:
    return func(kvm, *args)


def no_track(kvm: Kvm) -> None:
    kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_OUTSIDE_GUEST_MODE)


def flag_kept(kvm: Kvm, func: Callable[..., Any], *args: Any) -> Any:
    result = func(kvm, *args)
    if kvm.fn.tdx_operand_busy(result.rax):
        kvm.tdx.wait_for_sept_zap.write(True)
        kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_OUTSIDE_GUEST_MODE)
        result = func(kvm, *args)
    return result


@pytest.mark.parametrize(
    ("name", "mutant", "rule"),
    [
        ("kvm_make_all_cpus_request", no_kick, "BUG:tdx_sept_remove_leaf_spte"),
        ("tdh_do_no_vcpus", no_flag, "BUG:tdx_track"),
        ("tdh_do_no_vcpus", kick_before_flag, "BUG:tdx_track"),
        ("tdh_do_no_vcpus", no_second_call, "BUG:tdx_track"),
        ("tdh_do_no_vcpus", flag_kept, "STUCK"),
        ("tdx_track", no_track, "BUG:tdx_sept_remove_leaf_spte"),
    ],
)
def test_mutant_is_found(name: str, mutant: Callable[..., Any], rule: str) -> None:
    rig = TdxRig(1, geometry=TINY, slots=((0, 2),), replace={name: mutant})
    rig.run(accept(0), accept(1))
    program = MachineProgram(rig.m, [vcpu_task(rig, 0, touch(1)), zap_task(rig)])
    result = search(program, Options(max_executions=3000))
    assert rule in result.found
