// SPDX-License-Identifier: GPL-2.0-only
/* The operations of a scenario (septum.native.operations), one function each. */
#include "mmu/tdp_iter.h"
#include <linux/sched/vhost_task.h>
#include <linux/moduleparam.h>
#include "glue.h"

long septum_op_unmap_hva(u64 start, u64 end);
extern const struct kernel_param_ops nx_huge_pages_ops;
void tdp_mmu_zap_root(struct kvm *kvm, struct kvm_mmu_page *root, bool shared);

/* How the recovery worker zaps a table, and under which lock. */
#ifdef SEPTUM_ZAP_POSSIBLE_NX
#define septum_zap_table kvm_tdp_mmu_zap_possible_nx_huge_page
#define septum_lock_to_zap read_lock
#define septum_unlock_after_zap read_unlock
#else
#define septum_zap_table kvm_tdp_mmu_zap_sp
#define septum_lock_to_zap write_lock
#define septum_unlock_after_zap write_unlock
#endif

/*
 * An EPT violation's handler: a write fault, repeated while it says RETRY.  A root that was given
 * up meanwhile, or a slot that is being deleted, needs a round of the vCPU loop.
 */
long septum_op_fault(u64 id, u64 gfn, u64 shared)
{
	struct kvm_vcpu *vcpu = septum_vcpu[id];
	u64 code = PFERR_WRITE_MASK | PFERR_GUEST_FINAL_MASK | (shared ? 0 : PFERR_PRIVATE_ACCESS);
	u64 gpa = (gfn | (shared ? (u64)kvm_gfn_direct_bits(vcpu->kvm) : 0)) << PAGE_SHIFT;
	long r;

	kvm_vcpu_srcu_read_lock(vcpu);
	while ((r = septum_page_fault(vcpu, gpa, code)) == RET_PF_RETRY) {
		struct kvm_memory_slot *slot;

		if (kvm_test_request(KVM_REQ_VM_DEAD, vcpu)) {
			r = -EIO;
			break;
		}
		if (kvm_test_request(KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, vcpu)) {
			septum_requests(vcpu);
			r = kvm_mmu_reload(vcpu);
			if (r)
				break;
			continue;
		}
#ifndef SEPTUM_LOOP_LOOKS_AT_SLOT
		if (!shared) {
			septum_retry("tdx_handle_ept_violation");
			continue;
		}
#endif
		slot = gfn_to_memslot(vcpu->kvm, gfn);
		if (slot && slot->flags & KVM_MEMSLOT_INVALID) {
			/* Leaves the loop, drops SRCU, and faults again. */
			kvm_vcpu_srcu_read_unlock(vcpu);
			septum_tell(SEPTUM_TELL_REACHED,
				    (u64)(shared ? "a fault met an INVALID slot" :
						   "the slot's deletion ended a local retry"), 0);
			septum_retry("fault");
			kvm_vcpu_srcu_read_lock(vcpu);
			continue;
		}
		septum_retry("fault");
	}
	kvm_vcpu_srcu_read_unlock(vcpu);
	return r;
}

long septum_op_load(u64 id)
{
	return kvm_mmu_reload(septum_vcpu[id]);
}

/* kvm_tdp_map_page(), kvm_tdp_page_prefault() and kvm_tdp_mmu_map_private_pfn() try until the fault is not to be retried, whoever asks; each
 * attempt begins with cond_resched(). */
static u64 attempts[SEPTUM_TASKS + 1];

void septum_cond_resched(const char *function)
{
	u64 *n = &attempts[septum_task()];

	if (septum_get(function) != septum_get("kvm_tdp_"))
		return; /* another loop, which only goes on */
	septum_set(n, septum_get(n) + 1);
	if (septum_get(n) > 1)
		septum_retry("a private fault's loop");
}

long septum_op_prefault(u64 id, u64 gfn)
{
	struct kvm_pre_fault_memory range = { .gpa = gfn << PAGE_SHIFT, .size = PAGE_SIZE };
	long r;

	septum_set(&attempts[septum_task()], 0);
	r = kvm_vcpu_ioctl(septum_vcpu_file[id], KVM_PRE_FAULT_MEMORY, (u64)&range);
	if (r == -EAGAIN)
		septum_tell(SEPTUM_TELL_REACHED, (u64)"a prefault met an INVALID slot", 0);
	septum_tell(SEPTUM_TELL_REACHED,
		    (u64)(r < 0 ? "prefault was refused" : "prefault mapped or found the page"), 0);
	return r;
}

long septum_op_init_mem_region(u64 gfn)
{
	struct kvm_tdx_init_mem_region region = {
		.source_addr = (u64)septum_source, .gpa = gfn << PAGE_SHIFT, .nr_pages = 1,
	};

	septum_set(&attempts[septum_task()], 0);
	return septum_encrypt_op(septum_vcpu_file[0], true, KVM_TDX_INIT_MEM_REGION, 0, &region);
}

