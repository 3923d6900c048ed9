# SPDX-License-Identifier: GPL-2.0-only
"""A TD on the real module model, with SEAMCALLs recorded and, by script, made to fail.

``calls`` lists leaf names without ``TDH.``; ``script`` maps such a name to the statuses
that its next calls return instead of being made (0: make the call).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from septum.designs import lookup
from septum.kvm.guest import GuestOp
from septum.kvm.tdx_vm import create_tdx_vm
from septum.machine import Execution, Machine, Policy
from septum.machine.geometry import Geometry
from septum.tdx import Result
from septum.tdx.leaves import SEAMCALL_NAMES

SMALL = Geometry(bits=2, levels=3)

BLOCK = "MEM.RANGE.BLOCK"
TRACK = "MEM.TRACK"
REMOVE = "MEM.PAGE.REMOVE"
WBINVD = "PHYMEM.PAGE.WBINVD"
SEPT_ADD = "MEM.SEPT.ADD"
AUG = "MEM.PAGE.AUG"
ADD = "MEM.PAGE.ADD"
ENTER = "VP.ENTER"
RECLAIM = "PHYMEM.PAGE.RECLAIM"


class TdxRig:
    def __init__(
        self,
        nr_vcpus: int = 1,
        geometry: Geometry = SMALL,
        design: str = "v7.3",
        replace: Mapping[str, Callable[..., Any]] | None = None,
        **options: Any,
    ) -> None:
        self.m = Machine()
        functions = {**lookup(design).functions, **(replace or {})}
        self.kvm = create_tdx_vm(self.m, geometry, functions, nr_vcpus, **options)
        self.fn = self.kvm.fn
        self.calls: list[str] = []
        self.script: dict[str, list[int]] = {}
        self.requests: list[int] = []
        self._seamcall = self.kvm.module.seamcall
        self.kvm.module.seamcall = self._scripted
        self.vcpu = self.kvm.vcpus[0]

    def _scripted(self, leaf: int, regs: Mapping[str, int], lp: int) -> Any:
        name = SEAMCALL_NAMES[leaf & 0xFFFF].removeprefix("TDH.")
        self.calls.append(name)
        statuses = self.script.get(name)
        status = statuses.pop(0) if statuses else 0
        if status:
            result = Result(regs)
            result.rax = status
            return result
        return self._seamcall(leaf, regs, lp)

    @property
    def rules(self) -> list[str]:
        return [f.rule for f in self.m.findings]

    def take(self) -> list[str]:
        """The calls since the last look."""
        calls, self.calls = self.calls, []
        return calls

    def run(self, *program: GuestOp, vcpu: int = 0) -> int:
        """KVM_RUN."""
        return int(self.fn.kvm_vcpu_ioctl_run(self.kvm.vcpus[vcpu], program))

    def fault(self, gfn: int) -> int:
        """One pass of a private EPT violation through the MMU."""
        return int(self.fn.__dict__["__vmx_handle_ept_violation"](self.vcpu, gfn << 12, 2))

    def zap(self, start: int, end: int) -> None:
        self.kvm.mmu_lock.write_lock()
        self.fn.kvm_tdp_mmu_zap_leafs(self.kvm, start, end, False)
        self.kvm.mmu_lock.write_unlock()


def explore(
    rig: TdxRig, bodies: Sequence[tuple[str, Callable[[], Any]]], seeds: int = 60
) -> list[Execution]:
    """Random schedules of both kinds."""
    rig.m.findings.clear()
    return [
        rig.m.run(bodies, policy=Policy(kind, seed=seed))
        for kind in ("random", "pct")
        for seed in range(seeds)
    ]


def reached(executions: Sequence[Execution]) -> set[str]:
    return set().union(*(e.reached for e in executions))


def findings(executions: Sequence[Execution]) -> set[str]:
    return {f.rule for e in executions for f in e.findings}


def statuses(executions: Sequence[Execution]) -> set[str]:
    return {e.status for e in executions}
