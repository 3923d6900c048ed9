# SPDX-License-Identifier: GPL-2.0-only
# ruff: noqa: E501
"""Seeded faults in the paths of direct roots: invalidation of roots, MMU notifiers, dirty logs, the
fast path, NX huge pages, MMIO.  Fields as `native_faults.Fault`'s; the rule that has to be found is
named where the unmodified code breaks another one."""

from __future__ import annotations

TDP = "arch/x86/kvm/mmu/tdp_mmu.c"
MMU = "arch/x86/kvm/mmu/mmu.c"
MAIN = "virt/kvm/kvm_main.c"

DIRECT: tuple[tuple[str, str, str, str, tuple[str, ...], str], ...] = (
    ("notifier-does-not-flush", MAIN,
     r"(\.on_lock\t= kvm_mmu_invalidate_start,\n\t\t\.flush_on_ret\t= )true", r"\1false",
     ("run-unmap",), ""),
    ("notifier-does-not-count", MAIN,
     r"\.on_lock\t= kvm_mmu_invalidate_start,", ".on_lock\t= (void *)kvm_null_fn,",
     ("direct-fault-unmap",), ""),
    ("slot-swap-does-not-wait", MAIN, r"while \(kvm->mn_active_invalidate_count\)", "while (0)",
     ("notifier-slot",), ""),
    ("root-stays-valid", TDP, r"\t\t\troot->role\.invalid = true;", "\t\t\t;",
     ("direct-fast-zap-fault", "run-fast-zap"), ""),
    ("nobody-leaves-the-root", MMU,
     r"\n\tkvm_make_all_cpus_request\(kvm, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS\);\n\n"
     r"\tkvm_zap_obsolete", "\n\tkvm_zap_obsolete", ("run-fast-zap", "direct-fast-zap-fault"), ""),
    ("zapped-root-keeps-its-reference", TDP,
     r"(\t\ttdp_mmu_zap_root\(kvm, root, shared\);.*?)\t\tkvm_tdp_mmu_put_root\(kvm, root\);", r"\1",
     ("direct-fast-zap-fault",), ""),
    ("invalidated-root-not-zapped", TDP, r"\t\ttdp_mmu_zap_root\(kvm, root, shared\);",
     "\t\tif (kvm->vm_dead) /* never; the glue needs the function */\n\t\t\ttdp_mmu_zap_root(kvm, root, shared);",
     ("direct-fast-zap-fault",), ""),
    ("table-freed-at-once", TDP, r"call_rcu\(&sp->rcu_head, tdp_mmu_free_sp_rcu_callback\);",
     "__tdp_mmu_free_sp(sp);", ("subtree", "age-collapse", "direct-fast-zap-fault"), ""),
    ("removed-table-not-frozen", TDP, r"(kvm_tdp_mmu_write_spte_atomic\(sptep, )FROZEN_SPTE\)",
     r"\1SHADOW_NONPRESENT_VALUE)", ("direct-zap-root-fault", "direct-fast-zap-fault"), ""),
    ("fast-path-stores-plainly", MMU, r"if \(!try_cmpxchg64\(sptep, &old_spte, new_spte\)\)",
     "WRITE_ONCE(*sptep, new_spte);\n\tif (0)", ("fast-pf-zap",), ""),
    ("fast-path-ignores-mmu-writable", MMU, r"if \(fault->write && is_mmu_writable_spte\(spte\)\)",
     "if (fault->write)", ("fast-pf-write-track",), ""),
    ("fast-path-does-not-mark", MMU,
     r"\t\tmark_page_dirty_in_slot\(vcpu->kvm, fault->slot, fault->gfn\);\n\n\treturn true",
     "\t\t;\n\n\treturn true", ("log-get-write", "fast-pf-zap"), ""),
    ("log-taken-without-flush", MAIN,
     r"(\tKVM_MMU_UNLOCK\(kvm\);\n\t\}\n\n)\tif \(flush\)\n\t\tkvm_flush_remote_tlbs_memslot\(kvm, memslot\);",
     r"\1", ("log-get-write",), ""),
    ("log-cleared-without-flush", MAIN,
     r"(\tKVM_MMU_UNLOCK\(kvm\);\n\n)\tif \(flush\)\n\t\tkvm_flush_remote_tlbs_memslot\(kvm, memslot\);",
     r"\1", ("log-clear-write",), ""),
    ("log-not-armed-again", TDP, r"\t\tif \(!\(iter\.old_spte & dbit\)\)\n\t\t\tcontinue;\n\n\t\titer\.",
     "\t\tcontinue;\n\n\t\titer.", ("log-get-write",), ""),
    ("nx-table-stays-listed", TDP,
     r"\tsp->nx_huge_page_disallowed = false;\n\tuntrack_possible_nx_huge_page\(kvm, sp, KVM_TDP_MMU\);",
     "\tsp->nx_huge_page_disallowed = false;", ("nx-list-zap",), "I15"),
    ("recovered-table-not-flushed", TDP,
     r"\tif \(flush\)\n\t\tkvm_flush_remote_tlbs_memslot\(kvm, slot\);\n\n\trcu_read_unlock",
     "\trcu_read_unlock", ("run-recover",), "I7"),
    ("mmio-generation-ignored", MMU, r"return likely\(kvm_gen == spte_gen\);", "return true;",
     ("mmio-slot-create",), ""),
)  # fmt: skip
