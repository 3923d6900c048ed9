// SPDX-License-Identifier: GPL-2.0-only
/*
 * The parts of KVM's x86.c, lapic.c, cpuid.c and vmx.c that the compiled files call, and the
 * operations of a scenario.  The vCPU loop follows vcpu_enter_guest() as docs/model.md describes
 * it; everything else goes through the ioctls of the kernel under test.
 */
#include <linux/kvm_host.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/falloc.h>
#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"
#include "mmu/tdp_mmu.h"
#include "mmu/page_track.h"
#include "x86.h"
#include <asm/kvm_page_track.h>
#include "lapic.h"
#include "vmx/vmx.h"
#include "vmx/tdx.h"
#include "vmx/x86_ops.h"
#include "vmx/common.h"
#include "septum.h"

#define M(name) septum_m_##name /* the linker drops the prefix: prototypes vary */

#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wmissing-declarations"

/* --- data -------------------------------------------------------------------------------------- */

struct kvm_x86_ops kvm_x86_ops;
extern struct kvm_x86_ops vt_x86_ops;
extern bool enable_tdx;
struct kvm_caps kvm_caps = {
	.supported_vm_types = ~0u,
	.supported_xcr0 = 3,
};
struct kvm_host_values kvm_host = { .maxphyaddr = 46, .xcr0 = 3 };
bool enable_apicv = true;
bool enable_ept = true, enable_ept_ad_bits = true;
static struct tdx_sys_info septum_sysinfo = {
	.features = { .tdx_features0 = ~0ull },
	.td_ctrl = { .tdr_base_size = PAGE_SIZE },
	.td_conf = {
		.attributes_fixed0 = ~0ull,
		.xfam_fixed0 = ~0ull,
		.num_cpuid_config = 1,
		.max_vcpus_per_td = 64,
		.cpuid_config_leaves = { 0xffffffff80000008ull },
	},
};

const struct tdx_sys_info *M(__wrap_tdx_get_sysinfo)(void) { return &septum_sysinfo; }
static u32 septum_hkid;
int M(__wrap_tdx_guest_keyid_alloc)(void) { return septum_hkid; }
void M(__wrap_tdx_guest_keyid_free)(unsigned int keyid) { }
u32 M(__wrap_tdx_get_nr_guest_keyids)(void) { return 16; }

/* --- what x86.c and its neighbours would do ------------------------------------------------------ */

