# SPDX-License-Identifier: GPL-2.0-only
"""Private huge pages: mapping, splitting and taking away 2M mirror leafs.

With two entries per table a "2M" page is GFNs 0 and 1.  ``v7.3+hugepage`` needs a module
whose PAGE.DEMOTE no interrupt ends; ``void-callback`` runs with any.  The scenarios
``read-split-*`` use a module that splits without BLOCK and TRACK, which does not exist:
they ask what a split under mmu_lock held for read would need.
"""

from __future__ import annotations

from dataclasses import replace

from septum.scenarios.model import Inject, Scenario, Start, op, run_vcpu
from septum.scenarios.suite.tasks import host, vcpu

__all__ = ["SCENARIOS"]

ENHANCED = "linux-7.3+enhanced-demote"
RESIZE = "linux-7.3+enhanced-demote+nonblocking-resize"

HUGE = "v7.3+hugepage"
VOID = "void-callback"
NEEDS = frozenset({"mirror-2m-leaf", "split-write"})

_WRITE_SPLIT = "a huge mirror leaf was split under the write lock"
_READ_SPLIT = "a huge page was split, mmu_lock held for read"

_SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "huge-fault",
        "two vCPUs fault the two halves of a 2M page, its table is missing",
        "Is freezing the mirror SPTE enough for huge leafs?",
        (vcpu(0, op("fault", 0)), vcpu(1, op("fault", 1))),
        Start(folio_level=2),
        must_occur=("a huge mirror leaf was installed", "a fault met FROZEN_SPTE"),
        designs=(HUGE, VOID),
    ),
    Scenario(
        "huge-zap",
        "the host zaps a 2M page that a running vCPU uses",
        "Do BLOCK, TRACK, kick and REMOVE hold for a huge page?",
        (vcpu(0, run_vcpu(op("touch", 1))), host(op("punch_hole", 0, 2))),
        Start(vcpus=1, mapped=(2,), huge=(0,), huge_accepted=(0,), folio_level=2),
        must_occur=("a mirror leaf was zapped", "kick interrupted a running vCPU"),
        designs=(HUGE,),
    ),
    Scenario(
        "huge-split-fault",
        "a 2M page is split under the write lock while a vCPU faults its other half",
        "What does a fault see between the store of the table and PAGE.DEMOTE?",
        (host(op("split", 0, 2)), vcpu(0, op("fault", 1))),
        Start(vcpus=1, mapped=(2,), huge=(0,), folio_level=2),
        must_occur=(_WRITE_SPLIT,),
        designs=(HUGE, VOID),
    ),
    Scenario(
        "huge-split-accept",
        "PAGE.DEMOTE meets the entry lock of a guest ACCEPT of the 2M page",
        "What if PAGE.DEMOTE is busy after BLOCK? (real overlap)",
        (host(op("split", 0, 2)), vcpu(0, run_vcpu(op("accept2m", 0)))),
        Start(vcpus=1, mapped=(2,), huge=(0,), folio_level=2),
        must_occur=(_WRITE_SPLIT, "TDH.MEM.PAGE.DEMOTE returned TDX_OPERAND_BUSY|RCX"),
        designs=(HUGE, VOID),
    ),
    Scenario(
        "huge-split-zero-step",
        "the split meets the tree lock of a zero-step VP.ENTER",
        "What if BLOCK or PAGE.DEMOTE is busy? (real overlap)",
        (host(op("split", 0, 2)), vcpu(1, run_vcpu(op("touch", 2)))),
        Start(mapped=(2,), accepted=(2,), zero_step=((1, 2),), huge=(0,), folio_level=2),
        must_occur=(_WRITE_SPLIT, "the second no-vCPUs call was made"),
        bound=3000,
        designs=(HUGE,),
    ),
    Scenario(
        "huge-split-interrupted",
        "a pending interrupt ends PAGE.DEMOTE after BLOCK and TRACK",
        "The field case: is a split that does not happen noticed at the split?",
        (host(op("split", 0, 2)), vcpu(0, op("fault", 1))),
        Start(vcpus=1, mapped=(2,), huge=(0,), huge_accepted=(0,), folio_level=2),
        must_occur=("TDH.MEM.PAGE.DEMOTE returned TDX_INTERRUPTED_RESTARTABLE",),
        profile="linux-7.3",
        interrupts=1,
        designs=(VOID,),
    ),
    Scenario(
        "huge-split-fails",
        "PAGE.DEMOTE is made to fail, with BUSY or for good, after BLOCK and TRACK",
        "Is a split that does not happen noticed at the split?",
        (host(op("split", 0, 2)), vcpu(0, op("fault", 1))),
        Start(vcpus=1, mapped=(2,), huge=(0,), huge_accepted=(0,), folio_level=2),
        must_occur=("a failure was injected",),
        inject=Inject(("TDH.MEM.PAGE.DEMOTE",), ("TDX_OPERAND_BUSY", "TDX_OPERAND_INVALID")),
        designs=(HUGE, VOID),
    ),
    Scenario(
        "huge-split-no-memory",
        "the page for the split's table cannot be had",
        "Does a split without memory leave anything behind?",
        (host(op("split", 0, 2)), vcpu(0, op("fault", 1))),
        Start(vcpus=1, mapped=(2,), huge=(0,), folio_level=2),
        must_occur=(_WRITE_SPLIT, "an allocation failed"),
        alloc_failures=1,
        designs=(HUGE, VOID),
    ),
    Scenario(
        "huge-punch-half",
        "a hole takes half of a 2M page while a vCPU uses the other half",
        "Is exactly the hole taken away?",
        (host(op("punch_hole", 0, 1)), vcpu(0, run_vcpu(op("touch", 1)))),
        Start(vcpus=1, mapped=(2,), huge=(0,), huge_accepted=(0,), folio_level=2),
        must_occur=(_WRITE_SPLIT, "a mirror leaf was zapped"),
        designs=(HUGE,),
        bound=3000,
    ),
    Scenario(
        "huge-refault",
        "a huge page is split and taken away while a vCPU faults it again",
        "Does a fault leave a table alone where it could have a huge page?",
        (host(op("split", 0, 2), op("punch_hole", 0, 2)), vcpu(0, op("fault", 1))),
        Start(vcpus=1, mapped=(2,), huge=(0,), folio_level=2),
        must_occur=("a fault would have merged a table", "a mirror leaf was zapped"),
        designs=(HUGE,),
    ),
    Scenario(
        "huge-punch-fault",
        "a hole takes half of a 2M range while a vCPU faults the other half",
        "May a fault map the huge page that is losing a half?",
        (host(op("punch_hole", 0, 1)), vcpu(0, op("fault", 1))),
        Start(vcpus=1, mapped=(2,), folio_level=2),
        must_occur=("a huge mirror leaf was installed",),
        designs=(HUGE, f"{HUGE}+hole-range"),
    ),
    Scenario(
        "huge-punch-no-memory",
        "a hole in a huge page finds no memory for the split while a vCPU faults",
        "Does a hole that cannot be punched leave anything behind?",
        (host(op("punch_hole", 0, 1)), vcpu(0, op("fault", 0))),
        Start(vcpus=1, mapped=(2,), huge=(0,), folio_level=2),
        must_occur=("no memory for a split: the hole was not punched",),
        alloc_failures=1,
        designs=(HUGE,),
    ),
    Scenario(
        "huge-convert-half",
        "half of a 2M page becomes shared while a vCPU faults the other half",
        "Is exactly the converted half taken away?",
        (host(op("set_attributes", 0, 1, 0)), vcpu(0, op("fault", 1))),
        Start(vcpus=1, mapped=(2,), huge=(0,), folio_level=2),
        must_occur=(_WRITE_SPLIT, "a mirror leaf was zapped"),
        designs=(HUGE,),
    ),
    Scenario(
        "huge-convert-fault",
        "half of a 2M range that nobody mapped becomes shared while a vCPU faults the rest",
        "May a fault make a huge page of mixed memory?",
        (host(op("set_attributes", 0, 1, 0)), vcpu(0, op("fault", 1))),
        Start(vcpus=1, mapped=(2,), folio_level=2),
        must_occur=("mmu_seq forced a retry", "a huge mirror leaf was installed"),
        designs=(HUGE,),
    ),
    Scenario(
        "huge-convert-no-memory",
        "a conversion finds no memory for the split while a vCPU faults",
        "Does a conversion that fails leave anything behind?",
        (host(op("set_attributes", 1, 2, 0)), vcpu(0, op("fault", 1))),
        Start(vcpus=1, mapped=(2,), huge=(0,), folio_level=2),
        must_occur=("no memory for a split: the attributes were not set",),
        alloc_failures=1,
        designs=(HUGE, f"{HUGE}+convert-end"),
    ),
    Scenario(
        "huge-accept-mismatch",
        "the guest accepts 4K pages of a 2M mapping on two vCPUs",
        "Is the split in the fault path one way, and does the guest get on?",
        (vcpu(0, run_vcpu(op("accept", 0))), vcpu(1, run_vcpu(op("accept", 1)))),
        Start(mapped=(2,), huge=(0,), folio_level=2),
        must_occur=(_WRITE_SPLIT, "an ACCEPT at a lower level inhibited huge pages"),
        designs=(HUGE,),
        bound=3000,
    ),
    Scenario(
        "huge-accept-no-memory",
        "an ACCEPT of a 4K page finds no memory for the split; userspace runs the vCPU again",
        "Is the inhibit flag set only once the split has been made?",
        (
            vcpu(0, run_vcpu(op("accept", 0)), run_vcpu(op("accept", 0))),
            vcpu(1, op("fault", 1)),
        ),
        Start(mapped=(2,), huge=(0,), folio_level=2),
        must_occur=(_WRITE_SPLIT, "an allocation failed"),
        alloc_failures=1,
        designs=(HUGE,),
    ),
    Scenario(
        "huge-accept-first",
        "a guest accepts a 4K page that nobody mapped while another vCPU faults its neighbour",
        "Which size does a page get that the guest accepts before it touches it?",
        (vcpu(0, run_vcpu(op("accept", 0))), vcpu(1, op("fault", 1))),
        Start(mapped=(2,), folio_level=2),
        must_occur=(
            "an ACCEPT at a lower level inhibited huge pages",
            "a huge mirror leaf was installed",
        ),
        designs=(HUGE,),
        bound=3000,
    ),
)

