# SPDX-License-Identifier: GPL-2.0-only
"""Leaf numbers of the SEAMCALLs and TDCALLs (facts/tdx-module.md section 1)."""

from __future__ import annotations

from typing import Final

__all__ = ["SEAMCALL_NAMES", "SEAMCALL_NUMBERS", "TDCALL_NAMES", "TDCALL_NUMBERS", "VERSIONED"]

TDH_VP_ENTER: Final = 0
TDH_MNG_ADDCX: Final = 1
TDH_MEM_PAGE_ADD: Final = 2
TDH_MEM_SEPT_ADD: Final = 3
TDH_VP_ADDCX: Final = 4
TDH_MEM_PAGE_RELOCATE: Final = 5
TDH_MEM_PAGE_AUG: Final = 6
TDH_MEM_RANGE_BLOCK: Final = 7
TDH_MNG_KEY_CONFIG: Final = 8
TDH_MNG_CREATE: Final = 9
TDH_VP_CREATE: Final = 10
TDH_MNG_RD: Final = 11
TDH_MEM_PAGE_DEMOTE: Final = 15
TDH_MR_EXTEND: Final = 16
TDH_MR_FINALIZE: Final = 17
TDH_VP_FLUSH: Final = 18
TDH_MNG_VPFLUSHDONE: Final = 19
TDH_MNG_KEY_FREEID: Final = 20
TDH_MNG_INIT: Final = 21
TDH_VP_INIT: Final = 22
TDH_MEM_PAGE_PROMOTE: Final = 23
TDH_PHYMEM_PAGE_RDMD: Final = 24
TDH_MEM_SEPT_RD: Final = 25
TDH_VP_RD: Final = 26
TDH_MNG_KEY_RECLAIMID: Final = 27
TDH_PHYMEM_PAGE_RECLAIM: Final = 28
TDH_MEM_PAGE_REMOVE: Final = 29
TDH_MEM_SEPT_REMOVE: Final = 30
TDH_MEM_TRACK: Final = 38
TDH_MEM_RANGE_UNBLOCK: Final = 39
TDH_PHYMEM_CACHE_WB: Final = 40
TDH_PHYMEM_PAGE_WBINVD: Final = 41

TDG_VP_VEINFO_GET: Final = 3
TDG_MEM_PAGE_ACCEPT: Final = 6
TDG_MEM_PAGE_ATTR_RD: Final = 23
TDG_MEM_PAGE_ATTR_WR: Final = 24


def _spell(name: str) -> str:
    return name.replace("_", ".")


SEAMCALL_NAMES: Final[dict[int, str]] = {
    v: _spell(k) for k, v in list(globals().items()) if k.startswith("TDH_")
}
TDCALL_NAMES: Final[dict[int, str]] = {
    v: _spell(k) for k, v in list(globals().items()) if k.startswith("TDG_")
}
SEAMCALL_NUMBERS: Final[dict[str, int]] = {v: k for k, v in SEAMCALL_NAMES.items()}
TDCALL_NUMBERS: Final[dict[str, int]] = {v: k for k, v in TDCALL_NAMES.items()}

# Leaves whose handler looks at the version itself; all others accept version 0 only.
VERSIONED: Final = frozenset(
    {TDH_MEM_PAGE_PROMOTE, TDH_MEM_SEPT_ADD, TDH_MEM_SEPT_REMOVE, TDH_MNG_RD, TDH_VP_RD}
)

__all__ += sorted(n for n in list(globals()) if n.startswith(("TDH_", "TDG_")))
