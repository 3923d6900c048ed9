// SPDX-License-Identifier: GPL-2.0-only
/*
 * The runtime under compiled kernel code: tasks as coroutines, memory accesses as scheduling
 * points, blocks of memory that know whether they are freed, and snapshots by copying.
 *
 * An instrumented access calls one of the __tsan_*() functions before it happens.  If the word
 * is one that two tasks use (a "shared" granule, see below) the task *announces* the access and
 * switches to the main stack; the access is performed when it is resumed.  Nothing here may be
 * instrumented, and nothing here makes a system call.
 *
 * Which granules are shared is learned: every access marks its granule with the task, and a
 * granule that two tasks used, one of them for writing, is reported to the explorer, which
 * marks it and starts over.  When an exploration ends without a report, all the accesses that
 * can conflict were scheduling points.
 */
#include "septum.h"

typedef septum_u8 u8;
typedef septum_u32 u32;
typedef septum_u64 u64;

#define KEEP __attribute__((section(".septum_keep")))	/* not part of a snapshot */
#define ALIAS(name) __attribute__((alias(name)))

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

struct septum_config {
	u64 arena, arena_task, arena_size;	/* a piece per task, and all of it */
	u64 image, image_end;			/* what is watched of the image */
	u64 shadow_arena, shadow_image;		/* a u32 per granule */
	u64 shared_arena, shared_image;		/* a byte per granule */
	u64 stack, stack_size;			/* a stack per task */
	u64 cpu_stride;				/* distance of the per-CPU areas */
	u64 work_max;
	u64 dead_arena;				/* a u16 per granule: freed in which epoch */
};

KEEP struct septum_config septum_config;
KEEP struct septum_found septum_found[SEPTUM_FOUND_MAX];
KEEP u64 septum_found_count;
KEEP u64 septum_new_shared[256];
KEEP u64 septum_new_shared_count;
KEEP u32 septum_epoch;
KEEP int septum_exploring;
KEEP static u64 main_rsp;
KEEP int septum_current;
KEEP u64 septum_steps;

struct task septum_tasks[SEPTUM_TASKS + 1];
static struct lock_state locks[LOCKS_MAX];
KEEP struct block septum_blocks[BLOCKS_MAX];
u64 septum_blocks_used;
static u64 stamp;
u64 septum_rcu_word;

#define ME (&septum_tasks[septum_current])

/* --- coroutines -------------------------------------------------------------------------- */

