# SPDX-License-Identifier: GPL-2.0-only
"""Structural invariants of the module's state, checked while no call is in flight.

Each broken one is a sentence; an empty list means that all hold:

* every leaf's HPA is PT_REG of that TD at that size, every table's PT_EPT of that TD;
* no two leaves overlap in HPA, no S-EPT page is linked twice;
* an entry's permissions fit its state, no entry is locked;
* CHLDCNT is the number of 4K pages the TD owns;
* locks are free, but for what running vCPUs hold;
* each epoch's count is the number of vCPUs in the guest that entered in it;
* NUM_ASSOC_VCPUS and the LPs agree with the vCPUs.
"""

from __future__ import annotations

from collections import Counter

from septum.tdx.dump import tdrs, tdvprs
from septum.tdx.module import TdxModule
from septum.tdx.pamt import PageType
from septum.tdx.sept import LOCK_BIT, PS, RWX, State, guest_accessible, hpa_of, state_of
from septum.tdx.state import MIN_TDCX, Lifecycle, Td, VcpuState

__all__ = ["broken"]

_OWNED = (PageType.REG, PageType.TDCX, PageType.TDVPR, PageType.EPT)


def broken(module: TdxModule) -> list[str]:
    """What does not hold."""
    bad: list[str] = []
    pages: dict[int, str] = {}
    for hpa in tdrs(module):
        td = module.td(hpa)
        bad += _children(module, td)
        bad += _vcpus(module, td)
        if td.lifecycle.v is Lifecycle.TD_KEYS_CONFIGURED and len(td.tdcx.v) >= MIN_TDCX:
            bad += _tree(module, td, pages)
    return bad + _locks(module)


def _tree(module: TdxModule, td: Td, pages: dict[int, str]) -> list[str]:
    bad: list[str] = []
    for gpa, level, raw in module.sept.entries(td.root):
        state = state_of(raw)
        where = f"entry {gpa:#x} level {level} ({state.name})"
        if raw & LOCK_BIT:
            bad.append(f"{where} is locked at rest")
        readable = state in guest_accessible or state is State.NL_MAPPED
        if bool(raw & RWX) != readable:
            bad.append(f"{where} has permissions {raw & RWX}")
        if state in (State.FREE, State.REMOVED):
            continue
        is_leaf = bool(raw & PS)
        size = level if is_leaf else 0
        hpa = hpa_of(raw) & -(1 << module.pamt.shift[size])
        entry = module.pamt.leaf(hpa)
        wanted = (PageType.REG if is_leaf else PageType.EPT, td.hpa)
        if entry.v != wanted or entry.size != size:
            bad.append(f"{where} points to {entry.name} of type {entry.type.name}")
        for page in range(hpa, hpa + (1 << module.pamt.shift[size]), 0x1000):
            if page in pages:
                bad.append(f"{where} and {pages[page]} share HPA {page:#x}")
                break
            pages[page] = where
    return bad


def _children(module: TdxModule, td: Td) -> list[str]:
    owned = 0
    for entry in module.pamt.made():
        if entry.owner == td.hpa and entry.type in _OWNED:
            owned += 1 << (module.pamt.bits * entry.size)
    if owned != td.chldcnt.v:
        return [f"TD {td.hpa:#x}: CHLDCNT {td.chldcnt.v}, but it owns {owned} pages"]
    return []


def _vcpus(module: TdxModule, td: Td) -> list[str]:
    bad: list[str] = []
    inside = {lp: module.lp(lp).guest.v for lp in range(module.config.lps)}
    counts = [0, 0]
    associated = 0
    for hpa in tdvprs(module, td.hpa):
        vcpu = module.vcpu(hpa)
        associated += vcpu.lp.v is not None
        # A vCPU that a FATAL TD threw out stays ACTIVE with its reference.
        if vcpu.state.v is VcpuState.ACTIVE:
            counts[vcpu.epoch.v & 1] += 1
        where = [lp for lp, guest in inside.items() if guest == hpa]
        if where and vcpu.state.v is not VcpuState.ACTIVE:
            bad.append(f"{vcpu.name} runs on LP {where[0]} in state {vcpu.state.v.name}")
        if len(where) > 1 or (where and vcpu.lp.v != where[0]):
            bad.append(f"{vcpu.name} of LP {vcpu.lp.v} runs on {where}")
        if vcpu.state.v is VcpuState.ACTIVE and not where and not td.fatal.v:
            bad.append(f"{vcpu.name} is ACTIVE and runs nowhere")
    if td.lifecycle.v is not Lifecycle.TD_KEYS_CONFIGURED:
        return bad
    references = [cell.v for cell in td.refcounts]
    if references != counts:
        bad.append(f"TD {td.hpa:#x}: epoch references {references}, vCPUs inside {counts}")
    if associated != td.num_assoc.v:
        bad.append(f"TD {td.hpa:#x}: NUM_ASSOC_VCPUS {td.num_assoc.v}, in fact {associated}")
    return bad


def _locks(module: TdxModule) -> list[str]:
    """Free, but for running vCPUs: TDVPR explicitly, TDR implicitly, both shared."""
    readers: Counter[str] = Counter()
    for number in range(module.config.lps):
        hpa = module.lp(number).guest.v
        if hpa is None:
            continue
        for size in range(3):
            readers[module.pamt.entry(hpa, size).lock.name] += 1
        readers[module.pamt.entry(module.vcpu(hpa).tdr.v, 0).lock.name] += 1
    locks = [entry.lock for entry in module.pamt.made()]
    for hpa in tdrs(module):
        td = module.td(hpa)
        locks += [td.op_lock]
        if td.tree.v != (False, 0) or td.epoch_lock.v != (False, 0):
            return [f"TD {hpa:#x}: a tree or epoch lock is held at rest"]
    return [
        f"{lock.name} is {lock.v} at rest"
        for lock in locks
        if lock.v != (False, readers[lock.name])
    ]
