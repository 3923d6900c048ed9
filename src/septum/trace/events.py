# SPDX-License-Identifier: GPL-2.0-only
"""The events of the `kvmmmu` and `kvm` systems that replay understands.

Each class is one tracepoint with the fields of its format file; `payload` prints it as
the kernel does and `parse_payload` reads that back (facts 8.2, 8.3; all three kernel
families).  Numbers are integers; pointers are opaque text, because tracefs hashes them.
Other events are counted by name and not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = [
    "PARSERS",
    "AgeHva",
    "CheckMmioSpte",
    "Event",
    "FastPageFault",
    "GetPage",
    "HandleMmioPageFault",
    "MarkMmioSpte",
    "PageFault",
    "PagetableWalk",
    "PagingElement",
    "Parser",
    "PrepareZapPage",
    "SetSpte",
    "SplitHugePage",
    "SpteChanged",
    "SpteRequested",
    "TestAgeHva",
    "UnmapHvaRange",
    "ZapAllFast",
    "parse_payload",
    "spte_changed",
]


class SpteChanged(NamedTuple):
    """kvm_tdp_mmu_spte_changed"""

    as_id: int
    gfn: int
    level: int
    old_spte: int
    new_spte: int

    def payload(self) -> str:
        return (
            f"as id {self.as_id} gfn {self.gfn:x} level {self.level}"
            f" old_spte {self.old_spte:x} new_spte {self.new_spte:x}"
        )


class SetSpte(NamedTuple):
    """kvm_mmu_set_spte"""

    gfn: int
    spte: int
    access: str
    level: int
    sptep: int
    """Physical address of the SPTE."""

    def payload(self) -> str:
        return (
            f"gfn {self.gfn:x} spte {self.spte:x} ({self.access})"
            f" level {self.level} at {self.sptep:x}"
        )


class GetPage(NamedTuple):
    """kvm_mmu_get_page; trace-cmd's plugin prints it in a layout of its own."""

    gfn: int
    level: int
    direct: bool
    access: str
    created: bool
    by_plugin: bool
    mirror: bool = False
    """Only the raw role tells (facts 2.1); False where the event is text."""
    as_id: int | None = None
    """Only the raw role tells."""

    def payload(self) -> str:
        new = "new" if self.created else "existing"
        direct = " direct" if self.direct else ""
        if self.by_plugin:
            return (
                f"{new} sp gfn {self.gfn:x} {self.level} q0{direct} {self.access}"
                " !pae nxe wp root 0 sync"
            )
        return (
            f"sp gen 0 gfn {self.gfn:x} l{self.level} 8-byte q0{direct} {self.access}"
            f" nxe ad root 0 sync {new}"
        )


class PrepareZapPage(NamedTuple):
    """kvm_mmu_prepare_zap_page; trace-cmd's plugin leaves the gfn out (None)."""

    gfn: int | None
    level: int
    direct: bool
    access: str

    def payload(self) -> str:
        direct = " direct" if self.direct else ""
        if self.gfn is None:
            return f"{self.level} q0{direct} {self.access} !pae nxe wp root 0 sync"
        return (
            f"sp gen 0 gfn {self.gfn:x} l{self.level} 8-byte q0{direct} {self.access}"
            " nxe ad root 0 sync"
        )


class SplitHugePage(NamedTuple):
    """kvm_mmu_split_huge_page"""

    gfn: int
    spte: int
    level: int
    errno: int

    def payload(self) -> str:
        return f"gfn {self.gfn:x} spte {self.spte:x} level {self.level} errno {self.errno}"


class SpteRequested(NamedTuple):
    """kvm_mmu_spte_requested; ``access`` since 7.3"""

    gfn: int
    pfn: int
    level: int
    access: int | None

    def payload(self) -> str:
        access = "" if self.access is None else f" access {self.access:x}"
        return f"gfn {self.gfn:x} pfn {self.pfn:x} level {self.level}{access}"


class FastPageFault(NamedTuple):
    """fast_page_fault"""

    vcpu_id: int
    gva: int
    error_code: str
    sptep: str
    old_spte: int
    new_spte: int
    spurious: bool
    fixed: bool

    def payload(self) -> str:
        return (
            f"vcpu {self.vcpu_id} gva {self.gva:x} error_code {self.error_code}"
            f" sptep {self.sptep} old {self.old_spte:#x} new {self.new_spte:x}"
            f" spurious {self.spurious:d} fixed {self.fixed:d}"
        )


class MarkMmioSpte(NamedTuple):
    """mark_mmio_spte"""

    sptep: str
    gfn: int
    access: int
    gen: int

    def payload(self) -> str:
        return f"sptep:{self.sptep} gfn {self.gfn:x} access {self.access:x} gen {self.gen:x}"


