// SPDX-License-Identifier: GPL-2.0-only
/* What the View reads: where members lie, and what has no offset. */
#include "glue.h"

#define FIELD(type, member) { #type "." #member, offsetof(struct type, member), \
			      sizeof(((struct type *)0)->member) }

struct septum_field {
	const char *name;
	u64 offset, size;
} septum_fields[] = {
	FIELD(kvm, mmu_lock),
	FIELD(kvm, slots_lock),
	FIELD(kvm, lock),
	FIELD(kvm, srcu),
	FIELD(kvm, mmu_invalidate_seq),
	FIELD(kvm, mmu_invalidate_in_progress),
	FIELD(kvm, mmu_invalidate_range_start),
	FIELD(kvm, mmu_invalidate_range_end),
	FIELD(kvm, vm_bugged),
	FIELD(kvm, vm_dead),
	FIELD(kvm, stat.pages_4k),
	FIELD(kvm, stat.pages_2m),
	FIELD(kvm, stat.pages_1g),
	FIELD(kvm, users_count),
	FIELD(kvm, mem_attr_array),
	FIELD(kvm, memslots),
	FIELD(kvm, arch.tdp_mmu_pages),
	FIELD(kvm, arch.tdp_mmu_roots),
	FIELD(kvm, arch.tdp_mmu_pages_lock),
	FIELD(kvm, arch.pre_fault_allowed),
	FIELD(kvm, mn_active_invalidate_count),
	FIELD(kvm, mn_invalidate_lock),
	FIELD(kvm, stat.nx_lpage_splits),
	FIELD(kvm, arch.gfn_direct_bits),
	FIELD(vcpu_tdx, vp.tdvpr_page),
	FIELD(kvm_tdx, wait_for_sept_zap),
	FIELD(kvm_tdx, state),
	FIELD(kvm_tdx, hkid),
	FIELD(kvm_tdx, td.tdr_page),
	FIELD(kvm_vcpu, mutex),
	FIELD(kvm_vcpu, mode),
	FIELD(kvm_vcpu, requests),
	FIELD(kvm_vcpu, cpu),
	FIELD(kvm_vcpu, stat),
	FIELD(kvm_vcpu, arch.root_mmu.root.hpa),
	FIELD(kvm_vcpu, arch.root_mmu.mirror_root_hpa),
	FIELD(file, f_ref),
	FIELD(page, _refcount),
	FIELD(kvm_mmu_page, link),
	FIELD(kvm_mmu_page, role),
	FIELD(kvm_mmu_page, gfn),
	FIELD(kvm_mmu_page, spt),
	FIELD(kvm_mmu_page, external_spt),
	FIELD(kvm_mmu_page, ptep),
	FIELD(kvm_mmu_page, tdp_mmu_root_count),
	FIELD(kvm_mmu_page, tdp_mmu_scheduled_root_to_zap),
	FIELD(kvm_mmu_page, nx_huge_page_disallowed),
	{ "sizeof.kvm", 0, sizeof(struct kvm_tdx) },
	{ "sizeof.kvm_vcpu", 0, sizeof(struct vcpu_tdx) },
	{ "sizeof.kvm_mmu_page", 0, sizeof(struct kvm_mmu_page) },
	{ "sizeof.file", 0, sizeof(struct file) },
	{ "sizeof.page", 0, sizeof(struct page) },
	{ "sizeof.bug_entry", 0, sizeof(struct bug_entry) },
	{ "offset.bug_entry.flags", offsetof(struct bug_entry, flags), 2 },
	{ "page.private", offsetof(struct page, private), 8 },
	{ "value.FROZEN_SPTE", FROZEN_SPTE, 8 },
	{ "value.SHADOW_NONPRESENT", SHADOW_NONPRESENT_VALUE, 8 },
	{ "value.MMU_PRESENT", SPTE_MMU_PRESENT_MASK, 8 },
	{ "value.EPT_SPTE_HOST_WRITABLE", EPT_SPTE_HOST_WRITABLE, 8 },
	{ "value.EPT_SPTE_MMU_WRITABLE", EPT_SPTE_MMU_WRITABLE, 8 },
	{ "value.SPTE_TDP_AD_DISABLED", SPTE_TDP_AD_DISABLED, 8 },
	{ "value.SHADOW_ACC_TRACK_SAVED_BITS_MASK", SHADOW_ACC_TRACK_SAVED_BITS_MASK, 8 },
	{ "value.SHADOW_ACC_TRACK_SAVED_BITS_SHIFT", SHADOW_ACC_TRACK_SAVED_BITS_SHIFT, 8 },
	{ "value.KVM_REQ_TLB_FLUSH", KVM_REQ_TLB_FLUSH & KVM_REQUEST_MASK, 8 },
	{ NULL },
};

/* role bits are read through these, since unions of bit-fields have no offsets */
u64 septum_sp_level(struct kvm_mmu_page *sp) { return sp->role.level; }
u64 septum_sp_mirror(struct kvm_mmu_page *sp) { return is_mirror_sp(sp); }
u64 septum_sp_invalid(struct kvm_mmu_page *sp) { return sp->role.invalid; }

/* The n-th table on the list of possible NX huge pages; 0: there are not that many. */
u64 septum_nx_listed(u64 n)
{
	struct kvm_mmu_page *sp;

	list_for_each_entry(sp, septum_nx_list(septum_kvm), possible_nx_huge_page_link)
		if (!n--)
			return (u64)sp;
	return 0;
}
/* How many there are, as KVM counts them. */
u64 septum_nx_count(void)
{
#ifdef SEPTUM_NX_BY_TYPE
	return septum_kvm->arch.possible_nx_huge_pages[KVM_TDP_MMU].nr_pages;
#else
	return septum_kvm->stat.nx_lpage_splits;
#endif
}
