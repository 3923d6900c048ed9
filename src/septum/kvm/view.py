# SPDX-License-Identifier: GPL-2.0-only
"""What monitors may see: a `View` of both trees, never model classes.

`KvmView` implements it for the Python model; compiled kernels implement it too.  Every
read goes through ``peek``, so that it belongs to the footprint of the event at which
the monitor judges, and the reduction stays sound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from septum.kvm.host import FREE
from septum.kvm.spte import is_last_spte, is_shadow_present_pte, spte_to_pfn
from septum.kvm.structs import INVALID_PAGE, Kvm, KvmMmuPage, Spte
from septum.kvm.view_base import BaseView, Entry, SeptView, SpteChange, Table, Translation
from septum.kvm.view_direct import DirectView, KvmDirectView
from septum.machine import Machine
from septum.machine.geometry import PAGE_SHIFT, Geometry
from septum.tdx.sept import State

__all__ = [
    "Entry",
    "KvmView",
    "Observed",
    "RootView",
    "SeptView",
    "SpteChange",
    "Table",
    "Translation",
    "View",
]

_MODES = ("outside the guest", "in guest mode", "leaving the guest")


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


class View(DirectView, Protocol):
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

    def is_linked(self, table: Table) -> bool:
        """A walk from its root still comes to the table."""
        ...

    def walks_through(self, gfn: int, level: int, value: int) -> list[tuple[int, int, bool]]:
        """(GFN, PFN, False) of each page and (first GFN, PFN, True) of each table that a
        walk through this SPTE comes to."""
        ...

    def walks(self, entry: Entry, value: int) -> frozenset[Translation]:
        """The same as translations, with ``value`` in that entry."""
        ...

    def sept(self, gfn: int, level: int) -> SeptView | None:
        """Walk the S-EPT as far as tables go (blocked ones too); None without a TD."""
        ...

    def sept_parent(self, table_hpa: int) -> int | None:
        """Raw parent entry of an S-EPT page; None for the root; 0 if nobody links it."""
        ...

    def sept_page_states(self, table_hpa: int) -> list[tuple[int, State]]:
        """Index and state of every entry of an S-EPT page."""
        ...

    def page_type(self, pfn: int) -> str:
        """The PAMT type of a 4K page: ``NDA``, ``REG``, ``EPT``, ..."""
        ...

    def page_is_free(self, pfn: int) -> bool:
        """The host's allocator has the page."""
        ...

    def stat_pages(self, level: int) -> int: ...
    def tdp_mmu_pages(self) -> int: ...
    def wait_for_sept_zap(self) -> bool: ...
    def mmu_invalidate_in_progress(self) -> int: ...
    def mn_active_invalidate_count(self) -> int: ...
    def lps(self) -> range:
        """The numbers of the CPUs."""
        ...

    def vcpu_root(self, vcpu: int) -> str:
        """The name of the direct root that a vCPU (its TDVPR's HPA) has loaded, or empty."""
        ...

    def vcpu_epoch(self, vcpu: int) -> int:
        """The TLB epoch in which a vCPU (its TDVPR's HPA) entered the guest."""
        ...

    def block_epoch(self, pfn: int) -> int:
        """The TLB epoch in which a private page was blocked (BEPOCH)."""
        ...

    def sept_entries(self) -> list[tuple[int, int, int]]:
        """Every non-FREE S-EPT entry: KVM level, GFN, raw value."""
        ...

    def vm_bugged(self) -> bool: ...
    def vm_dead(self) -> bool: ...
    def keys_configured(self) -> bool: ...


class Observed(View, Protocol):
    """A view that tells of events, too: what `septum.kvm.monitors.Monitors` are attached to."""

    def subscribe(self, event: str, handler: Callable[..., None]) -> None: ...
    def attach(self) -> None: ...
    def holds_mmu_lock_for_write(self) -> bool:
        """The running task does."""
        ...


