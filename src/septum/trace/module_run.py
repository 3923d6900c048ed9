# SPDX-License-Identifier: GPL-2.0-only
"""One recorded SEAMCALL on the model of the TDX Module (`septum.tdx.TdxModule`).

A recording names pages and GPAs of a host; what the module answers depends on their states,
not on their numbers.  So a call is run on a module of its own in which the pages it touches
have fixed addresses of the same alignment, and the registers out are put back: `answer`.
Equal cases are run once, and memory does not grow with the recording.

Locks that another call holds, a vCPU inside the guest and a pending interrupt are part of the
case (`Case.busy`, `inside`, `interrupt`): the module itself says whether they lead to a status.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from septum.machine import Machine
from septum.machine.geometry import PAGE_SHIFT, Geometry
from septum.machine.memory import Word
from septum.tdx import TdxModule
from septum.tdx.config import Conditions, Config, Tdmr
from septum.tdx.leaves import SEAMCALL_NAMES, TDH_MEM_TRACK
from septum.tdx.pamt import PageType
from septum.tdx.regs import Result
from septum.tdx.sept import FREE, HPA_MASK, hpa_of, is_leaf, non_leaf, state_of
from septum.tdx.sept import State as SeptState
from septum.tdx.sept import leaf as sept_leaf
from septum.tdx.state import SEPT_ROOT_INDEX, Lifecycle, OpState, Td
from septum.tdx.status import Operand

__all__ = ["TOP", "Answer", "Case", "Use", "answer"]

_GEOMETRY: Final = Geometry(bits=9, levels=5, shared=51)
TOP: Final = _GEOMETRY.levels - 1
"""The root table's level, counted as the module does; a TD of 4 levels never names it."""
_TDR: Final = 1 << 43
_TABLES: Final = 1 << 40
_PAGE: Final = 1 << 41
"""Where the page of R8 lies, ..."""
_HELD: Final = 1 << 42
"""... the page that the addressed entry holds, ..."""
_ABOVE: Final = 1 << 44
"""... and that of a leaf at which the walk ends."""
_REGION: Final = -(1 << 30)
_EPOCH: Final = 10
_CONFIG: Final = Config(tdmrs=(Tdmr(0, 1 << 46),), hkid_shift=46)
_EMPTY: Final = (SeptState.FREE, SeptState.REMOVED)
_MISALIGNED: Final = (1 << PAGE_SHIFT) - 1


class Use(NamedTuple):
    """What the page of R8 is: a page of a TD (REG), of a table (EPT), with its size."""

    kind: PageType
    size: int = 0


class Case(NamedTuple):
    """A call and the state it meets, in the host's addresses.

    ``path`` has the raw entries above the addressed one, the root table's first.
    """

    rax: int
    rcx: int
    rdx: int
    r8: int
    path: tuple[int, ...]
    entry: int
    op_state: OpState = OpState.RUNNABLE
    since: int = 2
    """Successful TRACKs since the entry was blocked, at most 2."""
    use: Use | None = None
    """Of the page in R8; None: free."""
    children: bool = False
    """The addressed entry's table holds something."""
    busy: int | None = None
    """Operand whose lock somebody else holds."""
    inside: bool = False
    """A vCPU is in the guest since the entry was blocked, or since before the last TRACK."""
    interrupt: bool = False


class Answer(NamedTuple):
    """Status, registers out and the addressed entry afterwards."""

    status: int
    rcx: int
    rdx: int
    r8: int
    entry: int


def answer(case: Case) -> Answer:
    """What the module returns, in the host's addresses."""
    holds = state_of(case.entry) not in _EMPTY
    held, above = hpa_of(case.entry), 0
    path = []
    for raw in case.path:
        if is_leaf(raw):
            above = hpa_of(raw)
            raw = raw & ~HPA_MASK | _like(_ABOVE, above)
        path.append(raw if is_leaf(raw) else raw & ~HPA_MASK)
    track = case.rax & 0xFFFF == TDH_MEM_TRACK
    same = holds and case.r8 == held
    named = case._replace(
        rcx=_TDR if track else _gpa(case.rcx),
        rdx=0 if track else case.rdx & _MISALIGNED | _TDR,
        r8=_like(_HELD if same else _PAGE, case.r8),
        path=tuple(path),
        entry=case.entry & ~HPA_MASK | _like(_HELD, held) if holds else case.entry,
    )
    out = _run(named)
    back = {_PAGE: case.r8, _HELD: held, _ABOVE: above}
    return Answer(
        out.status,
        _unlike(out.rcx, back) if not track else case.rcx,
        out.rdx,
        case.r8 if out.r8 == named.r8 else out.r8,
        _unlike(out.entry, back),
    )


def _like(base: int, hpa: int) -> int:
    """An address of the region ``base`` that is aligned as ``hpa`` is."""
    for size in (2, 1):
        if not hpa & ((1 << PAGE_SHIFT + 9 * size) - 1):
            return base + (0 if size == 2 else 1 << PAGE_SHIFT + 9)
    return base + (1 << PAGE_SHIFT + 9) + (1 << PAGE_SHIFT) + (hpa & _MISALIGNED)


