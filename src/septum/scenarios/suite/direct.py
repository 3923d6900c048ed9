# SPDX-License-Identifier: GPL-2.0-only
"""Direct roots: ordinary VMs, and the shared half of a TD (facts 4).

GFNs 0 and 1 are one "2M" page, as are 2 and 3.  ``access`` is a guest access with the faults
that it takes, without the vCPU loop; where the TLB or a kick matters, ``run_vcpu`` has it.
Most paths run functions that ``v7.3``, ``feb06`` and ``feb10-sp`` write differently
(setting an SPTE, reacting to the change); those rows check all three.
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


def _start(*before: Op, vcpus: int = 2, max_level: int = 1, **features: bool) -> Start:
    return Start(
        vcpus=vcpus,
        default_vm=DefaultVm(Features(**features), max_level),
        before=before,
    )


def _access(gfn: int, kind: str = "write") -> Op:
    return op("access", gfn, kind)


LOG_ON = op("log_dirty", 1)

FAULTS = (
    Scenario(
        "direct-fault-huge",
        "two vCPUs fault the same huge page of an ordinary VM",
        "Is one cmpxchg enough where nothing has to follow?",
        (vcpu(0, _access(0)), vcpu(1, _access(1, "read"))),
        _start(max_level=2),
        must_occur=("an SPTE cmpxchg lost",),
        designs=SETTERS,
    ),
    Scenario(
        "direct-fault-split",
        "two fetches split an NX huge page",
        "Who loses the race for a table under a leaf frees it, and retries?",
        (vcpu(0, _access(0, "fetch")), vcpu(1, _access(1, "fetch"))),
        _start(_access(0, "read"), max_level=2, nx=True),
        must_occur=(
            "a huge direct leaf was split",
            "a table was listed for NX recovery",
            "an SPTE cmpxchg lost",
        ),
        designs=SETTERS,
    ),
    Scenario(
        "direct-fault-unmap",
        "a page is unmapped by the host's MM while a vCPU faults it",
        "Does the retry protocol keep direct faults from using freed pages?",
        (vcpu(0, _access(0)), host(op("unmap_hva", 0, 1))),
        _start(_access(1), vcpus=1),
        must_occur=("a direct leaf was zapped", "mmu_seq forced a retry"),
        designs=SETTERS,
    ),
    Scenario(
        "direct-recover-fault",
        "tables become huge leafs again while vCPUs fault below them",
        "Is a fault that is inside a table when a leaf replaces it turned away?",
        (host(op("log_dirty", 0)), vcpu(0, _access(1, "read"))),
        _start(LOG_ON, _access(0), vcpus=1, max_level=2),
        must_occur=("a table became a huge leaf again", "an SPTE cmpxchg lost"),
        designs=SETTERS,
    ),
    Scenario(
        "direct-collapse-fault",
        "a fault replaces a table by a huge leaf while a fetch is below it",
        "Is a table's removal under the read lock safe against a fault inside it?",
        (vcpu(0, _access(0, "read")), vcpu(1, _access(1, "fetch"))),
        _start(_access(0, "fetch"), op("zap_leafs", 0, 2), op("unlist_nx"), max_level=2, nx=True),
        must_occur=("a direct table became a huge leaf", "a fault met FROZEN_SPTE"),
        designs=SETTERS,
    ),
)

ROOTS = (
    Scenario(
        "direct-fast-zap-fault",
        "all is zapped fast while a vCPU faults, on the old root or the new one",
        "Can a fault fill a root that has been given up?",
        (host(op("zap_all_fast")), vcpu(0, _access(0))),
        _start(_access(1), vcpus=1),
        must_occur=("a fault found its root invalid", "a direct leaf was zapped"),
        designs=SETTERS,
    ),
    Scenario(
        "direct-zap-root-fault",
        "a root is zapped under the read lock, with yields, while a vCPU faults in it",
        "Does the walk make progress, and every change get its accounting?",
        (host(op("zap_root")), vcpu(0, _access(0))),
        _start(_access(1), vcpus=1),
        must_occur=("a walk yielded mmu_lock", "a direct leaf was zapped", "a table was removed"),
        geometry=TWO_LEVELS,
        yields=1,
        designs=SETTERS,
    ),
    Scenario(
        "direct-delete-slot",
        "a memslot is deleted (fast zap) while a vCPU faults in it",
        "Does SRCU keep a fault from mapping a page of a deleted slot?",
        (host(op("delete_slot", 0)), vcpu(0, _access(0))),
        _start(_access(1), vcpus=1),
        must_occur=("a direct leaf was zapped",),
        geometry=TWO_LEVELS,
        designs=ONLY,
        epilogue=False,
    ),
    Scenario(
        "td-fast-zap",
        "the direct roots of a TD are zapped fast while a shared page is faulted",
        "Does the mirror root stay out of it?",
        (vcpu(0, _access(0)), host(op("zap_all_fast"))),
        Start(vcpus=1, mapped=(2,), before=(op("set_attributes", 0, 2, 0), _access(1))),
        must_occur=("a direct leaf was zapped", "a fault found its root invalid"),
        designs=SETTERS,
    ),
    Scenario(
        "td-fast-zap-private",
        "the direct roots of a TD are zapped fast while a private page is faulted",
        "Does the local retry of a private fault end when its direct root is obsolete?",
        (vcpu(0, run_vcpu(op("accept", 0))), host(op("zap_all_fast"))),
        Start(vcpus=1, mapped=(1,)),
        must_occur=("a fault found its root invalid",),
        designs=ONLY,
    ),
    Scenario(
        "td-shared-zap-both",
        "a TD's shared page is faulted while leafs of both roots are zapped",
        "Do the two roots of a TD stay apart?",
        (vcpu(0, _access(0)), host(op("zap_range", 0, 3))),
        Start(vcpus=1, mapped=(2,), before=(op("set_attributes", 0, 2, 0), _access(1))),
        must_occur=("a direct leaf was zapped", "a mirror leaf was zapped"),
        designs=SETTERS,
    ),
)

LOCKLESS = (
    Scenario(
        "age-collapse",
        "pages are aged while their table is replaced by a huge leaf",
        "Is RCU enough for a walk without mmu_lock?",
        (host(op("age", 0, 2), name="age"), host(op("log_dirty", 0))),
        _start(LOG_ON, _access(0), vcpus=1, max_level=2),
        must_occur=("a direct table became a huge leaf",),
        designs=SETTERS,
    ),
    Scenario(
        "fast-pf-zap",
        "the fast path makes a page writable while the page is zapped",
        "May the fast path's cmpxchg bring a zapped leaf back?",
        (vcpu(0, _access(0)), host(op("zap_range", 0, 1))),
        _start(_access(0), LOG_ON, vcpus=1),
        must_occur=("the fast path fixed a fault", "a direct leaf was zapped"),
        designs=SETTERS,
    ),
    Scenario(
        "fast-pf-write-track",
        "the fast path makes a page writable while it becomes write-tracked",
        "Does the MMU-writable bit keep the fast path out?",
        (vcpu(0, _access(0)), host(op("write_track", 0))),
        _start(_access(0), LOG_ON, vcpus=1, write_tracking=True),
        must_occur=("the fast path fixed a fault", "a write to a tracked page was emulated"),
        designs=SETTERS,
    ),
    Scenario(
        "fast-pf-fast-pf",
        "two vCPUs fix the same access-tracked page",
        "Does a lost cmpxchg of the fast path end well?",
        (vcpu(0, _access(0)), vcpu(1, _access(0, "read"))),
        _start(_access(0), op("age", 0, 1), ad=False),
        must_occur=(
            "the fast path fixed a fault",
            "the fast path lost its cmpxchg",
            "the fast path found the fault spurious",
        ),
        designs=ONLY,
    ),
    Scenario(
        "age-zap",
        "pages are aged while they are zapped and faulted",
        "May ageing without mmu_lock bring a zapped leaf back?",
        (
            host(op("age", 0, 2), name="age"),
            host(op("zap_range", 0, 1)),
            vcpu(0, _access(1)),
        ),
        _start(_access(0), _access(1), vcpus=1),
        must_occur=("an SPTE cmpxchg lost", "a direct leaf was zapped"),
        designs=ONLY,
    ),
    Scenario(
        "age-fault",
        "access tracking (no A/D bits) takes a page's accesses while it is written",
        "Are the saved access bits restored, and no others?",
        (host(op("age", 0, 1), op("test_age", 0, 1), name="age"), vcpu(0, _access(0))),
        _start(_access(0), vcpus=1, ad=False),
        must_occur=("the fast path fixed a fault",),
        designs=ONLY,
    ),
)

DIRTY = (
    Scenario(
        "log-enable-write",
        "dirty logging starts, with eager split, while a vCPU writes",
        "Is a write lost between the split and the write protection?",
        (host(LOG_ON, op("get_dirty")), vcpu(0, _access(0))),
        _start(_access(0), vcpus=1, max_level=2, eager_split=True),
        must_occur=("a huge direct leaf was split", "the fast path fixed a fault"),
        designs=SETTERS,
    ),
    Scenario(
        "log-enable-split",
        "the eager split meets a fetch that splits the same NX huge page",
        "What becomes of the table that the split loop has allocated?",
        (host(LOG_ON), vcpu(0, _access(1, "fetch"))),
        _start(_access(0), vcpus=1, max_level=2, eager_split=True, nx=True),
        must_occur=("a huge direct leaf was split", "an SPTE cmpxchg lost"),
        designs=ONLY,
    ),
    Scenario(
        "log-enable-alloc",
        "the eager split fails to allocate while a vCPU writes",
        "Does the log work without the split?",
        (host(LOG_ON, op("get_dirty")), vcpu(0, _access(0))),
        _start(_access(0), vcpus=1, max_level=2, eager_split=True),
        must_occur=("an allocation failed", "a huge direct leaf was split"),
        alloc_failures=1,
        designs=ONLY,
    ),
    Scenario(
        "log-enable-pml",
        "dirty logging starts (D bits, PML) while a running vCPU writes an aged page",
        "Is a D bit cleared that the CPU has just used?",
        (host(LOG_ON), vcpu(0, run_vcpu(op("write", 0), op("write", 0)))),
        _start(_access(0), op("age", 0, 1), vcpus=1, pml=True),
        must_occur=("an SPTE cmpxchg lost",),
        designs=SETTERS,
    ),
    Scenario(
        "log-pml-huge",
        "dirty logging starts (PML, no eager split) while a vCPU writes a huge page",
        "Is a huge page split before the CPU logs one of its pages for all of them?",
        (host(LOG_ON), vcpu(0, _access(0))),
        _start(_access(1), vcpus=1, max_level=2, pml=True),
        must_occur=("a huge direct leaf was split",),
        designs=SETTERS,
    ),
    Scenario(
        "log-enable-aged",
        "dirty logging starts (write protection) while a vCPU writes an aged page",
        "Is the write protection repeated when the CPU sets A meanwhile?",
        (host(LOG_ON), vcpu(0, run_vcpu(op("write", 0), op("write", 0)))),
        _start(_access(0), op("age", 0, 1), vcpus=1),
        must_occur=("an SPTE cmpxchg lost", "the fast path fixed a fault"),
        designs=SETTERS,
    ),
    Scenario(
        "log-get-write",
        "GET takes the log (write protection) while a running vCPU writes",
        "Is every write reported by this GET or the next?",
        (host(op("get_dirty")), vcpu(0, run_vcpu(op("write", 0), op("write", 1), op("write", 0)))),
        _start(_access(0), _access(1), LOG_ON, _access(0), vcpus=1),
        must_occur=("the fast path fixed a fault", "a request stopped a vCPU before it entered"),
        designs=ONLY,
    ),
    Scenario(
        "log-get-write-pml",
        "GET takes the log (D bits, PML) while a running vCPU writes",
        "Is every write reported by this GET or the next?",
        (host(op("get_dirty")), vcpu(0, run_vcpu(op("write", 0), op("write", 0)))),
        _start(_access(0), LOG_ON, _access(0), vcpus=1, pml=True),
        must_occur=("kick interrupted a running vCPU",),
        designs=ONLY,
    ),
    Scenario(
        "log-clear-write",
        "CLEAR re-arms pages (manual protect) while a vCPU writes them",
        "Does CLEAR lose a write that comes between the bitmap and the SPTE?",
        (
            host(op("get_dirty"), op("clear_dirty", 1), op("get_dirty")),
            vcpu(0, run_vcpu(op("write", 0), op("write", 1))),
        ),
        _start(_access(0), _access(1), LOG_ON, _access(0), vcpus=1, manual=True),
        must_occur=("the fast path fixed a fault",),
        designs=ONLY,
    ),
    Scenario(
        "log-init-set",
        "CLEAR of an initially-all-set log splits huge pages while vCPUs write",
        "May a huge page stay writable when one of its pages is cleared?",
        (host(op("clear_dirty", 1)), vcpu(0, _access(0)), vcpu(1, _access(1))),
        _start(_access(0), LOG_ON, max_level=2, manual=True, init_set=True, eager_split=True),
        must_occur=("a huge direct leaf was split",),
        designs=SETTERS,
    ),
    Scenario(
        "log-init-set-lazy",
        "CLEAR of an initially-all-set log protects a huge page, faults split it",
        "Does the fast path stay away from a huge page that is to be split?",
        (host(op("clear_dirty", 9)), vcpu(0, _access(0))),
        _start(_access(0), _access(2), LOG_ON, vcpus=1, max_level=2, manual=True, init_set=True),
        must_occur=("a huge direct leaf was split",),
        designs=SETTERS,
    ),
)

NX_MMIO = (
    Scenario(
        "nx-recover-fault",
        "the NX recovery worker zaps a table while a vCPU fetches below it",
        "Do list, counters and flags agree whoever is first?",
        (host(op("recover_nx"), name="nx"), vcpu(0, _access(1, "fetch"))),
        _start(_access(0, "fetch"), vcpus=1, max_level=2, nx=True),
        must_occur=("NX recovery zapped a table", "a table was listed for NX recovery"),
        designs=SETTERS,
    ),
    Scenario(
        "nx-list-zap",
        "a table is zapped while the fetch that linked it lists it for NX recovery",
        "Is a table that was unlinked before it was listed left alone?",
        (vcpu(0, _access(0, "fetch")), host(op("zap_table", 0, 2, 0, 1))),
        _start(_access(0, "read"), vcpus=1, max_level=2, nx=True),
        must_occur=("a table was listed for NX recovery", "a table was removed"),
        designs=ONLY,
    ),
    Scenario(
        "mmio-slot-create",
        "a vCPU accesses MMIO while a memslot is created there",
        "May an access be emulated after its memslot has come into effect?",
        (vcpu(0, _access(4, "read"), _access(4)), host(op("create_slot", 1, 4, 2))),
        _start(_access(4, "read"), vcpus=1),
        must_occur=(
            "an MMIO access was emulated",
            "an MMIO SPTE had a stale generation",
            "an MMIO access hit the vCPU's cache",
        ),
        designs=ONLY,
    ),
)

SCENARIOS: tuple[Scenario, ...] = (*FAULTS, *ROOTS, *LOCKLESS, *DIRTY, *NX_MMIO)
