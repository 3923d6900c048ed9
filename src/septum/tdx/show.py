# SPDX-License-Identifier: GPL-2.0-only
"""The module's state as text: S-EPT tree, PAMT, vCPUs, locks (for people).

``name`` turns the HPA of a page into what it is called; without it, its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from septum.tdx.dump import tdvprs
from septum.tdx.locks import ShareX, ShareXHp
from septum.tdx.module import TdxModule
from septum.tdx.pamt import SIZE_NAMES, PageType, PamtEntry
from septum.tdx.sept import HP_BIT, LOCK_BIT, State, any_blocked, hpa_of, is_leaf, state_of
from septum.tdx.state import MIN_TDCX, Td, Vcpu

__all__ = ["Name", "show_locks", "show_pamt", "show_td", "show_tree", "show_vcpus", "table"]

Name = Callable[[int], str]
LEVEL_NAMES = ("4K", "2M", "1G", "512G", "256T")


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells as aligned lines."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


# --- S-EPT -----------------------------------------------------------------------------------


def show_tree(module: TdxModule, tdr: int, name: Name = hex) -> str:
    """The S-EPT, one entry a line: GPA, size, state, page.  Neighbours in one state whose
    pages are contiguous are folded."""
    td = module.td(tdr)
    if len(td.tdcx.v) < MIN_TDCX:
        return "(no TDCS, so no S-EPT)"
    rows: list[tuple[str, str, str, str, str]] = []
    for entries in _runs(module, td):
        gpa, level, raw = entries[0]
        indent = "  " * (module.sept.top - level)
        page = hpa_of(raw) if not is_leaf(raw) else _frame(module, raw, level)
        state = state_of(raw)
        told = name(page) if state not in (State.FREE, State.REMOVED) else ""
        if len(entries) > 1:
            told += f" x{len(entries)}"
        notes = _notes(module, raw, level)
        rows.append((f"{indent}{gpa:#x}", LEVEL_NAMES[level], state.name, told, notes))
    return table(rows) if rows else "(empty)"


def _frame(module: TdxModule, raw: int, level: int) -> int:
    """The leaf's page, without an ACCEPT_COUNTER."""
    return hpa_of(raw) & -module.geometry.bytes_per_level(level + 1)


def _runs(module: TdxModule, td: Td) -> Iterator[list[tuple[int, int, int]]]:
    """Entries (gpa, level, raw) in the order of the walk, equal neighbours together."""
    run: list[tuple[int, int, int]] = []
    for item in module.sept.entries(td.root):
        if run and not _continues(module, run[-1], item):
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def _continues(module: TdxModule, last: tuple[int, int, int], item: tuple[int, int, int]) -> bool:
    level = item[1]
    step = module.geometry.bytes_per_level(level + 1)
    return (
        last[1] == level
        and is_leaf(last[2])
        and (item[0], item[2]) == (last[0] + step, last[2] + step)
        and _notes(module, last[2], level) == _notes(module, item[2], level)
    )


def _notes(module: TdxModule, raw: int, level: int) -> str:
    """What else there is to say of an entry."""
    notes: list[str] = []
    state = state_of(raw)
    if state in any_blocked:
        at = hpa_of(raw) if not is_leaf(raw) else _frame(module, raw, level)
        owner = module.pamt.entry(at, level if is_leaf(raw) else 0)
        notes.append(f"blocked in epoch {owner.bepoch.v}")
    if is_leaf(raw) and level and (done := hpa_of(raw) - _frame(module, raw, level)):
        notes.append(f"{done >> 12} small pages accepted")
    if raw & LOCK_BIT:
        notes.append("locked")
    if raw & HP_BIT:
        notes.append("host priority")
    return ", ".join(notes)


# --- TD, vCPUs ---------------------------------------------------------------------------------


def show_td(module: TdxModule, tdr: int, name: Name = hex) -> str:
    """Life cycle, epoch and counts of a TD, on three lines."""
    td = module.td(tdr)
    even, odd = (cell.v for cell in td.refcounts)
    return (
        f"TD {name(tdr)}: {td.lifecycle.v.name} {td.op_state.v.name}"
        f"{' FATAL' if td.fatal.v else ''}, HKID {td.hkid.v}\n"
        f"  TD_EPOCH {td.epoch.v}, vCPUs inside since an even epoch {even}, an odd one {odd}\n"
        f"  CHLDCNT {td.chldcnt.v}"
    )


