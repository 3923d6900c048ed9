# SPDX-License-Identifier: GPL-2.0-only
"""``struct kvm``, ``struct kvm_vcpu``, ``struct kvm_mmu_page`` and what hangs off them.

Fields carry the kernel's names.  A field that several threads may touch without a
common lock is a `Word` (every access is a scheduling point) or a lock; a field that one
thread owns, or that is only touched under a lock that excludes its other users, is a
`Cell` (journaled, no point); what never changes after construction is a plain attribute.

``kvm.fn`` is the name space of functions: kernel-named functions call each other only
through it (``kvm.fn.handle_removed_pt(kvm, ...)``), so that a design can replace any of
them.  Lock order (facts 7, I10): kvm->lock, vcpu->mutex, slots_lock, mmu_lock,
tdp_mmu_pages_lock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from septum.kvm.features import Features
from septum.kvm.guest import Cpu, Guest
from septum.kvm.host import Host
from septum.kvm.slot_structs import (
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEMSLOT_INVALID,
    GmemFile,
    KvmMemorySlot,
    SlotArch,
    SlotSpec,
)
from septum.machine import RCU, SRCU, Cell, Machine, Mutex, Page, RWLock, SpinLock, Word
from septum.machine.geometry import Geometry

__all__ = [
    "EXITING_GUEST_MODE",
    "INVALID_PAGE",
    "IN_GUEST_MODE",
    "KVM_MEMORY_ATTRIBUTE_PRIVATE",
    "KVM_MEMSLOT_INVALID",
    "KVM_MEM_GUEST_MEMFD",
    "KVM_MEM_LOG_DIRTY_PAGES",
    "KVM_REQ_MMU_FREE_OBSOLETE_ROOTS",
    "KVM_REQ_OUTSIDE_GUEST_MODE",
    "KVM_REQ_TLB_FLUSH",
    "KVM_REQ_VM_DEAD",
    "KVM_X86_DEFAULT_VM",
    "KVM_X86_TDX_VM",
    "OUTSIDE_GUEST_MODE",
    "TD_STATE_INITIALIZED",
    "TD_STATE_RUNNABLE",
    "TD_STATE_UNINITIALIZED",
    "VCPU_TD_STATE_INITIALIZED",
    "VCPU_TD_STATE_UNINITIALIZED",
    "Functions",
    "Kvm",
    "KvmMemorySlot",
    "KvmMmuPage",
    "KvmTdx",
    "PageTable",
    "Role",
    "Spte",
    "Vcpu",
    "VcpuTdx",
]

KVM_X86_DEFAULT_VM: Final = 0
KVM_X86_TDX_VM: Final = 5

OUTSIDE_GUEST_MODE: Final = 0
IN_GUEST_MODE: Final = 1
EXITING_GUEST_MODE: Final = 2

# Requests are bits of vcpu.requests.  KVM_REQ_OUTSIDE_GUEST_MODE sets none: it only
# kicks (facts 5.2).
KVM_REQ_TLB_FLUSH: Final = 1 << 0
KVM_REQ_VM_DEAD: Final = 1 << 1
KVM_REQ_MMU_FREE_OBSOLETE_ROOTS: Final = 1 << 2
KVM_REQ_OUTSIDE_GUEST_MODE: Final = 0

TD_STATE_UNINITIALIZED: Final = 0
TD_STATE_INITIALIZED: Final = 1
TD_STATE_RUNNABLE: Final = 2

VCPU_TD_STATE_UNINITIALIZED: Final = 0
VCPU_TD_STATE_INITIALIZED: Final = 1

KVM_MEMORY_ATTRIBUTE_PRIVATE: Final = 1 << 3

INVALID_PAGE: Final = -1

_MANGLED = re.compile(r"_[A-Za-z0-9]\w*?(__\w+)")


class Functions:
    """Name -> function.  A class-based design's ``kvm.fn.__f`` is mangled by Python to
    ``_Design__f``; the unmangled name is then looked up."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        mangled = _MANGLED.fullmatch(name)
        if mangled is not None and mangled[1] in self.__dict__:
            return self.__dict__[mangled[1]]
        raise AttributeError(f"no kernel function named {name!r} in this design")


