# SPDX-License-Identifier: GPL-2.0-only
"""The module's state as text: S-EPT tree, PAMT, vCPUs, locks (for people)."""

from __future__ import annotations

from septum.tdx.dump import tdvprs
from septum.tdx.module import TdxModule
from septum.tdx.pamt import SIZE_NAMES, PageType
from septum.tdx.state import MIN_TDCX

__all__ = ["show_locks", "show_pamt", "show_td", "show_tree", "show_vcpus"]


def show_tree(module: TdxModule, tdr: int) -> str:
    """The S-EPT, one entry a line; runs of contiguous equal leaves are folded."""
    td = module.td(tdr)
    if len(td.tdcx.v) < MIN_TDCX:
        return "(no TDCS, so no S-EPT)"
    return module.sept.show(td.root)


def show_td(module: TdxModule, tdr: int) -> str:
    """Life cycle, epoch and counts of a TD in one line."""
    td = module.td(tdr)
    return (
        f"TD {tdr:#x}: {td.lifecycle.v.name} {td.op_state.v.name} HKID {td.hkid.v}"
        f"{' FATAL' if td.fatal.v else ''}, TD_EPOCH {td.epoch.v}, in the guest since"
        f" an even epoch {td.refcounts[0].v}, odd {td.refcounts[1].v}, CHLDCNT {td.chldcnt.v}"
    )


def show_pamt(module: TdxModule) -> str:
    """Every PAMT entry that is not all zero; runs of 4K neighbours are folded."""
    rows: list[tuple[int, int, str]] = []
    for entry in sorted(module.pamt.made(), key=lambda e: (e.hpa, -e.size)):
        if entry.v == (PageType.NDA, 0) and not entry.bepoch.v and not entry.lock.raw:
            continue
        text = f"{SIZE_NAMES[entry.size]} {entry.type.name}"
        if entry.owner:
            stale = " (stale)" if entry.type is PageType.NDA else ""
            text += f" owner {entry.owner:#x}{stale}"
        if entry.bepoch.v:
            text += f" BEPOCH {entry.bepoch.v}"
        if entry.lock.raw:
            text += f" lock {entry.lock.raw:#x}"
        last = rows[-1] if rows else None
        if last and last[2] == text and last[1] + (1 << module.pamt.shift[entry.size]) == entry.hpa:
            rows[-1] = (last[0], entry.hpa, text)
        else:
            rows.append((entry.hpa, entry.hpa, text))
    return "\n".join(
        f"{first:#x} {text}" if first == last else f"{first:#x}..{last:#x} {text}"
        for first, last, text in rows
    )


def show_vcpus(module: TdxModule, tdr: int) -> str:
    """State, association and epoch of every vCPU."""
    lines = []
    for hpa in tdvprs(module, tdr):
        vcpu = module.vcpu(hpa)
        where = "not associated" if vcpu.lp.v is None else f"LP {vcpu.lp.v}"
        line = f"{hpa:#x} {vcpu.state.v.name} {where}, VCPU_EPOCH {vcpu.epoch.v}"
        if vcpu.epf_count.v:
            line += f", EPT faults at one RIP {vcpu.epf_count.v}"
        if vcpu.epf_list.v:
            line += ", listed " + " ".join(f"{gpa:#x}" for gpa in vcpu.epf_list.v)
        lines.append(line)
    return "\n".join(lines) or "(no vCPU)"


def show_locks(module: TdxModule, tdr: int) -> str:
    """Every lock that is held or carries a host-priority flag."""
    td = module.td(tdr)
    rows = [(lock.name, lock.raw) for lock in (td.op_lock, td.tree, td.epoch_lock, module.kot.lock)]
    rows += [(lock.name, lock.raw) for lock in module.kot.wbcache]
    rows += [(entry.lock.name, entry.lock.raw) for entry in module.pamt.made()]
    return "\n".join(f"{name} {raw:#x}" for name, raw in rows if raw) or "(all free)"