_SHARED = f"{HUGE}+shared-param"
_BUSY = f"{HUGE}+split-busy"
_THREE = (HUGE, _SHARED, _BUSY)

_HYPOTHETICAL: tuple[Scenario, ...] = (
    Scenario(
        "read-split-fault",
        "hypothetical: a 2M page is split under the read lock while a vCPU faults its half",
        "What does `bool shared` of set_external_spte() buy? (the mail's read-lock split)",
        (host(op("split", 0, 2, 1, 1)), vcpu(0, op("fault", 1))),
        Start(vcpus=1, mapped=(2,), huge=(0,), folio_level=2),
        must_occur=(_READ_SPLIT, "a fault met FROZEN_SPTE"),
    ),
    Scenario(
        "read-split-accept",
        "hypothetical: the split under the read lock meets a guest ACCEPT of the 2M page",
        "What does `bool shared` buy where PAGE.DEMOTE is busy? (real overlap)",
        (host(op("split", 0, 2, 1, 1)), vcpu(0, run_vcpu(op("accept2m", 0)))),
        Start(vcpus=1, mapped=(2,), huge=(0,), folio_level=2),
        must_occur=(_READ_SPLIT, "TDH.MEM.PAGE.DEMOTE returned TDX_OPERAND_BUSY|RCX"),
    ),
    Scenario(
        "read-split-twice",
        "hypothetical: two threads split the same 2M page under the read lock",
        "Does the loser of a read-lock split find what it needs?",
        (host(op("split", 0, 2, 1, 1)), host(op("split", 0, 2, 1, 1), name="other")),
        Start(vcpus=1, mapped=(2,), huge=(0,), folio_level=2),
        must_occur=(_READ_SPLIT, "an SPTE cmpxchg lost"),
    ),
    Scenario(
        "write-split-accept",
        "hypothetical: the same module, split under the write lock, meets a guest ACCEPT",
        "May the hook return BUSY under the write lock? (what the parameter is for)",
        (host(op("split", 0, 2)), vcpu(0, run_vcpu(op("accept2m", 0)))),
        Start(vcpus=1, mapped=(2,), huge=(0,), folio_level=2),
        must_occur=(_WRITE_SPLIT, "TDH.MEM.PAGE.DEMOTE returned TDX_OPERAND_BUSY|RCX"),
    ),
)

SCENARIOS: tuple[Scenario, ...] = (
    *(replace(s, needs=NEEDS, profile=s.profile if s.interrupts else ENHANCED) for s in _SCENARIOS),
    *(replace(s, needs=NEEDS, profile=RESIZE, designs=_THREE) for s in _HYPOTHETICAL),
)
