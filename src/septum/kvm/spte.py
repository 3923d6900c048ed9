# SPDX-License-Identifier: GPL-2.0-only
"""SPTE encoding: Linux 7.3 on EPT (facts 1; arch/x86/kvm/mmu/spte.{c,h}).

Values are the kernel's 64-bit values.  Only the number of guest pages under a huge
entry depends on the geometry.  "Present" always means `SPTE_MMU_PRESENT_MASK`.
A mirror SPTE is an ordinary EPT-format SPTE that no CPU ever walks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from septum.kvm.structs import Kvm, KvmMmuPage, Spte

__all__ = [
    "ACC_ALL",
    "EPT_SPTE_HOST_WRITABLE",
    "EPT_SPTE_MMU_WRITABLE",
    "FROZEN_SPTE",
    "MMIO_SPTE_GEN_MASK",
    "PG_LEVEL_1G",
    "PG_LEVEL_2M",
    "PG_LEVEL_4K",
    "PT_PAGE_SIZE_MASK",
    "PT_WRITABLE_MASK",
    "SHADOW_NONPRESENT_VALUE",
    "SPTE_MMU_PRESENT_MASK",
    "VMX_EPT_ACCESS_BIT",
    "VMX_EPT_DIRTY_BIT",
    "VMX_EPT_MISCONFIG_WX_VALUE",
    "VMX_EPT_RWX_MASK",
    "change_spte_executable",
    "check_spte_writable_invariants",
    "get_mmio_spte_generation",
    "get_mmio_spte_gfn",
    "is_access_track_spte",
    "is_accessed_spte",
    "is_ept_ve_possible",
    "is_frozen_spte",
    "is_large_pte",
    "is_last_spte",
    "is_mirror_sp",
    "is_mirror_sptep",
    "is_mmio_spte",
    "is_mmu_writable_spte",
    "is_shadow_present_pte",
    "is_writable_pte",
    "kvm_tdp_mmu_spte_need_atomic_update",
    "leaf_spte_change_needs_tlb_flush",
    "make_huge_spte",
    "make_mmio_spte",
    "make_nonleaf_spte",
    "make_small_spte",
    "make_spte",
    "mark_spte_for_access_track",
    "restore_acc_track_spte",
    "spte_ad_enabled",
    "spte_needs_atomic_update",
    "spte_permission_fault",
    "spte_to_child_sp",
    "spte_to_pfn",
    "sptep_to_sp",
]

PG_LEVEL_4K: Final = 1
PG_LEVEL_2M: Final = 2
PG_LEVEL_1G: Final = 3

PT_PRESENT_MASK: Final = 1 << 0
PT_WRITABLE_MASK: Final = 1 << 1
VMX_EPT_EXECUTABLE_MASK: Final = 1 << 2
VMX_EPT_RWX_MASK: Final = 0x7
VMX_EPT_IPAT_BIT: Final = 1 << 6
PT_PAGE_SIZE_MASK: Final = 1 << 7
VMX_EPT_ACCESS_BIT: Final = 1 << 8
VMX_EPT_DIRTY_BIT: Final = 1 << 9
VMX_EPT_USER_EXECUTABLE_MASK: Final = 1 << 10
SPTE_MMU_PRESENT_MASK: Final = 1 << 11
SPTE_BASE_ADDR_MASK: Final = ((1 << 52) - 1) & ~0xFFF
EPT_SPTE_HOST_WRITABLE: Final = 1 << 53
EPT_SPTE_MMU_WRITABLE: Final = 1 << 55
SPTE_TDP_AD_MASK: Final = 3 << 60
SPTE_TDP_AD_DISABLED: Final = 1 << 60
VMX_EPT_SUPPRESS_VE_BIT: Final = 1 << 63
VMX_EPT_MISCONFIG_WX_VALUE: Final = 0x6
MTRR_TYPE_WRBACK: Final = 6 << 3

shadow_acc_track_mask: Final = VMX_EPT_RWX_MASK | VMX_EPT_USER_EXECUTABLE_MASK
SHADOW_ACC_TRACK_SAVED_BITS_SHIFT: Final = 52
_SAVED_BITS: Final = (
    PT_PRESENT_MASK | VMX_EPT_EXECUTABLE_MASK | VMX_EPT_USER_EXECUTABLE_MASK
)  # W is not saved
_SAVED_PLACE: Final = _SAVED_BITS << SHADOW_ACC_TRACK_SAVED_BITS_SHIFT
shadow_exec_mask: Final = VMX_EPT_EXECUTABLE_MASK | VMX_EPT_USER_EXECUTABLE_MASK
shadow_mmio_mask: Final = VMX_EPT_RWX_MASK | VMX_EPT_SUPPRESS_VE_BIT

ACC_WRITE_MASK: Final = 2
ACC_ALL: Final = 0xF  # 7.3: R 1, W 2, U/XU 4, X 8

SHADOW_NONPRESENT_VALUE: Final = 1 << 63
MMIO_SPTE_GEN_MASK: Final = (1 << 18) - 1
FROZEN_SPTE: Final = SHADOW_NONPRESENT_VALUE | 0x1A0


def is_shadow_present_pte(spte: int) -> bool:
    return bool(spte & SPTE_MMU_PRESENT_MASK)


def is_frozen_spte(spte: int) -> bool:
    return spte == FROZEN_SPTE


def is_large_pte(spte: int) -> bool:
    return bool(spte & PT_PAGE_SIZE_MASK)


def is_last_spte(spte: int, level: int) -> bool:
    """Does not test present."""
    return level == PG_LEVEL_4K or bool(spte & PT_PAGE_SIZE_MASK)


def spte_to_pfn(spte: int) -> int:
    return (spte & SPTE_BASE_ADDR_MASK) >> 12


def is_mmio_spte(kvm: Kvm, spte: int) -> bool:
    """A TD's shadow_mmio_value is 0: RWX and suppress-#VE all clear (facts 1.2)."""
    return (spte & shadow_mmio_mask) == kvm.shadow_mmio_value


