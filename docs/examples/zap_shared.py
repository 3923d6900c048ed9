# SPDX-License-Identifier: GPL-2.0-only
"""feb06, if a mirror table were zapped with mmu_lock held for read."""

from septum.kvm.spte import SHADOW_NONPRESENT_VALUE, is_shadow_present_pte
from septum.kvm.structs import Kvm, KvmMmuPage
from septum.kvm.tdp_iter import for_each_tdp_pte_min_level

PREDECESSOR = "feb06"


def tdp_mmu_zap_table(kvm: Kvm, root: KvmMmuPage, gfn: int, level: int, shared: bool) -> int:
    """As in the predecessor, but under the read lock."""
    kvm.mmu_lock.write_unlock()
    kvm.mmu_lock.read_lock()
    ret = 0
    kvm.rcu.read_lock()
    for iter in for_each_tdp_pte_min_level(kvm, root, level, gfn, gfn + 1):
        if iter.level == level and is_shadow_present_pte(iter.old_spte):
            ret = int(kvm.fn.tdp_mmu_set_spte_atomic(kvm, iter, SHADOW_NONPRESENT_VALUE))
    kvm.rcu.read_unlock()
    kvm.mmu_lock.read_unlock()
    kvm.mmu_lock.write_lock()
    return ret
