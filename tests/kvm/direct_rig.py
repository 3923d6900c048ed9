# SPDX-License-Identifier: GPL-2.0-only
"""An ordinary VM of v7.3, and the steps that one operation takes in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from septum.designs.registry import lookup
from septum.kvm.default_vm import create_default_vm
from septum.kvm.features import Features
from septum.kvm.operations import OPERATIONS
from septum.kvm.operations_direct import DIRECT_OPERATIONS, DIRECT_VCPU_OPERATIONS
from septum.kvm.structs import Kvm
from septum.machine import Machine
from septum.machine.geometry import Geometry

__all__ = ["Steps", "do", "ordinary_vm", "steps"]

Steps = list[str]


def ordinary_vm(max_level: int = 1, vcpus: int = 1, yields: int = 0, **features: bool) -> Kvm:
    """Two entries per table, three levels, one slot of GFNs 0 to 3."""
    return create_default_vm(
        Machine(),
        Geometry(bits=1, levels=3),
        lookup("v7.3").functions,
        vcpus,
        features=Features(**features),
        max_level=max_level,
        yields=yields,
    )


def bound(kvm: Kvm, name: str, *args: object) -> Callable[[], object]:
    if name in DIRECT_VCPU_OPERATIONS:
        return partial(DIRECT_VCPU_OPERATIONS[name], kvm, 0, *args)
    return partial({**OPERATIONS, **DIRECT_OPERATIONS}[name], kvm, *args)


def do(kvm: Kvm, name: str, *args: object) -> object:
    """The operation, sequentially."""
    result = bound(kvm, name, *args)()
    assert kvm.m.findings == []
    return result


def steps(kvm: Kvm, name: str, *args: object, only: str = "") -> Steps:
    """The scheduling points of the operation, ``op object``; locks of slots left out.

    :param only: those on objects whose name contains it.
    """
    call = bound(kvm, name, *args)

    def task() -> None:
        call()

    execution = kvm.m.run([("task", task)])
    assert execution.findings == []
    assert execution.status == "complete"
    hidden = ("slots_lock", "slots_arch_lock", "mn_invalidate_lock", "memslots", "srcu")
    out = [f"{e.op} {e.obj}" for e in execution.events if not any(h in e.obj for h in hidden)]
    return [step for step in out if only in step]