def is_writable_pte(spte: int) -> bool:
    return bool(spte & PT_WRITABLE_MASK)


def is_mmu_writable_spte(spte: int) -> bool:
    return bool(spte & EPT_SPTE_MMU_WRITABLE)


def spte_ad_enabled(spte: int) -> bool:
    return (spte & SPTE_TDP_AD_MASK) != SPTE_TDP_AD_DISABLED


def is_access_track_spte(spte: int) -> bool:
    return not spte_ad_enabled(spte) and not spte & shadow_acc_track_mask


def is_accessed_spte(spte: int) -> bool:
    return bool(spte & VMX_EPT_ACCESS_BIT)


def spte_needs_atomic_update(spte: int) -> bool:
    """Whether a CPU or a lockless path may change the SPTE meanwhile, in a way that
    matters.  The accessed bit alone does not count (facts 1.3)."""
    if not is_writable_pte(spte) and is_mmu_writable_spte(spte):
        return True
    if not spte_ad_enabled(spte):
        return True
    return is_writable_pte(spte) and not spte & VMX_EPT_DIRTY_BIT


def kvm_tdp_mmu_spte_need_atomic_update(spte: int, level: int) -> bool:
    return (
        is_shadow_present_pte(spte) and is_last_spte(spte, level) and spte_needs_atomic_update(spte)
    )


def leaf_spte_change_needs_tlb_flush(old_spte: int, new_spte: int) -> bool:
    return is_mmu_writable_spte(old_spte) and not is_mmu_writable_spte(new_spte)


def is_ept_ve_possible(spte: int) -> bool:
    return not spte & VMX_EPT_SUPPRESS_VE_BIT and (
        (spte & VMX_EPT_RWX_MASK) != VMX_EPT_MISCONFIG_WX_VALUE
    )


def check_spte_writable_invariants(kvm: Kvm, spte: int) -> None:
    """MMU-writable => Host-writable; W => MMU-writable (I13)."""
    if is_mmu_writable_spte(spte):
        if not spte & EPT_SPTE_HOST_WRITABLE:
            kvm.m.report(
                "WARN:check_spte_writable_invariants",
                f"MMU-writable SPTE is not Host-writable: {spte:x}",
            )
    elif is_writable_pte(spte):
        kvm.m.report(
            "WARN:check_spte_writable_invariants",
            f"writable SPTE is not MMU-writable: {spte:x}",
        )


def sptep_to_sp(sptep: Spte) -> KvmMmuPage:
    return sptep.page.owner


def is_mirror_sp(sp: KvmMmuPage) -> bool:
    return sp.is_mirror


def is_mirror_sptep(sptep: Spte) -> bool:
    return sptep.page.owner.is_mirror


def spte_to_child_sp(kvm: Kvm, spte: int) -> KvmMmuPage:
    return kvm.mmu_pages[(spte & SPTE_BASE_ADDR_MASK) >> 12]


def make_nonleaf_spte(child: KvmMmuPage, ad_disabled: bool = False) -> int:
    """An SPTE pointing to ``child``'s table (make_nonleaf_spte(u64 *child_pt, ...))."""
    return (
        SPTE_MMU_PRESENT_MASK
        | child.pfn << 12
        | VMX_EPT_SUPPRESS_VE_BIT
        | VMX_EPT_RWX_MASK
        | VMX_EPT_USER_EXECUTABLE_MASK
        | (SPTE_TDP_AD_DISABLED if ad_disabled else VMX_EPT_ACCESS_BIT)
    )


def mark_spte_for_access_track(spte: int) -> int:
    """With A/D enabled this only clears A."""
    if spte_ad_enabled(spte):
        return spte & ~VMX_EPT_ACCESS_BIT
    if is_access_track_spte(spte):
        return spte
    saved = (spte & _SAVED_BITS) << SHADOW_ACC_TRACK_SAVED_BITS_SHIFT
    return (spte & ~(shadow_acc_track_mask | VMX_EPT_ACCESS_BIT)) | saved


