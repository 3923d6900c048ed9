# SPDX-License-Identifier: GPL-2.0-only
"""What differs between kernel families and between EPT and NPT, as data.

A recording does not say which kernel wrote it.  `KERNELS` holds, per family, the
constants and orders that a reader of recordings meets (facts 8.4, 2.1; checked in
Debian's 6.1.192, 6.12.107 and 7.3.4 sources).  `FORMATS` holds the SPTE bits that
change without a trace line, for the two hardware formats (facts 1.1).  Nothing here
has state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from septum.kvm.spte import (
    EPT_SPTE_HOST_WRITABLE,
    EPT_SPTE_MMU_WRITABLE,
    FROZEN_SPTE,
    PT_PRESENT_MASK,
    PT_WRITABLE_MASK,
    SHADOW_ACC_TRACK_SAVED_BITS_SHIFT,
    SHADOW_NONPRESENT_VALUE,
    SPTE_TDP_AD_DISABLED,
    SPTE_TDP_AD_MASK,
    VMX_EPT_ACCESS_BIT,
    VMX_EPT_DIRTY_BIT,
    VMX_EPT_EXECUTABLE_MASK,
    VMX_EPT_MISCONFIG_WX_VALUE,
    VMX_EPT_RWX_MASK,
    VMX_EPT_SUPPRESS_VE_BIT,
    VMX_EPT_USER_EXECUTABLE_MASK,
    is_last_spte,
    is_shadow_present_pte,
    shadow_acc_track_mask,
)

__all__ = [
    "EMPTY_VALUES",
    "EPT",
    "FORMATS",
    "FROZEN_VALUES",
    "KERNELS",
    "NPT",
    "KernelVersion",
    "SpteFormat",
    "decode_role",
    "restore_acc_track_spte",
    "spte_format_of",
]

# ---------------------------------------------------------------- SPTE formats

NPT_ACCESSED: Final = 1 << 5
NPT_DIRTY: Final = 1 << 6
PT64_NX_MASK: Final = 1 << 63
DEFAULT_SPTE_HOST_WRITABLE: Final = 1 << 9
DEFAULT_SPTE_MMU_WRITABLE: Final = 1 << 10
NPT_MMIO_VALUE: Final = 1 << 51 | PT_PRESENT_MASK
_EPT_MT_WB_LOW_BIT: Final = 1 << 4  # 6 << 3 sets bits 4 and 5; NPT leaves bit 4 clear


@dataclass(frozen=True, slots=True)
class SpteFormat:
    """The bits of one hardware format that change without a line of their own."""

    name: str
    accessed: int
    dirty: int
    host_writable: int
    mmu_writable: int
    executable: int
    """Bits that make_small_spte() may grant or drop again (NX huge pages)."""

    @property
    def volatile(self) -> int:
        """A and D are set by the CPU, W by fast_page_fault()."""
        return self.accessed | self.dirty | PT_WRITABLE_MASK

    def may_be_mmio(self, spte: int) -> bool:
        """Whether a non-present value can be an MMIO SPTE (facts 1.2).  The kernel's
        mask depends on the host's address width; a TD's value has RWX = 0."""
        if spte & VMX_EPT_SUPPRESS_VE_BIT:
            return False
        if self.name == "npt":
            return spte & NPT_MMIO_VALUE == NPT_MMIO_VALUE
        return spte & VMX_EPT_RWX_MASK in (0, VMX_EPT_MISCONFIG_WX_VALUE)


NPT: Final = SpteFormat(
    name="npt",
    accessed=NPT_ACCESSED,
    dirty=NPT_DIRTY,
    host_writable=DEFAULT_SPTE_HOST_WRITABLE,
    mmu_writable=DEFAULT_SPTE_MMU_WRITABLE,
    executable=PT64_NX_MASK,
)
EPT: Final = SpteFormat(
    name="ept",
    accessed=VMX_EPT_ACCESS_BIT,
    dirty=VMX_EPT_DIRTY_BIT,
    host_writable=EPT_SPTE_HOST_WRITABLE,
    mmu_writable=EPT_SPTE_MMU_WRITABLE,
    executable=VMX_EPT_EXECUTABLE_MASK | VMX_EPT_USER_EXECUTABLE_MASK,
)
FORMATS: Final = {"npt": NPT, "ept": EPT}


def spte_format_of(spte: int, level: int) -> SpteFormat | None:
    """The format a present SPTE shows, or None if the value does not tell.

    Non-leafs tell always: NPT sets bit 5 (A) in them, EPT keeps bits 3-7 clear.  A
    leaf tells EPT by the write-back memory type, which NPT never sets.
    """
    if not is_shadow_present_pte(spte):
        return None
    if is_last_spte(spte, level):
        return EPT if spte & _EPT_MT_WB_LOW_BIT else None
    return NPT if spte & NPT_ACCESSED else EPT


def restore_acc_track_spte(spte: int) -> int:
    """An access-tracked EPT SPTE as fast_page_fault() restores it (no trace line)."""
    if spte & SPTE_TDP_AD_MASK != SPTE_TDP_AD_DISABLED or spte & shadow_acc_track_mask:
        return spte
    bits = VMX_EPT_RWX_MASK & ~PT_WRITABLE_MASK | VMX_EPT_USER_EXECUTABLE_MASK
    saved = bits << SHADOW_ACC_TRACK_SAVED_BITS_SHIFT
    restored = (spte & saved) >> SHADOW_ACC_TRACK_SAVED_BITS_SHIFT
    return (spte & ~saved) | restored | VMX_EPT_ACCESS_BIT


# -------------------------------------------------------------- kernel families

_ROLE_OLD: Final = (
    ("level", 0, 4),
    ("has_4_byte_gpte", 4, 1),
    ("quadrant", 5, 2),
    ("direct", 7, 1),
    ("access", 8, 3),
    ("invalid", 11, 1),
    ("efer_nx", 12, 1),
    ("cr0_wp", 13, 1),
    ("smep_andnot_wp", 14, 1),
    ("smap_andnot_wp", 15, 1),
    ("ad_disabled", 16, 1),
    ("guest_mode", 17, 1),
    ("passthrough", 18, 1),
    ("smm", 24, 8),
)
_ROLE_7_3: Final = (
    ("level", 0, 4),
    ("has_4_byte_gpte", 4, 1),
    ("quadrant", 5, 2),
    ("direct", 7, 1),
    ("access", 8, 4),
    ("invalid", 12, 1),
    ("efer_nx", 13, 1),
    ("cr0_wp", 14, 1),
    ("smap_andnot_wp", 15, 1),
    ("ad_disabled", 16, 1),
    ("guest_mode", 17, 1),
    ("passthrough", 18, 1),
    ("is_mirror", 19, 1),
    ("cr4_smep", 20, 1),
    ("smm", 24, 8),
)
_ACCESS_OLD: Final = ("---", "--x", "w--", "w-x", "-u-", "-ux", "wu-", "wux")
_ACCESS_7_3: Final = (
    *("----", "r---", "-w--", "rw--", "--u-", "r-u-", "-wu-", "rwu-"),
    *("---x", "r--x", "-w-x", "rw-x", "--ux", "r-ux", "-wux", "rwux"),
)


@dataclass(frozen=True, slots=True)
class KernelVersion:
    """One kernel family as its recordings show it (facts 8.4)."""

    name: str
    empty: int
    """A non-present SPTE (SHADOW_NONPRESENT_VALUE, or 0 before it existed)."""
    frozen: int
    role_layout: tuple[tuple[str, int, int], ...]
    """(field, first bit, bits) of union kvm_mmu_page_role (facts 2.1)."""
    access_strings: tuple[str, ...]
    parent_first: bool
    """Whether a removed table's parent is logged before its children."""
    freezes_live_entries: bool
    """6.1: the frozen value also appears in an entry that stays in use, and the plain
    store of the empty value that ends it has no line."""


