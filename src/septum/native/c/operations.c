// SPDX-License-Identifier: GPL-2.0-only
/* The operations of a scenario (septum.native.operations), one function each. */
#include "glue.h"

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
	long r = kvm_vcpu_ioctl(septum_vcpu_file[id], KVM_PRE_FAULT_MEMORY, (u64)&range);

	septum_tell(SEPTUM_TELL_REACHED,
		    (u64)(r < 0 ? "prefault was refused" : "prefault mapped or found the page"), 0);
	return r;
}

long septum_op_run_vcpu(u64 id)
{
	return kvm_vcpu_ioctl(septum_vcpu_file[id], KVM_RUN, 0);
}

long septum_op_init_mem_region(u64 gfn)
{
	struct kvm_tdx_init_mem_region region = {
		.source_addr = (u64)septum_source, .gpa = gfn << PAGE_SHIFT, .nr_pages = 1,
	};

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
	return 0;
}

long septum_op_punch_hole(u64 start, u64 end)
{
	return septum_gmem_file->f_op->fallocate(septum_gmem_file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					  start << PAGE_SHIFT, (end - start) << PAGE_SHIFT);
}

long septum_op_release_gmem(void)
{
	septum_touch(&septum_gmem_file->f_ref, 8, SEPTUM_ATOMIC);
	septum_tell(SEPTUM_TELL_LAST, (u64)&septum_gmem_file->f_ref, 0);
	fput(septum_gmem_file);
	fput(septum_gmem_file);
	return 0;
}

long septum_op_set_attributes(u64 start, u64 end, u64 private)
{
	struct kvm_memory_attributes attr = {
		.address = start << PAGE_SHIFT,
		.size = (end - start) << PAGE_SHIFT,
		.attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};

	return kvm_vm_ioctl(septum_vm_file, KVM_SET_MEMORY_ATTRIBUTES, (u64)&attr);
}

long septum_op_delete_slot(void)
{
	struct kvm_userspace_memory_region2 region = { .memory_size = 0 };

	return kvm_vm_ioctl(septum_vm_file, KVM_SET_USER_MEMORY_REGION2, (u64)&region);
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

	if (file_ref_read(&septum_gmem_file->f_ref))
		septum_op_release_gmem();
	for (i = 0; i < SEPTUM_CPUS; i++)
		if (septum_vcpu_file[i])
			fput(septum_vcpu_file[i]);
	fput(septum_vm_file);
	return 0;
}
