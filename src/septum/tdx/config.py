# SPDX-License-Identifier: GPL-2.0-only
"""The platform a `TdxModule` runs on, and what the environment does to one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["QUIET", "Conditions", "Config", "TdParams", "Tdmr"]


@dataclass(frozen=True, slots=True)
class Tdmr:
    """A TD memory region: pages with PAMT entries.  ``reserved``: (base, size) ranges
    whose 4K entries TDMR initialisation left PT_RSVD."""

    base: int
    size: int
    reserved: tuple[tuple[int, int], ...] = ()

    def contains(self, hpa: int) -> bool:
        return self.base <= hpa < self.base + self.size

    def is_reserved(self, hpa: int, size: int = 1) -> bool:
        """Whether [hpa, hpa + size) overlaps a reserved range."""
        return any(hpa < base + n and base < hpa + size for base, n in self.reserved)


@dataclass(frozen=True, slots=True)
class TdParams:
    """The fields of TD_PARAMS that matter here (what TDH.MNG.INIT reads).

    :ivar hp_lock_timeout: TSC ticks after which a guest that keeps meeting a host
        priority flag exits; default 1 s at 2 GHz.
    """

    max_vcpus: int = 16
    hp_lock_timeout: int = 2_000_000_000
    pending_ve_disable: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """Logical processors, packages, HKIDs and TDMRs.

    :ivar hkid_shift: lowest of the HPA bits that hold the HKID (up to bit 51).
    :ivar private_hkids: first and last private HKID.
    :ivar cache_wb_blocks: CACHE.WB has an interrupt test after each block but the last.
    :ivar td_params: what MNG.INIT gives to a TD unless `TdxModule.td_params` has a page
        at the address in RDX.
    """

    tdmrs: tuple[Tdmr, ...] = (Tdmr(0x40000000, 0x80000000),)
    lps: int = 4
    packages: int = 2
    hkid_shift: int = 46
    private_hkids: tuple[int, int] = (16, 63)
    cache_wb_blocks: int = 4
    td_params: TdParams = TdParams()

    def package_of(self, lp: int) -> int:
        return lp % self.packages

    def tdmr_of(self, hpa: int) -> Tdmr | None:
        for tdmr in self.tdmrs:
            if tdmr.contains(hpa):
                return tdmr
        return None


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the outside does to one call (sequential mode; explorers use choices).

    :ivar intr_at: an interrupt is pending from the n-th pending-interrupt test on.
    :ivar no_entropy: RDSEED fails.
    :ivar pconfig: ``busy`` or ``entropy``: PCONFIG fails that way.
    :ivar rip: the guest's RIP (None: the model's own count).
    :ivar tsc: the time-stamp counter, for the host-priority timeout.
    """

    intr_at: int | None = None
    no_entropy: bool = False
    pconfig: str = ""
    rip: int | None = None
    tsc: int = 0


QUIET: Final = Conditions()
