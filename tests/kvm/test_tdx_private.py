# SPDX-License-Identifier: GPL-2.0-only
"""A TD's vCPU that moves, converts memory, and goes last (facts 5.3, 5.5, 5.6)."""

from __future__ import annotations

from errno import EFAULT

from glue_rig import BLOCK, ENTER, REMOVE, TRACK, WBINVD, TdxRig

from septum.kvm.cpus import migrate
from septum.kvm.guest import accept, map_gpa, read, touch
from septum.kvm.operations import OPERATIONS
from septum.scenarios import ops
from septum.tdx.status import TDX_OPERAND_BUSY, Operand

FLUSH = "VP.FLUSH"
SPARE = 2  # with one vCPU, CPU 1 is the host's


def running() -> TdxRig:
    rig = TdxRig()
    assert rig.run(accept(0), touch(0)) == 0
    rig.take()
    return rig


# --- moving -------------------------------------------------------------------------------------


def test_a_vcpu_is_flushed_where_it_was_and_associated_where_it_is() -> None:
    rig = running()
    assert rig.kvm.cpu(0).tlb.v
    migrate(rig.vcpu, SPARE)
    assert rig.take() == [FLUSH]
    assert rig.kvm.cpu(0).tlb.v == frozenset()
    assert (rig.kvm.cpu(0).curr.v, rig.kvm.cpu(SPARE).curr.v) == (None, 0)
    assert rig.run(touch(0)) == 0
    assert rig.take() == [ENTER]
    assert {gfn for gfn, _ in rig.kvm.cpu(SPARE).tlb.v} == {0}
    assert rig.rules == []


def test_a_vcpu_that_stays_is_not_flushed() -> None:
    rig = running()
    migrate(rig.vcpu, 0)
    rig.fn.kvm_arch_vcpu_load(rig.vcpu, 0)
    assert rig.take() == []


def test_a_failing_flush_bugs_the_vm_and_still_ends_the_association() -> None:
    rig = running()
    rig.script[FLUSH] = [TDX_OPERAND_BUSY | Operand.RCX]
    rig.fn.tdx_flush_vp_on_cpu(rig.vcpu)
    assert rig.rules == ["BUG:tdx_flush_vp_on_cpu"]
    assert rig.vcpu.cpu.v == -1
    rig.take()
    rig.fn.tdx_flush_vp_on_cpu(rig.vcpu)
    assert rig.take() == []


# --- converting ---------------------------------------------------------------------------------


def test_conversion_and_back() -> None:
    rig = running()
    shared = rig.kvm.geometry.shared_gfn
    pfn = rig.kvm.host.gmem.peek(0)
    ops.run_vcpu(rig.kvm, 0, (map_gpa(shared), read(shared)))
    assert rig.take() == [ENTER, BLOCK, TRACK, REMOVE, WBINVD, ENTER, ENTER]
    assert rig.kvm.host.owner(pfn) == "free"
    assert rig.run(touch(0)) == -EFAULT  # userspace learns that the page is shared
    hva = rig.kvm.host.hva.peek(0)
    rig.take()
    ops.run_vcpu(rig.kvm, 0, (map_gpa(0), accept(0), touch(0)))
    assert rig.kvm.host.owner(hva) == "free"
    assert rig.kvm.host.gmem.peek(0) not in (0, pfn)
    assert rig.run(read(shared)) == -EFAULT
    assert rig.rules == []


def test_shared_memory_without_a_slot_is_mmio() -> None:
    """The entry does not suppress the #VE, so the guest asks by itself."""
    rig = TdxRig(slots=((0, 2, 0), (2, 1, -1)))
    shared = rig.kvm.geometry.shared_gfn | 2
    OPERATIONS["set_attributes"](rig.kvm, 2, 3, private=False)
    assert rig.run(read(shared)) == 0
    OPERATIONS["delete_slot"](rig.kvm, 1)
    assert rig.run(read(shared)) == 0
    assert "a shared access was MMIO" in rig.m.reached
    assert rig.rules == []


# --- the end --------------------------------------------------------------------------------------


def test_the_last_file_takes_the_vm_along() -> None:
    rig = running()
    OPERATIONS["teardown"](rig.kvm)
    assert FLUSH not in rig.take()
    assert rig.kvm.tdx.hkid.v > 0
    OPERATIONS["close_vcpu"](rig.kvm, 0)
    assert rig.take()[0] == FLUSH
    assert rig.kvm.tdx.hkid.v == -1
    assert rig.rules == []


def test_an_invalidation_that_never_ended_is_noticed_at_the_end() -> None:
    rig = running()
    rig.kvm.mmu_lock.write_lock()
    rig.fn.kvm_mmu_invalidate_start(rig.kvm)
    rig.fn.kvm_mmu_invalidate_range_add(rig.kvm, 0, 1)
    rig.kvm.mmu_lock.write_unlock()
    OPERATIONS["destroy_vm"](rig.kvm)
    assert rig.rules == ["WARN:kvm_destroy_vm"]


def test_a_notifier_cut_off_by_the_end_leaves_no_count() -> None:
    rig = running()
    rig.fn.kvm_mmu_notifier_invalidate_range_start(rig.kvm, 0, 1)
    OPERATIONS["destroy_vm"](rig.kvm)
    assert rig.kvm.mn_active_invalidate_count.v == 0
    assert rig.rules == []
