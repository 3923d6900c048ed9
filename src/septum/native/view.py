# SPDX-License-Identifier: GPL-2.0-only
"""`View` over a compiled kernel: the same monitors judge it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from septum.kvm.spte import is_last_spte, is_shadow_present_pte, spte_to_pfn
from septum.kvm.view import RootView
from septum.kvm.view_base import Entry, SpteChange, Table
from septum.native.image import ARENA, FIRST_PFN, PAGE
from septum.native.kernel import Kernel
from septum.native.leaks import table_pages
from septum.native.view_direct import NativeDirectView
from septum.tdx.sept import FREE

__all__ = ["NativeView"]

_INVALID = (1 << 64) - 1
_SHARED_HALF: Final = 0x100  # and the page far away, which no scenario's task uses


class NativeView(NativeDirectView):
    """Reads the image's memory; entries that were never set are left out.

    Values of ``FROZEN_SPTE`` are given as the Python models write them.
    """

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.watched = _watched(kernel)

    def _change(self, sp: int, addr: int, old: int, new: int, write: bool) -> SpteChange:
        return SpteChange(self._at(sp, addr, new), old, new, self.m.current.id, write)

    def holds_mmu_lock_for_write(self) -> bool:
        kernel = self.kernel
        return bool(kernel.image.held_write(self.m.current.id, kernel.mmu_lock))

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
        at = kernel.objects.cell(head).peek()
        while at not in (head, 0) and len(out) < 64:
            out.append(at - link)
            at = kernel.objects.cell(at).peek()
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
        for sp in sorted({*listed, *used}):
            for member in ("role", "tdp_mmu_scheduled_root_to_zap", "tdp_mmu_root_count"):
                kernel.member(f"kvm_mmu_page.{member}", sp).peek()
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

    def table_addresses(self) -> frozenset[int]:
        """Where the pages of all tables that are linked now lie."""
        return frozenset(ARENA + (e.table.pfn - FIRST_PFN << 12) for e in self.entries())

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

    def _sept_page(self, table_hpa: int) -> Iterator[tuple[int, int]]:
        """The entries that the scenario can use, and whatever is not FREE.  Which words of the
        page were ever made depends on earlier executions."""
        page = self.kernel.module.sept.page(table_hpa)
        used = {index for index, word in page.words.items() if word.v != FREE}
        for index in sorted(used.union(i for i in self.watched if not i & _SHARED_HALF)):
            yield index, page.word(index).peek()


def _watched(kernel: Kernel) -> frozenset[int]:
    """Entries whose writes are always told; all of them if none is named."""
    at = kernel.image.symbols["septum_watch"]
    words = [kernel.image.u64(at + 8 * word) for word in range(8)]
    named = (index for index in range(512) if words[index // 64] >> index % 64 & 1)
    return frozenset(named if any(words) else range(512))