def restore_acc_track_spte(spte: int) -> int:
    """The access bits that `mark_spte_for_access_track` saved; W comes from the caller."""
    saved = spte >> SHADOW_ACC_TRACK_SAVED_BITS_SHIFT & _SAVED_BITS
    return (
        spte & ~(shadow_acc_track_mask | _SAVED_BITS << SHADOW_ACC_TRACK_SAVED_BITS_SHIFT) | saved
    )


def make_spte(
    kvm: Kvm,
    sp: KvmMmuPage,
    pfn: int,
    *,
    pte_access: int = ACC_ALL,
    prefetch: bool = False,
    host_writable: bool = True,
    may_write: bool = True,
) -> tuple[bool, int]:
    """``(wrprot, new_spte)`` of a leaf in ``sp`` (facts 1.3; order matters).

    :param may_write: false if `mmu_try_to_unsync_pages` refuses: the GFN is write-tracked.
    """
    spte = SPTE_MMU_PRESENT_MASK
    if sp.role.ad_disabled:
        spte |= SPTE_TDP_AD_DISABLED
    spte |= VMX_EPT_SUPPRESS_VE_BIT
    if not prefetch:
        spte |= VMX_EPT_ACCESS_BIT
    spte |= PT_PRESENT_MASK
    if sp.role.level == PG_LEVEL_4K or not kvm.features.nx:
        spte |= shadow_exec_mask
    if sp.role.level > PG_LEVEL_4K:
        spte |= PT_PAGE_SIZE_MASK
    spte |= MTRR_TYPE_WRBACK
    if not kvm.has_mirrored_tdp:  # a TD disables KVM_X86_QUIRK_IGNORE_GUEST_PAT
        spte |= VMX_EPT_IPAT_BIT
    if host_writable:
        spte |= EPT_SPTE_HOST_WRITABLE
    else:
        pte_access &= ~ACC_WRITE_MASK
    spte |= pfn << 12
    wrprot = bool(pte_access & ACC_WRITE_MASK) and not may_write
    if pte_access & ACC_WRITE_MASK and not wrprot:
        spte |= PT_WRITABLE_MASK | EPT_SPTE_MMU_WRITABLE | VMX_EPT_DIRTY_BIT
    if prefetch:
        spte = mark_spte_for_access_track(spte)
    return wrprot, spte


def make_mmio_spte(kvm: Kvm, gfn: int) -> int:
    """EPT: no access bits; 18 bits of the memslots' generation (facts 1.2)."""
    gen = int(kvm.memslots_generation.read()) & MMIO_SPTE_GEN_MASK
    return int(kvm.shadow_mmio_value) | (gen & 0x7F) << 3 | (gen >> 7) << 52 | gfn << 12


def get_mmio_spte_generation(spte: int) -> int:
    """gen[6:0] from spte[9:3], gen[17:7] from spte[62:52]."""
    return spte >> 3 & 0x7F | (spte >> 52 & 0x7FF) << 7


def get_mmio_spte_gfn(spte: int) -> int:
    return (spte & SPTE_BASE_ADDR_MASK) >> 12


def spte_permission_fault(spte: int, write: bool, fetch: bool) -> bool:
    """TDP tables: reads need R, writes W, fetches X (facts 1.3, without MBEC and GMET)."""
    if not is_shadow_present_pte(spte):
        return True
    if write:
        return not is_writable_pte(spte)
    return not spte & (VMX_EPT_EXECUTABLE_MASK if fetch else PT_PRESENT_MASK)


def make_huge_spte(kvm: Kvm, small_spte: int, level: int) -> int:
    """One huge leaf in place of the table that ``small_spte`` is in."""
    pfn = spte_to_pfn(small_spte) & -kvm.pages_per_hpage[level]
    huge_spte = small_spte & ~SPTE_BASE_ADDR_MASK | pfn << 12 | PT_PAGE_SIZE_MASK
    return change_spte_executable(huge_spte, False) if kvm.features.nx else huge_spte


def change_spte_executable(spte: int, executable: bool) -> int:
    """Grant or take execution; of an access-tracked SPTE, in the saved bits."""
    mask = shadow_exec_mask
    if is_access_track_spte(spte):
        mask <<= SHADOW_ACC_TRACK_SAVED_BITS_SHIFT
    return spte | mask if executable else spte & ~mask


def make_small_spte(kvm: Kvm, huge_spte: int, child_level: int, index: int) -> int:
    """The ``index``-th part of a huge leaf, at ``child_level``."""
    child_spte = huge_spte | (index * kvm.pages_per_hpage[child_level]) << 12
    if child_level == PG_LEVEL_4K:
        child_spte &= ~PT_PAGE_SIZE_MASK
        # The mitigation does not apply to 4K pages.
        if kvm.features.nx:
            child_spte = change_spte_executable(child_spte, True)
    return child_spte
