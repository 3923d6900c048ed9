# SPDX-License-Identifier: GPL-2.0-only
"""The vocabulary of operations, bound to the Python model.

Most are those of `septum.kvm.operations`; here are the ones that belong to a TD's life
cycle and the guest.  A compiled kernel offers the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from septum.kvm import cpus, guest
from septum.kvm.operations import OPERATIONS, root_of
from septum.kvm.operations_direct import DIRECT_OPERATIONS, DIRECT_VCPU_OPERATIONS
from septum.kvm.spte import is_shadow_present_pte
from septum.kvm.structs import Kvm
from septum.kvm.tdp_iter import TdpIter
from septum.scenarios.model import Op

__all__ = ["GUEST_OPS", "HOST_OPS", "VCPU_OPS", "bind", "run_vcpu", "unknown"]


def prefault(kvm: Kvm, vcpu: int, gfn: int) -> int:
    """KVM_PRE_FAULT_MEMORY of one page, and whether it was allowed yet."""
    r: int = OPERATIONS["prefault"](kvm, vcpu, gfn)
    kvm.m.reach("prefault mapped or found the page" if r >= 0 else "prefault was refused")
    return r


def run_vcpu(kvm: Kvm, vcpu: int, program: tuple[guest.GuestOp, ...]) -> int:
    """KVM_RUN until the guest program has ended; MapGPA is answered by userspace."""
    v = kvm.vcpus[vcpu]
    while not (r := int(kvm.fn.kvm_vcpu_ioctl_run(v, program))) and v.hypercall.v is not None:
        convert(kvm, v.hypercall.v)
    return r


def convert(kvm: Kvm, gfn: int) -> None:
    """userspace converts a page, and gives back the memory of the other side: to shared iff
    the GFN carries the shared bit (facts 5.5)."""
    page = gfn & ~kvm.gfn_direct_bits
    private = page == gfn
    OPERATIONS["set_attributes"](kvm, page, page + 1, private)
    if private:
        OPERATIONS["unmap_hva"](kvm, page, page + 1)
    else:
        OPERATIONS["punch_hole"](kvm, page, page + 1)


def init_mem_region(kvm: Kvm, gfn: int) -> int:
    """KVM_TDX_INIT_MEM_REGION of one page, not measured, on vCPU 0."""
    return int(kvm.fn.tdx_vcpu_init_mem_region(kvm.vcpus[0], gfn, 1, False))


def finalize(kvm: Kvm) -> int:
    """KVM_TDX_FINALIZE_VM."""
    return int(kvm.fn.tdx_td_finalize(kvm))


def release_hkid(kvm: Kvm) -> None:
    """vm_pre_destroy(): flush the vCPUs, write back the caches, free the key."""
    kvm.fn.tdx_mmu_release_hkid(kvm)


def walk(kvm: Kvm, gfn: int) -> None:
    """A reader that holds nothing but RCU walks the mirror down to ``gfn``."""
    root = root_of(kvm, True)
    kvm.rcu.read_lock()
    iter = TdpIter(kvm, root, 1, gfn, 0)
    while iter.valid and iter.gfn < gfn + 1:
        if is_shadow_present_pte(iter.old_spte):
            kvm.m.reach("a reader saw a present entry")
        iter.next()
    kvm.rcu.read_unlock()


def migrate_vcpu(kvm: Kvm, vcpu: int, cpu: int) -> None:
    """The scheduler moves the vCPU's thread to another CPU."""
    cpus.migrate(kvm.vcpus[vcpu], cpu)


VCPU_OPS: Final[dict[str, Callable[..., Any]]] = {
    "close_vcpu": OPERATIONS["close_vcpu"],
    "fault": OPERATIONS["fault"],
    "load": OPERATIONS["load"],
    "migrate_vcpu": migrate_vcpu,
    "prefault": prefault,
    **DIRECT_VCPU_OPERATIONS,
}

HOST_OPS: Final[dict[str, Callable[..., Any]]] = {
    **{name: f for name, f in OPERATIONS.items() if name not in VCPU_OPS},
    **DIRECT_OPERATIONS,
    "finalize": finalize,
    "init_mem_region": init_mem_region,
    "release_hkid": release_hkid,
    "walk": walk,
}

SHARED_GUEST_OPS: Final[dict[str, Callable[..., guest.GuestOp]]] = {
    "read_shared": guest.read,
    "to_shared": guest.map_gpa,
    "write_shared": guest.write,
}
"""Those whose GFN gets the shared bit."""


def accept2m(gfn: int) -> guest.GuestOp:
    """ACCEPT of a 2M page."""
    return guest.accept(gfn, 2)


GUEST_OPS: Final[dict[str, Callable[..., guest.GuestOp]]] = {
    **SHARED_GUEST_OPS,
    "accept": guest.accept,
    "accept2m": accept2m,
    "fetch": guest.fetch,
    "read": guest.read,
    "to_private": guest.map_gpa,
    "touch": guest.touch,
    "write": guest.write,
}


def bind(kvm: Kvm, vcpu: int, what: Op) -> Callable[[], object]:
    """The operation as a call, with what KVM returned; ``vcpu`` is the task's (-1: a host
    thread)."""
    if what.name == "run_vcpu":
        program = tuple(_guest_op(kvm, g) for g in what.guest)
        return lambda: run_vcpu(kvm, vcpu, program)
    if what.name in VCPU_OPS:
        per_vcpu = VCPU_OPS[what.name]
        return lambda: per_vcpu(kvm, vcpu, *what.args)
    host = HOST_OPS[what.name]
    return lambda: host(kvm, *what.args)


def _guest_op(kvm: Kvm, what: Op) -> guest.GuestOp:
    made = GUEST_OPS[what.name](*what.args)
    if what.name in SHARED_GUEST_OPS:
        made = made._replace(gfn=made.gfn | kvm.gfn_direct_bits)
    return made


def unknown(what: Op) -> str:
    """The operation that nobody offers, or empty."""
    if what.name == "run_vcpu":
        return next((g.name for g in what.guest if g.name not in GUEST_OPS), "")
    return "" if what.name in VCPU_OPS or what.name in HOST_OPS else what.name
