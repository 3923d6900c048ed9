// SPDX-License-Identifier: GPL-2.0-only
/* Memory: string functions, blocks that know whether they are freed, RCU. */
#include "runtime.h"

VOLATILE struct block septum_blocks[BLOCKS_MAX];
VOLATILE u64 septum_blocks_used;

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

/* It lies in a block that is one whole page. */
int septum_is_page(u64 addr)
{
	struct block *b = block_of(addr);

	return b && b->size == 4096 && !(b->addr & 4095);
}

void septum_judge_freed(u64 addr, u64 pc)
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

/*
 * Writes to a page, which may be a page table, are announced even if only one task uses it:
 * monitors judge them.  Only those of entries that a scenario can use: whoever walks or frees a
 * whole table touches 512 of them.
 */
KEEP u64 septum_watch[8];	/* a bit per entry; none: all of them */

int septum_is_watched(u64 entry)
{
	u64 any = 0;

	for (int i = 0; i < 8; i++)
		any |= septum_watch[i];
	return !any || septum_watch[entry / 64] >> entry % 64 & 1;
}

static void watch_writes(u64 page)
{
	u8 *shared = (u8 *)septum_config.shared_arena + ((page - septum_config.arena) >> 3);

	for (u64 i = 0; i < 512; i++)
		if ((!shared[i] || shared[i] & GRANULE_CANDIDATE) && septum_is_watched(i))
			shared[i] |= GRANULE_WATCHED;
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
	if (size == 4096)
		watch_writes(at);
	septum_blocks[septum_blocks_used++] = (struct block){ at, size, 0, LIVE, (u32)septum_current };
	return (void *)at;
}

KEEP static int in_rcu_callback, exploring_callback;

static void retire(u64 addr, u64 pc)
{
	struct block *b = block_of(addr);

	if (!b)
		return;
	if (b->state != LIVE)
		septum_problem(SEPTUM_DOUBLE_FREE, pc, addr, "freed twice");
	if (septum_exploring || exploring_callback) {
		int any = 0;

		for (u64 at = b->addr; at < b->addr + b->size; at += 8)
			any |= septum_granule(at, USE_FREE);
		if (any)
			septum_announce(SEPTUM_FREE, b->addr, (u32)b->size, (u64)in_rcu_callback, pc);
	}
	b->state = in_rcu_callback ? GRACE : FREED;
	b->stamp = septum_stamp;
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
		septum_hook((u64)&septum_rcu_word, 8, SEPTUM_RCU, RET);
		ME->rcu_stamp = ++septum_stamp;
	}
	ME->rcu_depth++;
}

void __rcu_read_unlock(void)
{
	if (!ME->rcu_depth)
		septum_problem(SEPTUM_LOCKDEP, RET, 0, "rcu_read_unlock() without rcu_read_lock()");
	else if (!--ME->rcu_depth && septum_exploring)
		septum_happened(SEPTUM_RCU_UNLOCKED, 0, 0);
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

	septum_hook((u64)&septum_rcu_word, 8, SEPTUM_RCU | SEPTUM_WRITE, RET);
	++septum_stamp;
	exploring_callback = exploring;
	septum_exploring = 0;
	in_rcu_callback = 1;
	func(head);
	in_rcu_callback = exploring_callback = 0;
	septum_exploring = exploring;
}

/* A new execution: what the last one marked is forgotten. */
void septum_begin(void)
{
	struct septum_config *c = &septum_config;

	if (!(++septum_epoch & 0xfff)) {
		memset((void *)c->dead_arena, 0, c->arena_size >> 2);
		memset((void *)c->shadow_arena, 0, c->arena_size >> 1);
		memset((void *)c->shadow_image, 0, (c->image_end - c->image) >> 1);
		septum_epoch++;
	}
	septum_found_count = septum_among_states = 0;
}
