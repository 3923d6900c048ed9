// SPDX-License-Identifier: GPL-2.0-only
/*
 * The vCPU loop, as docs/model.md describes vcpu_enter_guest(); IPIs, and what userspace gives to
 * a vCPU.
 */
#include "glue.h"

/* IRQs are off on a CPU from before IN_GUEST_MODE until after OUTSIDE_GUEST_MODE. */
static u64 septum_irqs_off[SEPTUM_CPUS];	/* 1: off, 2: an IPI is pending */

static int irqs_on(void *arg)
{
	return !(*(u64 *)arg & 2); /* taken; it may be in the guest again by now */
}

struct septum_handler {
	void (*func)(void *);
	void *info;
};

static void handler(void *arg)
{
	struct septum_handler *h = arg;
	int was = this_cpu_read(hardirqs_enabled);

	this_cpu_write(hardirqs_enabled, 0);
	h->func(h->info);
	this_cpu_write(hardirqs_enabled, was);
}

/* The handlers that KVM sends (ack_kick, tdx_flush_vp) run in the sender's stead, once the
 * target has IRQs on; a target inside the guest leaves it first. */
void septum_ipi(int cpu, void (*func)(void *), void *info, bool wait)
{
	struct septum_handler h = { func, info };
	u64 *off = &septum_irqs_off[cpu];

	septum_touch(off, 8, SEPTUM_RMW | SEPTUM_ATOMIC);
	if (septum_get(off) & 1) {
		septum_set(off, septum_get(off) | 2);
		septum_tell(SEPTUM_TELL_KICKED, cpu, 0);
		if (wait)
			septum_wait(irqs_on, off, off);
	}
	septum_on_cpu(cpu, handler, &h);
}

/* kvm_vcpu_kick(): a reschedule IPI, which nobody waits for. */
static void nothing(void *info) { }
static void reschedule(int cpu) { septum_ipi(cpu, nothing, NULL, false); }
struct smp_ops smp_ops = { .smp_send_reschedule = reschedule };
int M(kvm_arch_vcpu_should_kick)(struct kvm_vcpu *vcpu)
{
	return kvm_vcpu_exiting_guest_mode(vcpu) == IN_GUEST_MODE;
}

u64 septum_ipi_pending(int cpu) { return septum_irqs_off[cpu] >> 1; }
u64 *septum_ipi_word(int cpu) { return &septum_irqs_off[cpu]; }

static void irqs_off_and_in_guest_mode(struct kvm_vcpu *vcpu)
{
	u64 *off = &septum_irqs_off[septum_cpu()];

	septum_touch(off, 8, SEPTUM_RMW | SEPTUM_ATOMIC);
	septum_set(off, 1);
	lockdep_hardirqs_off(0);
	smp_store_release(&vcpu->mode, IN_GUEST_MODE);
}

static void outside_guest_mode_and_irqs_on(struct kvm_vcpu *vcpu)
{
	u64 *off = &septum_irqs_off[septum_cpu()];

	WRITE_ONCE(vcpu->mode, OUTSIDE_GUEST_MODE);
	lockdep_hardirqs_on(0);
	septum_touch(off, 8, SEPTUM_RMW | SEPTUM_ATOMIC);
	septum_set(off, 0);
}

/* Those at the head of vcpu_enter_guest() that concern the MMU. */
int septum_requests(struct kvm_vcpu *vcpu)
{
	if (!kvm_request_pending(vcpu))
		return 0;
	if (kvm_test_request(KVM_REQ_VM_DEAD, vcpu))
		return -EIO;
	if (kvm_check_request(KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, vcpu))
		kvm_mmu_free_obsolete_roots(vcpu);
	if (kvm_check_request(KVM_REQ_TLB_FLUSH, vcpu))
		kvm_x86_ops.flush_tlb_all(vcpu);
	if (kvm_check_request(KVM_REQ_TLB_FLUSH_CURRENT, vcpu))
		kvm_x86_ops.flush_tlb_current(vcpu);
	return 0;
}

static int enter_guest(struct kvm_vcpu *vcpu)
{
	fastpath_t exit;
	int r = septum_requests(vcpu);

	if (r)
		return r;
	r = kvm_mmu_reload(vcpu);
	if (r)
		return r;
	preempt_disable();
	kvm_x86_ops.prepare_switch_to_guest(vcpu);
	irqs_off_and_in_guest_mode(vcpu);
	kvm_vcpu_srcu_read_unlock(vcpu);
	smp_mb__after_srcu_read_unlock();
	if (READ_ONCE(vcpu->mode) == EXITING_GUEST_MODE || kvm_request_pending(vcpu)) {
		septum_tell(SEPTUM_TELL_REACHED, (u64)"a request stopped a vCPU before it entered", 0);
		septum_progress(); /* the next round serves it */
		outside_guest_mode_and_irqs_on(vcpu);
		preempt_enable();
		kvm_vcpu_srcu_read_lock(vcpu);
		return 1;
	}
	exit = kvm_x86_ops.vcpu_run(vcpu, 0);
	outside_guest_mode_and_irqs_on(vcpu);
	preempt_enable();
	kvm_vcpu_srcu_read_lock(vcpu);
	return kvm_x86_ops.handle_exit(vcpu, exit);
}

u8 septum_leave[SEPTUM_CPUS];	/* set when the guest has nothing left to do */

int M(kvm_arch_vcpu_ioctl_run)(struct kvm_vcpu *vcpu)
{
	int r = 1;

	vcpu_load(vcpu);
	septum_leave[(u32)septum_get(&vcpu->vcpu_id)] = 0;
	vcpu->run->exit_reason = KVM_EXIT_UNKNOWN;
	kvm_vcpu_srcu_read_lock(vcpu);
	if (vcpu->arch.complete_userspace_io) {
		int (*complete)(struct kvm_vcpu *) = vcpu->arch.complete_userspace_io;

		vcpu->arch.complete_userspace_io = NULL;
		r = complete(vcpu);
		if (r > 0)
			septum_completed(vcpu);
	}
	while (r > 0) {
		r = enter_guest(vcpu);
		if (r <= 0)
			break;
		septum_tell(SEPTUM_TELL_ROUND, (u32)septum_get(&vcpu->vcpu_id), 0);
		if (septum_leave[(u32)septum_get(&vcpu->vcpu_id)])
			break;
	}
	kvm_vcpu_srcu_read_unlock(vcpu);
	vcpu_put(vcpu);
	return r;
}

/* userspace's only page: what KVM_TDX_INIT_MEM_REGION copies. */
int M(get_user_pages_fast)(unsigned long at, int n, unsigned int flags, struct page **pages)
{
	pages[0] = virt_to_page((void *)at);
	atomic_add(2, &pages[0]->_refcount);
	return 1;
}
void M(unpin_user_page)(struct page *page) { atomic_dec(&page->_refcount); }
