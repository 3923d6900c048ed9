// SPDX-License-Identifier: GPL-2.0-only
/* Making a TD in its start state, through the ioctls of the kernel under test. */
#include <uapi/linux/kvm_para.h>
#include "glue.h"

struct kvm *septum_kvm;
struct kvm_vcpu *septum_vcpu[SEPTUM_CPUS];
struct file *septum_vm_file, *septum_vcpu_file[SEPTUM_CPUS];
struct file *septum_gmem_file[SEPTUM_FILES];
void *septum_source;	/* what userspace fills private pages from */

/* For septum_module_init(): what the host is, and how it is configured. */
enum { TDX = 1, AD_BITS = 2, PML = 4, NX = 8, EAGER_SPLIT = 16 };

extern bool eager_page_split;
long septum_set_nx(u64 on);

/* Every flush of KVM's own is known to the CPUs (septum.kvm.guest). */
static void flush_all(struct kvm_vcpu *vcpu)
{
	vt_x86_ops.flush_tlb_all(vcpu);
	septum_flush(vcpu);
}
static void flush_current(struct kvm_vcpu *vcpu)
{
	vt_x86_ops.flush_tlb_current(vcpu);
	septum_flush(vcpu);
}

static void set_ops(void)
{
	memcpy(&kvm_x86_ops, &vt_x86_ops, sizeof(kvm_x86_ops));
	kvm_x86_ops.vm_size = max_t(u32, kvm_x86_ops.vm_size, sizeof(struct kvm_tdx));
	kvm_x86_ops.flush_tlb_all = flush_all;
	kvm_x86_ops.flush_tlb_current = flush_current;
}

/* As vt_init() and kvm_x86_vendor_init(): hooks, kvm_x86_ops, and (versions that have it) the
 * bring-up of TDX, once kvm_x86_ops is final. */
static int hardware_setup(u64 host)
{
	static const int features[] = { X86_FEATURE_OSXSAVE, X86_FEATURE_TDX_HOST_PLATFORM,
					X86_FEATURE_MOVDIR64B, X86_FEATURE_SELFSNOOP };
	int i, r;

	enable_tdx = host & TDX;
	for (i = 0; enable_tdx && i < ARRAY_SIZE(features); i++)
		set_bit(features[i], (unsigned long *)boot_cpu_data.x86_capability);
	r = vt_init_ops.hardware_setup();
	if (r)
		return r;
	set_ops();
#ifdef SEPTUM_TDX_BRINGUP
	r = tdx_bringup();
	if (r)
		return r;
#endif
	return host & TDX && !enable_tdx ? -ENODEV : 0; /* KVM only prints why it disabled TDX */
}

/* hkid, the numbers of TDCS and TDVPS pages: septum.tdx's. */
long septum_module_init(u64 hkid, u64 tdcs_pages, u64 tdvps_pages, u64 host)
{
	int r;

	septum_hkid = hkid;
	septum_sysinfo.td_ctrl.tdcs_base_size = tdcs_pages * PAGE_SIZE;
	septum_sysinfo.td_ctrl.tdvps_base_size = tdvps_pages * PAGE_SIZE;
	enable_ept_ad_bits = host & AD_BITS;
	septum_pml = !!(host & PML);
#ifdef SEPTUM_HAVE_X86_MODULE_INIT
	kvm_mmu_x86_module_init();
#endif
	r = kvm_mmu_vendor_module_init();
	if (r)
		return r;
	kvm_host.maxphyaddr = 52; /* of hosts with TDX, key IDs included; it was this machine's */
	if (host & NX)
		septum_set_nx(1);
	eager_page_split = !!(host & EAGER_SPLIT);
#ifdef SEPTUM_EPT_MASKS_2
	kvm_mmu_set_ept_masks(enable_ept_ad_bits, true);
#else
	kvm_mmu_set_ept_masks(enable_ept_ad_bits);
#endif
	kvm_configure_mmu(true, 0, 4, PG_LEVEL_1G);
	r = hardware_setup(host);
	if (r)
		return r;
	septum_switch_lines_on();
	return kvm_init(sizeof(struct vcpu_tdx), __alignof__(struct vcpu_tdx), NULL);
}

long septum_encrypt_op(struct file *f, bool vcpu, u32 id, u32 flags, void *data)
{
	struct kvm_tdx_cmd cmd = { .id = id, .flags = flags, .data = (u64)data };

	return (vcpu ? kvm_vcpu_ioctl : kvm_vm_ioctl)(f, KVM_MEMORY_ENCRYPT_OP, (u64)&cmd);
}

