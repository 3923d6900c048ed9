# SPDX-License-Identifier: GPL-2.0-only
"""Roots: allocation, reference counts, iteration, invalidation (facts 2.3).

A valid root has one reference of the TDP MMU and one per vCPU that uses it.  Mirror roots
keep their vCPU references until ``kvm_mmu_destroy``, direct roots lose them on unload.
A root whose count drops to 0 must be invalid; it leaves the list and is freed by RCU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from septum.kvm.bug import WARN_ON
from septum.kvm.guest import flush_shared
from septum.kvm.structs import INVALID_PAGE, Kvm, KvmMmuPage, Role, Vcpu
from septum.kvm.tdp_mmu import lock, unlock
from septum.kvm.x86 import KVM_BUG_ON

__all__ = [
    "FUNCTIONS",
    "KVM_ALL_ROOTS",
    "KVM_DIRECT_ROOTS",
    "KVM_FILTER_PRIVATE",
    "KVM_FILTER_SHARED",
    "KVM_INVALID_ROOTS",
    "KVM_MIRROR_ROOTS",
    "KVM_VALID_ROOTS",
    "for_each_tdp_mmu_root",
    "for_each_tdp_mmu_root_yield_safe",
    "kvm_gfn_range_filter_to_root_types",
]

KVM_INVALID_ROOTS: Final = 1
KVM_DIRECT_ROOTS: Final = 2
KVM_MIRROR_ROOTS: Final = 4
KVM_VALID_ROOTS: Final = KVM_DIRECT_ROOTS | KVM_MIRROR_ROOTS
KVM_ALL_ROOTS: Final = KVM_VALID_ROOTS | KVM_INVALID_ROOTS

KVM_FILTER_SHARED: Final = 1
KVM_FILTER_PRIVATE: Final = 2


def kvm_gfn_range_filter_to_root_types(kvm: Kvm, attr_filter: int) -> int:
    if not kvm.has_mirrored_tdp:
        return KVM_DIRECT_ROOTS
    types = 0
    if attr_filter & KVM_FILTER_PRIVATE:
        types |= KVM_MIRROR_ROOTS
    if attr_filter & KVM_FILTER_SHARED:
        types |= KVM_DIRECT_ROOTS
    WARN_ON(not types, kvm, "kvm_gfn_range_filter_to_root_types", "no filter")
    return types


# --- references -------------------------------------------------------------------------


def kvm_tdp_mmu_get_root(kvm: Kvm, root: KvmMmuPage) -> bool:
    """refcount_inc_not_zero()."""
    count = root.tdp_mmu_root_count
    with kvm.m.step("refcount_inc_not_zero", count.name):
        n: int = count.peek()
        if n:
            count.poke(n + 1)
    return bool(n)


def kvm_tdp_mmu_put_root(kvm: Kvm, root: KvmMmuPage) -> None:
    """The last reference of an invalid root: off the list, and freed by RCU."""
    before = root.tdp_mmu_root_count.fetch_add(-1)
    WARN_ON(before <= 0, kvm, "kvm_tdp_mmu_put_root", "reference count underflow")
    if before != 1:
        return
    KVM_BUG_ON(
        not root.invalid.read(), kvm, "kvm_tdp_mmu_put_root", "last reference of a valid root"
    )
    kvm.tdp_mmu_pages_lock.lock()
    roots = kvm.tdp_mmu_roots
    roots.write(tuple(pfn for pfn in roots.peek() if pfn != root.pfn))
    kvm.tdp_mmu_pages_lock.unlock()
    root.spt.call_rcu(lambda: kvm.fn.tdp_mmu_free_sp_rcu_callback(kvm, root))


# --- iteration --------------------------------------------------------------------------


def root_is_invalid(kvm: Kvm, root: KvmMmuPage) -> bool:
    """role.invalid is written under mmu_lock held for write only."""
    invalid = root.invalid
    return bool(invalid.peek() if kvm.mmu_lock.held() else invalid.read())


def tdp_mmu_root_match(kvm: Kvm, root: KvmMmuPage, types: int) -> bool:
    if WARN_ON(not types & KVM_VALID_ROOTS, kvm, "tdp_mmu_root_match", "no valid root type"):
        return False
    if not types & KVM_INVALID_ROOTS and root_is_invalid(kvm, root):
        return False
    return bool(types & (KVM_MIRROR_ROOTS if root.is_mirror else KVM_DIRECT_ROOTS))


def tdp_mmu_next_root(kvm: Kvm, prev_root: KvmMmuPage | None, types: int) -> KvmMmuPage | None:
    """The next matching root, with a reference; puts the reference to ``prev_root``."""
    # A root on the list before which we stand stays there while we hold a reference.
    kvm.rcu.read_lock()
    pfns: tuple[int, ...] = kvm.tdp_mmu_roots.read()
    if prev_root is not None:
        pfns = pfns[pfns.index(prev_root.pfn) + 1 :]
    found = None
    for pfn in pfns:
        root = kvm.mmu_pages[pfn]
        if tdp_mmu_root_match(kvm, root, types) and kvm.fn.kvm_tdp_mmu_get_root(kvm, root):
            found = root
            break
    kvm.rcu.read_unlock()
    if prev_root is not None:
        kvm.fn.kvm_tdp_mmu_put_root(kvm, prev_root)
    return found


def for_each_tdp_mmu_root_yield_safe(kvm: Kvm, types: int, as_id: int = -1) -> Iterator[KvmMmuPage]:
    """Each root is referenced while visited.  Leaving the loop early leaks the reference,
    as in the kernel: the caller must put it."""
    root = tdp_mmu_next_root(kvm, None, types)
    while root is not None:
        if as_id < 0 or root.role.as_id == as_id:
            yield root
        root = tdp_mmu_next_root(kvm, root, types)


def for_each_tdp_mmu_root(kvm: Kvm, as_id: int, types: int) -> Iterator[KvmMmuPage]:
    """No references, no yielding: mmu_lock for write, or RCU, protects the list."""
    for pfn in kvm.tdp_mmu_roots.read():
        root = kvm.mmu_pages[pfn]
        if (as_id < 0 or root.role.as_id == as_id) and tdp_mmu_root_match(kvm, root, types):
            yield root


# --- allocation -------------------------------------------------------------------------


def kvm_tdp_mmu_alloc_root(vcpu: Vcpu, mirror: bool) -> KvmMmuPage:
    """Reuse a valid root of the same role, else make one with two references: the
    vCPU's and the TDP MMU's own."""
    kvm = vcpu.kvm
    role = Role(
        kvm.geometry.levels,
        is_mirror=mirror,
        smm=vcpu.smm.v,
        ad_disabled=not kvm.features.ad,
    )
    kvm.mmu_lock.read_lock()
    root = find_root(kvm, role)
    if root is None:
        kvm.tdp_mmu_pages_lock.lock()
        # Somebody may have added it while the lock was not held.
        root = find_root(kvm, role)
        if root is None:
            root = kvm.fn.tdp_mmu_alloc_sp(kvm)
            kvm.fn.tdp_mmu_init_sp(kvm, root, None, 0, role)
            root.tdp_mmu_root_count.init(2)
            kvm.tdp_mmu_roots.write((root.pfn, *kvm.tdp_mmu_roots.peek()))
        kvm.tdp_mmu_pages_lock.unlock()
    kvm.mmu_lock.read_unlock()
    return root


def find_root(kvm: Kvm, role: Role) -> KvmMmuPage | None:
    """The valid root of this role, with a reference."""
    for root in for_each_tdp_mmu_root(kvm, role.as_id, KVM_VALID_ROOTS):
        if root.role == role and kvm.fn.kvm_tdp_mmu_get_root(kvm, root):
            return root
    return None


def kvm_mmu_reload(vcpu: Vcpu) -> int:
    """kvm_mmu_load() unless the vCPU has its roots.  It ends in flush_tlb_current(): what was
    walked in roots that the vCPU has dropped is gone."""
    if vcpu.root_hpa.v != INVALID_PAGE:
        return 0
    ret: int = vcpu.kvm.fn.mmu_topup_memory_caches(vcpu)
    if ret:
        return ret
    vcpu.kvm.fn.mmu_alloc_direct_roots(vcpu)
    flush_shared(vcpu)
    return 0


def mmu_alloc_direct_roots(vcpu: Vcpu) -> None:
    kvm = vcpu.kvm
    if kvm.has_mirrored_tdp and vcpu.mirror_root_hpa.v == INVALID_PAGE:
        mirror = kvm.fn.kvm_tdp_mmu_alloc_root(vcpu, True)
        vcpu.mirror_root_hpa.set(mirror.pfn << 12)
    vcpu.root_hpa.set(kvm.fn.kvm_tdp_mmu_alloc_root(vcpu, False).pfn << 12)


def kvm_mmu_unload(vcpu: Vcpu) -> None:
    """Drop the direct root; the TDP MMU's reference keeps a valid one alive."""
    _free_root(vcpu.kvm, vcpu.root_hpa)


