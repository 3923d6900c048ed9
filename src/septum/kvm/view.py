# SPDX-License-Identifier: GPL-2.0-only
"""What monitors may see: a `View` of both trees, never model classes.

`KvmView` implements it for the Python model; compiled kernels implement it too.  Every
read goes through ``peek``, so that it belongs to the footprint of the event at which
the monitor judges, and the reduction stays sound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from septum.kvm.spte import is_last_spte, is_shadow_present_pte, spte_to_pfn
from septum.kvm.structs import INVALID_PAGE, Kvm, KvmMmuPage, Spte
from septum.machine import Machine
from septum.machine.geometry import PAGE_SHIFT, Geometry
from septum.tdx import sept
from septum.tdx.pamt import PageType

__all__ = ["Entry", "KvmView", "RootView", "SeptView", "SpteChange", "Table", "View"]


@dataclass(frozen=True, slots=True)
class Table:
    """A page-table page of KVM.  ``external_pfn`` is 0 for roots and direct pages."""

    name: str
    level: int
    gfn: int
    is_mirror: bool
    is_root: bool
    external_pfn: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One SPTE: ``level`` is the level of the table that holds it."""

    table: Table
    index: int
    gfn: int
    level: int
    value: int


@dataclass(frozen=True, slots=True)
class SpteChange:
    """A store to an SPTE that other tasks can reach; ``task`` made it."""

    entry: Entry
    old: int
    new: int
    task: int
    mmu_lock_write: bool


@dataclass(frozen=True, slots=True)
class SeptView:
    """Where a walk of the S-EPT for a GFN and level stopped.  ``level`` is KVM's."""

    level: int
    state: sept.State
    pfn: int
    raw: int


@dataclass(frozen=True, slots=True)
class RootView:
    """A root: its reference count, who should hold references, and its flags."""

    name: str
    count: int
    vcpus: int
    owned: bool
    listed: bool
    invalid: bool
    scheduled: bool


class View(Protocol):
    """The state that a monitor may read (facts/kvm-tdp-mmu.md section 7)."""

    m: Machine
    geometry: Geometry

    def roots(self) -> list[RootView]: ...
    def entries(self) -> Iterator[Entry]:
        """Every entry of every reachable table, parents before children."""
        ...

    def child_external_pfn(self, value: int) -> int:
        """The S-EPT page of the child table that a non-leaf SPTE points to."""
        ...

    def sept(self, gfn: int, level: int) -> SeptView | None:
        """Walk the S-EPT as far as tables go (blocked ones too); None without a TD."""
        ...

    def sept_parent(self, table_hpa: int) -> int | None:
        """Raw parent entry of an S-EPT page; None for the root; 0 if nobody links it."""
        ...

    def page_type(self, pfn: int) -> str:
        """The PAMT type of a 4K page: ``NDA``, ``REG``, ``EPT``, ..."""
        ...

    def stat_pages(self, level: int) -> int: ...
    def tdp_mmu_pages(self) -> int: ...
    def wait_for_sept_zap(self) -> bool: ...
    def vm_bugged(self) -> bool: ...
    def vm_dead(self) -> bool: ...
    def keys_configured(self) -> bool: ...


