# SPDX-License-Identifier: GPL-2.0-only
"""A running vCPU of an ordinary VM while somebody takes mappings or tables away.

What its CPU may have cached is followed walk by walk, so each row asks whether the flush
that the operation owes comes before the page or the table is given up (I7), and whether a
walk that drops mmu_lock half-way (``yields``) flushes first and looks again after.
"""

from __future__ import annotations

from septum.kvm.features import Features
from septum.machine.geometry import Geometry
from septum.scenarios.model import DefaultVm, Op, Scenario, Start, op, run_vcpu
from septum.scenarios.suite.tasks import host, vcpu

__all__ = ["SCENARIOS"]

TWO_LEVELS = Geometry(bits=1, levels=2)
SETTERS = ("v7.3", "feb06", "feb10-sp")
ONLY = ("v7.3",)
TWO_SLOTS = ((0, 2, -1), (2, 2, -1))
KICKED = "kick interrupted a running vCPU"


def _start(
    *before: Op,
    vcpus: int = 1,
    max_level: int = 1,
    slots: tuple[tuple[int, int, int], ...] = (),
    **features: bool,
) -> Start:
    default_vm = DefaultVm(Features(**features), max_level)
    return Start(vcpus=vcpus, default_vm=default_vm, before=before, slots=slots)


def _access(gfn: int, kind: str = "write") -> Op:
    return op("access", gfn, kind)


LOG_ON, LOG_OFF = op("log_dirty", 1), op("log_dirty", 0)

UNMAP = (
    Scenario(
        "run-unmap",
        "userspace frees a page that a running vCPU uses",
        "Is every cached translation gone when the MMU notifier's start returns?",
        (vcpu(0, run_vcpu(op("write", 0))), host(op("unmap_hva", 0, 1))),
        _start(_access(0)),
        must_occur=(KICKED, "a direct leaf was zapped"),
        geometry=TWO_LEVELS,
        designs=SETTERS,
    ),
    Scenario(
        "run-unmap-yield",
        "the walk that unmaps two pages of a running vCPU yields mmu_lock between them or after",
        "Does it flush before it drops the lock, and forget nothing after?",
        (vcpu(0, run_vcpu(op("read", 1))), host(op("unmap_hva", 0, 3))),
        _start(_access(0), _access(1)),
        must_occur=(KICKED, "a walk yielded mmu_lock", "a direct leaf was zapped"),
        geometry=TWO_LEVELS,
        yields=1,
        designs=SETTERS,
        bound=3000,
    ),
    Scenario(
        "zap-fast-unmap",
        "userspace frees a page while a fast zap has its roots invalidated and not zapped yet",
        "Does the MMU notifier visit invalid roots, whose leafs still map the page?",
        (host(op("zap_all_fast"), name="zap"), host(op("unmap_hva", 0, 1))),
        _start(_access(0)),
        must_occur=("a direct leaf was zapped",),
        geometry=TWO_LEVELS,
        designs=SETTERS,
    ),
    Scenario(
        "run-delete-slot",
        "a memslot that a running vCPU may have cached is deleted: everything is zapped fast",
        "Has every vCPU left the old root when the ioctl returns?",
        (vcpu(0, run_vcpu(op("read", 2))), host(op("delete_slot", 0))),
        _start(_access(0), _access(2), slots=TWO_SLOTS),
        must_occur=(KICKED, "a direct leaf was zapped"),
        geometry=TWO_LEVELS,
        designs=SETTERS,
        epilogue=False,
        bound=3000,
    ),
    Scenario(
        "run-delete-slot-leafs",
        "the same without KVM_X86_QUIRK_SLOT_ZAP_ALL: only the slot's leafs are zapped",
        "Is every cached translation gone when the ioctl returns?",
        (vcpu(0, run_vcpu(op("read", 2))), host(op("delete_slot", 0))),
        _start(_access(0), _access(2), slots=TWO_SLOTS, slot_zap_all=False),
        must_occur=(KICKED, "a direct leaf was zapped"),
        geometry=TWO_LEVELS,
        designs=SETTERS,
        epilogue=False,
    ),
)

