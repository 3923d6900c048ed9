# SPDX-License-Identifier: GPL-2.0-only
"""Building and destroying a TD: the ioctls before the first KVM_RUN, and the end.

Follows ``arch/x86/kvm/vmx/tdx.c`` and ``virt/kvm/guest_memfd.c`` of Linux 7.3 (facts/
kvm-tdp-mmu.md 5.5).  Build: `tdx_td_init`, `tdx_vcpu_init` per vCPU,
`tdx_vcpu_init_mem_region`, `tdx_td_finalize`.  Teardown: `kvm_gmem_release` while the
hkid is assigned, then `kvm_destroy_vm`.

The ioctls return 0 or a negative errno.  A failure that leaves the hkid assigned leaks
every page that the module still owns; nothing is freed that it may write to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EBUSY, EINTR, EINVAL, EIO
from typing import TYPE_CHECKING, Any, Final

from septum.kvm.bug import WARN_ON
from septum.kvm.seamcall import TDX_BUG_ON
from septum.kvm.structs import (
    TD_STATE_INITIALIZED,
    TD_STATE_RUNNABLE,
    TD_STATE_UNINITIALIZED,
    VCPU_TD_STATE_INITIALIZED,
    VCPU_TD_STATE_UNINITIALIZED,
)
from septum.kvm.tdx_sept import is_hkid_assigned
from septum.kvm.x86 import KVM_BUG_ON
from septum.machine.geometry import PAGE_SHIFT, PAGE_SIZE
from septum.tdx.status import (
    TDX_FLUSHVP_NOT_DONE,
    TDX_INTERRUPTED_RESUMABLE,
    TDX_NO_HKID_READY_TO_WBCACHE,
)

if TYPE_CHECKING:
    from septum.kvm.structs import Kvm, Vcpu

__all__ = ["FUNCTIONS"]

TDX_TDCS_PAGES: Final = 6
TDX_TDVPS_PAGES: Final = 6  # the TDVPR included
TDX_EXTENDMR_CHUNKSIZE: Final = 256
TDX_SEAMCALL_RETRIES: Final = 10000


@contextmanager
def tdx_vm_state_locks(kvm: Kvm) -> Iterator[None]:
    """tdx_acquire_vm_state_locks(): kvm->lock, every vcpu->mutex, slots_lock."""
    kvm.lock.lock()
    for vcpu in kvm.vcpus:
        vcpu.mutex.lock()
    kvm.slots_lock.lock()
    try:
        yield
    finally:
        kvm.slots_lock.unlock()
        for vcpu in reversed(kvm.vcpus):
            vcpu.mutex.unlock()
        kvm.lock.unlock()


# --- KVM_TDX_INIT_VM, KVM_TDX_INIT_VCPU -------------------------------------------------


def tdx_td_init(kvm: Kvm) -> int:
    """TDR, keys on every package, TDCS pages, TDCS."""
    kvm_tdx = kvm.tdx
    name = "tdx_td_init"
    if kvm_tdx.state.read() != TD_STATE_UNINITIALIZED:
        return -EINVAL
    fn = kvm.fn
    kvm_tdx.tdr = kvm.host.alloc_page("tdr")
    if TDX_BUG_ON(fn.tdh_mng_create(kvm, kvm_tdx.hkid.v), "TDH_MNG_CREATE", kvm, name):
        return -EIO
    for package in range(kvm.module.config.packages):
        result = fn.tdh_mng_key_config(kvm, package)
        if TDX_BUG_ON(result, "TDH_MNG_KEY_CONFIG", kvm, name):
            return -EIO
    kvm_tdx.tdcs_pages = tuple(kvm.host.alloc_page("tdcs") for _ in range(TDX_TDCS_PAGES))
    for pfn in kvm_tdx.tdcs_pages:
        if TDX_BUG_ON(fn.tdh_mng_addcx(kvm, pfn), "TDH_MNG_ADDCX", kvm, name):
            return -EIO
    if TDX_BUG_ON(fn.tdh_mng_init(kvm), "TDH_MNG_INIT", kvm, name):
        return -EIO
    kvm_tdx.state.write(TD_STATE_INITIALIZED)
    return 0


def tdx_vcpu_init(vcpu: Vcpu) -> int:
    """KVM_TDX_INIT_VCPU, before the TD is finalized."""
    kvm = vcpu.kvm
    if not is_hkid_assigned(kvm) or kvm.tdx.state.read() != TD_STATE_INITIALIZED:
        return -EINVAL
    if vcpu.tdx.state.read() != VCPU_TD_STATE_UNINITIALIZED:
        return -EINVAL
    ret: int = kvm.fn.tdx_td_vcpu_init(vcpu)
    if not ret:
        vcpu.tdx.state.write(VCPU_TD_STATE_INITIALIZED)
    return ret


def tdx_td_vcpu_init(vcpu: Vcpu) -> int:
    kvm = vcpu.kvm
    fn = kvm.fn
    name = "tdx_td_vcpu_init"
    vcpu.tdx.tdvpr = kvm.host.alloc_page("tdvpr")
    if TDX_BUG_ON(fn.tdh_vp_create(vcpu), "TDH_VP_CREATE", kvm, name):
        return -EIO
    pages = range(TDX_TDVPS_PAGES - 1)
    vcpu.tdx.tdcx_pages = tuple(kvm.host.alloc_page("tdcx") for _ in pages)
    for pfn in vcpu.tdx.tdcx_pages:
        if TDX_BUG_ON(fn.tdh_vp_addcx(vcpu, pfn), "TDH_VP_ADDCX", kvm, name):
            return -EIO
    # VP.INIT may take the TDR exclusively, which the no-fail removals must not meet.
    kvm.mmu_lock.write_lock()
    result = fn.tdh_vp_init(vcpu)
    kvm.mmu_lock.write_unlock()
    return -EIO if TDX_BUG_ON(result, "TDH_VP_INIT", kvm, name) else 0


# --- KVM_TDX_INIT_MEM_REGION ------------------------------------------------------------


def tdx_vcpu_init_mem_region(vcpu: Vcpu, gfn: int, nr_pages: int, measure: bool) -> int:
    """Add the pages of the initial image; stops at the first error."""
    kvm = vcpu.kvm
    with tdx_vm_state_locks(kvm):
        if not is_hkid_assigned(kvm) or kvm.tdx.state.read() == TD_STATE_RUNNABLE:
            return -EINVAL
        if vcpu.tdx.state.read() != VCPU_TD_STATE_INITIALIZED:
            return -EINVAL
        ret: int = kvm.fn.kvm_mmu_reload(vcpu)
        while not ret and nr_pages:
            if vcpu.signal_pending.v:
                return -EINTR
            ret = kvm.fn.kvm_gmem_populate(vcpu, gfn, measure)
            gfn += 1
            nr_pages -= 1
    return ret


def tdx_gmem_post_populate(vcpu: Vcpu, gfn: int, pfn: int, src: int, measure: bool) -> int:
    """Map through the ordinary walk; the hook finds the source in page_add_src."""
    kvm = vcpu.kvm
    kvm_tdx = kvm.tdx
    busy = kvm_tdx.page_add_src.v is not None
    if KVM_BUG_ON(busy, kvm, "tdx_gmem_post_populate", "page_add_src is set"):
        return -EIO
    kvm_tdx.page_add_src.set(src)
    ret: int = kvm.fn.kvm_tdp_mmu_map_private_pfn(vcpu, gfn, pfn)
    kvm_tdx.page_add_src.set(None)
    if ret or not measure:
        return ret
    return int(kvm.fn.tdx_extend_page(kvm, gfn))


def tdx_extend_page(kvm: Kvm, gfn: int) -> int:
    """Measure the page, 256 bytes a call.  On an error the mapping stays."""
    gpa = gfn << PAGE_SHIFT
    for chunk in range(gpa, gpa + PAGE_SIZE, TDX_EXTENDMR_CHUNKSIZE):
        result = kvm.fn.tdh_mr_extend(kvm, chunk)
        if TDX_BUG_ON(result, "TDH_MR_EXTEND", kvm, "tdx_gmem_post_populate"):
            return -EIO
    return 0


# --- KVM_TDX_FINALIZE_VM ----------------------------------------------------------------


def tdx_td_finalize(kvm: Kvm) -> int:
    with tdx_vm_state_locks(kvm):
        if not is_hkid_assigned(kvm) or kvm.tdx.state.read() == TD_STATE_RUNNABLE:
            return -EINVAL
        result = kvm.fn.tdh_mr_finalize(kvm)
        if kvm.fn.tdx_operand_busy(result.rax):
            kvm.m.reach("MR.FINALIZE returned BUSY")
            return -EBUSY
        if TDX_BUG_ON(result, "TDH_MR_FINALIZE", kvm, "tdx_td_finalize"):
            return -EIO
        kvm.tdx.state.write(TD_STATE_RUNNABLE)
        # smp_wmb(): whoever may prefault finds the TD runnable.
        kvm.pre_fault_allowed.write(True)
    return 0


# --- giving the hkid back -----------------------------------------------------------------


def smp_func_do_phymem_cache_wb(kvm: Kvm, lp: int) -> None:
    """Write back one package's caches, resuming after interrupts."""
    result: Any = None
    for retry in range(TDX_SEAMCALL_RETRIES):
        result = kvm.fn.tdh_phymem_cache_wb(kvm, retry > 0, lp)
        if result.rax != TDX_INTERRUPTED_RESUMABLE:
            break
    if result.rax != TDX_NO_HKID_READY_TO_WBCACHE:
        TDX_BUG_ON(result, "TDH_PHYMEM_CACHE_WB", kvm, "smp_func_do_phymem_cache_wb", bug_vm=False)


