# SPDX-License-Identifier: GPL-2.0-only
"""Ready-made TDs: `create_tdx_vm` goes through the real ioctls and SEAMCALLs.

Made in sequential mode, before anyone explores; everything that happens later is undone
by the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from septum.kvm.host import TDMR_END_PFN, TDMR_FIRST_PFN
from septum.kvm.slot_structs import SlotSpec
from septum.kvm.structs import Kvm, Vcpu
from septum.machine.geometry import PAGE_SHIFT, Geometry
from septum.tdx import Config, Tdmr, TdParams, TdxModule
from septum.tdx.profiles import PROFILES, Profile

if TYPE_CHECKING:
    from septum.machine import Machine

__all__ = ["arm_zero_step", "create_tdx_vm"]

ZERO_STEP_EXITS = 7  # the exit that puts the GPA on the vCPU's list (tdx facts 3.18)


def create_tdx_vm(
    m: Machine,
    geometry: Geometry,
    functions: Mapping[str, Callable[..., Any]],
    nr_vcpus: int = 1,
    *,
    finalized: bool = True,
    slots: tuple[SlotSpec, ...] = ((0, 4),),
    profile: str | Profile = "linux-7.3",
    pending_ve_disable: bool = True,
    packages: int = 1,
    fine: bool = False,
    prove_mmu: bool = False,
    yields: int = 0,
) -> Kvm:
    """A TD with initialised vCPUs whose roots are loaded.

    :param functions: name -> function, from a design.
    :param finalized: state RUNNABLE, so that vCPUs can run; else INITIALIZED.
    :param slots: (first GFN, pages, guest_memfd file or -1) of each memslot; private all.
    :param pending_ve_disable: SEPT_VE_DISABLE, which Linux guests require: touching a
        page that was not accepted is an EPT violation, not a #VE.
    :param fine: every lock operation of the module is a scheduling point of its own.
    """
    if isinstance(profile, str):
        profile = PROFILES[profile]
    size = TDMR_END_PFN - TDMR_FIRST_PFN
    config = Config(
        tdmrs=(Tdmr(TDMR_FIRST_PFN << PAGE_SHIFT, size << PAGE_SHIFT),),
        lps=max(nr_vcpus + 2, packages),  # one for the host, one to move to
        packages=packages,
        td_params=TdParams(max_vcpus=nr_vcpus, pending_ve_disable=pending_ve_disable),
    )
    module = TdxModule(m, geometry, config=config, profile=profile, fine=fine)
    if m.opaque is not None:
        m.opaque = (*m.opaque, "septum.tdx")  # may be compiled: no frames
    kvm = Kvm(
        m,
        geometry,
        functions,
        module=module,
        slots=slots,
        prove_mmu=prove_mmu,
        yields=yields,
    )
    kvm.tdx.hkid.init(config.private_hkids[0])
    kvm.tdx.host_lp = nr_vcpus
    _done(kvm.fn.tdx_td_init(kvm), "KVM_TDX_INIT_VM")
    for _ in range(nr_vcpus):
        vcpu = kvm.add_vcpu()
        _done(kvm.fn.tdx_vcpu_init(vcpu), "KVM_TDX_INIT_VCPU")
        _done(kvm.fn.kvm_mmu_reload(vcpu), "kvm_mmu_reload")
    if finalized:
        _done(kvm.fn.tdx_td_finalize(kvm), "KVM_TDX_FINALIZE_VM")
    return kvm


def arm_zero_step(vcpu: Vcpu, gfn: int) -> None:
    """Put ``gfn`` on the vCPU's zero-step list: from now on each VP.ENTER of it takes the
    S-EPT tree lock exclusively, until the guest's RIP moves.

    The host let the guest fault at one instruction without resolving it, seven times.
    """
    module = vcpu.kvm.module
    for _ in range(ZERO_STEP_EXITS):
        result = vcpu.kvm.fn.tdh_vp_enter(vcpu)
        if result.event != "td-entry":
            break
        module.guest_access(vcpu.id, gfn << PAGE_SHIFT, write=False)


def _done(ret: int, ioctl: str) -> None:
    if ret:
        raise RuntimeError(f"{ioctl} failed with {ret} while making the TD")