def show_vcpus(module: TdxModule, tdr: int, name: Name = hex) -> str:
    """State, association and epoch of every vCPU."""
    rows = [
        (name(hpa), vcpu.state.v.name, _where(module, vcpu), f"VCPU_EPOCH {vcpu.epoch.v}")
        for hpa in tdvprs(module, tdr)
        for vcpu in (module.vcpu(hpa),)
    ]
    faults = [
        f"{name(hpa)}: EPT-violation exits at one RIP {vcpu.epf_count.v}"
        + "".join(f", waits for {gpa:#x}" for gpa in vcpu.epf_list.v)
        for hpa in tdvprs(module, tdr)
        for vcpu in (module.vcpu(hpa),)
        if vcpu.epf_count.v
    ]
    return "\n".join([table(rows), *faults]) if rows else "(no vCPU)"


def _where(module: TdxModule, vcpu: Vcpu) -> str:
    if vcpu.lp.v is None:
        return "on no LP"
    inside = module.lp(vcpu.lp.v).guest.v == vcpu.hpa
    return f"LP {vcpu.lp.v}, in the guest" if inside else f"LP {vcpu.lp.v}"


# --- PAMT, locks -------------------------------------------------------------------------------


def show_pamt(module: TdxModule, name: Name = hex) -> str:
    """Every PAMT entry that is not all zero; runs of equal neighbours are folded."""
    runs: list[tuple[PamtEntry, PamtEntry, tuple[str, ...]]] = []
    for entry in sorted(module.pamt.made(), key=lambda e: (e.hpa, -e.size)):
        if entry.v == (PageType.NDA, 0) and not entry.bepoch.v and not entry.lock.raw:
            continue
        cells = _pamt_cells(entry, name)
        if runs:
            first, last, told = runs[-1]
            if told == cells and last.hpa + (1 << module.pamt.shift[entry.size]) == entry.hpa:
                runs[-1] = first, entry, told
                continue
        runs.append((entry, entry, cells))
    rows = [
        (_pamt_name(a, name) + ("" if a is b else f" .. {_pamt_name(b, name)}"), *told)
        for a, b, told in runs
    ]
    return table(rows) if rows else "(every page is free)"


def _pamt_name(entry: PamtEntry, name: Name) -> str:
    """A large entry that is no page of its own has no name."""
    return name(entry.hpa) if not entry.size or entry.type is PageType.REG else hex(entry.hpa)


def _pamt_cells(entry: PamtEntry, name: Name) -> tuple[str, ...]:
    owner = ""
    if entry.owner:
        stale = ", stale" if entry.type is PageType.NDA else ""
        owner = f"of {name(entry.owner)}{stale}"
    epoch = f"BEPOCH {entry.bepoch.v}" if entry.bepoch.v else ""
    return SIZE_NAMES[entry.size], f"PT_{entry.type.name}", owner, epoch, _held(entry.lock)


def show_locks(module: TdxModule, tdr: int, name: Name = hex) -> str:
    """Every lock that is held or carries a host-priority flag."""
    td = module.td(tdr)
    locks: list[tuple[str, ShareX]] = [
        (f"OP_STATE of {name(tdr)}", td.op_lock),
        (f"S-EPT tree of {name(tdr)}", td.tree),
        (f"TD_EPOCH of {name(tdr)}", td.epoch_lock),
        ("KOT", module.kot.lock),
    ]
    locks += [
        (f"PAMT {SIZE_NAMES[entry.size]} {_pamt_name(entry, name)}", entry.lock)
        for entry in sorted(module.pamt.made(), key=lambda e: (e.hpa, -e.size))
    ]
    rows = [(what, told) for what, lock in locks if (told := _held(lock))]
    rows += [
        (f"CACHE.WB of package {package}", "held")
        for package, mutex in enumerate(module.kot.wbcache)
        if mutex.raw
    ]
    if len(td.tdcx.v) >= MIN_TDCX:
        rows += [
            (f"entry of {gpa:#x} at {LEVEL_NAMES[level]}", _notes_of_lock(raw))
            for gpa, level, raw in module.sept.entries(td.root)
            if raw & (LOCK_BIT | HP_BIT)
        ]
    return table(rows) if rows else "(all free)"


def _notes_of_lock(raw: int) -> str:
    flags = ((LOCK_BIT, "exclusive"), (HP_BIT, "host priority"))
    return ", ".join(word for bit, word in flags if raw & bit)


def _held(lock: ShareX) -> str:
    """``exclusive``, ``shared x2``, with ``host priority``; "" if free."""
    exclusive, readers = lock.v
    words = ["exclusive"] if exclusive else [f"shared x{readers}"] if readers else []
    if isinstance(lock, ShareXHp) and lock.hp.v:
        words.append("host priority")
    return ", ".join(words)
