// SPDX-License-Identifier: GPL-2.0-only
/*
 * An ordinary VM's vCPU as far as KVM's MMU sees it (vmx.c, and what x86.c emulates), and
 * accesses of a guest with the faults that they take.  The guest itself and the CPU's walk of the
 * direct root are septum.native.services'.
 */
#include "glue.h"

u64 septum_pml;		/* the CPUs log dirty pages */
static u8 emulated[SEPTUM_CPUS];	/* the host did for the guest what it wanted to */
static u8 mmio[SEPTUM_CPUS];		/* the CPU met an MMIO SPTE */

/* Never changes, but lies beside what does: its reads are no points. */
static u64 id_of(struct kvm_vcpu *vcpu)
{
	return (u32)septum_get(&vcpu->vcpu_id);
}

/* --- what the CPU does -------------------------------------------------------------------------- */

static u64 service(u64 what, u64 a, u64 b, u64 c, u64 *out)
{
	u64 registers[8] = { a, b, c }, r;

	r = septum_service(what, registers);
	if (out)
		memcpy(out, registers, 3 * sizeof(u64));
	return r;
}

/* What was seen so far is no reason to wait. */
void septum_progress(void)
{
	service(SEPTUM_PROGRESS, 0, 0, 0, NULL);
}

/* The host has done what the guest wanted to. */
void septum_completed(struct kvm_vcpu *vcpu)
{
	service(SEPTUM_COMPLETED, id_of(vcpu), 0, 0, NULL);
}

/* KVM's own INVEPT on the vCPU's CPU. */
void septum_flush(struct kvm_vcpu *vcpu)
{
	service(SEPTUM_FLUSH, id_of(vcpu), 0, 0, NULL);
}

static void flush_pml_buffer(struct kvm_vcpu *vcpu)
{
	u64 gfn[3], n;

	if (!septum_pml)
		return;
	for (n = 0;; n++) {
		service(SEPTUM_PML, id_of(vcpu), n, 0, gfn);
		if (gfn[0] == ~0ul)
			return;
		kvm_vcpu_mark_page_dirty(vcpu, gfn[0]);
	}
}

/* --- the fault that an access ends in ------------------------------------------------------------ */

static struct kvm_mmu_page *root_of(struct kvm_vcpu *vcpu)
{
	hpa_t root = vcpu->arch.mmu->root.hpa;

	return VALID_PAGE(root) ? root_to_sp(root) : NULL;
}

/* For must_occur: what can only be seen from outside. */
static void tell_outcome(struct kvm_vcpu *vcpu, u64 fast, u64 listed, u64 code, int r)
{
	const char *what = NULL;
	struct kvm_mmu_page *root = root_of(vcpu);

	if (septum_get(&vcpu->stat.pf_fast) != fast)
		what = r == RET_PF_SPURIOUS ? "the fast path found the fault spurious" :
					      "the fast path fixed a fault";
	else if (septum_get(&vcpu->kvm->stat.nx_lpage_splits) > listed)
		what = "a table was listed for NX recovery";
	else if (r == RET_PF_RETRY && root && root->role.invalid)
		what = "a fault found its root invalid";
	else if (code & PFERR_RSVD_MASK && !emulated[id_of(vcpu)])
		what = "an MMIO SPTE had a stale generation";
	if (what)
		septum_tell(SEPTUM_TELL_REACHED, (u64)what, 0);
}

/* kvm_mmu_page_fault(), once. */
int septum_page_fault(struct kvm_vcpu *vcpu, u64 gpa, u64 code)
{
	u64 fast = septum_get(&vcpu->stat.pf_fast);
	u64 listed = septum_get(&vcpu->kvm->stat.nx_lpage_splits);
	int r;

	emulated[id_of(vcpu)] = 0;
	mmio[id_of(vcpu)] = !!(code & PFERR_RSVD_MASK);
	if (code & PFERR_RSVD_MASK && vcpu_match_mmio_gpa(vcpu, gpa))
		septum_tell(SEPTUM_TELL_REACHED, (u64)"an MMIO access hit the vCPU's cache", 0);
	r = kvm_mmu_page_fault(vcpu, gpa, code, NULL, 0);
	tell_outcome(vcpu, fast, listed, code, r);
	if (emulated[id_of(vcpu)])
		r = RET_PF_EMULATE; /* x86_emulate_instruction()'s 1 means something else here */
	if (r != RET_PF_RETRY)
		septum_progress();
	return r;
}

