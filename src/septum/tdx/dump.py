# SPDX-License-Identifier: GPL-2.0-only
"""The module's state as plain data, and back: the form of the recorded vectors.

`dump` returns what a vector's ``final`` holds, `load` builds the state of a ``preset``.
Neither is a call: no checks, no locks, no scheduling points (sequential mode only).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from septum.tdx.config import TdParams
from septum.tdx.module import TdxModule
from septum.tdx.pamt import PageType, PamtEntry
from septum.tdx.sept import hpa_of
from septum.tdx.state import (
    MIN_TDCX,
    KotState,
    Lifecycle,
    OpState,
    Td,
    VcpuState,
)

__all__ = ["dump", "load", "tdrs"]


def tdrs(module: TdxModule) -> list[int]:
    """HPAs of the TDR pages, in order."""
    found = (e.hpa for e in module.pamt.made() if e.size == 0 and e.type is PageType.TDR)
    return sorted(found)


def tdvprs(module: TdxModule, tdr: int) -> list[int]:
    """HPAs of a TD's TDVPR pages, in order."""
    entries = (e for e in module.pamt.made() if e.size == 0 and e.type is PageType.TDVPR)
    return sorted(e.hpa for e in entries if e.owner == tdr)


def dump(
    module: TdxModule, pages: Iterable[int] | None = None, tdr: int | None = None
) -> dict[str, Any]:
    """The whole state; ``pages`` are HPAs whose PAMT leaf is listed besides those that
    the S-EPT maps (None: every page ever used); ``tdr`` is the TD described in full
    (default: the first)."""
    present = tdrs(module)
    if tdr is None and present:
        tdr = present[0]
    state: dict[str, Any] = {
        "lifecycle": None,
        "tds": [_td(module.td(hpa)) for hpa in present],
        "kot": {str(h): _kot(module, h) for h in module.kot.used()},
    }
    if tdr is not None and tdr in present:
        td = module.td(tdr)
        state["lifecycle"] = int(td.lifecycle.v)
        state["chldcnt"] = td.chldcnt.v
        keyed = td.lifecycle.v in (Lifecycle.TD_KEYS_CONFIGURED, Lifecycle.TD_BLOCKED)
        if keyed and len(td.tdcx.v) >= MIN_TDCX:
            state.update(_tdcs(module, td))
    if pages is None:
        pages = [e.hpa for e in module.pamt.made()]
    mapped = [hpa_of(int(row["raw"], 16)) for row in state.get("entries", ())]
    state["pamt"] = [_pamt(e) for e in _leafs(module, (*pages, *mapped))]
    return state


def _td(td: Td) -> dict[str, Any]:
    return {
        "tdr": hex(td.hpa),
        "lifecycle": int(td.lifecycle.v),
        "chldcnt": td.chldcnt.v,
        "num_tdcx": len(td.tdcx.v),
        "hkid": td.hkid.v,
        "fatal": int(td.fatal.v),
    }


def _kot(module: TdxModule, hkid: int) -> dict[str, int]:
    state, bitmap = module.kot.hkid(hkid).v
    return {"state": int(state), "wbinvd_bitmap": bitmap}


def _tdcs(module: TdxModule, td: Td) -> dict[str, Any]:
    return {
        "op_state": int(td.op_state.v),
        "td_epoch": hex(td.epoch.v),
        "refcounts": [td.refcounts[0].v, td.refcounts[1].v],
        "num_vcpus": td.num_vcpus.v,
        "num_assoc_vcpus": td.num_assoc.v,
        "locks": {
            "sept-tree": hex(td.tree.raw),
            "td-epoch": hex(td.epoch_lock.raw),
            "op-state": hex(td.op_lock.raw),
        },
        "entries": [
            {"gpa": hex(gpa), "level": level, "raw": hex(raw)}
            for gpa, level, raw in module.sept.entries(td.root)
        ],
        "vcpus": [_vcpu(module, hpa) for hpa in tdvprs(module, td.hpa)],
    }


