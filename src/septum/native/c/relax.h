/* SPDX-License-Identifier: GPL-2.0-only */
/* Put before everything in mmu.c and tdp_mmu.c: a spin is an announced wait, not a loop. */
#include <linux/processor.h>
extern void septum_cpu_relax(void);
#define cpu_relax() septum_cpu_relax()
