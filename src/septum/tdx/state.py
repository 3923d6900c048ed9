# SPDX-License-Identifier: GPL-2.0-only
"""What the module keeps about a TD, a vCPU, an LP and the HKIDs.

All of it is machine cells, so that executions can be rewound.  A `Td` or `Vcpu` object
belongs to its physical page and is used again when the page is; whether the page is a
TDR or a TDVPR at present is what its PAMT entry says.

Numbers are the module's (facts/tdx-module.md section 8).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from septum.machine import Cell, Machine
from septum.tdx.config import TdParams
from septum.tdx.locks import Mutex8, ShareX, ShareXHp

__all__ = [
    "MAX_TDCX",
    "MAX_TDVPS_PAGES",
    "MIN_TDCX",
    "MIN_TDVPS_PAGES",
    "OP_STATES",
    "TRACKED_OP_STATES",
    "Kot",
    "KotState",
    "Lifecycle",
    "Lp",
    "OpState",
    "Td",
    "Vcpu",
    "VcpuState",
]

MIN_TDCX: Final = 6
MAX_TDCX: Final = 9
MIN_TDVPS_PAGES: Final = 6
MAX_TDVPS_PAGES: Final = 15
SEPT_ROOT_INDEX: Final = 3  # which TDCX page is the S-EPT root


class Lifecycle(IntEnum):
    """TDR.LIFECYCLE_STATE."""

    TD_HKID_ASSIGNED = 0
    TD_KEYS_CONFIGURED = 1
    TD_BLOCKED = 2
    TD_TEARDOWN = 3


class OpState(IntEnum):
    """TDCS.OP_STATE."""

    UNINITIALIZED = 0
    INITIALIZED = 1
    RUNNABLE = 2
    LIVE_EXPORT = 3
    PAUSED_EXPORT = 4
    POST_EXPORT = 5
    MEMORY_IMPORT = 6
    STATE_IMPORT = 7
    POST_IMPORT = 8
    LIVE_IMPORT = 9
    FAILED_IMPORT = 10


class VcpuState(IntEnum):
    """TDVPS.STATE."""

    UNINITIALIZED = 0
    READY = 2
    ACTIVE = 4
    DISABLED = 8
    IMPORT = 16


class KotState(IntEnum):
    """State of an HKID in the key ownership table."""

    FREE = 0
    ASSIGNED = 1
    FLUSHED = 2
    RESERVED = 3


def _states(letters: str) -> frozenset[OpState]:
    short = ("", "I", "R", "LE", "PE", "POE", "MI", "SI", "PI", "LI", "FI")
    return frozenset(OpState(short.index(word)) for word in letters.split())


_RESIZE = _states("I R LE PE POE PI LI")
_ALL = _states("I R LE PE POE MI SI PI LI FI")

# Which OP_STATE each leaf is allowed in (facts section 3, table).
OP_STATES: Final[dict[str, frozenset[OpState]]] = {
    "TDH.MEM.PAGE.ADD": _states("I"),
    "TDH.MR.EXTEND": _states("I"),
    "TDH.MR.FINALIZE": _states("I"),
    "TDH.VP.INIT": _states("I"),
    "TDH.MEM.SEPT.ADD": _states("I R LE MI SI PI LI"),
    "TDH.MEM.PAGE.AUG": _states("I R LE LI"),
    "TDH.MEM.RANGE.BLOCK": _RESIZE,
    "TDH.MEM.RANGE.UNBLOCK": _RESIZE,
    "TDH.MEM.PAGE.DEMOTE": _RESIZE,
    "TDH.MEM.PAGE.PROMOTE": _RESIZE,
    "TDH.MEM.PAGE.RELOCATE": _RESIZE,
    "TDH.MEM.PAGE.REMOVE": _RESIZE | _states("FI"),
    "TDH.MEM.SEPT.REMOVE": _ALL,
    "TDH.MEM.SEPT.RD": _ALL,
    "TDH.MEM.TRACK": _ALL - _states("FI"),
    "TDH.VP.ENTER": _states("R LE LI"),
    "TDH.VP.CREATE": _states("I SI"),
    "TDH.VP.ADDCX": _states("I SI"),
    "TDH.MNG.INIT": frozenset({OpState.UNINITIALIZED}),
}
TRACKED_OP_STATES: Final = _states("R LE LI")
IMPORT_OP_STATES: Final = _states("MI SI PI LI")


class Td:
    """TDR and TDCS of one TD."""

    def __init__(self, m: Machine, hpa: int) -> None:
        self.hpa = hpa
        name = f"TD {hpa:#x}"
        self.lifecycle = Cell(m, f"{name}.lifecycle", Lifecycle.TD_HKID_ASSIGNED)
        self.fatal = Cell(m, f"{name}.fatal", False)
        self.hkid = Cell(m, f"{name}.hkid", 0)
        self.tdcx = Cell(m, f"{name}.tdcx", ())  # HPAs of the TDCS pages
        self.chldcnt = Cell(m, f"{name}.CHLDCNT", 0)
        self.packages = Cell(m, f"{name}.keys", frozenset())  # packages with the key
        # TDCS
        self.op_lock = ShareXHp(m, f"{name}.OP_STATE.lock")
        self.op_state = Cell(m, f"{name}.OP_STATE", OpState.UNINITIALIZED)
        self.params = Cell(m, f"{name}.params", TdParams())
        self.tree = ShareX(m, f"{name}.SEPT_TREE")
        self.epoch_lock = ShareX(m, f"{name}.TD_EPOCH.lock")
        self.epoch = Cell(m, f"{name}.TD_EPOCH", 0)
        self.refcounts = (Cell(m, f"{name}.REFCOUNT0", 0), Cell(m, f"{name}.REFCOUNT1", 0))
        self.num_vcpus = Cell(m, f"{name}.NUM_VCPUS", 0)
        self.num_assoc = Cell(m, f"{name}.NUM_ASSOC_VCPUS", 0)
        self.mig_epoch = Cell(m, f"{name}.MIG_EPOCH", 0)
        self.mrtd = Cell(m, f"{name}.MRTD", ())  # the log of what was measured

    @property
    def root(self) -> int:
        """HPA of the S-EPT root page."""
        return int(self.tdcx.v[SEPT_ROOT_INDEX])

    @property
    def sept_root(self) -> int | None:
        """As `root`, None while there is none."""
        return self.root if len(self.tdcx.v) > SEPT_ROOT_INDEX else None

    def reset(self, hkid: int) -> None:
        """MNG.CREATE: a new TDR (under its exclusive lock)."""
        for cell, value in (
            (self.lifecycle, Lifecycle.TD_HKID_ASSIGNED),
            (self.fatal, False),
            (self.hkid, hkid),
            (self.tdcx, ()),
            (self.chldcnt, 0),
            (self.packages, frozenset()),
            (self.op_state, OpState.UNINITIALIZED),
            (self.epoch, 0),
            (self.refcounts[0], 0),
            (self.refcounts[1], 0),
            (self.num_vcpus, 0),
            (self.num_assoc, 0),
            (self.mig_epoch, 0),
            (self.mrtd, ()),
        ):
            cell.poke(value)


class Vcpu:
    """TDVPS of one vCPU.

    :ivar epf_count: possibly_epf_stepping, EPT-violation exits with an unchanged RIP.
    :ivar epf_list: last_epf_gpa_list, what VP.ENTER must find resolved.
    :ivar entry_rip: the guest's RIP when it was last entered.
    :ivar rip: the guest's RIP as far as the model knows it.
    :ivar ve_info: (exit reason, qualification, GPA) of a #VE not yet read, or None.
    :ivar hp_since: TSC of the first TDCALL that met a host-priority flag, or None.
    :ivar trap_exit: the last TD exit was trap-type, so VP.ENTER's hint bit is legal.
    """

    def __init__(self, m: Machine, hpa: int) -> None:
        self.hpa = hpa
        name = f"VP {hpa:#x}"
        self.name = name
        self.tdr = Cell(m, f"{name}.TDR", 0)
        self.state = Cell(m, f"{name}.state", VcpuState.UNINITIALIZED)
        self.pages = Cell(m, f"{name}.pages", 0)
        self.lp = Cell(m, f"{name}.assoc_lp", None)
        self.epoch = Cell(m, f"{name}.VCPU_EPOCH", 0)
        self.epf_count = Cell(m, f"{name}.epf_count", 0)
        self.epf_list = Cell(m, f"{name}.epf_list", ())
        self.entry_rip = Cell(m, f"{name}.entry_rip", 0)
        self.rip = Cell(m, f"{name}.rip", 0)
        self.ve_info = Cell(m, f"{name}.ve_info", None)
        self.hp_since = Cell(m, f"{name}.hp_since", None)
        self.trap_exit = Cell(m, f"{name}.trap_exit", False)

    def reset(self, tdr: int) -> None:
        """VP.CREATE: a new TDVPR (under its exclusive lock)."""
        for cell, value in (
            (self.tdr, tdr),
            (self.state, VcpuState.UNINITIALIZED),
            (self.pages, 1),
            (self.lp, None),
            (self.epoch, 0),
            (self.epf_count, 0),
            (self.epf_list, ()),
            (self.entry_rip, 0),
            (self.rip, 0x1000),
            (self.ve_info, None),
            (self.hp_since, None),
            (self.trap_exit, False),
        ):
            cell.poke(value)


class Lp:
    """Per logical processor: the vCPU last entered on it, and the one now in the guest."""

    def __init__(self, m: Machine, number: int) -> None:
        self.number = number
        self.last_vcpu = Cell(m, f"LP {number}.last_vcpu", None)
        self.guest = Cell(m, f"LP {number}.guest", None)


class Kot:
    """Key ownership table, and what CACHE.WB keeps per package."""

    def __init__(self, m: Machine, packages: int) -> None:
        self.m = m
        self.lock = ShareX(m, "KOT")
        self._hkids: dict[int, Cell] = {}
        self.wbcache = tuple(Mutex8(m, f"WBCACHE {p}") for p in range(packages))
        # (next sub-block, the HKIDs that were FLUSHED at the start) or None
        self.progress = tuple(Cell(m, f"WBCACHE {p}.progress", None) for p in range(packages))

    def hkid(self, hkid: int) -> Cell:
        """The entry of an HKID: ``(state, wbinvd_bitmap)``."""
        cell = self._hkids.get(hkid)
        if cell is None:
            cell = self._hkids[hkid] = Cell(self.m, f"KOT {hkid}", (KotState.FREE, 0))
        return cell

    def used(self) -> list[int]:
        """HKIDs that are not free, in order."""
        return sorted(k for k, c in self._hkids.items() if c.v[0] is not KotState.FREE)