void septum_switch(u64 *save, u64 to);
asm(".text\n.globl septum_switch\n.type septum_switch,@function\nseptum_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

static inline void set_gs(u64 base)
{
	asm volatile("wrgsbase %0" : : "r"(base));
}

KEEP int septum_has_fsgsbase;

static void enter_cpu(u64 cpu)
{
	if (septum_has_fsgsbase)
		set_gs(cpu * septum_config.cpu_stride);
}

static void yield(void)
{
	septum_switch(&ME->rsp, main_rsp);
}

static void announce(u32 kind, u64 addr, u32 size, u64 type, u64 pc)
{
	struct septum_event *ev = &ME->ev;

	ev->kind = kind;
	ev->addr = addr;
	ev->size = size;
	ev->type = type;
	ev->pc = pc;
	ev->fp = (u64)__builtin_frame_address(0);
	yield();
}

static void body(u64 (*fn)(u64, u64, u64, u64), u64 *args)
{
	ME->ev.result = fn(args[0], args[1], args[2], args[3]);
	for (;;)
		announce(SEPTUM_DONE, 0, 0, 0, 0);
}

void septum_body_thunk(void);
asm(".text\nseptum_body_thunk:\nmov %r12,%rdi\nmov %r13,%rsi\ncall septum_body\nud2\n");
void septum_body(void *fn, u64 *args)
{
	body((u64(*)(u64, u64, u64, u64))fn, args);
}

/* A fresh coroutine; its arguments lie at the top of its stack. */
void septum_spawn(u64 n, u64 cpu, u64 fn, u64 a, u64 b, u64 c, u64 d)
{
	struct task *t = &septum_tasks[n];
	u64 *top = (u64 *)(septum_config.stack + (n + 1) * septum_config.stack_size - 64);
	u64 *sp;

	top[0] = a, top[1] = b, top[2] = c, top[3] = d;
	sp = top - 8;
	sp[0] = 0;		/* r15 */
	sp[1] = 0;		/* r14 */
	sp[2] = (u64)top;	/* r13 */
	sp[3] = fn;		/* r12 */
	sp[4] = 0;		/* rbx */
	sp[5] = 0;		/* rbp */
	sp[6] = (u64)septum_body_thunk;
	sp[7] = 0;
	t->rsp = (u64)sp;
	t->ev.kind = SEPTUM_NONE;
	t->ev.performed = 0;
	t->cpu = cpu;
	t->rcu_depth = t->irq_off = 0;
	t->held_count = 0;
}

static u64 load(u64 addr, u32 size)
{
	switch (size) {
	case 1: return *(volatile u8 *)addr;
	case 2: return *(volatile unsigned short *)addr;
	case 4: return *(volatile u32 *)addr;
	default: return *(volatile u64 *)addr;
	}
}

/* Run a task to its next announcement; what it announces.  Called on the main stack. */
u64 septum_resume(u64 n)
{
	struct task *t = &septum_tasks[n];
	struct septum_event *ev = &t->ev;
	u64 addr = 0, size = 0;
	int old = septum_current;

	ev->performed = 0;
	if (ev->kind == SEPTUM_ACCESS) {
		addr = ev->addr;
		size = ev->size;
		ev->before = load(addr, size);
	}
	septum_current = (int)n;
	t->work = 0;
	septum_steps++;
	enter_cpu(t->cpu);
	septum_switch(&main_rsp, t->rsp);
	enter_cpu(0);
	septum_current = old;
	if (size) {
		ev->after = load(addr, size);
		ev->performed = 1;
	}
	return ev->kind;
}

/* --- problems ------------------------------------------------------------------------------ */

void septum_problem(u64 what, u64 pc, u64 addr, const char *text)
{
	u64 i = septum_found_count;

	if (i < SEPTUM_FOUND_MAX) {
		septum_found[i] = (struct septum_found){ what, pc, addr, (u64)septum_current,
							 (u64)text };
		septum_found_count = i + 1;
	}
}

_Noreturn void septum_die(const char *why)
{
	for (;;)
		announce(SEPTUM_DIED, (u64)why, 0, 0, (u64)__builtin_return_address(0));
}

_Noreturn void septum_unmodelled(const char *name, u64 pc)
{
	septum_problem(SEPTUM_UNMODELLED, pc, 0, name);
	septum_die(name);
}

void septum_tell(u64 what, u64 a, u64 b)
{
	struct septum_event *ev = &ME->ev;

	ev->arg[0] = what, ev->arg[1] = a, ev->arg[2] = b;
	announce(SEPTUM_TELL, 0, 0, 0, (u64)__builtin_return_address(0));
}

u64 septum_choose(const char *name, u64 options)
{
	if (!septum_exploring)
		return 0;
	ME->ev.arg[0] = options;
	announce(SEPTUM_CHOICE, (u64)name, 0, 0, (u64)__builtin_return_address(0));
	return ME->ev.result;
}

void septum_retry(const char *head)
{
	announce(SEPTUM_RETRY, (u64)head, 0, 0, (u64)__builtin_return_address(0));
}

void septum_cpu_relax(void)
{
	septum_retry("cpu_relax");
}

/* --- accesses ------------------------------------------------------------------------------ */

static struct block *block_of(u64 addr)
{
	/* Blocks of one arena lie in order of allocation: search from the newest. */
	u64 low = 0, high = septum_blocks_used;

	while (low < high) {
		u64 i = --high;
		struct block *b = &septum_blocks[i];

		if (addr - b->addr < b->size)
			return b;
	}
	return 0;
}

static void judge_freed(u64 addr, u64 pc)
{
	struct block *b = block_of(addr);

	if (!b || b->state == LIVE)
		return;
	if (b->state == GRACE && ME->rcu_depth && ME->rcu_stamp < b->stamp)
		return;
	septum_problem(SEPTUM_UAF, pc, addr,
		       b->state == FREED ? "freed memory" :
		       ME->rcu_depth ? "the reader section is younger than call_rcu()" :
				       "memory in an RCU grace period, without rcu_read_lock()");
}

static inline int mark(u32 *shadow, u64 write)
{
	u32 me = 1u << septum_current, s = *shadow, readers, writers;

	if (s >> 16 != (septum_epoch & 0xffff))
		s = septum_epoch << 16;
	s |= write ? me << 8 : me;
	*shadow = s;
	readers = s & 0xff;
	writers = s >> 8 & 0xff;
	readers |= writers;
	return writers && (readers & (readers - 1));
}

/* Marks the granule; returns whether it is shared. */
static inline int granule(u64 addr, u64 write)
{
	struct septum_config *c = &septum_config;
	u32 *shadow;
	u8 *shared;
	u64 g;

	g = (addr - c->arena) >> 3;
	if (addr - c->arena < c->arena_size) {
		shadow = (u32 *)c->shadow_arena + g;
		shared = (u8 *)c->shared_arena + g;
	} else if (addr - c->image < c->image_end - c->image) {
		g = (addr - c->image) >> 3;
		shadow = (u32 *)c->shadow_image + g;
		shared = (u8 *)c->shared_image + g;
	} else {
		return 0;
	}
	if (*shared)
		return 1;
	if (mark(shadow, write) && septum_new_shared_count < 256) {
		septum_new_shared[septum_new_shared_count++] = addr & ~7ul;
		*shared = 2; /* reported; a point from now on, which does no harm */
		return 1;
	}
	return 0;
}

static inline void hook(u64 addr, u32 size, u64 type, u64 pc)
{
	if (++ME->work > septum_config.work_max) {
		septum_problem(SEPTUM_LOOP, pc, addr, "no end, and no access that others influence");
		septum_die("endless loop");
	}
	if (addr - septum_config.arena < septum_config.arena_size &&
	    ((unsigned short *)septum_config.dead_arena)[(addr - septum_config.arena) >> 3] ==
		    (unsigned short)septum_epoch)
		judge_freed(addr, pc);
	if (!septum_exploring)
		return;
	if (granule(addr, type & (SEPTUM_WRITE | SEPTUM_RMW)))
		announce(SEPTUM_ACCESS, addr, size, type, pc);
}

void septum_touch(void *word, u64 size, u64 type)
{
	hook((u64)word, size, type, (u64)__builtin_return_address(0));
}

#define RET ((u64)__builtin_return_address(0))
#define TSAN(size)                                                                              \
	void __tsan_read##size(void *p) { hook((u64)p, size, 0, RET); }                         \
	void __tsan_write##size(void *p) { hook((u64)p, size, SEPTUM_WRITE, RET); }             \
	void __tsan_unaligned_read##size(void *p) { hook((u64)p, size, 0, RET); }               \
	void __tsan_unaligned_write##size(void *p) { hook((u64)p, size, SEPTUM_WRITE, RET); }   \
	void __tsan_volatile_read##size(void *p) { hook((u64)p, size, SEPTUM_ATOMIC, RET); }    \
	void __tsan_volatile_write##size(void *p)                                               \
	{                                                                                       \
		hook((u64)p, size, SEPTUM_ATOMIC | SEPTUM_WRITE, RET);                          \
	}                                                                                       \
	void __tsan_unaligned_volatile_read##size(void *p) { hook((u64)p, size, 4, RET); }      \
	void __tsan_unaligned_volatile_write##size(void *p) { hook((u64)p, size, 5, RET); }     \
	void __tsan_read_write##size(void *p) { hook((u64)p, size, SEPTUM_RMW, RET); }

TSAN(1)
TSAN(2)
TSAN(4)
TSAN(8)
void __tsan_read16(void *p) { hook((u64)p, 8, 0, RET); hook((u64)p + 8, 8, 0, RET); }
void __tsan_write16(void *p)
{
	hook((u64)p, 8, SEPTUM_WRITE, RET);
	hook((u64)p + 8, 8, SEPTUM_WRITE, RET);
}

static void range(u64 p, u64 n, u64 type, u64 pc)
{
	for (u64 at = p & ~7ul; at < p + n; at += 8)
		hook(at, 8, type, pc);
}

void __tsan_read_range(void *p, u64 n) { range((u64)p, n, 0, RET); }
void __tsan_write_range(void *p, u64 n) { range((u64)p, n, SEPTUM_WRITE, RET); }
void __tsan_func_entry(void *pc) { (void)pc; }
void __tsan_func_exit(void) { }
void __tsan_init(void) { }
void __tsan_atomic_signal_fence(int order) { (void)order; }

/* KCSAN's explicit checks: WRITE 1, COMPOUND 2, ATOMIC 4; assertions and scoped ones beyond. */
void __kcsan_check_access(const volatile void *p, u64 size, int type)
{
	if (type & ~7)
		return;
	hook((u64)p, size > 8 ? 8 : size,
	     type & 2 ? SEPTUM_RMW | SEPTUM_ATOMIC : (u64)(type & 5), RET);
}

/* gcc's atomics, as user code compiled with -fsanitize=thread calls them. */
#define ATOMIC(bits, type)                                                                      \
	type __tsan_atomic##bits##_load(const volatile type *p, int o)                          \
	{                                                                                       \
		hook((u64)p, bits / 8, SEPTUM_ATOMIC, RET);                                     \
		return *p;                                                                      \
	}                                                                                       \
	void __tsan_atomic##bits##_store(volatile type *p, type v, int o)                       \
	{                                                                                       \
		hook((u64)p, bits / 8, SEPTUM_ATOMIC | SEPTUM_WRITE, RET);                      \
		*p = v;                                                                         \
	}                                                                                       \
	type __tsan_atomic##bits##_exchange(volatile type *p, type v, int o)                    \
	{                                                                                       \
		hook((u64)p, bits / 8, SEPTUM_ATOMIC | SEPTUM_RMW, RET);                        \
		type old = *p;                                                                  \
		*p = v;                                                                         \
		return old;                                                                     \
	}                                                                                       \
	type __tsan_atomic##bits##_fetch_add(volatile type *p, type v, int o)                   \
	{                                                                                       \
		hook((u64)p, bits / 8, SEPTUM_ATOMIC | SEPTUM_RMW, RET);                        \
		type old = *p;                                                                  \
		*p = old + v;                                                                   \
		return old;                                                                     \
	}                                                                                       \
	type __tsan_atomic##bits##_fetch_sub(volatile type *p, type v, int o)                   \
	{                                                                                       \
		hook((u64)p, bits / 8, SEPTUM_ATOMIC | SEPTUM_RMW, RET);                        \
		type old = *p;                                                                  \
		*p = old - v;                                                                   \
		return old;                                                                     \
	}                                                                                       \
	int __tsan_atomic##bits##_compare_exchange_strong(volatile type *p, type *e, type v,    \
							  int o, int f)                         \
	{                                                                                       \
		hook((u64)p, bits / 8, SEPTUM_ATOMIC | SEPTUM_RMW, RET);                        \
		type old = *p;                                                                  \
		if (old != *e) {                                                                \
			*e = old;                                                               \
			return 0;                                                               \
		}                                                                               \
		*p = v;                                                                         \
		return 1;                                                                       \
	}

