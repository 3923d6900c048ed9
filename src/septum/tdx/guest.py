# SPDX-License-Identifier: GPL-2.0-only
"""The guest side: TDCALLs, memory accesses, EPT violations, interrupts.

Facts/tdx-module.md sections 3.17 (EPT violation), 3.24 (ACCEPT), 3.25 (ATTR.RD/WR).
No host lock is taken: what keeps the walked tables valid is TLB tracking.

Source: ``src/td_dispatcher/vm_exits/td_ept_violation.c``, ``tdg_mem_page_accept.c``,
``tdg_mem_page_attr_rd.c``, ``..._wr.c``, ``src/td_dispatcher/tdx_td_dispatcher.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final

from septum.machine.geometry import PAGE_SHIFT
from septum.tdx.config import Conditions
from septum.tdx.enter import (
    EXIT_EPT_VIOLATION,
    EXIT_EXTERNAL_INTERRUPT,
    EXIT_TDCALL,
    note_ept_fault,
    note_rip,
    td_exit,
)
from septum.tdx.regs import GuestResult
from septum.tdx.sept import (
    ALLOWED,
    LOCK_BIT,
    PS,
    RWX,
    TDP,
    State,
    acceptable,
    guest_accessible,
    hpa_of,
    is_leaf,
    level_state,
    state_of,
)
from septum.tdx.state import Td, Vcpu
from septum.tdx.status import (
    TDX_HOST_PRIORITY_BUSY_TIMEOUT,
    TDX_NO_VALID_VE_INFO,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_BUSY_HOST_PRIORITY,
    TDX_OPERAND_INVALID,
    TDX_PAGE_ALREADY_ACCEPTED,
    TDX_PAGE_SIZE_MISMATCH,
    TDX_SUCCESS,
    Operand,
)
from septum.tdx.tree import HOST_PRIORITY, OK, Spot

if TYPE_CHECKING:
    from septum.tdx.module import TdxModule

__all__ = [
    "Guest",
    "tdg_mem_page_accept",
    "tdg_mem_page_attr_rd",
    "tdg_mem_page_attr_wr",
    "tdg_vp_veinfo_get",
]

VECTOR_DF: Final = 8
VECTOR_VE: Final = 20
EEQ_ACCEPT: Final = 1
EEQ_ATTR_WR: Final = 5
EEQ_PENDING: Final = 6
_READ: Final = 1
_WRITE: Final = 2
_ACCEPT: Final = "TDG.MEM.PAGE.ACCEPT"
_ATTR_RD: Final = "TDG.MEM.PAGE.ATTR.RD"
_ATTR_WR: Final = "TDG.MEM.PAGE.ATTR.WR"
_PAGE: Final = ((1 << 52) - 1) & ~0xFFF


class Guest:
    """One event of the guest on an LP: its vCPU, its TD, the conditions."""

    __slots__ = ("cond", "intr_tests", "lp", "m", "module", "td", "vcpu")

    def __init__(self, module: TdxModule, lp: int, cond: Conditions) -> None:
        hpa = module.lp(lp).guest.v
        if hpa is None:
            raise ValueError(f"no vCPU is in the guest on LP {lp}: TDH.VP.ENTER comes first")
        self.module = module
        self.m = module.m
        self.lp = lp
        self.cond = cond
        self.vcpu: Vcpu = module.vcpu(hpa)
        self.td: Td = module.td(self.vcpu.tdr.v)
        self.intr_tests = 0

    def begin(self) -> None:
        """A VM exit reached the module.  What it changes is the vCPU's own: no point."""
        note_rip(self.vcpu, self.cond.rip)

    def interrupted(self, name: str) -> bool:
        """A pending-interrupt test."""
        self.intr_tests += 1
        if self.cond.intr_at is not None:
            return self.intr_tests >= self.cond.intr_at
        return self.module.injected_interrupt(name)

    def ept_violation(self, gpa: int, qualification: int, eeq: int) -> GuestResult:
        return td_exit(
            self.module,
            self.vcpu,
            self.lp,
            reason=EXIT_EPT_VIOLATION,
            rcx=qualification,
            rdx=eeq,
            r8=gpa & _PAGE,
        )

    def refused(self, gpa: int, level: int, spot: Spot, eeq_type: int) -> GuestResult:
        """A TDCALL that the host must resolve: EPT violation with details (EEQ)."""
        raw, at = spot.raw, spot.level
        state = level_state(raw, 0) >> 8
        info = level | at << 3 | state << 6 | (0x4000 if is_leaf(raw) else 0)
        qualification = _WRITE | (raw & RWX) << 3
        return self.ept_violation(gpa, qualification, eeq_type | info << 32)


# --- events ----------------------------------------------------------------------------------


