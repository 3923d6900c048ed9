# SPDX-License-Identifier: GPL-2.0-only
"""SEAMCALLs as KVM makes them: wrappers, retries, injected failures, TDX_BUG_ON().

Follows ``arch/x86/virt/vmx/tdx/tdx.c`` and ``arch/x86/kvm/vmx/tdx.c`` (facts/
kvm-tdp-mmu.md 5.2).  Registers go in, status and registers come out; nothing here looks
into the module.  PFNs and KVM levels are KVM's (level 1 is 4K); the module's levels are
0-based, so the wrappers subtract one.

Each call emits ``seamcall(name, regs, result)``.  `Injection` lets a call fail without
being made; such a result is marked ``injected``, and is not itself a finding, its
consequences are (design page, "Judging").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from septum.machine import Cell, Machine
from septum.machine.geometry import PAGE_SHIFT
from septum.tdx.leaves import (
    SEAMCALL_NAMES,
    TDH_MEM_PAGE_ADD,
    TDH_MEM_PAGE_AUG,
    TDH_MEM_PAGE_REMOVE,
    TDH_MEM_RANGE_BLOCK,
    TDH_MEM_SEPT_ADD,
    TDH_MEM_TRACK,
    TDH_MNG_ADDCX,
    TDH_MNG_CREATE,
    TDH_MNG_INIT,
    TDH_MNG_KEY_CONFIG,
    TDH_MNG_KEY_FREEID,
    TDH_MNG_VPFLUSHDONE,
    TDH_MR_EXTEND,
    TDH_MR_FINALIZE,
    TDH_PHYMEM_CACHE_WB,
    TDH_PHYMEM_PAGE_RECLAIM,
    TDH_PHYMEM_PAGE_WBINVD,
    TDH_VP_ADDCX,
    TDH_VP_CREATE,
    TDH_VP_ENTER,
    TDH_VP_FLUSH,
    TDH_VP_INIT,
)
from septum.tdx.status import (
    TDX_OPERAND_BUSY,
    TDX_RND_NO_ENTROPY,
    Operand,
    decode,
    is_operand_busy,
)

if TYPE_CHECKING:
    from septum.kvm.structs import Kvm, Vcpu

__all__ = [
    "FUNCTIONS",
    "TDX_BUG_ON",
    "Injected",
    "Injection",
    "mem_regs",
    "seamcall",
    "tdx_operand_busy",
]

RDRAND_RETRY_LOOPS: Final = 10


@dataclass(frozen=True, slots=True)
class Injected:
    """The result of a SEAMCALL that was made to fail."""

    rax: int
    rcx: int = 0
    rdx: int = 0
    event: str = ""
    flush: bool = False


class Injection:
    """Which SEAMCALLs the environment may make fail, how, and how often in all.

    :param leafs: leaf numbers.
    :param statuses: what RAX may be; each is a choice, next to no failure.
    :param budget: failures per execution.
    """

    def __init__(
        self,
        m: Machine,
        leafs: frozenset[int],
        statuses: tuple[int, ...] = (TDX_OPERAND_BUSY | Operand.RCX,),
        budget: int = 1,
    ) -> None:
        self.m = m
        self.leafs = leafs
        self.options = (0, *statuses)
        self.budget = budget
        self.spent = Cell(m, "injected", ())  # the tasks that met the failures

    def status(self, leaf: int) -> int:
        """The status to fail this call with, 0 for none."""
        m = self.m
        # A task's own share needs no look at the others, hence no dependency.
        if leaf not in self.leafs or self.spent.v.count(m.current.id) >= self.budget:
            return 0
        status: int = m.choose(f"fail {SEAMCALL_NAMES[leaf]}?", self.options)
        if not status:
            return 0
        with m.step("inject", self.spent.name):
            if len(self.spent.peek()) >= self.budget:
                return 0
            self.spent.poke((*self.spent.v, m.current.id))
        m.reach("a failure was injected")
        m.reach(f"{SEAMCALL_NAMES[leaf]} was made to return {decode(status)}")
        return status


def seamcall(kvm: Kvm, leaf: int, regs: dict[str, int], lp: int = -1) -> Any:
    """One SEAMCALL; TDX_RND_NO_ENTROPY is retried here (sc_retry()), nothing else is.

    :param lp: the logical processor; by default one that runs no vCPU.
    """
    m = kvm.m
    number = leaf & 0xFFFF
    injection = kvm.tdx.injection
    result: Any = None
    for _ in range(1 if number == TDH_VP_ENTER else RDRAND_RETRY_LOOPS):
        status = injection.status(number) if injection is not None else 0
        if status:
            result = Injected(status)
        else:
            result = kvm.module.seamcall(leaf, regs, lp if lp >= 0 else kvm.tdx.host_lp)
        if m.listeners:
            m.emit("seamcall", SEAMCALL_NAMES[number], regs, result)
        if result.rax != TDX_RND_NO_ENTROPY:
            break
    return result


def tdx_operand_busy(status: int) -> bool:
    """Class OPERAND_BUSY exactly: PREVIOUS_TLB_EPOCH_BUSY, for one, is not."""
    return is_operand_busy(status)


def TDX_BUG_ON(result: Any, name: str, kvm: Kvm, function: str, *, bug_vm: bool = True) -> bool:
    """Whether the call failed.  The first failure bugs the VM (unless the kernel passes
    kvm == NULL there: ``bug_vm`` false, a warning only); later ones are silent."""
    if not result.rax:
        return False
    if bug_vm and kvm.vm_bugged.read():
        return True
    injected = isinstance(result, Injected)
    kvm.m.emit("tdx_bug", function, f"{name}: {decode(result.rax)}", injected)
    if not injected:
        kvm.m.report(
            f"{'BUG' if bug_vm else 'WARN'}:{function}",
            f"SEAMCALL {name} failed: {decode(result.rax)} ({result.rax:#x})",
        )
    if bug_vm:
        kvm.fn.kvm_vm_bugged(kvm)
    return True


# --- one wrapper per call (tdh_*() of arch/x86/virt/vmx/tdx/tdx.c) -----------------------


def mem_regs(kvm: Kvm, gfn: int, level: int) -> dict[str, int]:
    """RCX and RDX of the MEM leaves: GPA | level, and the TDR."""
    return {"rcx": gfn << PAGE_SHIFT | level - 1, "rdx": kvm.tdx.tdr << PAGE_SHIFT}


def tdh_mem_page_add(kvm: Kvm, gfn: int, pfn: int, source: int) -> Any:
    """The level field is always 0.  (The clflush before it has no effect here.)"""
    regs = mem_regs(kvm, gfn, 1) | {"r8": pfn << PAGE_SHIFT, "r9": source << PAGE_SHIFT}
    return kvm.fn.seamcall(kvm, TDH_MEM_PAGE_ADD, regs)


def tdh_mem_page_aug(kvm: Kvm, gfn: int, level: int, pfn: int) -> Any:
    regs = mem_regs(kvm, gfn, level) | {"r8": pfn << PAGE_SHIFT}
    return kvm.fn.seamcall(kvm, TDH_MEM_PAGE_AUG, regs)


def tdh_mem_sept_add(kvm: Kvm, gfn: int, level: int, pfn: int) -> Any:
    """``level`` is that of the entry written."""
    regs = mem_regs(kvm, gfn, level) | {"r8": pfn << PAGE_SHIFT}
    return kvm.fn.seamcall(kvm, TDH_MEM_SEPT_ADD, regs)


def tdh_mem_range_block(kvm: Kvm, gfn: int, level: int) -> Any:
    return kvm.fn.seamcall(kvm, TDH_MEM_RANGE_BLOCK, mem_regs(kvm, gfn, level))


def tdh_mem_track(kvm: Kvm) -> Any:
    return kvm.fn.seamcall(kvm, TDH_MEM_TRACK, {"rcx": kvm.tdx.tdr << PAGE_SHIFT})


def tdh_mem_page_remove(kvm: Kvm, gfn: int, level: int) -> Any:
    return kvm.fn.seamcall(kvm, TDH_MEM_PAGE_REMOVE, mem_regs(kvm, gfn, level))


def tdh_phymem_page_wbinvd_hkid(kvm: Kvm, hkid: int, pfn: int) -> Any:
    """The HPA carries the HKID in its upper bits."""
    hpa = pfn << PAGE_SHIFT | hkid << kvm.module.config.hkid_shift
    return kvm.fn.seamcall(kvm, TDH_PHYMEM_PAGE_WBINVD, {"rcx": hpa})


def tdh_phymem_page_reclaim(kvm: Kvm, pfn: int) -> Any:
    return kvm.fn.seamcall(kvm, TDH_PHYMEM_PAGE_RECLAIM, {"rcx": pfn << PAGE_SHIFT})


def tdh_mr_extend(kvm: Kvm, gpa: int) -> Any:
    """One chunk of 256 bytes."""
    return kvm.fn.seamcall(kvm, TDH_MR_EXTEND, {"rcx": gpa, "rdx": kvm.tdx.tdr << PAGE_SHIFT})


def tdh_mr_finalize(kvm: Kvm) -> Any:
    return kvm.fn.seamcall(kvm, TDH_MR_FINALIZE, {"rcx": kvm.tdx.tdr << PAGE_SHIFT})


def tdh_mng_create(kvm: Kvm, hkid: int) -> Any:
    return kvm.fn.seamcall(kvm, TDH_MNG_CREATE, {"rcx": kvm.tdx.tdr << PAGE_SHIFT, "rdx": hkid})


def tdh_mng_key_config(kvm: Kvm, lp: int) -> Any:
    """On one LP of each package."""
    return kvm.fn.seamcall(kvm, TDH_MNG_KEY_CONFIG, {"rcx": kvm.tdx.tdr << PAGE_SHIFT}, lp)


def tdh_mng_addcx(kvm: Kvm, pfn: int) -> Any:
    regs = {"rcx": pfn << PAGE_SHIFT, "rdx": kvm.tdx.tdr << PAGE_SHIFT}
    return kvm.fn.seamcall(kvm, TDH_MNG_ADDCX, regs)


def tdh_mng_init(kvm: Kvm) -> Any:
    """TD_PARAMS are those of the platform's configuration (`septum.tdx.config`)."""
    return kvm.fn.seamcall(kvm, TDH_MNG_INIT, {"rcx": kvm.tdx.tdr << PAGE_SHIFT, "rdx": 0})