long septum_op_finalize(void)
{
	return septum_encrypt_op(septum_vm_file, false, KVM_TDX_FINALIZE_VM, 0, NULL);
}

long septum_op_zap_leafs(u64 start, u64 end)
{
	struct kvm *kvm = septum_kvm;

	write_lock(&kvm->mmu_lock);
	if (kvm_tdp_mmu_zap_leafs(kvm, start, end, false))
		kvm_flush_remote_tlbs(kvm);
	write_unlock(&kvm->mmu_lock);
	return 0;
}

long septum_op_zap_range(u64 start, u64 end)
{
	kvm_zap_gfn_range(septum_kvm, start, end);
	septum_happened(SEPTUM_HANDED_OVER, 0, 0);
	return 0;
}

/* The setter of the module's parameter nx_huge_pages: it zaps all VMs fast if it changes. */
long septum_set_nx(u64 on)
{
	return nx_huge_pages_ops.set(on ? "force" : "off", NULL);
}

long septum_op_zap_all_fast(void)
{
	long r = septum_set_nx(!is_nx_huge_page_enabled(septum_kvm));

	septum_happened(SEPTUM_ZAPPED_FAST, 0, 0);
	return r;
}

static struct kvm_mmu_page *root_of(bool mirror)
{
	struct kvm_mmu_page *root;

	list_for_each_entry(root, &septum_kvm->arch.tdp_mmu_roots, link)
		if (is_mirror_sp(root) == mirror && !root->role.invalid)
			return root;
	septum_die("there is no such root");
}

/* tdp_mmu_zap_root() of the direct root under mmu_lock held for read (septum.kvm.operations). */
long septum_op_zap_root(void)
{
	read_lock(&septum_kvm->mmu_lock);
	tdp_mmu_zap_root(septum_kvm, root_of(false), true);
	kvm_flush_remote_tlbs(septum_kvm);
	read_unlock(&septum_kvm->mmu_lock);
	return 0;
}

/* The mirror's tables, once the TD's keys are gone: the pass that the last put of a root makes. */
long septum_op_zap_mirror(void)
{
	write_lock(&septum_kvm->mmu_lock);
	tdp_mmu_zap_root(septum_kvm, root_of(true), false);
	write_unlock(&septum_kvm->mmu_lock);
	return 0;
}

/* The table below the 2M entry of a GFN in the direct root, as the NX recovery worker zaps it. */
long septum_op_zap_table(u64 gfn)
{
	struct kvm *kvm = septum_kvm;
	struct kvm_mmu_page *sp = root_of(false);
	u64 spte;

	septum_lock_to_zap(&kvm->mmu_lock);
	rcu_read_lock();
	while (sp && sp->role.level > PG_LEVEL_4K) {
		spte = READ_ONCE(sp->spt[SPTE_INDEX(gfn << PAGE_SHIFT, sp->role.level)]);
		if (!is_shadow_present_pte(spte) || is_last_spte(spte, sp->role.level))
			sp = NULL;
		else
			sp = spte_to_child_sp(spte);
	}
	if (sp && septum_zap_table(kvm, sp))
		kvm_flush_remote_tlbs(kvm);
	rcu_read_unlock();
	septum_unlock_after_zap(&kvm->mmu_lock);
	return 0;
}

/* A reader that holds nothing but RCU walks the mirror down to a GFN. */
long septum_op_walk(u64 gfn)
{
	struct tdp_iter iter;

	rcu_read_lock();
#ifdef SEPTUM_TDP_ITER_GFN_BITS
	tdp_iter_start(&iter, root_of(true), PG_LEVEL_4K, gfn, 0);
#else
	tdp_iter_start(&iter, root_of(true), PG_LEVEL_4K, gfn);
#endif
	while (iter.valid && iter.gfn < gfn + 1)
		tdp_iter_next(&iter);
	rcu_read_unlock();
	return 0;
}

/* One round of the NX huge page recovery worker: KVM's own function, from its vhost task. */
static bool (*recover)(void *);

struct vhost_task *M(vhost_task_create)(bool (*fn)(void *), void (*killed)(void *), void *arg,
					const char *name)
{
	recover = fn;
	return (void *)&recover;
}
void M(vhost_task_start)(struct vhost_task *task) { }
void M(vhost_task_stop)(struct vhost_task *task) { }
void M(vhost_task_wake)(struct vhost_task *task) { }

long septum_op_recover_nx(void)
{
	u64 *recovering = &septum_recovering[septum_task()];
	long r;

	jiffies += 100 * 3600 * HZ;
	septum_set(recovering, 1);
	r = recover(septum_kvm);
	septum_set(recovering, 0);
	return r;
}

