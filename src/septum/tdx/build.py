# SPDX-License-Identifier: GPL-2.0-only
"""A small TD, built by the real sequence of calls: for tests, shells and exploration."""

from __future__ import annotations

from dataclasses import dataclass

from septum.tdx.module import TdxModule
from septum.tdx.regs import Result
from septum.tdx.sept import RWX
from septum.tdx.state import MIN_TDCX, MIN_TDVPS_PAGES
from septum.tdx.status import decode

__all__ = ["BuiltTd", "Layout", "add_tables", "make_td", "must"]


@dataclass(frozen=True, slots=True)
class Layout:
    """HPAs of a TD's control pages; vCPU n's TDVPR and its pages follow ``tdvpr`` at
    ``stride`` each."""

    tdr: int = 0x40100000
    tdcx: int = 0x40110000
    tdvpr: int = 0x40120000
    stride: int = 0x10000
    sept: int = 0x40160000


@dataclass(frozen=True, slots=True)
class BuiltTd:
    """What `make_td` made.

    :ivar sept: HPAs to take S-EPT pages from, in order, start here.
    """

    tdr: int
    hkid: int
    tdcx: tuple[int, ...]
    tdvprs: tuple[int, ...]
    sept: int

    def chldcnt(self) -> int:
        """CHLDCNT after building: every control page but the TDR."""
        return len(self.tdcx) + MIN_TDVPS_PAGES * len(self.tdvprs)


def must(result: Result) -> Result:
    """The call's result if it succeeded.

    :raises RuntimeError: it did not.
    """
    if result.rax:
        raise RuntimeError(f"unexpected status {decode(result.rax)}")
    return result


def make_td(
    module: TdxModule,
    vcpus: int = 1,
    state: str = "RUNNABLE",
    *,
    hkid: int = 18,
    layout: Layout | None = None,
    associate: bool = False,
) -> BuiltTd:
    """Build a TD in sequential mode.

    :param state: ``INITIALIZED`` or ``RUNNABLE``.
    :param associate: leave vCPU n associated with LP n (modulo the LPs); else every
        vCPU is flushed and may be entered anywhere.
    """
    if state not in ("INITIALIZED", "RUNNABLE"):
        raise ValueError(f"state {state!r}: INITIALIZED or RUNNABLE")
    where = layout or Layout()
    tdr = where.tdr
    must(module.tdh_mng_create(tdr, hkid))
    for package in range(module.config.packages):
        must(module.tdh_mng_key_config(tdr, lp=package))
    tdcx = tuple(where.tdcx + i * 0x1000 for i in range(MIN_TDCX))
    for page in tdcx:
        must(module.tdh_mng_addcx(tdr, page))
    must(module.tdh_mng_init(tdr))
    tdvprs = tuple(where.tdvpr + n * where.stride for n in range(vcpus))
    for n, tdvpr in enumerate(tdvprs):
        lp = n % module.config.lps
        must(module.tdh_vp_create(tdr, tdvpr))
        for i in range(1, MIN_TDVPS_PAGES):
            must(module.tdh_vp_addcx(tdvpr, tdvpr + i * 0x1000))
        must(module.tdh_vp_init(tdvpr, lp=lp))
        if not associate:
            must(module.tdh_vp_flush(tdvpr, lp=lp))
    if state == "RUNNABLE":
        must(module.tdh_mr_finalize(tdr))
    return BuiltTd(tdr, hkid, tdcx, tdvprs, where.sept)


def add_tables(module: TdxModule, td: BuiltTd, gpa: int, level: int, first: int) -> int:
    """SEPT.ADD whatever is missing above an entry of ``level``; ``first`` is the HPA of
    the first free page.  Returns the next free one."""
    for at in range(module.sept.top, level, -1):
        base = module.geometry.bytes_per_level(at + 1)
        if not module.peek_sept(td.tdr, gpa, at).raw & RWX:
            must(module.tdh_mem_sept_add(td.tdr, gpa & -base, at, first))
            first += 0x1000
    return first
