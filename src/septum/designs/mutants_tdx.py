# SPDX-License-Identifier: GPL-2.0-only
"""Mutants of how KVM drives the S-EPT: SEAMCALLs, BUSY, kicks, removal (facts 5.2, 5.3)."""

from __future__ import annotations

from typing import Final

from septum.designs.mutants_base import Mutant, change, toggles

__all__ = ["MUTANTS", "TOGGLES"]

_NO_VCPUS: Final = "tdh_do_no_vcpus"
_FLAG: Final = "        kvm.tdx.wait_for_sept_zap.write(True)\n"
_KICK: Final = "        kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_OUTSIDE_GUEST_MODE)\n"
_AGAIN: Final = "        result = func(kvm, *args)\n"
_CLEAR: Final = "        kvm.tdx.wait_for_sept_zap.write(False)\n"
_TRACK: Final = "tdx_track"
_TRACK_KICK: Final = "    kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_OUTSIDE_GUEST_MODE)\n"
_DO_TRACK: Final = (
    "    result = kvm.fn.tdh_do_no_vcpus(kvm, kvm.fn.tdh_mem_track)\n"
    '    TDX_BUG_ON(result, "TDH_MEM_TRACK", kvm, "tdx_track")\n'
)
_REMOVE: Final = "tdx_sept_remove_leaf_spte"
_RM_BLOCK: Final = (
    "    result = no_vcpus(kvm, kvm.fn.tdh_mem_range_block, gfn, level)\n"
    '    if TDX_BUG_ON(result, "TDH_MEM_RANGE_BLOCK", kvm, name):\n'
    "        return -EIO\n"
)
_RM_COMMENT: Final = (
    "    # Guests must not reach the page when it is removed: a failure of TRACK shows there.\n"
)
_RM_TRACK: Final = "    kvm.fn.tdx_track(kvm)\n"
_RM_REMOVE: Final = (
    "    result = no_vcpus(kvm, kvm.fn.tdh_mem_page_remove, gfn, level)\n"
    '    if TDX_BUG_ON(result, "TDH_MEM_PAGE_REMOVE", kvm, name):\n'
    "        return -EIO\n"
)
_RM_WBINVD: Final = (
    "    result = kvm.fn.tdh_phymem_page_wbinvd_hkid(kvm, kvm.tdx.hkid.v, spte_to_pfn(old_spte))\n"
    '    if TDX_BUG_ON(result, "TDH_PHYMEM_PAGE_WBINVD", kvm, name):\n'
    "        return -EIO\n"
)
_FREE: Final = "tdx_sept_free_private_spt"