def tdx_mmu_release_hkid(kvm: Kvm) -> None:
    """vm_pre_destroy: flush every vCPU, write the caches back, free the key.

    Only full success ends the assignment; any stop on the way leaks the hkid.
    """
    fn = kvm.fn
    name = "tdx_mmu_release_hkid"
    if not is_hkid_assigned(kvm):
        return
    for vcpu in kvm.vcpus:
        fn.tdx_flush_vp_on_cpu(vcpu)
    result = fn.tdh_mng_vpflushdone(kvm)
    if result.rax == TDX_FLUSHVP_NOT_DONE:
        kvm.m.reach("the hkid was leaked")
        return
    if TDX_BUG_ON(result, "TDH_MNG_VPFLUSHDONE", kvm, name):
        return
    for lp in range(kvm.module.config.packages):
        fn.smp_func_do_phymem_cache_wb(kvm, lp)
    if TDX_BUG_ON(fn.tdh_mng_key_freeid(kvm), "TDH_MNG_KEY_FREEID", kvm, name):
        return
    kvm.tdx.hkid.write(-1)


# --- destroying the VM --------------------------------------------------------------------


def tdx_reclaim_control_page(kvm: Kvm, pfn: int) -> None:
    """Reclaim and free a TDCS or TDVPS page; leak it if the module keeps it."""
    if not kvm.fn.tdx_reclaim_page(kvm, pfn):
        kvm.host.free_page(pfn)


