# SPDX-License-Identifier: GPL-2.0-only
"""Page tables that are allocated and that nothing leads to, from the runtime's own records.

A struct kvm_mmu_page that has a page table and was not freed stands for its table and for the
S-EPT page that came with it; one in a vCPU's cache has no page table yet (tdp_mmu_alloc_sp()).
"""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, Final

from septum.native.image import ARENA, FIRST_PFN

if TYPE_CHECKING:
    from septum.native.view import NativeView

__all__ = ["table_pages"]

_BLOCK: Final = struct.Struct("<QQQII")  # struct block of c/runtime.h
_LIVE: Final = 1


def table_pages(view: NativeView) -> list[tuple[int, str, bool]]:
    """`septum.kvm.view_direct.DirectView.table_pages`."""
    kernel = view.kernel
    image = kernel.image
    used = image.u64(image.symbols["septum_blocks_used"])
    blocks = ctypes.string_at(image.symbols["septum_blocks"], used * _BLOCK.size)
    linked = {entry.table.name for entry in view.entries()} | {r.name for r in view.roots()}
    out = []
    for sp, size, _, state, _ in _BLOCK.iter_unpack(blocks):
        if size != kernel.sp_block or state != _LIVE:
            continue
        spt = kernel.value("kvm_mmu_page.spt", sp)
        if not spt:
            continue
        name = view.table_name(sp)
        out.append((_pfn(spt), f"table {name}", name in linked))
        external = kernel.value("kvm_mmu_page.external_spt", sp)
        if external:
            out.append((_pfn(external), f"S-EPT page of {name}", name in linked))
    return out


def _pfn(addr: int) -> int:
    return (addr - ARENA >> 12) + FIRST_PFN
