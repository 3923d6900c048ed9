// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memslots: what x86.c adds to kvm_main.c (sizes of pages, dirty logging), and the operations
 * that change slots or read dirty logs.
 */
#include "glue.h"

void *__vcalloc_noprof(size_t n, size_t size, gfp_t flags);
extern bool eager_page_split;

/* --- x86.c ------------------------------------------------------------------------------------- */

int M(kvm_arch_prepare_memory_region)(struct kvm *kvm, const struct kvm_memory_slot *old,
				   struct kvm_memory_slot *new, enum kvm_mr_change change)
{
	int i;

	if (change == KVM_MR_FLAGS_ONLY)
		memcpy(&new->arch, &old->arch, sizeof(old->arch));
	if (change != KVM_MR_CREATE && change != KVM_MR_MOVE)
		return 0;
	memset(&new->arch, 0, sizeof(new->arch));
	if (kvm->arch.shadow_root_allocated) /* write tracking brings rmaps along */
		for (i = 0; i < KVM_NR_PAGE_SIZES; i++)
			new->arch.rmap[i] = __vcalloc_noprof(
				(new->npages >> KVM_HPAGE_GFN_SHIFT(i + 1)) + 2,
				sizeof(*new->arch.rmap[i]), 0);
	for (i = 1; i < KVM_NR_PAGE_SIZES; i++) {
		u64 first = new->base_gfn >> KVM_HPAGE_GFN_SHIFT(i + 1);
		u64 last = (new->base_gfn + new->npages - 1) >> KVM_HPAGE_GFN_SHIFT(i + 1);
		u64 pages = KVM_PAGES_PER_HPAGE(i + 1), n;
		struct kvm_lpage_info *info = __vcalloc_noprof(last - first + 1, sizeof(*info), 0);

		new->arch.lpage_info[i - 1] = info;
		if (new->base_gfn & (pages - 1))
			info[0].disallow_lpage = 1;
		if ((new->base_gfn + new->npages) & (pages - 1))
			info[last - first].disallow_lpage = 1;
		/* GFN and userspace address that are not aligned alike */
		if ((new->base_gfn ^ new->userspace_addr >> PAGE_SHIFT) & (pages - 1))
			for (n = 0; n <= last - first; n++)
				info[n].disallow_lpage = 1;
	}
	kvm_mmu_init_memslot_memory_attributes(kvm, new);
	return kvm_page_track_create_memslot(kvm, new, new->npages);
}

void M(kvm_arch_free_memslot)(struct kvm *kvm, struct kvm_memory_slot *slot) { }

/* kvm_mmu_slot_apply_flags(): dirty logging is switched on or off. */
static void apply_flags(struct kvm *kvm, const struct kvm_memory_slot *new)
{
	if (!(new->flags & KVM_MEM_LOG_DIRTY_PAGES)) {
#ifdef SEPTUM_RECOVER_HUGE_PAGES
		kvm_mmu_recover_huge_pages(kvm, new);
#else
		kvm_mmu_zap_collapsible_sptes(kvm, new);
#endif
		return;
	}
	if (kvm_dirty_log_manual_protect_and_init_set(kvm))
		return;
	if (READ_ONCE(eager_page_split))
		kvm_mmu_slot_try_split_huge_pages(kvm, new, PG_LEVEL_4K);
	if (kvm->arch.cpu_dirty_log_size) {
		kvm_mmu_slot_leaf_clear_dirty(kvm, new);
		kvm_mmu_slot_remove_write_access(kvm, new, PG_LEVEL_2M);
	} else {
		kvm_mmu_slot_remove_write_access(kvm, new, PG_LEVEL_4K);
	}
	kvm_flush_remote_tlbs_memslot(kvm, new);
}

void M(kvm_arch_commit_memory_region)(struct kvm *kvm, struct kvm_memory_slot *old,
				      const struct kvm_memory_slot *new, enum kvm_mr_change change)
{
	u32 flags = (old ? old->flags : 0) ^ (new ? new->flags : 0);

	if (flags & KVM_MEM_LOG_DIRTY_PAGES && change == KVM_MR_FLAGS_ONLY)
		apply_flags(kvm, new);
}

static void kick_all(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;

	kvm_for_each_vcpu(i, vcpu, kvm)
		kvm_vcpu_kick(vcpu);
}

void M(kvm_arch_memslots_updated)(struct kvm *kvm, u64 gen)
{
	kvm_mmu_invalidate_mmio_sptes(kvm, gen);
	kick_all(kvm);
}

void M(kvm_arch_sync_dirty_log)(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	if (kvm->arch.cpu_dirty_log_size)
		kick_all(kvm);
}

/* --- operations: memslots ------------------------------------------------------------------------ */

/* What userspace knows of its slots. */
static struct {
	u64 gfn, pages, page;	/* page: where its memory begins, from SEPTUM_HVA on */
	u32 flags;
} regions[4];

static long set_region(u64 id)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = id,
		.flags = regions[id].flags,
		.guest_phys_addr = regions[id].gfn << PAGE_SHIFT,
		.memory_size = regions[id].pages << PAGE_SHIFT,
		.userspace_addr = SEPTUM_HVA + (regions[id].page << PAGE_SHIFT),
	};

	return kvm_vm_ioctl(septum_vm_file, KVM_SET_USER_MEMORY_REGION2, (u64)&region);
}

void septum_know_slot(u64 id, u64 gfn, u64 pages, u64 page)
{
	regions[id].gfn = gfn;
	regions[id].pages = pages;
	regions[id].page = page;
}

