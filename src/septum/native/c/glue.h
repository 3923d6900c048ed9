/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of the glue share: KVM's headers, and what one of them offers to the others. */
#ifndef SEPTUM_GLUE_H
#define SEPTUM_GLUE_H

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

#ifdef SEPTUM_NX_BY_TYPE
#define septum_nx_list(kvm) (&(kvm)->arch.possible_nx_huge_pages[KVM_TDP_MMU].pages)
#define septum_untrack_nx(kvm, sp) untrack_possible_nx_huge_page(kvm, sp, KVM_TDP_MMU)
#else
#define septum_nx_list(kvm) (&(kvm)->arch.possible_nx_huge_pages)
#define septum_untrack_nx(kvm, sp) untrack_possible_nx_huge_page(kvm, sp)
#endif

#define SEPTUM_FILES 2	/* guest_memfd files of a scenario */
#define SEPTUM_HVA 0x20000000ul /* where userspace keeps guest memory: GFN 0's page; below PAGE_OFFSET */
#define SEPTUM_FAR_PAGE 0x60000	/* of that memory: the page of the slot far away */

/* arch.c */
extern struct tdx_sys_info septum_sysinfo;
extern u32 septum_hkid;

/* setup.c: the VM and its descriptors */
extern struct kvm *septum_kvm;
extern struct kvm_vcpu *septum_vcpu[SEPTUM_CPUS];
extern struct file *septum_vm_file, *septum_vcpu_file[SEPTUM_CPUS];
extern struct file *septum_gmem_file[SEPTUM_FILES];
extern void *septum_source;
long septum_encrypt_op(struct file *f, bool vcpu, u32 id, u32 flags, void *data);

/* kernel.c */
extern u64 septum_recovering[];

/* monitors.c */
void septum_switch_lines_on(void);

/* guest.c */
extern u64 septum_pml;
void septum_flush(struct kvm_vcpu *vcpu);
void septum_progress(void);
void septum_completed(struct kvm_vcpu *vcpu);
int septum_page_fault(struct kvm_vcpu *vcpu, u64 gpa, u64 code);

/* vcpu.c */
extern u8 septum_leave[SEPTUM_CPUS];
int septum_requests(struct kvm_vcpu *vcpu);

/* host.c */
u64 septum_host_pfn(u64 index);
long septum_host_page(u64 index);

/* slots.c */
void septum_know_slot(u64 id, u64 gfn, u64 pages, u64 page);

/* files.c */
extern u64 septum_gmem_pfn;
struct file *septum_file(int fd);

/* kvm_main.c */
long kvm_dev_ioctl(struct file *f, unsigned int ioctl, unsigned long arg);
long kvm_vm_ioctl(struct file *f, unsigned int ioctl, unsigned long arg);
long kvm_vcpu_ioctl(struct file *f, unsigned int ioctl, unsigned long arg);

#endif