class Spte(Word):
    """One SPTE.  An sptep *is* the word.  Every store tells the monitors."""

    __slots__ = ("index",)

    page: PageTable

    def __init__(self, m: Machine, name: str, v: int, page: PageTable, index: int) -> None:
        super().__init__(m, name, v, page)
        self.index = index

    def try_cmpxchg(self, expected: Any, new: Any) -> tuple[bool, Any]:
        ok, actual = super().try_cmpxchg(expected, new)
        if not ok:
            self.m.reach("an SPTE cmpxchg lost")
        return ok, actual

    def _store(self, v: Any) -> None:
        old = self.v
        super()._store(v)
        if self.m.listeners:
            self.m.emit("spte", self, old, v)


class PageTable(Page):
    """A page-table page; ``owner`` is its `KvmMmuPage` (page_private in the kernel)."""

    __slots__ = ()

    owner: KvmMmuPage

    def word(self, index: int) -> Spte:
        word = self.words.get(index)
        if word is None:
            if not 0 <= index < self.size:
                raise IndexError(f"{self.name}: SPTE {index} of {self.size}")
            word = Spte(self.m, f"{self.name}[{index}]", self.fill, self, index)
            self.words[index] = word
        assert isinstance(word, Spte)
        return word


@dataclass(frozen=True, slots=True)
class Role:
    """``union kvm_mmu_page_role`` without ``invalid``, which changes (facts 2.1)."""

    level: int
    is_mirror: bool = False
    guest_mode: bool = False
    smm: bool = False
    ad_disabled: bool = False
    access: int = 0xF

    @property
    def as_id(self) -> int:
        return 1 if self.smm else 0

    def word(self, invalid: bool = False) -> int:
        """The u32 as 7.3 lays it out: direct, cr0_wp and efer_nx are always set."""
        return (
            self.level
            | 1 << 7
            | self.access << 8
            | invalid << 12
            | 1 << 13
            | 1 << 14
            | self.ad_disabled << 16
            | self.guest_mode << 17
            | self.is_mirror << 19
            | self.smm << 24
        )


class KvmMmuPage:
    """``struct kvm_mmu_page`` (sp).

    ``pfn`` is that of ``spt``.  ``external_spt`` is the PFN of the page given to TDX, 0
    for roots and direct pages.  ``ptep`` is the parent's SPTE, None for roots.  The
    fields of `init` are set before publication and then never change.
    """

    role: Role
    gfn: int
    ptep: Spte | None
    is_mirror: bool

    def __init__(self, kvm: Kvm, name: str, pfn: int, fill: int) -> None:
        m = kvm.m
        self.kvm = kvm
        self.name = name
        self.pfn = pfn
        self.spt = PageTable(m, name, kvm.geometry.entries, fill, owner=self, dynamic=True)
        self.external_spt = Cell(m, f"{name}.external_spt", 0)
        self.nx_huge_page_disallowed = Word(m, f"{name}.nx_huge_page_disallowed", False)
        self.invalid = Word(m, f"{name}.invalid", False)
        self.tdp_mmu_root_count = Word(m, f"{name}.root_count", 0)
        self.tdp_mmu_scheduled_root_to_zap = Cell(m, f"{name}.scheduled", False)

    def init(self, role: Role, gfn: int, ptep: Spte | None) -> None:
        """tdp_mmu_init_sp()."""
        self.role = role
        self.gfn = gfn
        self.ptep = ptep
        self.is_mirror = role.is_mirror

    def children(self, kvm: Kvm) -> list[int]:
        """PFNs of the tables that its entries point to; in the current event."""
        if self.role.level == 1:
            return []
        values = [self.spt.word(i).peek() for i in range(kvm.geometry.entries)]
        present = [v for v in values if v >> 11 & 1 and not v >> 7 & 1]  # tables, no leafs
        return [(v & (1 << 52) - 1) >> 12 for v in present]

    def __repr__(self) -> str:
        return f"<sp {self.name} l{self.role.level} gfn {self.gfn:x}>"