ATOMIC(32, u32)
ATOMIC(64, u64)

/* --- memory -------------------------------------------------------------------------------- */

void *memset(void *p, int c, u64 n)
{
	void *d = p;

	asm volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
	return p;
}

void *memcpy(void *to, const void *from, u64 n)
{
	void *d = to;

	asm volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n) : : "memory");
	return to;
}

void *memmove(void *to, const void *from, u64 n)
{
	u8 *d = to;
	const u8 *s = from;

	if (d <= s || d >= s + n)
		return memcpy(to, from, n);
	while (n--)
		d[n] = s[n];
	return to;
}

int memcmp(const void *a, const void *b, u64 n)
{
	const u8 *x = a, *y = b;

	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

u64 strlen(const char *s)
{
	u64 n = 0;

	while (s[n])
		n++;
	return n;
}

/* Fresh zeroed memory of the running task's arena; never handed out twice in an execution. */
void *septum_alloc(u64 size, u64 align)
{
	struct task *t = ME;
	u64 at = (t->bump + align - 1) & -align;
	u64 end = septum_config.arena + (septum_current + 1) * septum_config.arena_task;

	size = (size + 15) & ~15ul;
	if (at + size > end || septum_blocks_used == BLOCKS_MAX)
		septum_die("the task's memory is used up");
	t->bump = at + size;
	septum_blocks[septum_blocks_used++] = (struct block){ at, size, 0, LIVE, (u32)septum_current };
	return (void *)at;
}

KEEP static int in_rcu_callback;

static void retire(u64 addr, u64 pc)
{
	struct block *b = block_of(addr);

	if (!b)
		return;
	if (b->state != LIVE)
		septum_problem(SEPTUM_DOUBLE_FREE, pc, addr, "freed twice");
	if (septum_exploring && !in_rcu_callback) {
		int any = 0;

		for (u64 at = b->addr; at < b->addr + b->size; at += 8)
			any |= granule(at, 1);
		if (any)
			announce(SEPTUM_FREE, b->addr, (u32)b->size, 0, pc);
	}
	b->state = in_rcu_callback ? GRACE : FREED;
	b->stamp = stamp;
	for (u64 g = (b->addr - septum_config.arena) >> 3, n = b->size >> 3; n; n--, g++)
		((unsigned short *)septum_config.dead_arena)[g] = (unsigned short)septum_epoch;
}

void septum_free(void *block)
{
	if (block)
		retire((u64)block, RET);
}

/* --- RCU: grace periods are judged, not scheduled ------------------------------------------- */

void __rcu_read_lock(void)
{
	if (!ME->rcu_depth) {
		hook((u64)&septum_rcu_word, 8, SEPTUM_RCU, RET);
		ME->rcu_stamp = ++stamp;
	}
	ME->rcu_depth++;
}

void __rcu_read_unlock(void)
{
	if (!ME->rcu_depth)
		septum_problem(SEPTUM_LOCKDEP, RET, 0, "rcu_read_unlock() without rcu_read_lock()");
	else
		ME->rcu_depth--;
}

int septum_rcu_held(void)
{
	return ME->rcu_depth > 0;
}

struct callback_head {
	struct callback_head *next;
	void (*func)(struct callback_head *);
};

/*
 * The callback runs at once, so that what it frees is known; the freed memory keeps its
 * contents, and every later access to it is judged by when its reader section began.
 */
void call_rcu(struct callback_head *head, void (*func)(struct callback_head *))
{
	int exploring = septum_exploring;

	hook((u64)&septum_rcu_word, 8, SEPTUM_RCU | SEPTUM_WRITE, RET);
	++stamp;
	septum_exploring = 0;
	in_rcu_callback = 1;
	func(head);
	in_rcu_callback = 0;
	septum_exploring = exploring;
}

/* --- locks ---------------------------------------------------------------------------------- */

static struct lock_state *lock_state(u64 addr)
{
	u64 i = (addr >> 3) % LOCKS_MAX, n;

	for (n = 0; n < LOCKS_MAX; n++, i = (i + 1) % LOCKS_MAX) {
		if (locks[i].addr == addr)
			return &locks[i];
		if (!locks[i].addr) {
			locks[i].addr = addr;
			return &locks[i];
		}
	}
	septum_die("too many locks");
}

static int can_take(struct lock_state *l, int shared)
{
	return !l->writer && (shared || !l->readers);
}

/* Whether an announced lock operation or wait can go on.  Called on the main stack. */
u64 septum_can(u64 n)
{
	struct task *t = &septum_tasks[n];

	if (t->ev.kind == SEPTUM_LOCK)
		return can_take(lock_state(t->ev.addr), t->ev.type & 1);
	if (t->ev.kind == SEPTUM_WAIT)
		return t->ready(t->ready_arg);
	return 1;
}

static void take(struct lock_state *l, int shared)
{
	struct task *t = ME;

	if (shared) {
		l->readers++;
		l->by[septum_current]++;
	} else {
		l->writer = septum_current + 1;
	}
	if (t->held_count < HELD_MAX)
		t->held[t->held_count] = (struct held){ l->addr, (u32)shared, 0 };
	t->held_count++;
}

static void lock_at(u64 lock, int shared, u64 pc)
{
	struct lock_state *l = lock_state(lock);

	if (l->writer == (u32)septum_current + 1)
		septum_problem(SEPTUM_LOCKDEP, pc, lock, "possible recursive locking");
	if (septum_exploring ? granule(lock, 1) || !can_take(l, shared) : !can_take(l, shared))
		announce(SEPTUM_LOCK, lock, 8, (u64)shared, pc);
	take(l, shared);
}

void septum_lock(void *lock, int shared)
{
	lock_at((u64)lock, shared, RET);
}

int septum_trylock(void *lock, int shared)
{
	struct lock_state *l = lock_state((u64)lock);

	if (septum_exploring && granule((u64)lock, 1))
		announce(SEPTUM_LOCK, (u64)lock, 8, (u64)shared | 2, RET);
	if (!can_take(l, shared))
		return 0;
	take(l, shared);
	return 1;
}

static void unlock_at(u64 lock, int shared, u64 pc)
{
	struct lock_state *l = lock_state(lock);
	struct task *t = ME;
	u64 i;

	if (shared ? !l->by[septum_current] : l->writer != (u32)septum_current + 1) {
		septum_problem(SEPTUM_LOCKDEP, pc, lock, "unlock without the lock");
		return;
	}
	if (septum_exploring && granule(lock, 1))
		announce(SEPTUM_UNLOCK, lock, 8, (u64)shared, pc);
	if (shared) {
		l->readers--;
		l->by[septum_current]--;
	} else {
		l->writer = 0;
	}
	for (i = t->held_count; i-- > 0;)
		if (i < HELD_MAX && t->held[i].lock == lock && (int)t->held[i].shared == shared) {
			for (; i + 1 < t->held_count && i + 1 < HELD_MAX; i++)
				t->held[i] = t->held[i + 1];
			t->held_count--;
			break;
		}
}

void septum_unlock(void *lock, int shared)
{
	unlock_at((u64)lock, shared, RET);
}

/* lock_is_held_type() gets the lockdep map inside the lock: mode -1 any, 0 write, 1 read. */
int septum_holds(void *inside, int mode)
{
	struct task *t = ME;
	u64 i;

	for (i = 0; i < t->held_count && i < HELD_MAX; i++)
		if ((u64)inside - t->held[i].lock < 192 && (mode < 0 || (int)t->held[i].shared == mode))
			return 1;
	return 0;
}

/* For monitors: whether a task has a lock for writing. */
u64 septum_held_write(u64 n, u64 lock)
{
	return lock_state(lock)->writer == n + 1;
}

void septum_wait(int (*ready)(void *), void *arg, void *word)
{
	struct task *t = ME;

	t->ready = ready;
	t->ready_arg = arg;
	if (septum_exploring ? granule((u64)word, 0) || !ready(arg) : !ready(arg))
		announce(SEPTUM_WAIT, (u64)word, 8, 0, RET);
}

/* --- CPUs ------------------------------------------------------------------------------------ */

int septum_cpu(void)
{
	return (int)ME->cpu;
}

int septum_task(void)
{
	return septum_current;
}

/* An IPI's handler, run at once by the sender with the target's per-CPU data. */
void septum_on_cpu(int cpu, void (*func)(void *), void *arg)
{
	u64 old = ME->cpu;

	ME->cpu = (u64)cpu;
	enter_cpu((u64)cpu);
	func(arg);
	ME->cpu = old;
	enter_cpu(old);
}

/* --- SEAMCALL: the task yields, septum.tdx answers -------------------------------------------- */

static u64 seamcall(u64 leaf, u64 args, u64 variant, u64 pc)
{
	struct septum_event *ev = &ME->ev;

	ev->arg[0] = leaf, ev->arg[1] = args, ev->arg[2] = variant;
	announce(SEPTUM_SEAMCALL, 0, 0, 0, pc);
	return ev->result;
}

u64 __seamcall(u64 leaf, void *args) { return seamcall(leaf, (u64)args, 0, RET); }
u64 __seamcall_ret(u64 leaf, void *args) { return seamcall(leaf, (u64)args, 1, RET); }
u64 __seamcall_saved_ret(u64 leaf, void *args) { return seamcall(leaf, (u64)args, 2, RET); }

/* --- snapshots -------------------------------------------------------------------------------- */

struct septum_area {
	u64 addr, size, copy;
};

/* Both directions; `size` bytes each.  Called on the main stack with nobody running. */
void septum_copy(struct septum_area *areas, u64 count, u64 restore)
{
	for (u64 i = 0; i < count; i++)
		memcpy((void *)(restore ? areas[i].addr : areas[i].copy),
		       (void *)(restore ? areas[i].copy : areas[i].addr), areas[i].size);
}

/* What the tasks allocated in the execution that ends goes back to zero. */
void septum_clear_arenas(void)
{
	for (u64 n = 0; n < SEPTUM_TASKS; n++) {
		u64 start = septum_config.arena + n * septum_config.arena_task;

		if (septum_tasks[n].bump > start)
			memset((void *)start, 0, septum_tasks[n].bump - start);
		septum_tasks[n].bump = start;
	}
}

/* A new execution: what the last one marked is forgotten. */
void septum_begin(void)
{
	struct septum_config *c = &septum_config;

	if (!(++septum_epoch & 0xffff)) {
		memset((void *)c->dead_arena, 0, c->arena_size >> 2);
		memset((void *)c->shadow_arena, 0, c->arena_size >> 1);
		memset((void *)c->shadow_image, 0, (c->image_end - c->image) >> 1);
		septum_epoch++;
	}
	septum_found_count = 0;
}

/* FNV-1a over 8-byte words. */
u64 septum_hash(u64 addr, u64 size, u64 h)
{
	for (u64 at = addr; at + 8 <= addr + size; at += 8) {
		h ^= *(u64 *)at;
		h *= 0x100000001b3ul;
		h ^= h >> 29;
	}
	return h;
}

/* --- traps: WARN and BUG are invalid opcodes, and some instructions are privileged --------------- */

struct septum_bug {
	u64 pc, flags; /* BUGFLAG_WARNING is bit 0 */
};

KEEP struct septum_bug *septum_bugs_table;
KEEP u64 septum_bugs_count;

enum { REG_DI = 8, REG_DX = 12, REG_AX = 13, REG_SP = 15, REG_IP = 16, REG_FLAGS = 17 };

static void die_at(u64 *regs, const char *why)
{
	regs[REG_DI] = (u64)why;
	regs[REG_IP] = (u64)septum_die;
	regs[REG_SP] = septum_config.stack + (septum_current + 1) * septum_config.stack_size -
		       4096 - 8;
}

static int modrm_length(const u8 *at)
{
	int mod = at[0] >> 6, rm = at[0] & 7, length = 1;

	if (mod == 3)
		return length;
	if (rm == 4)
		length++;
	if (mod == 1)
		return length + 1;
	return length + (mod == 2 || (!mod && rm == 5) ? 4 : 0);
}

/* Length of a privileged or absent instruction that may be left out, else 0. */
static int skip(const u8 *at, u64 *regs)
{
	if (at[0] == 0xfa || at[0] == 0xfb) /* cli, sti */
		return 1;
	if (at[0] == 0x0f && at[1] == 0x30) /* wrmsr */
		return 2;
	if (at[0] == 0x0f && at[1] == 0x32) { /* rdmsr */
		regs[REG_AX] = regs[REG_DX] = 0;
		return 2;
	}
	if (at[0] == 0x0f && at[1] == 0x01 && at[2] >= 0xca) { /* clac, stac, xsetbv, wrpkru */
		if (at[2] == 0xee)
			regs[REG_AX] = regs[REG_DX] = 0;
		return 3;
	}
	/* invept, invvpid and movdir64b only change what is not modelled */
	if (at[0] == 0x66 && at[1] == 0x0f && at[2] == 0x38) {
		regs[REG_FLAGS] &= ~0x41ul;
		return 4 + modrm_length(at + 4);
	}
	if (at[0] == 0x66 && (at[1] & 0xf0) == 0x40 && at[2] == 0x0f && at[3] == 0x38) {
		regs[REG_FLAGS] &= ~0x41ul;
		return 5 + modrm_length(at + 5);
	}
	return 0;
}

static void bug_at(u64 *regs, u64 pc)
{
	for (u64 i = 0; i < septum_bugs_count; i++) {
		if (septum_bugs_table[i].pc != pc)
			continue;
		if (septum_bugs_table[i].flags & 1) {
			septum_problem(SEPTUM_WARN, pc, 0, 0);
			regs[REG_IP] += 2;
			return;
		}
		septum_problem(SEPTUM_BUG, pc, 0, 0);
		die_at(regs, "BUG()");
		return;
	}
	septum_problem(SEPTUM_OOPS, pc, 0, "invalid opcode");
	die_at(regs, "invalid opcode");
}

/* SIGILL, SIGSEGV, SIGBUS; siginfo's address at +16, the registers at +40 of the ucontext. */
KEEP int septum_trapped;

void septum_on_signal(int signal, void *info, void *context)
{
	u64 *regs = (u64 *)((char *)context + 40);
	u64 pc = regs[REG_IP];
	int length;

	if (pc - septum_config.image > septum_config.image_end - septum_config.image &&
	    pc - 0x60000000ul > 0x10000000ul) {
		/* Not ours: the interpreter itself crashed. */
		asm volatile("syscall" : : "a"(231), "D"(139) : "rcx", "r11", "memory");
	}
	septum_trapped++;
	if (signal == 4 && *(u8 *)pc == 0x0f && ((u8 *)pc)[1] == 0x0b) {
		bug_at(regs, pc);
		return;
	}
	if (signal == 4 && *(u8 *)pc == 0xd6) {
		bug_at(regs, pc);
		return;
	}
	if (*(u64 *)((char *)info + 16) != pc) {
		length = skip((const u8 *)pc, regs);
		if (length) {
			regs[REG_IP] += (u64)length;
			return;
		}
	} else if (signal == 4 && (length = skip((const u8 *)pc, regs))) {
		regs[REG_IP] += (u64)length;
		return;
	}
	septum_problem(SEPTUM_OOPS, pc, *(u64 *)((char *)info + 16),
		       signal == 4 ? "invalid opcode" : "bad address");
	die_at(regs, "oops");
}

/* WARN() with a text, newer kernels: called, not trapped. */
void septum_warn_trap(void)
{
	septum_problem(SEPTUM_WARN, RET, 0, 0);
}

void refcount_warn_saturate(void *r, int t)
{
	septum_problem(SEPTUM_WARN, RET, (u64)r, "refcount_t saturated, or increment from 0");
}

/* What septum.native.image needs to know of the structures above. */
KEEP u64 septum_task_size = sizeof(struct task);
KEEP u64 septum_bump_offset = __builtin_offsetof(struct task, bump);
