# SPDX-License-Identifier: GPL-2.0-only
"""``+hugepage`` (D8a): private huge pages on top of ``v7.3`` (facts 6.1, 6.6).

The end of RFC v5 (patches 33, 37 to 45) as its authors mended it on the list, on the merged
protocol.  A toggle, because it goes on any base whose hook is given the old SPTE; the design
is ``v7.3+hugepage``.

* 2M leafs: only once the TD runs, where guest_memfd has a whole folio, and where
  ``lpage_info`` does not forbid it: mixed attributes, or the guest's wish (below).  Off if a
  pending interrupt may end PAGE.DEMOTE (no ENHANCED_DEMOTE_INTERRUPTIBILITY in the module).
  A table is never merged into a huge leaf again.
* Split, under mmu_lock held for write: the MMU stores the non-leaf SPTE, the hook does BLOCK,
  TRACK and PAGE.DEMOTE, with the page that was allocated for the child as S-EPT page.  An error
  is TDX_BUG_ON: the VM is lost.
* Who splits: a hole punched into guest_memfd and a conversion to shared, the huge pages that
  reach over the ends of the range; and an EPT violation of a guest that ACCEPTs at a
  lower level than KVM mapped.  That one then forbids huge pages there, for ever.

The posting splits in the punch-hole path *after* the zap, "for demonstration purposes" (43/45);
here it comes before, between the begin of the invalidation and the zap, as in the series of
6 January 2026 and as the hook's name, pre-zap, says.  Dynamic PAMT is not modelled.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from septum.designs import feb06
from septum.designs.registry import DesignError, Toggle
from septum.designs.toggles import Hunk, patch
from septum.kvm.bug import lockdep_assert_held_write
from septum.kvm.mmu import KvmPageFault
from septum.kvm.roots import (
    KVM_FILTER_PRIVATE,
    KVM_MIRROR_ROOTS,
    for_each_tdp_mmu_root_yield_safe,
)
from septum.kvm.slot_structs import GmemFile
from septum.kvm.spte import (
    PG_LEVEL_2M,
    PG_LEVEL_4K,
    is_large_pte,
    is_shadow_present_pte,
)
from septum.kvm.structs import (
    TD_STATE_RUNNABLE,
    Kvm,
    KvmMemorySlot,
    Vcpu,
)
from septum.kvm.tdp_iter import TdpIter
from septum.kvm.zap import KvmGfnRange

__all__ = ["TOGGLES"]

Function = Callable[..., Any]

TDX_EXT_EXIT_QUAL_TYPE_MASK: Final = 0xF
TDX_EXT_EXIT_QUAL_TYPE_ACCEPT: Final = 1
TDX_EXT_EXIT_QUAL_INFO_SHIFT: Final = 32


# --- how large may a page be? -----------------------------------------------------------


def gmem_max_mapping_level(kvm: Kvm, pfn: int, is_private: bool) -> int:
    """tdx_gmem_max_mapping_level() of 45/45.  0 is no limit."""
    if not is_private:
        return 0
    # enable_tdx_huge_page: cleared if the module may interrupt PAGE.DEMOTE.
    if kvm.module.profile.demote_interruptible:
        return PG_LEVEL_4K
    if kvm.tdx.state.read() != TD_STATE_RUNNABLE:
        return PG_LEVEL_4K
    return PG_LEVEL_2M


def hugepage_test_guest_inhibit(kvm: Kvm, slot: KvmMemorySlot, gfn: int, level: int) -> bool:
    return bool(slot.arch.guest_inhibit(gfn & -kvm.pages_per_hpage[level], level).read())


def hugepage_set_guest_inhibit(kvm: Kvm, slot: KvmMemorySlot, gfn: int, level: int) -> None:
    """Never cleared."""
    slot.arch.guest_inhibit(gfn & -kvm.pages_per_hpage[level], level).write(True)


def disallow_merge(kvm: Kvm, fault: KvmPageFault, iter: TdpIter) -> None:
    """disallowed_hugepage_adjust() for mirror roots: a table that is there stays."""
    level = iter.level
    if (
        level > PG_LEVEL_4K
        and level == fault.goal_level
        and is_shadow_present_pte(iter.old_spte)
        and not is_large_pte(iter.old_spte)
    ):
        kvm.m.reach("a fault would have merged a table")
        pages, smaller = kvm.pages_per_hpage[level], kvm.pages_per_hpage[level - 1]
        fault.pfn |= fault.gfn & (pages - smaller)
        fault.goal_level -= 1


# --- who splits ---------------------------------------------------------------------------


def kvm_tdp_mmu_mirrors_split_huge_pages(kvm: Kvm, start: int, end: int, target_level: int) -> int:
    """0 or -ENOMEM.  mmu_lock is held for write, and dropped to allocate."""
    lockdep_assert_held_write(kvm.mmu_lock, "kvm_tdp_mmu_mirrors_split_huge_pages")
    for root in for_each_tdp_mmu_root_yield_safe(kvm, KVM_MIRROR_ROOTS):
        r: int = kvm.fn.tdp_mmu_split_huge_pages_root(kvm, root, start, end, target_level, False)
        if r:
            kvm.fn.kvm_tdp_mmu_put_root(kvm, root)
            return r
    return 0


def tdx_sept_split_huge_pages(kvm: Kvm, start: int, end: int, target_level: int) -> int:
    """Only the huge pages at head and tail that reach over the range."""
    pages = kvm.pages_per_hpage[target_level + 1]
    head, tail = start & -pages, end & -pages
    split = kvm.fn.kvm_tdp_mmu_mirrors_split_huge_pages
    if head != start:
        r: int = split(kvm, head, head + pages, target_level)
        if r:
            return r
    if tail != end and (head != tail or head == start):
        return int(split(kvm, tail, tail + pages, target_level))
    return 0


def kvm_gmem_split_private(kvm: Kvm, file: GmemFile, start: int, end: int) -> int:
    """Before part of a huge page is taken away.  0 or -ENOMEM."""
    r = 0
    kvm.mmu_lock.write_lock()
    for first, last, slot in file.bound(start, end):
        offset = slot.base_gfn - slot.pgoff
        r = r or kvm.fn.tdx_sept_split_huge_pages(kvm, first + offset, last + offset, PG_LEVEL_4K)
    kvm.mmu_lock.write_unlock()
    return r


def kvm_gmem_invalidate_start(kvm: Kvm, file: GmemFile, start: int, end: int) -> None:
    """Start and range_add, without the zap."""
    fn = kvm.fn
    kvm.mmu_lock.write_lock()
    fn.kvm_mmu_invalidate_start(kvm)
    for first, last, slot in file.bound(start, end):
        offset = slot.base_gfn - slot.pgoff
        fn.kvm_mmu_invalidate_range_add(kvm, first + offset, last + offset)
    kvm.mmu_lock.write_unlock()


def kvm_gmem_zap(kvm: Kvm, file: GmemFile, start: int, end: int) -> None:
    """The zap that the base does in kvm_gmem_invalidate_start()."""
    flush = False
    kvm.mmu_lock.write_lock()
    for first, last, slot in file.bound(start, end):
        offset = slot.base_gfn - slot.pgoff
        range_ = KvmGfnRange(slot, first + offset, last + offset, KVM_FILTER_PRIVATE)
        flush |= kvm.fn.kvm_unmap_gfn_range(kvm, range_)
    if flush:
        kvm.fn.kvm_flush_remote_tlbs(kvm)
    kvm.mmu_lock.write_unlock()


def kvm_gmem_punch_hole(kvm: Kvm, file: GmemFile, start: int, end: int) -> int:
    """Start, split, zap, give the pages back, end.  0 or the split's error."""
    fn = kvm.fn
    r = 0
    file.invalidate_lock.lock()
    if file.bound(start, end):
        fn.kvm_gmem_invalidate_start(kvm, file, start, end)
        r = fn.kvm_gmem_split_private(kvm, file, start, end)
        if not r:
            fn.kvm_gmem_zap(kvm, file, start, end)
    if not r:
        fn.truncate_inode_pages_range(kvm, file, start, end)
    fn.kvm_gmem_invalidate_end(kvm, file, start, end)
    file.invalidate_lock.unlock()
    if r:
        kvm.m.reach("no memory for a split: the hole was not punched")
    return r


