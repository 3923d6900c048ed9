# SPDX-License-Identifier: GPL-2.0-only
"""Where a kernel keeps the software bits of an EPT SPTE.

Versions move them (Linux arch/x86/kvm/mmu/spte.h): the Python models have one layout, that of
7.3, so present SPTEs of a compiled kernel are translated when monitors or people look at them.
Others are left alone: an MMIO SPTE holds a generation, and only C reads it.  Nothing here looks at
a version: the glue says what the kernel's headers define (``c/fields.c``).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final

from septum.kvm.spte import (
    EPT_SPTE_HOST_WRITABLE,
    EPT_SPTE_MMU_WRITABLE,
    FROZEN_SPTE,
    PT_PRESENT_MASK,
    SHADOW_ACC_TRACK_SAVED_BITS_SHIFT,
    SPTE_MMU_PRESENT_MASK,
    SPTE_TDP_AD_DISABLED,
    VMX_EPT_EXECUTABLE_MASK,
    VMX_EPT_USER_EXECUTABLE_MASK,
)

__all__ = ["SpteLayout"]

_EXECUTABLE: Final = VMX_EPT_EXECUTABLE_MASK, VMX_EPT_USER_EXECUTABLE_MASK


class SpteLayout:
    """Translates SPTEs of a kernel into those of the Python models.

    :param values: constants of the kernel's spte.h by name: FROZEN_SPTE, EPT_SPTE_HOST_WRITABLE,
        EPT_SPTE_MMU_WRITABLE, SPTE_TDP_AD_DISABLED, SHADOW_ACC_TRACK_SAVED_BITS_MASK and
        SHADOW_ACC_TRACK_SAVED_BITS_SHIFT.
    """

    def __init__(self, values: Mapping[str, int]) -> None:
        self.frozen = values["FROZEN_SPTE"]
        shift = values["SHADOW_ACC_TRACK_SAVED_BITS_SHIFT"]
        disabled = values["SPTE_TDP_AD_DISABLED"]
        has_xu = bool(values["SHADOW_ACC_TRACK_SAVED_BITS_MASK"] & VMX_EPT_USER_EXECUTABLE_MASK)
        saved = SHADOW_ACC_TRACK_SAVED_BITS_SHIFT
        moves = [
            (values["EPT_SPTE_HOST_WRITABLE"], EPT_SPTE_HOST_WRITABLE),
            (values["EPT_SPTE_MMU_WRITABLE"], EPT_SPTE_MMU_WRITABLE),
            (disabled, SPTE_TDP_AD_DISABLED),
            (disabled << 1, SPTE_TDP_AD_DISABLED << 1),
            (PT_PRESENT_MASK << shift, PT_PRESENT_MASK << saved),
        ]
        for bit in _EXECUTABLE:
            # Without a bit of its own, executable means by users, too.
            source = bit if has_xu else VMX_EPT_EXECUTABLE_MASK
            moves += [(source, bit), (source << shift, bit << saved)]
        self._moves = tuple((a, b) for a, b in moves if a != b)
        kept = {a for a, b in moves if a == b}
        self._cleared = sum({a for a, _ in self._moves} - kept)
        self.value = cache(self._value)

    def _value(self, raw: int) -> int:
        """An SPTE as the Python models write it."""
        if raw == self.frozen:
            return FROZEN_SPTE
        if not raw & SPTE_MMU_PRESENT_MASK:
            return raw
        return raw & ~self._cleared | sum({b for a, b in self._moves if raw & a})
