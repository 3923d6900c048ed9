/* SPDX-License-Identifier: GPL-2.0-only */
/* Put before everything in mmu.c and tdp_mmu.c: a spin is an announced wait, not a loop, and
 * whether a reschedule is due is a choice. */
#include <linux/processor.h>
#include <linux/sched.h>
#include "vm_dead.h"
#undef pr_fmt /* theirs comes next */
extern void septum_cpu_relax(void);
extern bool septum_need_resched(void);
#define cpu_relax() septum_cpu_relax()
#define need_resched() septum_need_resched()
#define rwlock_needbreak(lock) false
