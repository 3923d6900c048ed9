# SPDX-License-Identifier: GPL-2.0-only
"""The fixture F(op, n) of facts/tdx-module.md section 9, and calls by short names.

A step of a case is ``(operation, arguments..., expected)`` or, with registers to check,
``(operation, arguments..., expected, {"rcx": ..})``.  ``expected`` is a status as
`septum.tdx.status.decode` spells it without the TDX_ prefix, or a plain value for
operations that read state (``entry``, ``chldcnt``, ``epoch``, ...).
"""

from __future__ import annotations

from typing import Any

from septum.machine import Machine
from septum.tdx import Conditions, Config, GuestResult, Result, TdParams, TdxModule
from septum.tdx.build import Layout, make_td, must
from septum.tdx.leaves import SEAMCALL_NUMBERS
from septum.tdx.presets import Locks
from septum.tdx.status import decode

TDR = 0x40100000
G = 0x40000000
SRC = 0x100000
M2 = 0x200000
NULL = 0xFFFFFFFFFFFFFFFF
V0, V1 = 0x40120000, 0x40130000


def S(i: int) -> int:
    """The i-th free S-EPT page."""
    return 0x40140000 + i * 0x1000


def P(x: int) -> int:
    """A free page at offset ``x``."""
    return 0x80000000 + x


