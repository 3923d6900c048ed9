# SPDX-License-Identifier: GPL-2.0-only
"""The invariants, each a small judge over a `View` (facts/kvm-tdp-mmu.md section 7).

A monitor names the events at which it judges (its methods) and reads only the `View`.
Some rules are broken by an act itself and reported where it happens: ``I6`` by page
lifetimes (septum.machine.memory) and here, ``I10`` by the locks (septum.machine.sync)
and the kernel's own lockdep assertions.

I3, I6, I8 to I12 and I25 are judged at the acting event, I1 per entry at the event that
unfreezes or publishes it under the shared lock, and everything of facts 7(b) in the settled
state (every task finished, RCU callbacks run; docs/model.md, "Judging").  A bugged VM
silences only later reports of I1, I2, I4, I14 and I20.
"""

from __future__ import annotations

from collections.abc import Iterable

from septum.kvm.monitors import (
    direct,
    dirty,
    mirror,
    private,
    rules,
    tables,
    tdx,
    tlb,
    traces,
)
from septum.kvm.monitors.base import Monitor
from septum.kvm.monitors.mirror import mirror_matches
from septum.kvm.view import Observed

__all__ = ["MONITORS", "Monitor", "Monitors", "mirror_matches"]

_ALL: tuple[type[Monitor], ...] = (
    mirror.MirrorEqualsSept,
    mirror.NothingStaysFrozen,
    mirror.SeptParentIsTable,
    tables.PageStats,
    tables.RootRefcounts,
    tables.TablePageLifetimes,
    tlb.NoStaleTranslation,
    tdx.NoFatalSeamcall,
    mirror.FrozenHasOneOwner,
    rules.LockRules,
    rules.LeafKeepsPfn,
    rules.MappedPageIsNotFree,
    direct.WritableBits,
    tables.LinkedTables,
    direct.NxAccounting,
    direct.RootFlags,
    private.InvalidationsEnd,
    tdx.NoZapLeftWaiting,
    direct.StaleMappings,
    traces.TraceConsistency,
    private.AcceptedPageStays,
    dirty.NoLostDirty,
    tdx.FaultsEnd,
    tdx.NoEntryWhenDead,
    direct.FreedPagesUnmapped,
)

MONITORS: dict[str, type[Monitor]] = {monitor.id: monitor for monitor in _ALL}


_JUDGES = ("septum.kvm.monitors", "septum.kvm.view", "septum.kvm.bug")


class Monitors:
    """The monitors of one program: attached to the view's events, asked when settled.

    :param off: ids not to attach; findings of theirs that come from primitives are
        dropped as well (`Machine.muted`).
    """

    def __init__(self, view: Observed, off: Iterable[str] = ()) -> None:
        self.view = view
        muted = frozenset(off)
        view.m.muted = muted
        view.m.judges = (*view.m.judges, *_JUDGES)
        self.active = [cls(view) for id_, cls in MONITORS.items() if id_ not in muted]
        for monitor in self.active:
            for name in dir(monitor):
                if name.startswith("on_"):
                    view.subscribe(name.removeprefix("on_"), getattr(monitor, name))
        view.attach()

    def settled(self) -> None:
        """Judge facts 7(b): every task has finished and RCU callbacks have run."""
        for monitor in self.active:
            judge = getattr(monitor, "settled", None)
            if judge is not None:
                judge()
