# SPDX-License-Identifier: GPL-2.0-only
"""vCPUs and page tables of an image, as the Python models of guest and CPU see theirs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from septum.kvm.guest import Guest
from septum.machine import Cell, Machine
from septum.machine.dependency import WRITE
from septum.native.image import ARENA, FIRST_PFN

if TYPE_CHECKING:
    from septum.native.kernel import Kernel
    from septum.native.objects import Granule

__all__ = ["Pages", "Vcpu"]


class _Root:
    """``vcpu.root_hpa``: the direct root that the vCPU has loaded."""

    def __init__(self, kernel: Kernel, number: int) -> None:
        self.kernel = kernel
        self.number = number

    @property
    def v(self) -> int:
        base = self.kernel.vcpu_struct(self.number)
        return self.kernel.value("kvm_vcpu.arch.root_mmu.root.hpa", base)


class Vcpu:
    """What `septum.kvm.guest` and `septum.kvm.vmx` need of a vCPU.

    :ivar cpu: ``.v``: the CPU that it was entered on last.
    :ivar pml: GFNs that its CPU has logged.
    :ivar exit: its last VM exit.
    """

    def __init__(self, kernel: Kernel, number: int, ipi: Granule) -> None:
        m: Machine = kernel.m
        self.kvm = kernel
        self.m = m
        self.id = number
        self.guest = Guest(m, f"guest{number}")
        self._ipi = ipi
        self.cpu = Cell(m, f"vcpu{number}.cpu", number)
        self.root_hpa = _Root(kernel, number)
        self.pml = Cell(m, f"vcpu{number}.pml", ())
        self.exit = Cell(m, f"vcpu{number}.exit", None)

    @property
    def ipi(self) -> Granule:
        """Of that CPU: IRQs are off, an IPI is pending."""
        away = 8 * (self.cpu.v - self.id)
        return self.kvm.objects.cell(self._ipi.addr + away) if away else self._ipi

    def moved_to(self, cpu: int) -> None:
        """It is entered on this CPU."""
        if self.cpu.v != cpu:
            self.cpu.set(cpu)


class _Entry:
    """An SPTE as the CPU uses it, inside a step."""

    __slots__ = ("cell", "kernel")

    def __init__(self, kernel: Kernel, addr: int) -> None:
        self.kernel = kernel
        self.cell = kernel.objects.cell(addr)

    def read(self) -> int:
        return self.kernel.value_of(self.cell.peek())

    def fetch_or(self, bits: int) -> int:
        """A locked read-modify-write; the value before."""
        kernel, cell, m = self.kernel, self.cell, self.kernel.m
        before = kernel.image.u64(cell.addr)
        after = before | bits
        m.acc.append((cell.name, WRITE))
        if before != after:
            kernel.image.poke(cell.addr, after, m.current.id if m.exploring else -1)
            cell.touch()
            kernel.entry_changed(cell.addr, before, after)
        return before


class _Words:
    def __init__(self, kernel: Kernel, page: int) -> None:
        self.kernel = kernel
        self.page = page

    def word(self, index: int) -> _Entry:
        return _Entry(self.kernel, self.page + 8 * index)


class _Table:
    """struct kvm_mmu_page."""

    def __init__(self, kernel: Kernel, sp: int, page: int) -> None:
        self.name = kernel.objects.cell(page).name.partition("[")[0]
        self.role = SimpleNamespace(level=kernel.level(sp))
        self.spt = _Words(kernel, page)


class Pages:
    """``kvm.mmu_pages``: tables by the PFN of their page."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def __getitem__(self, pfn: int) -> _Table:
        page = ARENA + (pfn - FIRST_PFN << 12)
        return _Table(self.kernel, self.kernel.sp_of(page), page)
