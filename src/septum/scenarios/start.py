# SPDX-License-Identifier: GPL-2.0-only
"""Bring a fresh VM into a scenario's start state, in sequential mode.

Mappings are made by the design's own functions, except a "2M" mirror leaf, which no KVM
without huge page support can install (facts/kvm-tdp-mmu.md 6.6): for it the level limits
are lifted (`septum.kvm.operations.force_huge_leaf`).
"""

from __future__ import annotations

from contextlib import suppress

from septum.kvm.guest import accept
from septum.kvm.operations import OPERATIONS, force_huge_leaf
from septum.kvm.spte import PG_LEVEL_2M, PG_LEVEL_4K
from septum.kvm.structs import Kvm
from septum.kvm.tdx_vm import arm_zero_step
from septum.machine import Halt
from septum.scenarios import ops
from septum.scenarios.model import Start

__all__ = ["StartError", "prepare"]


class StartError(RuntimeError):
    """The start state could not be made: the design fails before anything races."""


def prepare(kvm: Kvm, start: Start) -> None:
    """Attributes, build, arm zero-step lists (before their GFNs are mapped), map, accept."""
    with suppress(Halt):  # its reason is a finding
        _make(kvm, start)
    problems = kvm.m.findings
    if problems or kvm.vm_dead.v:
        what = problems[0] if problems else None
        raise StartError(
            f"the start state cannot be made: {what.rule}: {what.message}"
            if what
            else "the start state cannot be made: the VM is dead"
        )


def _huge_leaf(kvm: Kvm, gfn: int) -> None:
    """By a fault, if the design can."""
    if kvm.fn.gmem_max_mapping_level(kvm, 0, True) == PG_LEVEL_4K:
        force_huge_leaf(kvm, 0, gfn)
        return
    arch, gmem = kvm.slots[0].arch, kvm.host.gmem
    before = arch.max_level, gmem.folio_level
    arch.max_level = gmem.folio_level = PG_LEVEL_2M
    OPERATIONS["fault"](kvm, 0, gfn)
    arch.max_level, gmem.folio_level = before


def _make(kvm: Kvm, start: Start) -> None:
    for gfn in start.shared:
        OPERATIONS["set_attributes"](kvm, gfn, gfn + 1, private=False)
    if start.default_vm is None:
        kvm.host.gmem.folio_level = start.folio_level
        for slot in kvm.slots:
            slot.arch.max_level = start.folio_level if slot.has_gmem else start.shared_level
        kvm.host.hva.folio_level = start.shared_level
    for gfn in start.built:
        ops.init_mem_region(kvm, gfn)
    for vcpu, gfn in start.zero_step:
        arm_zero_step(kvm.vcpus[vcpu], gfn)
    for gfn in start.mapped:
        OPERATIONS["fault"](kvm, 0, gfn)
    for gfn in start.mapped_shared:
        OPERATIONS["fault"](kvm, 0, gfn, shared=True)
    if start.accepted:
        ops.run_vcpu(kvm, 0, tuple(accept(gfn) for gfn in start.accepted))
    for gfn in start.huge:
        _huge_leaf(kvm, gfn)
    if start.huge_accepted:
        ops.run_vcpu(kvm, 0, tuple(accept(gfn, 2) for gfn in start.huge_accepted))
    for what in start.before:
        ops.bind(kvm, 0, what)()
    kvm.rcu.barrier()
