# SPDX-License-Identifier: GPL-2.0-only
"""What userspace does for an operation of a scenario, in C.

A fault needs no guest: KVM_PRE_FAULT_MEMORY takes the same way through the MMU
(kvm_arch_vcpu_pre_fault_memory(), Linux mmu.c).  Operations that no ioctl() does alone are
refused, not imitated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from septum.scenarios.model import Op

__all__ = ["NoSelftest", "call"]


class NoSelftest(ValueError):
    """No selftest can do what the counterexample does; says what."""


def _range(start: int, end: int) -> str:
    return f"gpa_of({start:#x}), size_of({start:#x}, {end:#x})"


def _attributes(start: int, end: int, private: int) -> str:
    return f"vm_mem_set_{'private' if private else 'shared'}(vm, {_range(start, end)});"


_CALLS: Final[dict[str, Callable[..., str]]] = {
    "delete_slot": lambda _: "vm_mem_region_delete(vm, SLOT);",
    "fault": lambda vcpu, gfn: f"pre_fault(vcpus[{vcpu}], {gfn:#x});",
    "finalize": lambda: 'td_ioctl(vm->fd, KVM_TDX_FINALIZE_VM, NULL, "KVM_TDX_FINALIZE_VM");',
    "init_mem_region": lambda gfn: f"td_init_mem_region(gpa_of({gfn:#x}), source);",
    "migrate_vcpu": lambda _, cpu: f"pin_self_to_cpu({cpu});",
    "prefault": lambda vcpu, gfn: f"pre_fault(vcpus[{vcpu}], {gfn:#x});",
    "punch_hole": lambda start, end: f"vm_guest_mem_punch_hole(vm, {_range(start, end)});",
    "run_vcpu": lambda vcpu: f"run_image(vcpus[{vcpu}]);",
    "set_attributes": _attributes,
}

_OF_VCPU: Final = frozenset({"fault", "migrate_vcpu", "prefault", "run_vcpu"})
_GUEST: Final = frozenset({"accept", "read", "touch", "write"})


def call(op: Op, vcpu: int) -> str:
    """The C statement.

    :param vcpu: whose thread does it, -1 for a host thread.
    :raises NoSelftest: there is none.
    """
    unable = next((g.name for g in op.guest if g.name not in _GUEST), "")
    make = _CALLS.get(op.name)
    if unable or make is None:
        raise NoSelftest(f"no selftest can do {unable or op.name}(): no ioctl() does that alone")
    try:
        return make(*(vcpu,) * (op.name in _OF_VCPU), *op.args)
    except TypeError:
        raise NoSelftest(f"no selftest is written for {op.text}: its arguments") from None
