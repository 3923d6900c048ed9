# SPDX-License-Identifier: GPL-2.0-only
"""A VM with scripted hooks, and what it did as one list of short lines.

``S name[i] old->new`` is a store to an SPTE, ``H gfn old->new lN =ret mem`` a call of
set_external_spte with what memory held meanwhile, ``F name`` one of free_external_spt, ``T
...`` a tracepoint, ``X pages +1`` a counter, ``P pfn`` a page given back, ``TLB`` a flush.
"""

from __future__ import annotations

from typing import Any

from septum.designs import lookup
from septum.kvm.ret_pf import PFERR_PRIVATE_ACCESS, PFERR_WRITE_MASK
from septum.kvm.spte import FROZEN_SPTE, SHADOW_NONPRESENT_VALUE, is_last_spte, spte_to_pfn
from septum.kvm.structs import Kvm, KvmMmuPage
from septum.machine import Machine
from septum.machine.geometry import Geometry

SMALL = Geometry(bits=2, levels=3)  # 16 gfns per level-3 entry, 4 per level-2 entry


class Rig:
    def __init__(
        self,
        design: str = "v7.3",
        geometry: Geometry = SMALL,
        vcpus: int = 1,
        slots: tuple[tuple[int, ...], ...] = ((0, 16),),
        **options: Any,
    ) -> None:
        self.m = Machine()
        functions = lookup(design).functions
        functions["set_external_spte"] = self._set_external_spte
        functions["free_external_spt"] = self._free_external_spt
        functions["kvm_flush_remote_tlbs"] = lambda kvm: self.log.append("TLB")
        functions["kvm_update_page_stats"] = self._stats(functions["kvm_update_page_stats"])
        self.kvm = Kvm(self.m, geometry, functions, slots=slots, **options)
        self.fn = self.kvm.fn
        self.log: list[str] = []
        self.script: list[int] = []
        for _ in range(vcpus):
            vcpu = self.kvm.add_vcpu()
            self.fn.kvm_mmu_reload(vcpu)
        self.vcpu = self.kvm.vcpus[0]
        self.m.listeners.append(self._on)

    @property
    def mirror(self) -> KvmMmuPage:
        return self.kvm.mmu_pages[self.vcpu.mirror_root_hpa.v >> 12]

    @property
    def direct(self) -> KvmMmuPage:
        return self.kvm.mmu_pages[self.vcpu.root_hpa.v >> 12]

    @property
    def rules(self) -> list[str]:
        return [f.rule for f in self.m.findings]

    @property
    def counters(self) -> tuple[int, int, int, int]:
        stats = tuple(word.v for word in self.kvm.stat_pages)
        return (*stats, self.kvm.tdp_mmu_pages.v)

    def fault(self, gfn: int, shared: bool = False) -> int:
        gpa = gfn << 12 | (self.kvm.geometry.shared_gpa if shared else 0)
        error = PFERR_WRITE_MASK | (0 if shared else PFERR_PRIVATE_ACCESS)
        r: int = self.fn.kvm_mmu_page_fault(self.vcpu, gpa, error)
        return r

    def show(self, value: int, level: int) -> str:
        if value == SHADOW_NONPRESENT_VALUE:
            return "-"
        if value == FROZEN_SPTE:
            return "FROZEN"
        if is_last_spte(value, level):
            return f"L{spte_to_pfn(value) & 0xFFF:x}"
        return self.kvm.mmu_pages[spte_to_pfn(value)].name

    def take(self) -> list[str]:
        log = self.log[:]
        self.log.clear()
        return log

    # --- what is recorded ------------------------------------------------------------

    def _on(self, what: str, args: tuple[Any, ...]) -> None:
        if what == "spte":
            word, old, new = args
            level = word.page.owner.role.level
            self.last = (word, level)
            self.log.append(f"S {word.name} {self.show(old, level)}->{self.show(new, level)}")
        elif what == "page_freed":
            self.log.append(f"P {args[0]:x}")
        elif what == "trace":
            self._trace(*args)

    def _trace(self, name: str, fields: dict[str, Any]) -> None:
        if name == "kvm_tdp_mmu_spte_changed":
            level = fields["level"]
            change = "->".join(self.show(fields[k], level) for k in ("old_spte", "new_spte"))
            self.log.append(f"T changed {fields['gfn']:x} l{level} {change}")
        else:
            gfn = fields.get("gfn", fields.get("start"))
            self.log.append(f"T {name.removeprefix('kvm_mmu_')} {gfn:x}")

    def _set_external_spte(
        self, kvm: Kvm, gfn: int, old_spte: int, new_spte: int, level: int
    ) -> int:
        ret = self.script.pop(0) if self.script else 0
        word, _ = self.last
        change = f"{self.show(old_spte, level)}->{self.show(new_spte, level)}"
        self.log.append(f"H {gfn:x} {change} l{level} ={ret} {self.show(word.v, level)}")
        return ret

    def _free_external_spt(self, kvm: Kvm, sp: KvmMmuPage) -> None:
        self.log.append(f"F {sp.name}")
        kvm.host.free_page(sp.external_spt.v)
        sp.external_spt.set(0)

    def _stats(self, regular: Any) -> Any:
        def kvm_update_page_stats(kvm: Kvm, level: int, count: int) -> None:
            self.log.append(f"X l{level} {count:+d}")
            regular(kvm, level, count)

        return kvm_update_page_stats