struct kvm_cpuid_entry2 *M(kvm_find_cpuid_entry2)(struct kvm_cpuid_entry2 *entries, int nent,
					       u32 function, u64 index)
{
	int i;

	for (i = 0; i < nent; i++)
		if (entries[i].function == function)
			return &entries[i];
	return NULL;
}
int M(cpuid_query_maxguestphyaddr)(struct kvm_vcpu *vcpu) { return 48; }
int M(kvm_find_user_return_msr)(u32 msr) { return 0; }
int M(kvm_set_user_return_msr)(unsigned int slot, u64 value, u64 mask) { return 0; }
int M(kvm_apic_set_base)(struct kvm_vcpu *vcpu, u64 value, bool host) { return 0; }
bool M(kvm_vcpu_is_reset_bsp)(struct kvm_vcpu *vcpu) { return !vcpu->vcpu_id; }
int M(kvm_init_irq_routing)(struct kvm *kvm) { return 0; }
void M(kvm_free_irq_routing)(struct kvm *kvm) { }
int M(kvm_coalesced_mmio_init)(struct kvm *kvm) { return 0; }
void M(kvm_coalesced_mmio_free)(struct kvm *kvm) { }
void M(kvm_eventfd_init)(struct kvm *kvm) { }
int M(kvm_irqfd_init)(void) { return 0; }
int M(kvm_vfio_ops_init)(void) { return 0; }
int M(kvm_arch_enable_virtualization_cpu)(void) { return 0; }
void M(kvm_arch_enable_virtualization)(void) { }
void M(kvm_arch_disable_virtualization)(void) { }
bool M(kvm_arch_allow_write_without_running_vcpu)(struct kvm *kvm) { return true; }
bool M(kvm_vcpu_has_events)(struct kvm_vcpu *vcpu)
{
	/* Asked between local retries of tdx_handle_ept_violation() only. */
	septum_retry("tdx_handle_ept_violation");
	return false;
}
bool M(kvm_apicv_activated)(struct kvm *kvm) { return true; }
bool M(pat_enabled)(void) { return true; }
bool M(pat_pfn_immune_to_uc_mtrr)(unsigned long pfn) { return false; }
bool M(e820__mapped_raw_any)(u64 s, u64 e, int t) { return false; }
bool M(kvm_can_do_async_pf)(struct kvm_vcpu *vcpu) { return false; }
void M(kvm_arch_free_vm)(struct kvm *kvm) { }
void M(kvm_arch_memslots_updated)(struct kvm *kvm, u64 gen) { }
void M(kvm_arch_sync_dirty_log)(struct kvm *kvm, struct kvm_memory_slot *slot) { }
void M(kvm_arch_vcpu_put)(struct kvm_vcpu *vcpu) { kvm_x86_ops.vcpu_put(vcpu); }
void M(kvm_arch_vcpu_postcreate)(struct kvm_vcpu *vcpu) { }
int M(kvm_arch_vcpu_precreate)(struct kvm *kvm, unsigned int id) { return 0; }
int M(kvm_arch_vcpu_runnable)(struct kvm_vcpu *vcpu) { return 1; }
void M(kvm_async_pf_vcpu_init)(struct kvm_vcpu *vcpu) { }
bool M(kvm_use_dirty_bitmap)(struct kvm *kvm) { return true; }
void M(kvm_dirty_ring_free)(struct kvm_dirty_ring *r) { }
int M(kvm_vm_ioctl_check_extension)(struct kvm *kvm, long ext) { return 1; }
int M(kvm_async_pf_init)(void) { return 0; }
void M(vmx_vcpu_pi_load)(struct kvm_vcpu *vcpu, int cpu) { }
void M(vmx_vcpu_pi_put)(struct kvm_vcpu *vcpu) { }
void M(vmx_handle_nmi)(struct kvm_vcpu *vcpu) { }
int M(x86_virt_get_ref)(int feat) { return 0; }
void M(x86_virt_put_ref)(int feat) { }

/* A TD's page tables are always write-back (vmx_get_mt_mask() is for ordinary VMs). */
u8 M(vmx_get_mt_mask)(struct kvm_vcpu *vcpu, gfn_t gfn, bool is_mmio)
{
	return is_mmio ? 0 : 6 << VMX_EPT_MT_EPTE_SHIFT | VMX_EPT_IPAT_BIT;
}

void M(kvm_arch_vcpu_load)(struct kvm_vcpu *vcpu, int cpu)
{
	kvm_x86_ops.vcpu_load(vcpu, cpu);
	vcpu->cpu = cpu;
}

int M(kvm_arch_init_vm)(struct kvm *kvm, unsigned long type)
{
	int r;

	kvm->arch.vm_type = type;
	kvm->arch.irqchip_mode = KVM_IRQCHIP_SPLIT;
	kvm->arch.default_tsc_khz = 1000000;
	r = kvm_page_track_init(kvm);
	if (!r)
		r = kvm_mmu_init_vm(kvm);
	return r ?: kvm_x86_ops.vm_init(kvm);
}

int M(kvm_arch_vcpu_create)(struct kvm_vcpu *vcpu)
{
	int r;

	vcpu->arch.apic = kzalloc(sizeof(*vcpu->arch.apic), GFP_KERNEL);
	vcpu->arch.apic->vcpu = vcpu;
	vcpu->arch.guest_fpu.fpstate = kzalloc(sizeof(struct fpstate), GFP_KERNEL);
	memset(&vcpu->arch.regs_avail, 0xff, sizeof(vcpu->arch.regs_avail));
	vcpu->arch.maxphyaddr = 48;
	r = kvm_mmu_create(vcpu);
	if (!r)
		r = kvm_x86_ops.vcpu_create(vcpu);
	if (!r)
		kvm_init_mmu(vcpu);
	return r;
}