long septum_op_create_slot(u64 id, u64 gfn, u64 end)
{
	long r;

	septum_know_slot(id, gfn, end - gfn, gfn);
	r = set_region(id);
	septum_happened(SEPTUM_HANDED_OVER, 0, 0);
	return r;
}

long septum_op_delete_slot(u64 id)
{
	struct kvm_userspace_memory_region2 region = { .slot = id };
	long r = kvm_vm_ioctl(septum_vm_file, KVM_SET_USER_MEMORY_REGION2, (u64)&region);

	septum_happened(SEPTUM_HANDED_OVER, 0, 0);
	return r;
}

/* Its memory and its flags stay. */
long septum_op_move_slot(u64 id, u64 gfn)
{
	long r;

	regions[id].gfn = gfn;
	r = set_region(id);
	septum_happened(SEPTUM_HANDED_OVER, 0, 0);
	return r;
}

/* --- operations: dirty logs ------------------------------------------------------------------------ */

#define LOG_PAGES 0x800
static u64 bitmap[LOG_PAGES / 64];	/* userspace's */

long septum_op_log_dirty(u64 on, u64 id)
{
	long r;

	regions[id].flags = on ? KVM_MEM_LOG_DIRTY_PAGES : 0;
	r = set_region(id);
	septum_happened(on ? SEPTUM_DIRTY_ENABLED : SEPTUM_DIRTY_DISABLED, id, 0);
	return r;
}

/* GFNs 0, 1, 0x200, 0x201 of a slot are the pages that scenarios use. */
static u64 used_pages(u64 *words)
{
	return words[0] & 3 | (words[8] & 3) << 2;
}

long septum_op_get_dirty(u64 id)
{
	struct kvm_dirty_log log = { .slot = id, .dirty_bitmap = (void __user *)bitmap };
	long r;

	if (regions[id].pages > LOG_PAGES)
		septum_die("a slot with a dirty log is too large for the glue");
	memset(bitmap, 0, sizeof(bitmap));
	r = kvm_vm_ioctl(septum_vm_file, KVM_GET_DIRTY_LOG, (u64)&log);
	if (!r && !septum_kvm->manual_dirty_log_protect)
		septum_happened(SEPTUM_DIRTY_TAKEN, id, used_pages(bitmap));
	return r;
}

/* CLEAR clears what is both in `mask` and dirty; only that was taken. */
long septum_op_clear_dirty(u64 mask, u64 id)
{
	struct kvm_clear_dirty_log log = {
		.slot = id,
		.num_pages = regions[id].pages,
		.dirty_bitmap = (void __user *)bitmap,
	};
	long r;

	memset(bitmap, 0, sizeof(bitmap));
	bitmap[0] = mask & 3;
	bitmap[8] = mask >> 2 & 3;
	r = kvm_vm_ioctl(septum_vm_file, KVM_CLEAR_DIRTY_LOG, (u64)&log);
	if (!r)
		septum_happened(SEPTUM_DIRTY_TAKEN, id, mask);
	return r;
}

/* --- for monitors ------------------------------------------------------------------------------------ */

/* The page that a direct leaf of `gfn` should map; 0: it should not exist. */
u64 septum_backing(u64 gfn)
{
	struct kvm_memory_slot *slot = gfn_to_memslot(septum_kvm, gfn);

	if (!slot || slot->flags & KVM_MEMSLOT_INVALID || kvm_mem_is_private(septum_kvm, gfn))
		return 0;
	return septum_host_pfn(slot->userspace_addr - SEPTUM_HVA + ((gfn - slot->base_gfn) << PAGE_SHIFT)
			       >> PAGE_SHIFT);
}

/* 1: logged, 2: in the bitmap; 4: there is a slot, and no update of the slots is in progress. */
u64 septum_slot_state(u64 gfn)
{
	struct kvm_memory_slot *slot = gfn_to_memslot(septum_kvm, gfn);
	u64 state = 0;

	if (!slot)
		return 0;
	if (!(kvm_memslots(septum_kvm)->generation & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS))
		state |= 4;
	if (slot->dirty_bitmap)
		state |= 1 | (slot->dirty_bitmap[(gfn - slot->base_gfn) / 64] >>
			      (gfn - slot->base_gfn) % 64 & 1) << 1;
	return state;
}

/* What the above looks at and others change: the slots in effect, their generation, and the
 * word of the dirty bitmap (0: there is none). */
u64 septum_slots_word(void) { return (u64)&septum_kvm->memslots[0]; }
u64 septum_generation_word(void) { return (u64)&kvm_memslots(septum_kvm)->generation; }
u64 septum_dirty_word(u64 gfn)
{
	struct kvm_memory_slot *slot = gfn_to_memslot(septum_kvm, gfn);

	return slot && slot->dirty_bitmap ?
		       (u64)&slot->dirty_bitmap[(gfn - slot->base_gfn) / 64] : 0;
}

/* An MMIO SPTE of the present generation of memslots. */
u64 septum_mmio_is_current(u64 spte)
{
	u64 gen = (spte & MMIO_SPTE_GEN_LOW_MASK) >> MMIO_SPTE_GEN_LOW_SHIFT;

	gen |= (spte & MMIO_SPTE_GEN_HIGH_MASK) >> MMIO_SPTE_GEN_HIGH_SHIFT;
	return is_mmio_spte(septum_kvm, spte) &&
	       gen == (kvm_memslots(septum_kvm)->generation & MMIO_SPTE_GEN_MASK);
}

u64 septum_is_private(u64 gfn) { return kvm_mem_is_private(septum_kvm, gfn); }