KERNELS: Final = {
    version.name: version
    for version in (
        KernelVersion(
            name="6.1",
            empty=0,
            frozen=0x5A0,
            role_layout=_ROLE_OLD,
            access_strings=_ACCESS_OLD,
            parent_first=True,
            freezes_live_entries=True,
        ),
        KernelVersion(
            name="6.12",
            empty=SHADOW_NONPRESENT_VALUE,
            frozen=SHADOW_NONPRESENT_VALUE | 0x5A0,
            role_layout=_ROLE_OLD,
            access_strings=_ACCESS_OLD,
            parent_first=True,
            freezes_live_entries=False,
        ),
        KernelVersion(
            name="7.3",
            empty=SHADOW_NONPRESENT_VALUE,
            frozen=FROZEN_SPTE,
            role_layout=_ROLE_7_3,
            access_strings=_ACCESS_7_3,
            parent_first=False,
            freezes_live_entries=False,
        ),
    )
}

EMPTY_VALUES: Final = frozenset(version.empty for version in KERNELS.values())
FROZEN_VALUES: Final = frozenset(version.frozen for version in KERNELS.values())


def decode_role(version: KernelVersion, word: int) -> dict[str, int]:
    """The fields of a raw page role, e.g. from a recording without print formats."""
    return {field: word >> shift & ((1 << bits) - 1) for field, shift, bits in version.role_layout}