class KvmTdx:
    """``struct kvm_tdx`` (facts 5.1).  ``tdr`` and ``tdcs_pages`` are PFNs.

    Of older designs: ``nr_premapped`` (6.16), ``seamcall_lock`` and ``tdh_mem_track``
    (2022; facts 6.11).  Ours: ``host_lp``, an LP that runs no vCPU; ``injection``, which
    SEAMCALLs may fail (`septum.kvm.seamcall.Injection`).
    """

    def __init__(self, m: Machine, hkid: int = 1, tdr: int = 0) -> None:
        self.state = Word(m, "kvm_tdx.state", TD_STATE_UNINITIALIZED)
        self.hkid = Word(m, "kvm_tdx.hkid", hkid)
        self.page_add_src = Cell(m, "kvm_tdx.page_add_src", None)
        self.wait_for_sept_zap = Word(m, "kvm_tdx.wait_for_sept_zap", False)
        self.tdr = tdr
        self.tdcs_pages: tuple[int, ...] = ()
        self.nr_premapped = Word(m, "kvm_tdx.nr_premapped", 0)
        self.seamcall_lock = SpinLock(m, "seamcall_lock", order=40)
        self.tdh_mem_track = Word(m, "kvm_tdx.tdh_mem_track", 0)
        self.host_lp = 0
        self.injection: Any = None


class VcpuTdx:
    """``struct vcpu_tdx`` (facts 5.1).  ``tdvpr`` and ``tdcx_pages`` are PFNs."""

    def __init__(self, m: Machine, vcpu_id: int, tdvpr: int = 0) -> None:
        self.state = Word(m, f"vcpu{vcpu_id}.td_state", VCPU_TD_STATE_UNINITIALIZED)
        self.exit_gpa = Cell(m, f"vcpu{vcpu_id}.exit_gpa", 0)
        self.ext_exit_qualification = Cell(m, f"vcpu{vcpu_id}.ext_exit_qualification", 0)
        self.exit_qualification = Cell(m, f"vcpu{vcpu_id}.exit_qualification", 0)
        self.vp_enter_ret = Cell(m, f"vcpu{vcpu_id}.vp_enter_ret", 0)
        self.tdvpr = tdvpr
        self.tdcx_pages: tuple[int, ...] = ()


