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
 * granule that two tasks used, one of them for writing, is new; its accesses are as before until
 * the explorer makes the new ones points and starts over.  When an exploration ends without a
 * new one, all the accesses that can conflict were scheduling points.  A search over states
 * knows no executions: what is noted of a granule there is of all that it has run.  If two tasks
 * used one, it becomes a candidate, of which the marks are part of the state, and is shared
 * only if two tasks use it on the way to one state.  Of a granule that only one task writes, that task's own
 * reads conflict with nothing: they are no points, until another task is found to write it.
 */
#include "runtime.h"

KEEP struct septum_config septum_config;
KEEP struct septum_found septum_found[SEPTUM_FOUND_MAX];
KEEP u64 septum_found_count;
KEEP u64 septum_new_shared_count;
KEEP u32 septum_epoch;
KEEP u32 septum_among_states;	/* marks are of more than one execution */
KEEP int septum_exploring;
KEEP int septum_epilogue; /* nobody explores, but monitors are told what becomes of tables */
KEEP u32 septum_scrub;
KEEP static int running; /* a task runs; else instrumented code is called by the explorer */
KEEP static u64 main_rsp;
KEEP int septum_current;
KEEP u64 septum_steps;

VOLATILE struct task septum_tasks[SEPTUM_TASKS + 1];
VOLATILE u64 septum_stamp;
u64 septum_rcu_word;


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

void septum_enter_cpu(u64 cpu)
{
	if (septum_has_fsgsbase)
		set_gs(cpu * septum_config.cpu_stride);
}

static void yield(void)
{
	septum_switch(&ME->rsp, main_rsp);
}

void septum_announce(u32 kind, u64 addr, u32 size, u64 type, u64 pc)
{
	struct septum_event *ev = &ME->ev;

	ev->kind = kind;
	ev->addr = addr;
	ev->size = size;
	ev->type = type;
	ev->pc = pc;
	ev->fp = (u64)__builtin_frame_address(0);
	ME->read_page = 0;
	yield();
}

static void body(u64 (*fn)(u64, u64, u64, u64), u64 *args)
{
	ME->ev.result = fn(args[0], args[1], args[2], args[3]);
	for (;;)
		septum_announce(SEPTUM_DONE, 0, 0, 0, 0);
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
	septum_enter_cpu(t->cpu);
	running = 1;
	septum_switch(&main_rsp, t->rsp);
	running = 0;
	if (septum_scrub) /* so that what lies in new frames does not depend on old ones */
		memset((void *)(t->rsp - SCRUBBED), 0, SCRUBBED);
	septum_enter_cpu(0);
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
		septum_announce(SEPTUM_DIED, (u64)why, 0, 0, (u64)__builtin_return_address(0));
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
	septum_announce(SEPTUM_TELL, 0, 0, 0, (u64)__builtin_return_address(0));
}

u64 septum_choose(const char *name, u64 options)
{
	if (!septum_exploring)
		return 0;
	ME->ev.arg[0] = options;
	septum_announce(SEPTUM_CHOICE, (u64)name, 0, 0, (u64)__builtin_return_address(0));
	return ME->ev.result;
}

void septum_retry(const char *head)
{
	septum_announce(SEPTUM_RETRY, (u64)head, 0, 0, (u64)__builtin_return_address(0));
}

void septum_cpu_relax(void)
{
	septum_retry("cpu_relax");
}

/* --- accesses ------------------------------------------------------------------------------ */

/*
 * What tasks did to a granule: 8 bits who has read it, 8 who has written it, 4 who has freed it
 * (a task + 1), 12 of the execution's number.
 */
#define SEVERAL 15u
#define EPOCH (septum_epoch & 0xfff)

#define ONLY_FREED (1u << 31)

/*
 * Marks the granule; the tasks that change it, if two that use it do not commute; else 0.  Two
 * that free it do, as far as it is not used otherwise: either notices the other one.
 * ONLY_FREED: nobody has written it.
 */