def on_ept_violation(g: Guest, gpa: int, qualification: int) -> GuestResult:
    """The CPU reported an EPT violation at ``gpa`` (facts 3.17).

    A PENDING page gives the guest a #VE unless the TD disabled that; everything else,
    even an entry that is mapped by now, is a TD exit, counted for zero-step.
    """
    if g.td.fatal.peek():
        return g.ept_violation(gpa, qualification, 0)
    g.begin()
    if g.module.geometry.is_shared(gpa >> PAGE_SHIFT):
        return g.ept_violation(gpa, qualification, 0)
    spot = g.module.sept.walk(g.td.root, gpa, 0)
    eeq = 0
    if state_of(spot.raw) in acceptable:
        if not g.td.params.peek().pending_ve_disable:
            return _inject_ve(g, gpa, qualification)
        eeq = EEQ_PENDING
    with g.m.step("EPT violation", g.vcpu.name):
        note_ept_fault(g.vcpu, gpa)
        return g.ept_violation(gpa, qualification, eeq)


def _inject_ve(g: Guest, gpa: int, qualification: int) -> GuestResult:
    """#VE, or #DF if the guest has not read the last one's information."""
    if g.vcpu.ve_info.peek() is not None:
        return GuestResult("inject", vector=VECTOR_DF)
    g.vcpu.ve_info.poke((EXIT_EPT_VIOLATION, qualification, gpa))
    return GuestResult("inject", vector=VECTOR_VE)


def on_interrupt(g: Guest) -> GuestResult:
    """An external interrupt (an IPI) arrived while the guest ran."""
    if not g.td.fatal.peek():
        g.begin()
    return td_exit(g.module, g.vcpu, g.lp, reason=EXIT_EXTERNAL_INTERRUPT)


def on_vmcall(g: Guest) -> GuestResult:
    """TDG.VP.VMCALL: a trap-like TD exit; what the call means is the host's affair."""
    if g.td.fatal.peek():
        return td_exit(g.module, g.vcpu, g.lp, reason=EXIT_TDCALL)
    g.begin()
    g.vcpu.rip.poke(g.vcpu.rip.peek() + 4)
    return td_exit(g.module, g.vcpu, g.lp, reason=EXIT_TDCALL, trap=True)


def on_access(g: Guest, gpa: int, write: bool) -> GuestResult:
    """The guest reads or writes private memory: the CPU walks the S-EPT, read by read.

    Cached translations are not modelled here (see ``tlb_flush`` events): this is an
    access that misses the TLB.
    """
    if g.module.geometry.is_shared(gpa >> PAGE_SHIFT):
        raise ValueError(f"GPA {gpa:#x} is shared: the host's tables translate it, not the S-EPT")
    spot = g.module.sept.walk(g.td.root, gpa, 0)
    raw = spot.raw
    if raw & PS and raw & (_WRITE if write else _READ):
        g.vcpu.rip.poke(g.vcpu.rip.peek() + 4)
        span = g.module.geometry.bytes_per_level(spot.level + 1) - 1
        return GuestResult("ok", hpa=(hpa_of(raw) & ~span) | (gpa & span))
    qualification = (_WRITE if write else _READ) | (raw & RWX) << 3
    return on_ept_violation(g, gpa, qualification)


# --- TDCALLs -----------------------------------------------------------------------------------


def on_tdcall(g: Guest, name: str, regs: Mapping[str, int]) -> GuestResult:
    """Run a TDCALL's handler; keep RIP and the host-priority timer (facts 3.24)."""
    if g.td.fatal.peek():
        return td_exit(g.module, g.vcpu, g.lp, reason=EXIT_TDCALL)
    g.begin()
    result = HANDLERS[name](g, regs)
    vcpu = g.vcpu
    if result.rax == TDX_OPERAND_BUSY_HOST_PRIORITY | Operand.RCX:
        result.rax = TDX_OPERAND_BUSY | Operand.RCX
        since = vcpu.hp_since.v
        if since is None:
            vcpu.hp_since.poke(g.cond.tsc)
        elif g.cond.tsc - since >= g.td.params.peek().hp_lock_timeout:
            vcpu.hp_since.poke(None)
            vcpu.rip.poke(vcpu.rip.peek() + 4)
            return td_exit(
                g.module,
                vcpu,
                g.lp,
                reason=0,
                status=TDX_HOST_PRIORITY_BUSY_TIMEOUT,
                trap=True,
            )
    elif result.event != "td-exit" and vcpu.hp_since.v is not None:
        vcpu.hp_since.poke(None)
    if result.event == "resume":
        vcpu.rip.poke(vcpu.rip.peek() + 4)
    return result