class KvmView:
    """`View` over `Kvm` and its `TdxModule`; also turns model events into neutral ones.

    :param subscribe: ``(event name, handler)`` pairs, see `septum.kvm.monitors`.
    """

    def __init__(self, kvm: Kvm) -> None:
        self.kvm = kvm
        self.m = kvm.m
        self.geometry = kvm.geometry
        self._handlers: dict[str, list[Callable[..., None]]] = {}

    # --- events -----------------------------------------------------------------

    def subscribe(self, event: str, handler: Callable[..., None]) -> None:
        self._handlers.setdefault(event, []).append(handler)

    def attach(self) -> None:
        """Start to pass the machine's events on to the subscribers."""
        self.m.listeners.append(self._on)

    def _on(self, what: str, args: tuple[Any, ...]) -> None:
        handlers = self._handlers.get(what)
        if not handlers:
            return
        if what == "spte":
            word, old, new = args
            change = SpteChange(
                self._entry(word.page.owner, word, new),
                old,
                new,
                self.m.current.id,
                self.kvm.mmu_lock.held_write(),
            )
            for handler in handlers:
                handler(change)
        else:
            for handler in handlers:
                handler(*args)

    # --- KVM's side ---------------------------------------------------------------

    def _table(self, sp: KvmMmuPage) -> Table:
        return Table(
            sp.name,
            sp.role.level,
            sp.gfn,
            sp.is_mirror,
            sp.ptep is None,
            0 if sp.ptep is None or not sp.is_mirror else sp.external_spt.peek(),
        )

    def _entry(self, sp: KvmMmuPage, word: Spte, value: int) -> Entry:
        level = sp.role.level
        gfn = sp.gfn + word.index * self.geometry.pages_per_level(level)
        return Entry(self._table(sp), word.index, gfn, level, value)

    def _root_pages(self) -> list[KvmMmuPage]:
        return [self.kvm.mmu_pages[pfn] for pfn in self.kvm.tdp_mmu_roots.peek()]

    def roots(self) -> list[RootView]:
        listed = self.kvm.tdp_mmu_roots.peek()
        used: dict[int, int] = {}
        for vcpu in self.kvm.vcpus:
            for hpa in (vcpu.root_hpa.v, vcpu.mirror_root_hpa.v):
                if hpa != INVALID_PAGE:
                    used[hpa >> PAGE_SHIFT] = used.get(hpa >> PAGE_SHIFT, 0) + 1
        out = []
        for pfn in {*listed, *used}:
            sp = self.kvm.mmu_pages[pfn]
            scheduled = sp.tdp_mmu_scheduled_root_to_zap.peek()
            invalid = sp.invalid.peek()
            out.append(
                RootView(
                    sp.name,
                    sp.tdp_mmu_root_count.peek(),
                    used.get(pfn, 0),
                    not invalid or scheduled,
                    pfn in listed,
                    invalid,
                    scheduled,
                )
            )
        return sorted(out, key=lambda r: r.name)

    def entries(self) -> Iterator[Entry]:
        for root in self._root_pages():
            yield from self._walk(root)

    def _walk(self, sp: KvmMmuPage) -> Iterator[Entry]:
        children: list[KvmMmuPage] = []
        for index in range(self.geometry.entries):
            word = sp.spt.word(index)
            value = word.peek()
            yield self._entry(sp, word, value)
            if is_shadow_present_pte(value) and not is_last_spte(value, sp.role.level):
                child = self.kvm.mmu_pages.get(spte_to_pfn(value))
                if child is not None:
                    children.append(child)
        for child in children:
            yield from self._walk(child)

    def child_external_pfn(self, value: int) -> int:
        child = self.kvm.mmu_pages.get(spte_to_pfn(value))
        return 0 if child is None else int(child.external_spt.peek())

    def stat_pages(self, level: int) -> int:
        return int(self.kvm.stat_pages[level - 1].peek())

    def tdp_mmu_pages(self) -> int:
        return int(self.kvm.tdp_mmu_pages.peek())

    def wait_for_sept_zap(self) -> bool:
        return bool(self.kvm.tdx.wait_for_sept_zap.peek())

    def vm_bugged(self) -> bool:
        return bool(self.kvm.vm_bugged.peek())

    def vm_dead(self) -> bool:
        return bool(self.kvm.vm_dead.peek())

    # --- the module's side ----------------------------------------------------------

    def keys_configured(self) -> bool:
        return bool(self.kvm.module is not None and self._td().keys_configured())

    def _td(self) -> Any:
        return self.kvm.module.td(self.kvm.tdx.tdr << PAGE_SHIFT)

    def sept(self, gfn: int, level: int) -> SeptView | None:
        if self.kvm.module is None:
            return None
        table = self._td().root_table()
        at = self.geometry.levels
        while True:
            raw = table.word(self.geometry.index(gfn, at)).peek()
            state = sept.state_of(raw)
            is_table = state in (sept.State.NL_MAPPED, sept.State.NL_BLOCKED)
            if at == level or not is_table:
                return SeptView(at, state, sept.hpa_of(raw) >> PAGE_SHIFT, raw)
            table = self.kvm.module.sept_page(sept.hpa_of(raw))
            at -= 1

    def sept_parent(self, table_hpa: int) -> int | None:
        td = self._td()
        root_hpa = td.root_hpa
        if table_hpa == root_hpa:
            return None
        todo = [root_hpa]
        while todo:
            page = self.kvm.module.sept_page(todo.pop())
            for index in range(self.geometry.entries):
                raw = page.word(index).peek()
                if sept.state_of(raw) in (sept.State.NL_MAPPED, sept.State.NL_BLOCKED):
                    if sept.hpa_of(raw) == table_hpa:
                        return int(raw)
                    todo.append(sept.hpa_of(raw))
        return 0

    def page_type(self, pfn: int) -> str:
        if self.kvm.module is None:
            return PageType.NDA.name
        return str(self.kvm.module.pamt.type_of(pfn << PAGE_SHIFT).name)
