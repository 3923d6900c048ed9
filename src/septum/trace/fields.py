# SPDX-License-Identifier: GPL-2.0-only
"""Events from raw fields: a `trace.dat`, or the text of `trace-cmd report -R`.

The page role comes as a number there, which shows more than any text: whether the page
is of a mirror tree (7.3, bit 19) and of which address space (facts 2.1).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from septum.kvm.versions import KERNELS, KernelVersion, decode_role
from septum.trace.events import (
    Event,
    FastPageFault,
    GetPage,
    PageFault,
    PrepareZapPage,
    SetSpte,
    SplitHugePage,
    SpteChanged,
    SpteRequested,
    UnmapHvaRange,
    ZapAllFast,
)
from septum.trace.formats import EventFormat

__all__ = ["RAW", "Decoder", "decoder", "parse_raw", "role_version"]

Decoder = Callable[[bytes, int], Event]
_CR0_WP_7_3: Final = 1 << 14


def role_version(role: int) -> KernelVersion:
    """The layout that a direct page's role has.  Its cr0_wp is always 1: bit 14 in 7.3,
    bit 13 before, where bit 14 is smep_andnot_wp and 0 (facts 2.1)."""
    return KERNELS["7.3" if role & _CR0_WP_7_3 else "6.12"]


def _get_page(gfn: int, word: int, created: int) -> Event:
    version = role_version(word)
    role = decode_role(version, word)
    return GetPage(
        gfn,
        role["level"],
        bool(role["direct"]),
        version.access_strings[role["access"]],
        bool(created),
        False,
        bool(role.get("is_mirror")),
        int(role["smm"] != 0),
    )


def _zap_page(gfn: int, word: int) -> Event:
    version = role_version(word)
    role = decode_role(version, word)
    access = version.access_strings[role["access"]]
    return PrepareZapPage(gfn, role["level"], bool(role["direct"]), access)


def _set_spte(gfn: int, spte: int, level: int, sptep: int, r: int, x: int, u: int) -> Event:
    letters = (("r", r), ("w", spte & 2), ("x", x), ("u", u))
    access = "".join(letter if on else "-" for letter, on in letters)
    return SetSpte(gfn, spte, access, level, sptep)


def _fast(vcpu: int, gva: int, code: int, old: int, new: int, ret: int) -> Event:
    """The flags of the error code stay a number; RET_PF_FIXED is 5, SPURIOUS 6."""
    return FastPageFault(vcpu, gva, f"{code:#x}", "", old, new, ret == 6, ret == 5)


def _requested(gfn: int, pfn: int, level: int) -> Event:
    return SpteRequested(gfn, pfn, level, None)


RAW: Final[dict[str, tuple[tuple[str, ...], tuple[int, ...], Callable[..., Any]]]] = {
    "kvm_tdp_mmu_spte_changed": (
        ("as_id", "gfn", "level", "old_spte", "new_spte"),
        (10, 16, 10, 16, 16),
        SpteChanged,
    ),
    "kvm_mmu_get_page": (("gfn", "role", "created"), (10, 10, 10), _get_page),
    "kvm_mmu_prepare_zap_page": (("gfn", "role"), (10, 10), _zap_page),
    "kvm_mmu_set_spte": (
        ("gfn", "spte", "level", "sptep", "r", "x", "u"),
        (16, 16, 10, 16, 10, 10, 10),
        _set_spte,
    ),
    "kvm_mmu_spte_requested": (("gfn", "pfn", "level"), (16, 16, 10), _requested),
    "kvm_mmu_split_huge_page": (
        ("gfn", "spte", "level", "errno"),
        (16, 16, 10, 10),
        SplitHugePage,
    ),
    "kvm_mmu_zap_all_fast": (("mmu_valid_gen", "mmu_used_pages"), (10, 16), ZapAllFast),
    "kvm_unmap_hva_range": (("start", "end"), (16, 16), UnmapHvaRange),
    "fast_page_fault": (
        ("vcpu_id", "cr2_or_gpa", "error_code", "old_spte", "new_spte", "ret"),
        (10, 16, 10, 16, 16, 10),
        _fast,
    ),
    "kvm_page_fault": (
        ("vcpu_id", "guest_rip", "fault_address", "error_code"),
        (10, 16, 16, 16),
        PageFault,
    ),
}
"""Event -> fields, the base in which trace-cmd prints them (that of the event's print
format; decimal where the format cannot be evaluated), what makes the event of them."""


def decoder(event: EventFormat) -> Decoder | None:
    """Reads this event from its bytes; None if it is not read here or lacks a field."""
    entry = RAW.get(event.name)
    if entry is None:
        return None
    read = event.reader(entry[0])
    if read is None:
        return None
    build = entry[2]
    if build is SpteChanged:
        make = SpteChanged._make
        return lambda page, at: make(read(page, at))
    return lambda page, at: build(*read(page, at))


_PAIR: Final = re.compile(r"([A-Za-z_]\w*)=(\S*)")


def parse_raw(name: str, payload: str) -> Event | None:
    """The event of a ``name=value`` text; None if it is not read or not well formed."""
    entry = RAW.get(name)
    if entry is None:
        return None
    found = dict(_PAIR.findall(payload))
    values = []
    for key, base in zip(entry[0], entry[1], strict=True):
        text = found.get(key, "")
        if not re.fullmatch(r"0x[0-9a-f]{1,16}|[0-9a-f]{1,16}|-\d{1,5}", text):
            return None
        try:
            values.append(int(text, 16 if text.startswith("0x") else base))
        except ValueError:
            return None
    event: Event = entry[2](*values)
    return event