static inline u32 mark(u32 *shadow, enum use how, u32 epoch)
{
	u32 me = 1u << septum_current, s = *shadow, freed, users, writers, freers;

	if (s >> 20 != epoch)
		s = epoch << 20;
	freed = s >> 16 & 15;
	if (how == USE_FREE) {
		freed = !freed || freed == (u32)septum_current + 1 ? (u32)septum_current + 1 : SEVERAL;
		s = (s & ~(15u << 16)) | freed << 16;
	} else {
		s |= how == USE_WRITE ? me << 8 : me;
	}
	if (s != *shadow)
		*shadow = s;
	writers = s >> 8 & 0xff;
	users = (s & 0xff) | writers;
	freers = freed == SEVERAL ? 0xff : 1u << freed >> 1;
	if (writers && users & (users - 1))
		return writers | freers;
	if (!freed || !(freed == SEVERAL ? users : users & ~freers))
		return 0;
	return writers ? writers | freers : freers | ONLY_FREED;
}

/* Nothing becomes a point, or a candidate, before the explorer starts over. */
static void found(u8 *shared, u32 now)
{
	*shared = (u8)now;
	septum_new_shared_count++;
}

/* What it will be: shared, by whom it is changed; or a page that is read, and freed. */
static u32 becomes(u64 addr, u32 writers)
{
	if (writers & ONLY_FREED) {
		if (septum_is_page(addr))
			return GRANULE_NEW | GRANULE_BY | GRANULE_MANY;
		writers &= ~ONLY_FREED;
	}
	return GRANULE_NEW | (writers & (writers - 1) ? GRANULE_MANY : (u32)__builtin_ctz(writers));
}

/*
 * A word of a page that others free, and nobody writes.  Whoever reads several one after the
 * other meets freed memory at one of them iff it does so where the page is freed before the first:
 * so only the first of a step is a point.
 */
static int point_of_page(u8 *shared, u64 addr, enum use how)
{
	if (how == USE_READ)
		return ME->read_page != (addr & -4096ul);
	if (how == USE_WRITE && *shared == GRANULE_PAGE)
		found(shared, GRANULE_PAGE_WRITTEN);
	return how == USE_FREE || septum_is_watched(addr >> 3 & 511);
}

static int point(u64 addr, u8 *shared, u32 *noted, u32 *on_the_way, enum use how)
{
	u32 s = *shared, low = s & 15, me = (u32)septum_current, writers;

	if (s == GRANULE_SHARED)
		return 1;
	if (s == GRANULE_PAGE || s == GRANULE_PAGE_WRITTEN)
		return point_of_page(shared, addr, how);
	if (s & GRANULE_WAS_BY || (s & (GRANULE_BY | GRANULE_NEW)) == GRANULE_BY) {
		if (low == me)
			return how != USE_READ;
		if (how != USE_READ && s & GRANULE_BY)
			found(shared, GRANULE_NEW | GRANULE_WAS_BY | low);
		return 1;
	}
	if (s & GRANULE_NEW) {
		if (how == USE_WRITE && s & GRANULE_BY)
			*shared = (u8)((s & ~GRANULE_BY) | GRANULE_MANY);
		else if (how != USE_READ && low != me)
			*shared |= GRANULE_MANY;
	} else if (low == GRANULE_CANDIDATE) {
		writers = mark(on_the_way, how, 0);
		if (writers)
			found(shared, (s & GRANULE_WATCHED) | becomes(addr, writers));
	} else if (low != GRANULE_BECOMES) {
		writers = mark(noted, how, EPOCH);
		if (writers && septum_among_states)
			found(shared, (s & GRANULE_WATCHED) | GRANULE_BECOMES);
		else if (writers)
			found(shared, (s & GRANULE_WATCHED) | becomes(addr, writers));
	}
	return how == USE_WRITE && s & GRANULE_WATCHED;
}

/* Marks the granule; returns whether the access is a point. */
int septum_granule(u64 addr, enum use how)
{
	struct septum_config *c = &septum_config;
	u64 g = (addr - c->arena) >> 3;

	if (addr - c->arena < c->arena_size)
		return point(addr, (u8 *)c->shared_arena + g, (u32 *)c->shadow_arena + g,
			     (u32 *)c->path_arena + g, how);
	g = (addr - c->image) >> 3;
	if (addr - c->image < c->image_end - c->image)
		return point(addr, (u8 *)c->shared_image + g, (u32 *)c->shadow_image + g,
			     (u32 *)c->path_image + g, how);
	return 0;
}