class Kvm:
    """``struct kvm`` with ``struct kvm_arch``.

    :param module: the TDX Module, None for an ordinary VM or a scripted hook.
    :param functions: name -> function, from a design (`septum.designs`).
    :param prove_mmu: CONFIG_KVM_PROVE_MMU: fewer zap passes.  Its warnings are always on.
    :param yields: how often ``tdp_mmu_iter_cond_resched`` may find a reschedule due, per
        task; each is a choice.
    :param max_level: largest page that the memory behind the memslots has.
    """

    def __init__(
        self,
        m: Machine,
        geometry: Geometry,
        functions: Mapping[str, Callable[..., Any]],
        *,
        module: Any = None,
        vm_type: int = KVM_X86_TDX_VM,
        slots: tuple[SlotSpec, ...] = (),
        private: bool = True,
        prove_mmu: bool = False,
        yields: int = 0,
        max_level: int = 1,
        features: Features = Features(),  # noqa: B008 (immutable)
    ) -> None:
        self.m = m
        self.geometry = geometry
        self.features = features
        self.fn: Any = Functions(functions)
        self.module = module
        self.vm_type = vm_type
        self.prove_mmu = prove_mmu
        self.yields = yields
        self.pages_per_hpage = tuple(
            geometry.pages_per_level(max(level, 1)) for level in range(geometry.levels + 2)
        )
        self.max_hugepage_level = min(3, geometry.levels - 1)  # KVM_MAX_HUGEPAGE_LEVEL
        self.host = Host(m, geometry)
        self.host.gmem.folio_level = max_level

        self.lock = Mutex(m, "kvm->lock", order=1)
        self.slots_lock = Mutex(m, "slots_lock", order=10)
        self.slots_arch_lock = Mutex(m, "slots_arch_lock", order=12)
        self.mn_invalidate_lock = SpinLock(m, "mn_invalidate_lock", order=18)
        self.mmu_lock = RWLock(m, "mmu_lock", order=20)
        self.tdp_mmu_pages_lock = SpinLock(m, "tdp_mmu_pages_lock", order=30)
        self.rcu = RCU(m)
        self.srcu = SRCU(m, "kvm->srcu")

        self.vm_bugged = Word(m, "vm_bugged", False)
        self.vm_dead = Word(m, "vm_dead", False)
        self.mmu_invalidate_seq = Word(m, "mmu_invalidate_seq", 0)
        self.mmu_invalidate_in_progress = Word(m, "mmu_invalidate_in_progress", 0)
        # The one merged range (start, end); INVALID is None (facts 4.7).
        self.mmu_invalidate_range = Word(m, "mmu_invalidate_range", None)

        self.stat_pages = tuple(Word(m, f"stat.pages[{i}]", 0) for i in range(3))
        self.pre_fault_allowed = Word(m, "pre_fault_allowed", vm_type != KVM_X86_TDX_VM)
        self.tdp_mmu_pages = Word(m, "tdp_mmu_pages", 0)
        self.tdp_mmu_roots = Word(m, "tdp_mmu_roots", ())  # PFNs of the roots' tables
        self.has_mirrored_tdp = vm_type == KVM_X86_TDX_VM
        self.gfn_direct_bits = geometry.shared_gfn if self.has_mirrored_tdp else 0
        self.shadow_mmio_value = 0 if self.has_mirrored_tdp else 0x6
        # users_count, by whose file reference it is: vm, vcpu<n>, gmem<n>.
        self.users = Word(m, "users", frozenset())
        self.memslots_generation = Word(m, "memslots_generation", 0)
        # possible_nx_huge_pages[KVM_TDP_MMU]: PFNs of the tables listed, in order, and
        # nr_pages; with nx_lpage_splits under tdp_mmu_pages_lock.
        self.possible_nx_huge_pages = Cell(m, "possible_nx_huge_pages", ())
        self.nx_nr_pages = Word(m, "possible_nx_huge_pages.nr_pages", 0)
        self.nx_lpage_splits = Cell(m, "stat.nx_lpage_splits", 0)
        self._gfn_write_track: dict[int, Word] = {}

        self.mn_active_invalidate_count = Word(m, "mn_active_invalidate_count", 0)
        self.gmem_files: tuple[GmemFile, ...]
        self._slot_arch: dict[int, SlotArch] = {}
        # The active set, sorted by GFN: readers hold SRCU or slots_lock.
        self.memslots = Word(m, "memslots", self._initial_slots(slots, max_level))
        attribute = KVM_MEMORY_ATTRIBUTE_PRIVATE if private and self.has_mirrored_tdp else 0
        self._mem_attr_array: dict[int, Word] = {}
        self._initial_attributes = attribute

        self.users.init(frozenset({"vm"}) | {file.user for file in self.gmem_files})
        self.vcpus: tuple[Vcpu, ...] = ()
        self._cpus: dict[int, Cpu] = {}
        self.tdx = KvmTdx(m)
        # Tables by PFN.  Entries of earlier executions are never reachable: a PFN comes
        # from a deterministic arena, so whoever sees it has made it again.
        self.mmu_pages: dict[int, KvmMmuPage] = {}
        self.recorder: list[tuple[str, int, dict[str, Any]]] | None = None

    def _initial_slots(
        self, specs: tuple[SlotSpec, ...], max_level: int
    ) -> tuple[KvmMemorySlot, ...]:
        """The slots a VM begins with, bound to their guest_memfd files."""
        files = 1 + max((spec[2] if len(spec) > 2 else 0 for spec in specs), default=-1)
        size = max((spec[0] + spec[1] for spec in specs), default=0)
        self.gmem_files = tuple(
            GmemFile(self.m, n, self.host.gmem_file(n), size) for n in range(files)
        )
        slots = []
        for number, (base, npages, *rest) in enumerate(specs):
            gmem = rest[0] if rest else 0
            flags = KVM_MEM_GUEST_MEMFD if gmem >= 0 else 0
            arch = self.slot_arch(number, max_level)
            slot = KvmMemorySlot(number, base, npages, flags, base, base, arch=arch)
            if gmem >= 0:
                file = self.gmem_files[gmem]
                file.bindings.set((*file.bindings.v, (base, base + npages, slot)))
                arch.gmem_file.init(file)
            slots.append(slot)
        return tuple(sorted(slots, key=lambda slot: slot.base_gfn))

    def slot_arch(self, number: int, max_level: int = 1) -> SlotArch:
        """What the copies of slot ``number`` share."""
        arch = self._slot_arch.get(number)
        if arch is None:
            arch = self._slot_arch[number] = SlotArch(self.m, f"slot{number}", max_level)
        return arch

    @property
    def slots(self) -> tuple[KvmMemorySlot, ...]:
        """The active set, read in the current event: under slots_lock, or to judge."""
        slots: tuple[KvmMemorySlot, ...] = self.memslots.peek()
        return slots

    def add_vcpu(self) -> Vcpu:
        """KVM_CREATE_VCPU."""
        vcpu = Vcpu(self, len(self.vcpus))
        self.vcpus = (*self.vcpus, vcpu)
        self.cpu(vcpu.id).curr.set(vcpu.id)
        self.users.set(self.users.v | {vcpu.name})
        return vcpu

    def cpu(self, number: int) -> Cpu:
        """The logical processor; the first ones run the vCPU of the same number."""
        cpu = self._cpus.get(number)
        if cpu is None:
            cpu = self._cpus[number] = Cpu(self.m, number)
        return cpu

    def mem_attr(self, gfn: int) -> Word:
        """The entry of ``mem_attr_array``: written under slots_lock, read without."""
        word = self._mem_attr_array.get(gfn)
        if word is None:
            word = Word(self.m, f"attr[{gfn:x}]", self._initial_attributes)
            self._mem_attr_array[gfn] = word
        return word

    def gfn_write_track(self, gfn: int) -> Word:
        """``slot->arch.gfn_write_track[]``: written under mmu_lock held for write."""
        word = self._gfn_write_track.get(gfn)
        if word is None:
            word = self._gfn_write_track[gfn] = Word(self.m, f"write_track[{gfn:x}]", 0)
        return word

    def trace(self, name: str, /, **fields: Any) -> None:
        """Hit a tracepoint: part of the current event, in program order."""
        m = self.m
        if m.listeners:
            m.emit("trace", name, fields)
        if self.recorder is not None:
            self.recorder.append((name, m.current.id, fields))


