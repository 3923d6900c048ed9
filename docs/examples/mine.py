# SPDX-License-Identifier: GPL-2.0-only
"""v7.3 that leaves the new mirror SPTE in place when the S-EPT is busy.

The idea: -EBUSY sends the vCPU back to the guest, where it takes the same EPT violation and
tries again.  So why put the old SPTE back?
"""

from septum.kvm.bug import WARN_ON, lockdep_assert_held_read
from septum.kvm.spte import FROZEN_SPTE, is_frozen_spte, is_mirror_sptep, sptep_to_sp
from septum.kvm.structs import Kvm
from septum.kvm.tdp_iter import TdpIter
from septum.kvm.x86 import KVM_BUG_ON

NAME = "mine"
PREDECESSOR = "v7.3"


def tdp_mmu_set_spte_atomic(kvm: Kvm, iter: TdpIter, new_spte: int) -> int:
    """Facts 4.1.  0, -EBUSY, or what the hook returned."""
    sp = sptep_to_sp(iter.sptep)
    name = "tdp_mmu_set_spte_atomic"
    lockdep_assert_held_read(kvm.mmu_lock, name)
    WARN_ON(is_frozen_spte(new_spte), kvm, name, "new SPTE is frozen")
    if is_mirror_sptep(iter.sptep):
        # Frozen until the S-EPT is up to date: nobody uses or changes the entry.
        ret: int = kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, FROZEN_SPTE)
    else:
        ret = kvm.fn.__tdp_mmu_set_spte_atomic(kvm, iter, new_spte)
    if ret:
        return ret
    ret = kvm.fn.__handle_changed_spte(kvm, sp, iter.gfn, iter.old_spte, new_spte, iter.level, True)
    if is_mirror_sptep(iter.sptep):
        kvm.fn.__kvm_tdp_mmu_write_spte(kvm, iter.sptep, new_spte)
    else:
        KVM_BUG_ON(ret, kvm, name, "a direct SPTE change failed")
    return ret
