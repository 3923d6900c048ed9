# SPDX-License-Identifier: GPL-2.0-only
"""``void-callback`` (D0): the out-of-tree TDX of September 2022 (facts 6.1-6.6, 6.11).

The hook ``handle_changed_private_spte`` returns nothing.  Whatever TDX answers, the mirror
gets its new value, ``tdp_mmu_set_spte_atomic`` returns 0, and all that is left is KVM_BUG_ON
inside TDX: a BUSY on PAGE.AUG, or on PAGE.DEMOTE after BLOCK, leaves mirror and S-EPT apart.

Around it: one ``seamcall_lock`` per VM instead of retries; huge private pages, with split by
BLOCK, TRACK, DEMOTE, each made whatever the one before returned; page pins as in 6.16; a
removed table is taken out of the S-EPT with SEPT.REMOVE while the keys are still there; and
TRACK comes *after* the kick, which sends vCPUs into a loop until it is done
(``tdh_mem_track``).  A fault is one pass: retrying is the guest's business.

Not modelled: the parking of zapped leafs ("private zapped", RANGE.UNBLOCK), which was
optional.  A leaf that replaces a table is an ordinary install once the table's pages are
gone: the guest loses their contents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from errno import EBUSY, EIO
from typing import Any, Final

from septum.designs.feb06 import (
    __tdp_mmu_set_spte_atomic,
    tdh_mem_page_demote,
    tdp_mmu_alloc_sp_for_split,
    tdp_mmu_alloc_sp_unlocked,
    tdp_mmu_split_huge_pages_root,
)
from septum.designs.v6_16 import (
    freeze_removed_spte,
    kvm_tdp_mmu_age_spte,
    tdp_mmu_free_sp,
    tdp_mmu_free_sp_rcu_callback,
    tdp_mmu_free_unused_sp,
    tdp_mmu_iter_set_spte,
    tdx_unpin,
)
from septum.kvm.bug import BUG, WARN_ON, lockdep_assert_held_read, lockdep_assert_held_write
from septum.kvm.guest import flush_shared
from septum.kvm.ret_pf import RET_PF_RETRY, RET_PF_SPURIOUS
from septum.kvm.seamcall import TDX_BUG_ON
from septum.kvm.spte import (
    FROZEN_SPTE,
    check_spte_writable_invariants,
    is_frozen_spte,
    is_last_spte,
    is_mirror_sp,
    is_mirror_sptep,
    is_mmio_spte,
    is_shadow_present_pte,
    spte_to_child_sp,
    spte_to_pfn,
)
from septum.kvm.structs import KVM_REQ_TLB_FLUSH, TD_STATE_RUNNABLE, Kvm, PageTable, Spte, Vcpu
from septum.kvm.tdp_iter import TdpIter
from septum.kvm.tdx_sept import is_hkid_assigned
from septum.kvm.x86 import KVM_BUG_ON
from septum.machine.geometry import PAGE_SHIFT
from septum.tdx.leaves import TDH_MEM_SEPT_REMOVE

NAME: Final = "void-callback"
PREDECESSOR: Final = None
CAPABILITIES: Final = frozenset({"mirror", "mirror-2m-leaf", "split-write"})

ALSO: Final = (
    __tdp_mmu_set_spte_atomic,
    freeze_removed_spte,
    kvm_tdp_mmu_age_spte,
    tdh_mem_page_demote,
    tdp_mmu_alloc_sp_for_split,
    tdp_mmu_alloc_sp_unlocked,
    tdp_mmu_free_sp,
    tdp_mmu_free_sp_rcu_callback,
    tdp_mmu_free_unused_sp,
    tdp_mmu_iter_set_spte,
    tdp_mmu_split_huge_pages_root,
    tdx_unpin,
)


@dataclass(frozen=True, slots=True)
class KvmSpteChange:
    """``struct kvm_spte_change``: what the hook is told."""

    gfn: int
    level: int
    old_spte: int
    new_spte: int

    @property
    def new_is_leaf(self) -> bool:
        return is_shadow_present_pte(self.new_spte) and is_last_spte(self.new_spte, self.level)

    @property
    def old_is_leaf(self) -> bool:
        return is_shadow_present_pte(self.old_spte) and is_last_spte(self.old_spte, self.level)


# --- setting an SPTE --------------------------------------------------------------------


def tdp_mmu_set_spte_atomic(kvm: Kvm, iter: TdpIter, new_spte: int) -> int:
    """0 or -EBUSY (cmpxchg lost); never an error of the hook."""
    lockdep_assert_held_read(kvm.mmu_lock, "tdp_mmu_set_spte_atomic")
    is_private = is_mirror_sptep(iter.sptep)
    first = FROZEN_SPTE if is_private else new_spte
    if kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, first):
        return -EBUSY
    kvm.fn.handle_changed_spte(
        kvm, iter.as_id, iter.gfn, is_private, iter.old_spte, new_spte, iter.level, True
    )
    if is_private:
        kvm.fn.__kvm_tdp_mmu_write_spte(kvm, iter.sptep, new_spte)
    return 0


def tdp_mmu_set_spte(
    kvm: Kvm, as_id: int, sptep: Spte, old_spte: int, new_spte: int, gfn: int, level: int
) -> int:
    """The value that was overwritten.  Memory changes before the hook runs."""
    name = "tdp_mmu_set_spte"
    lockdep_assert_held_write(kvm.mmu_lock, name)
    WARN_ON(is_frozen_spte(old_spte) or is_frozen_spte(new_spte), kvm, name, "old or new is frozen")
    old_spte = kvm.fn.kvm_tdp_mmu_write_spte(kvm, sptep, old_spte, new_spte, level)
    is_private = is_mirror_sptep(sptep)
    kvm.fn.handle_changed_spte(kvm, as_id, gfn, is_private, old_spte, new_spte, level, False)
    return old_spte


# --- reacting to a change -----------------------------------------------------------------


def handle_changed_spte(
    kvm: Kvm,
    as_id: int,
    gfn: int,
    is_private: bool,
    old_spte: int,
    new_spte: int,
    level: int,
    shared: bool,
) -> None:
    """Trace line, statistics, removed tables, and then the hook, for these too."""
    name = "handle_changed_spte"
    was_present = is_shadow_present_pte(old_spte)
    is_present = is_shadow_present_pte(new_spte)
    was_leaf = was_present and is_last_spte(old_spte, level)
    is_leaf = is_present and is_last_spte(new_spte, level)
    pfn_changed = spte_to_pfn(old_spte) != spte_to_pfn(new_spte)
    WARN_ON(
        not 1 <= level <= kvm.geometry.levels or gfn % kvm.pages_per_hpage[level],
        kvm,
        name,
        "bad level, or a GFN not aligned to it",
    )
    if was_leaf and is_leaf and pfn_changed:
        BUG(kvm, name, f"gfn {gfn:x}: a leaf SPTE changes its PFN")
    if old_spte == new_spte:
        return
    kvm.trace(
        "kvm_tdp_mmu_spte_changed",
        as_id=as_id,
        gfn=gfn,
        level=level,
        old_spte=old_spte,
        new_spte=new_spte,
    )
    if is_leaf:
        check_spte_writable_invariants(kvm, new_spte)
    if not was_present and not is_present:
        WARN_ON(
            not is_mmio_spte(kvm, old_spte)
            and not is_mmio_spte(kvm, new_spte)
            and not is_frozen_spte(new_spte),
            kvm,
            name,
            "a non-present SPTE becomes another one",
        )
        return
    if is_leaf != was_leaf:
        kvm.fn.kvm_update_page_stats(kvm, level, 1 if is_leaf else -1)
    if (
        was_present
        and not was_leaf
        and (is_leaf or not is_present or WARN_ON(pfn_changed, kvm, name, "table PFN changes"))
    ):
        kvm.fn.handle_removed_pt(kvm, spte_to_child_sp(kvm, old_spte).spt, shared)
    if is_private and (was_present != is_present or was_leaf != is_leaf or pfn_changed):
        kvm.fn.handle_changed_private_spte(kvm, KvmSpteChange(gfn, level, old_spte, new_spte))


def handle_removed_pt(kvm: Kvm, pt: PageTable, shared: bool) -> None:
    """Children first, then the S-EPT page; a page that cannot be freed is leaked."""
    sp = pt.owner
    level = sp.role.level
    kvm.trace("kvm_mmu_prepare_zap_page", gfn=sp.gfn, role=sp.role.word(), root_count=0)
    kvm.fn.tdp_mmu_unlink_sp(kvm, sp)
    for i in range(kvm.geometry.entries):
        sptep = pt.word(i)
        gfn = sp.gfn + i * kvm.pages_per_hpage[level]
        if shared:
            old_spte = kvm.fn.freeze_removed_spte(kvm, sptep)
        else:
            # Only present entries can change or need a reaction.
            old_spte = sptep.read()
            if not is_shadow_present_pte(old_spte):
                continue
            old_spte = kvm.fn.kvm_tdp_mmu_write_spte(kvm, sptep, old_spte, FROZEN_SPTE, level)
        kvm.fn.handle_changed_spte(
            kvm, sp.role.as_id, gfn, is_mirror_sp(sp), old_spte, FROZEN_SPTE, level, shared
        )
    if is_mirror_sp(sp):
        ret = kvm.fn.free_private_spt(kvm, sp.gfn, level, sp.external_spt.v)
        if WARN_ON(ret, kvm, "handle_removed_pt", "the S-EPT page could not be freed"):
            sp.external_spt.set(0)
    sp.spt.call_rcu(lambda: kvm.fn.tdp_mmu_free_sp_rcu_callback(kvm, sp))


# --- kvm_x86_ops ------------------------------------------------------------------------------


def handle_changed_private_spte(kvm: Kvm, change: KvmSpteChange) -> None:
    """kvm_x86_call(handle_changed_private_spte): void.  For the MMU the S-EPT has followed."""
    was_bugged = kvm.vm_bugged.peek()
    kvm.fn.tdx_handle_changed_private_spte(kvm, change)
    kvm.m.emit("void_hook", change.gfn, change.level, change.new_spte, was_bugged)


def free_private_spt(kvm: Kvm, gfn: int, level: int, private_spt: int) -> int:
    """kvm_x86_call(free_private_spt)."""
    return int(kvm.fn.tdx_sept_free_private_spt(kvm, gfn, level, private_spt))


def gmem_max_mapping_level(kvm: Kvm, pfn: int, is_private: bool) -> int:
    """Huge private pages are supported: no limit."""
    return 0


# --- TDX ----------------------------------------------------------------------------------------


def seamcall_locked(kvm: Kvm, func: Callable[..., Any], *args: Any) -> Any:
    """Under the per-VM seamcall_lock, which keeps KVM's own calls from meeting."""
    kvm.tdx.seamcall_lock.lock()
    result = func(kvm, *args)
    kvm.tdx.seamcall_lock.unlock()
    return result