void M(kvm_arch_vcpu_destroy)(struct kvm_vcpu *vcpu)
{
	kvm_mmu_unload(vcpu);
	kvm_x86_ops.vcpu_free(vcpu);
	kvm_mmu_destroy(vcpu);
	kfree(vcpu->arch.apic);
}

void M(kvm_arch_pre_destroy_vm)(struct kvm *kvm)
{
	kvm_mmu_pre_destroy_vm(kvm);
	if (kvm_x86_ops.vm_pre_destroy)
		kvm_x86_ops.vm_pre_destroy(kvm);
}

void M(kvm_arch_destroy_vm)(struct kvm *kvm)
{
	kvm_destroy_vcpus(kvm);
	kvm_mmu_uninit_vm(kvm);
	kvm_page_track_cleanup(kvm);
	kvm_x86_ops.vm_destroy(kvm);
}

void *__vcalloc_noprof(size_t n, size_t size, gfp_t flags);

int M(kvm_arch_prepare_memory_region)(struct kvm *kvm, const struct kvm_memory_slot *old,
				   struct kvm_memory_slot *new, enum kvm_mr_change change)
{
	int i;

	if (change == KVM_MR_FLAGS_ONLY)
		memcpy(&new->arch, &old->arch, sizeof(old->arch));
	if (change != KVM_MR_CREATE)
		return 0;
	for (i = 1; i < KVM_NR_PAGE_SIZES; i++) {
		u64 first = new->base_gfn >> KVM_HPAGE_GFN_SHIFT(i + 1);
		u64 last = (new->base_gfn + new->npages - 1) >> KVM_HPAGE_GFN_SHIFT(i + 1);
		struct kvm_lpage_info *info = __vcalloc_noprof(last - first + 1, sizeof(*info), 0);

		new->arch.lpage_info[i - 1] = info;
		if (new->base_gfn & (KVM_PAGES_PER_HPAGE(i + 1) - 1))
			info[0].disallow_lpage = 1;
		if ((new->base_gfn + new->npages) & (KVM_PAGES_PER_HPAGE(i + 1) - 1))
			info[last - first].disallow_lpage = 1;
	}
	kvm_mmu_init_memslot_memory_attributes(kvm, new);
	return kvm_page_track_create_memslot(kvm, new, new->npages);
}

void M(kvm_arch_commit_memory_region)(struct kvm *kvm, struct kvm_memory_slot *old,
				   const struct kvm_memory_slot *new, enum kvm_mr_change change) { }
void M(kvm_arch_free_memslot)(struct kvm *kvm, struct kvm_memory_slot *slot) { }

long septum_vm_ioctl(struct kvm *kvm, unsigned int ioctl, unsigned long arg)
{
	if (ioctl == KVM_MEMORY_ENCRYPT_OP)
		return kvm_x86_ops.mem_enc_ioctl(kvm, (void __user *)arg);
	return -ENOTTY;
}
int M(kvm_arch_vm_ioctl)(struct file *f, unsigned int ioctl, unsigned long arg)
{
	return septum_vm_ioctl(f->private_data, ioctl, arg);
}
long M(kvm_arch_vcpu_ioctl)(struct file *f, unsigned int ioctl, unsigned long arg)
{
	struct kvm_vcpu *vcpu = f->private_data;

	if (ioctl != KVM_MEMORY_ENCRYPT_OP)
		return -ENOTTY;
	return kvm_x86_ops.vcpu_mem_enc_ioctl ?
		       kvm_x86_ops.vcpu_mem_enc_ioctl(vcpu, (void __user *)arg) : -ENOTTY;
}
long M(kvm_arch_vcpu_unlocked_ioctl)(struct file *f, unsigned int ioctl, unsigned long arg)
{
#ifdef SEPTUM_HAVE_UNLOCKED_IOCTL
	struct kvm_vcpu *vcpu = f->private_data;

	if (ioctl == KVM_MEMORY_ENCRYPT_OP && kvm_x86_ops.vcpu_mem_enc_unlocked_ioctl)
		return kvm_x86_ops.vcpu_mem_enc_unlocked_ioctl(vcpu, (void __user *)arg);
#endif
	return -ENOIOCTLCMD;
}