def kvm_gmem_release(kvm: Kvm, file: GmemFile) -> None:
    """All of it goes: nothing to split."""
    fn = kvm.fn
    kvm.slots_lock.lock()
    file.invalidate_lock.lock()
    for _, _, slot in file.bound(0, file.size):
        slot.arch.gmem_file.write(None)
    if file.bound(0, file.size):
        fn.kvm_gmem_invalidate_start(kvm, file, 0, file.size)
        fn.kvm_gmem_zap(kvm, file, 0, file.size)
    fn.kvm_gmem_invalidate_end(kvm, file, 0, file.size)
    file.invalidate_lock.unlock()
    kvm.slots_lock.unlock()
    file.bindings.poke(())


def tdx_honor_guest_accept_level(vcpu: Vcpu, gfn: int) -> int:
    """The guest ACCEPTs at a level: no larger page from now on.  0 or the split's error."""
    kvm = vcpu.kvm
    fn = kvm.fn
    slot = fn.kvm_vcpu_gfn_to_memslot(vcpu, gfn)
    qualification = vcpu.tdx.ext_exit_qualification.v
    accept = qualification & TDX_EXT_EXIT_QUAL_TYPE_MASK == TDX_EXT_EXIT_QUAL_TYPE_ACCEPT
    if slot is None or not accept:
        return 0
    level = (qualification >> TDX_EXT_EXIT_QUAL_INFO_SHIFT & 7) + 1
    if level > PG_LEVEL_2M or level + 1 > kvm.geometry.levels - 1:
        return 0
    if fn.hugepage_test_guest_inhibit(kvm, slot, gfn, level + 1):
        return 0
    kvm.m.reach("an ACCEPT at a lower level inhibited huge pages")
    start = gfn & -kvm.pages_per_hpage[level]
    kvm.mmu_lock.write_lock()
    r: int = fn.tdx_sept_split_huge_pages(kvm, start, start + kvm.pages_per_hpage[level], level)
    if not r:
        for above in range(level + 1, min(3, kvm.geometry.levels - 1) + 1):
            fn.hugepage_set_guest_inhibit(kvm, slot, gfn, above)
    kvm.mmu_lock.write_unlock()
    return r


