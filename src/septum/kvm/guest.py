# SPDX-License-Identifier: GPL-2.0-only
"""What runs inside a TD's vCPU: a list of guest operations, and its translations.

A program is a tuple of `GuestOp`; `accept`, `read`, `write`, `touch` and `map_gpa` make
them.  After the last one the vCPU halts: it leaves the guest for good.  An operation that
ends in a TD exit is executed again when the vCPU comes back, like an instruction that
faulted; `map_gpa`, a call to the host, is done when the host has answered.

Between VP.ENTER and the TD exit the guest's events go to the TDX Module
(``tdcall``, ``guest_access``, ``guest_interrupt``); shared GPAs are walked here, in the
direct root, by the CPU.  An IPI makes the CPU leave the guest: before each operation one
point looks for it, so an operation may still follow an IPI that has just been sent.

``kvm.cpu(n).tlb`` is the set of translations used on a CPU since the last flush, ``(GFN
with the shared bit, PFN)``.  They belong to the CPU: they stay there when the vCPU moves.
The TDX Module's INVEPT (VP.ENTER in a new epoch or of another vCPU than the last, VP.FLUSH)
drops all of the TD's; KVM's (KVM_REQ_TLB_FLUSH, a new root) is only relied on for shared
ones (facts 5.3).  Accesses always walk: a CPU may have dropped any translation, and what it
may still have is for the monitors to judge (I7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from septum.kvm.spte import (
    VMX_EPT_ACCESS_BIT,
    VMX_EPT_DIRTY_BIT,
    VMX_EPT_MISCONFIG_WX_VALUE,
    VMX_EPT_RWX_MASK,
    VMX_EPT_SUPPRESS_VE_BIT,
    is_last_spte,
    spte_permission_fault,
    spte_to_pfn,
)
from septum.machine import Cell, Machine, Word
from septum.machine.geometry import PAGE_SHIFT
from septum.tdx.leaves import TDG_MEM_PAGE_ACCEPT, TDG_VP_VEINFO_GET
from septum.tdx.status import TDX_PAGE_ALREADY_ACCEPTED, is_operand_busy, status_class

if TYPE_CHECKING:
    from septum.kvm.environment import GuestVcpu

__all__ = ["Cpu", "Guest", "GuestOp", "accept", "flush_all", "flush_shared", "map_gpa"]
__all__ += ["Walk", "cpu_walk", "fetch", "interrupted", "read", "run_guest", "touch", "write"]

VECTOR_VE: Final = 20
MMIO: Final = -1


class GuestOp(NamedTuple):
    """``op`` is ``accept``, ``read``, ``write``, ``fetch`` or ``map_gpa``; ``gfn`` carries the
    shared bit."""

    op: str
    gfn: int
    level: int = 1


def accept(gfn: int, level: int = 1) -> GuestOp:
    """TDG.MEM.PAGE.ACCEPT; repeated while BUSY, done if another vCPU accepted it."""
    return GuestOp("accept", gfn, level)


def read(gfn: int) -> GuestOp:
    return GuestOp("read", gfn)


def write(gfn: int) -> GuestOp:
    return GuestOp("write", gfn)


def map_gpa(gfn: int) -> GuestOp:
    """TDG.VP.VMCALL<MapGPA> of one page: to shared iff ``gfn`` carries the shared bit."""
    return GuestOp("map_gpa", gfn)


def fetch(gfn: int) -> GuestOp:
    return GuestOp("fetch", gfn)


touch = read


class Cpu:
    """A logical processor: ``tlb`` as above, ``curr`` the vCPU whose thread it runs."""

    def __init__(self, m: Machine, number: int) -> None:
        self.tlb = Cell(m, f"cpu{number}.tlb", frozenset())
        self.curr = Word(m, f"cpu{number}.curr", None)


class Guest:
    """The guest side of a vCPU; only the vCPU's own thread changes it.

    :ivar pc: index of the operation to execute next.
    :ivar handler: the operation that the #VE handler is executing, or None.
    """

    def __init__(self, m: Machine, name: str) -> None:
        self.program = Cell(m, f"{name}.program", ())
        self.pc = Cell(m, f"{name}.pc", 0)
        self.handler = Cell(m, f"{name}.handler", None)
        self.halted = Cell(m, f"{name}.halted", False)
        # Direct GFNs that it has cached as writable and dirty: it may write them silently.
        self.writable = Cell(m, f"{name}.writable", frozenset())

    def load(self, program: tuple[GuestOp, ...]) -> None:
        self.program.set(program)
        self.pc.set(0)
        self.handler.set(None)
        self.halted.set(False)

    def next_op(self) -> GuestOp | None:
        """What to execute: the #VE handler first; None: the program has ended."""
        op: GuestOp | None = self.handler.v
        if op is None and self.pc.v < len(self.program.v):
            op = self.program.v[self.pc.v]
        return op

    def completed(self) -> None:
        if self.handler.v is not None:
            self.handler.set(None)
        else:
            self.pc.set(self.pc.v + 1)


