# SPDX-License-Identifier: GPL-2.0-only
"""Completion status codes and operand ids (facts/tdx-module.md section 7).

A status is 64 bits: 63 ERROR, 62 NON_RECOVERABLE, 61 FATAL, 60 the host recoverability
hint, 47:40 class, 39:32 detail; 31:0 hold an operand id, an exit reason or a level,
which is simply added to the code (so "no operand" and operand RAX look the same).
Non-zero values without the ERROR bit are informational: not success, not an error.

Source: ``include/auto_gen/tdx_error_codes_defs.h`` of TDX Module 1.5.01.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = [
    "NAMES",
    "VALUES",
    "Operand",
    "decode",
    "is_error",
    "is_operand_busy",
    "status_class",
]

TDX_SUCCESS: Final = 0
TDX_NON_RECOVERABLE_VCPU: Final = 0x4000000100000000
TDX_NON_RECOVERABLE_TD: Final = 0x6000000200000000
TDX_INTERRUPTED_RESUMABLE: Final = 0x8000000300000000
TDX_INTERRUPTED_RESTARTABLE: Final = 0x8000000400000000
TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE: Final = 0x6000000500000000
TDX_OPERAND_INVALID: Final = 0xC000010000000000
TDX_OPERAND_ADDR_RANGE_ERROR: Final = 0xC000010100000000
TDX_OPERAND_BUSY: Final = 0x8000020000000000
TDX_PREVIOUS_TLB_EPOCH_BUSY: Final = 0x8000020100000000
TDX_SYS_BUSY: Final = 0x8000020200000000
TDX_RND_NO_ENTROPY: Final = 0x8000020300000000
TDX_OPERAND_BUSY_HOST_PRIORITY: Final = 0x8000020400000000
TDX_HOST_PRIORITY_BUSY_TIMEOUT: Final = 0x9000020500000000
TDX_PAGE_METADATA_INCORRECT: Final = 0xC000030000000000
TDX_PAGE_ALREADY_FREE: Final = 0x0000030100000000
TDX_PAGE_NOT_OWNED_BY_TD: Final = 0xC000030200000000
TDX_PAGE_NOT_FREE: Final = 0xC000030300000000
TDX_TD_ASSOCIATED_PAGES_EXIST: Final = 0xC000040000000000
TDX_TD_FATAL: Final = 0xE000060400000000
TDX_TD_NON_DEBUG: Final = 0xC000060500000000
TDX_TDCS_NOT_ALLOCATED: Final = 0xC000060600000000
TDX_LIFECYCLE_STATE_INCORRECT: Final = 0xC000060700000000
TDX_OP_STATE_INCORRECT: Final = 0xC000060800000000
TDX_NO_VCPUS: Final = 0xC000060900000000
TDX_TDCX_NUM_INCORRECT: Final = 0xC000061000000000
TDX_VCPU_STATE_INCORRECT: Final = 0xC000070000000000
TDX_VCPU_ASSOCIATED: Final = 0x8000070100000000
TDX_VCPU_NOT_ASSOCIATED: Final = 0x8000070200000000
TDX_NO_VALID_VE_INFO: Final = 0xC000070400000000
TDX_MAX_VCPUS_EXCEEDED: Final = 0xC000070500000000
TDX_KEY_GENERATION_FAILED: Final = 0x8000080000000000
TDX_TD_KEYS_NOT_CONFIGURED: Final = 0x8000081000000000
TDX_KEY_STATE_INCORRECT: Final = 0xC000081100000000
TDX_KEY_CONFIGURED: Final = 0x0000081500000000
TDX_WBCACHE_NOT_COMPLETE: Final = 0x8000081700000000
TDX_HKID_NOT_FREE: Final = 0xC000082000000000
TDX_NO_HKID_READY_TO_WBCACHE: Final = 0x0000082100000000
TDX_WBCACHE_RESUME_ERROR: Final = 0xC000082300000000
TDX_FLUSHVP_NOT_DONE: Final = 0x8000082400000000
TDX_EPT_WALK_FAILED: Final = 0xC0000B0000000000
TDX_EPT_ENTRY_FREE: Final = 0xC0000B0100000000
TDX_EPT_ENTRY_NOT_FREE: Final = 0xC0000B0200000000
TDX_EPT_ENTRY_NOT_PRESENT: Final = 0xC0000B0300000000
TDX_EPT_ENTRY_NOT_LEAF: Final = 0xC0000B0400000000
TDX_EPT_ENTRY_LEAF: Final = 0xC0000B0500000000
TDX_GPA_RANGE_NOT_BLOCKED: Final = 0xC0000B0600000000
TDX_GPA_RANGE_ALREADY_BLOCKED: Final = 0x00000B0700000000
TDX_TLB_TRACKING_NOT_DONE: Final = 0xC0000B0800000000
TDX_EPT_INVALID_PROMOTE_CONDITIONS: Final = 0xC0000B0900000000
TDX_PAGE_ALREADY_ACCEPTED: Final = 0x00000B0A00000000
TDX_PAGE_SIZE_MISMATCH: Final = 0xC0000B0B00000000
TDX_GPA_RANGE_BLOCKED: Final = 0xC0000B0C00000000
TDX_EPT_ENTRY_STATE_INCORRECT: Final = 0xC0000B0D00000000
TDX_EPT_PAGE_NOT_FREE: Final = 0xC0000B0E00000000
TDX_L2_SEPT_WALK_FAILED: Final = 0xC0000B0F00000000
TDX_L2_SEPT_ENTRY_NOT_FREE: Final = 0xC0000B1000000000
TDX_PAGE_ATTR_INVALID: Final = 0xC0000B1100000000
TDX_L2_SEPT_PAGE_NOT_PROVIDED: Final = 0xC0000B1200000000

VALUES: Final[dict[str, int]] = {
    name: value for name, value in list(globals().items()) if name.startswith("TDX_")
}
NAMES: Final[dict[int, str]] = {value: name for name, value in VALUES.items()}
__all__ += sorted(VALUES)


class Operand(IntEnum):
    """What bits 31:0 of an error name."""

    RAX = 0
    RCX = 1
    RDX = 2
    RBX = 3
    RBP = 5
    RSI = 6
    RDI = 7
    R8 = 8
    R9 = 9
    R10 = 10
    R11 = 11
    R12 = 12
    R13 = 13
    R14 = 14
    R15 = 15
    ATTRIBUTES = 64
    XFAM = 65
    EXEC_CONTROLS = 66
    EPTP_CONTROLS = 67
    MAX_VCPUS = 68
    CPUID_CONFIG = 69
    TSC_FREQUENCY = 70
    NUM_L2_VMS = 71
    PAGE = 95
    GPA_LIST_ENTRY = 97
    TDR = 128
    TDCX = 129
    TDVPR = 130
    REG_PAGE = 132
    TDCS = 144
    TDVPS = 145
    SEPT_TREE = 146
    SEPT_ENTRY = 147
    RTMR = 168
    TD_EPOCH = 169
    OP_STATE = 172
    KOT = 186
    KET = 187
    WBCACHE = 188


_ALWAYS_OPERAND: Final = {
    TDX_OPERAND_INVALID,
    TDX_OPERAND_ADDR_RANGE_ERROR,
    TDX_OPERAND_BUSY,
}
_LEVEL: Final = {TDX_PAGE_ALREADY_ACCEPTED, TDX_PAGE_SIZE_MISMATCH}
_EXIT_REASON: Final = {
    TDX_SUCCESS,
    TDX_NON_RECOVERABLE_VCPU,
    TDX_NON_RECOVERABLE_TD,
    TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE,
    TDX_HOST_PRIORITY_BUSY_TIMEOUT,
}


def status_class(rax: int) -> int:
    """The status without operand id, exit reason or level."""
    return rax & 0xFFFFFFFF00000000


def is_error(rax: int) -> bool:
    """Bit 63 or 62: the call failed (informational codes are not errors)."""
    return bool(rax >> 62)


def is_operand_busy(rax: int) -> bool:
    """Linux's test: the upper half equals that of TDX_OPERAND_BUSY exactly."""
    return status_class(rax) == TDX_OPERAND_BUSY


def decode(rax: int) -> str:
    """A status for people: ``TDX_OPERAND_BUSY|SEPT_TREE``, ``TDX_PAGE_SIZE_MISMATCH|level 1``."""
    code = status_class(rax)
    low = rax & 0xFFFFFFFF
    name = NAMES.get(code)
    if name is None:
        return f"{rax:#018x}"
    if code in _LEVEL:
        return f"{name}|level {low}"
    if code in _EXIT_REASON:
        return f"{name}|exit reason {low}" if low else name
    if not low and code not in _ALWAYS_OPERAND:
        return name
    try:
        return f"{name}|{Operand(low).name}"
    except ValueError:
        return f"{name}|{low:#x}"
