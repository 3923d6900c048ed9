# SPDX-License-Identifier: GPL-2.0-only
"""WARN_ON(), BUG(), KVM_BUG_ON() and lockdep: assertions of the kernel are findings.

``WARN_ON`` is finding ``WARN:<function>``, ``KVM_BUG_ON`` is ``BUG:<function>`` and marks
the VM bugged and dead (facts 5.2), ``BUG()`` ends the execution, a failed
``lockdep_assert_*`` is ``I10``.  None of them but ``BUG()`` returns from the caller.
KVM_MMU_WARN_ON (CONFIG_KVM_PROVE_MMU) is always on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from septum.kvm.structs import KVM_REQ_VM_DEAD
from septum.machine import RWLock

if TYPE_CHECKING:
    from septum.kvm.structs import Kvm

__all__ = [
    "BUG",
    "KVM_BUG_ON",
    "WARN_ON",
    "kvm_vm_bugged",
    "kvm_vm_dead",
    "lockdep_assert_held",
    "lockdep_assert_held_read",
    "lockdep_assert_held_write",
    "might_sleep",
]


def WARN_ON(kvm: Kvm, condition: bool, function: str, what: str = "") -> bool:  # noqa: N802
    """Report ``WARN:<function>`` if ``condition``; return it, as the kernel's does."""
    if condition:
        kvm.m.report(f"WARN:{function}", what or f"WARN_ON in {function}()")
    return condition


def BUG(kvm: Kvm, function: str, what: str) -> None:  # noqa: N802
    kvm.m.fatal(f"BUG:{function}", what)


def KVM_BUG_ON(kvm: Kvm, condition: object, function: str, what: str = "") -> bool:  # noqa: N802
    """Report ``BUG:<function>`` and kill the VM if ``condition``; return it."""
    if not condition:
        return False
    kvm.m.report(f"BUG:{function}", what or f"KVM_BUG_ON in {function}()")
    if not kvm.vm_bugged.read():
        kvm.fn.kvm_vm_bugged(kvm)
    return True


def kvm_vm_bugged(kvm: Kvm) -> None:
    kvm.vm_bugged.write(True)
    kvm.fn.kvm_vm_dead(kvm)


def kvm_vm_dead(kvm: Kvm) -> None:
    kvm.vm_dead.write(True)
    kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_VM_DEAD)


def lockdep_assert_held_write(lock: RWLock, function: str) -> None:
    if not lock.held_write():
        lock.m.report("I10", f"{function}(): {lock.name} is not held for write", lock.name)


def lockdep_assert_held_read(lock: RWLock, function: str) -> None:
    if not lock.held_read():
        lock.m.report("I10", f"{function}(): {lock.name} is not held for read", lock.name)


def lockdep_assert_held(lock: RWLock, function: str) -> None:
    if not lock.held():
        lock.m.report("I10", f"{function}(): {lock.name} is not held", lock.name)


def might_sleep(kvm: Kvm, function: str) -> None:
    """A sleeping allocation or mutex: never under a spinning lock or inside RCU."""
    for lock in (kvm.mmu_lock, kvm.tdp_mmu_pages_lock):
        if lock.held():
            lock.m.report("I10", f"{function}() may sleep with {lock.name} held", lock.name)
    if kvm.rcu.held():
        kvm.m.report("I10", f"{function}() may sleep inside rcu_read_lock()")
