# SPDX-License-Identifier: GPL-2.0-only
"""`TdxModule`: dispatch of SEAMCALLs, TDCALLs and guest events over the module's state.

With `inject_interrupts` a pending-interrupt test may find one while an explorer decides, as
often as `interrupt_budget` says: that is the module's to answer.  A status that a call is made
to return without having been made belongs to the caller (`septum.kvm.seamcall.Injection`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NoReturn

from septum.machine import Cell, Machine
from septum.machine.geometry import PAGE_SHIFT, Geometry
from septum.machine.memory import Word
from septum.tdx.api import TypedApi
from septum.tdx.call import Call, Refused
from septum.tdx.config import QUIET, Conditions, Config, TdParams
from septum.tdx.guest import (
    Guest,
    on_access,
    on_ept_violation,
    on_interrupt,
    on_tdcall,
    on_vmcall,
)
from septum.tdx.handlers import HANDLERS, TDCALLS, Handler, handler_doc
from septum.tdx.leaves import SEAMCALL_NAMES, TDCALL_NAMES, TDH_VP_INIT, VERSIONED
from septum.tdx.pamt import PageType, Pamt
from septum.tdx.profiles import PROFILES, Profile
from septum.tdx.regs import GuestResult, Result
from septum.tdx.sept import LOCK_BIT
from septum.tdx.state import Kot, Lp, Td, Vcpu
from septum.tdx.status import TDX_OPERAND_INVALID, Operand, decode
from septum.tdx.tree import Sept, Spot, sept_page_of

__all__ = ["HANDLERS", "TdxModule"]

# MEM.* leaves with a GPA clear RCX and RDX first (facts 2.4).
_CLEARS: Final = frozenset(
    n for n in HANDLERS if n.startswith("TDH.MEM.") and n != "TDH.MEM.TRACK"
) | {"TDH.MR.EXTEND"}
_BAD_RAX: Final = TDX_OPERAND_INVALID | Operand.RAX


class TdxModule(TypedApi):
    """One TDX Module on one platform.

    :param geometry: shape of the S-EPT; must match the host's.
    :param profile: the module version, a `Profile` or its name.
    :param config: LPs, packages, HKIDs, TDMRs.
    :param fine: every lock operation is a scheduling point of its own.
    :ivar td_params: TD_PARAMS pages in shared memory, by HPA (for MNG.INIT).
    :ivar inject_interrupts: an explorer may let pending-interrupt tests find one.
    """

    def __init__(
        self,
        m: Machine,
        geometry: Geometry | None = None,
        profile: Profile | str = "1.5.01",
        config: Config | None = None,
        *,
        fine: bool = False,
    ) -> None:
        self.m = m
        self.geometry = geometry or Geometry()
        self.profile = PROFILES[profile] if isinstance(profile, str) else profile
        self.config = config or Config()
        self.fine = fine
        self.pamt = Pamt(m, self.geometry, self.config)
        self.sept = Sept(m, self.geometry)
        self.kot = Kot(m, self.config.packages)
        self.td_params: dict[int, TdParams] = {}
        # HPA bits that hold a large PENDING leaf's ACCEPT_COUNTER.
        self.counter_mask: Final = self.geometry.mask << PAGE_SHIFT
        self._tds: dict[int, Td] = {}
        self._vcpus: dict[int, Vcpu] = {}
        self._lps = [Lp(m, n) for n in range(self.config.lps)]
        self.inject_interrupts = False
        self.interrupt_budget = Cell(m, "interrupt_budget", 0)

    # --- state ---------------------------------------------------------------------------

    def td(self, hpa: int) -> Td:
        """The TD whose TDR is at ``hpa`` (see the PAMT for whether there is one)."""
        td = self._tds.get(hpa)
        if td is None:
            td = self._tds[hpa] = Td(self.m, hpa)
        return td

    def vcpu(self, hpa: int) -> Vcpu:
        """The vCPU whose TDVPR is at ``hpa``."""
        vcpu = self._vcpus.get(hpa)
        if vcpu is None:
            vcpu = self._vcpus[hpa] = Vcpu(self.m, hpa)
        return vcpu

    def lp(self, number: int) -> Lp:
        return self._lps[number]

    def gpa_valid(self, gpa: int) -> bool:
        """Private, and within what the tables translate (facts 2.6)."""
        geometry = self.geometry
        return not gpa >> geometry.shared and not gpa >> PAGE_SHIFT >> geometry.gfn_bits

    def write_entry(self, td: Td, word: Word, gpa: int, level: int, raw: int) -> None:
        """Store a new entry value; monitors hear of it."""
        with self.m.step("write entry", word.name):
            old = word.v & ~LOCK_BIT
            word.write(raw)
            index = self.geometry.index(gpa >> PAGE_SHIFT, level + 1)
            self.m.emit("sept", td.hpa, sept_page_of(word), index, old, raw & ~LOCK_BIT)

    def peek_sept(self, tdr: int, gpa: int, level: int) -> Spot:
        """The S-EPT entry of ``gpa`` at ``level``, or where the walk stops: read inside
        the current event (monitors)."""
        return self.sept.peek(self.td(tdr).root, gpa, level)

    def peek_pamt(self, hpa: int) -> tuple[PageType, int, int]:
        """Type, owner and size of the page at ``hpa``, read inside the current event."""
        leaf = self.pamt.leaf(hpa)
        kind, owner = leaf.peek()
        return kind, owner, leaf.size

    def describe(self, call: str) -> str:
        """The manual text of a call (``TDH.MEM.PAGE.AUG``): inputs, checks, effects."""
        return f"{call}\n\n{handler_doc(call)}"

    def flush(self, vcpu: Vcpu, lp: int, regs: Result) -> None:
        """INVEPT: this LP's cached translations of the vCPU's TD are gone."""
        regs.flush = True
        self.m.emit("tlb_flush", vcpu.hpa, lp)

    def halt(self, why: str) -> NoReturn:
        """A fatal error of the real module: everything stops."""
        self.m.fatal("BUG:tdx_module", why)
        raise AssertionError("unreachable")

    # --- host ----------------------------------------------------------------------------

    def seamcall(
        self,
        leaf: int,
        regs: Mapping[str, int] | None = None,
        lp: int = 0,
        cond: Conditions = QUIET,
    ) -> Result:
        """Run a SEAMCALL on ``lp``.

        :param leaf: RAX: bits 15:0 the leaf, 23:16 the version.
        :param regs: inputs by name (``rcx`` .. ``r13``), 0 where missing.
        :param cond: interrupts, entropy and so on (sequential mode).
        """
        result = Result(regs)
        name = SEAMCALL_NAMES.get(leaf & 0xFFFF, "")
        handler = HANDLERS.get(name)
        version = leaf >> 16 & 0xFF
        if handler is None or leaf >> 24 or not self._version_ok(leaf & 0xFFFF, version):
            result.rax = _BAD_RAX
            return result
        return self._run(handler, Call(self, name, version, result, lp, cond))

    def _version_ok(self, leaf: int, version: int) -> bool:
        if leaf in VERSIONED:
            return True
        if leaf == TDH_VP_INIT:
            return version in self.profile.vp_init_versions
        return version == 0

    def _run(self, handler: Handler, call: Call) -> Result:
        result = call.regs
        if call.name in _CLEARS:
            result.rcx = result.rdx = 0
        try:
            result.rax = handler(call)
        except Refused as refused:
            result.rax = refused.status
        if call.held:
            with call.phase("release"):
                call.release()
        self.m.reach(_outcome(call.name, result.rax))
        return result

    def injected_interrupt(self, name: str) -> bool:
        """A pending-interrupt test while an explorer decides."""
        if not self.inject_interrupts or not self.m.exploring:
            return False
        budget = self.interrupt_budget
        with self.m.step("interrupt?", budget.name):
            left: int = budget.peek()
            if not left:
                return False
            budget.poke(left)
            if not self.m.choose(f"interrupt {name}", (False, True)):
                return False
            budget.set(left - 1)
            return True

    # --- guest ---------------------------------------------------------------------------

    def tdcall(
        self,
        leaf: int,
        regs: Mapping[str, int] | None = None,
        lp: int = 0,
        cond: Conditions = QUIET,
    ) -> GuestResult:
        """The guest on ``lp`` executes TDCALL."""
        name = TDCALL_NAMES.get(leaf & 0xFFFF, "")
        if name not in TDCALLS:
            return GuestResult("resume", rax=_BAD_RAX)
        result = on_tdcall(Guest(self, lp, cond), name, regs or {})
        what = "RETRY" if result.event == "retry" else decode(result.rax)
        self.m.reach(f"{name} {result.event} {what}")
        return result

    def guest_access(
        self, lp: int, gpa: int, write: bool = True, cond: Conditions = QUIET
    ) -> GuestResult:
        """The guest on ``lp`` touches private memory, with nothing in its TLB."""
        return on_access(Guest(self, lp, cond), gpa, write)

    def guest_ept_violation(
        self, lp: int, gpa: int, cond: Conditions = QUIET, qualification: int = 2
    ) -> GuestResult:
        """The CPU reported an EPT violation (default: a data write) at ``gpa``."""
        return on_ept_violation(Guest(self, lp, cond), gpa, qualification)

    def guest_vmcall(self, lp: int, cond: Conditions = QUIET) -> GuestResult:
        """The guest on ``lp`` calls the host: TDG.VP.VMCALL."""
        return on_vmcall(Guest(self, lp, cond))

    def guest_interrupt(self, lp: int, cond: Conditions = QUIET) -> GuestResult:
        """An external interrupt arrives while the guest runs on ``lp``."""
        return on_interrupt(Guest(self, lp, cond))


OUTCOMES: dict[tuple[str, int], str] = {}
"""Every (call, RAX) that a module of this process returned, with its text; whoever counts
them clears it first."""


def _outcome(name: str, rax: int) -> str:
    text = OUTCOMES.get((name, rax))
    if text is None:
        text = f"{name} SUCCESS" if not rax else f"{name} returned {decode(rax)}"
        OUTCOMES[name, rax] = text
    return text
