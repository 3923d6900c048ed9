# SPDX-License-Identifier: GPL-2.0-only
"""What Python does for the glue (``enum septum_service`` of ``c/septum.h``).

The guest of an ordinary VM and its CPU's walks are those of the Python models
(`septum.kvm.vmx`, `septum.kvm.guest`), over the image's page tables; and monitors are told what
compiled code alone does not show.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from septum.kvm.guest import cpu_walk, flush_shared
from septum.kvm.vmx import FUNCTIONS, access_error_code

if TYPE_CHECKING:
    from septum.native.driver import Driver

__all__ = ["SERVICES", "Services"]

RUN, WALK, PML, FLUSH, PROGRESS, COMPLETED, HAPPENED = range(0x5E00, 0x5E07)
SERVICES: Final = range(RUN, HAPPENED + 1)
"""Numbers that no SEAMCALL has."""

(
    _HANDED_OVER,
    _DIRTY_TAKEN,
    _DIRTY_ENABLED,
    _DIRTY_DISABLED,
    _WRITE_TRACKED,
    _ZAPPED_FAST,
    _MMIO_EMULATED,
    _MMU_DESTROYED,
    _RCU_UNLOCKED,
    _TRACED,
    _VM_DEAD,
) = range(11)
_KINDS: Final = ("read", "write", "fetch")
_NONE: Final = (1 << 64) - 1
_EPT_VIOLATION, _EPT_MISCONFIG = 48, 49
_PLAIN: Final = {
    _HANDED_OVER: "handed_over",
    _ZAPPED_FAST: "zap_all_fast_done",
    _MMU_DESTROYED: "mmu_destroyed",
    _RCU_UNLOCKED: "rcu_read_unlock",
    _VM_DEAD: "vm_dead",
}


class Answer(NamedTuple):
    """Registers as they come back."""

    rcx: int = 0
    rdx: int = 0
    r8: int = 0
    rax: int = 0


class Services:
    """Serves one driver's tasks."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.kernel = driver.kernel
        self.m = driver.m

    def serve(self, number: int, what: int, *registers: int) -> Answer:
        """:param number: the task that asks; ``registers``: what it gives, from RCX on."""
        handler = self._HANDLERS[what]
        return handler(self, number, *registers) or Answer()

    def _progress(self, number: int, *_: int) -> None:
        """What the attempt saw so far does not count any more."""
        self.driver.got_on(number)

    # --- the CPU -------------------------------------------------------------------------

    def _run(self, number: int, vcpu: int, *_: int) -> Answer:
        """VM entry up to the VM exit.  Only a guest that got on has made progress: one that
        faults again and again waits for what its faults have read."""
        driver, v = self.driver, self.kernel.vcpus[vcpu]
        before = v.guest.pc.v
        FUNCTIONS["vmx_vcpu_run"](v)
        left = v.exit.v
        if left.reason not in (_EPT_VIOLATION, _EPT_MISCONFIG) or v.guest.pc.v != before:
            driver.got_on(number)
        if v.guest.halted.v:
            driver.leave(vcpu)
        return Answer(left.reason, left.gfn, left.error_code)

    def _walk(self, number: int, vcpu: int, gfn: int, kind: int, *_: int) -> Answer:
        access = _KINDS[kind]
        walk = cpu_walk(self.kernel.vcpus[vcpu], gfn, access, cached=False)
        done = walk.pfn is not None
        return Answer(int(done), access_error_code(access, walk.present, walk.misconfig))

    def _pml(self, number: int, vcpu: int, n: int, *_: int) -> Answer:
        """The ``n``-th logged GFN; behind the last one, the log is emptied."""
        log = self.kernel.vcpus[vcpu].pml
        logged: tuple[int, ...] = log.peek()
        if n < len(logged):
            return Answer(logged[n])
        if logged:
            log.poke(())
        return Answer(_NONE)

    def _flush(self, number: int, vcpu: int, *_: int) -> None:
        if vcpu < len(self.kernel.vcpus):  # else it is being made
            flush_shared(self.kernel.vcpus[vcpu])

    def _completed(self, number: int, vcpu: int, *_: int) -> None:
        self.kernel.vcpus[vcpu].guest.completed()
        self.driver.got_on(number)

    # --- monitors -------------------------------------------------------------------------

    def _happened(self, number: int, what: int, a: int, b: int, *more: int) -> None:
        kernel, emit = self.kernel, self.m.emit
        if what in _PLAIN:
            emit(_PLAIN[what])
        elif what == _DIRTY_TAKEN:
            gfns = kernel.slots[a]
            emit("dirty_log_taken", tuple(g for n, g in enumerate(gfns) if b >> n & 1))
        elif what == _DIRTY_ENABLED:
            emit("dirty_log_enabled", kernel.slots[a])
        elif what == _DIRTY_DISABLED:
            emit("dirty_log_disabled", kernel.slots[a])
        elif what == _WRITE_TRACKED:
            emit("write_tracked", a)
        elif what == _MMIO_EMULATED:
            emit("mmio_emulated", a, b)
        elif what == _TRACED:
            old, new = (kernel.value_of(raw) for raw in more[:2])
            fields = {"gfn": a, "level": b, "old_spte": old, "new_spte": new}
            emit("trace", "kvm_tdp_mmu_spte_changed", fields)

    _HANDLERS: Final[dict[int, Callable[..., Any]]] = {
        RUN: _run,
        WALK: _walk,
        PML: _pml,
        FLUSH: _flush,
        PROGRESS: _progress,
        COMPLETED: _completed,
        HAPPENED: _happened,
    }