def tdx_handle_changed_private_spte(kvm: Kvm, change: KvmSpteChange) -> None:
    """Install, split or remove.  A removed table has been dealt with already."""
    fn = kvm.fn
    if is_shadow_present_pte(change.new_spte):
        if change.new_is_leaf:
            fn.tdx_sept_set_private_spte(kvm, change)
        elif change.old_is_leaf:
            fn.tdx_sept_split_private_spte(kvm, change)
        else:
            ret = fn.tdx_sept_link_private_spt(kvm, change)
            WARN_ON(ret, kvm, "tdx_handle_changed_private_spte", "SEPT.ADD failed")
    elif change.old_is_leaf:
        fn.tdx_sept_zap_private_spte(kvm, change)
        fn.tdx_track(kvm)
        fn.tdx_sept_drop_private_spte(kvm, change)


def tdx_sept_set_private_spte(kvm: Kvm, change: KvmSpteChange) -> None:
    """PAGE.ADD before finalization, else PAGE.AUG.  BUSY is an error like any other."""
    name = "tdx_sept_set_private_spte"
    gfn, level, pfn = change.gfn, change.level, spte_to_pfn(change.new_spte)
    pages = range(pfn, pfn + kvm.pages_per_hpage[level])
    for page in pages:
        kvm.host.get_page(page)
    if kvm.tdx.state.read() == TD_STATE_RUNNABLE:
        result = kvm.fn.seamcall_locked(kvm, kvm.fn.tdh_mem_page_aug, gfn, level, pfn)
        failed = TDX_BUG_ON(result, "TDH_MEM_PAGE_AUG", kvm, name)
    elif not (failed := KVM_BUG_ON(kvm.tdx.page_add_src.v is None, kvm, name, "no source page")):
        source = kvm.tdx.page_add_src.v
        result = kvm.fn.seamcall_locked(kvm, kvm.fn.tdh_mem_page_add, gfn, pfn, source)
        failed = TDX_BUG_ON(result, "TDH_MEM_PAGE_ADD", kvm, name)
    if failed:
        for page in pages:
            kvm.fn.tdx_unpin(kvm, page)


