# SPDX-License-Identifier: GPL-2.0-only
"""The calls as typed methods of `TdxModule`.

Every method only puts its arguments into registers; inputs, order of checks, effects and
errors are in the handler's docstring (``TdxModule.describe("TDH.MEM.PAGE.AUG")``).
Levels are the module's: 0 is 4K.  Addresses are HPAs unless named ``gpa``.
"""

from __future__ import annotations

from collections.abc import Mapping

from septum.tdx.config import QUIET, Conditions
from septum.tdx.leaves import (
    TDG_MEM_PAGE_ACCEPT,
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


class TypedApi:
    """The typed form of the register-level calls."""

    def seamcall(
        self,
        leaf: int,
        regs: Mapping[str, int] | None = None,
        lp: int = 0,
        cond: Conditions = QUIET,
    ) -> Result:
        raise NotImplementedError

    def tdcall(
        self,
        leaf: int,
        regs: Mapping[str, int] | None = None,
        lp: int = 0,
        cond: Conditions = QUIET,
    ) -> GuestResult:
        raise NotImplementedError

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

    def tdh_mem_sept_remove(
        self, tdr: int, gpa: int, level: int, *, version: int = 0, lp: int = 0
    ) -> Result:
        """Remove the empty S-EPT page below an entry; RCX is its HPA."""
        return self.seamcall(
            TDH_MEM_SEPT_REMOVE | version << 16, {"rcx": gpa | level, "rdx": tdr}, lp
        )

    def tdh_mem_sept_rd(self, tdr: int, gpa: int, level: int, *, lp: int = 0) -> Result:
        """Read an entry: RCX and RDX."""
        return self.seamcall(TDH_MEM_SEPT_RD, {"rcx": gpa | level, "rdx": tdr}, lp)

    def tdh_mem_page_add(
        self, tdr: int, gpa: int, page: int, source: int, *, lp: int = 0
    ) -> Result:
        """Copy ``source`` into ``page`` and map it, before MR.FINALIZE."""
        return self.seamcall(
            TDH_MEM_PAGE_ADD, {"rcx": gpa, "rdx": tdr, "r8": page, "r9": source}, lp
        )

    def tdh_mem_page_aug(self, tdr: int, gpa: int, level: int, page: int, *, lp: int = 0) -> Result:
        """Map ``page`` as PENDING at ``level`` 0..1."""
        return self.seamcall(TDH_MEM_PAGE_AUG, {"rcx": gpa | level, "rdx": tdr, "r8": page}, lp)

    def tdh_mem_page_remove(self, tdr: int, gpa: int, level: int, *, lp: int = 0) -> Result:
        """Remove a leaf; RCX is its HPA."""
        return self.seamcall(TDH_MEM_PAGE_REMOVE, {"rcx": gpa | level, "rdx": tdr}, lp)

    def tdh_mem_page_relocate(self, tdr: int, gpa: int, page: int, *, lp: int = 0) -> Result:
        """Move a 4K page to ``page``; RCX is the old HPA."""
        return self.seamcall(TDH_MEM_PAGE_RELOCATE, {"rcx": gpa, "rdx": tdr, "r8": page}, lp)

    def tdh_mem_page_demote(
        self, tdr: int, gpa: int, level: int, page: int, *, lp: int = 0
    ) -> Result:
        """Split the leaf of ``level`` 1..2, with ``page`` as the new S-EPT page."""
        return self.seamcall(TDH_MEM_PAGE_DEMOTE, {"rcx": gpa | level, "rdx": tdr, "r8": page}, lp)

    def tdh_mem_page_promote(
        self, tdr: int, gpa: int, level: int, *, version: int = 0, lp: int = 0
    ) -> Result:
        """Merge a table into a leaf of ``level`` 1..2; RCX is the freed S-EPT page."""
        return self.seamcall(
            TDH_MEM_PAGE_PROMOTE | version << 16, {"rcx": gpa | level, "rdx": tdr}, lp
        )

    def tdh_mem_range_block(self, tdr: int, gpa: int, level: int, *, lp: int = 0) -> Result:
        """Block a leaf or a table's range."""
        return self.seamcall(TDH_MEM_RANGE_BLOCK, {"rcx": gpa | level, "rdx": tdr}, lp)

    def tdh_mem_range_unblock(self, tdr: int, gpa: int, level: int, *, lp: int = 0) -> Result:
        """Undo a block that has been tracked."""
        return self.seamcall(TDH_MEM_RANGE_UNBLOCK, {"rcx": gpa | level, "rdx": tdr}, lp)

    def tdh_mem_track(self, tdr: int, *, lp: int = 0) -> Result:
        """Start the next TLB epoch."""
        return self.seamcall(TDH_MEM_TRACK, {"rcx": tdr}, lp)

    def tdh_mr_extend(self, tdr: int, gpa: int, *, lp: int = 0) -> Result:
        """Measure 256 bytes at ``gpa``."""
        return self.seamcall(TDH_MR_EXTEND, {"rcx": gpa, "rdx": tdr}, lp)

    def tdh_mr_finalize(self, tdr: int, *, lp: int = 0) -> Result:
        """Make the TD RUNNABLE."""
        return self.seamcall(TDH_MR_FINALIZE, {"rcx": tdr}, lp)

    def tdh_mng_create(self, tdr: int, hkid: int, *, lp: int = 0) -> Result:
        """Create a TD."""
        return self.seamcall(TDH_MNG_CREATE, {"rcx": tdr, "rdx": hkid}, lp)

    def tdh_mng_key_config(self, tdr: int, *, lp: int = 0) -> Result:
        """Configure the key on the LP's package."""
        return self.seamcall(TDH_MNG_KEY_CONFIG, {"rcx": tdr}, lp)

    def tdh_mng_addcx(self, tdr: int, page: int, *, lp: int = 0) -> Result:
        """Add a TDCS page."""
        return self.seamcall(TDH_MNG_ADDCX, {"rcx": page, "rdx": tdr}, lp)

    def tdh_mng_init(self, tdr: int, params: int = 0, *, lp: int = 0) -> Result:
        """Initialise the TDCS from TD_PARAMS at ``params``."""
        return self.seamcall(TDH_MNG_INIT, {"rcx": tdr, "rdx": params}, lp)

    def tdh_mng_vpflushdone(self, tdr: int, *, lp: int = 0) -> Result:
        """Declare every vCPU flushed."""
        return self.seamcall(TDH_MNG_VPFLUSHDONE, {"rcx": tdr}, lp)

    def tdh_mng_key_freeid(self, tdr: int, *, lp: int = 0) -> Result:
        """Free the HKID."""
        return self.seamcall(TDH_MNG_KEY_FREEID, {"rcx": tdr}, lp)

    def tdh_vp_create(self, tdr: int, tdvpr: int, *, lp: int = 0) -> Result:
        """Create a vCPU."""
        return self.seamcall(TDH_VP_CREATE, {"rcx": tdvpr, "rdx": tdr}, lp)

    def tdh_vp_addcx(self, tdvpr: int, page: int, *, lp: int = 0) -> Result:
        """Add a TDVPS page."""
        return self.seamcall(TDH_VP_ADDCX, {"rcx": page, "rdx": tdvpr}, lp)

    def tdh_vp_init(
        self, tdvpr: int, *, x2apic_id: int = 0, version: int = 0, lp: int = 0
    ) -> Result:
        """Initialise a vCPU and associate it with ``lp``."""
        return self.seamcall(TDH_VP_INIT | version << 16, {"rcx": tdvpr, "r8": x2apic_id}, lp)

    def tdh_vp_flush(self, tdvpr: int, *, lp: int = 0) -> Result:
        """Flush a vCPU on its LP."""
        return self.seamcall(TDH_VP_FLUSH, {"rcx": tdvpr}, lp)

    def tdh_vp_enter(self, tdvpr: int, *, lp: int = 0) -> Result:
        """Run a vCPU; ``event`` is ``td-entry`` if the guest now runs."""
        return self.seamcall(TDH_VP_ENTER, {"rcx": tdvpr}, lp)

    def tdh_phymem_cache_wb(self, resume: bool = False, *, lp: int = 0) -> Result:
        """Write back the package's caches."""
        return self.seamcall(TDH_PHYMEM_CACHE_WB, {"rcx": int(resume)}, lp)

    def tdh_phymem_page_reclaim(self, page: int, *, lp: int = 0) -> Result:
        """Take a page back after teardown."""
        return self.seamcall(TDH_PHYMEM_PAGE_RECLAIM, {"rcx": page}, lp)

    def tdh_phymem_page_wbinvd(self, page: int, *, lp: int = 0) -> Result:
        """Flush a free page's cache lines."""
        return self.seamcall(TDH_PHYMEM_PAGE_WBINVD, {"rcx": page}, lp)

    def tdh_phymem_page_rdmd(self, page: int, *, lp: int = 0) -> Result:
        """Read PAMT metadata: RCX type, RDX owner, R8 size, R9 BEPOCH."""
        return self.seamcall(TDH_PHYMEM_PAGE_RDMD, {"rcx": page}, lp)

    def tdg_mem_page_accept(self, gpa: int, level: int, *, lp: int = 0) -> GuestResult:
        """The guest on ``lp`` accepts a PENDING page."""
        return self.tdcall(TDG_MEM_PAGE_ACCEPT, {"rcx": gpa | level}, lp)

    def tdg_vp_veinfo_get(self, *, lp: int = 0) -> GuestResult:
        """The guest on ``lp`` reads why it got a #VE."""
        return self.tdcall(TDG_VP_VEINFO_GET, {}, lp)
