# SPDX-License-Identifier: GPL-2.0-only
# ruff: noqa: E501
"""The faults that `native_faults.py` seeds into a tree's C code: one per step of the protocol."""

from __future__ import annotations

from typing import NamedTuple

TDP = "arch/x86/kvm/mmu/tdp_mmu.c"
MMU = "arch/x86/kvm/mmu/mmu.c"
TRACK = "arch/x86/kvm/mmu/page_track.c"
TDX = "arch/x86/kvm/vmx/tdx.c"
MAIN = "virt/kvm/kvm_main.c"
INSTALL = ("install-leaf-fails", "install-table-fails")
ZAP = ("zap-accept", "zap-running", "zap-zero-step")


class Fault(NamedTuple):
    """``old`` is a regular expression that must occur in the file; all of it becomes ``new``.
    ``rule``: who has to find it (the unmodified code, or the fault, breaks another one first);
    anybody may if it is empty."""

    name: str
    file: str
    old: str
    new: str
    scenarios: tuple[str, ...]
    rule: str = ""


FAULTS = (
    # --- the mirror ---------------------------------------------------------------------------------
    Fault("drop-freeze", TDP, r"(set_spte_atomic\(kvm, iter, )FROZEN_SPTE\)", r"\1new_spte)",
          ("fault-fault", "fault-neighbours")),
    Fault("unfreeze-before-hook", TDP,
          r"(\tret = __handle_changed_spte\(kvm, sp, iter->gfn, iter->old_spte,\s+new_spte,"
          r" iter->level, true\);)",
          r"\t__kvm_tdp_mmu_write_spte(iter->sptep, new_spte);\n\1",
          ("fault-fault", "fault-neighbours")),
    Fault("ignore-hook-error", TDP,
          r"\t\tif \(ret\)\n\t\t\t__kvm_tdp_mmu_write_spte\(iter->sptep, iter->old_spte\);\n"
          r"\t\telse\n", "", INSTALL),
    Fault("stay-frozen-on-error", TDP, r"__kvm_tdp_mmu_write_spte\(iter->sptep, iter->old_spte\);",
          ";", INSTALL),
    Fault("stats-on-failure", TDP, r"\t\tif \(r\)\n\t\t\treturn r;",
          "\t\tif (r) {\n\t\t\tkvm_update_page_stats(kvm, level, 1);\n\t\t\treturn r;\n\t\t}",
          INSTALL),
    Fault("missing-put", TDP, r"\tif \(prev_root\)\n\t\tkvm_tdp_mmu_put_root\(kvm, prev_root\);",
          "", ("fault-punch",)),
    Fault("table-not-accounted", TDP, r"\n\ttdp_account_mmu_page\(kvm, sp\);", "\n\t;",
          ("fault-fault",)),
    Fault("stale-fault-goes-on", MMU,
          r"(kvm_tdp_mmu_page_fault[^}]*?)if \(is_page_fault_stale\(vcpu, fault\)\)", r"\1if (0)",
          ("fault-punch",)),
    Fault("seq-not-bumped", MAIN, r"kvm->mmu_invalidate_seq\+\+;", ";", ("fault-punch",)),
    Fault("no-block", TDX,
          r"err = tdh_do_no_vcpus\(tdh_mem_range_block, kvm, &kvm_tdx->td, gpa,\s+level, &entry,"
          r" &level_state\);", "err = entry = level_state = 0;", ZAP),
    Fault("track-before-block", TDX,
          r"(\terr = tdh_do_no_vcpus\(tdh_mem_range_block.*?\n\t\treturn -EIO;\n)(.*?)"
          r"\ttdx_track\(kvm\);\n", r"\ttdx_track(kvm);\n\1\2", ZAP),
    Fault("no-track", TDX, r"\ttdx_track\(kvm\);\n", "", ZAP),
    Fault("missing-kick-after-track", TDX,
          r"(TDX_BUG_ON\(err, TDH_MEM_TRACK, kvm\);\n\n)"
          r"\tkvm_make_all_cpus_request\(kvm, KVM_REQ_OUTSIDE_GUEST_MODE\);", r"\1", ZAP),
    Fault("missing-kick-of-no-vcpus", TDX,
          r"\t\tkvm_make_all_cpus_request\(kvm, KVM_REQ_OUTSIDE_GUEST_MODE\);\t*\\\n", "", ZAP),
    Fault("vcpus-not-kept-out", TDX, r"WRITE_ONCE\(__kvm_tdx->wait_for_sept_zap, true\);", ";",
          ZAP),
    Fault("vcpus-kept-out-for-ever", TDX, r"WRITE_ONCE\(__kvm_tdx->wait_for_sept_zap, false\);",
          ";", ZAP),
    Fault("aug-busy-is-fatal", TDX,
          r"(tdh_mem_page_aug\([^;]*;\n)\tif \(unlikely\(tdx_operand_busy\(err\)\)\)\n"
          r"\t\treturn -EBUSY;\n", r"\1", ("install-accept",)),
    Fault("sept-add-busy-is-fatal", TDX,
          r"(tdh_mem_sept_add\([^;]*;\n)\tif \(unlikely\(tdx_operand_busy\(err\)\)\)\n"
          r"\t\treturn -EBUSY;\n", r"\1", ("install-zero-step",)),
    Fault("no-remove", TDX,
          r"err = tdh_do_no_vcpus\(tdh_mem_page_remove, kvm, &kvm_tdx->td, gpa,\s+level, &entry,"
          r" &level_state\);", "err = entry = level_state = 0;", ("fault-punch", *ZAP)),
    Fault("busy-not-retried", TDX, r"if \(unlikely\(tdx_operand_busy\(__err\)\)\) \{", "if (0) {",
          ZAP),
    Fault("zap-one-page-more", TDP,
          r"(for_each_tdp_pte_min_level\(iter, kvm, root, PG_LEVEL_4K, start, end)\)", r"\1 + 1)",
          ("convert-fault",), "I21"),
    Fault("lost-table-not-freed", TDP, r"\t\t\ttdp_mmu_free_unused_sp\(sp\);", ";",
          ("fault-fault", "fault-neighbours"), "I6"),
    # --- direct roots --------------------------------------------------------------------------------
    Fault("notifier-does-not-flush", MAIN,
     r"(\.on_lock\t= kvm_mmu_invalidate_start,\n\t\t\.flush_on_ret\t= )true", r"\1false",
     ("run-unmap",)),
    Fault("notifier-does-not-count", MAIN,
     r"\.on_lock\t= kvm_mmu_invalidate_start,", ".on_lock\t= (void *)kvm_null_fn,",
     ("direct-fault-unmap",)),
    Fault("slot-swap-does-not-wait", MAIN, r"while \(kvm->mn_active_invalidate_count\)", "while (0)",
     ("notifier-slot",)),
    Fault("root-stays-valid", TDP, r"\t\t\troot->role\.invalid = true;", "\t\t\t;",
     ("direct-fast-zap-fault", "run-fast-zap")),
    Fault("nobody-leaves-the-root", MMU,
     r"\n\tkvm_make_all_cpus_request\(kvm, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS\);\n\n"
     r"\tkvm_zap_obsolete", "\n\tkvm_zap_obsolete", ("run-fast-zap", "direct-fast-zap-fault")),
    Fault("zapped-root-keeps-its-reference", TDP,
     r"(\t\ttdp_mmu_zap_root\(kvm, root, shared\);.*?)\t\tkvm_tdp_mmu_put_root\(kvm, root\);", r"\1",
     ("direct-fast-zap-fault",)),
    Fault("invalidated-root-not-zapped", TDP, r"\t\ttdp_mmu_zap_root\(kvm, root, shared\);",
     "\t\tif (kvm->vm_dead) /* never; the glue needs the function */\n\t\t\ttdp_mmu_zap_root(kvm, root, shared);",
     ("direct-fast-zap-fault",)),
    Fault("table-freed-at-once", TDP, r"call_rcu\(&sp->rcu_head, tdp_mmu_free_sp_rcu_callback\);",
     "__tdp_mmu_free_sp(sp);", ("subtree", "age-collapse", "direct-fast-zap-fault")),
    Fault("removed-table-not-frozen", TDP, r"(kvm_tdp_mmu_write_spte_atomic\(sptep, )FROZEN_SPTE\)",
     r"\1SHADOW_NONPRESENT_VALUE)", ("direct-zap-root-fault", "direct-fast-zap-fault")),
    Fault("fast-path-stores-plainly", MMU, r"if \(!try_cmpxchg64\(sptep, &old_spte, new_spte\)\)",
     "WRITE_ONCE(*sptep, new_spte);\n\tif (0)", ("fast-pf-zap",)),
    Fault("fast-path-ignores-mmu-writable", MMU, r"if \(fault->write && is_mmu_writable_spte\(spte\)\)",
     "if (fault->write)", ("fast-pf-write-track",)),
    Fault("fast-path-does-not-mark", MMU,
     r"\t\tmark_page_dirty_in_slot\(vcpu->kvm, fault->slot, fault->gfn\);\n\n\treturn true",
     "\t\t;\n\n\treturn true", ("log-get-write", "fast-pf-zap")),
    Fault("log-taken-without-flush", MAIN,
     r"(\tKVM_MMU_UNLOCK\(kvm\);\n\t\}\n\n)\tif \(flush\)\n\t\tkvm_flush_remote_tlbs_memslot\(kvm, memslot\);",
     r"\1", ("log-get-write",)),
    Fault("log-cleared-without-flush", MAIN,
     r"(\tKVM_MMU_UNLOCK\(kvm\);\n\n)\tif \(flush\)\n\t\tkvm_flush_remote_tlbs_memslot\(kvm, memslot\);",
     r"\1", ("log-clear-write",)),
    Fault("log-not-armed-again", TDP, r"\t\tif \(!\(iter\.old_spte & dbit\)\)\n\t\t\tcontinue;\n\n\t\titer\.",
     "\t\tcontinue;\n\n\t\titer.", ("log-get-write",)),
    Fault("nx-table-stays-listed", TDP,
     r"\tsp->nx_huge_page_disallowed = false;\n\tuntrack_possible_nx_huge_page\(kvm, sp, KVM_TDP_MMU\);",
     "\tsp->nx_huge_page_disallowed = false;", ("nx-list-zap",), "I15"),
    Fault("recovered-table-not-flushed", TDP,
     r"\tif \(flush\)\n\t\tkvm_flush_remote_tlbs_memslot\(kvm, slot\);\n\n\trcu_read_unlock",
     "\trcu_read_unlock", ("run-recover",), "I7"),
    Fault("mmio-generation-ignored", MMU, r"return likely\(kvm_gen == spte_gen\);", "return true;",
     ("mmio-slot-create",)),
    # --- rules that lines, deaths, roots and tracked pages are judged by -------------------------
    Fault("tracking-keeps-mmu-writable", TDP,
          r"~\(PT_WRITABLE_MASK \| shadow_mmu_writable_mask\);\n\n\t\tif \(new_spte == iter",
          "~PT_WRITABLE_MASK;\n\n\t\tif (new_spte == iter", ("fast-pf-write-track",)),
    Fault("tracking-does-not-flush", TRACK,
          r"\t\tkvm_flush_remote_tlbs\(kvm\);", "\t\t;", ("run-write-track",)),
    Fault("nx-table-still-counted", MMU,
          r"\t--kvm->arch\.possible_nx_huge_pages\[mmu_type\]\.nr_pages;", "\t;",
          ("nx-list-zap",), "I15"),
    Fault("nx-table-not-counted", MMU,
          r"\t\+\+kvm->arch\.possible_nx_huge_pages\[mmu_type\]\.nr_pages;", "\t;",
          ("nx-list-zap",), "I15"),
    Fault("root-stays-scheduled", TDP, r"\t\troot->tdp_mmu_scheduled_root_to_zap = false;", "\t\t;",
          ("direct-fast-zap-fault", "run-fast-zap")),
    Fault("roots-outlive-the-vm", MMU, r"(\tif \(tdp_mmu_enabled\)\n)\t\tkvm_mmu_uninit_tdp_mmu\(kvm\);",
          "", ("direct-fault-unmap",), "I16"),
    Fault("unmapped-page-goes-in", MMU,
          r"\treturn fault->slot &&\n\t       mmu_invalidate_retry_gfn\([^;]*;", "\treturn false;",
          ("direct-fault-unmap", "delete-shared"), "I19"),
    Fault("deleted-slot-stays-mapped", MMU,
          r"\t\tflush = kvm_unmap_gfn_range\(kvm, &range\);", "\t\tflush = false;",
          ("delete-shared",), "I19"),
    Fault("huge-page-in-a-logged-slot", MMU,
          r"\tif \(kvm_slot_dirty_track_enabled\(slot\)\)\n\t\treturn;", "",
          ("log-enable-split", "log-enable-write"), "I22"),
    Fault("line-is-missing", TDP,
          r"\ttrace_kvm_tdp_mmu_spte_changed\(as_id, gfn, level, old_spte, new_spte\);\n\n\tif \(is_leaf",
          "\tif (is_leaf", ("fault-punch",)),
    Fault("line-before-the-hook", TDP,
          r"(\tif \(was_present && !was_leaf &&\n.*?)"
          r"(\ttrace_kvm_tdp_mmu_spte_changed\(as_id, gfn, level, old_spte, new_spte\);\n)(\n\tif \(is_leaf)",
          r"\2\1\3", ("install-leaf-fails",)),
    Fault("ageing-has-no-line", TDP,
          r"\ttrace_kvm_tdp_mmu_spte_changed\(iter->as_id, iter->gfn, iter->level,\s*iter->old_spte, new_spte\);",
          ";", ("age-zap", "age-fault")),
    Fault("line-has-another-old-value", TDP,
          r"(\ttrace_kvm_tdp_mmu_spte_changed\(as_id, gfn, level, )old_spte(, new_spte\);\n\n\tif \(is_leaf)",
          r"\1new_spte\2", ("fault-punch",)),
    Fault("logging-line-has-another-old-value", TDP,
          r"\t\ttrace_kvm_tdp_mmu_spte_changed\(iter\.as_id, iter\.gfn, iter\.level,\s*iter\.old_spte,",
          "\t\ttrace_kvm_tdp_mmu_spte_changed(iter.as_id, iter.gfn, iter.level, iter.old_spte & ~2ull,",
          ("log-get-write", "log-clear-write"), "I20"),
    Fault("request-does-not-kick", MAIN,
          r"called = kvm_kick_many_cpus\(cpus, !!\(req & KVM_REQUEST_WAIT\)\);", "called = false;",
          ("vm-dies",)),
    Fault("dead-vm-makes-no-request", MAIN, r"if \(likely\(!\(req & KVM_REQUEST_NO_ACTION\)\)\)",
          "if (likely(!(req & KVM_REQUEST_NO_ACTION)) && req != KVM_REQ_VM_DEAD)", ("vm-dies",)),
    # --- hkid release -------------------------------------------------------------------------------
    Fault("vcpus-not-flushed-for-hkid", TDX,
          r"\tkvm_for_each_vcpu\(j, vcpu, kvm\)\n\t\ttdx_flush_vp_on_cpu\(vcpu\);", "",
          ("zap-running", "subtree")),
    Fault("caches-not-written-back", TDX,
          r"\t\ton_each_cpu_mask\(targets, smp_func_do_phymem_cache_wb, NULL, true\);", "\t\t;",
          ("subtree",)),
    Fault("key-not-freed", TDX, r"err = tdh_mng_key_freeid\(&kvm_tdx->td\);", "err = 0;", ("subtree",)),
)  # fmt: skip
