/* SPDX-License-Identifier: GPL-2.0-only */
#include "kvm_util.h"

void cpu_relax(void);
const struct kvm_cpuid2 *kvm_get_supported_cpuid(void);
void vcpu_init_cpuid(struct kvm_vcpu *vcpu, const struct kvm_cpuid2 *cpuid);