def tdx_sept_link_private_spt(kvm: Kvm, change: KvmSpteChange) -> int:
    external_spt = spte_to_child_sp(kvm, change.new_spte).external_spt.v
    result = kvm.fn.seamcall_locked(
        kvm, kvm.fn.tdh_mem_sept_add, change.gfn, change.level, external_spt
    )
    failed = TDX_BUG_ON(result, "TDH_MEM_SEPT_ADD", kvm, "tdx_sept_link_private_spt")
    return -EIO if failed else 0


def tdx_sept_split_private_spte(kvm: Kvm, change: KvmSpteChange) -> None:
    """BLOCK, TRACK, DEMOTE; no step looks at what the one before returned."""
    name = "tdx_sept_split_private_spte"
    gfn, level = change.gfn, change.level
    external_spt = spte_to_child_sp(kvm, change.new_spte).external_spt.v
    result = kvm.fn.seamcall_locked(kvm, kvm.fn.tdh_mem_range_block, gfn, level)
    TDX_BUG_ON(result, "TDH_MEM_RANGE_BLOCK", kvm, name)
    kvm.fn.tdx_track(kvm)
    result = kvm.fn.seamcall_locked(kvm, kvm.fn.tdh_mem_page_demote, gfn, level, external_spt)
    TDX_BUG_ON(result, "TDH_MEM_PAGE_DEMOTE", kvm, name)


