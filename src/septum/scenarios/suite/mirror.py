# SPDX-License-Identifier: GPL-2.0-only
"""The mirror tree: installs, zaps, and what a running TD does meanwhile.

Every scenario has at least the tasks it names, one missing table level (unless it says
that tables are what is removed) and one GFN that two tasks share.  GFNs 0 and 1 share a
last-level table, as do 2 and 3 (two entries per table, three levels).
"""

from __future__ import annotations

from septum.scenarios.model import Inject, Scenario, Start, op, run_vcpu
from septum.scenarios.suite.tasks import host, vcpu

__all__ = ["SCENARIOS"]

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "fault-fault",
        "two vCPUs fault the same GFN, its last-level table is missing",
        "Is freezing the mirror SPTE around the hook enough? (seed: 'concurrent faults "
        "don't attempt to install a child PTE ... before the parent PTE has been written')",
        (vcpu(0, op("fault", 0)), vcpu(1, op("fault", 0))),
        Start(mapped=(2,)),
        must_occur=("a fault met FROZEN_SPTE", "an SPTE cmpxchg lost"),
    ),
    Scenario(
        "fault-neighbours",
        "two vCPUs fault neighbouring GFNs that share two missing tables",
        "May a child be installed before its parent table is in the S-EPT?",
        (vcpu(0, op("fault", 0)), vcpu(1, op("fault", 1))),
        Start(),
        must_occur=("a fault met FROZEN_SPTE", "an SPTE cmpxchg lost"),
    ),
    Scenario(
        "fault-punch",
        "a vCPU faults a GFN while the host punches a hole over it",
        "Does the retry protocol keep a fault from mapping a page that is being freed?",
        (vcpu(0, op("fault", 0)), host(op("punch_hole", 0, 1))),
        Start(mapped=(2,)),
        must_occur=("mmu_seq forced a retry", "a mirror leaf was zapped"),
    ),
    Scenario(
        "refault-punch",
        "a mapped GFN is punched while two vCPUs fault it",
        "May a fault meet the S-EPT entry between the mirror store and PAGE.REMOVE?",
        (vcpu(0, op("fault", 0)), vcpu(1, op("fault", 1)), host(op("punch_hole", 0, 1))),
        Start(mapped=(0,)),
        must_occur=("a mirror leaf was zapped",),
    ),
    Scenario(
        "install-accept",
        "AUG meets the entry lock of a guest ACCEPT on another vCPU",
        "What if set_external_spte() fails with BUSY? (real overlap)",
        (vcpu(0, op("fault", 0)), vcpu(1, run_vcpu(op("accept", 0)))),
        Start(mapped=(1,)),
        must_occur=("TDH.MEM.PAGE.AUG returned TDX_OPERAND_BUSY|RCX",),
    ),
    Scenario(
        "install-zero-step",
        "installs meet the exclusive S-EPT tree lock of a zero-step VP.ENTER",
        "What if set_external_spte() fails with BUSY? (real overlap)",
        (vcpu(0, op("fault", 0)), vcpu(1, run_vcpu(op("touch", 2)))),
        Start(accepted=(2,), mapped=(2,), zero_step=((1, 2),)),
        must_occur=("TDH.MEM.SEPT.ADD returned TDX_OPERAND_BUSY|SEPT_TREE",),
    ),
    Scenario(
        "install-table-fails",
        "two vCPUs fault the same GFN, one SEPT.ADD is made to return BUSY",
        "Is the old SPTE restored when linking a table fails?",
        (vcpu(0, op("fault", 0)), vcpu(1, op("fault", 0))),
        Start(mapped=(2,)),
        must_occur=("a failure was injected", "a fault met FROZEN_SPTE"),
        inject=Inject(("TDH.MEM.SEPT.ADD",), ("TDX_OPERAND_BUSY",)),
    ),
    Scenario(
        "install-leaf-fails",
        "two vCPUs fault the same GFN, one AUG is made to fail, with BUSY or for good",
        "Is the old SPTE restored when installing a leaf fails?",
        (vcpu(0, op("fault", 0)), vcpu(1, op("fault", 0))),
        Start(mapped=(1,)),
        must_occur=("a failure was injected", "a fault met FROZEN_SPTE"),
        inject=Inject(("TDH.MEM.PAGE.AUG",), ("TDX_OPERAND_BUSY", "TDX_OPERAND_INVALID")),
    ),
    Scenario(
        "zap-running",
        "the host zaps a page that a running vCPU uses",
        "Do BLOCK, TRACK, kick and REMOVE hold against a vCPU inside the guest?",
        (vcpu(0, run_vcpu(op("touch", 0))), host(op("zap_leafs", 0, 1))),
        Start(vcpus=1, mapped=(0,), accepted=(0,)),
        must_occur=("a mirror leaf was zapped", "kick interrupted a running vCPU"),
    ),
    Scenario(
        "zap-accept",
        "the host zaps a page while the guest accepts it",
        "Does the second call without vCPUs always get through?",
        (vcpu(0, run_vcpu(op("accept", 0))), host(op("zap_leafs", 0, 1))),
        Start(vcpus=1, mapped=(0,)),
        must_occur=("the second no-vCPUs call was made", "vCPU saw wait_for_sept_zap"),
    ),
    Scenario(
        "zap-zero-step",
        "the host's BLOCK meets the tree lock of a zero-step VP.ENTER",
        "Does the second call without vCPUs always get through?",
        (vcpu(1, run_vcpu(op("touch", 2))), host(op("zap_leafs", 0, 1))),
        Start(mapped=(0, 2), accepted=(0, 2), zero_step=((1, 2),)),
        must_occur=("the second no-vCPUs call was made",),
        bound=3000,
    ),
    Scenario(
        "vm-dies",
        "a vCPU touches a page that it has not accepted while another one enters",
        "Can a vCPU enter the guest after the VM was declared dead?",
        (vcpu(0, run_vcpu(op("touch", 0))), vcpu(1, run_vcpu(op("touch", 1)))),
        Start(mapped=(0, 1), accepted=(1,)),
        must_occur=(
            "guest touched a PENDING page",
            "a request stopped a vCPU before it entered",
        ),
    ),
    Scenario(
        "subtree",
        "the mirror's tables are removed while an RCU reader walks them",
        "Are tables freed children first, once, and not under a reader?",
        (
            host(op("release_gmem"), op("release_hkid"), op("zap_table", 0, 3)),
            host(op("walk", 0), name="reader"),
        ),
        Start(vcpus=1, mapped=(0, 2)),
        must_occur=("a table was removed",),
    ),
    Scenario(
        "build-prefault",
        "pages are added and the TD is finalized while a vCPU pre-faults",
        "May PAGE.ADD and PAGE.AUG meet?",
        (
            host(op("init_mem_region", 0), op("finalize"), name="build"),
            vcpu(1, op("prefault", 0)),
        ),
        Start(finalized=False, built=(2,)),
        must_occur=("prefault was refused", "prefault mapped or found the page"),
    ),
    Scenario(
        "split-tripwire",
        "a mirror huge leaf becomes a table and a leaf again under the write lock",
        "!is_leaf or !is_present in handle_changed_spte(): does the tripwire fire?",
        (host(op("split", 0, 2), op("merge", 0)), vcpu(1, op("fault", 3))),
        Start(huge=(0,), mapped=(2,)),
        must_occur=("a huge mirror leaf was split under the write lock",),
        epilogue=False,
    ),
)
