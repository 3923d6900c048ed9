# SPDX-License-Identifier: GPL-2.0-only
"""The calls as typed methods of `TdxModule`.

Every method only puts its arguments into registers.  Its docstring is its own first line
and then the handler's: inputs by register, checks in order with their errors, effects, and
the module source they come from (``help(TdxModule.tdh_mem_page_aug)``).  Levels are the
module's: 0 is 4K.  Addresses are HPAs unless named ``gpa``.

Three short forms occur in the checks.  ``...|RDX``: the checks of a page operand, in this
order: OPERAND_INVALID (alignment, HKID bits), OPERAND_ADDR_RANGE_ERROR (in no TDMR),
OPERAND_BUSY (its PAMT entries of 1G, 2M, 4K), PAGE_METADATA_INCORRECT (its type).  *TD
state*: TD_FATAL, TD_KEYS_NOT_CONFIGURED, TDCS_NOT_ALLOCATED, then (where OP_STATE is locked)
OPERAND_BUSY|OP_STATE, OP_STATE_INCORRECT.  *details*: RCX holds the S-EPT entry and RDX its
level and state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from septum.tdx.config import QUIET, Conditions
from septum.tdx.handlers import handler_doc
from septum.tdx.leaves import (
    SEAMCALL_NUMBERS,
    TDCALL_NUMBERS,
    TDG_MEM_PAGE_ACCEPT,
    TDG_MEM_PAGE_ATTR_RD,
    TDG_MEM_PAGE_ATTR_WR,
    TDG_VP_VEINFO_GET,
    TDH_MEM_PAGE_ADD,
    TDH_MEM_PAGE_AUG,
    TDH_MEM_PAGE_DEMOTE,
    TDH_MEM_PAGE_PROMOTE,
    TDH_MEM_PAGE_RELOCATE,
    TDH_MEM_PAGE_REMOVE,
    TDH_MEM_RANGE_BLOCK,
    TDH_MEM_RANGE_UNBLOCK,
    TDH_MEM_SEPT_ADD,
    TDH_MEM_SEPT_RD,
    TDH_MEM_SEPT_REMOVE,
    TDH_MEM_TRACK,
    TDH_MNG_ADDCX,
    TDH_MNG_CREATE,
    TDH_MNG_INIT,
    TDH_MNG_KEY_CONFIG,
    TDH_MNG_KEY_FREEID,
    TDH_MNG_KEY_RECLAIMID,
    TDH_MNG_VPFLUSHDONE,
    TDH_MR_EXTEND,
    TDH_MR_FINALIZE,
    TDH_PHYMEM_CACHE_WB,
    TDH_PHYMEM_PAGE_RDMD,
    TDH_PHYMEM_PAGE_RECLAIM,
    TDH_PHYMEM_PAGE_WBINVD,
    TDH_VP_ADDCX,
    TDH_VP_CREATE,
    TDH_VP_ENTER,
    TDH_VP_FLUSH,
    TDH_VP_INIT,
)
from septum.tdx.regs import GuestResult, Result

__all__ = ["TypedApi"]

F = TypeVar("F", bound=Callable[..., Any])


def _call(leaf: str) -> Callable[[F], F]:
    """Append the manual of ``leaf`` to the method's docstring."""
    what = "SEAMCALL" if leaf in SEAMCALL_NUMBERS else "TDCALL"
    number = SEAMCALL_NUMBERS[leaf] if leaf in SEAMCALL_NUMBERS else TDCALL_NUMBERS[leaf]

    def wrap(method: F) -> F:
        method.__doc__ = f"{method.__doc__}\n\n{leaf}, {what} leaf {number}. {handler_doc(leaf)}"
        return method

    return wrap


