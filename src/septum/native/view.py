# SPDX-License-Identifier: GPL-2.0-only
"""`View` over a compiled kernel: the same monitors judge it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from septum.kvm.spte import is_last_spte, is_shadow_present_pte, spte_to_pfn
from septum.kvm.view import Entry, RootView, SpteChange, Table
from septum.native.image import ARENA, FIRST_PFN, PAGE
from septum.native.kernel import Kernel
from septum.native.leaks import table_pages
from septum.native.view_direct import NativeDirectView
from septum.tdx.sept import hpa_of, state_of

__all__ = ["NOT_JUDGED", "NativeView"]

NOT_JUDGED: Final = frozenset({"I20", "I24"})
"""Monitors that need what the compiled kernel does not show yet (docs/kernel.md)."""

_INVALID = (1 << 64) - 1


class NativeView(NativeDirectView):
    """Reads the image's memory; entries that were never set are left out.

    Values of ``FROZEN_SPTE`` are given as the Python models write them.
    """

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)  # type: ignore[arg-type]
        self.kernel = kernel

    def _on(self, what: str, args: tuple[Any, ...]) -> None:
        if what != "spte":
            super()._on(what, args)
            return
        handlers = self._handlers.get(what)
        if not handlers:
            return
        sp, addr, old, new, write = args
        change = SpteChange(self._at(sp, addr, new), old, new, self.m.current.id, bool(write))
        for handler in handlers:
            handler(change)

    # --- tables ------------------------------------------------------------------------------

    def _sp_table(self, sp: int) -> Table:
        kernel = self.kernel
        name = self.table_name(sp)
        level, gfn = kernel.level(sp), kernel.value("kvm_mmu_page.gfn", sp)
        root = not kernel.value("kvm_mmu_page.ptep", sp)
        pfn = (kernel.value("kvm_mmu_page.spt", sp) - ARENA >> 12) + FIRST_PFN
        return Table(name, pfn, level, gfn, kernel.is_mirror(sp), root, self._root_name(sp))

    def table_name(self, sp: int) -> str:
        """How a struct kvm_mmu_page is called."""
        spt = self.kernel.value("kvm_mmu_page.spt", sp)
        return self.kernel.objects.cell(spt).name.partition("[")[0]

    def _root_name(self, sp: int) -> str:
        """The name of the root that a table hangs below."""
        kernel = self.kernel
        for _ in range(self.geometry.levels):
            parent = kernel.value("kvm_mmu_page.ptep", sp)
            above = kernel.sp_of(parent) if parent else 0
            if not above:
                break
            sp = above
        return self.table_name(sp)

    def _at(self, sp: int, addr: int, value: int) -> Entry:
        table = self._sp_table(sp)
        index = (addr & PAGE - 1) // 8
        gfn = table.gfn + index * self.geometry.pages_per_level(table.level)
        return Entry(table, index, gfn, table.level, value)

    def _sps(self) -> list[int]:
        """struct kvm_mmu_page of every root on the list."""
        kernel = self.kernel
        head = kernel.struct + kernel.fields["kvm.arch.tdp_mmu_roots"][0]
        link = kernel.fields["kvm_mmu_page.link"][0]
        out: list[int] = []
        at = kernel.image.u64(head)
        while at not in (head, 0) and len(out) < 64:
            out.append(at - link)
            at = kernel.image.u64(at)
        return out

    def roots(self) -> list[RootView]:
        kernel = self.kernel
        listed = self._sps()
        used: dict[int, int] = {}
        for vcpu in kernel.vcpus:
            base = kernel.vcpu_struct(vcpu.id)
            for member in ("root.hpa", "mirror_root_hpa"):
                hpa = kernel.value(f"kvm_vcpu.arch.root_mmu.{member}", base)
                sp = kernel.sp_of(ARENA + hpa - (FIRST_PFN << 12)) if hpa != _INVALID else 0
                if sp:
                    used[sp] = used.get(sp, 0) + 1
        out = []
        for sp in {*listed, *used}:
            invalid = bool(kernel.invalid(sp))
            scheduled = bool(kernel.value("kvm_mmu_page.tdp_mmu_scheduled_root_to_zap", sp) & 0xFF)
            count = kernel.value("kvm_mmu_page.tdp_mmu_root_count", sp) & 0xFFFFFFFF
            out.append(
                RootView(
                    self._sp_table(sp).name,
                    count,
                    used.get(sp, 0),
                    not invalid or scheduled,
                    sp in listed,
                    invalid,
                    scheduled,
                )
            )
        return sorted(out, key=lambda r: r.name)

    def entries(self) -> Iterator[Entry]:
        for sp in self._sps():
            yield from self._walk_sp(sp)

    def _walk_sp(self, sp: int) -> Iterator[Entry]:
        kernel = self.kernel
        page = kernel.value("kvm_mmu_page.spt", sp)
        table = self._sp_table(sp)
        span = self.geometry.pages_per_level(table.level)
        children: list[int] = []
        for index, raw in kernel.image.entries(page, kernel.nonpresent):
            value = kernel.value_of(raw)
            yield Entry(table, index, table.gfn + index * span, table.level, value)
            if is_shadow_present_pte(value) and not is_last_spte(value, table.level):
                child = self._child(value)
                if child:
                    children.append(child)
        for child in children:
            yield from self._walk_sp(child)

    def _child(self, value: int) -> int:
        """struct kvm_mmu_page of the table that a non-leaf SPTE points to."""
        return self.kernel.sp_of(ARENA + (spte_to_pfn(value) - FIRST_PFN << 12))

    def child_external_pfn(self, value: int) -> int:
        child = self._child(value)
        if not child:
            return 0
        addr: int = self.kernel.member("kvm_mmu_page.external_spt", child).peek()
        return (addr - ARENA >> 12) + FIRST_PFN if addr else 0

    # --- counters and flags --------------------------------------------------------------------

    def stat_pages(self, level: int) -> int:
        return self.kernel.value(f"kvm.stat.pages_{('4k', '2m', '1g')[level - 1]}")

    def tdp_mmu_pages(self) -> int:
        return self.kernel.value("kvm.arch.tdp_mmu_pages")

    def wait_for_sept_zap(self) -> bool:
        return bool(self.kernel.wait_for_sept_zap())

    def mmu_invalidate_in_progress(self) -> int:
        return self.kernel.value("kvm.mmu_invalidate_in_progress")

    def mn_active_invalidate_count(self) -> int:
        return self.kernel.value("kvm.mn_active_invalidate_count")

    def table_pages(self) -> list[tuple[int, str, bool]]:
        return table_pages(self)

    def vm_bugged(self) -> bool:
        return bool(self.kernel.value("kvm.vm_bugged"))

    def vm_dead(self) -> bool:
        return bool(self.kernel.value("kvm.vm_dead"))

    def page_is_free(self, pfn: int) -> bool:
        return pfn in self.kernel.free_pages.v

    # --- the module ------------------------------------------------------------------------------

    def sept_entries(self) -> list[tuple[int, int, int]]:
        if self.kernel.module is None or self._td().sept_root is None:
            return []
        out: list[tuple[int, int, int]] = []
        todo = [(self._td().root, self.geometry.levels, 0)]
        while todo:
            table, level, base = todo.pop()
            for index, word in sorted(self.kernel.module.sept.page(table).words.items()):
                gfn = base + index * self.geometry.pages_per_level(level)
                state = state_of(word.v)
                if state.name != "FREE":
                    out.append((level, gfn, word.v))
                if state.name in ("NL_MAPPED", "NL_BLOCKED") and level > 1:
                    todo.append((hpa_of(word.v), level - 1, gfn))
        return sorted(out, key=lambda e: (-e[0], e[1]))

    def _sept_page(self, table_hpa: int) -> Iterator[tuple[int, int]]:
        """Only entries that were ever touched: the others are FREE."""
        for index, word in sorted(self.kernel.module.sept.page(table_hpa).words.items()):
            yield index, word.peek()
