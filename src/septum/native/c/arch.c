// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the compiled files call of KVM's x86.c, lapic.c, cpuid.c and vmx.c, and of the host's TDX
 * code: making and ending a VM and its vCPUs, memslots; what is left out returns 0.
 */
#include "glue.h"

/* --- data -------------------------------------------------------------------------------------- */

struct kvm_x86_ops kvm_x86_ops;
extern struct kvm_x86_ops vt_x86_ops;
extern bool enable_tdx;
struct kvm_caps kvm_caps = {
	.supported_vm_types = ~0u,
	.supported_xcr0 = 3,
};
struct kvm_host_values kvm_host = { .xcr0 = 3 };
bool enable_apicv = true;
bool enable_ept = true, enable_ept_ad_bits = true;
struct tdx_sys_info septum_sysinfo = {
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
u32 septum_hkid;
int M(__wrap_tdx_guest_keyid_alloc)(void) { return septum_hkid; }
void M(__wrap_tdx_guest_keyid_free)(unsigned int keyid) { }
u32 M(__wrap_tdx_get_nr_guest_keyids)(void) { return 16; }
int M(__wrap_tdx_enable)(void) { return 0; } /* the module is initialised: septum.tdx's config */

int M(vmx_hardware_setup)(void) { return 0; }

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
bool M(e820__mapped_raw_any)(u64 s, u64 e, int t) { return true; }
bool M(kvm_can_do_async_pf)(struct kvm_vcpu *vcpu) { return false; }
/* struct kvm stays: monitors look at it, and an execution's memory is not used twice. */
u64 septum_destroyed;
void M(kvm_arch_free_vm)(struct kvm *kvm)
{
	septum_set(&septum_destroyed, 1);
	septum_tell(SEPTUM_TELL_REACHED, (u64)"the VM was destroyed", 0);
}
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
	kvm->arch.pre_fault_allowed = type == KVM_X86_DEFAULT_VM;
	r = kvm_page_track_init(kvm);
#ifdef SEPTUM_MMU_INIT_VM_FAILS
	if (!r)
		r = kvm_mmu_init_vm(kvm);
#else
	kvm_mmu_init_vm(kvm);
#endif
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
	septum_happened(SEPTUM_MMU_DESTROYED, 0, 0);
	kvm_x86_ops.vm_destroy(kvm);
}

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
