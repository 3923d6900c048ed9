# SPDX-License-Identifier: GPL-2.0-only
"""What every implementation of `septum.kvm.view.View` shares: events, and the TDX Module's side.

The kernel's side is the Python model's (`septum.kvm.view.KvmView`) or a compiled kernel's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from septum.kvm.environment import HasModule
from septum.machine.geometry import PAGE_SHIFT
from septum.tdx.pamt import PageType
from septum.tdx.sept import State, hpa_of, state_of
from septum.tdx.state import Lifecycle, Td

__all__ = ["BaseView", "Entry", "SeptView", "SpteChange", "Table", "Translation", "ViewedKvm"]

_TABLES = (State.NL_MAPPED, State.NL_BLOCKED)


class HasTdr(Protocol):
    """``struct kvm_tdx``."""

    tdr: int


class ViewedKvm(HasModule, Protocol):
    """The VM that a view is of."""

    @property
    def tdx(self) -> HasTdr: ...
    @property
    def vcpus(self) -> Sized: ...


@dataclass(frozen=True, slots=True)
class Table:
    """A page-table page of KVM; ``root`` is the name of the root it hangs below."""

    name: str
    pfn: int
    level: int
    gfn: int
    is_mirror: bool
    is_root: bool
    root: str


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


class Translation(NamedTuple):
    """In the direct root of that name: a page of the guest, or a table on the way to some
    (then ``gfn`` is the first one below it and ``pfn`` the table's own page)."""

    root: str
    gfn: int
    pfn: int
    table: bool = False


@dataclass(frozen=True, slots=True)
class SeptView:
    """Where a walk of the S-EPT for a GFN and level stopped.  ``level`` is KVM's."""

    level: int
    state: State
    pfn: int
    raw: int


class BaseView:
    """Passes the machine's events on to its subscribers, and walks the S-EPT."""

    kvm: ViewedKvm

    def __init__(self, kvm: ViewedKvm) -> None:
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
        handlers = self._handlers.get(what, [])
        if what == "spte":
            change = self._change(*args)
            for handler in handlers:
                handler(change)
            self._walks_changed(change)
            return
        for handler in handlers:
            handler(*args)

    def _walks_changed(self, change: SpteChange) -> None:
        """Event ``walks``, of a change to a direct root's tables: what can be walked now and
        could not be walked before, and the other way round."""
        handlers = self._handlers.get("walks")
        entry = change.entry
        if not handlers or entry.table.is_mirror or not self.is_linked(entry.table):
            return
        old, new = self.walks(entry, change.old), self.walks(entry, change.new)
        if old != new:
            for handler in handlers:
                handler(new - old, old - new)

    def walks(self, entry: Entry, value: int) -> frozenset[Translation]:
        found = self.walks_through(entry.gfn, entry.level, value)
        return frozenset(Translation(entry.table.root, *walk) for walk in found)

    def is_linked(self, table: Table) -> bool:
        """A walk from its root still comes to the table."""
        raise NotImplementedError

    def walks_through(self, gfn: int, level: int, value: int) -> list[tuple[int, int, bool]]:
        """What a walk through an SPTE comes to, see `septum.kvm.view.View`."""
        raise NotImplementedError

    def _change(self, *args: Any, **kwargs: Any) -> SpteChange:
        """An event ``spte`` as monitors see it."""
        raise NotImplementedError

    # --- the module ---------------------------------------------------------------

    def lps(self) -> range:
        if self.kvm.module is None:
            return range(len(self.kvm.vcpus))
        return range(self.kvm.module.config.lps)

    def vcpu_epoch(self, vcpu: int) -> int:
        return int(self.kvm.module.vcpu(vcpu).epoch.peek())

    def block_epoch(self, pfn: int) -> int:
        return int(self.kvm.module.pamt.leaf(pfn << PAGE_SHIFT).bepoch.peek())

    def keys_configured(self) -> bool:
        if self.kvm.module is None:
            return False
        return bool(self._td().lifecycle.peek() == Lifecycle.TD_KEYS_CONFIGURED)

    def _td(self) -> Td:
        td: Td = self.kvm.module.td(self.kvm.tdx.tdr << PAGE_SHIFT)
        return td

    def sept(self, gfn: int, level: int) -> SeptView | None:
        if self.kvm.module is None:
            return None
        table = self._td().root
        at = self.geometry.levels
        while True:
            raw = self.kvm.module.sept.page(table).word(self.geometry.index(gfn, at)).peek()
            state = state_of(raw)
            if at == level or state not in _TABLES:
                return SeptView(at, state, hpa_of(raw) >> PAGE_SHIFT, raw)
            table = hpa_of(raw)
            at -= 1

    def sept_entries(self) -> list[tuple[int, int, int]]:
        """Every non-FREE S-EPT entry: KVM level, GFN, raw value."""
        if self.kvm.module is None or self._td().sept_root is None:
            return []
        out: list[tuple[int, int, int]] = []
        todo = [(self._td().root, self.geometry.levels, 0)]
        while todo:
            table, level, base = todo.pop()
            for index, raw in self._sept_page(table):
                gfn = base + index * self.geometry.pages_per_level(level)
                state = state_of(raw)
                if state != State.FREE:
                    out.append((level, gfn, raw))
                if state in _TABLES and level > 1:
                    todo.append((hpa_of(raw), level - 1, gfn))
        return sorted(out, key=lambda e: (-e[0], e[1]))

    def _sept_page(self, table_hpa: int) -> Iterator[tuple[int, int]]:
        page = self.kvm.module.sept.page(table_hpa)
        for index in range(self.geometry.entries):
            yield index, page.word(index).peek()

    def sept_page_states(self, table_hpa: int) -> list[tuple[int, State]]:
        return [(index, state_of(raw)) for index, raw in self._sept_page(table_hpa)]

    def sept_parent(self, table_hpa: int) -> int | None:
        root = self._td().root
        if table_hpa == root:
            return None
        todo = [(root, self.geometry.levels)]
        while todo:
            table, level = todo.pop()
            for _, raw in self._sept_page(table):
                if level > 1 and state_of(raw) in _TABLES:
                    if hpa_of(raw) == table_hpa:
                        return raw
                    todo.append((hpa_of(raw), level - 1))
        return 0

    def page_type(self, pfn: int) -> str:
        if self.kvm.module is None:
            return PageType.NDA.name
        return PageType(self.kvm.module.pamt.leaf(pfn << PAGE_SHIFT).peek()[0]).name
