# SPDX-License-Identifier: GPL-2.0-only
"""Symbolic names: a fixed layout of pages, and what a script names itself.

==============  =============================================================
``td``          TDR page of the first TD; a second one has the name it is given
``tdcx0`` ..    its TDCS pages (``b.tdcx0`` those of a TD called ``b``)
``vcpu0`` ..    TDVPR pages; a vCPU's other pages follow at +4K each
``s0`` ..       pages for the S-EPT
``p0`` ..       4K pages for the guest
``m0`` ..       2M pages for the guest
``G``           the GPA 0x40000000
==============  =============================================================

A name stands for its address whether or not anything is there yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

from septum.tdx.build import Layout

__all__ = ["PREDEFINED", "Names", "NamesError", "layout_of", "nearest"]

_SLOT: Final = 0x2000000  # what one TD's control pages may take
_SLOTS: Final = 32
_BASE: Final = Layout(tdr=0x40100000, tdcx=0x40110000, tdvpr=0x41000000, sept=0x40200000)
_VCPUS: Final = 256

G: Final = 0x40000000
_M2: Final = 0x200000
# name -> (base, step, count, first index that `page` hands out)
_POOLS: Final = {
    "s": (_BASE.sept, 0x1000, 0xE00, 0),
    "p": (0x80000000, 0x1000, 0x10000, 0x8000),
    "m": (0x90000000, _M2, 0x100, 0x80),
}
_POOL_NAME: Final = re.compile(r"([spm])(0|[1-9]\d{0,5})")
_TD_NAME: Final = re.compile(r"(?:(\w+)\.)?(tdcx|vcpu)(0|[1-9]\d{0,5})")
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
PREDEFINED: Final = ("td", "tdcx0", "vcpu0", "vcpu1", "s0", "p0", "p1", "m0", "G")
_RESERVED: Final = re.compile(
    r"(?:r[a-d]x|r\d+|x\d+|lp\d+|td|G|to|all|\d+[KMGT]"
    r"|page|gpa|platform|tables|show|hold|drop|guest|tree|state|vcpus|pamt|locks|names|tdcx\d*|vcpu\d*|[spm]\d+)",
    re.IGNORECASE,
)


class NamesError(ValueError):
    """A name that cannot be had."""


def nearest(word: str, known: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    """`` (nearest: a, b)``, or nothing."""
    by_upper = {name.upper(): name for name in known}
    found = get_close_matches(word.upper(), list(by_upper), n=3, cutoff=0.5)
    return f" (nearest: {', '.join(by_upper[name] for name in found)})" if found else ""


def layout_of(slot: int) -> Layout:
    """Where the control pages of the TD in ``slot`` are."""
    at = slot * _SLOT
    return Layout(_BASE.tdr + at, _BASE.tdcx + at, _BASE.tdvpr + at, _BASE.stride, _BASE.sept)


@dataclass(frozen=True, slots=True)
class Names:
    """What names mean at one place of a script.  Immutable: defining makes a new one.

    :ivar tds: name of each TD, by its slot.
    """

    pages: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    gpas: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({"G": G}))
    tds: tuple[str, ...] = ("td",)

    def value(self, name: str) -> int | None:
        """The address that ``name`` stands for."""
        for table in (self.pages, self.gpas):
            if name in table:
                return table[name]
        if name in self.tds:
            return layout_of(self.tds.index(name)).tdr
        if found := _POOL_NAME.fullmatch(name):
            base, step, count, _ = _POOLS[found[1]]
            number = int(found[2])
            return base + number * step if number < count else None
        if found := _TD_NAME.fullmatch(name):
            td, kind, number = found[1] or "td", found[2], int(found[3])
            if td not in self.tds or number >= (_VCPUS if kind == "vcpu" else 9):
                return None
            where = layout_of(self.tds.index(td))
            if kind == "tdcx":
                return where.tdcx + number * 0x1000
            return where.tdvpr + number * where.stride
        return None

    def known(self) -> Iterator[str]:
        """Names worth suggesting."""
        yield from self.pages
        yield from self.gpas
        yield from self.tds
        yield from (name for name in PREDEFINED if name not in ("td", "G"))

    def page(self, hpa: int) -> str:
        """A page's name, or its address where it has none."""
        for name, value in self.pages.items():
            if value == hpa:
                return name
        for pool, (base, step, count, _) in _POOLS.items():
            index, rest = divmod(hpa - base, step)
            if 0 <= index < count and not rest:
                return f"{pool}{index}"
        for slot, td in enumerate(self.tds):
            where = layout_of(slot)
            if hpa == where.tdr:
                return td
            prefix = "" if slot == 0 else f"{td}."
            if 0 <= hpa - where.tdcx < 9 * 0x1000 and not hpa & 0xFFF:
                return f"{prefix}tdcx{(hpa - where.tdcx) >> 12}"
            vcpu, rest = divmod(hpa - where.tdvpr, where.stride)
            if 0 <= vcpu < _VCPUS and rest in range(0, 0xF000, 0x1000):
                return f"{prefix}vcpu{vcpu}" + (f"+{rest >> 10}K" if rest else "")
        return f"{hpa:#x}"

    # --- defining ------------------------------------------------------------------------

    def _check(self, name: str) -> None:
        if not _WORD.fullmatch(name):
            raise NamesError(f"{name!r} is no name: up to 32 letters, digits and _")
        if _RESERVED.fullmatch(name):
            raise NamesError(f"{name!r} has a meaning already")
        if name in self.pages or name in self.gpas or name in self.tds:
            raise NamesError(f"{name!r} is {self.value(name):#x} already")

    def with_page(self, name: str, hpa: int) -> Names:
        self._check(name)
        return replace(self, pages=MappingProxyType({**self.pages, name: hpa}))

    def with_gpa(self, name: str, gpa: int) -> Names:
        self._check(name)
        return replace(self, gpas=MappingProxyType({**self.gpas, name: gpa}))

    def with_new_page(self, name: str, large: bool) -> Names:
        """``name`` for a page that no other name means."""
        base, step, count, first = _POOLS["m" if large else "p"]
        taken = set(self.pages.values())
        for index in range(first, count):
            if base + index * step not in taken:
                return self.with_page(name, base + index * step)
        raise NamesError("no free page is left; write page NAME = HPA")

    def with_td(self, name: str) -> Names:
        """A further TD."""
        self._check(name)
        if len(self.tds) == _SLOTS:
            raise NamesError(f"{_SLOTS} TDs are the most")
        return replace(self, tds=(*self.tds, name))


def table_pages() -> Iterator[int]:
    """The S-EPT pool's pages, in order."""
    base, step, count, _ = _POOLS["s"]
    return iter(range(base, base + count * step, step))


__all__ += ["table_pages"]
