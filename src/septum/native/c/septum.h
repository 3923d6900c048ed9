/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the runtime, the glue and the Python side of septum.native share.  No kernel header and
 * no libc header is needed; `septum.native.layout` mirrors the structures with ctypes.
 */
#ifndef SEPTUM_H
#define SEPTUM_H

typedef unsigned char septum_u8;
typedef unsigned int septum_u32;
typedef unsigned long septum_u64;

#define SEPTUM_TASKS 8 /* tasks of a scenario; one more runs when nobody explores */
#define SEPTUM_SEQUENTIAL SEPTUM_TASKS
#define SEPTUM_CPUS 8

/* What a task announces when it yields to the explorer (septum.native.driver). */
enum septum_kind {
	SEPTUM_NONE,
	SEPTUM_ACCESS,	/* addr, size, type: performed when resumed */
	SEPTUM_LOCK,	/* addr, type: 1 shared, 2 try; taken when resumed */
	SEPTUM_UNLOCK,	/* addr, type: 1 shared */
	SEPTUM_FREE,	/* addr, size: a block goes back; type 1: after a grace period */
	SEPTUM_WAIT,	/* until septum_ready() says so: addr */
	SEPTUM_RETRY,	/* an attempt failed, addr: its name */
	SEPTUM_SEAMCALL, /* arg: leaf, registers, 1 = saved_ret */
	SEPTUM_TELL,	/* arg[0] is a septum_tell; never a scheduling point */
	SEPTUM_CHOICE,	/* addr: name, arg[0]: number of options; result: the choice */
	SEPTUM_DONE,
	SEPTUM_DIED,	/* BUG, oops, or a function that nobody modelled; addr: why */
};

enum septum_tell {
	SEPTUM_TELL_FREED = 1,	/* arg[1]: PFN handed back to the host's allocator */
	SEPTUM_TELL_ROUND,	/* a round of vcpu_run() is over */
	SEPTUM_TELL_REACHED,	/* arg[1]: text, for must_occur */
	SEPTUM_TELL_FLUSH,	/* arg[1]: vCPU: its shared translations are gone */
	SEPTUM_TELL_KICKED,	/* arg[1]: CPU that got an IPI */
	SEPTUM_TELL_LAST,	/* arg[1]: a reference count that may reach zero from now on */
};

/* What Python does for the glue, announced like a SEAMCALL (septum.native.services); registers:
 * what is given, and what comes back. */
enum septum_service {
	SEPTUM_RUN = 0x5e00,	/* vCPU of an ordinary VM: until the VM exit: reason, GFN, error code */
	SEPTUM_WALK,		/* vCPU, GFN, kind: one access by the CPU: 1 if done, error code */
	SEPTUM_PML,		/* vCPU, n: the n-th GFN that its CPU logged; ~0: no more */
	SEPTUM_FLUSH,		/* vCPU: its direct translations are gone */
	SEPTUM_PROGRESS,	/* what the attempt so far saw does not count any more */
	SEPTUM_COMPLETED,	/* vCPU: the host has done what the guest wanted to */
	SEPTUM_HAPPENED,	/* enum septum_happened, numbers */
};

/* For monitors (septum.kvm.monitors). */
enum septum_happened {
	SEPTUM_HANDED_OVER,
	SEPTUM_DIRTY_TAKEN,	/* slot, mask of its pages */
	SEPTUM_DIRTY_ENABLED,	/* slot */
	SEPTUM_DIRTY_DISABLED,
	SEPTUM_WRITE_TRACKED,	/* GFN */
	SEPTUM_ZAPPED_FAST,
	SEPTUM_MMIO_EMULATED,	/* vCPU, GFN */
	SEPTUM_MMU_DESTROYED,
	SEPTUM_RCU_UNLOCKED,
	SEPTUM_TRACED,	/* kvm_tdp_mmu_spte_changed: GFN, level, old and new SPTE */
	SEPTUM_VM_DEAD,
};

/* Bits of an access (KCSAN's, linux/kcsan-checks.h; READ is 0). */
#define SEPTUM_WRITE 1
#define SEPTUM_RMW 2
#define SEPTUM_ATOMIC 4
#define SEPTUM_RCU 0x100

struct septum_event {
	septum_u32 kind, size;
	septum_u64 addr, pc, type;
	septum_u64 before, after; /* of the access performed last, valid if `performed` */
	septum_u64 performed;
	septum_u64 arg[4];
	septum_u64 result;
	septum_u64 fp; /* frame pointer-less: the stack pointer at the announcement */
};

enum septum_problem {
	SEPTUM_WARN = 1,
	SEPTUM_BUG,
	SEPTUM_OOPS,
	SEPTUM_UAF,
	SEPTUM_UNMODELLED,
	SEPTUM_LOCKDEP,
	SEPTUM_LOOP,
	SEPTUM_DOUBLE_FREE,
};

struct septum_found {
	septum_u64 what, pc, addr, task, text;
};

#define SEPTUM_FOUND_MAX 64

void septum_tell(septum_u64 what, septum_u64 a, septum_u64 b);
septum_u64 septum_choose(const char *name, septum_u64 options);
void septum_retry(const char *head);
septum_u64 septum_service(septum_u64 what, void *registers);
void septum_happened(septum_u64 what, septum_u64 a, septum_u64 b);
void septum_told(septum_u64 *registers); /* the same, whoever listens */
int septum_is_watched(septum_u64 entry);
void septum_problem(septum_u64 what, septum_u64 pc, septum_u64 addr, const char *text);
_Noreturn void septum_die(const char *why);
void septum_touch(void *word, septum_u64 size, septum_u64 type);
void septum_lock(void *lock, int shared);
int septum_trylock(void *lock, int shared);
void septum_unlock(void *lock, int shared);
int septum_holds(void *inside, int mode);
void septum_wait(int (*ready)(void *), void *arg, void *word);
void *septum_alloc(septum_u64 size, septum_u64 align);
void septum_free(void *block);
void septum_on_cpu(int cpu, void (*func)(void *), void *arg);
/* Accesses inside a step that septum_touch() announced, or to what nobody can reach yet: they
 * are not instrumented, so they are no points of their own. */
static inline septum_u64 septum_get(const void *word)
{
	septum_u64 value;

	asm volatile("movq (%1),%0" : "=r"(value) : "r"(word) : "memory");
	return value;
}
static inline void septum_set(void *word, septum_u64 value)
{
	asm volatile("movq %0,(%1)" : : "r"(value), "r"(word) : "memory");
}

int septum_cpu(void);
int septum_task(void);
extern int septum_exploring, septum_epilogue;
#endif
