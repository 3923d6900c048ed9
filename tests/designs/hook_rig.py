# SPDX-License-Identifier: GPL-2.0-only
"""A VM of any design with scripted hooks, and what it did to the mirror as short words.

``S1 .>F``: a store to a level-1 SPTE, empty to FROZEN (``L`` leaf, ``T`` table).
``TR1 .>L``: its trace line.  ``STAT1 +1``: page statistics.  ``set(.>L)@F``: the hook that
propagates, what it is told, and what memory holds meanwhile.  ``zap_page``: the trace line of a
removed table.  ``free(spt)``, ``reclaim(sp)``: the hook for its S-EPT page.  ``page``: a page is
given back to the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from septum.designs import lookup
from septum.kvm.operations import OPERATIONS
from septum.kvm.ret_pf import PFERR_PRIVATE_ACCESS, PFERR_WRITE_MASK
from septum.kvm.spte import (
    FROZEN_SPTE,
    SHADOW_NONPRESENT_VALUE,
    SPTE_MMU_PRESENT_MASK,
    is_last_spte,
)
from septum.kvm.structs import Kvm, KvmMmuPage, Spte
from septum.kvm.tdp_iter import TdpIter
from septum.machine import Machine
from septum.machine.geometry import Geometry

TINY = Geometry(bits=1, levels=3)  # 2 entries per table


def show(value: int, level: int) -> str:
    if value == SHADOW_NONPRESENT_VALUE:
        return "."
    if value == FROZEN_SPTE:
        return "F"
    assert value & SPTE_MMU_PRESENT_MASK
    return "L" if is_last_spte(value, level) else "T"


class Rig:
    def __init__(self, design: str, max_level: int = 1) -> None:
        self.m = Machine()
        self.log: list[str] = []
        self.script: list[int] = []
        self.stored: Spte | None = None
        functions = lookup(design).functions
        functions["gmem_max_mapping_level"] = lambda kvm, pfn, is_private: max_level
        functions["kvm_flush_remote_tlbs"] = lambda kvm: None
        functions["kvm_update_page_stats"] = self._stats(functions["kvm_update_page_stats"])
        for name, hook in self._hooks(design).items():
            if name in functions:
                functions[name] = hook
        self.kvm = Kvm(self.m, TINY, functions, slots=((0, 4),), max_level=max_level)
        self.vcpu = self.kvm.add_vcpu()
        self.kvm.fn.kvm_mmu_reload(self.vcpu)
        self.m.listeners.append(self._on)

    # --- driving ---------------------------------------------------------------------

    @property
    def root(self) -> KvmMmuPage:
        return self.kvm.mmu_pages[self.vcpu.mirror_root_hpa.v >> 12]

    @property
    def rules(self) -> list[str]:
        return [f.rule for f in self.m.findings]

    @property
    def stat(self) -> tuple[int, ...]:
        return tuple(word.v for word in self.kvm.stat_pages)

    def fault(self, gfn: int) -> int:
        error = PFERR_WRITE_MASK | PFERR_PRIVATE_ACCESS
        return int(self.kvm.fn.kvm_mmu_page_fault(self.vcpu, gfn << 12, error))

    def iter(self, gfn: int, level: int) -> TdpIter:
        """An iterator that has just read the entry of ``gfn`` at ``level``."""
        iter = TdpIter(self.kvm, self.root, level, gfn, 0)
        while iter.level != level:
            iter.next()
        return iter

    def set_atomic(self, iter: TdpIter, new_spte: int) -> int:
        self.kvm.mmu_lock.read_lock()
        ret = int(self.kvm.fn.tdp_mmu_set_spte_atomic(self.kvm, iter, new_spte))
        self.kvm.mmu_lock.read_unlock()
        return ret

    def operate(self, name: str, *args: Any, **more: Any) -> None:
        OPERATIONS[name](self.kvm, *args, **more)

    def take(self, level: int = 0) -> str:
        """What happened since (at one level, if given), as one line."""
        words = [w for w in self.log if not level or f"{level} " in w or f"{level}:" in w]
        self.log.clear()
        return "; ".join(w.partition(":")[2] or w for w in words)

    # --- recording -------------------------------------------------------------------

    def _on(self, what: str, args: tuple[Any, ...]) -> None:
        if what == "spte":
            word, old, new = args
            level = word.page.owner.role.level
            self.stored = word
            self.log.append(f"S{level} {show(old, level)}>{show(new, level)}")
        elif what == "page_freed":
            self.log.append("page")
        elif what == "trace":
            name, fields = args
            if name == "kvm_tdp_mmu_spte_changed":
                level = fields["level"]
                old, new = (show(fields[k], level) for k in ("old_spte", "new_spte"))
                self.log.append(f"TR{level} {old}>{new}")
            elif name == "kvm_mmu_prepare_zap_page":
                self.log.append("zap_page")

    def _hook(self, level: int, text: str) -> int:
        """Levels go in front, for `take`; the result comes from the script."""
        assert self.stored is not None
        at = show(self.stored.v, self.stored.page.owner.role.level)
        self.log.append(f"{level}:{text}@{at}")
        return self.script.pop(0) if self.script else 0

    def _hooks(self, design: str) -> dict[str, Callable[..., Any]]:
        def set_by_change(
            kvm: Kvm, gfn: int, old: int, new: int, level: int, shared: bool | None = None
        ) -> int:
            more = "" if shared is None else f", {shared}"
            return self._hook(level, f"set({show(old, level)}>{show(new, level)}{more})")

        def set_by_new(kvm: Kvm, gfn: int, level: int, new: int) -> int:
            text = "pfn" if design == "v6.16" else show(new, level)
            return self._hook(level, f"set({text})")

        def remove(kvm: Kvm, gfn: int, level: int, old: int) -> int:
            text = "pfn" if design == "v6.16" else show(old, level)
            return self._hook(level, f"remove({text})")

        def changed(kvm: Kvm, change: Any) -> None:
            level = change.level
            values = f"{show(change.old_spte, level)}>{show(change.new_spte, level)}"
            self._hook(level, f"changed({values})")

        def free_by_page(kvm: Kvm, gfn: int, level: int, spt: int) -> int:
            self.log.append("free(spt)")
            return self.script.pop(0) if self.script else 0

        def free_by_sp(text: str, free: bool) -> Callable[..., None]:
            def hook(kvm: Kvm, *args: Any) -> None:
                self.log.append(text)
                if free:
                    kvm.host.free_page(args[-1].external_spt.v)
                    args[-1].external_spt.set(0)

            return hook

        old_hooks = design.startswith(("v6.16", "rfc-v5-08"))
        return {
            "link_external_spt": lambda kvm, gfn, level, spt: self._hook(level, "link(spt)"),
            "set_external_spte": set_by_new if old_hooks else set_by_change,
            "remove_external_spte": remove,
            "handle_changed_private_spte": changed,
            "free_private_spt": free_by_page,
            "free_external_spt": free_by_page if old_hooks else free_by_sp("free(sp)", True),
            "reclaim_external_sp": free_by_sp("reclaim(sp)", False),
            "reclaim_external_spt": free_by_sp("reclaim(sp)", True),
        }

    def _stats(self, regular: Callable[..., None]) -> Callable[..., None]:
        def kvm_update_page_stats(kvm: Kvm, level: int, count: int) -> None:
            self.log.append(f"STAT{level} {count:+d}")
            regular(kvm, level, count)

        return kvm_update_page_stats