/* A word that Python writes for a task (the CPU's A and D bits). */
void septum_poke(u64 task, u64 addr, u64 value)
{
	int old = septum_current;

	if (septum_exploring && task < SEPTUM_TASKS) {
		septum_current = (int)task;
		septum_granule(addr, USE_WRITE);
		septum_current = old;
	}
	*(volatile u64 *)addr = value;
}

/* A word that Python reads for a task (monitors, the CPU's walks). */
u64 septum_peek(u64 task, u64 addr)
{
	int old = septum_current;

	if (septum_exploring && task < SEPTUM_TASKS) {
		septum_current = (int)task;
		septum_granule(addr, USE_READ);
		septum_current = old;
	}
	return *(volatile u64 *)addr;
}

KEEP u64 septum_constants[2]; /* addresses of what nobody writes, but lies beside what is written */

int septum_is_running(void) { return running; }

/* Judged when an access is performed: the memory may have been freed since its announcement. */
void septum_alive(u64 addr, u64 pc)
{
	if (addr - septum_config.arena < septum_config.arena_size &&
	    ((unsigned short *)septum_config.dead_arena)[(addr - septum_config.arena) >> 3] ==
		    (unsigned short)septum_epoch)
		septum_judge_freed(addr, pc);
}

/* An entry of a table that a scenario can use. */
static int is_entry(u64 addr)
{
	u64 at = addr - septum_config.arena;

	return at < septum_config.arena_size && ((u8 *)septum_config.shared_arena)[at >> 3] &&
	       septum_is_watched(addr >> 3 & 511);
}

void septum_hook(u64 addr, u32 size, u64 type, u64 pc)
{
	u64 writes = type & (SEPTUM_WRITE | SEPTUM_RMW);

	if (!running || addr == septum_constants[0] || addr == septum_constants[1])
		return;
	if (++ME->work > septum_config.work_max) {
		septum_problem(SEPTUM_LOOP, pc, addr, "no end, and no access that others influence");
		septum_die("endless loop");
	}
	if (septum_exploring ? septum_granule(addr, writes ? USE_WRITE : USE_READ) :
			       septum_epilogue && writes && is_entry(addr)) {
		septum_announce(SEPTUM_ACCESS, addr, size, type, pc);
		ME->read_page = writes ? 0 : addr & -4096ul;
	}
	septum_alive(addr, pc);
}

void septum_touch(void *word, u64 size, u64 type)
{
	septum_hook((u64)word, size, type, (u64)__builtin_return_address(0));
}

#define TSAN(size)                                                                              \
	void __tsan_read##size(void *p) { septum_hook((u64)p, size, 0, RET); }                         \
	void __tsan_write##size(void *p) { septum_hook((u64)p, size, SEPTUM_WRITE, RET); }             \
	void __tsan_unaligned_read##size(void *p) { septum_hook((u64)p, size, 0, RET); }               \
	void __tsan_unaligned_write##size(void *p) { septum_hook((u64)p, size, SEPTUM_WRITE, RET); }   \
	void __tsan_volatile_read##size(void *p) { septum_hook((u64)p, size, SEPTUM_ATOMIC, RET); }    \
	void __tsan_volatile_write##size(void *p)                                               \
	{                                                                                       \
		septum_hook((u64)p, size, SEPTUM_ATOMIC | SEPTUM_WRITE, RET);                          \
	}                                                                                       \
	void __tsan_unaligned_volatile_read##size(void *p) { septum_hook((u64)p, size, 4, RET); }      \
	void __tsan_unaligned_volatile_write##size(void *p) { septum_hook((u64)p, size, 5, RET); }     \
	void __tsan_read_write##size(void *p) { septum_hook((u64)p, size, SEPTUM_RMW, RET); }

TSAN(1)
TSAN(2)
TSAN(4)
TSAN(8)
void __tsan_read16(void *p) { septum_hook((u64)p, 8, 0, RET); septum_hook((u64)p + 8, 8, 0, RET); }
void __tsan_write16(void *p)
{
	septum_hook((u64)p, 8, SEPTUM_WRITE, RET);
	septum_hook((u64)p + 8, 8, SEPTUM_WRITE, RET);
}

