/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of the runtime share with each other. */
#ifndef SEPTUM_RUNTIME_H
#define SEPTUM_RUNTIME_H

#include "septum.h"

typedef septum_u8 u8;
typedef septum_u32 u32;
typedef septum_u64 u64;

#define KEEP __attribute__((section(".septum_keep")))	/* not part of a snapshot */
#define VOLATILE __attribute__((section(".septum_volatile")))	/* ... of a state's identity */

enum { LIVE = 1, GRACE, FREED };

struct block {
	u64 addr, size, stamp;
	u32 state, task;
};

struct held {
	u64 lock;
	u32 shared, pad;
};

#define HELD_MAX 24
#define SCRUBBED 4096ul	/* bytes of dead stack that are cleared when states are compared */
#define BLOCKS_MAX 16384

struct task {
	u64 rsp;
	struct septum_event ev;
	u64 rcu_depth, rcu_stamp, irq_off;
	u64 held_count;
	struct held held[HELD_MAX];
	u64 cpu, ipi_cpu;
	u64 bump; /* next free byte of its arena */
	u64 work; /* hooks since it was resumed */
	u64 read_page; /* what its present step began to read */
	u64 percpu_preempt;
	int (*ready)(void *);
	void *ready_arg;
};

struct lock_state {
	u64 addr;
	u32 writer; /* task + 1 */
	u32 readers; /* total */
	u8 by[SEPTUM_TASKS + 1];
};

#define LOCKS_MAX 512
#define MARKS_SIZE 0x10000000ul /* from shadow_arena on: all that is noted of granules */

/* What is known of a granule (septum.native.image). */
enum {
	GRANULE_SHARED = 1,	/* all of its accesses are points */
	GRANULE_CANDIDATE = 8,	/* what tasks did to it is part of the state */
	GRANULE_BECOMES = 9,	/* ... when the explorer has started over */
	GRANULE_BY = 0x10,	/* + task: shared, and written by this task alone */
	GRANULE_WATCHED = 0x20,	/* not shared; entry of a table: its writes are points */
	GRANULE_PAGE = 0x30,	/* of a page that some read and others free: all that is done to it */
	GRANULE_PAGE_WRITTEN = 0x31, /* the same; it was written, which makes it shared from now on */
	/* Found to be shared (with GRANULE_BY: to be such a page's); + the only task that writes it, or many: */
	GRANULE_NEW = 0x80,
	GRANULE_MANY = 15,
	GRANULE_WAS_BY = 0x40,	/* ... until now + the only task that writes it, from now on many */
};
enum use { USE_READ, USE_WRITE, USE_FREE };

struct septum_config {
	u64 arena, arena_task, arena_size;	/* a piece per task, and all of it */
	u64 image, image_end;			/* what is watched of the image */
	u64 shadow_arena, shadow_image;		/* a u32 per granule */
	u64 shared_arena, shared_image;		/* a byte per granule */
	u64 path_arena, path_image;		/* a u32 per granule, of candidates: part of the state */
	u64 stack, stack_size;			/* a stack per task */
	u64 cpu_stride;				/* distance of the per-CPU areas */
	u64 work_max;
	u64 dead_arena;				/* a u16 per granule: freed in which epoch */
	u64 saved;				/* the start state's pages that were written since */
};

extern struct septum_config septum_config;
extern u32 septum_epoch;
extern u32 septum_among_states;
extern u64 septum_found_count;
extern int septum_current;
extern struct task septum_tasks[SEPTUM_TASKS + 1];
extern u64 septum_stamp;
extern u64 septum_rcu_word;

#define ME (&septum_tasks[septum_current])
#define RET ((u64)__builtin_return_address(0))

void septum_announce(u32 kind, u64 addr, u32 size, u64 type, u64 pc);
void septum_hook(u64 addr, u32 size, u64 type, u64 pc);
int septum_granule(u64 addr, enum use how);
void septum_enter_cpu(u64 cpu);
void septum_judge_freed(u64 addr, u64 pc);
int septum_warm(u64 addr);
u64 septum_mix(u64 h, u64 value);
u64 septum_memory_hash(void);
u64 septum_marks_hash(void);
void *memcpy(void *to, const void *from, u64 n);
void *memset(void *p, int c, u64 n);
struct lock_state *septum_lock_state(u64 addr);
int septum_can_take(struct lock_state *l, int shared);

void septum_alive(u64 addr, u64 pc);
u64 septum_is_lock(u64 addr);
int septum_is_page(u64 addr);
#endif