class TypedApi(ABC):
    """The typed form of the register-level calls."""

    @abstractmethod
    def seamcall(
        self,
        leaf: int,
        regs: Mapping[str, int] | None = None,
        lp: int = 0,
        cond: Conditions = QUIET,
    ) -> Result:
        """One SEAMCALL, registers in, registers out."""

    @abstractmethod
    def tdcall(
        self,
        leaf: int,
        regs: Mapping[str, int] | None = None,
        lp: int = 0,
        cond: Conditions = QUIET,
    ) -> GuestResult:
        """One TDCALL of the guest on ``lp``."""

    @_call("TDH.MEM.SEPT.ADD")
    def tdh_mem_sept_add(
        self,
        tdr: int,
        gpa: int,
        level: int,
        page: int,
        *,
        allow_existing: bool = False,
        version: int = 0,
        lp: int = 0,
    ) -> Result:
        """Add the S-EPT page ``page`` below the free entry of ``gpa`` at ``level`` (1..top)."""
        return self.seamcall(
            TDH_MEM_SEPT_ADD | version << 16,
            {"rcx": gpa | level, "rdx": tdr | int(allow_existing), "r8": page},
            lp,
        )

    @_call("TDH.MEM.SEPT.REMOVE")
    def tdh_mem_sept_remove(
        self, tdr: int, gpa: int, level: int, *, version: int = 0, lp: int = 0
    ) -> Result:
        """Remove the empty S-EPT page below an entry; RCX is its HPA."""
        return self.seamcall(
            TDH_MEM_SEPT_REMOVE | version << 16, {"rcx": gpa | level, "rdx": tdr}, lp
        )

    @_call("TDH.MEM.SEPT.RD")
    def tdh_mem_sept_rd(self, tdr: int, gpa: int, level: int, *, lp: int = 0) -> Result:
        """Read an entry: RCX and RDX."""
        return self.seamcall(TDH_MEM_SEPT_RD, {"rcx": gpa | level, "rdx": tdr}, lp)

    @_call("TDH.MEM.PAGE.ADD")
    def tdh_mem_page_add(
        self, tdr: int, gpa: int, page: int, source: int, *, lp: int = 0
    ) -> Result:
        """Copy ``source`` into ``page`` and map it, before MR.FINALIZE."""
        return self.seamcall(
            TDH_MEM_PAGE_ADD, {"rcx": gpa, "rdx": tdr, "r8": page, "r9": source}, lp
        )

    @_call("TDH.MEM.PAGE.AUG")
    def tdh_mem_page_aug(self, tdr: int, gpa: int, level: int, page: int, *, lp: int = 0) -> Result:
        """Map ``page`` as PENDING at ``level`` 0..1."""
        return self.seamcall(TDH_MEM_PAGE_AUG, {"rcx": gpa | level, "rdx": tdr, "r8": page}, lp)

    @_call("TDH.MEM.PAGE.REMOVE")
    def tdh_mem_page_remove(self, tdr: int, gpa: int, level: int, *, lp: int = 0) -> Result:
        """Remove a leaf; RCX is its HPA."""
        return self.seamcall(TDH_MEM_PAGE_REMOVE, {"rcx": gpa | level, "rdx": tdr}, lp)

    @_call("TDH.MEM.PAGE.RELOCATE")
    def tdh_mem_page_relocate(self, tdr: int, gpa: int, page: int, *, lp: int = 0) -> Result:
        """Move a 4K page to ``page``; RCX is the old HPA."""
        return self.seamcall(TDH_MEM_PAGE_RELOCATE, {"rcx": gpa, "rdx": tdr, "r8": page}, lp)

    @_call("TDH.MEM.PAGE.DEMOTE")
    def tdh_mem_page_demote(
        self, tdr: int, gpa: int, level: int, page: int, *, lp: int = 0
    ) -> Result:
        """Split the leaf of ``level`` 1..2, with ``page`` as the new S-EPT page."""
        return self.seamcall(TDH_MEM_PAGE_DEMOTE, {"rcx": gpa | level, "rdx": tdr, "r8": page}, lp)

    @_call("TDH.MEM.PAGE.PROMOTE")
    def tdh_mem_page_promote(
        self, tdr: int, gpa: int, level: int, *, version: int = 0, lp: int = 0
    ) -> Result:
        """Merge a table into a leaf of ``level`` 1..2; RCX is the freed S-EPT page."""
        return self.seamcall(
            TDH_MEM_PAGE_PROMOTE | version << 16, {"rcx": gpa | level, "rdx": tdr}, lp
        )

    @_call("TDH.MEM.RANGE.BLOCK")
    def tdh_mem_range_block(self, tdr: int, gpa: int, level: int, *, lp: int = 0) -> Result:
        """Block a leaf or a table's range."""
        return self.seamcall(TDH_MEM_RANGE_BLOCK, {"rcx": gpa | level, "rdx": tdr}, lp)

    @_call("TDH.MEM.RANGE.UNBLOCK")
    def tdh_mem_range_unblock(self, tdr: int, gpa: int, level: int, *, lp: int = 0) -> Result:
        """Undo a block that has been tracked."""
        return self.seamcall(TDH_MEM_RANGE_UNBLOCK, {"rcx": gpa | level, "rdx": tdr}, lp)

    @_call("TDH.MEM.TRACK")
    def tdh_mem_track(self, tdr: int, *, lp: int = 0) -> Result:
        """Start the next TLB epoch."""
        return self.seamcall(TDH_MEM_TRACK, {"rcx": tdr}, lp)

    @_call("TDH.MR.EXTEND")
    def tdh_mr_extend(self, tdr: int, gpa: int, *, lp: int = 0) -> Result:
        """Measure 256 bytes at ``gpa``."""
        return self.seamcall(TDH_MR_EXTEND, {"rcx": gpa, "rdx": tdr}, lp)

    @_call("TDH.MR.FINALIZE")
    def tdh_mr_finalize(self, tdr: int, *, lp: int = 0) -> Result:
        """Make the TD RUNNABLE."""
        return self.seamcall(TDH_MR_FINALIZE, {"rcx": tdr}, lp)

    @_call("TDH.MNG.CREATE")
    def tdh_mng_create(self, tdr: int, hkid: int, *, lp: int = 0) -> Result:
        """Create a TD."""
        return self.seamcall(TDH_MNG_CREATE, {"rcx": tdr, "rdx": hkid}, lp)

    @_call("TDH.MNG.KEY.CONFIG")
    def tdh_mng_key_config(self, tdr: int, *, lp: int = 0) -> Result:
        """Configure the key on the LP's package."""
        return self.seamcall(TDH_MNG_KEY_CONFIG, {"rcx": tdr}, lp)

    @_call("TDH.MNG.ADDCX")
    def tdh_mng_addcx(self, tdr: int, page: int, *, lp: int = 0) -> Result:
        """Add a TDCS page."""
        return self.seamcall(TDH_MNG_ADDCX, {"rcx": page, "rdx": tdr}, lp)

    @_call("TDH.MNG.INIT")
    def tdh_mng_init(self, tdr: int, params: int = 0, *, lp: int = 0) -> Result:
        """Initialise the TDCS from TD_PARAMS at ``params``."""
        return self.seamcall(TDH_MNG_INIT, {"rcx": tdr, "rdx": params}, lp)

    @_call("TDH.MNG.VPFLUSHDONE")
    def tdh_mng_vpflushdone(self, tdr: int, *, lp: int = 0) -> Result:
        """Declare every vCPU flushed."""
        return self.seamcall(TDH_MNG_VPFLUSHDONE, {"rcx": tdr}, lp)

    @_call("TDH.MNG.KEY.FREEID")
    def tdh_mng_key_freeid(self, tdr: int, *, lp: int = 0) -> Result:
        """Free the HKID."""
        return self.seamcall(TDH_MNG_KEY_FREEID, {"rcx": tdr}, lp)

    @_call("TDH.MNG.KEY.RECLAIMID")
    def tdh_mng_key_reclaimid(self, tdr: int, *, lp: int = 0) -> Result:
        """No effect."""
        return self.seamcall(TDH_MNG_KEY_RECLAIMID, {"rcx": tdr}, lp)

    @_call("TDH.VP.CREATE")
    def tdh_vp_create(self, tdr: int, tdvpr: int, *, lp: int = 0) -> Result:
        """Create a vCPU."""
        return self.seamcall(TDH_VP_CREATE, {"rcx": tdvpr, "rdx": tdr}, lp)

    @_call("TDH.VP.ADDCX")
    def tdh_vp_addcx(self, tdvpr: int, page: int, *, lp: int = 0) -> Result:
        """Add a TDVPS page."""
        return self.seamcall(TDH_VP_ADDCX, {"rcx": page, "rdx": tdvpr}, lp)

    @_call("TDH.VP.INIT")
    def tdh_vp_init(
        self, tdvpr: int, *, x2apic_id: int = 0, version: int = 0, lp: int = 0
    ) -> Result:
        """Initialise a vCPU and associate it with ``lp``."""
        return self.seamcall(TDH_VP_INIT | version << 16, {"rcx": tdvpr, "r8": x2apic_id}, lp)

    @_call("TDH.VP.FLUSH")
    def tdh_vp_flush(self, tdvpr: int, *, lp: int = 0) -> Result:
        """Flush a vCPU on its LP."""
        return self.seamcall(TDH_VP_FLUSH, {"rcx": tdvpr}, lp)

    @_call("TDH.VP.ENTER")
    def tdh_vp_enter(self, tdvpr: int, *, lp: int = 0) -> Result:
        """Run a vCPU; ``event`` is ``td-entry`` if the guest now runs."""
        return self.seamcall(TDH_VP_ENTER, {"rcx": tdvpr}, lp)

    @_call("TDH.PHYMEM.CACHE.WB")
    def tdh_phymem_cache_wb(self, resume: bool = False, *, lp: int = 0) -> Result:
        """Write back the package's caches."""
        return self.seamcall(TDH_PHYMEM_CACHE_WB, {"rcx": int(resume)}, lp)

    @_call("TDH.PHYMEM.PAGE.RECLAIM")
    def tdh_phymem_page_reclaim(self, page: int, *, lp: int = 0) -> Result:
        """Take a page back after teardown."""
        return self.seamcall(TDH_PHYMEM_PAGE_RECLAIM, {"rcx": page}, lp)

    @_call("TDH.PHYMEM.PAGE.WBINVD")
    def tdh_phymem_page_wbinvd(self, page: int, *, lp: int = 0) -> Result:
        """Flush a free page's cache lines."""
        return self.seamcall(TDH_PHYMEM_PAGE_WBINVD, {"rcx": page}, lp)

    @_call("TDH.PHYMEM.PAGE.RDMD")
    def tdh_phymem_page_rdmd(self, page: int, *, lp: int = 0) -> Result:
        """Read PAMT metadata: RCX type, RDX owner, R8 size, R9 BEPOCH."""
        return self.seamcall(TDH_PHYMEM_PAGE_RDMD, {"rcx": page}, lp)

    @_call("TDG.MEM.PAGE.ACCEPT")
    def tdg_mem_page_accept(self, gpa: int, level: int, *, lp: int = 0) -> GuestResult:
        """The guest on ``lp`` accepts a PENDING page."""
        return self.tdcall(TDG_MEM_PAGE_ACCEPT, {"rcx": gpa | level}, lp)

    @_call("TDG.VP.VEINFO.GET")
    def tdg_vp_veinfo_get(self, *, lp: int = 0) -> GuestResult:
        """The guest on ``lp`` reads why it got a #VE."""
        return self.tdcall(TDG_VP_VEINFO_GET, {}, lp)

    @_call("TDG.MEM.PAGE.ATTR.RD")
    def tdg_mem_page_attr_rd(self, gpa: int, *, lp: int = 0) -> GuestResult:
        """The guest on ``lp`` reads a page's attributes."""
        return self.tdcall(TDG_MEM_PAGE_ATTR_RD, {"rcx": gpa}, lp)

    @_call("TDG.MEM.PAGE.ATTR.WR")
    def tdg_mem_page_attr_wr(
        self, gpa: int, level: int, *, attributes: int = 0, flags: int = 0, lp: int = 0
    ) -> GuestResult:
        """The guest on ``lp`` writes a page's attributes."""
        regs = {"rcx": gpa | level, "rdx": attributes, "r8": flags}
        return self.tdcall(TDG_MEM_PAGE_ATTR_WR, regs, lp)