def tdh_vp_create(vcpu: Vcpu) -> Any:
    kvm = vcpu.kvm
    regs = {"rcx": vcpu.tdx.tdvpr << PAGE_SHIFT, "rdx": kvm.tdx.tdr << PAGE_SHIFT}
    return kvm.fn.seamcall(kvm, TDH_VP_CREATE, regs)


def tdh_vp_addcx(vcpu: Vcpu, pfn: int) -> Any:
    regs = {"rcx": pfn << PAGE_SHIFT, "rdx": vcpu.tdx.tdvpr << PAGE_SHIFT}
    return vcpu.kvm.fn.seamcall(vcpu.kvm, TDH_VP_ADDCX, regs)


def tdh_vp_init(vcpu: Vcpu) -> Any:
    """Version 1 (x2APIC id in R8) where the module has it; 1.5.01 has version 0 only."""
    kvm = vcpu.kvm
    version = max(kvm.module.profile.vp_init_versions)
    regs = {"rcx": vcpu.tdx.tdvpr << PAGE_SHIFT, "rdx": 0, "r8": vcpu.id}
    return kvm.fn.seamcall(kvm, TDH_VP_INIT | version << 16, regs, vcpu.cpu.v)


def tdh_vp_enter(vcpu: Vcpu) -> Any:
    return vcpu.kvm.fn.seamcall(
        vcpu.kvm, TDH_VP_ENTER, {"rcx": vcpu.tdx.tdvpr << PAGE_SHIFT}, vcpu.cpu.v
    )