/* --- the vCPU loop -------------------------------------------------------------------------------- */

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

static int requests(struct kvm_vcpu *vcpu)
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
	int r = requests(vcpu);

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
	int r;

	vcpu_load(vcpu);
	septum_leave[vcpu->vcpu_id] = 0;
	kvm_vcpu_srcu_read_lock(vcpu);
	do {
		r = enter_guest(vcpu);
		if (r <= 0)
			break;
		septum_tell(SEPTUM_TELL_ROUND, vcpu->vcpu_id, 0);
	} while (!septum_leave[vcpu->vcpu_id]);
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

/* --- making a TD -------------------------------------------------------------------------------------- */

extern long kvm_dev_ioctl(struct file *f, unsigned int ioctl, unsigned long arg);
extern long kvm_vm_ioctl(struct file *f, unsigned int ioctl, unsigned long arg);
extern long kvm_vcpu_ioctl(struct file *f, unsigned int ioctl, unsigned long arg);
extern struct file *septum_file(int fd);
extern u64 septum_gmem_pfn;

struct kvm *septum_kvm;
struct kvm_vcpu *septum_vcpu[SEPTUM_CPUS];
static struct file *vm_file, *vcpu_file[SEPTUM_CPUS];
struct file *septum_gmem_file;
#define gmem_file septum_gmem_file
static void *septum_source;	/* what userspace fills private pages from */

/* hkid, the numbers of TDCS and TDVPS pages: septum.tdx's. */
long septum_module_init(u64 hkid, u64 tdcs_pages, u64 tdvps_pages)
{
	int r;

	septum_hkid = hkid;
	septum_sysinfo.td_ctrl.tdcs_base_size = tdcs_pages * PAGE_SIZE;
	septum_sysinfo.td_ctrl.tdvps_base_size = tdvps_pages * PAGE_SIZE;
#ifdef SEPTUM_HAVE_X86_MODULE_INIT
	kvm_mmu_x86_module_init();
#endif
	r = kvm_mmu_vendor_module_init();
	if (r)
		return r;
#ifdef SEPTUM_EPT_MASKS_2
	kvm_mmu_set_ept_masks(true, true);
#else
	kvm_mmu_set_ept_masks(true);
#endif
	kvm_configure_mmu(true, 0, 4, PG_LEVEL_1G);
	enable_tdx = true;
	set_bit(X86_FEATURE_OSXSAVE, (unsigned long *)boot_cpu_data.x86_capability);
	set_bit(X86_FEATURE_TDX_HOST_PLATFORM, (unsigned long *)boot_cpu_data.x86_capability);
	r = tdx_hardware_setup();
	if (r)
		return r;
	memcpy(&kvm_x86_ops, &vt_x86_ops, sizeof(kvm_x86_ops));
	return kvm_init(sizeof(struct vcpu_tdx), __alignof__(struct vcpu_tdx), NULL);
}

static long encrypt_op(struct file *f, bool vcpu, u32 id, u32 flags, void *data)
{
	struct kvm_tdx_cmd cmd = { .id = id, .flags = flags, .data = (u64)data };

	return (vcpu ? kvm_vcpu_ioctl : kvm_vm_ioctl)(f, KVM_MEMORY_ENCRYPT_OP, (u64)&cmd);
}