class Vcpu:
    """``struct kvm_vcpu``.

    ``cpu`` is the CPU it is loaded on (-1: none); ``ipi`` is that CPU's interrupt state
    (`septum.kvm.x86`).  The roots are physical addresses as in
    ``struct kvm_mmu``, or INVALID_PAGE; only the vCPU's own thread touches them.
    """

    def __init__(self, kvm: Kvm, vcpu_id: int) -> None:
        m = kvm.m
        name = f"vcpu{vcpu_id}"
        self.kvm = kvm
        self.m = m
        self.id = vcpu_id
        self.name = name
        self.mutex = Mutex(m, f"{name}.mutex", order=5)
        self.mode = Word(m, f"{name}.mode", OUTSIDE_GUEST_MODE)
        self.requests = Word(m, f"{name}.requests", 0)
        self.ipi = Word(m, f"{name}.ipi", 0)
        self.cpu = Word(m, f"{name}.cpu", vcpu_id)
        # Where the scheduler has its thread; ``cpu`` follows in kvm_arch_vcpu_load().
        self.thread_cpu = Cell(m, f"{name}.thread_cpu", vcpu_id)
        # What the guest asked userspace for: MapGPA's GFN, None if nothing.
        self.hypercall = Cell(m, f"{name}.hypercall", None)
        self.signal_pending = Cell(m, f"{name}.signal_pending", False)
        self.root_hpa = Cell(m, f"{name}.root_hpa", INVALID_PAGE)
        self.mirror_root_hpa = Cell(m, f"{name}.mirror_root_hpa", INVALID_PAGE)
        self.smm = Cell(m, f"{name}.smm", False)
        self.srcu_idx = Cell(m, f"{name}.srcu_idx", 0)
        # GPA page and memslots generation of the last MMIO access (vcpu_cache_mmio_info()).
        self.mmio_cache = Cell(m, f"{name}.mmio_cache", None)
        self.pml = Cell(m, f"{name}.pml", ())  # the CPU's PML buffer: GFNs
        self.exit = Cell(m, f"{name}.exit", None)  # how VMX left the guest
        self.guest = Guest(m, name)
        self.tdx = VcpuTdx(m, vcpu_id)