def tdh_vp_flush(vcpu: Vcpu) -> Any:
    """By IPI on the vCPU's CPU."""
    return vcpu.kvm.fn.seamcall(
        vcpu.kvm, TDH_VP_FLUSH, {"rcx": vcpu.tdx.tdvpr << PAGE_SHIFT}, vcpu.cpu.v
    )


def tdh_mng_vpflushdone(kvm: Kvm) -> Any:
    return kvm.fn.seamcall(kvm, TDH_MNG_VPFLUSHDONE, {"rcx": kvm.tdx.tdr << PAGE_SHIFT})


def tdh_phymem_cache_wb(kvm: Kvm, resume: bool, lp: int) -> Any:
    return kvm.fn.seamcall(kvm, TDH_PHYMEM_CACHE_WB, {"rcx": int(resume)}, lp)


def tdh_mng_key_freeid(kvm: Kvm) -> Any:
    return kvm.fn.seamcall(kvm, TDH_MNG_KEY_FREEID, {"rcx": kvm.tdx.tdr << PAGE_SHIFT})


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        seamcall,
        tdh_mem_page_add,
        tdh_mem_page_aug,
        tdh_mem_page_remove,
        tdh_mem_range_block,
        tdh_mem_sept_add,
        tdh_mem_track,
        tdh_mng_addcx,
        tdh_mng_create,
        tdh_mng_init,
        tdh_mng_key_config,
        tdh_mng_key_freeid,
        tdh_mng_vpflushdone,
        tdh_mr_extend,
        tdh_mr_finalize,
        tdh_phymem_cache_wb,
        tdh_phymem_page_reclaim,
        tdh_phymem_page_wbinvd_hkid,
        tdh_vp_addcx,
        tdh_vp_create,
        tdh_vp_enter,
        tdh_vp_flush,
        tdh_vp_init,
        tdx_operand_busy,
    )
}
