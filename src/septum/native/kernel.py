# SPDX-License-Identifier: GPL-2.0-only
"""A compiled kernel with one TD: its memory, its module, what monitors and operations need.

It has the members of `septum.kvm.structs.Kvm` that `septum.kvm.guest` and the monitors'
view of the module use.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

from septum.kvm.features import Features
from septum.kvm.guest import Cpu
from septum.kvm.seamcall import Injection
from septum.machine import Cell, Machine
from septum.machine.geometry import Geometry
from septum.native.image import ARENA, ARENA_SIZE, CPUS, FIRST_PFN, GMEM_PFN, VMEMMAP, Image
from septum.native.objects import Granule, Objects
from septum.native.spte_layout import SpteLayout
from septum.native.symbols import Lines
from septum.native.vcpus import Pages, Vcpu
from septum.tdx import Config, Tdmr, TdParams, TdxModule
from septum.tdx.profiles import Profile

__all__ = ["Kernel", "KernelError"]

CPU_STRIDE: Final = 0x1000000
_TDCX_PAGES: Final = 6
_TDVPS_PAGES: Final = 6


class KernelError(RuntimeError):
    """The kernel could not be brought up: what failed, and where."""


class Kernel:
    """The image with a module behind its ``__seamcall``.

    :ivar fields: offset and size of structure members, and constants, by name.
    :ivar module: the TDX Module; None once an ordinary VM was made.
    :ivar frozen: FROZEN_SPTE, as this kernel writes it.
    :ivar value_of: an SPTE of this kernel as the Python models write it.
    :ivar gfns: GFNs that the scenario uses, as the kernel numbers them.
    :ivar slots: those of each memslot, by its number.
    :ivar features: what host and VM are configured for.
    """

    module: Any

    def __init__(self, image: Image, lines: Lines, m: Machine, profile: Profile, fine: bool):
        self.image = image
        self.lines = lines
        self.m = m
        self.geometry = Geometry()
        config = Config(
            tdmrs=(Tdmr(FIRST_PFN << 12, (GMEM_PFN + 0x1000 - FIRST_PFN) << 12),),
            lps=CPUS,
            packages=1,
            td_params=TdParams(max_vcpus=CPUS, pending_ve_disable=True),
        )
        self.module = TdxModule(m, self.geometry, config=config, profile=profile, fine=fine)
        self.fields = self._fields()
        named = (name.partition(".")[::2] for name in self.fields)
        constants = {n: self.fields[f"value.{n}"][0] for kind, n in named if kind == "value"}
        layout = SpteLayout(constants)
        self.frozen = layout.frozen
        self.value_of = layout.value
        self.nonpresent = self.fields["value.SHADOW_NONPRESENT"][0]
        self.sp_block = self.fields["sizeof.kvm_mmu_page"][1] + 15 & ~15
        image.bugs(self.fields["sizeof.bug_entry"][1], self.fields["offset.bug_entry.flags"][0])
        self.objects = Objects(self)
        self.vcpus: list[Vcpu] = []
        self._tdvprs: dict[int, Vcpu] = {}
        self.gfns: frozenset[int] = frozenset()
        self.slots: dict[int, tuple[int, ...]] = {}
        self.features = Features()
        self.gfn_direct_bits = 0
        self.mmu_pages = Pages(self)
        self.entry_changed: Callable[[int, int, int], None] = lambda *_: None
        self._cpus = [Cpu(m, n) for n in range(CPUS)]
        self.injection: Injection | None = None
        self.tdx = SimpleNamespace(tdr=0)
        self.free_pages = Cell(m, "host free pages", frozenset())
        self.struct = 0  # struct kvm
        self.mmu_lock = 0
        self.zap_word: Granule | None = None

    def _fields(self) -> dict[str, tuple[int, int]]:
        image = self.image
        at = image.symbols["septum_fields"]
        out = {}
        while image.u64(at):
            out[image.text(image.u64(at))] = (image.u64(at + 8), image.u64(at + 16))
            at += 24
        return out

    def setup_arguments(self, host: int) -> list[tuple[str, tuple[int, ...]]]:
        """Calls that bring the kernel up, before any VM is made.

        :param host: how the host is configured (``c/setup.c``).
        """
        base = ARENA - (FIRST_PFN << 12)
        hkid = self.module.config.private_hkids[0]
        return [
            ("septum_kernel_setup", (base, VMEMMAP, CPU_STRIDE, ARENA + ARENA_SIZE)),
            ("septum_memory_setup", ()),
            ("septum_module_init", (hkid, _TDCX_PAGES, _TDVPS_PAGES, host)),
        ]

    # --- structures ----------------------------------------------------------------------

    def adopt_vm(self, td: bool) -> None:
        """Find struct kvm once it was made."""
        image = self.image
        self.struct = image.u64(image.symbols["septum_kvm"])
        self.mmu_lock = self.struct + self.fields["kvm.mmu_lock"][0]
        self.objects.add(self.struct, self.fields["sizeof.kvm"][1], "kvm")
        self.gfn_direct_bits = self.value("kvm.arch.gfn_direct_bits")
        if not td:
            self.module = None
            return
        page = image.u64(self.struct + self.fields["kvm_tdx.td.tdr_page"][0])
        self.tdx.tdr = (page - VMEMMAP) // 64
        self.zap_word = self.member("kvm_tdx.wait_for_sept_zap")

    def adopt_file(self, number: int) -> None:
        """The struct file of a guest_memfd."""
        at = self.image.u64(self.image.symbols["septum_gmem_file"] + 8 * number)
        name = f"file[gmem{number or ''}]"
        self.objects.add(at, self.fields["sizeof.file"][1], name)

    def adopt_vcpu(self, number: int) -> None:
        """The same for a vCPU."""
        image = self.image
        at = image.u64(image.symbols["septum_vcpu"] + 8 * number)
        self.objects.add(at, self.fields["sizeof.kvm_vcpu"][1], f"kvm_vcpu[{number}]")
        offset, size = self.fields["kvm_vcpu.stat"]
        image.count_only(at + offset, size)
        word = self.objects.cell(image.symbols["septum_irqs_off"] + 8 * number)
        self.vcpus.append(Vcpu(self, number, word))

    def member(self, name: str, base: int = 0) -> Granule:
        """The granule of a member of struct kvm (or of the structure at ``base``)."""
        return self.objects.cell((base or self.struct) + self.fields[name][0])

    def value(self, name: str, base: int = 0) -> int:
        """A member's value, without a footprint."""
        offset, size = self.fields[name]
        return self.image.load((base or self.struct) + offset, min(size, 8))

    def vcpu_struct(self, number: int) -> int:
        return self.image.u64(self.image.symbols["septum_vcpu"] + 8 * number)

    def cpu(self, number: int) -> Cpu:
        """A logical processor's cached translations."""
        return self._cpus[number]

    # --- tables --------------------------------------------------------------------------

    def sp_of(self, addr: int) -> int:
        """struct kvm_mmu_page of the page table that holds ``addr``; 0 if it is none."""
        pfn = (addr - ARENA >> 12) + FIRST_PFN
        sp = self.image.u64(VMEMMAP + pfn * 64 + self.fields["page.private"][0])
        if not ARENA <= sp < ARENA + ARENA_SIZE:
            return 0
        spt = self.image.u64(sp + self.fields["kvm_mmu_page.spt"][0])
        return sp if spt == addr & ~0xFFF else 0

    def level(self, sp: int) -> int:
        return self.image.look("septum_sp_level", sp)

    def is_mirror(self, sp: int) -> bool:
        return bool(self.image.look("septum_sp_mirror", sp) & 0xFF)

    def invalid(self, sp: int) -> int:
        return self.image.look("septum_sp_invalid", sp)

    def wait_for_sept_zap(self) -> int:
        """The flag that keeps vCPUs out, without a footprint."""
        return self.value("kvm_tdx.wait_for_sept_zap") if self.zap_word is not None else 0

    def tdvpr(self, number: int) -> int:
        """HPA of a vCPU's TDVPR page."""
        page = self.value("vcpu_tdx.vp.tdvpr_page", self.vcpu_struct(number))
        return (page - VMEMMAP) // 64 << 12

    def vcpu_at(self, tdvpr: int) -> Vcpu:
        """The vCPU with this TDVPR page."""
        vcpu = self._tdvprs.get(tdvpr)
        if vcpu is None:
            # It stays where it is: looking for it is no part of what a call looks at.
            answers, self.image.answers = self.image.answers, None
            self._tdvprs.update((self.tdvpr(vcpu.id), vcpu) for vcpu in self.vcpus)
            self.image.answers = answers
            vcpu = self._tdvprs[tdvpr]
        return vcpu

    def memory_hash(self) -> int:
        """A hash of how the kernel's memory, and what is allocated of it, differs from the
        start state."""
        return self.image.memory_hash()

    def trace(self, name: str, **fields: Any) -> None:
        """No tracepoint is judged here."""

    def leave(self, cpu: int) -> None:
        """The vCPU's KVM_RUN ends after this exit."""
        self.poke_byte(self.image.symbols["septum_leave"] + cpu, 1)

    def poke_byte(self, addr: int, value: int) -> None:
        ctypes.c_uint8.from_address(addr).value = value

    def poke_symbol(self, name: str, value: int) -> None:
        """Set a number of the glue, before anybody explores."""
        self.poke(self.image.symbols[name], value)

    def poke(self, addr: int, value: int) -> None:
        ctypes.c_uint64.from_address(addr).value = value
