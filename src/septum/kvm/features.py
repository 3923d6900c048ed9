# SPDX-License-Identifier: GPL-2.0-only
"""What a host and a VM are configured for: module parameters, CPU features, capabilities.

All of it is fixed before anyone explores (facts 1.1, 4.14, 4.17).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Features"]


@dataclass(frozen=True, slots=True)
class Features:
    """``ad``: kvm_ad_enabled; ``pml``: cpu_dirty_log_size != 0 (needs ``ad``); ``nx``: the
    NX huge page mitigation; ``eager_split``: eager_page_split; ``manual``:
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE; ``init_set``: KVM_DIRTY_LOG_INITIALLY_SET (implies
    ``manual``); ``write_tracking``: GFNs may be write-tracked; ``slot_zap_all``:
    KVM_X86_QUIRK_SLOT_ZAP_ALL (userspace may disable it; facts 4.10)."""

    ad: bool = True
    pml: bool = False
    nx: bool = False
    eager_split: bool = False
    manual: bool = False
    init_set: bool = False
    write_tracking: bool = False
    slot_zap_all: bool = True

    def __post_init__(self) -> None:
        if self.pml and not self.ad:
            raise ValueError("PML needs A/D bits")
        if self.init_set and not self.manual:
            raise ValueError("init_set needs manual")