/* A write to a tracked page goes through userspace's mapping and is marked dirty; an access
 * without a slot goes to a device. */
int M(x86_emulate_instruction)(struct kvm_vcpu *vcpu, gpa_t gpa, int type, void *insn, int length)
{
	gfn_t gfn = gpa_to_gfn(gpa);

	emulated[id_of(vcpu)] = 1;
	if (!mmio[id_of(vcpu)] && gfn_to_memslot(vcpu->kvm, gfn)) {
		kvm_vcpu_mark_page_dirty(vcpu, gfn);
		septum_tell(SEPTUM_TELL_REACHED, (u64)"a write to a tracked page was emulated", 0);
		return 1;
	}
	septum_happened(SEPTUM_MMIO_EMULATED, id_of(vcpu), gfn);
	septum_tell(SEPTUM_TELL_REACHED, (u64)"an MMIO access was emulated", 0);
	return 1;
}

/* One access of a vCPU that is outside the guest otherwise, with the faults that it takes. */
long septum_op_access(u64 id, u64 gfn, u64 kind)
{
	struct kvm_vcpu *vcpu = septum_vcpu[id];
	u64 gpa = gfn << PAGE_SHIFT | (u64)kvm_gfn_direct_bits(vcpu->kvm) << PAGE_SHIFT;
	u64 out[3];
	bool done;
	int r;

	septum_progress();
	for (;;) {
		kvm_vcpu_srcu_read_lock(vcpu);
		done = false;
		r = septum_requests(vcpu);
		if (!r)
			r = kvm_mmu_reload(vcpu);
		if (!r) {
			service(SEPTUM_WALK, id, gpa >> PAGE_SHIFT, kind, out);
			flush_pml_buffer(vcpu);
			done = out[0];
			if (!done) {
				r = septum_page_fault(vcpu, gpa, out[1]);
				done = emulated[id];
			}
		}
		kvm_vcpu_srcu_read_unlock(vcpu);
		if (done || r < 0)
			return r < 0 ? r : 0;
		if (r == RET_PF_RETRY)
			septum_retry("guest_access");
	}
}

/* --- vmx.c: what vmx/main.c calls for vCPUs that are not a TD's ------------------------------------ */

static struct {
	u64 reason, gfn, code;
} left[SEPTUM_CPUS];	/* VM exits */

int M(vmx_vm_init)(struct kvm *kvm)
{
	if (septum_pml)
		kvm->arch.cpu_dirty_log_size = 512;
	return 0;
}
void M(vmx_vm_destroy)(struct kvm *kvm) { }
int M(vmx_vcpu_precreate)(struct kvm *kvm) { return 0; }
int M(vmx_vcpu_create)(struct kvm_vcpu *vcpu) { return 0; }
void M(vmx_vcpu_free)(struct kvm_vcpu *vcpu) { }
void M(vmx_vcpu_load)(struct kvm_vcpu *vcpu, int cpu) { }
void M(vmx_vcpu_put)(struct kvm_vcpu *vcpu) { }
void M(vmx_prepare_switch_to_guest)(struct kvm_vcpu *vcpu) { }
void M(vmx_update_cpu_dirty_logging)(struct kvm_vcpu *vcpu) { }
void M(vmx_load_mmu_pgd)(struct kvm_vcpu *vcpu, hpa_t root_hpa, int level) { }
void M(vmx_flush_tlb_all)(struct kvm_vcpu *vcpu) { septum_flush(vcpu); }
void M(vmx_flush_tlb_current)(struct kvm_vcpu *vcpu) { septum_flush(vcpu); }

fastpath_t M(vmx_vcpu_run)(struct kvm_vcpu *vcpu, u64 run_flags)
{
	service(SEPTUM_RUN, id_of(vcpu), 0, 0, (u64 *)&left[id_of(vcpu)]);
	return EXIT_FASTPATH_NONE;
}

/* > 0: back to the guest; 0: to userspace; < 0: an error for userspace. */
int M(vmx_handle_exit)(struct kvm_vcpu *vcpu, fastpath_t fastpath)
{
	int id = id_of(vcpu), r;

	flush_pml_buffer(vcpu);
	if (left[id].reason != EXIT_REASON_EPT_VIOLATION &&
	    left[id].reason != EXIT_REASON_EPT_MISCONFIG)
		return !septum_leave[id];
	r = septum_page_fault(vcpu, left[id].gfn << PAGE_SHIFT, left[id].code);
	if (emulated[id])
		septum_completed(vcpu);
	return r;
}
