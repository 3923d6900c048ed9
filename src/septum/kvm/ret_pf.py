# SPDX-License-Identifier: GPL-2.0-only
"""RET_PF_* and PFERR_* (mmu/mmu_internal.h, asm/kvm_host.h; facts 4.5, 4.6).

A page-fault handler returns a RET_PF code, or a negative errno for userspace.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "PFERR_FETCH_MASK",
    "PFERR_GUEST_FINAL_MASK",
    "PFERR_PRESENT_MASK",
    "PFERR_PRIVATE_ACCESS",
    "PFERR_RSVD_MASK",
    "PFERR_WRITE_MASK",
    "RET_PF_CONTINUE",
    "RET_PF_EMULATE",
    "RET_PF_FIXED",
    "RET_PF_INVALID",
    "RET_PF_NAMES",
    "RET_PF_RETRY",
    "RET_PF_SPURIOUS",
    "RET_PF_WRITE_PROTECTED",
]

RET_PF_CONTINUE: Final = 0
RET_PF_RETRY: Final = 1
RET_PF_EMULATE: Final = 2
RET_PF_WRITE_PROTECTED: Final = 3
RET_PF_INVALID: Final = 4
RET_PF_FIXED: Final = 5
RET_PF_SPURIOUS: Final = 6

RET_PF_NAMES: Final = (
    "CONTINUE",
    "RETRY",
    "EMULATE",
    "WRITE_PROTECTED",
    "INVALID",
    "FIXED",
    "SPURIOUS",
)

PFERR_PRESENT_MASK: Final = 1 << 0
PFERR_WRITE_MASK: Final = 1 << 1
PFERR_RSVD_MASK: Final = 1 << 3
PFERR_FETCH_MASK: Final = 1 << 4
PFERR_GUEST_FINAL_MASK: Final = 1 << 32
PFERR_PRIVATE_ACCESS: Final = 1 << 49
