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

/* arch.c */
extern struct tdx_sys_info septum_sysinfo;
extern u32 septum_hkid;

/* setup.c: the VM and its descriptors */
extern struct kvm *septum_kvm;
extern struct kvm_vcpu *septum_vcpu[SEPTUM_CPUS];
extern struct file *septum_vm_file, *septum_vcpu_file[SEPTUM_CPUS], *septum_gmem_file;
extern void *septum_source;
long septum_encrypt_op(struct file *f, bool vcpu, u32 id, u32 flags, void *data);

/* files.c */
extern u64 septum_gmem_pfn;
struct file *septum_file(int fd);

/* kvm_main.c */
long kvm_dev_ioctl(struct file *f, unsigned int ioctl, unsigned long arg);
long kvm_vm_ioctl(struct file *f, unsigned int ioctl, unsigned long arg);
long kvm_vcpu_ioctl(struct file *f, unsigned int ioctl, unsigned long arg);

#endif