class CheckMmioSpte(NamedTuple):
    """check_mmio_spte"""

    spte: int
    kvm_gen: int
    spte_gen: int
    valid: bool

    def payload(self) -> str:
        return (
            f"spte {self.spte:x} kvm_gen {self.kvm_gen:x} spte-gen {self.spte_gen:x}"
            f" valid {self.valid:d}"
        )


class HandleMmioPageFault(NamedTuple):
    """handle_mmio_page_fault"""

    addr: int
    gfn: int
    access: int

    def payload(self) -> str:
        return f"addr:{self.addr:x} gfn {self.gfn:x} access {self.access:x}"


class ZapAllFast(NamedTuple):
    """kvm_mmu_zap_all_fast"""

    mmu_valid_gen: int
    used_pages: int

    def payload(self) -> str:
        return f"kvm-mmu-valid-gen {self.mmu_valid_gen} used_pages {self.used_pages:x}"


class PagetableWalk(NamedTuple):
    """kvm_mmu_pagetable_walk: the guest's own tables, not the TDP MMU's"""

    addr: int
    pferr: int
    flags: str

    def payload(self) -> str:
        return f"addr {self.addr:x} pferr {self.pferr:x} {self.flags}"


class PagingElement(NamedTuple):
    """kvm_mmu_paging_element: the guest's own tables, not the TDP MMU's"""

    pte: int
    level: int

    def payload(self) -> str:
        return f"pte {self.pte:x} level {self.level}"


class PageFault(NamedTuple):
    """kvm:kvm_page_fault"""

    vcpu_id: int
    rip: int
    address: int
    error_code: int

    def payload(self) -> str:
        return (
            f"vcpu {self.vcpu_id} rip {self.rip:#x} address 0x{self.address:016x}"
            f" error_code {self.error_code:#x}"
        )


class UnmapHvaRange(NamedTuple):
    """kvm:kvm_unmap_hva_range"""

    start: int
    end: int

    def payload(self) -> str:
        return f"mmu notifier unmap range: {self.start:#016x} -- {self.end:#016x}"


class AgeHva(NamedTuple):
    """kvm:kvm_age_hva"""

    start: int
    end: int

    def payload(self) -> str:
        return f"mmu notifier age hva: {self.start:#016x} -- {self.end:#016x}"


class TestAgeHva(NamedTuple):
    """kvm:kvm_test_age_hva"""

    hva: int

    def payload(self) -> str:
        return f"mmu notifier test age hva: {self.hva:#016x}"


Event = (
    SpteChanged
    | SetSpte
    | GetPage
    | PrepareZapPage
    | SplitHugePage
    | SpteRequested
    | FastPageFault
    | MarkMmioSpte
    | CheckMmioSpte
    | HandleMmioPageFault
    | ZapAllFast
    | PagetableWalk
    | PagingElement
    | PageFault
    | UnmapHvaRange
    | AgeHva
    | TestAgeHva
)

_Groups = tuple[str, ...]
Parser = tuple[Callable[[str], re.Match[str] | None], Callable[[_Groups], Event]]
"""A pattern's fullmatch for the payload, and the event from its groups."""


def _pattern(text: str) -> Callable[[str], re.Match[str] | None]:
    """H: up to 16 hex digits (u64).  D: a decimal number.  U: a u8.  B: 0 or 1."""
    hexa, number = r"(?:0x)?([0-9a-f]{1,16})", r"(\d{1,10})"
    byte = r"(1?\d?\d|2[0-4]\d|25[0-5])"
    text = text.replace("<H>", hexa).replace("<D>", number)
    text = text.replace("<U>", byte).replace("<B>", "([01])")
    return re.compile(text, re.ASCII).fullmatch


_SP = (
    r"sp gen \d+ gfn <H> l<U> \d-byte q\d( direct)? ([-rwxu]{3,4})( invalid)?"
    r" !?nxe !?ad root \d+ (?:un)?sync"
)
_PLUGIN = r"<U> q\d( direct)? ([-rwxu]{3})( invalid)? [!a-z ]+ root \d+ (?:un)?sync"


def _hexes(kind: Callable[..., Event]) -> Callable[[_Groups], Event]:
    return lambda groups: kind(*(int(text, 16) for text in groups))


def _get_page(g: _Groups) -> Event:
    return GetPage(int(g[0], 16), int(g[1]), bool(g[2]), g[3], g[5] == "new", False)


def _get_page_plugin(g: _Groups) -> Event:
    return GetPage(int(g[1], 16), int(g[2]), bool(g[3]), g[4], g[0] == "new", True)


def _zap_page(g: _Groups) -> Event:
    return PrepareZapPage(int(g[0], 16), int(g[1]), bool(g[2]), g[3])


def _zap_page_plugin(g: _Groups) -> Event:
    return PrepareZapPage(None, int(g[0]), bool(g[1]), g[2])