def _unlike(raw: int, back: dict[int, int]) -> int:
    """Put the host's page back into a register or an entry."""
    base = raw & HPA_MASK & _REGION
    if base not in back:
        return raw
    return raw & ~HPA_MASK | back[base] & HPA_MASK


def _gpa(rcx: int) -> int:
    """RCX with another GPA of the same alignment and validity."""
    gfn = (rcx & HPA_MASK) >> PAGE_SHIFT
    low = 0
    while low < TOP and gfn and not gfn & ((1 << 9 * (low + 1)) - 1):
        low += 1
    near = 1 << 9 * low if gfn else 0
    shared = rcx & (1 << _GEOMETRY.shared) or rcx >> 52 << 52
    return shared | near << PAGE_SHIFT | rcx & _MISALIGNED


@lru_cache(maxsize=1 << 14)
def _run(case: Case) -> Answer:
    module = TdxModule(Machine(), _GEOMETRY, profile="linux-7.3", config=_CONFIG)
    level, gpa = case.rcx & 7, case.rcx & HPA_MASK
    td = _make_td(module, case)
    word = _make_tree(module, td, case, min(level, TOP), gpa)
    _make_pages(module, case)
    _hold(module, td, case, level)
    result: Result = module.seamcall(
        case.rax,
        {"rcx": case.rcx, "rdx": case.rdx, "r8": case.r8},
        cond=Conditions(intr_at=1 if case.interrupt else None),
    )
    return Answer(result.rax, result.rcx, result.rdx, result.r8, word.v)


def _make_td(module: TdxModule, case: Case) -> Td:
    """A TD with its keys, its TDCS pages and a running epoch."""
    td = module.td(_TDR)
    module.pamt.entry(_TDR, 0).set((PageType.TDR, 0))
    td.lifecycle.set(Lifecycle.TD_KEYS_CONFIGURED)
    td.op_state.set(case.op_state)
    pages = [_TABLES + (16 + n << PAGE_SHIFT) for n in range(6)]
    pages[SEPT_ROOT_INDEX] = _table(TOP)
    td.tdcx.set(tuple(pages))
    td.epoch.set(_EPOCH)
    blocked_at = _EPOCH - case.since
    if case.inside:
        track = case.rax & 0xFFFF == TDH_MEM_TRACK
        td.refcounts[(_EPOCH - 1 if track else blocked_at) & 1].set(1)
    return td


def _table(level: int) -> int:
    return _TABLES + (level << PAGE_SHIFT)


def _make_tree(module: TdxModule, td: Td, case: Case, level: int, gpa: int) -> Word:
    """The entries from the root down; the addressed one's word."""
    sept = module.sept
    for at, raw in zip(range(TOP, level, -1), case.path, strict=False):
        if is_leaf(raw) or raw == FREE:
            value = raw
        else:
            value = raw | _table(at - 1)
        sept.word(_table(at), gpa, at).set(value)
        module.pamt.entry(_table(at), 0).set((PageType.EPT, _TDR))
    word = sept.word(_table(level), gpa, level)
    word.set(case.entry)
    if state_of(case.entry) not in _EMPTY:
        held = hpa_of(case.entry)
        page = module.pamt.entry(held, level if is_leaf(case.entry) and level < 3 else 0)
        page.set((PageType.REG if is_leaf(case.entry) else PageType.EPT, _TDR))
        page.bepoch.set(_EPOCH - case.since)
        if case.children and not is_leaf(case.entry) and level:
            below = non_leaf(_PAGE) if level > 1 else sept_leaf(SeptState.MAPPED, _PAGE)
            sept.page(held).word(0).set(below)
    return word


def _make_pages(module: TdxModule, case: Case) -> None:
    if case.use is not None:
        kind, size = case.use
        module.pamt.entry(case.r8, size).set((kind, _TDR))


def _hold(module: TdxModule, td: Td, case: Case, level: int) -> None:
    """Somebody else has the lock of ``case.busy``; in which mode does not matter but that it
    excludes this call."""
    busy = case.busy
    if busy is None:
        return
    name = SEAMCALL_NAMES.get(case.rax & 0xFFFF, "")
    if busy == (Operand.RCX if name == "TDH.MEM.TRACK" else Operand.RDX):
        module.pamt.entry(_TDR, 0).lock.acquire(True)
    elif busy == Operand.OP_STATE:
        td.op_lock.acquire(True)
    elif busy == Operand.SEPT_TREE:
        td.tree.acquire(True)
    elif busy == Operand.TD_EPOCH:
        td.epoch_lock.acquire(True)
    elif busy == Operand.R8:
        module.pamt.entry(case.r8, level if name == "TDH.MEM.PAGE.AUG" else 0).lock.acquire(True)
    elif busy == Operand.RCX and level <= TOP:
        module.sept.lock_host(module.sept.word(_table(level), case.rcx & HPA_MASK, level))
