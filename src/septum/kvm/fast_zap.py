# SPDX-License-Identifier: GPL-2.0-only
"""Zapping everything: at once under the write lock, or fast, root by root (facts 4.10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from septum.kvm.bug import lockdep_assert_held, lockdep_assert_held_write
from septum.kvm.roots import (
    KVM_DIRECT_ROOTS,
    KVM_INVALID_ROOTS,
    for_each_tdp_mmu_root_yield_safe,
)
from septum.kvm.structs import KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, Kvm

__all__ = ["FUNCTIONS"]


def kvm_tdp_mmu_zap_all(kvm: Kvm) -> None:
    """Direct roots, valid and invalid; mirror roots never.  No flush: the VM is gone."""
    lockdep_assert_held_write(kvm.mmu_lock, "kvm_tdp_mmu_zap_all")
    types = KVM_DIRECT_ROOTS | KVM_INVALID_ROOTS
    for root in for_each_tdp_mmu_root_yield_safe(kvm, types):
        kvm.fn.tdp_mmu_zap_root(kvm, root, False)


def kvm_mmu_zap_all(kvm: Kvm) -> None:
    """kvm_flush_shadow_all(): the notifier's release."""
    kvm.mmu_lock.write_lock()
    kvm.fn.kvm_tdp_mmu_zap_all(kvm)
    kvm.mmu_lock.write_unlock()


def __kvm_mmu_zap_all_fast_front_half(kvm: Kvm) -> None:
    """Invalidate and request in one section: who sees an invalid root finds the request."""
    lockdep_assert_held(kvm.slots_lock, "__kvm_mmu_zap_all_fast_front_half")
    lockdep_assert_held_write(kvm.mmu_lock, "__kvm_mmu_zap_all_fast_front_half")
    kvm.trace("kvm_mmu_zap_all_fast", mmu_valid_gen=0, used_pages=0)
    kvm.fn.kvm_tdp_mmu_invalidate_roots(kvm, KVM_DIRECT_ROOTS)
    kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)


def __kvm_mmu_zap_all_fast_back_half(kvm: Kvm) -> None:
    """Under mmu_lock held for read, while vCPUs fill new roots.  No flush: a vCPU flushes
    when it loads a root."""
    kvm.fn.kvm_tdp_mmu_zap_invalidated_roots(kvm, True)


def kvm_mmu_zap_all_fast(kvm: Kvm) -> None:
    kvm.mmu_lock.write_lock()
    kvm.fn.__kvm_mmu_zap_all_fast_front_half(kvm)
    kvm.mmu_lock.write_unlock()
    kvm.fn.__kvm_mmu_zap_all_fast_back_half(kvm)
    kvm.m.emit("zap_all_fast_done")


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        __kvm_mmu_zap_all_fast_back_half,
        __kvm_mmu_zap_all_fast_front_half,
        kvm_mmu_zap_all,
        kvm_mmu_zap_all_fast,
        kvm_tdp_mmu_zap_all,
    )
}
