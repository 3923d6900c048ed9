/* SPDX-License-Identifier: GPL-2.0-only */
/* Put before everything in mmu.c and tdp_mmu.c: a spin is an announced wait, not a loop, whether a
 * reschedule is due is a choice, and an atomic AND is one step. */
#include <linux/atomic.h>
#include <linux/processor.h>
#include <linux/sched.h>
#include "vm_dead.h"
#undef pr_fmt /* theirs comes next */
extern void septum_cpu_relax(void);
extern bool septum_need_resched(void);
extern void septum_cond_resched(const char *function);
#define cond_resched() septum_cond_resched(__func__)
#define cpu_relax() septum_cpu_relax()
#define need_resched() septum_need_resched()
#define rwlock_needbreak(lock) false

/* The kernel's is a loop whose read is instrumented again, and its cmpxchg is not.  Nobody runs
 * between these two instructions. */
static __always_inline s64 septum_fetch_and(s64 mask, atomic64_t *v)
{
	s64 old;

	instrument_atomic_read_write(v, sizeof(*v));
	asm volatile("movq %1,%0\n\tlock andq %2,%1"
		     : "=&r"(old), "+m"(v->counter) : "r"(mask) : "memory");
	return old;
}
#define atomic64_fetch_and(mask, v) septum_fetch_and(mask, v)
