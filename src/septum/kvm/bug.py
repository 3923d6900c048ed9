# SPDX-License-Identifier: GPL-2.0-only
"""WARN_ON(), BUG() and lockdep: assertions of the kernel are findings.

``WARN_ON`` is finding ``WARN:<function>``, ``BUG()`` is ``BUG:<function>`` and ends the
execution, a failed ``lockdep_assert_*`` is ``I10``.  None but ``BUG()`` returns from the
caller.  KVM_MMU_WARN_ON (CONFIG_KVM_PROVE_MMU) is always on.  KVM_BUG_ON, which kills the
VM, is in `septum.kvm.x86`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from septum.machine import Halt, RWLock

if TYPE_CHECKING:
    from septum.kvm.structs import Kvm

__all__ = [
    "BUG",
    "WARN_ON",
    "goto_retry",
    "lockdep_assert_held",
    "lockdep_assert_held_read",
    "lockdep_assert_held_write",
    "might_sleep",
]

UNEXPLAINED_FAILURES: Final = 4


def WARN_ON(condition: object, kvm: Kvm, function: str, what: str) -> bool:
    """Report ``WARN:<function>`` if ``condition``; return it, as the kernel's does."""
    if not condition:
        return False
    kvm.m.report(f"WARN:{function}", f"WARN_ON: {what}")
    return True


def BUG(kvm: Kvm, function: str, what: str) -> NoReturn:
    kvm.m.fatal(f"BUG:{function}", f"BUG(): {what}")
    raise Halt


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


def goto_retry(kvm: Kvm, head: str, failures: int) -> int:
    """Before a ``goto retry`` without an exit: wait as `Machine.retry` does.

    The kernel repeats whatever the error was.  An attempt that failed for nothing that
    another task could change fails again (injected failures have a budget): LIVELOCK.

    :param failures: what the previous call returned, 0 at first.
    """
    m = kvm.m
    if not m.current.blame:
        failures += 1
        if failures > UNEXPLAINED_FAILURES:
            m.report("LIVELOCK", f"{head}: goto retry without end")
            raise Halt
    m.retry(head)
    return failures