def tdx_sept_zap_private_spte(kvm: Kvm, change: KvmSpteChange) -> None:
    result = kvm.fn.seamcall_locked(kvm, kvm.fn.tdh_mem_range_block, change.gfn, change.level)
    TDX_BUG_ON(result, "TDH_MEM_RANGE_BLOCK", kvm, "tdx_sept_zap_private_spte")


def tdx_sept_drop_private_spte(kvm: Kvm, change: KvmSpteChange) -> None:
    """REMOVE; then each 4K page is written back, and unpinned if that succeeded."""
    name = "tdx_sept_drop_private_spte"
    result = kvm.fn.seamcall_locked(kvm, kvm.fn.tdh_mem_page_remove, change.gfn, change.level)
    if TDX_BUG_ON(result, "TDH_MEM_PAGE_REMOVE", kvm, name):
        return
    pfn = spte_to_pfn(change.old_spte)
    for page in range(pfn, pfn + kvm.pages_per_hpage[change.level]):
        result = kvm.fn.seamcall_locked(
            kvm, kvm.fn.tdh_phymem_page_wbinvd_hkid, kvm.tdx.hkid.v, page
        )
        if not TDX_BUG_ON(result, "TDH_PHYMEM_PAGE_WBINVD", kvm, name):
            kvm.fn.tdx_unpin(kvm, page)


def tdx_track(kvm: Kvm) -> None:
    """Kick, then TRACK: a kicked vCPU spins in its TLB flush until the counter is 0."""
    if kvm.tdx.state.read() != TD_STATE_RUNNABLE:
        return  # no vCPU can have run
    kvm.tdx.tdh_mem_track.fetch_add(1)
    kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)
    result = kvm.fn.seamcall_locked(kvm, kvm.fn.tdh_mem_track)
    TDX_BUG_ON(result, "TDH_MEM_TRACK", kvm, "tdx_track")
    kvm.tdx.tdh_mem_track.fetch_add(-1)


def tdx_sept_free_private_spt(kvm: Kvm, gfn: int, level: int, private_spt: int) -> int:
    """With the keys still there, SEPT.REMOVE, without seamcall_lock; else RECLAIM."""
    if not is_hkid_assigned(kvm):
        return int(kvm.fn.tdx_reclaim_page(kvm, private_spt))
    name = "tdx_sept_free_private_spt"
    result = kvm.fn.tdh_mem_range_block(kvm, gfn, level + 1)
    if TDX_BUG_ON(result, "TDH_MEM_RANGE_BLOCK", kvm, name):
        return -EIO
    kvm.fn.tdx_track(kvm)
    result = kvm.fn.tdh_mem_sept_remove(kvm, gfn, level + 1)
    if TDX_BUG_ON(result, "TDH_MEM_SEPT_REMOVE", kvm, name):
        return -EIO
    result = kvm.fn.tdh_phymem_page_wbinvd_hkid(kvm, kvm.tdx.hkid.v, private_spt)
    return -EIO if TDX_BUG_ON(result, "TDH_PHYMEM_PAGE_WBINVD", kvm, name) else 0


def tdh_mem_sept_remove(kvm: Kvm, gfn: int, level: int) -> Any:
    """``level`` is that of the entry that points to the page."""
    regs = {"rcx": gfn << PAGE_SHIFT | level - 1, "rdx": kvm.tdx.tdr << PAGE_SHIFT}
    return kvm.fn.seamcall(kvm, TDH_MEM_SEPT_REMOVE, regs)


# --- vCPUs --------------------------------------------------------------------------------------


def kvm_vcpu_flush_tlb_all(vcpu: Vcpu) -> None:
    """tdx_flush_tlb(): wait for a TRACK in progress, which the next VP.ENTER needs."""
    track = vcpu.kvm.tdx.tdh_mem_track
    while track.read():
        vcpu.m.blame(track)
        vcpu.m.retry("tdx_flush_tlb")
    flush_shared(vcpu)


def tdx_ept_violation_loop(vcpu: Vcpu, gpa: int, exit_qual: int, local_retry: bool) -> int:
    """One pass: after a RETRY the guest faults again."""
    before_entry = vcpu.m.current.blame
    vcpu.m.current.blame = {}
    ret: int = vcpu.kvm.fn.__vmx_handle_ept_violation(vcpu, gpa, exit_qual)
    if ret == RET_PF_SPURIOUS:
        vcpu.m.current.blame = before_entry
    elif ret != RET_PF_RETRY:
        vcpu.m.current.blame = {}
    return ret
