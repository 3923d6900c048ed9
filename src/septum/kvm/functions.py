# SPDX-License-Identifier: GPL-2.0-only
"""Every function of the floor by its kernel name: what `septum.kvm.structs.Kvm` starts from.

Those that the designs change (facts 6) are not here; `septum.designs` adds them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from septum.kvm import (
    cpus,
    gmem,
    mem_attributes,
    memslots,
    mmu,
    notifier,
    roots,
    seamcall,
    tdp_mmu,
    tdx,
    tdx_lifecycle,
    tdx_sept,
    vcpu,
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
}