TABLES = (
    Scenario(
        "run-collapse",
        "a fault replaces a table by a huge leaf while another vCPU may have cached the table",
        "Is the table's page kept until every CPU has forgotten it?",
        (vcpu(0, _access(0, "read")), vcpu(1, run_vcpu(op("read", 2)))),
        _start(
            _access(2),
            _access(0, "fetch"),
            op("zap_leafs", 0, 2),
            op("unlist_nx"),
            vcpus=2,
            max_level=2,
            nx=True,
        ),
        must_occur=("a direct table became a huge leaf", KICKED),
        designs=SETTERS,
    ),
    Scenario(
        "run-recover",
        "a dirty log ends: tables that a running vCPU uses become huge leafs, with yields",
        "Is each table's page kept until every CPU has forgotten it?",
        (host(LOG_OFF), vcpu(0, run_vcpu(op("read", 0)))),
        _start(LOG_ON, _access(0), _access(2), max_level=2),
        must_occur=(
            "a table became a huge leaf again",
            "a walk yielded mmu_lock",
            KICKED,
        ),
        yields=1,
        designs=SETTERS,
    ),
    Scenario(
        "run-nx-recover",
        "the NX recovery worker zaps tables that a running vCPU uses, with yields",
        "Is each table's page kept until every CPU has forgotten it?",
        (host(op("recover_nx"), name="nx"), vcpu(0, run_vcpu(op("read", 4)))),
        _start(
            _access(0, "fetch"),
            _access(2, "fetch"),
            _access(4),
            max_level=2,
            slots=((0, 5, -1),),
            nx=True,
        ),
        must_occur=("NX recovery zapped a table", "NX recovery yielded mmu_lock", KICKED),
        yields=1,
        designs=SETTERS,
    ),
    Scenario(
        "run-fast-zap",
        "everything is zapped fast while a vCPU runs on the old root",
        "Does nobody run on a root whose tables are freed?",
        (host(op("zap_all_fast")), vcpu(0, run_vcpu(op("read", 0)))),
        _start(_access(0)),
        must_occur=("a direct leaf was zapped", KICKED),
        geometry=TWO_LEVELS,
        designs=SETTERS,
        bound=3000,
    ),
)

WRITES = (
    Scenario(
        "run-write-track",
        "a page becomes write-tracked while a running vCPU writes it",
        "May the vCPU write the page unseen once the tracker believes that it sees all?",
        (vcpu(0, run_vcpu(op("write", 0), op("write", 1))), host(op("write_track", 0))),
        _start(_access(0), _access(1), write_tracking=True),
        must_occur=(KICKED, "a write to a tracked page was emulated"),
        geometry=TWO_LEVELS,
        designs=SETTERS,
    ),
    Scenario(
        "log-enable-yield",
        "the walks that split and write-protect yield mmu_lock while a vCPU writes",
        "Does a walk that yielded look again at the entry where it stood?",
        (host(LOG_ON), vcpu(0, _access(0))),
        _start(_access(0), _access(2), max_level=2, eager_split=True),
        must_occur=("a walk yielded mmu_lock", "a huge direct leaf was split"),
        yields=1,
        designs=ONLY,
    ),
)

TD_SLOTS = ((0, 2, -1), (2, 2, 0))  # shared, without guest_memfd; private

TD = (
    Scenario(
        "td-shared-lockless",
        "the fast path and ageing change a TD's shared leaf while leafs of both roots are zapped",
        "Do the paths without mmu_lock stay on the shared side, and zaps get their due on both?",
        (
            vcpu(0, _access(0)),
            host(op("age", 0, 1), name="age"),
            host(op("zap_range", 0, 3)),
        ),
        Start(
            vcpus=1,
            slots=TD_SLOTS,
            shared=(0, 1),
            mapped=(2,),
            before=(_access(0), LOG_ON),
        ),
        must_occur=(
            "the fast path fixed a fault",
            "the fast path lost its cmpxchg",
            "a direct leaf was zapped",
            "a mirror leaf was zapped",
        ),
        designs=ONLY,
    ),
    Scenario(
        "td-shared-huge",
        "a TD's shared table becomes a huge page under ageing while a private page is faulted",
        "Does a huge page of the shared side leave the private side alone?",
        (
            host(LOG_OFF),
            host(op("age", 0, 2), name="age"),
            vcpu(0, op("fault", 2)),
        ),
        Start(
            vcpus=1,
            slots=TD_SLOTS,
            shared=(0, 1),
            shared_level=2,
            before=(LOG_ON, _access(0)),
        ),
        must_occur=("a table became a huge leaf again", "TDH.MEM.PAGE.AUG SUCCESS"),
        designs=ONLY,
    ),
)

SCENARIOS: tuple[Scenario, ...] = (*UNMAP, *TABLES, *WRITES, *TD)