/* log: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2; quirks that are off; tracking: GFNs may be tracked. */
long septum_create_vm(u64 td, u64 log, u64 quirks, u64 tracking)
{
	static struct {
		struct kvm_tdx_init_vm vm;
		struct kvm_cpuid_entry2 entry;
	} init;
	struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = { log } };
	long fd = kvm_dev_ioctl(NULL, KVM_CREATE_VM, td ? KVM_X86_TDX_VM : KVM_X86_DEFAULT_VM);

	if (fd < 0)
		return fd;
	septum_vm_file = septum_file(fd);
	septum_kvm = septum_vm_file->private_data;
	septum_kvm->arch.disabled_quirks |= quirks;
	septum_kvm->arch.shadow_root_allocated |= tracking; /* what write tracking looks at */
	if (is_nx_huge_page_enabled(septum_kvm))
		kvm_mmu_post_init_vm(septum_kvm);
	if (log && kvm_vm_ioctl(septum_vm_file, KVM_ENABLE_CAP, (u64)&cap))
		return -EINVAL;
	if (!td)
		return 0;
	septum_kvm->arch.hypercall_exit_enabled = BIT(KVM_HC_MAP_GPA_RANGE);
	init.vm.cpuid.nent = 1;
	init.vm.cpuid.entries[0].function = 0x80000008;
	init.vm.cpuid.entries[0].eax = 48 << 16;
	return septum_encrypt_op(septum_vm_file, false, KVM_TDX_INIT_VM, 0, &init);
}

long septum_create_vcpu(u64 id)
{
	long r, fd = kvm_vm_ioctl(septum_vm_file, KVM_CREATE_VCPU, id);

	if (fd < 0)
		return fd;
	septum_vcpu_file[id] = septum_file(fd);
	septum_vcpu[id] = septum_vcpu_file[id]->private_data;
	if (septum_kvm->arch.vm_type == KVM_X86_TDX_VM) {
		r = septum_encrypt_op(septum_vcpu_file[id], true, KVM_TDX_INIT_VCPU, 0, NULL);
		if (r)
			return r;
	}
	vcpu_load(septum_vcpu[id]);
	r = kvm_mmu_reload(septum_vcpu[id]);
	vcpu_put(septum_vcpu[id]);
	return r;
}

static int gmem_fd[SEPTUM_FILES];
static u64 gmem_pages[SEPTUM_FILES];

/* A guest_memfd of so many pages, and one more. */
long septum_create_gmem(u64 n, u64 pages, u64 gmem_pfn)
{
	struct kvm_create_guest_memfd create = { .size = (pages + 1) << PAGE_SHIFT };
	long fd = kvm_vm_ioctl(septum_vm_file, KVM_CREATE_GUEST_MEMFD, (u64)&create);

	if (fd < 0)
		return fd;
	if (!septum_source)
		septum_source = septum_alloc(PAGE_SIZE, PAGE_SIZE);
	septum_gmem_pfn = gmem_pfn;
	gmem_fd[n] = fd;
	gmem_pages[n] = pages;
	septum_gmem_file[n] = septum_file(fd);
	get_file(septum_gmem_file[n]);	/* a second descriptor, so that KVM's references commute */
	return 0;
}

static long add_slot(u64 id, u64 gfn, u64 pages, u64 file, u64 offset, u64 page)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = id,
		.flags = file < SEPTUM_FILES ? KVM_MEM_GUEST_MEMFD : 0,
		.guest_phys_addr = gfn << PAGE_SHIFT,
		.memory_size = pages << PAGE_SHIFT,
		.userspace_addr = SEPTUM_HVA + (page << PAGE_SHIFT),
	};
	struct kvm_memory_attributes attr = {
		.address = gfn << PAGE_SHIFT,
		.size = pages << PAGE_SHIFT,
		.attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE,
	};
	long r;

	if (file < SEPTUM_FILES) {
		region.guest_memfd = gmem_fd[file];
		region.guest_memfd_offset = offset << PAGE_SHIFT;
	}
	r = kvm_vm_ioctl(septum_vm_file, KVM_SET_USER_MEMORY_REGION2, (u64)&region);
	if (r || file >= SEPTUM_FILES)
		return r;
	return kvm_vm_ioctl(septum_vm_file, KVM_SET_MEMORY_ATTRIBUTES, (u64)&attr);
}

/* A memslot, all of it private if it has a file, which it maps at the page of its GFN. */
long septum_create_slot(u64 id, u64 gfn, u64 pages, u64 file)
{
	septum_know_slot(id, gfn, pages, gfn);
	return add_slot(id, gfn, pages, file, gfn, gfn);
}

/*
 * One page far away, whose mapping makes the upper tables, so that a scenario written for small
 * tables misses as many as it says.
 */
long septum_create_far(u64 id, u64 gfn, u64 file)
{
	u64 offset = file < SEPTUM_FILES ? gmem_pages[file] : 0;
	long r = septum_host_page(SEPTUM_FAR_PAGE);

	return r ?: add_slot(id, gfn, 1, file, offset, SEPTUM_FAR_PAGE);
}