long septum_create_vm(u64 tsc)
{
	static struct {
		struct kvm_tdx_init_vm vm;
		struct kvm_cpuid_entry2 entry;
	} init;
	long fd = kvm_dev_ioctl(NULL, KVM_CREATE_VM, KVM_X86_TDX_VM);

	if (fd < 0)
		return fd;
	vm_file = septum_file(fd);
	septum_kvm = vm_file->private_data;
	init.vm.cpuid.nent = 1;
	init.vm.cpuid.entries[0].function = 0x80000008;
	init.vm.cpuid.entries[0].eax = 48 << 16;
	return encrypt_op(vm_file, false, KVM_TDX_INIT_VM, 0, &init);
}

long septum_create_vcpu(u64 id)
{
	long r, fd = kvm_vm_ioctl(vm_file, KVM_CREATE_VCPU, id);

	if (fd < 0)
		return fd;
	vcpu_file[id] = septum_file(fd);
	septum_vcpu[id] = vcpu_file[id]->private_data;
	r = encrypt_op(vcpu_file[id], true, KVM_TDX_INIT_VCPU, 0, NULL);
	if (r)
		return r;
	vcpu_load(septum_vcpu[id]);
	r = kvm_mmu_reload(septum_vcpu[id]);
	vcpu_put(septum_vcpu[id]);
	return r;
}

static long add_slot(u32 id, u64 gfn, u64 pages, long fd, u64 offset)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = id,
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = gfn << PAGE_SHIFT,
		.memory_size = pages << PAGE_SHIFT,
		.userspace_addr = 0x700000000000ul + (gfn << PAGE_SHIFT),
		.guest_memfd = fd,
		.guest_memfd_offset = offset << PAGE_SHIFT,
	};
	struct kvm_memory_attributes attr = {
		.address = gfn << PAGE_SHIFT,
		.size = pages << PAGE_SHIFT,
		.attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE,
	};
	long r = kvm_vm_ioctl(vm_file, KVM_SET_USER_MEMORY_REGION2, (u64)&region);

	return r ?: kvm_vm_ioctl(vm_file, KVM_SET_MEMORY_ATTRIBUTES, (u64)&attr);
}

/*
 * A guest_memfd slot from GFN 0, all of it private; and one page far away, whose mapping makes
 * the upper tables, so that a scenario written for small tables misses as many as it says.
 */
long septum_create_slot(u64 pages, u64 gmem_pfn, u64 far_gfn)
{
	struct kvm_create_guest_memfd create = { .size = (pages + 1) << PAGE_SHIFT };
	long fd, r;

	septum_source = septum_alloc(PAGE_SIZE, PAGE_SIZE);
	septum_gmem_pfn = gmem_pfn;
	fd = kvm_vm_ioctl(vm_file, KVM_CREATE_GUEST_MEMFD, (u64)&create);
	if (fd < 0)
		return fd;
	gmem_file = septum_file(fd);
	get_file(gmem_file);	/* a second descriptor, so that KVM's references commute */
	r = add_slot(0, 0, pages, fd, 0);
	return r || !far_gfn ? r : add_slot(1, far_gfn, 1, fd, pages);
}

/* --- operations of a scenario ------------------------------------------------------------------------ */