def tdx_vcpu_free(vcpu: Vcpu) -> None:
    """Of a vCPU that is still associated (its hkid was leaked) nothing is freed."""
    kvm = vcpu.kvm
    if vcpu.cpu.read() != -1:
        initialized = vcpu.tdx.state.peek() == VCPU_TD_STATE_INITIALIZED
        KVM_BUG_ON(initialized, kvm, "tdx_vcpu_free", "a vCPU is still associated")
        kvm.fn.tdx_flush_vp_on_cpu(vcpu)
        return
    if is_hkid_assigned(kvm) or not vcpu.tdx.tdvpr:
        return
    for pfn in (*vcpu.tdx.tdcx_pages, vcpu.tdx.tdvpr):
        kvm.fn.tdx_reclaim_control_page(kvm, pfn)
    vcpu.tdx.state.write(VCPU_TD_STATE_UNINITIALIZED)


def tdx_vm_destroy(kvm: Kvm) -> None:
    """The TDCS pages, then the TDR, which must be the last page of the TD."""
    kvm.fn.tdx_reclaim_td_control_pages(kvm)
    kvm.tdx.state.write(TD_STATE_UNINITIALIZED)


def tdx_reclaim_td_control_pages(kvm: Kvm) -> None:
    if is_hkid_assigned(kvm):
        return
    for pfn in kvm.tdx.tdcs_pages:
        kvm.fn.tdx_reclaim_control_page(kvm, pfn)
    if kvm.fn.tdx_reclaim_page(kvm, kvm.tdx.tdr):
        return
    # The module wrote the TDR with its global key.
    result = kvm.fn.tdh_phymem_page_wbinvd_hkid(kvm, 0, kvm.tdx.tdr)
    name = "tdx_reclaim_td_control_pages"
    if not TDX_BUG_ON(result, "TDH_PHYMEM_PAGE_WBINVD", kvm, name, bug_vm=False):
        kvm.host.free_page(kvm.tdx.tdr)


def kvm_destroy_vcpus(kvm: Kvm) -> None:
    for vcpu in kvm.vcpus:
        kvm.fn.kvm_mmu_destroy(vcpu)
        kvm.fn.tdx_vcpu_free(vcpu)


def kvm_put_kvm(kvm: Kvm, user: str) -> None:
    """A file reference is dropped; the last one destroys the VM."""
    users = kvm.users
    with kvm.m.step("kvm_put_kvm", users.name):
        left: frozenset[str] = users.peek() - {user}
        users.poke(left)
    if not left:
        kvm.fn.kvm_destroy_vm(kvm)


def kvm_destroy_vm(kvm: Kvm) -> None:
    """The last reference to the VM is gone; no other user is left."""
    fn = kvm.fn
    fn.tdx_mmu_release_hkid(kvm)  # vm_pre_destroy
    # mmu_notifier_unregister(): a start whose end never comes leaves the count.
    if kvm.mn_active_invalidate_count.read():
        kvm.mn_active_invalidate_count.write(0)
    else:
        left = kvm.mmu_invalidate_in_progress.peek()
        WARN_ON(left, kvm, "kvm_destroy_vm", "an invalidation is in progress")
    fn.kvm_destroy_vcpus(kvm)
    fn.kvm_mmu_uninit_tdp_mmu(kvm)
    fn.tdx_vm_destroy(kvm)
    kvm.m.reach("the VM was destroyed")


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    f.__name__: f
    for f in (
        kvm_destroy_vcpus,
        kvm_destroy_vm,
        kvm_put_kvm,
        smp_func_do_phymem_cache_wb,
        tdx_extend_page,
        tdx_gmem_post_populate,
        tdx_mmu_release_hkid,
        tdx_reclaim_control_page,
        tdx_reclaim_td_control_pages,
        tdx_td_finalize,
        tdx_td_init,
        tdx_td_vcpu_init,
        tdx_vcpu_free,
        tdx_vcpu_init,
        tdx_vcpu_init_mem_region,
        tdx_vm_destroy,
    )
}
