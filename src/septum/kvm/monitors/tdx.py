# SPDX-License-Identifier: GPL-2.0-only
"""SEAMCALLs, vCPUs and progress: I8, I18, I23, I24."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from septum.kvm.monitors.base import Monitor
from septum.kvm.view import View
from septum.machine import Cell

__all__ = ["FaultsEnd", "NoEntryWhenDead", "NoFatalSeamcall", "NoZapLeftWaiting"]


class NoFatalSeamcall(Monitor):
    id = "I8"
    statement = (
        "No SEAMCALL returns an error that KVM treats as a bug; BUSY only where a retry exists."
    )
    judged = "every SEAMCALL result that KVM turns into TDX_BUG_ON (injected ones are not findings)"
    source = "facts/kvm-tdp-mmu.md 5.2, 7(a) I8; Linux tdx.c TDX_BUG_ON()"
    example = "PAGE.REMOVE before TRACK: TLB_TRACKING_NOT_DONE kills the VM"

    def on_tdx_bug(self, function: str, status: str, injected: bool) -> None:
        if not injected:
            self.report(f"{function} returned {status}, which KVM treats as a bug")


class NoZapLeftWaiting(Monitor):
    id = "I18"
    statement = "wait_for_sept_zap is false."
    judged = "settled"
    source = "facts/kvm-tdp-mmu.md 5.2, 7(b) I18; Linux tdx.c tdh_do_no_vcpus()"
    example = "an early return leaves the flag set: no vCPU enters again"

    def settled(self) -> None:
        if self.view.wait_for_sept_zap():
            self.report("wait_for_sept_zap is still set")


class FaultsEnd(Monitor):
    id = "I23"
    statement = "Every vCPU fault ends once the others have stopped."
    judged = "an execution in which no task can go on and a retry loop still waits"
    source = "facts/kvm-tdp-mmu.md 5.4, docs/model.md; Linux tdx_handle_ept_violation()"
    example = "an SPTE stays FROZEN: the fault is retried for ever"

    def on_stuck(self, waiting: Iterable[tuple[str, str, str]]) -> None:
        for task, op, what in waiting:
            if op == "await":
                self.report(f"{task} retries {what} for ever")


class NoEntryWhenDead(Monitor):
    id = "I24"
    statement = "No guest entry after the VM is dead (kvm_vm_dead() has returned)."
    judged = "every successful TDH.VP.ENTER"
    source = "facts/kvm-tdp-mmu.md 5.2, docs/model.md; Linux kvm_vm_dead()"
    example = "KVM_REQ_VM_DEAD is set without kicking the vCPUs"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.declared = Cell(view.m, "vm_dead declared", False)

    def on_vm_dead(self) -> None:
        self.declared.poke(True)

    def on_td_enter(self, vcpu: Any, lp: int) -> None:
        if self.declared.peek():
            self.report(f"a vCPU entered the guest on CPU {lp} after the VM was declared dead")
