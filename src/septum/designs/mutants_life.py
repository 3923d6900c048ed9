# SPDX-License-Identifier: GPL-2.0-only
"""Mutants of moving vCPUs, of flush requests and of the VM's end (facts 5.5, 5.6)."""

from __future__ import annotations

from typing import Final

from septum.designs.mutants_base import Mutant, change, toggles

__all__ = ["MUTANTS", "TOGGLES"]

_REQUESTS: Final = "kvm_handle_requests"
_DESTROY: Final = "kvm_destroy_vm"
_RELEASE: Final = "    fn.tdx_mmu_release_hkid(kvm)  # vm_pre_destroy\n"
_UNINIT: Final = "    fn.kvm_mmu_uninit_tdp_mmu(kvm)\n"
_TDCS: Final = (
    "    for pfn in kvm.tdx.tdcs_pages:\n        kvm.fn.tdx_reclaim_control_page(kvm, pfn)\n"
)

MUTANTS: Final = (
    # --- 5.6 flush requests ---------------------------------------------------------------
    Mutant(
        "flush-request-ignored",
        "5.6",
        "a vCPU clears KVM_REQ_TLB_FLUSH and does not flush",
        "shared-zap",
        "I7",
        (change(_REQUESTS, "        vcpu.kvm.fn.kvm_vcpu_flush_tlb_all(vcpu)\n", ""),),
        alone=True,
    ),
    Mutant(
        "flush-request-cleared-late",
        "5.6",
        "a vCPU clears KVM_REQ_TLB_FLUSH after it has flushed",
        "shared-zap-twice",
        "",
        (
            change(
                _REQUESTS,
                "        vcpu.requests.fetch_and(~KVM_REQ_TLB_FLUSH)\n"
                "        vcpu.kvm.fn.kvm_vcpu_flush_tlb_all(vcpu)\n",
                "        vcpu.kvm.fn.kvm_vcpu_flush_tlb_all(vcpu)\n"
                "        vcpu.requests.fetch_and(~KVM_REQ_TLB_FLUSH)\n",
            ),
        ),
        survives="harmless: between the flush and the entry nothing can be cached",
    ),
    Mutant(
        "flush-without-kick",
        "5.6",
        "a remote TLB flush sets the request, but kicks nobody",
        "shared-zap",
        "I7",
        (
            change(
                "kvm_flush_remote_tlbs",
                "    kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_TLB_FLUSH)\n",
                "    for vcpu in kvm.vcpus:\n"
                "        kvm.fn.kvm_make_request(vcpu, KVM_REQ_TLB_FLUSH)\n",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "flush-without-wait",
        "5.6",
        "a remote TLB flush does not wait for the kicked vCPUs",
        "shared-zap",
        "I7",
        (change("kvm_kick_many_cpus", "        _wait_for_ack(vcpu)\n", "        pass\n"),),
        alone=True,
    ),
    Mutant(
        "request-after-kick",
        "5.6",
        "a request is set after the vCPU was kicked",
        "shared-zap",
        "I7",
        (
            change(
                "kvm_make_all_cpus_request",
                "        if req:\n            kvm.fn.kvm_make_request(vcpu, req)\n",
                "",
            ),
            change(
                "kvm_make_all_cpus_request",
                "                kicked.append(vcpu)\n",
                "                kicked.append(vcpu)\n"
                "        if req:\n            kvm.fn.kvm_make_request(vcpu, req)\n",
            ),
        ),
        alone=True,
    ),
    # --- 5.5 vCPUs that move ----------------------------------------------------------------
    Mutant(
        "vp-flush-skipped",
        "5.5",
        "a vCPU is loaded on another CPU without TDH.VP.FLUSH on the old one",
        "migrate-zap",
        "I8",
        (change("tdx_vcpu_load", "    vcpu.kvm.fn.tdx_flush_vp_on_cpu(vcpu)\n", "    return\n"),),
    ),
    Mutant(
        "vp-flush-on-new-cpu",
        "5.5",
        "TDH.VP.FLUSH is called on the CPU that the vCPU moves to",
        "migrate-zap",
        "I8",
        (
            change(
                "tdx_vcpu_load",
                "    vcpu.kvm.fn.tdx_flush_vp_on_cpu(vcpu)\n",
                "    vcpu.cpu.write(cpu)\n    vcpu.kvm.fn.tdx_flush_vp_on_cpu(vcpu)\n",
            ),
        ),
    ),
    # --- 5.5 the end ------------------------------------------------------------------------
    Mutant(
        "hkid-freed-before-flush",
        "5.5",
        "the vCPUs are not flushed before the key is given back",
        "teardown-kick",
        "BUG:tdx_vcpu_free",
        (
            change(
                "tdx_mmu_release_hkid",
                "    for vcpu in kvm.vcpus:\n        fn.tdx_flush_vp_on_cpu(vcpu)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "cache-write-back-skipped",
        "5.5",
        "the caches are not written back before the key is freed",
        "teardown-kick",
        "I8",
        (
            change(
                "tdx_mmu_release_hkid",
                "        fn.smp_func_do_phymem_cache_wb(kvm, lp)\n",
                "        pass\n",
            ),
        ),
    ),
    Mutant(
        "tables-freed-before-hkid",
        "5.5",
        "the MMU is torn down while the key is assigned",
        "teardown-kick",
        "BUG:tdx_vcpu_free",
        (
            change(_DESTROY, _UNINIT, ""),
            change(_DESTROY, _RELEASE, "    fn.kvm_destroy_vcpus(kvm)\n" + _UNINIT + _RELEASE),
        ),
    ),
    Mutant(
        "control-page-reclaimed-twice",
        "5.5",
        "a control page is reclaimed twice",
        "teardown-kick",
        "I8",
        (
            change(
                "tdx_reclaim_control_page",
                "    if not kvm.fn.tdx_reclaim_page(kvm, pfn):\n",
                "    kvm.fn.tdx_reclaim_page(kvm, pfn)\n"
                "    if not kvm.fn.tdx_reclaim_page(kvm, pfn):\n",
            ),
        ),
    ),
    Mutant(
        "tdr-reclaimed-first",
        "5.5",
        "the TDR is reclaimed before the TDCS pages",
        "teardown-kick",
        "I8",
        (change("tdx_reclaim_td_control_pages", _TDCS, ""),),
    ),
    Mutant(
        "vcpu-keeps-mirror-root",
        "2.3",
        "a destroyed vCPU does not put its mirror root",
        "teardown-kick",
        "WARN:kvm_mmu_uninit_tdp_mmu",
        (change("kvm_mmu_destroy", "    _free_root(vcpu.kvm, vcpu.mirror_root_hpa)\n", ""),),
    ),
)

TOGGLES: Final = toggles(MUTANTS)
