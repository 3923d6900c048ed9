# SPDX-License-Identifier: GPL-2.0-only
"""What guests and CPUs (`septum.kvm.guest`), and views, need of the kernel around them.

`septum.kvm.structs.Kvm` and its `Vcpu` offer it, and so does a compiled kernel
(`septum.native.kernel.Kernel`): the same guest runs on both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from septum.kvm.features import Features
    from septum.kvm.guest import Cpu, Guest
    from septum.machine import Cell, Machine
    from septum.machine.geometry import Geometry

__all__ = ["GuestKvm", "GuestVcpu", "HasModule"]


class _Value(Protocol):
    """What only the vCPU's own thread changes."""

    @property
    def v(self) -> Any: ...


class _Spte(Protocol):
    def read(self) -> int: ...
    def fetch_or(self, bits: int) -> int: ...


class _PageTable(Protocol):
    def word(self, index: int) -> _Spte: ...


class _Role(Protocol):
    @property
    def level(self) -> int: ...


class _MmuPage(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def role(self) -> _Role: ...
    @property
    def spt(self) -> _PageTable: ...


class _MmuPages(Protocol):
    def __getitem__(self, pfn: int) -> _MmuPage: ...


class HasModule(Protocol):
    """A kernel with a VM, and the module that serves it; None for an ordinary VM."""

    @property
    def m(self) -> Machine: ...
    @property
    def geometry(self) -> Geometry: ...
    @property
    def module(self) -> Any: ...


class GuestKvm(HasModule, Protocol):
    """The VM, to its guest."""

    @property
    def features(self) -> Features: ...
    @property
    def gfn_direct_bits(self) -> int: ...
    @property
    def mmu_pages(self) -> _MmuPages: ...
    def cpu(self, number: int) -> Cpu: ...


class GuestVcpu(Protocol):
    """A vCPU: ``cpu`` is the CPU that it runs on, ``ipi`` whether it gets interrupts there and
    whether one is pending, ``pml`` the GFNs that the CPU has logged."""

    @property
    def id(self) -> int: ...
    @property
    def m(self) -> Machine: ...
    @property
    def kvm(self) -> GuestKvm: ...
    @property
    def guest(self) -> Guest: ...
    @property
    def cpu(self) -> _Value: ...
    @property
    def ipi(self) -> Cell: ...
    @property
    def pml(self) -> Cell: ...
    @property
    def root_hpa(self) -> _Value: ...
