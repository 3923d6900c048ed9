# SPDX-License-Identifier: GPL-2.0-only
"""For each rule of replay, lines that keep it and lines that break it.

All are of a 7.3 kernel with NPT (those with SEAMCALLs: EPT), one task on one CPU, and stand
after `BEFORE`: a root, and tables 11, 12, 13 for GFN 0 to 1ff.  The tests replay every one;
docs/replay-rules.md shows them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from septum.kvm.versions import KERNELS
from septum.tdx import leaves
from septum.tdx import sept as _sept
from septum.tdx.status import TDX_EPT_ENTRY_STATE_INCORRECT, Operand

__all__ = ["BEFORE", "EXAMPLES", "Example", "as_lines"]

_NONE: Final = KERNELS["7.3"].empty
_FROZEN: Final = KERNELS["7.3"].frozen
_READ_ONLY: Final = 0xE65
_TDR: Final = 0x50000000
_HUGE: Final = 0xEE7


class Example(NamedTuple):
    """Payloads, ``event: fields``, in the order of their lines."""

    good: tuple[str, ...]
    bad: tuple[str, ...]


def _leaf(pfn: int, bits: int = 0xE67) -> int:
    return pfn << 12 | bits


def _table(pfn: int) -> int:
    return pfn << 12 | 0x827


def _mirror(pfn: int) -> int:
    return 0x80A0000000000F37 | pfn << 12


def _change(level: int, gfn: int, old: int, new: int) -> str:
    return (
        f"kvm_tdp_mmu_spte_changed: as id 0 gfn {gfn:x} level {level}"
        f" old_spte {old:x} new_spte {new:x}"
    )


def _page(gfn: int, level: int) -> str:
    role = f"l{level} 8-byte q0 direct rwux nxe ad root 0 sync"
    return f"kvm_mmu_get_page: sp gen 0 gfn {gfn:x} {role} new"


def _zap(gfn: int, level: int) -> str:
    return _page(gfn, level).replace("get_page", "prepare_zap_page").removesuffix(" new")


def _fault(gfn: int, pfn: int, installed: int | None = None, *, done: bool = True) -> list[str]:
    """The lines of a fault; ``installed``: another page than it asked for; ``done``: with its
    last line."""
    lines = [
        f"kvm_mmu_spte_requested: gfn {gfn:x} pfn {pfn:x} level 1 access f",
        _change(1, gfn, _NONE, _leaf(pfn if installed is None else installed)),
    ]
    if done:
        lines.append(_done(gfn, pfn if installed is None else installed))
    return lines


def _done(gfn: int, pfn: int) -> str:
    return (
        f"kvm_mmu_set_spte: gfn {gfn:x} spte {_leaf(pfn):x} (rwxu) level 1 at {0x13000 + gfn * 8:x}"
    )


def _split(gfn: int, pfn: int, page: int, *, told: bool = True) -> list[str]:
    lines = [
        _change(2, gfn, _NONE, _leaf(pfn, _HUGE)),
        _page(gfn, 1),
        _change(2, gfn, _leaf(pfn, _HUGE), _table(page)),
    ]
    if told:
        text = f"gfn {gfn:x} spte {_leaf(pfn, _HUGE):x} level 2 errno 0"
        lines.append(f"kvm_mmu_split_huge_page: {text}")
    return lines


def _call(
    leaf: int, gfn: int, pfn: int = 0, status: int = 0, out: tuple[int, int] = (0, 0)
) -> list[str]:
    """The lines of one SEAMCALL, as the probes of `septum record --tdx` print them; ``out``:
    RCX and RDX."""
    return [
        f"seamcall_ret: (__seamcall_ret+0x4/0x60) fn={leaf:#x} rcx={gfn << 12:#x} rdx={_TDR:#x}"
        f" r8={pfn << 12:#x} r9=0x0",
        f"seamcall_ret_done: (tdx+0x60/0xa0 <- __seamcall_ret) status={status:#x}"
        f" rcx={out[0]:#x} rdx={out[1]:#x} r8={pfn << 12:#x}",
    ]


_ROOT: Final = _page(0, 4)
BEFORE: Final = (
    _ROOT,
    *(_change(level, 0, _NONE, _table(0x15 - level)) for level in (4, 3, 2)),
)
_INSTALL: Final = _change(1, 1, _NONE, _leaf(0x91))
_REMOVE: Final = _change(1, 1, _leaf(0x91), _NONE)
_FREEZE: Final = _change(1, 1, _leaf(0x91), _FROZEN)
_CLEAR: Final = _change(1, 1, _leaf(0x91), _leaf(0x91, _READ_ONLY))
_FAST: Final = (
    "kvm_page_fault: vcpu 0 rip 0x1000 address 0x0000000000001000 error_code 0x100000007",
    "fast_page_fault: vcpu 0 gva 1000 error_code P|W|U|0x100000000 sptep 00000000bf561f6c"
    f" old {_leaf(0x91, _READ_ONLY):#x} new {_leaf(0x91):x} spurious 0 fixed 1",
)
_UNLINK: Final = _change(2, 0, _table(0x13), _NONE)
_AUG: Final = _call(leaves.TDH_MEM_PAGE_AUG, 5, 0x95)
_INSTALLED: Final = _change(1, 5, _NONE, _mirror(0x95))
_MAPPED: Final = (_sept.arch_entry(_sept.leaf(_sept.State.PENDING, 0x95000)), 2 << 8)
"""RCX and RDX out: the entry of gfn 5 is PENDING."""
_WRONG_STATE: Final = TDX_EPT_ENTRY_STATE_INCORRECT | Operand.RCX


def _linked(gfn: int, page: int) -> tuple[str, ...]:
    return (_page(gfn, 1), _change(2, gfn, _NONE, _table(page)))


_REMOVED: Final = (_zap(0x200, 1), _change(2, 0x200, _table(0x14), _NONE))


EXAMPLES: Final = {
    "I20": Example(
        (_INSTALL, _change(1, 1, _leaf(0x91), _leaf(0x91, _READ_ONLY)), _REMOVE),
        (_INSTALL, _change(1, 1, _leaf(0x99), _NONE)),
    ),
    "I20-removal": Example(
        (_INSTALL, _zap(0, 1), _FREEZE, _UNLINK),
        (_INSTALL, _zap(0, 1), _UNLINK),
    ),
    "I20-link": Example(
        (*_linked(0x200, 0x14), *_linked(0x400, 0x15)),
        (*_linked(0x200, 0x14), *_linked(0x400, 0x14)),
    ),
    "I20-reinstall": Example(
        (_INSTALL, _REMOVE, _change(1, 1, _NONE, _leaf(0x92))),
        (_INSTALL, _change(1, 1, _NONE, _leaf(0x92))),
    ),
    "I20-child": Example(
        (*_linked(0x200, 0x14), _change(1, 0x201, _NONE, _leaf(0x91))),
        (
            *(*_linked(0x200, 0x14), *_REMOVED),
            _change(1, 0x201, _NONE, _leaf(0x91)),
        ),
    ),
    "PAGE": Example(
        (*_linked(0x200, 0x14), *_linked(0x400, 0x15), *_linked(0x600, 0x16)),
        (*_linked(0x200, 0x14), *_linked(0x400, 0x15)[1:], *_linked(0x600, 0x16)),
    ),
    "FAULT-pfn": Example(
        tuple(_fault(5, 0x95)),
        tuple(_fault(5, 0x95, 0x97)),
    ),
    "FAULT-set": Example(
        (*_fault(5, 0x95), *_fault(6, 0x96), *_fault(7, 0x97)),
        (*_fault(5, 0x95), *_fault(6, 0x96, done=False), *_fault(7, 0x97)),
    ),
    "FAULT-fast": Example(
        (_INSTALL, _CLEAR, *_FAST, _CLEAR, *_FAST),
        (_INSTALL, _CLEAR, *_FAST, *_FAST),
    ),
    "SPLIT": Example(
        (*_split(0x200, 0x400, 0x21), *_split(0x400, 0x600, 0x22), *_split(0x600, 0x800, 0x23)),
        (
            *_split(0x200, 0x400, 0x21),
            *_split(0x400, 0x600, 0x22, told=False),
            *_split(0x600, 0x800, 0x23),
        ),
    ),
    "I1": Example((*_AUG, _INSTALLED), (*_AUG, _change(1, 5, _NONE, _mirror(0x97)))),
    "I8": Example(
        (*_AUG, _INSTALLED),
        (
            *(*_AUG, _INSTALLED),
            *_call(leaves.TDH_MEM_PAGE_AUG, 5, 0x96, status=_WRONG_STATE, out=_MAPPED),
        ),
    ),
    "TDX-status": Example(
        (*_AUG, _INSTALLED),
        (*_AUG, _INSTALLED, *_call(leaves.TDH_MEM_PAGE_AUG, 5, 0x96)),
    ),
    "I9": Example(
        (_INSTALL, *_linked(0x200, 0x14), *_REMOVED, _zap(0, 1), _FREEZE, _UNLINK),
        (_INSTALL, *_linked(0x200, 0x14), *_REMOVED, _FREEZE),
    ),
    "I11": Example(
        (_INSTALL, _REMOVE, _change(1, 1, _NONE, _leaf(0x92))),
        (_INSTALL, _change(1, 1, _leaf(0x91), _leaf(0x92))),
    ),
    "I13": Example(
        (_INSTALL, _change(1, 1, _leaf(0x91), _leaf(0x91, _READ_ONLY))),
        (_INSTALL, _change(1, 1, _leaf(0x91), _leaf(0x91, 0xA67))),
    ),
    "WARN:__handle_changed_spte": Example(
        (_change(2, 0x200, _NONE, _leaf(0x400, _HUGE)),),
        (_change(2, 0x200, _NONE, _leaf(0x491, _HUGE)),),
    ),
    "LINE": Example(
        (_INSTALL, _change(1, 1, _leaf(0x91), _leaf(0x91, _READ_ONLY))),
        (_INSTALL, _change(1, 1, _leaf(0x91), _leaf(0x91))),
    ),
    "ORDER": Example(
        (_INSTALL, _change(1, 2, _NONE, _leaf(0x92))),
        (_INSTALL, "-" + _change(1, 2, _NONE, _leaf(0x92))),
    ),
}
"""By rule.  A ``-`` before a payload: its line is stamped earlier than the line before."""


def as_lines(payloads: tuple[str, ...], start: float = 10.0) -> list[str]:
    """The lines of a tracefs ``trace`` file, 10 ms apart from ``start`` seconds on."""
    out = []
    for number, payload in enumerate(payloads):
        time = start + (number - 1.5 if payload.startswith("-") else number) * 0.01
        out.append(f"   CPU 0/KVM-100     [000] ...1. {time:12.6f}: {payload.removeprefix('-')}")
    return out