MUTANTS: Final = (
    # --- 5.2 tdh_do_no_vcpus --------------------------------------------------------------
    Mutant(
        "kick-before-flag",
        "5.2",
        "vCPUs are kicked before wait_for_sept_zap is set",
        "zap-zero-step",
        "I8",
        (change(_NO_VCPUS, _FLAG + _KICK, _KICK + _FLAG),),
    ),
    Mutant(
        "no-kick",
        "5.2",
        "wait_for_sept_zap is set, but no vCPU is kicked",
        "zap-accept",
        "I8",
        (change(_NO_VCPUS, _KICK, ""),),
    ),
    Mutant(
        "no-flag",
        "5.2",
        "vCPUs are kicked, but wait_for_sept_zap is not set",
        "zap-zero-step",
        "I8",
        (change(_NO_VCPUS, _FLAG, ""),),
    ),
    Mutant(
        "no-second-call",
        "5.2",
        "after the kick the SEAMCALL is not made again",
        "zap-accept",
        "I8",
        (change(_NO_VCPUS, _AGAIN, ""),),
    ),
    Mutant(
        "flag-cleared-before-call",
        "5.2",
        "wait_for_sept_zap is cleared before the second call",
        "zap-zero-step",
        "I8",
        (change(_NO_VCPUS, _AGAIN + _CLEAR, _CLEAR + _AGAIN),),
    ),
    Mutant(
        "flag-not-cleared",
        "5.2",
        "wait_for_sept_zap stays set",
        "zap-accept",
        "I18",
        (change(_NO_VCPUS, _CLEAR, ""),),
    ),
    Mutant(
        "busy-is-one-status",
        "5.2",
        "only TDX_OPERAND_BUSY without an operand id counts as busy",
        "install-accept",
        "I8",
        (
            change(
                "tdx_operand_busy",
                "return is_operand_busy(status)",
                "return status == TDX_OPERAND_BUSY",
            ),
        ),
    ),
    # --- 5.3 tdx_track --------------------------------------------------------------------
    Mutant(
        "track-fails-at-once",
        "5.3",
        "TRACK is called directly: BUSY is an error",
        "zap-running",
        "I8",
        (
            change(
                _TRACK,
                "kvm.fn.tdh_do_no_vcpus(kvm, kvm.fn.tdh_mem_track)",
                "kvm.fn.tdh_mem_track(kvm)",
            ),
        ),
    ),
    Mutant(
        "no-kick-after-track",
        "5.3",
        "vCPUs are not kicked after TRACK",
        "zap-running",
        "I8",
        (change(_TRACK, _TRACK_KICK, ""),),
    ),
    Mutant(
        "kick-before-track",
        "5.3",
        "vCPUs are kicked before TRACK, not after it",
        "zap-running",
        "I8",
        (change(_TRACK, _DO_TRACK + _TRACK_KICK, _TRACK_KICK + _DO_TRACK),),
    ),
    # --- 5.3 removing a leaf --------------------------------------------------------------
    Mutant(
        "no-block",
        "5.3",
        "RANGE.BLOCK is left out",
        "zap-running",
        "I8",
        (change(_REMOVE, _RM_BLOCK, ""),),
    ),
    Mutant(
        "no-track",
        "5.3",
        "TRACK and its kick are left out",
        "zap-running",
        "I8",
        (change(_REMOVE, _RM_TRACK, ""),),
    ),
    Mutant(
        "track-before-block",
        "5.3",
        "TRACK comes before BLOCK",
        "zap-running",
        "I8",
        (
            change(_REMOVE, _RM_TRACK, ""),
            change(_REMOVE, _RM_BLOCK, _RM_TRACK + _RM_BLOCK),
        ),
    ),
    Mutant(
        "remove-before-track",
        "5.3",
        "PAGE.REMOVE comes before TRACK",
        "zap-running",
        "I8",
        (
            change(_REMOVE, _RM_TRACK, ""),
            change(_REMOVE, _RM_REMOVE, _RM_REMOVE + _RM_TRACK),
        ),
    ),
    Mutant(
        "remove-before-block",
        "5.3",
        "PAGE.REMOVE comes before BLOCK",
        "zap-running",
        "I8",
        (
            change(_REMOVE, _RM_REMOVE, ""),
            change(_REMOVE, _RM_BLOCK, _RM_REMOVE + _RM_BLOCK),
        ),
    ),
    Mutant(
        "no-remove",
        "5.3",
        "the leaf stays blocked: no PAGE.REMOVE",
        "zap-running",
        "I8",
        (change(_REMOVE, _RM_REMOVE, ""),),
    ),
    Mutant(
        "block-fails-at-once",
        "5.3",
        "RANGE.BLOCK is called directly: BUSY is an error",
        "zap-accept",
        "I8",
        (
            change(
                _REMOVE,
                "no_vcpus(kvm, kvm.fn.tdh_mem_range_block, gfn, level)",
                "kvm.fn.tdh_mem_range_block(kvm, gfn, level)",
            ),
        ),
    ),
    Mutant(
        "remove-fails-at-once",
        "5.3",
        "PAGE.REMOVE is called directly: BUSY is an error",
        "zap-accept",
        "I8",
        (
            change(
                _REMOVE,
                "no_vcpus(kvm, kvm.fn.tdh_mem_page_remove, gfn, level)",
                "kvm.fn.tdh_mem_page_remove(kvm, gfn, level)",
            ),
        ),
    ),
    Mutant(
        "no-wbinvd",
        "5.3",
        "the removed page's cache lines are not written back",
        "fault-punch",
        "",
        (change(_REMOVE, _RM_WBINVD, ""),),
        survives=(
            "no monitor: neither machine nor module has cache lines, so stale ones cannot be "
            "written over the page"
        ),
    ),
    Mutant(
        "wbinvd-before-remove",
        "5.3",
        "the page's cache lines are written back before it is removed",
        "zap-running",
        "I8",
        (change(_REMOVE, _RM_REMOVE + _RM_WBINVD, _RM_WBINVD + _RM_REMOVE),),
    ),
    Mutant(
        "block-wrong-gfn",
        "5.3",
        "RANGE.BLOCK is given the next GFN",
        "zap-running",
        "I8",
        (
            change(
                "tdh_mem_range_block", "mem_regs(kvm, gfn, level)", "mem_regs(kvm, gfn + 1, level)"
            ),
        ),
    ),
    Mutant(
        "remove-wrong-level",
        "5.3",
        "PAGE.REMOVE is given KVM's level, which is one more than the module's",
        "zap-running",
        "I8",
        (
            change(
                "tdh_mem_page_remove", "mem_regs(kvm, gfn, level)", "mem_regs(kvm, gfn, level + 1)"
            ),
        ),
    ),
    # --- 5.3 installing -------------------------------------------------------------------
    Mutant(
        "install-without-vcpus",
        "5.3",
        "a BUSY install keeps the vCPUs out and tries again, mmu_lock held for read",
        "install-accept",
        "I10",
        (
            change(
                "tdx_mem_page_aug",
                "kvm.fn.tdh_mem_page_aug(kvm, gfn, level, pfn)",
                "kvm.fn.tdh_do_no_vcpus(kvm, kvm.fn.tdh_mem_page_aug, gfn, level, pfn)",
            ),
        ),
    ),
    Mutant(
        "aug-wrong-pfn",
        "5.3",
        "PAGE.AUG is given another page than the SPTE",
        "fault-fault",
        "I12",
        (change("tdh_mem_page_aug", "pfn << PAGE_SHIFT", "pfn + 0x80 << PAGE_SHIFT"),),
    ),
    Mutant(
        "sept-add-wrong-level",
        "5.3",
        "SEPT.ADD is given the level of the new table, not of the entry",
        "fault-fault",
        "I8",
        (change("tdh_mem_sept_add", "mem_regs(kvm, gfn, level)", "mem_regs(kvm, gfn, level - 1)"),),
    ),
    Mutant(
        "sept-add-wrong-page",
        "5.3",
        "SEPT.ADD is given KVM's own table instead of its external_spt",
        "fault-fault",
        "I1",
        (
            change(
                "tdx_spte_to_sept_pt",
                "    return pfn\n",
                "    return sp.pfn\n",
            ),
        ),
    ),
    Mutant(
        "prefault-before-runnable",
        "5.5",
        "pre_fault_allowed is set before the TD is RUNNABLE",
        "build-prefault",
        "",
        (
            change(
                "tdx_td_finalize",
                "        kvm.tdx.state.write(TD_STATE_RUNNABLE)\n",
                "        kvm.pre_fault_allowed.write(True)\n"
                "        kvm.tdx.state.write(TD_STATE_RUNNABLE)\n",
            ),
        ),
        survives=(
            "harmless: KVM_TDX_FINALIZE_VM holds every vcpu->mutex, so no prefault of any vCPU "
            "runs meanwhile"
        ),
    ),
    # --- 5.3 freeing an S-EPT page --------------------------------------------------------
    Mutant(
        "no-reclaim",
        "5.3",
        "an S-EPT page is freed without PHYMEM.PAGE.RECLAIM",
        "subtree",
        "I6",
        (
            change(
                _FREE,
                "if not leak and not kvm.fn.tdx_reclaim_page(kvm, pfn):",
                "if not leak:",
            ),
        ),
    ),
    Mutant(
        "free-before-reclaim",
        "5.3",
        "an S-EPT page is freed before it is reclaimed",
        "subtree",
        "I6",
        (
            change(
                _FREE,
                "    if not leak and not kvm.fn.tdx_reclaim_page(kvm, pfn):\n"
                "        kvm.host.free_page(pfn)\n",
                "    if not leak:\n"
                "        kvm.host.free_page(pfn)\n"
                "        kvm.fn.tdx_reclaim_page(kvm, pfn)\n",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "external-page-kept",
        "5.3",
        "external_spt is not cleared when its page is freed",
        "subtree",
        "WARN:tdp_mmu_free_sp_rcu_callback",
        (change(_FREE, "    sp.external_spt.set(0)\n", ""),),
    ),
    Mutant(
        "reclaimed-page-leaked",
        "5.3",
        "an S-EPT page is reclaimed, but not freed",
        "subtree",
        "I6",
        (change(_FREE, "        kvm.host.free_page(pfn)\n", "        pass\n"),),
        alone=True,
    ),
)

TOGGLES: Final = toggles(MUTANTS)