def _vcpu(module: TdxModule, hpa: int) -> dict[str, Any]:
    vcpu = module.vcpu(hpa)
    out: dict[str, Any] = {
        "tdvpr": hex(hpa),
        "state": int(vcpu.state.v),
        "pages": vcpu.pages.v,
    }
    if vcpu.state.v is not VcpuState.UNINITIALIZED:
        running = [n for n in range(module.config.lps) if module.lp(n).guest.v == hpa]
        out.update(
            assoc_lp=vcpu.lp.v,
            vcpu_epoch=hex(vcpu.epoch.v),
            epf_count=vcpu.epf_count.v,
            epf_list_len=len(vcpu.epf_list.v),
            in_guest_on_lp=running[0] if running else None,
        )
    return out


def _pamt(entry: PamtEntry) -> dict[str, Any]:
    out: dict[str, Any] = {
        "hpa": hex(entry.hpa),
        "size": entry.size,
        "type": int(entry.type),
        "owner": hex(entry.owner),
        "bepoch": hex(entry.bepoch.v),
    }
    if entry.lock.raw:
        out["lock"] = hex(entry.lock.raw)
    return out


def _leafs(module: TdxModule, pages: Iterable[int]) -> list[PamtEntry]:
    """The PAMT leafs of ``pages``, those that are not all zero, in order."""
    found: dict[int, PamtEntry] = {}
    for hpa in pages:
        if module.config.tdmr_of(hpa) is None:
            continue
        leaf = module.pamt.leaf(hpa)
        if leaf.v != (PageType.NDA, 0) or leaf.bepoch.v or leaf.lock.raw:
            found[leaf.hpa] = leaf
    return [found[hpa] for hpa in sorted(found)]


# --- loading -----------------------------------------------------------------------------------


def load(
    module: TdxModule,
    state: Mapping[str, Any],
    params: TdParams,
    layout: Mapping[str, Any],
) -> None:
    """Put the module into ``state`` (the form that `dump` returns).

    :param layout: ``tdr`` and ``tdcs``, the TDCS pages in order.
    """
    for hkid, entry in state.get("kot", {}).items():
        module.kot.hkid(int(hkid)).set((KotState(entry["state"]), entry["wbinvd_bitmap"]))
    for row in state["pamt"]:
        entry = module.pamt.entry(_int(row["hpa"]), row["size"])
        entry.set((PageType(row["type"]), _int(row["owner"])))
        entry.bepoch.set(_int(row["bepoch"]))
    for row in state["tds"]:
        td = module.td(_int(row["tdr"]))
        td.lifecycle.set(Lifecycle(row["lifecycle"]))
        td.chldcnt.set(row["chldcnt"])
        td.hkid.set(row["hkid"])
        td.fatal.set(bool(row["fatal"]))
        if row["lifecycle"] >= Lifecycle.TD_KEYS_CONFIGURED:
            td.packages.set(frozenset(range(module.config.packages)))
        if td.hpa == _int(layout["tdr"]):
            pages = tuple(_int(p) for p in layout["tdcs"][: row["num_tdcx"]])
            td.tdcx.set(pages)
            if "op_state" in state:
                _load_tdcs(module, td, state, params)


def _load_tdcs(module: TdxModule, td: Td, state: Mapping[str, Any], params: TdParams) -> None:
    td.op_state.set(OpState(state["op_state"]))
    td.params.set(params)
    td.epoch.set(_int(state["td_epoch"]))
    for cell, count in zip(td.refcounts, state["refcounts"], strict=True):
        cell.set(count)
    td.num_vcpus.set(state["num_vcpus"])
    td.num_assoc.set(state["num_assoc_vcpus"])
    for row in state["entries"]:
        gpa, level = _int(row["gpa"]), row["level"]
        spot = module.sept.peek(td.root, gpa, level)
        if spot.level != level:
            raise ValueError(f"entry {gpa:#x} at level {level} has no table above it")
        spot.word.init(_int(row["raw"]))
    for row in state["vcpus"]:
        vcpu = module.vcpu(_int(row["tdvpr"]))
        vcpu.tdr.set(td.hpa)
        vcpu.rip.set(0x1000)
        vcpu.state.set(VcpuState(row["state"]))
        vcpu.pages.set(row["pages"])
        if "assoc_lp" in row:
            vcpu.lp.set(row["assoc_lp"])
            vcpu.epoch.set(_int(row["vcpu_epoch"]))
            vcpu.epf_count.set(row["epf_count"])


def _int(value: str | int) -> int:
    return int(value, 16) if isinstance(value, str) else value
