# SPDX-License-Identifier: GPL-2.0-only
"""One SEAMCALL in flight: registers, the locks it holds, and the common check blocks.

A handler is a function ``(call) -> status``; a check that fails raises `Refused`, on
which the dispatcher releases the locks.  Handlers group their accesses into *phases*
(docs/tdx-model.md, "Points"): within a phase all is one event, unless the
module runs with ``fine=True``; then every lock operation and access is its own.

Check blocks: facts/tdx-module.md sections 2.4 to 2.6.
Source: ``src/common/helpers/helpers.c``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final

from septum.machine.geometry import PAGE_SHIFT
from septum.machine.memory import Word
from septum.tdx.config import Conditions
from septum.tdx.pamt import PageType, PamtEntry, PamtWalk
from septum.tdx.regs import Result
from septum.tdx.sept import (
    ALLOWED,
    LOCK_BIT,
    State,
    acceptable,
    any_blocked,
    arch_entry,
    hpa_of,
    level_state,
    state_of,
    tracking_required,
)
from septum.tdx.state import MIN_TDCX, OP_STATES, TRACKED_OP_STATES, Lifecycle, OpState, Td
from septum.tdx.status import (
    TDX_EPT_ENTRY_STATE_INCORRECT,
    TDX_EPT_WALK_FAILED,
    TDX_GPA_RANGE_NOT_BLOCKED,
    TDX_OP_STATE_INCORRECT,
    TDX_OPERAND_ADDR_RANGE_ERROR,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_PAGE_METADATA_INCORRECT,
    TDX_TD_FATAL,
    TDX_TD_KEYS_NOT_CONFIGURED,
    TDX_TDCS_NOT_ALLOCATED,
    TDX_TLB_TRACKING_NOT_DONE,
    Operand,
)

if TYPE_CHECKING:
    from septum.tdx.module import TdxModule

__all__ = ["Call", "Refused"]

_NO_STEP: Final = nullcontext()
_RCX, _RDX = Operand.RCX, Operand.RDX
PAGE_MASK: Final = ((1 << 52) - 1) & ~0xFFF


class Refused(Exception):
    """A check failed: the call returns this status after releasing its locks."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Call:
    """Context of one SEAMCALL.

    :ivar regs: the registers as they are to be returned (inputs until overwritten).
    :ivar rcx, rdx, r8, r9: the inputs.
    :ivar word, raw, level: the addressed S-EPT entry, once locked: its word, its value
        without lock bits, and its level.
    """

    __slots__ = (
        "cond",
        "gpa",
        "held",
        "intr_tests",
        "level",
        "locked",
        "lp",
        "m",
        "module",
        "name",
        "op_state",
        "r8",
        "r9",
        "raw",
        "rcx",
        "rdx",
        "regs",
        "td",
        "version",
        "word",
    )

    td: Td
    word: Word
    op_state: OpState

    def __init__(
        self, module: TdxModule, name: str, version: int, regs: Result, lp: int, cond: Conditions
    ) -> None:
        self.module = module
        self.m = module.m
        self.name = name
        self.version = version
        self.regs = regs
        self.lp = lp
        self.cond = cond
        self.rcx = regs.rcx
        self.rdx = regs.rdx
        self.r8 = regs.r8
        self.r9 = regs.r9
        self.locked = False
        self.held: list[Callable[[], None]] = []
        self.intr_tests = 0
        self.level = 0
        self.gpa = 0
        self.raw = 0

    # --- phases and results ------------------------------------------------------------

    def phase(self, what: str) -> AbstractContextManager[None]:
        """One event for all that is inside (each its own if the module is ``fine``)."""
        if self.module.fine:
            return _NO_STEP
        return self.m.step(self.name, what)

    def release(self) -> None:
        """Release every lock still held, the last one first."""
        held = self.held
        while held:
            held.pop()()

    def details(self, raw: int, level: int) -> None:
        """Report an entry in RCX and RDX."""
        self.regs.rcx = arch_entry(raw)
        self.regs.rdx = level_state(raw, level)

    def refuse_entry(self, status: int) -> Refused:
        """``status|RCX`` with details of the addressed entry."""
        self.details(self.raw, self.level)
        return Refused(status | _RCX)

    def interrupted(self) -> bool:
        """A pending-interrupt test."""
        self.intr_tests += 1
        at = self.cond.intr_at
        if at is not None:
            return self.intr_tests >= at
        return self.module.injected_interrupt(self.name)

    # --- operands ----------------------------------------------------------------------

    def page_info(self, lowest: int, highest: int) -> None:
        """RCX holds a GPA and a level (facts 2.6)."""
        rcx = self.rcx
        level = rcx & 7
        gpa = rcx & PAGE_MASK
        if rcx & ~(PAGE_MASK | 7) or not lowest <= level <= highest:
            raise Refused(TDX_OPERAND_INVALID | _RCX)
        if not self.module.geometry.aligned(gpa >> PAGE_SHIFT, level + 1):
            raise Refused(TDX_OPERAND_INVALID | _RCX)
        self.gpa = gpa
        self.level = level
        if not self.module.gpa_valid(gpa):
            raise Refused(TDX_OPERAND_INVALID | _RCX)

    def check_hpa(self, hpa: int, operand: int, size: int = 0) -> None:
        """Aligned, no HKID bits, inside a TDMR."""
        if hpa & ((1 << self.module.pamt.shift[size]) - 1) or hpa >> self.module.config.hkid_shift:
            raise Refused(TDX_OPERAND_INVALID | operand)
        if self.module.config.tdmr_of(hpa) is None:
            raise Refused(TDX_OPERAND_ADDR_RANGE_ERROR | operand)

    def lock_page(
        self,
        hpa: int,
        operand: int,
        kind: PageType,
        *,
        exclusive: bool,
        size: int = 0,
    ) -> PamtEntry:
        """Explicit access to a page of type ``kind``; its PAMT locks stay held."""
        self.check_hpa(hpa, operand, size)
        walk = self.lock_walk(hpa, operand, size, exclusive)
        if walk.leaf.size != size or walk.leaf.peek()[0] is not kind:
            raise Refused(TDX_PAGE_METADATA_INCORRECT | operand)
        return walk.leaf

    def lock_walk(self, hpa: int, operand: int, size: int, exclusive: bool) -> PamtWalk:
        """The PAMT lock walk alone; BUSY is decided before any metadata."""
        walk = self.module.pamt.walk(hpa, size, exclusive)
        if walk is None:
            raise Refused(TDX_OPERAND_BUSY | operand)
        self.held.append(walk.release)
        return walk

    def lock_implicit(
        self, entry: PamtEntry, operand: int, *, exclusive: bool, kind: PageType
    ) -> None:
        """Implicit access: the leaf PAMT entry only.  Its type is known from elsewhere;
        another one is a fatal error of the module."""
        lock = entry.lock
        if not lock.acquire(exclusive):
            raise Refused(TDX_OPERAND_BUSY | operand)
        self.held.append(lambda: lock.release(exclusive))
        if entry.peek()[0] is not kind:
            self.module.halt(f"{self.name}: {entry.name} is {entry.type.name}, not {kind.name}")

    # --- TD ----------------------------------------------------------------------------

    def lock_tdr(self, hpa: int, operand: int, *, exclusive: bool) -> Td:
        """The TDR as an explicit operand."""
        self.lock_page(hpa, operand, PageType.TDR, exclusive=exclusive)
        self.td = self.module.td(hpa)
        return self.td

    def lock_tdr_implicit(self, hpa: int) -> Td:
        """The owner's TDR, shared: BUSY|TDR."""
        entry = self.module.pamt.entry(hpa, 0)
        self.lock_implicit(entry, Operand.TDR, exclusive=False, kind=PageType.TDR)
        self.td = self.module.td(hpa)
        return self.td

    def build_state(self, *, lock: bool = True) -> None:
        """FATAL, keys, TDCS, OP_STATE (its lock shared unless the TDR is exclusive)."""
        td = self.td
        self.keys_configured()
        if len(td.tdcx.peek()) < MIN_TDCX:
            raise Refused(TDX_TDCS_NOT_ALLOCATED)
        if lock:
            if not td.op_lock.acquire(False):
                raise Refused(TDX_OPERAND_BUSY | Operand.OP_STATE)
            self.held.append(lambda: td.op_lock.release(False))
        self.op_state = td.op_state.peek()
        if self.op_state not in OP_STATES[self.name]:
            raise Refused(TDX_OP_STATE_INCORRECT)

    def keys_configured(self) -> None:
        """TDR.FATAL and the life cycle."""
        if self.td.fatal.peek():
            raise Refused(TDX_TD_FATAL)
        if self.td.lifecycle.peek() is not Lifecycle.TD_KEYS_CONFIGURED:
            raise Refused(TDX_TD_KEYS_NOT_CONFIGURED)

    def lock_tree(self, *, exclusive: bool) -> None:
        """The S-EPT tree lock: BUSY|SEPT_TREE."""
        tree = self.td.tree
        if not tree.acquire(exclusive):
            raise Refused(TDX_OPERAND_BUSY | Operand.SEPT_TREE)
        self.held.append(lambda: tree.release(exclusive))

    # --- the addressed entry -----------------------------------------------------------

    def walk(self) -> None:
        """Down to the addressed entry's table; every read is a point."""
        word, stop = self.module.sept.walk_to(self.td.root, self.gpa, self.level)
        if word is None:
            assert stop is not None
            self.details(stop.raw, stop.level)
            raise Refused(TDX_EPT_WALK_FAILED | _RCX)
        self.word = word

    def lock_entry(self) -> None:
        """Sample and lock the addressed entry; BUSY shows the sample."""
        sept = self.module.sept
        word = self.word
        sample = word.read()
        ok, raw = sept.lock_host(word)
        if not ok:
            self.details(sample, self.level)
            raise Refused(TDX_OPERAND_BUSY | _RCX)
        self.raw = raw & ~LOCK_BIT
        self.locked = True
        self.held.append(self._unlock_entry)

    def sample_entry(self) -> None:
        """Read the addressed entry without its lock (PAGE.ADD, MR.EXTEND)."""
        self.raw = self.word.read()

    def drop_accept_counter(self) -> None:
        """Clear bits 20:12 of a 2M PENDING leaf (sept_cleanup_if_pending(); a 1G one that
        PROMOTE gave a counter keeps it)."""
        if self.level == 1 and state_of(self.raw) in acceptable:
            self.raw &= ~self.module.counter_mask

    def leaf_hpa(self) -> int:
        """leaf_ept_entry_to_hpa(): the leaf's frame, without an ACCEPT_COUNTER."""
        return hpa_of(self.raw) & -self.module.geometry.bytes_per_level(self.level + 1)

    def require_state(self) -> State:
        """The entry's state must be one that the leaf allows (facts 2.3)."""
        state = state_of(self.raw)
        if state not in ALLOWED[self.name]:
            raise self.refuse_entry(TDX_EPT_ENTRY_STATE_INCORRECT)
        return state

    def commit_entry(self, raw: int, *, unlock: bool = False) -> None:
        """Give the addressed entry its new value, which drops HP.  ``unlock``: the same
        store unlocks it; else it stays locked until the releases."""
        self.locked = not unlock
        if not unlock:
            raw |= LOCK_BIT
        self.module.write_entry(self.td, self.word, self.gpa, self.level, raw)

    def commit_unlocked_entry(self, raw: int) -> None:
        """Write an entry that the exclusive TDR protects; it must not be locked."""
        if self.word.peek() & LOCK_BIT:
            self.module.halt(f"{self.name}: {self.word.name} is locked under an exclusive TDR")
        self.module.write_entry(self.td, self.word, self.gpa, self.level, raw)

    def _unlock_entry(self) -> None:
        if self.locked:
            self.locked = False
            self.module.sept.unlock(self.word)

    def blocked_and_tracked(self, entry: PamtEntry) -> None:
        """Blocked, and no vCPU can have a stale translation (facts section 3, TRK)."""
        if not self.tracked_state(state_of(self.raw)):
            return
        if state_of(self.raw) not in any_blocked:
            raise self.refuse_entry(TDX_GPA_RANGE_NOT_BLOCKED)
        if not self.is_tlb_tracked(entry):
            raise Refused(TDX_TLB_TRACKING_NOT_DONE | _RCX)

    def tracked_state(self, state: State) -> bool:
        return self.op_state in TRACKED_OP_STATES and state in tracking_required

    def is_tlb_tracked(self, entry: PamtEntry) -> bool:
        """One atomic read of TD_EPOCH and the reference counts (facts section 5)."""
        td = self.td
        with self.m.step(self.name, "TD_EPOCH"):
            bepoch: int = entry.bepoch.peek()
            epoch: int = td.epoch.peek()
            counts = (td.refcounts[0].peek(), td.refcounts[1].peek())
        if bepoch >> 63:
            return False
        if bepoch == epoch - 1 and not counts[bepoch & 1]:
            return True
        return bepoch < epoch - 1