# --- hunks ------------------------------------------------------------------------------------

_HUNKS: Final[tuple[Hunk, ...]] = (
    (
        "kvm_mmu_max_mapping_level",
        (
            (
                "        if inside and not kvm.fn.hugepage_test_mixed(slot, start, level):\n"
                "            break\n",
                "        if inside and not kvm.fn.hugepage_test_mixed(slot, start, level):\n"
                "            if not kvm.fn.hugepage_test_guest_inhibit(kvm, slot, start, level):\n"
                "                break\n",
            ),
        ),
    ),
    # If the split fails, kvm_vm_set_mem_attributes() of the posting leaves at once: the end of
    # the invalidation, which belongs to the second pass, is never reached.
    (
        "kvm_vm_set_mem_attributes",
        (
            (
                "        fn.kvm_pre_set_memory_attributes(kvm, start, end, attributes)\n",
                "        r = fn.kvm_pre_set_memory_attributes(kvm, start, end, attributes)\n"
                "        if r:\n"
                "            kvm.slots_lock.unlock()\n"
                '            kvm.m.reach("no memory for a split: the attributes were not set")\n'
                "            return int(r)\n",
            ),
        ),
    ),
    (
        "kvm_pre_set_memory_attributes",
        (("attributes: int) -> None:", "attributes: int) -> int:"),),
    ),
    ("kvm_pre_set_memory_attributes", (("        return\n", "        return 0\n"),)),
    (
        "kvm_pre_set_memory_attributes",
        (
            (
                "        flush |= fn.kvm_arch_pre_set_memory_attributes("
                "kvm, slot, first, last, attributes)\n",
                "        ret = fn.kvm_arch_pre_set_memory_attributes("
                "kvm, slot, first, last, attributes)\n"
                "        if ret < 0:\n"
                "            break\n"
                "        flush |= bool(ret)\n",
            ),
        ),
    ),
    (
        "kvm_pre_set_memory_attributes",
        (
            (
                "    kvm.mmu_lock.write_unlock()\n",
                "    kvm.mmu_lock.write_unlock()\n    return min(int(ret), 0)\n",
            ),
        ),
    ),
    ("kvm_arch_pre_set_memory_attributes", (("-> bool:\n", "-> int:\n"),)),
    (
        "kvm_arch_pre_set_memory_attributes",
        (
            (
                "    return bool(fn.kvm_unmap_gfn_range(",
                "    if not to_private:\n"
                "        r = fn.tdx_sept_split_huge_pages(kvm, start, end, PG_LEVEL_2M - 1)\n"
                "        if r:\n"
                "            return int(r)\n"
                "    return bool(fn.kvm_unmap_gfn_range(",
            ),
        ),
    ),
    (
        "kvm_tdp_mmu_map",
        (
            (
                "        # Somebody else is changing the entry,",
                "        if is_mirror_sp(root):\n"
                "            kvm.fn.disallow_merge(kvm, fault, iter)\n"
                "        # Somebody else is changing the entry,",
            ),
        ),
    ),
    (
        "tdx_handle_ept_violation",
        (
            (
                "        exit_qual = EPT_VIOLATION_ACC_WRITE\n",
                "        exit_qual = EPT_VIOLATION_ACC_WRITE\n"
                "        ret = kvm.fn.tdx_honor_guest_accept_level(vcpu, gpa >> PAGE_SHIFT)\n"
                "        if ret:\n"
                "            return int(ret)\n",
            ),
        ),
    ),
    (
        "tdx_sept_map_leaf_spte",
        (
            (
                '    if KVM_BUG_ON(level != PG_LEVEL_4K, kvm, name, f"level {level}"):\n',
                "    building = level != PG_LEVEL_4K and (\n"
                "        kvm.tdx.state.read() != TD_STATE_RUNNABLE\n"
                "    )\n"
                '    if KVM_BUG_ON(building, kvm, name, f"level {level} while the TD is built"):\n',
            ),
        ),
    ),
    (
        "tdx_sept_remove_leaf_spte",
        (
            (
                '    if KVM_BUG_ON(level != PG_LEVEL_4K, kvm, name, f"level {level}"):\n'
                "        return -EIO\n",
                "",
            ),
        ),
    ),
    (
        "tdx_sept_remove_leaf_spte",
        (
            (
                "    result = kvm.fn.tdh_phymem_page_wbinvd_hkid("
                "kvm, kvm.tdx.hkid.v, spte_to_pfn(old_spte))\n"
                '    if TDX_BUG_ON(result, "TDH_PHYMEM_PAGE_WBINVD", kvm, name):\n'
                "        return -EIO\n",
                "    pfn = spte_to_pfn(old_spte)\n"
                "    for page in range(pfn, pfn + kvm.pages_per_hpage[level]):\n"
                "        result = kvm.fn.tdh_phymem_page_wbinvd_hkid(kvm, kvm.tdx.hkid.v, page)\n"
                '        if TDX_BUG_ON(result, "TDH_PHYMEM_PAGE_WBINVD", kvm, name):\n'
                "            return -EIO\n",
            ),
        ),
    ),
)

