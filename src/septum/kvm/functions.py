# SPDX-License-Identifier: GPL-2.0-only
"""Every function of the floor by its kernel name: what `septum.kvm.structs.Kvm` starts from.

Those that the designs change (facts 6) are not here; `septum.designs` adds them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from septum.kvm import (
    cpus,
    dirty_log,
    fast_page_fault,
    fast_zap,
    gmem,
    mem_attributes,
    memslots,
    mmio,
    mmu,
    notifier,
    nx,
    recover,
    roots,
    seamcall,
    tdp_mmu,
    tdx,
    tdx_lifecycle,
    tdx_sept,
    vcpu,
    vmx,
    wrprot,
    x86,
    zap,
)

__all__ = ["FUNCTIONS"]

FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    **x86.FUNCTIONS,
    **tdp_mmu.FUNCTIONS,
    **roots.FUNCTIONS,
    **zap.FUNCTIONS,
    **notifier.FUNCTIONS,
    **memslots.FUNCTIONS,
    **mem_attributes.FUNCTIONS,
    **gmem.FUNCTIONS,
    **mmu.FUNCTIONS,
    **seamcall.FUNCTIONS,
    **tdx_sept.FUNCTIONS,
    **tdx.FUNCTIONS,
    **tdx_lifecycle.FUNCTIONS,
    **vcpu.FUNCTIONS,
    **cpus.FUNCTIONS,
    **fast_page_fault.FUNCTIONS,
    **mmio.FUNCTIONS,
    **nx.FUNCTIONS,
    **wrprot.FUNCTIONS,
    **dirty_log.FUNCTIONS,
    **recover.FUNCTIONS,
    **fast_zap.FUNCTIONS,
    **vmx.FUNCTIONS,
}