class Rig:
    """One module with one TD."""

    def __init__(self, setup: str) -> None:
        """``setup``: op state I or R, number of vCPUs, ``+T`` for tables, ``noVE`` for
        PENDING_VE_DISABLE."""
        words = setup.split()
        config = Config(lps=4, td_params=TdParams(pending_ve_disable="noVE" in words))
        self.module = TdxModule(Machine(), config=config)
        state = "INITIALIZED" if words[0] == "I" else "RUNNABLE"
        self.built = make_td(self.module, int(words[1]), state, layout=Layout(sept=S(0)))
        self.td = self.module.td(TDR)
        self.locks = Locks(self.module, TDR)
        self.base = self.td.chldcnt.v
        if "+T" in words:
            for level, gpa, page in ((3, 0, S(0)), (2, G, S(1)), (1, G, S(2))):
                must(self.module.tdh_mem_sept_add(TDR, gpa, level, page))

    # --- host ------------------------------------------------------------------------

    def raw(self, name: str, lp: int = 0, version: int = 0, intr: int = 0, **regs: int) -> Result:
        leaf = SEAMCALL_NUMBERS[name] | version << 16
        return self.module.seamcall(leaf, regs, lp, Conditions(intr_at=intr or None))

    def _mem(self, name: str, gpa: int, level: int, page: int = 0, **kw: int) -> Result:
        regs = {"rcx": gpa | level, "rdx": TDR, "r8": page}
        return self.raw(f"TDH.MEM.{name}", **{**regs, **kw})

    def sept_add(self, gpa: int, level: int, page: int, **kw: int) -> Result:
        return self._mem("SEPT.ADD", gpa, level, page, **kw)

    def sept_remove(self, gpa: int, level: int, **kw: int) -> Result:
        return self._mem("SEPT.REMOVE", gpa, level, **kw)

    def sept_rd(self, gpa: int, level: int, **kw: int) -> Result:
        return self._mem("SEPT.RD", gpa, level, **kw)

    def add(self, gpa: int, level: int, page: int, source: int = SRC) -> Result:
        return self._mem("PAGE.ADD", gpa, level, page, r9=source)

    def aug(self, gpa: int, level: int, page: int, **kw: int) -> Result:
        return self._mem("PAGE.AUG", gpa, level, page, **kw)

    def augs(self, gpa: int, page: int, count: int) -> Result:
        """``count`` contiguous 4K AUGs."""
        for i in range(count):
            must(self.aug(gpa + i * 0x1000, 0, page + i * 0x1000))
        return Result()

    def remove(self, gpa: int, level: int) -> Result:
        return self._mem("PAGE.REMOVE", gpa, level)

    def relocate(self, gpa: int, level: int, page: int) -> Result:
        return self._mem("PAGE.RELOCATE", gpa, level, page)

    def demote(self, gpa: int, level: int, page: int, **kw: int) -> Result:
        return self._mem("PAGE.DEMOTE", gpa, level, page, **kw)

    def promote(self, gpa: int, level: int, **kw: int) -> Result:
        return self._mem("PAGE.PROMOTE", gpa, level, **kw)

    def block(self, gpa: int, level: int, lp: int = 0) -> Result:
        return self._mem("RANGE.BLOCK", gpa, level, lp=lp)

    def unblock(self, gpa: int, level: int) -> Result:
        return self._mem("RANGE.UNBLOCK", gpa, level)

    def track(self) -> Result:
        return self.module.tdh_mem_track(TDR)

    def extend(self, gpa: int) -> Result:
        return self.module.tdh_mr_extend(TDR, gpa)

    def finalize(self) -> Result:
        return self.module.tdh_mr_finalize(TDR)

    def enter(self, tdvpr: int, lp: int = 0) -> Result:
        return self.module.tdh_vp_enter(tdvpr, lp=lp)

    def vp_flush(self, tdvpr: int, lp: int = 0) -> Result:
        return self.module.tdh_vp_flush(tdvpr, lp=lp)

    def vpflushdone(self) -> Result:
        return self.module.tdh_mng_vpflushdone(TDR)

    def freeid(self) -> Result:
        return self.module.tdh_mng_key_freeid(TDR)

    def cache_wb(self, cmd: int, lp: int = 0) -> Result:
        return self.raw("TDH.PHYMEM.CACHE.WB", lp=lp, rcx=cmd)

    def reclaim(self, page: int) -> Result:
        return self.module.tdh_phymem_page_reclaim(page)

    def wbinvd(self, page: int) -> Result:
        return self.module.tdh_phymem_page_wbinvd(page)

    def rdmd(self, page: int) -> Result:
        return self.module.tdh_phymem_page_rdmd(page)

    # --- guest -----------------------------------------------------------------------

    def accept(self, gpa: int, level: int, lp: int = 0, intr: int = 0) -> GuestResult:
        cond = Conditions(intr_at=intr or None)
        return self.module.tdcall(6, {"rcx": gpa | level}, lp, cond)

    def touch(self, gpa: int, lp: int = 0) -> GuestResult:
        return self.module.guest_access(lp, gpa)

    def interrupt(self, lp: int = 0) -> GuestResult:
        return self.module.guest_interrupt(lp)

    # --- state -----------------------------------------------------------------------

    def lock(self, which: str, mode: str = "exclusive", op: str = "acquire", **kw: Any) -> int:
        inputs = {"lock": which, "mode": mode, "op": op, "agent": "host", **kw}
        ok: int = self.locks.run(inputs)["ok"]
        return ok

    def entry(self, gpa: int, level: int) -> int:
        spot = self.module.peek_sept(TDR, gpa, level)
        assert spot.level == level
        raw: int = spot.raw
        return raw

    def chldcnt(self) -> int:
        """Relative to the bare TD."""
        count: int = self.td.chldcnt.v - self.base
        return count

    def epoch(self) -> int:
        return int(self.td.epoch.v)

    def refs(self) -> list[int]:
        return [cell.v for cell in self.td.refcounts]

    def vcpu(self, tdvpr: int, field: str) -> Any:
        return getattr(self.module.vcpu(tdvpr), field).v

    def pamt(self, hpa: int) -> str:
        return f"{self.module.pamt.leaf(hpa).type.name}/{self.module.pamt.leaf(hpa).size}"

    def fatal(self) -> int:
        self.td.fatal.set(True)
        return 1

    def reclaim_all(self) -> str:
        """Every page the TD owns but the TDR, in HPA order; the last status."""
        result = Result()
        for entry in sorted(self.module.pamt.made(), key=lambda e: e.hpa):
            if entry.owner == TDR and entry.type:
                result = must(self.reclaim(entry.hpa))
        return decode(result.rax)


def text(value: object) -> object:
    """A result as the tables spell it; other values as they are."""
    if isinstance(value, Result):
        return value.event or decode(value.rax).replace("TDX_", "")
    if isinstance(value, GuestResult):
        status = decode(value.rax).replace("TDX_", "")
        return {
            "resume": status,
            "td-exit": f"exit {status}",
            "inject": f"vector {value.vector}",
        }.get(value.event, value.event)
    return value