# --- cached translations ----------------------------------------------------------------


def _cache(vcpu: GuestVcpu, gfn: int, pfn: int) -> None:
    tlb = vcpu.kvm.cpu(vcpu.cpu.v).tlb
    tlb.poke(tlb.v | {(gfn, pfn)})


def flush_all(vcpu: GuestVcpu, cpu: int) -> None:
    """The module's INVEPT on ``cpu``: VP.ENTER in a new epoch, VP.FLUSH."""
    vcpu.kvm.cpu(cpu).tlb.poke(frozenset())


def flush_shared(vcpu: GuestVcpu) -> None:
    """KVM's own INVEPT, on the vCPU's CPU: the shared EPT."""
    cpu: int = vcpu.cpu.v
    kvm = vcpu.kvm
    tlb = kvm.cpu(cpu).tlb
    is_shared = kvm.geometry.is_shared
    # An ordinary VM has nothing but direct translations.
    kept = kvm.gfn_direct_bits
    tlb.poke(frozenset(entry for entry in tlb.v if kept and not is_shared(entry[0])))
    vcpu.guest.writable.poke(frozenset())
    vcpu.m.emit("direct_tlb_flushed", vcpu.id)
    vcpu.m.emit("tlb_flush_shared", cpu)


# --- execution --------------------------------------------------------------------------


def interrupted(vcpu: GuestVcpu) -> bool:
    """Has an IPI arrived?"""
    with vcpu.m.step("interrupt window", vcpu.ipi.name):
        pending = vcpu.ipi.peek() >> 1
    return bool(pending)


def run_guest(vcpu: GuestVcpu) -> Any:
    """From the guest's entry to its TD exit; the module's `GuestResult`."""
    m = vcpu.m
    guest = vcpu.guest
    module = vcpu.kvm.module
    while True:
        op = guest.next_op()
        if op is None:  # it leaves by itself, whether an IPI is pending or not
            guest.halted.set(True)
            return module.guest_interrupt(vcpu.cpu.v)
        if interrupted(vcpu):
            m.reach("kick interrupted a running vCPU")
            return module.guest_interrupt(vcpu.cpu.v)
        result = _execute(vcpu, op, m.now())
        if result is not None:
            return result


def _execute(vcpu: GuestVcpu, op: GuestOp, window: int) -> Any:
    """One attempt; the TD exit it ended in, or None if the guest goes on.  ``window`` is
    the event that found no IPI pending."""
    if op.op == "accept":
        return _accept(vcpu, op, window)
    if op.op == "map_gpa":
        return vcpu.kvm.module.guest_vmcall(vcpu.cpu.v)
    if vcpu.kvm.geometry.is_shared(op.gfn):
        return _access_shared(vcpu, op)
    return _access_private(vcpu, op)


def _accept(vcpu: GuestVcpu, op: GuestOp, window: int) -> Any:
    regs = {"rcx": op.gfn << PAGE_SHIFT | op.level - 1}
    result = vcpu.kvm.module.tdcall(TDG_MEM_PAGE_ACCEPT, regs, vcpu.cpu.v)
    if result.event == "td-exit":
        return result
    if result.event == "retry":
        return None  # interrupted: the TDCALL is executed again
    if is_operand_busy(result.rax):
        vcpu.m.reach("guest ACCEPT returned BUSY")
        # An IPI ends the wait as well: the kicker may be who holds things up.
        vcpu.m.current.blame[vcpu.ipi] = window
        vcpu.m.retry("guest ACCEPT")
        return None
    if status_class(result.rax) not in (0, TDX_PAGE_ALREADY_ACCEPTED):
        # A larger or smaller page than the guest thinks: its own business.
        vcpu.m.reach("guest ACCEPT failed")
    elif vcpu.m.listeners:
        vcpu.m.emit("guest_accepted", vcpu.id, op.gfn, op.level)
    vcpu.guest.completed()
    return None


