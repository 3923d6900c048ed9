/* SPDX-License-Identifier: GPL-2.0-only */
/* Put before everything in the files that may declare a VM dead: monitors learn that
 * kvm_vm_dead() has returned, which is inlined. */
#include <linux/kvm_host.h>
extern void septum_vm_dead(void);
#define kvm_vm_dead(kvm) ({ kvm_vm_dead(kvm); septum_vm_dead(); })
#define kvm_vm_bugged(kvm) ({ kvm_vm_bugged(kvm); septum_vm_dead(); })
