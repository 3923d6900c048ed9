# SPDX-License-Identifier: GPL-2.0-only
"""Ready-made ordinary VMs (KVM_X86_DEFAULT_VM): no TDX Module, direct roots only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from septum.kvm.features import Features
from septum.kvm.slot_structs import SlotSpec
from septum.kvm.structs import KVM_X86_DEFAULT_VM, Kvm

if TYPE_CHECKING:
    from septum.machine import Machine
    from septum.machine.geometry import Geometry

__all__ = ["create_default_vm", "destroy_default_vm"]


def create_default_vm(
    m: Machine,
    geometry: Geometry,
    functions: Mapping[str, Callable[..., Any]],
    nr_vcpus: int = 1,
    *,
    slots: tuple[SlotSpec, ...] = ((0, 4, -1),),
    features: Features = Features(),  # noqa: B008 (immutable)
    max_level: int = 1,
    prove_mmu: bool = False,
    yields: int = 0,
) -> Kvm:
    """A VM with vCPUs whose roots are loaded.

    :param slots: (first GFN, pages) of each memslot, backed by anonymous memory.
    :param max_level: largest page of the backing memory.
    """
    kvm = Kvm(
        m,
        geometry,
        functions,
        vm_type=KVM_X86_DEFAULT_VM,
        slots=tuple((*slot[:2], -1) for slot in slots),
        private=False,
        features=features,
        max_level=max_level,
        prove_mmu=prove_mmu,
        yields=yields,
    )
    kvm.host.hva.folio_level = max_level
    for _ in range(nr_vcpus):
        if kvm.fn.kvm_mmu_reload(kvm.add_vcpu()):
            raise RuntimeError("kvm_mmu_reload failed while making the VM")
    return kvm


def destroy_default_vm(kvm: Kvm) -> None:
    """Process exit: the notifier's release zaps all, vCPUs drop their roots, then every
    root goes (facts 4.10, 2.3)."""
    kvm.fn.kvm_mmu_zap_all(kvm)
    for vcpu in kvm.vcpus:
        kvm.fn.kvm_mmu_destroy(vcpu)
    kvm.fn.kvm_mmu_uninit_tdp_mmu(kvm)