def kvm_mmu_destroy(vcpu: Vcpu) -> None:
    """The only place where a mirror root loses its vCPU reference."""
    vcpu.kvm.fn.kvm_mmu_unload(vcpu)
    _free_root(vcpu.kvm, vcpu.mirror_root_hpa)


def _free_root(kvm: Kvm, hpa: Any) -> None:
    """mmu_free_root_page()."""
    if hpa.v == INVALID_PAGE:
        return
    kvm.mmu_lock.read_lock()
    kvm.fn.kvm_tdp_mmu_put_root(kvm, kvm.mmu_pages[hpa.v >> 12])
    kvm.mmu_lock.read_unlock()
    hpa.set(INVALID_PAGE)


# --- invalidation and teardown ------------------------------------------------------------


def kvm_tdp_mmu_invalidate_roots(kvm: Kvm, types: int) -> None:
    """Mark roots for zapping; no SPTE is touched."""
    if WARN_ON(
        types & KVM_INVALID_ROOTS, kvm, "kvm_tdp_mmu_invalidate_roots", "invalid roots asked for"
    ):
        types &= ~KVM_INVALID_ROOTS
    for root in for_each_tdp_mmu_root(kvm, -1, types):
        root.tdp_mmu_scheduled_root_to_zap.set(True)
        root.invalid.write(True)


