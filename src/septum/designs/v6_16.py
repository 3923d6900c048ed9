# SPDX-License-Identifier: GPL-2.0-only
"""``v6.16`` (D1): the first upstream protocol, four hooks (facts 6.1-6.8, 6.11).

The base of the chain: the complete text of what the floor leaves to the designs.

Under mmu_lock held for read only to-present changes reach the S-EPT, from
``set_external_spte_present``: freeze, hook, publish; trace line and statistics come after
that, in ``handle_changed_spte``.  It freezes from a copy of the iterator's snapshot, so a
lost cmpxchg leaves ``iter.old_spte`` stale.  Under mmu_lock held for write only removals
reach it, after ``handle_changed_spte``, from two places: ``tdp_mmu_set_spte`` and
``handle_removed_pt``.  The KVM_BUG_ONs that say so are in the MMU, and of those only the
one on a non-present new value stops anything.

TDX side: guest pages are pinned while the S-EPT has them; before finalization the hook
only counts (``nr_premapped``), and PAGE.ADD follows outside mmu_lock; the second call
without vCPUs is open-coded.  ``KVM_BUG_ON(err)`` with ``pr_tdx_error()`` is TDX_BUG_ON here,
so that an injected error is not a finding by itself.  FROZEN_SPTE has its 7.3 value.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, EIO, ENOENT
from typing import Any, Final

from septum.designs.v6_16_faultin import (
    __kvm_gmem_populate,
    kvm_gmem_get_pfn,
    kvm_mmu_faultin_pfn,
)
from septum.kvm.bug import (
    BUG,
    WARN_ON,
    lockdep_assert_held,
    lockdep_assert_held_read,
    lockdep_assert_held_write,
)
from septum.kvm.mmu import retry_fault
from septum.kvm.ret_pf import (
    PFERR_GUEST_FINAL_MASK,
    PFERR_PRIVATE_ACCESS,
    RET_PF_EMULATE,
    RET_PF_RETRY,
    RET_PF_SPURIOUS,
)
from septum.kvm.seamcall import TDX_BUG_ON
from septum.kvm.spte import (
    FROZEN_SPTE,
    PG_LEVEL_4K,
    VMX_EPT_ACCESS_BIT,
    VMX_EPT_RWX_MASK,
    check_spte_writable_invariants,
    is_frozen_spte,
    is_last_spte,
    is_mirror_sp,
    is_mirror_sptep,
    is_mmio_spte,
    is_shadow_present_pte,
    mark_spte_for_access_track,
    spte_ad_enabled,
    spte_to_child_sp,
    spte_to_pfn,
    sptep_to_sp,
)
from septum.kvm.structs import (
    KVM_REQ_OUTSIDE_GUEST_MODE,
    KVM_REQ_VM_DEAD,
    TD_STATE_RUNNABLE,
    Kvm,
    KvmMmuPage,
    PageTable,
    Spte,
    Vcpu,
)
from septum.kvm.tdp_iter import TdpIter
from septum.kvm.tdp_mmu import trace_kvm_tdp_mmu_spte_changed
from septum.kvm.tdx_lifecycle import TDX_EXTENDMR_CHUNKSIZE, tdx_vm_state_locks
from septum.kvm.tdx_sept import is_hkid_assigned
from septum.kvm.x86 import KVM_BUG_ON
from septum.machine.geometry import PAGE_SHIFT, PAGE_SIZE
from septum.tdx.status import TDX_EPT_ENTRY_STATE_INCORRECT, Operand

NAME: Final = "v6.16"
PREDECESSOR: Final = None
CAPABILITIES: Final = frozenset({"mirror"})
ALSO: Final = (__kvm_gmem_populate, kvm_gmem_get_pfn, kvm_mmu_faultin_pfn)


# --- setting an SPTE --------------------------------------------------------------------


def get_external_spt(kvm: Kvm, gfn: int, new_spte: int, level: int) -> int:
    """The S-EPT page of the table that ``new_spte`` points to; 0 if there is none."""
    if is_shadow_present_pte(new_spte) and not is_last_spte(new_spte, level):
        sp = spte_to_child_sp(kvm, new_spte)
        WARN_ON(sp.role.level + 1 != level, kvm, "get_external_spt", "child at another level")
        WARN_ON(sp.gfn != gfn, kvm, "get_external_spt", "child for another gfn")
        return int(sp.external_spt.v)
    return 0


def set_external_spte_present(
    kvm: Kvm, sptep: Spte, gfn: int, old_spte: int, new_spte: int, level: int
) -> int:
    """Freeze, hook, publish or restore.  ``old_spte`` is a copy: the caller's is not
    refreshed when the cmpxchg is lost."""
    name = "set_external_spte_present"
    is_leaf = is_shadow_present_pte(new_spte) and is_last_spte(new_spte, level)
    KVM_BUG_ON(is_shadow_present_pte(old_spte), kvm, name, "the old SPTE is present")
    lockdep_assert_held(kvm.mmu_lock, name)
    ok, _ = sptep.try_cmpxchg(old_spte, FROZEN_SPTE)
    if not ok:
        return -EBUSY
    if is_leaf:
        ret: int = kvm.fn.set_external_spte(kvm, gfn, level, spte_to_pfn(new_spte))
    else:
        external_spt = kvm.fn.get_external_spt(kvm, gfn, new_spte, level)
        KVM_BUG_ON(not external_spt, kvm, name, "no external_spt")
        ret = kvm.fn.link_external_spt(kvm, gfn, level, external_spt)
    kvm.fn.__kvm_tdp_mmu_write_spte(kvm, sptep, old_spte if ret else new_spte)
    return ret


def __tdp_mmu_set_spte_atomic(kvm: Kvm, iter: TdpIter, new_spte: int) -> int:
    name = "__tdp_mmu_set_spte_atomic"
    WARN_ON(
        iter.yielded or is_frozen_spte(iter.old_spte),
        kvm,
        name,
        "the iterator yielded, or its SPTE is frozen",
    )
    if is_mirror_sptep(iter.sptep) and not is_frozen_spte(new_spte):
        # Users of atomic zapping do not operate on mirror roots.
        if KVM_BUG_ON(not is_shadow_present_pte(new_spte), kvm, name, "new SPTE is not present"):
            return -EBUSY
        return int(
            kvm.fn.set_external_spte_present(
                kvm, iter.sptep, iter.gfn, iter.old_spte, new_spte, iter.level
            )
        )
    ok, iter.old_spte = iter.sptep.try_cmpxchg(iter.old_spte, new_spte)
    return 0 if ok else -EBUSY


def tdp_mmu_set_spte_atomic(kvm: Kvm, iter: TdpIter, new_spte: int) -> int:
    """0, -EBUSY, or what the hook returned."""
    lockdep_assert_held_read(kvm.mmu_lock, "tdp_mmu_set_spte_atomic")
    ret: int = kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, new_spte)
    if ret:
        return ret
    kvm.fn.handle_changed_spte(kvm, iter.as_id, iter.gfn, iter.old_spte, new_spte, iter.level, True)
    return 0


def tdp_mmu_set_spte(
    kvm: Kvm, as_id: int, sptep: Spte, old_spte: int, new_spte: int, gfn: int, level: int
) -> int:
    """The value that was overwritten.  On a mirror root the new one is not present."""
    name = "tdp_mmu_set_spte"
    lockdep_assert_held_write(kvm.mmu_lock, name)
    WARN_ON(is_frozen_spte(old_spte) or is_frozen_spte(new_spte), kvm, name, "old or new is frozen")
    old_spte = kvm.fn.kvm_tdp_mmu_write_spte(kvm, sptep, old_spte, new_spte, level)
    kvm.fn.handle_changed_spte(kvm, as_id, gfn, old_spte, new_spte, level, False)
    if is_mirror_sptep(sptep):
        KVM_BUG_ON(is_shadow_present_pte(new_spte), kvm, name, "a mirror SPTE becomes present")
        kvm.fn.tdp_mmu_remove_external_spte(kvm, gfn, old_spte, level)
    return old_spte


def tdp_mmu_iter_set_spte(kvm: Kvm, iter: TdpIter, new_spte: int) -> None:
    WARN_ON(iter.yielded, kvm, "tdp_mmu_iter_set_spte", "the iterator yielded")
    iter.old_spte = kvm.fn.tdp_mmu_set_spte(
        kvm, iter.as_id, iter.sptep, iter.old_spte, new_spte, iter.gfn, iter.level
    )


# --- reacting to a change -----------------------------------------------------------------


def tdp_mmu_remove_external_spte(kvm: Kvm, gfn: int, old_spte: int, level: int) -> None:
    """In the kernel remove_external_spte(), like the hook.  Leafs only; at level 1 every
    value counts as one, present or not."""
    name = "remove_external_spte"
    if not is_last_spte(old_spte, level):
        return
    lockdep_assert_held_write(kvm.mmu_lock, name)
    ret = kvm.fn.remove_external_spte(kvm, gfn, level, spte_to_pfn(old_spte))
    KVM_BUG_ON(ret, kvm, name, "the S-EPT entry could not be removed")


def handle_changed_spte(
    kvm: Kvm, as_id: int, gfn: int, old_spte: int, new_spte: int, level: int, shared: bool
) -> None:
    """Bookkeeping only; the parent's trace line comes before its children's."""
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


def handle_removed_pt(kvm: Kvm, pt: PageTable, shared: bool) -> None:
    """Children first, then the S-EPT page; a page that cannot be reclaimed is leaked."""
    name = "handle_removed_pt"
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
        kvm.fn.handle_changed_spte(kvm, sp.role.as_id, gfn, old_spte, FROZEN_SPTE, level, shared)
        if is_mirror_sp(sp):
            KVM_BUG_ON(shared, kvm, name, "mirror table removed under the shared lock")
            kvm.fn.tdp_mmu_remove_external_spte(kvm, gfn, old_spte, level)
    if is_mirror_sp(sp):
        ret = kvm.fn.free_external_spt(kvm, sp.gfn, level, sp.external_spt.v)
        if WARN_ON(ret, kvm, name, "the S-EPT page could not be freed"):
            sp.external_spt.set(0)
    sp.spt.call_rcu(lambda: kvm.fn.tdp_mmu_free_sp_rcu_callback(kvm, sp))


def freeze_removed_spte(kvm: Kvm, sptep: Spte) -> int:
    """Exchange until the value is nobody's: whoever froze the entry stores once more,
    and that store must not survive (in the kernel inline in handle_removed_pt)."""
    while True:
        old_spte: int = kvm.fn.kvm_tdp_mmu_write_spte_atomic(kvm, sptep, FROZEN_SPTE)
        if not is_frozen_spte(old_spte):
            return old_spte
        kvm.m.blame(sptep)
        kvm.m.reach("handle_removed_pt met FROZEN_SPTE")
        kvm.m.retry("handle_removed_pt")


# --- freeing tables -----------------------------------------------------------------------


def tdp_mmu_free_sp(kvm: Kvm, sp: KvmMmuPage) -> None:
    """The S-EPT page (if there still is one), the table and the header."""
    if sp.external_spt.v:
        kvm.host.free_page(sp.external_spt.v)
    sp.spt.free()


def tdp_mmu_free_unused_sp(kvm: Kvm, sp: KvmMmuPage) -> None:
    """A table that was never linked: at once (in the kernel tdp_mmu_free_sp() itself)."""
    kvm.fn.tdp_mmu_free_sp(kvm, sp)


def tdp_mmu_free_sp_rcu_callback(kvm: Kvm, sp: KvmMmuPage) -> None:
    kvm.fn.tdp_mmu_free_sp(kvm, sp)


# --- ageing ---------------------------------------------------------------------------------


def kvm_tdp_mmu_age_spte(kvm: Kvm, iter: TdpIter) -> None:
    """A mirror leaf is aged as any other: its S-EPT entry does not follow."""
    if spte_ad_enabled(iter.old_spte):
        iter.old_spte = iter.sptep.fetch_and(~VMX_EPT_ACCESS_BIT)
        old_spte = iter.old_spte
        new_spte = old_spte & ~VMX_EPT_ACCESS_BIT
    else:
        old_spte = iter.old_spte
        new_spte = mark_spte_for_access_track(old_spte)
        # If it fails, the page is most likely young anyway.
        if kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, new_spte):
            return
    sp = sptep_to_sp(iter.sptep)
    trace_kvm_tdp_mmu_spte_changed(kvm, sp, iter.gfn, iter.level, old_spte, new_spte)


# --- kvm_x86_ops ------------------------------------------------------------------------------


def link_external_spt(kvm: Kvm, gfn: int, level: int, external_spt: int) -> int:
    """kvm_x86_call(link_external_spt)."""
    return int(kvm.fn.tdx_sept_link_private_spt(kvm, gfn, level, external_spt))


def set_external_spte(kvm: Kvm, gfn: int, level: int, pfn: int) -> int:
    """kvm_x86_call(set_external_spte)."""
    return int(kvm.fn.tdx_sept_set_private_spte(kvm, gfn, level, pfn))


def remove_external_spte(kvm: Kvm, gfn: int, level: int, pfn: int) -> int:
    """kvm_x86_call(remove_external_spte)."""
    return int(kvm.fn.tdx_sept_remove_private_spte(kvm, gfn, level, pfn))


def free_external_spt(kvm: Kvm, gfn: int, level: int, external_spt: int) -> int:
    """kvm_x86_call(free_external_spt)."""
    return int(kvm.fn.tdx_sept_free_private_spt(kvm, gfn, level, external_spt))


def gmem_max_mapping_level(kvm: Kvm, pfn: int, is_private: bool) -> int:
    """kvm_x86_call(private_max_mapping_level), tdx_gmem_private_max_mapping_level(): 0 is
    no limit."""
    return PG_LEVEL_4K if is_private and kvm.has_mirrored_tdp else 0


# --- TDX: to present ----------------------------------------------------------------------------


def tdx_unpin(kvm: Kvm, pfn: int) -> None:
    kvm.host.put_page(pfn)


def tdx_mem_page_aug(kvm: Kvm, gfn: int, level: int, pfn: int) -> int:
    """Any failure gives the page reference back."""
    result = kvm.fn.tdh_mem_page_aug(kvm, gfn, level, pfn)
    if kvm.fn.tdx_operand_busy(result.rax):
        kvm.m.reach("PAGE.AUG returned BUSY")
        kvm.fn.tdx_unpin(kvm, pfn)
        return -EBUSY
    if TDX_BUG_ON(result, "TDH_MEM_PAGE_AUG", kvm, "tdx_mem_page_aug"):
        kvm.fn.tdx_unpin(kvm, pfn)
        return -EIO
    return 0


def tdx_mem_page_record_premap_cnt(kvm: Kvm, gfn: int, level: int, pfn: int) -> int:
    """PAGE.ADD follows in tdx_gmem_post_populate, which takes the count back."""
    pre_fault = kvm.pre_fault_allowed.read()
    if KVM_BUG_ON(pre_fault, kvm, "tdx_mem_page_record_premap_cnt", "pre_fault_allowed"):
        return -EINVAL
    kvm.tdx.nr_premapped.add(1)
    return 0


def tdx_sept_set_private_spte(kvm: Kvm, gfn: int, level: int, pfn: int) -> int:
    """Leafs.  guest_memfd has no reference for us: pin the page."""
    if KVM_BUG_ON(level != PG_LEVEL_4K, kvm, "tdx_sept_set_private_spte", f"level {level}"):
        return -EINVAL
    kvm.host.get_page(pfn)
    # Pairs with the smp_wmb() of tdx_td_finalize(): pre_fault_allowed after the state.
    if kvm.tdx.state.read() == TD_STATE_RUNNABLE:
        return int(kvm.fn.tdx_mem_page_aug(kvm, gfn, level, pfn))
    return int(kvm.fn.tdx_mem_page_record_premap_cnt(kvm, gfn, level, pfn))


def tdx_sept_link_private_spt(kvm: Kvm, gfn: int, level: int, private_spt: int) -> int:
    result = kvm.fn.tdh_mem_sept_add(kvm, gfn, level, private_spt)
    if kvm.fn.tdx_operand_busy(result.rax):
        kvm.m.reach("SEPT.ADD returned BUSY")
        return -EBUSY
    if TDX_BUG_ON(result, "TDH_MEM_SEPT_ADD", kvm, "tdx_sept_link_private_spt"):
        return -EIO
    return 0


# --- TDX: from present --------------------------------------------------------------------------


def tdx_no_vcpus_enter_start(kvm: Kvm) -> None:
    """From here on vCPUs stay out; those that were in have left."""
    lockdep_assert_held_write(kvm.mmu_lock, "tdx_no_vcpus_enter_start")
    kvm.m.reach("the second no-vCPUs call was made")
    kvm.tdx.wait_for_sept_zap.write(True)
    kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_OUTSIDE_GUEST_MODE)


def tdx_no_vcpus_enter_stop(kvm: Kvm) -> None:
    lockdep_assert_held_write(kvm.mmu_lock, "tdx_no_vcpus_enter_stop")
    kvm.tdx.wait_for_sept_zap.write(False)


def tdx_track(kvm: Kvm) -> None:
    """TRACK, then kick.  Void."""
    if kvm.tdx.state.read() != TD_STATE_RUNNABLE:
        return  # no vCPU can have run
    lockdep_assert_held_write(kvm.mmu_lock, "tdx_track")
    result = kvm.fn.tdh_mem_track(kvm)
    if kvm.fn.tdx_operand_busy(result.rax):
        kvm.fn.tdx_no_vcpus_enter_start(kvm)
        result = kvm.fn.tdh_mem_track(kvm)
        kvm.fn.tdx_no_vcpus_enter_stop(kvm)
    TDX_BUG_ON(result, "TDH_MEM_TRACK", kvm, "tdx_track")
    kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_OUTSIDE_GUEST_MODE)


def tdx_is_sept_zap_err_due_to_premap(kvm: Kvm, result: Any, level: int) -> bool:
    """BLOCK found nothing, because PAGE.ADD has not come yet.  RCX is the S-EPT entry."""
    if not result.rax or kvm.tdx.state.read() == TD_STATE_RUNNABLE:
        return False
    if result.rax != TDX_EPT_ENTRY_STATE_INCORRECT | Operand.RCX:
        return False
    return not (is_last_spte(result.rcx, level) and result.rcx & VMX_EPT_RWX_MASK)


def tdx_sept_zap_private_spte(kvm: Kvm, gfn: int, level: int, pfn: int) -> int:
    """BLOCK.  1: go on with TRACK and REMOVE; 0: there was nothing; else an error.

    The level is only warned about, so a huge entry *is* blocked.
    """
    name = "tdx_sept_zap_private_spte"
    WARN_ON(level != PG_LEVEL_4K, kvm, name, f"level {level}")
    result = kvm.fn.tdh_mem_range_block(kvm, gfn, level)
    if kvm.fn.tdx_operand_busy(result.rax):
        kvm.fn.tdx_no_vcpus_enter_start(kvm)
        result = kvm.fn.tdh_mem_range_block(kvm, gfn, level)
        kvm.fn.tdx_no_vcpus_enter_stop(kvm)
    if kvm.fn.tdx_is_sept_zap_err_due_to_premap(kvm, result, level) and not KVM_BUG_ON(
        not kvm.tdx.nr_premapped.read(), kvm, name, "nr_premapped is 0"
    ):
        kvm.tdx.nr_premapped.add(-1)
        kvm.fn.tdx_unpin(kvm, pfn)
        return 0
    if TDX_BUG_ON(result, "TDH_MEM_RANGE_BLOCK", kvm, name):
        return -EIO
    return 1


def tdx_sept_drop_private_spte(kvm: Kvm, gfn: int, level: int, pfn: int) -> int:
    """REMOVE, WBINVD, unpin.  A page that could not be removed stays pinned."""
    name = "tdx_sept_drop_private_spte"
    if KVM_BUG_ON(level != PG_LEVEL_4K, kvm, name, f"level {level}"):
        return -EINVAL
    if KVM_BUG_ON(not is_hkid_assigned(kvm), kvm, name, "no hkid"):
        return -EINVAL
    result = kvm.fn.tdh_mem_page_remove(kvm, gfn, level)
    if kvm.fn.tdx_operand_busy(result.rax):
        kvm.fn.tdx_no_vcpus_enter_start(kvm)
        result = kvm.fn.tdh_mem_page_remove(kvm, gfn, level)
        kvm.fn.tdx_no_vcpus_enter_stop(kvm)
    if TDX_BUG_ON(result, "TDH_MEM_PAGE_REMOVE", kvm, name):
        return -EIO
    result = kvm.fn.tdh_phymem_page_wbinvd_hkid(kvm, kvm.tdx.hkid.v, pfn)
    if TDX_BUG_ON(result, "TDH_PHYMEM_PAGE_WBINVD", kvm, name):
        return -EIO
    kvm.fn.tdx_unpin(kvm, pfn)
    return 0


def tdx_sept_remove_private_spte(kvm: Kvm, gfn: int, level: int, pfn: int) -> int:
    name = "tdx_sept_remove_private_spte"
    if KVM_BUG_ON(not is_hkid_assigned(kvm), kvm, name, "no hkid"):
        return -EINVAL
    ret: int = kvm.fn.tdx_sept_zap_private_spte(kvm, gfn, level, pfn)
    if ret <= 0:
        return ret
    kvm.fn.tdx_track(kvm)
    return int(kvm.fn.tdx_sept_drop_private_spte(kvm, gfn, level, pfn))


def tdx_sept_free_private_spt(kvm: Kvm, gfn: int, level: int, private_spt: int) -> int:
    """Only once the hkid is gone; the caller frees the page after a grace period."""
    assigned = is_hkid_assigned(kvm)
    if KVM_BUG_ON(assigned, kvm, "tdx_sept_free_private_spt", "hkid still assigned"):
        return -EINVAL
    return int(kvm.fn.tdx_reclaim_page(kvm, private_spt))


# --- TDX: build and faults ----------------------------------------------------------------------


def kvm_tdp_map_page(vcpu: Vcpu, gfn: int) -> int:
    """The whole fault path, prefetching; 0 also if the leaf is there already."""
    error_code = PFERR_GUEST_FINAL_MASK | PFERR_PRIVATE_ACCESS
    ret: int = vcpu.kvm.fn.kvm_tdp_page_prefault(vcpu, gfn << PAGE_SHIFT, error_code)
    if ret < 0:
        return ret
    return -ENOENT if ret == RET_PF_EMULATE else 0


def tdx_gmem_post_populate(vcpu: Vcpu, gfn: int, pfn: int, src: int, measure: bool) -> int:
    """Leaf first, PAGE.ADD after: its failure leaves leaf, count and VM as they are."""
    kvm = vcpu.kvm
    ret: int = kvm.fn.kvm_tdp_map_page(vcpu, gfn)
    if ret < 0:
        return ret
    result = kvm.fn.tdh_mem_page_add(kvm, gfn, pfn, src)
    if result.rax:
        return -EBUSY if kvm.fn.tdx_operand_busy(result.rax) else -EIO
    premapped = kvm.tdx.nr_premapped
    if not KVM_BUG_ON(not premapped.read(), kvm, "tdx_gmem_post_populate", "nr_premapped is 0"):
        premapped.add(-1)
    return int(kvm.fn.tdx_extend_page(kvm, gfn)) if measure else 0


def tdx_extend_page(kvm: Kvm, gfn: int) -> int:
    """An error does not bug the VM."""
    gpa = gfn << PAGE_SHIFT
    for chunk in range(gpa, gpa + PAGE_SIZE, TDX_EXTENDMR_CHUNKSIZE):
        if kvm.fn.tdh_mr_extend(kvm, chunk).rax:
            return -EIO
    return 0


def tdx_td_finalize(kvm: Kvm) -> int:
    """Every leaf must have had its PAGE.ADD."""
    with tdx_vm_state_locks(kvm):
        if not is_hkid_assigned(kvm) or kvm.tdx.state.read() == TD_STATE_RUNNABLE:
            return -EINVAL
        if kvm.tdx.nr_premapped.read():
            return -EINVAL
        result = kvm.fn.tdh_mr_finalize(kvm)
        if kvm.fn.tdx_operand_busy(result.rax):
            kvm.m.reach("MR.FINALIZE returned BUSY")
            return -EBUSY
        if TDX_BUG_ON(result, "TDH_MR_FINALIZE", kvm, "tdx_td_finalize"):
            return -EIO
        kvm.tdx.state.write(TD_STATE_RUNNABLE)
        # smp_wmb(): whoever may prefault finds the TD runnable.
        kvm.pre_fault_allowed.write(True)
    return 0


def tdx_ept_violation_loop(vcpu: Vcpu, gpa: int, exit_qual: int, local_retry: bool) -> int:
    """The loop of tdx_handle_ept_violation(): it consumes the VM's death, and does not
    look at the memslot, whose deletion waits for this SRCU reader."""
    m = vcpu.m
    before_entry = m.current.blame
    m.current.blame = {}
    while True:
        ret: int = vcpu.kvm.fn.__vmx_handle_ept_violation(vcpu, gpa, exit_qual)
        if ret != RET_PF_RETRY or not local_retry or vcpu.signal_pending.v:
            break
        if vcpu.requests.read() & KVM_REQ_VM_DEAD:
            vcpu.requests.fetch_and(~KVM_REQ_VM_DEAD)
            return -EIO
        m.reach("an EPT violation was retried locally")
        retry_fault(vcpu, "tdx_handle_ept_violation", m.seq)
    # If nothing had to be done, the next entry fails for what the last one failed for.
    m.current.blame = before_entry if ret == RET_PF_SPURIOUS else {}
    return ret