def _access_private(vcpu: GuestVcpu, op: GuestOp) -> Any:
    module = vcpu.kvm.module
    result = module.guest_access(vcpu.cpu.v, op.gfn << PAGE_SHIFT, write=op.op == "write")
    if result.event == "td-exit":
        return result
    if result.event == "inject":
        # #VE for a PENDING page: the guest's handler accepts it, then tries again.
        if result.vector == VECTOR_VE:
            module.tdcall(TDG_VP_VEINFO_GET, {}, vcpu.cpu.v)
        vcpu.guest.handler.set(accept(op.gfn))
        return None
    _accessed(vcpu, op, result.hpa >> PAGE_SHIFT)
    return None


def _access_shared(vcpu: GuestVcpu, op: GuestOp) -> Any:
    pfn = walk_direct(vcpu, op.gfn, op.op == "write")
    if pfn is None:
        return vcpu.kvm.module.guest_ept_violation(vcpu.cpu.v, op.gfn << PAGE_SHIFT)
    if pfn == MMIO:  # #VE: the guest's handler asks the host by TDG.VP.VMCALL
        vcpu.m.reach("a shared access was MMIO")
        vcpu.guest.completed()
        return None
    _accessed(vcpu, op, pfn)
    return None


def _accessed(vcpu: GuestVcpu, op: GuestOp, pfn: int) -> None:
    """The access is done, in the event of the walk's last step."""
    _cache(vcpu, op.gfn, pfn)
    if vcpu.m.listeners:
        vcpu.m.emit("guest_access", vcpu.id, op.gfn, pfn, op.op)
    vcpu.guest.completed()


def walk_direct(vcpu: GuestVcpu, gfn: int, for_write: bool) -> int | None:
    """The CPU's walk for an access that `_accessed` completes: the PFN, None (violation), or
    `MMIO` (the entry does not suppress the #VE: facts 1.2)."""
    access = "write" if for_write else "read"
    walk = cpu_walk(vcpu, gfn, access, cached=False, report=False)
    return MMIO if walk.ve else walk.pfn


class Walk(NamedTuple):
    """``pfn``: None if the access is not allowed.  ``present``: the walk ended at an entry
    with some access.  ``misconfig``: at one that no CPU accepts (MMIO).  ``ve``: at one that
    gives a TD's guest a #VE (MMIO too)."""

    pfn: int | None
    present: bool = False
    misconfig: bool = False
    ve: bool = False


def cpu_walk(vcpu: GuestVcpu, gfn: int, access: str, *, cached: bool, report: bool = True) -> Walk:
    """The CPU's walk of the direct root and the access, as one step.

    A and D are set by a locked read-modify-write of the leaf; the CPU logs the GFN when
    it sets D, if it has PML.

    :param access: ``read``, ``write`` or ``fetch``.
    :param cached: the translation stays in the TLB.
    :param report: tell the monitors of the access, which the walk completes.
    """
    kvm = vcpu.kvm
    geometry = kvm.geometry
    sp = kvm.mmu_pages[vcpu.root_hpa.v >> PAGE_SHIFT]
    with kvm.m.step("guest walk", sp.name):
        while True:
            level = sp.role.level
            sptep = sp.spt.word(geometry.index(gfn, level))
            spte = sptep.read()
            rwx = spte & VMX_EPT_RWX_MASK
            if rwx == VMX_EPT_MISCONFIG_WX_VALUE:
                return Walk(None, misconfig=True)
            if not rwx and not spte & VMX_EPT_SUPPRESS_VE_BIT:
                return Walk(None, ve=True)
            if spte_permission_fault(spte, access == "write", access == "fetch"):
                return Walk(None, present=bool(rwx))
            if is_last_spte(spte, level):
                break
            sp = kvm.mmu_pages[spte_to_pfn(spte)]
        if kvm.features.ad:
            used = VMX_EPT_ACCESS_BIT | (VMX_EPT_DIRTY_BIT if access == "write" else 0)
            if spte & used != used:
                sptep.fetch_or(used)
            if kvm.features.pml and used & VMX_EPT_DIRTY_BIT and not spte & VMX_EPT_DIRTY_BIT:
                vcpu.pml.poke((*vcpu.pml.peek(), gfn))
        pfn = spte_to_pfn(spte) + (gfn & geometry.pages_per_level(level) - 1)
        if cached:
            _cache(vcpu, gfn, pfn)
            if access == "write":
                vcpu.guest.writable.poke(vcpu.guest.writable.peek() | {gfn})
        if report and kvm.m.listeners:
            kvm.m.emit("guest_access", vcpu.id, gfn, pfn, access)
    return Walk(pfn, present=True)