def kvm_tdp_mmu_zap_invalidated_roots(kvm: Kvm, shared: bool) -> None:
    """Zap what `kvm_tdp_mmu_invalidate_roots` marked; put the TDP MMU's reference."""
    lock(kvm, shared)
    for root in for_each_tdp_mmu_root_yield_safe(kvm, KVM_ALL_ROOTS):
        if not root.tdp_mmu_scheduled_root_to_zap.v:
            continue
        root.tdp_mmu_scheduled_root_to_zap.set(False)
        KVM_BUG_ON(
            not root_is_invalid(kvm, root),
            kvm,
            "kvm_tdp_mmu_zap_invalidated_roots",
            "scheduled root is valid",
        )
        kvm.fn.tdp_mmu_zap_root(kvm, root, shared)
        kvm.fn.kvm_tdp_mmu_put_root(kvm, root)
    unlock(kvm, shared)


def kvm_mmu_uninit_tdp_mmu(kvm: Kvm) -> None:
    """VM teardown: no vCPU and no other user is left, so the roots need no lock."""
    kvm.fn.kvm_tdp_mmu_invalidate_roots(kvm, KVM_VALID_ROOTS)
    kvm.fn.kvm_tdp_mmu_zap_invalidated_roots(kvm, False)
    name = "kvm_mmu_uninit_tdp_mmu"
    WARN_ON(kvm.tdp_mmu_pages.read(), kvm, name, "tdp_mmu_pages is not 0")
    WARN_ON(kvm.tdp_mmu_roots.read(), kvm, name, "roots are left")
    kvm.rcu.barrier()
    kvm.m.emit("mmu_destroyed")


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        kvm_mmu_destroy,
        kvm_mmu_reload,
        kvm_mmu_uninit_tdp_mmu,
        kvm_mmu_unload,
        kvm_tdp_mmu_alloc_root,
        kvm_tdp_mmu_get_root,
        kvm_tdp_mmu_invalidate_roots,
        kvm_tdp_mmu_put_root,
        kvm_tdp_mmu_zap_invalidated_roots,
        mmu_alloc_direct_roots,
    )
}
