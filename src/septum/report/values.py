# SPDX-License-Identifier: GPL-2.0-only
"""Values of shared words for people: SPTEs and S-EPT entries by their kernel names.

A word tells no type, so an integer is decoded by the name of the object that held it
(S-EPT entries) or by bits that nothing but an SPTE has (suppress #VE, present).
"""

from __future__ import annotations

import re
from typing import Any

from septum.kvm.spte import (
    FROZEN_SPTE,
    PG_LEVEL_4K,
    PT_PAGE_SIZE_MASK,
    SHADOW_NONPRESENT_VALUE,
    VMX_EPT_RWX_MASK,
    VMX_EPT_SUPPRESS_VE_BIT,
    is_shadow_present_pte,
    is_writable_pte,
    spte_to_pfn,
)
from septum.tdx import sept

__all__ = ["change", "spte_text", "value"]

_MEMORY_TYPE = 0x7 << 3  # only a leaf has one
_SEPT = re.compile(r"s-?ept", re.IGNORECASE)
_LARGEST_COUNTER = 1 << 20


def spte_text(spte: int, level: int = 0) -> str:
    """``FROZEN``, ``NONPRESENT``, ``leaf pfn 100010``, ``huge leaf pfn ...``, ``table pfn ...``.

    :param level: KVM's level of the entry; 0: not known, it is told by the memory type, which
        is 0 (uncached) in leafs of some hosts.
    """
    if spte == FROZEN_SPTE:
        return "FROZEN"
    if spte == SHADOW_NONPRESENT_VALUE:
        return "NONPRESENT"
    if not is_shadow_present_pte(spte):
        return f"non-present {spte:#x}"
    pfn = f"pfn {spte_to_pfn(spte):x}"
    if level != PG_LEVEL_4K and not spte & (_MEMORY_TYPE | PT_PAGE_SIZE_MASK):
        return f"table {pfn}"
    huge = "huge " if spte & PT_PAGE_SIZE_MASK else ""
    if not spte & VMX_EPT_RWX_MASK:
        return f"{huge}leaf {pfn} no access"
    return f"{huge}leaf {pfn}{'' if is_writable_pte(spte) else ' read-only'}"


def value(v: Any, obj: str = "") -> str:
    """``v`` as held by the object named ``obj``."""
    if v is None:
        return "none"
    if isinstance(v, bool):
        return "true" if v else "false"
    if isinstance(v, int):
        if _SEPT.search(obj):
            return sept.show(v)
        if v > 0 and v & VMX_EPT_SUPPRESS_VE_BIT:
            return spte_text(v)
        return str(v) if abs(v) < _LARGEST_COUNTER else f"{v:#x}"
    if isinstance(v, (tuple, list, frozenset)):
        items = sorted(v, key=repr) if isinstance(v, frozenset) else v
        return "(" + ", ".join(value(item, obj) for item in items) + ")"
    return str(v)


def change(seen: Any, left: Any, obj: str = "") -> str:
    """``old -> new``, or the one value if nothing changed."""
    if seen == left:
        return value(left, obj)
    return f"{value(seen, obj)} -> {value(left, obj)}"