def tdg_vp_veinfo_get(g: Guest, regs: Mapping[str, int]) -> GuestResult:
    """Read and clear the last #VE's information.

    In: nothing.

    Checks, in order:
      a #VE not yet read              NO_VALID_VE_INFO

    Effects: RCX exit reason, RDX qualification, R9 GPA; the information is gone.

    Source: src/td_dispatcher/vm_exits/tdg_vp_veinfo_get.c
    """
    info = g.vcpu.ve_info.peek()
    if info is None:
        return GuestResult("resume", rax=TDX_NO_VALID_VE_INFO)
    g.vcpu.ve_info.poke(None)
    return GuestResult("resume", rcx=info[0], rdx=info[1], r9=info[2])


def _page_info(g: Guest, rcx: int, highest: int) -> tuple[int, int] | None:
    """Level and GPA from the guest's RCX, None if invalid."""
    level, gpa = rcx & 7, rcx & _PAGE
    if rcx & ~(_PAGE | 7) or level > highest:
        return None
    if not g.module.geometry.aligned(gpa >> PAGE_SHIFT, level + 1):
        return None
    if not g.module.gpa_valid(gpa):
        return None
    return level, gpa


def _invalid(operand: int) -> GuestResult:
    return GuestResult("resume", rax=TDX_OPERAND_INVALID | operand)


def _phase(g: Guest, name: str, what: str) -> AbstractContextManager[None]:
    """One event for all that is inside (each its own if the module is ``fine``)."""
    return nullcontext() if g.module.fine else g.m.step(name, what)


def _lock(g: Guest, name: str, spot: Spot) -> tuple[GuestResult | None, int]:
    """The guest's entry lock; the entry's value under it."""
    with _phase(g, name, "lock entry"):
        got, raw = g.module.sept.lock_guest(spot.word)
    if got == OK:
        return None, raw
    code = TDX_OPERAND_BUSY_HOST_PRIORITY if got == HOST_PRIORITY else TDX_OPERAND_BUSY
    return GuestResult("resume", rax=code | Operand.RCX), raw


def _unlock(g: Guest, name: str, spot: Spot) -> None:
    with _phase(g, name, "unlock entry"):
        g.module.sept.unlock(spot.word)


def tdg_mem_page_accept(g: Guest, regs: Mapping[str, int]) -> GuestResult:
    """Accept a PENDING page: zero it and map it.

    In: RCX level 0..1 and GPA.

    Checks, in order:
      RCX level, GPA                  OPERAND_INVALID|RCX (to the guest, as all below)
      walk stopped above: a leaf the guest can access   PAGE_ALREADY_ACCEPTED|level
                          anything else                 TD exit, EPT violation, EEQ ACCEPT
      entry lock                      OPERAND_BUSY|RCX; HOST_PRIORITY_BUSY_TIMEOUT exit
                                      when a host's priority outlasts the timeout
      not FREE, and no leaf when sampled before the lock   PAGE_SIZE_MISMATCH|level
      a leaf the guest can access     PAGE_ALREADY_ACCEPTED|level
      not PENDING                     TD exit, EPT violation, EEQ ACCEPT

    Effects: PENDING -> MAPPED.  A 2M page is zeroed in 4K chunks; an interrupt after a
    chunk leaves PENDING with the ACCEPT_COUNTER in bits 20:12, and the TDCALL repeats.
    No TDR, OP_STATE or tree lock is taken.

    Source: src/td_dispatcher/vm_exits/tdg_mem_page_accept.c
    """
    wanted = _page_info(g, regs.get("rcx", 0), 1)
    if wanted is None:
        return _invalid(Operand.RCX)
    level, gpa = wanted
    sample = g.module.sept.walk(g.td.root, gpa, level)
    if sample.level != level:
        if is_leaf(sample.raw) and state_of(sample.raw) in guest_accessible:
            return GuestResult("resume", rax=TDX_PAGE_ALREADY_ACCEPTED | sample.level)
        return g.refused(gpa, level, sample, EEQ_ACCEPT)
    busy, raw = _lock(g, _ACCEPT, sample)
    if busy is not None:
        return busy
    result = _check_accept(g, level, gpa, sample, raw)
    if result is None:
        return _accept(g, level, gpa, sample, raw)
    return result


def _check_accept(g: Guest, level: int, gpa: int, sample: Spot, raw: int) -> GuestResult | None:
    """The state tests.  The leaf test uses the sample, the others the locked value, so
    an entry that a host fills in between gives PAGE_SIZE_MISMATCH."""
    state = state_of(raw)
    if state is not State.FREE and not is_leaf(sample.raw):
        _unlock(g, _ACCEPT, sample)
        return GuestResult("resume", rax=TDX_PAGE_SIZE_MISMATCH | level)
    if state in guest_accessible:
        _unlock(g, _ACCEPT, sample)
        return GuestResult("resume", rax=TDX_PAGE_ALREADY_ACCEPTED | level)
    if state not in acceptable:
        _unlock(g, _ACCEPT, sample)
        return g.refused(gpa, level, Spot(sample.word, raw & ~LOCK_BIT, level), EEQ_ACCEPT)
    return None


