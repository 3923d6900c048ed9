// SPDX-License-Identifier: GPL-2.0-only
/* Making a TD in its start state, through the ioctls of the kernel under test. */
#include "glue.h"

struct kvm *septum_kvm;
struct kvm_vcpu *septum_vcpu[SEPTUM_CPUS];
struct file *septum_vm_file, *septum_vcpu_file[SEPTUM_CPUS];
struct file *septum_gmem_file;
void *septum_source;	/* what userspace fills private pages from */

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

long septum_encrypt_op(struct file *f, bool vcpu, u32 id, u32 flags, void *data)
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
	septum_vm_file = septum_file(fd);
	septum_kvm = septum_vm_file->private_data;
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
	r = septum_encrypt_op(septum_vcpu_file[id], true, KVM_TDX_INIT_VCPU, 0, NULL);
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
	long r = kvm_vm_ioctl(septum_vm_file, KVM_SET_USER_MEMORY_REGION2, (u64)&region);

	return r ?: kvm_vm_ioctl(septum_vm_file, KVM_SET_MEMORY_ATTRIBUTES, (u64)&attr);
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
	fd = kvm_vm_ioctl(septum_vm_file, KVM_CREATE_GUEST_MEMFD, (u64)&create);
	if (fd < 0)
		return fd;
	septum_gmem_file = septum_file(fd);
	get_file(septum_gmem_file);	/* a second descriptor, so that KVM's references commute */
	r = add_slot(0, 0, pages, fd, 0);
	return r || !far_gfn ? r : add_slot(1, far_gfn, 1, fd, pages);
}
