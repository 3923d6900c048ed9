/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Just enough of the names that a generated selftest uses to let a compiler check its types
 * where there is no kernel tree.  Nothing here is linked or run.
 */
#ifndef STUB_KVM_UTIL_H
#define STUB_KVM_UTIL_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;
typedef u64 gpa_t;

#define PAGE_SHIFT 12
#define PAGE_SIZE (1ul << PAGE_SHIFT)
#define BIT(n) (1ul << (n))
#define __aligned(n) __attribute__((aligned(n)))
#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile __typeof__(x) *)&(x) = (v))

enum {
	KVM_MEMORY_ENCRYPT_OP, KVM_PRE_FAULT_MEMORY, KVM_CHECK_EXTENSION,
	KVM_CAP_USER_MEMORY, KVM_CAP_VM_TYPES, KVM_CAP_PRE_FAULT_MEMORY, KVM_CAP_SPLIT_IRQCHIP,
	KVM_X86_TDX_VM, KVM_MEM_GUEST_MEMFD, KVM_EXIT_IO,
	KVM_TDX_CAPABILITIES, KVM_TDX_INIT_VM, KVM_TDX_INIT_VCPU, KVM_TDX_INIT_MEM_REGION,
	KVM_TDX_FINALIZE_VM,
};

struct kvm_cpuid_entry2 {
	u32 function, index, flags, eax, ebx, ecx, edx;
};

struct kvm_cpuid2 {
	u32 nent, padding;
	struct kvm_cpuid_entry2 entries[];
};

struct kvm_tdx_cmd {
	u32 id, flags;
	u64 data, hw_error;
};

struct kvm_tdx_capabilities {
	u64 supported_attrs, supported_xfam;
	struct kvm_cpuid2 cpuid;
};

struct kvm_tdx_init_vm {
	u64 attributes, xfam;
	struct kvm_cpuid2 cpuid;
};

struct kvm_tdx_init_mem_region {
	u64 source_addr, gpa, nr_pages;
};

struct kvm_pre_fault_memory {
	u64 gpa, size, flags;
};

struct kvm_run {
	u32 exit_reason;
};

struct kvm_vm {
	int fd;
};

struct kvm_vcpu {
	int fd;
	struct kvm_vm *vm;
	struct kvm_run *run;
};

enum vm_mem_backing_src_type { VM_MEM_SRC_ANONYMOUS };

struct kvm_vm *vm_create_barebones_type(unsigned long type);
void vm_enable_cap(struct kvm_vm *vm, u32 cap, u64 arg0);
struct kvm_vcpu *__vm_vcpu_add(struct kvm_vm *vm, u32 vcpu_id);
void vm_mem_add(struct kvm_vm *vm, enum vm_mem_backing_src_type type, gpa_t gpa, u32 slot,
		u64 npages, u32 flags, int guest_memfd_fd, u64 guest_memfd_offset);
void vm_mem_set_private(struct kvm_vm *vm, gpa_t gpa, u64 size);
void vm_mem_set_shared(struct kvm_vm *vm, gpa_t gpa, u64 size);
void vm_mem_region_delete(struct kvm_vm *vm, u32 slot);
void vm_guest_mem_punch_hole(struct kvm_vm *vm, gpa_t gpa, u64 size);
void kvm_vm_free(struct kvm_vm *vm);
int _vcpu_run(struct kvm_vcpu *vcpu);
int __vm_ioctl(struct kvm_vm *vm, unsigned long cmd, void *arg);
int __vcpu_ioctl(struct kvm_vcpu *vcpu, unsigned long cmd, void *arg);
unsigned int kvm_check_cap(long cap);
bool kvm_has_cap(long cap);
void kvm_pthread_create(pthread_t *thread, const void *attr, void *(*fn)(void *), void *arg);
void kvm_pthread_join(pthread_t thread, void **ret);
void *kvm_mmap(size_t size, int prot, int flags, int fd);
void kvm_munmap(void *mem, size_t size);
void kvm_close(int fd);
void pin_self_to_cpu(int cpu);

#endif