/* What a round of that worker does to its tables, but for the zap. */
long septum_op_unlist_nx(void)
{
	struct list_head *list = septum_nx_list(septum_kvm);
	struct kvm_mmu_page *sp;

	while (!list_empty(list)) {
		sp = list_first_entry(list, struct kvm_mmu_page, possible_nx_huge_page_link);
		sp->nx_huge_page_disallowed = false;
		septum_untrack_nx(septum_kvm, sp);
	}
	return 0;
}

/* kvm_write_track_add_gfn(), which only a configuration with KVMGT has. */
long septum_op_write_track(u64 gfn)
{
	struct kvm *kvm = septum_kvm;

	mutex_lock(&kvm->slots_lock); /* instead of SRCU; either will do */
	write_lock(&kvm->mmu_lock);
	__kvm_write_track_add_gfn(kvm, gfn_to_memslot(kvm, gfn), gfn);
	write_unlock(&kvm->mmu_lock);
	mutex_unlock(&kvm->slots_lock);
	septum_happened(SEPTUM_WRITE_TRACKED, gfn, 0);
	return 0;
}

/* --- guest_memfd and conversion -------------------------------------------------------------- */

long septum_op_punch_hole(u64 start, u64 end, u64 file)
{
	struct file *f = septum_gmem_file[file];
	long r = f->f_op->fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				    start << PAGE_SHIFT, (end - start) << PAGE_SHIFT);

	septum_happened(SEPTUM_HANDED_OVER, 0, 0);
	return r;
}

static void close_gmem(u64 file)
{
	struct file *f = septum_gmem_file[file];

	if (!f)
		return;
	septum_gmem_file[file] = NULL;
	septum_touch(&f->f_ref, 8, SEPTUM_ATOMIC);
	septum_tell(SEPTUM_TELL_LAST, (u64)&f->f_ref, 0);
	fput(f);
	fput(f);
}

long septum_op_release_gmem(u64 file)
{
	close_gmem(file);
	return 0;
}

long septum_op_set_attributes(u64 start, u64 end, u64 private)
{
	struct kvm_memory_attributes attr = {
		.address = start << PAGE_SHIFT,
		.size = (end - start) << PAGE_SHIFT,
		.attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};
	long r = kvm_vm_ioctl(septum_vm_file, KVM_SET_MEMORY_ATTRIBUTES, (u64)&attr);

	septum_happened(SEPTUM_HANDED_OVER, 0, 0);
	return r;
}

/* Userspace converts a page, and gives back the memory of the other side. */
static void convert(u64 gfn, bool private)
{
	septum_op_set_attributes(gfn, gfn + 1, private);
	if (private)
		septum_op_unmap_hva(gfn, gfn + 1);
	else
		septum_op_punch_hole(gfn, gfn + 1, 0);
}

/* KVM_RUN until the guest has nothing left to do; MapGPA is answered by userspace. */
long septum_op_run_vcpu(u64 id)
{
	struct kvm_run *run = septum_vcpu[id]->run;
	long r;

	for (;;) {
		r = kvm_vcpu_ioctl(septum_vcpu_file[id], KVM_RUN, 0);
		if (r || septum_leave[id] || run->exit_reason != KVM_EXIT_HYPERCALL)
			return r;
		convert(run->hypercall.args[0] >> PAGE_SHIFT,
			run->hypercall.args[2] & KVM_MAP_GPA_RANGE_ENCRYPTED);
	}
}

/* The scheduler has moved the vCPU's thread to `cpu`, where this runs: what sched_in does. */
long septum_op_migrate_vcpu(u64 id, u64 cpu)
{
	vcpu_load(septum_vcpu[id]);
	vcpu_put(septum_vcpu[id]);
	septum_tell(SEPTUM_TELL_REACHED, (u64)"a vCPU moved to another CPU", 0);
	return 0;
}

/* --- the end ----------------------------------------------------------------------------------- */

long septum_op_release_hkid(void)
{
	kvm_x86_ops.vm_pre_destroy(septum_kvm);
	return 0;
}

static void close_file(struct file **slot)
{
	struct file *f = *slot;

	if (f)
		fput(f);
	*slot = NULL;
}

long septum_op_close_vcpu(u64 id)
{
	close_file(&septum_vcpu_file[id]);
	return 0;
}

/* userspace's main thread exits; a vCPU's thread may still have its file. */
long septum_op_teardown(void)
{
	u64 i;

	for (i = 0; i < SEPTUM_FILES; i++)
		close_gmem(i);
	close_file(&septum_vm_file);
	return 0;
}

/* userspace closes everything: guest_memfd, vCPUs, the VM. */
long septum_op_destroy_vm(void)
{
	u64 i;

	for (i = 0; i < SEPTUM_FILES; i++)
		close_gmem(i);
	for (i = 0; i < SEPTUM_CPUS; i++)
		close_file(&septum_vcpu_file[i]);
	close_file(&septum_vm_file);
	return 0;
}