/* An EPT violation's handler: a private write fault, repeated while it says RETRY. */
long septum_op_fault(u64 id, u64 gfn)
{
	struct kvm_vcpu *vcpu = septum_vcpu[id];
	u64 code = PFERR_WRITE_MASK | PFERR_GUEST_FINAL_MASK | PFERR_PRIVATE_ACCESS;
	long r;

	kvm_vcpu_srcu_read_lock(vcpu);
	while ((r = kvm_mmu_page_fault(vcpu, gfn << PAGE_SHIFT, code, NULL, 0)) == RET_PF_RETRY) {
		struct kvm_memory_slot *slot;

		if (kvm_test_request(KVM_REQ_VM_DEAD, vcpu)) {
			r = -EIO;
			break;
		}
		slot = gfn_to_memslot(vcpu->kvm, gfn);
		if (slot && slot->flags & KVM_MEMSLOT_INVALID) {
			/* Leaves the loop, drops SRCU, and faults again. */
			kvm_vcpu_srcu_read_unlock(vcpu);
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

long septum_op_prefault(u64 id, u64 gfn)
{
	struct kvm_pre_fault_memory range = { .gpa = gfn << PAGE_SHIFT, .size = PAGE_SIZE };
	long r = kvm_vcpu_ioctl(vcpu_file[id], KVM_PRE_FAULT_MEMORY, (u64)&range);

	septum_tell(SEPTUM_TELL_REACHED,
		    (u64)(r < 0 ? "prefault was refused" : "prefault mapped or found the page"), 0);
	return r;
}

long septum_op_run_vcpu(u64 id)
{
	return kvm_vcpu_ioctl(vcpu_file[id], KVM_RUN, 0);
}

long septum_op_init_mem_region(u64 gfn)
{
	struct kvm_tdx_init_mem_region region = {
		.source_addr = (u64)septum_source, .gpa = gfn << PAGE_SHIFT, .nr_pages = 1,
	};

	return encrypt_op(vcpu_file[0], true, KVM_TDX_INIT_MEM_REGION, 0, &region);
}

long septum_op_finalize(void)
{
	return encrypt_op(vm_file, false, KVM_TDX_FINALIZE_VM, 0, NULL);
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
	return 0;
}

long septum_op_punch_hole(u64 start, u64 end)
{
	return gmem_file->f_op->fallocate(gmem_file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					  start << PAGE_SHIFT, (end - start) << PAGE_SHIFT);
}

long septum_op_release_gmem(void)
{
	septum_touch(&gmem_file->f_ref, 8, SEPTUM_ATOMIC);
	septum_tell(SEPTUM_TELL_LAST, (u64)&gmem_file->f_ref, 0);
	fput(gmem_file);
	fput(gmem_file);
	return 0;
}

long septum_op_set_attributes(u64 start, u64 end, u64 private)
{
	struct kvm_memory_attributes attr = {
		.address = start << PAGE_SHIFT,
		.size = (end - start) << PAGE_SHIFT,
		.attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};

	return kvm_vm_ioctl(vm_file, KVM_SET_MEMORY_ATTRIBUTES, (u64)&attr);
}

long septum_op_delete_slot(void)
{
	struct kvm_userspace_memory_region2 region = { .memory_size = 0 };

	return kvm_vm_ioctl(vm_file, KVM_SET_USER_MEMORY_REGION2, (u64)&region);
}

long septum_op_release_hkid(void)
{
	kvm_x86_ops.vm_pre_destroy(septum_kvm);
	return 0;
}

/* userspace closes everything: guest_memfd, vCPUs, the VM. */
long septum_op_destroy_vm(void)
{
	int i;

	if (file_ref_read(&gmem_file->f_ref))
		septum_op_release_gmem();
	for (i = 0; i < SEPTUM_CPUS; i++)
		if (vcpu_file[i])
			fput(vcpu_file[i]);
	fput(vm_file);
	return 0;
}

/* --- what the View reads -------------------------------------------------------------------------------- */

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
	FIELD(vcpu_tdx, vp.tdvpr_page),
	FIELD(kvm_tdx, wait_for_sept_zap),
	FIELD(kvm_tdx, state),
	FIELD(kvm_tdx, hkid),
	FIELD(kvm_tdx, td.tdr_page),
	FIELD(kvm_vcpu, mutex),
	FIELD(kvm_vcpu, mode),
	FIELD(kvm_vcpu, requests),
	FIELD(kvm_vcpu, cpu),
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
	{ "value.VP_ENTER", 0, 8 },
	{ NULL },
};

/* role bits are read through these, since unions of bit-fields have no offsets */
u64 septum_sp_level(struct kvm_mmu_page *sp) { return sp->role.level; }
u64 septum_sp_mirror(struct kvm_mmu_page *sp) { return is_mirror_sp(sp); }
u64 septum_sp_invalid(struct kvm_mmu_page *sp) { return sp->role.invalid; }