static void range(u64 p, u64 n, u64 type, u64 pc)
{
	for (u64 at = p & ~7ul; at < p + n; at += 8)
		septum_hook(at, 8, type, pc);
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
	septum_hook((u64)p, size > 8 ? 8 : size,
	     type & 2 ? SEPTUM_RMW | SEPTUM_ATOMIC : (u64)(type & 5), RET);
}

/* gcc's atomics, as user code compiled with -fsanitize=thread calls them. */
#define ATOMIC(bits, type)                                                                      \
	type __tsan_atomic##bits##_load(const volatile type *p, int o)                          \
	{                                                                                       \
		septum_hook((u64)p, bits / 8, SEPTUM_ATOMIC, RET);                                     \
		return *p;                                                                      \
	}                                                                                       \
	void __tsan_atomic##bits##_store(volatile type *p, type v, int o)                       \
	{                                                                                       \
		septum_hook((u64)p, bits / 8, SEPTUM_ATOMIC | SEPTUM_WRITE, RET);                      \
		*p = v;                                                                         \
	}                                                                                       \
	type __tsan_atomic##bits##_exchange(volatile type *p, type v, int o)                    \
	{                                                                                       \
		septum_hook((u64)p, bits / 8, SEPTUM_ATOMIC | SEPTUM_RMW, RET);                        \
		type old = *p;                                                                  \
		*p = v;                                                                         \
		return old;                                                                     \
	}                                                                                       \
	type __tsan_atomic##bits##_fetch_add(volatile type *p, type v, int o)                   \
	{                                                                                       \
		septum_hook((u64)p, bits / 8, SEPTUM_ATOMIC | SEPTUM_RMW, RET);                        \
		type old = *p;                                                                  \
		*p = old + v;                                                                   \
		return old;                                                                     \
	}                                                                                       \
	type __tsan_atomic##bits##_fetch_sub(volatile type *p, type v, int o)                   \
	{                                                                                       \
		septum_hook((u64)p, bits / 8, SEPTUM_ATOMIC | SEPTUM_RMW, RET);                        \
		type old = *p;                                                                  \
		*p = old - v;                                                                   \
		return old;                                                                     \
	}                                                                                       \
	int __tsan_atomic##bits##_compare_exchange_strong(volatile type *p, type *e, type v,    \
							  int o, int f)                         \
	{                                                                                       \
		septum_hook((u64)p, bits / 8, SEPTUM_ATOMIC | SEPTUM_RMW, RET);                        \
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
	septum_enter_cpu((u64)cpu);
	func(arg);
	ME->cpu = old;
	septum_enter_cpu(old);
}

/* --- SEAMCALL: the task yields, septum.tdx answers -------------------------------------------- */

static u64 seamcall(u64 leaf, u64 args, u64 variant, u64 pc)
{
	struct septum_event *ev = &ME->ev;

	ev->arg[0] = leaf, ev->arg[1] = args, ev->arg[2] = variant;
	septum_announce(SEPTUM_SEAMCALL, 0, 0, 0, pc);
	return ev->result;
}

u64 __seamcall(u64 leaf, void *args) { return seamcall(leaf, (u64)args, 0, RET); }
u64 __seamcall_ret(u64 leaf, void *args) { return seamcall(leaf, (u64)args, 1, RET); }
u64 __seamcall_saved_ret(u64 leaf, void *args) { return seamcall(leaf, (u64)args, 2, RET); }

/* What Python does for the glue takes the same way. */
u64 septum_service(u64 what, void *registers)
{
	return seamcall(what, (u64)registers, 1, RET);
}

KEEP u64 septum_tells_monitors; /* set if any of them listens to these */

void septum_told(u64 *registers)
{
	if (running)
		seamcall(SEPTUM_HAPPENED, (u64)registers, 0, RET);
}

void septum_happened(u64 what, u64 a, u64 b)
{
	u64 registers[8] = { what, a, b };

	if (septum_tells_monitors)
		septum_told(registers);
}

/* What septum.native.image needs to know of the structures above. */
KEEP u64 septum_task_size = sizeof(struct task);
KEEP u64 septum_cpu_offset = __builtin_offsetof(struct task, cpu);
KEEP u64 septum_bump_offset = __builtin_offsetof(struct task, bump);