def _accept(g: Guest, level: int, gpa: int, sample: Spot, raw: int) -> GuestResult:
    """Zero the chunks that are left; then MAPPED."""
    mask = g.module.counter_mask if level else 0
    done = (raw & mask) >> PAGE_SHIFT
    base = raw & ~mask & ~LOCK_BIT
    for chunk in range(done, g.module.geometry.pages_per_level(level + 1) - 1):
        if g.interrupted(_ACCEPT):
            new = base | (chunk + 1) << PAGE_SHIFT
            _finish(g, level, gpa, sample, new)
            return GuestResult("retry")
    _finish(g, level, gpa, sample, (base & ~TDP) | RWX)
    return GuestResult("resume", rax=TDX_SUCCESS)


def _finish(g: Guest, level: int, gpa: int, spot: Spot, raw: int) -> None:
    """Store the new value, still locked, then unlock."""
    with _phase(g, _ACCEPT, "release"):
        g.module.write_entry(g.td, spot.word, gpa, level, raw | LOCK_BIT)
        g.module.sept.unlock(spot.word)


def tdg_mem_page_attr_rd(g: Guest, regs: Mapping[str, int]) -> GuestResult:
    """Read a page's attributes (a TD without L2 VMs has none: RCX, RDX only).

    In: RCX GPA.

    Checks, in order:
      RCX GPA                         OPERAND_INVALID|RCX
      entry lock, where the walk ends OPERAND_BUSY|RCX
      an allowed state                TD exit, EPT violation

    Effects: RCX GPA and the level found, RDX attributes (0), R8 reserved.

    Source: src/td_dispatcher/vm_exits/tdg_mem_page_attr_rd.c
    """
    gpa = regs.get("rcx", 0) & _PAGE
    if regs.get("rcx", 0) != gpa or not g.module.gpa_valid(gpa):
        return _invalid(Operand.RCX)
    spot = g.module.sept.walk(g.td.root, gpa, 0)
    busy, raw = _lock(g, _ATTR_RD, spot)
    if busy is not None:
        return busy
    _unlock(g, _ATTR_RD, spot)
    if state_of(raw) not in ALLOWED[_ATTR_RD]:
        return g.ept_violation(gpa, _READ | (raw & RWX) << 3, 0)
    return GuestResult("resume", rcx=gpa | spot.level)


def tdg_mem_page_attr_wr(g: Guest, regs: Mapping[str, int]) -> GuestResult:
    """Write a page's attributes (a TD without L2 VMs: all must be 0).

    In: RCX level 0..2 and GPA; RDX, R8 attributes.

    Checks, in order:
      RCX level, GPA                  OPERAND_INVALID|RCX
      attributes                      OPERAND_INVALID|RDX, OPERAND_INVALID|R8
      walk                            TD exit, EPT violation, EEQ ATTR_WR
      entry lock                      OPERAND_BUSY|RCX
      FREE or a leaf                  PAGE_SIZE_MISMATCH|level
      an allowed state                TD exit, EPT violation, EEQ ATTR_WR

    Effects: none without L2 VMs.

    Source: src/td_dispatcher/vm_exits/tdg_mem_page_attr_wr.c
    """
    wanted = _page_info(g, regs.get("rcx", 0), 2)
    if wanted is None:
        return _invalid(Operand.RCX)
    for name, operand in (("rdx", Operand.RDX), ("r8", Operand.R8)):
        if regs.get(name, 0):
            return _invalid(operand)
    level, gpa = wanted
    spot = g.module.sept.walk(g.td.root, gpa, level)
    if spot.level != level:
        return g.refused(gpa, level, spot, EEQ_ATTR_WR)
    busy, raw = _lock(g, _ATTR_WR, spot)
    if busy is not None:
        return busy
    _unlock(g, _ATTR_WR, spot)
    if state_of(raw) is not State.FREE and not is_leaf(raw):
        return GuestResult("resume", rax=TDX_PAGE_SIZE_MISMATCH | level)
    if state_of(raw) not in ALLOWED[_ATTR_WR]:
        return g.refused(gpa, level, Spot(spot.word, raw & ~LOCK_BIT, level), EEQ_ATTR_WR)
    return GuestResult("resume", rax=TDX_SUCCESS)


HANDLERS: Final[dict[str, Callable[..., GuestResult]]] = {
    "TDG.VP.VEINFO.GET": tdg_vp_veinfo_get,
    _ACCEPT: tdg_mem_page_accept,
    _ATTR_RD: tdg_mem_page_attr_rd,
    _ATTR_WR: tdg_mem_page_attr_wr,
}