class KvmView(KvmDirectView, BaseView):
    """`View` over `Kvm` and its `TdxModule`; also turns model events into neutral ones.

    :param subscribe: ``(event name, handler)`` pairs, see `septum.kvm.monitors`.
    """

    kvm: Kvm

    def _change(self, word: Spte, old: int, new: int) -> SpteChange:
        entry = self._entry(word.page.owner, word, new)
        return SpteChange(entry, old, new, self.m.current.id, self.holds_mmu_lock_for_write())

    def holds_mmu_lock_for_write(self) -> bool:
        return self.kvm.mmu_lock.held_write()

    # --- KVM's side ---------------------------------------------------------------

    def _table(self, sp: KvmMmuPage) -> Table:
        root = sp
        while root.ptep is not None and root.ptep.page is not None:
            root = root.ptep.page.owner
        return Table(
            sp.name, sp.pfn, sp.role.level, sp.gfn, sp.is_mirror, sp.ptep is None, root.name
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

    def is_linked(self, table: Table) -> bool:
        sp = self.kvm.mmu_pages[table.pfn]
        while sp.ptep is not None and sp.ptep.page is not None:
            value = sp.ptep.peek()
            if not is_shadow_present_pte(value) or spte_to_pfn(value) != sp.pfn:
                return False
            sp = sp.ptep.page.owner
        return True

    def walks_through(self, gfn: int, level: int, value: int) -> list[tuple[int, int, bool]]:
        if not is_shadow_present_pte(value):
            return []
        pfn = spte_to_pfn(value)
        if is_last_spte(value, level):
            pages = range(self.geometry.pages_per_level(level))
            return [(gfn + n, pfn + n, False) for n in pages]
        out = [(gfn, pfn, True)]
        child = self.kvm.mmu_pages.get(pfn)
        if child is not None:
            pages_below = self.geometry.pages_per_level(level - 1)
            for index in range(self.geometry.entries):
                below = child.spt.word(index).peek()
                out += self.walks_through(gfn + index * pages_below, level - 1, below)
        return out

    def child_external_pfn(self, value: int) -> int:
        child = self.kvm.mmu_pages.get(spte_to_pfn(value))
        return 0 if child is None else int(child.external_spt.peek())

    def stat_pages(self, level: int) -> int:
        return int(self.kvm.stat_pages[level - 1].peek())

    def tdp_mmu_pages(self) -> int:
        return int(self.kvm.tdp_mmu_pages.peek())

    def wait_for_sept_zap(self) -> bool:
        return bool(self.kvm.tdx.wait_for_sept_zap.peek())

    def mmu_invalidate_in_progress(self) -> int:
        return int(self.kvm.mmu_invalidate_in_progress.peek())

    def mn_active_invalidate_count(self) -> int:
        return int(self.kvm.mn_active_invalidate_count.peek())

    def vcpu_root(self, vcpu: int) -> str:
        """Only the vCPU's own thread changes it, and not while it is in the guest."""
        for v in self.kvm.vcpus:
            if v.tdx.tdvpr << PAGE_SHIFT == vcpu and v.root_hpa.v != INVALID_PAGE:
                return self.kvm.mmu_pages[v.root_hpa.v >> PAGE_SHIFT].name
        return ""

    def vm_bugged(self) -> bool:
        return bool(self.kvm.vm_bugged.peek())

    def vm_dead(self) -> bool:
        return bool(self.kvm.vm_dead.peek())

    def page_is_free(self, pfn: int) -> bool:
        return self.kvm.host.owner(pfn) == FREE

    def cpus(self) -> list[tuple[str, str]]:
        """vCPUs, what their CPUs may have cached, and the TD's epoch, in words: for people,
        not for monitors."""
        out = []
        for vcpu in self.kvm.vcpus:
            cpu, requests = vcpu.cpu.peek(), vcpu.requests.peek()
            words = [f"on CPU {cpu}" if cpu >= 0 else "on no CPU", _MODES[vcpu.mode.peek()]]
            if requests:
                words.append(f"requests {requests:#x}")
            cached = sorted(self.kvm.cpu(cpu).tlb.peek()) if cpu >= 0 else []
            if cached:
                maps = ", ".join(f"gfn {gfn:x} -> pfn {pfn:x}" for gfn, pfn, *_ in cached)
                words.append(f"may have cached {maps}")
            out.append((vcpu.name, "; ".join(words)))
        if self.keys_configured():
            out.append(("TD_EPOCH", str(self._td().epoch.peek())))
        return out
