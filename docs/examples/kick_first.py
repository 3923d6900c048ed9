# SPDX-License-Identifier: GPL-2.0-only
"""v7.3 that kicks the vCPUs before TDH.MEM.TRACK, not after it."""

from septum.kvm.bug import lockdep_assert_held_write
from septum.kvm.seamcall import TDX_BUG_ON
from septum.kvm.structs import KVM_REQ_OUTSIDE_GUEST_MODE, TD_STATE_RUNNABLE, Kvm


def tdx_track(kvm: Kvm) -> None:
    """Every vCPU out of the guest, then a new TLB epoch."""
    if kvm.tdx.state.read() != TD_STATE_RUNNABLE:
        return  # no vCPU can have run
    lockdep_assert_held_write(kvm.mmu_lock, "tdx_track")
    kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_OUTSIDE_GUEST_MODE)
    result = kvm.fn.tdh_do_no_vcpus(kvm, kvm.fn.tdh_mem_track)
    TDX_BUG_ON(result, "TDH_MEM_TRACK", kvm, "tdx_track")