_WHOLE: Final[tuple[Function, ...]] = (
    disallow_merge,
    gmem_max_mapping_level,
    hugepage_set_guest_inhibit,
    hugepage_test_guest_inhibit,
    kvm_gmem_invalidate_start,
    kvm_gmem_punch_hole,
    kvm_gmem_release,
    kvm_gmem_split_private,
    kvm_gmem_zap,
    kvm_tdp_mmu_mirrors_split_huge_pages,
    tdx_honor_guest_accept_level,
    tdx_sept_split_huge_pages,
    # The split itself, with its allocation, as the branch of feb06 has it.
    feb06.tdh_mem_page_demote,
    feb06.tdp_mmu_alloc_sp_for_split,
    feb06.tdp_mmu_alloc_sp_unlocked,
    feb06.tdp_mmu_split_huge_pages_root,
    feb06.tdx_sept_set_private_spte,
    feb06.tdx_sept_split_private_spte,
)

# What ends findings H2 and H3 (docs/findings.md): suggestions of this project.
_HOLE_RANGE: Final[tuple[Hunk, ...]] = (
    (
        "kvm_gmem_invalidate_start",
        (
            (
                "        fn.kvm_mmu_invalidate_range_add(kvm, first + offset, last + offset)\n",
                "        pages = kvm.pages_per_hpage[PG_LEVEL_2M]\n"
                "        head, tail = (first + offset) & -pages, -(-(last + offset) & -pages)\n"
                "        fn.kvm_mmu_invalidate_range_add(kvm, head, tail)\n",
            ),
        ),
    ),
)
_CONVERT_END: Final[tuple[Hunk, ...]] = (
    (
        "kvm_vm_set_mem_attributes",
        (
            (
                "        if r:\n",
                "        if r:\n"
                "            kvm.mmu_lock.write_lock()\n"
                "            fn.kvm_mmu_invalidate_end(kvm)\n"
                "            kvm.mmu_lock.write_unlock()\n",
            ),
        ),
    ),
)


def _hugepage(base: Mapping[str, Function]) -> dict[str, Function]:
    setter = base.get("tdx_sept_set_private_spte")
    if setter is None or "old_spte" not in inspect.signature(setter).parameters:
        raise DesignError(
            "toggle 'hugepage' does not apply: the hook of the base is not given the old SPTE"
        )
    return {**{f.__name__: f for f in _WHOLE}, **patch("hugepage", _HUNKS, base)}


TOGGLES: Final = (
    Toggle(
        "hugepage",
        _hugepage,
        inspect.cleandoc(__doc__ or ""),
        capabilities=frozenset({"mirror-2m-leaf", "split-write"}),
    ),
    Toggle(
        "hole-range",
        partial(patch, "hole-range", _HOLE_RANGE),
        "A suggestion (docs/findings.md H2): a hole in guest_memfd adds the whole huge pages at "
        "its ends to the invalidation, as a conversion does.",
    ),
    Toggle(
        "convert-end",
        partial(patch, "convert-end", _CONVERT_END),
        "A suggestion (docs/findings.md H3): a conversion whose split fails ends its invalidation.",
    ),
)