def spte_changed(g: _Groups) -> SpteChanged:
    return SpteChanged(int(g[0]), int(g[1], 16), int(g[2]), int(g[3], 16), int(g[4], 16))


def _set_spte(g: _Groups) -> Event:
    return SetSpte(int(g[0], 16), int(g[1], 16), g[2], int(g[3]), int(g[4], 16))


def _split(g: _Groups) -> Event:
    return SplitHugePage(int(g[0], 16), int(g[1], 16), int(g[2]), int(g[3]))


def _requested(g: _Groups) -> Event:
    access = int(g[3], 16) if g[3] else None
    return SpteRequested(int(g[0], 16), int(g[1], 16), int(g[2]), access)


def _fast(g: _Groups) -> Event:
    old, new = int(g[4], 16), int(g[5], 16)
    return FastPageFault(int(g[0]), int(g[1], 16), g[2], g[3], old, new, g[6] == "1", g[7] == "1")


def _page_fault(g: _Groups) -> Event:
    return PageFault(int(g[0]), int(g[1], 16), int(g[2], 16), int(g[3], 16))


def _mark_mmio(g: _Groups) -> Event:
    return MarkMmioSpte(g[0], int(g[1], 16), int(g[2], 16), int(g[3], 16))


PARSERS: Final[dict[str, tuple[Parser, ...]]] = {
    "kvm_tdp_mmu_spte_changed": (
        (_pattern("as id <U> gfn <H> level <U> old_spte <H> new_spte <H>"), spte_changed),
    ),
    "kvm_mmu_set_spte": (
        (_pattern(r"gfn <H> spte <H> \(([-rwxu]{3,4})\) level <U> at <H>"), _set_spte),
    ),
    "kvm_mmu_get_page": (
        (_pattern(_SP + " (new|existing)"), _get_page),
        (_pattern("(new|existing) sp gfn <H> " + _PLUGIN), _get_page_plugin),
    ),
    "kvm_mmu_prepare_zap_page": (
        (_pattern(_SP), _zap_page),
        (_pattern(_PLUGIN), _zap_page_plugin),
    ),
    "kvm_mmu_split_huge_page": (
        (_pattern(r"gfn <H> spte <H> level <D> errno (-?\d{1,5})"), _split),
    ),
    "kvm_mmu_spte_requested": (
        (_pattern("gfn <H> pfn <H> level <U>(?: access ([0-9a-f]{1,2}))?"), _requested),
    ),
    "fast_page_fault": (
        (
            _pattern(
                r"vcpu <D> gva <H> error_code (\S*) sptep (\S+) old <H> new <H>"
                r" spurious <B> fixed <B>"
            ),
            _fast,
        ),
    ),
    "mark_mmio_spte": ((_pattern(r"sptep:(\S+) gfn <H> access <H> gen <H>"), _mark_mmio),),
    "check_mmio_spte": (
        (
            _pattern("spte <H> kvm_gen <H> spte-gen <H> valid <B>"),
            lambda g: CheckMmioSpte(int(g[0], 16), int(g[1], 16), int(g[2], 16), g[3] == "1"),
        ),
    ),
    "handle_mmio_page_fault": (
        (_pattern("addr:<H> gfn <H> access <H>"), _hexes(HandleMmioPageFault)),
    ),
    "kvm_mmu_zap_all_fast": (
        (
            _pattern("kvm-mmu-valid-gen <D> used_pages <H>"),
            lambda g: ZapAllFast(int(g[0]), int(g[1], 16)),
        ),
    ),
    "kvm_mmu_pagetable_walk": (
        (
            _pattern(r"addr <H> pferr <H> ?(\S*)"),
            lambda g: PagetableWalk(int(g[0], 16), int(g[1], 16), g[2]),
        ),
    ),
    "kvm_mmu_paging_element": (
        (_pattern("pte <H> level <D>"), lambda g: PagingElement(int(g[0], 16), int(g[1]))),
    ),
    "kvm_page_fault": ((_pattern("vcpu <D> rip <H> address <H> error_code <H>"), _page_fault),),
    "kvm_unmap_hva_range": (
        (_pattern("mmu notifier unmap range: <H> -- <H>"), _hexes(UnmapHvaRange)),
    ),
    "kvm_age_hva": ((_pattern("mmu notifier age hva: <H> -- <H>"), _hexes(AgeHva)),),
    "kvm_test_age_hva": ((_pattern("mmu notifier test age hva: <H>"), _hexes(TestAgeHva)),),
}


def parse_payload(name: str, payload: str) -> Event | None:
    """The event, or None if ``name`` is not read here or the payload is not its own."""
    for fullmatch, build in PARSERS.get(name, ()):
        match = fullmatch(payload)
        if match is not None:
            return build(match.groups(""))
    return None
