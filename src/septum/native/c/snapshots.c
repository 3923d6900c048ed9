// SPDX-License-Identifier: GPL-2.0-only
/* A state in the middle of an execution: kept, gone back to, and identified. */
#include "engine.h"
#include "states.h"

u64 septum_pages_size(void);
u8 *septum_pages_keep(u8 *to);
const u8 *septum_pages_back(const u8 *from, u64 pages);
extern struct block septum_blocks[];
extern u64 septum_blocks_used, septum_hot_used;
KEEP u32 septum_watched[8];	/* objects that answers blame as of an earlier point */
KEEP u64 septum_watched_used;

#define HEAD __builtin_offsetof(struct runner, blame)

static u64 stack_top(u32 task)
{
	return septum_config.stack + (task + 1) * septum_config.stack_size;
}

static u8 *put(u8 *to, const void *from, u64 size)
{
	memcpy(to, from, size);
	return to + ((size + 15) & ~15ul);
}

static const u8 *get(const u8 *from, void *to, u64 size)
{
	memcpy(to, from, size);
	return from + ((size + 15) & ~15ul);
}

/* An upper bound of the size of a snapshot. */
u64 septum_snapshot_size(void)
{
	return septum_pages_size() + septum_engine.tasks * (sizeof(struct runner) + septum_config.stack_size) +
	       septum_objects_used * 5 + 4096;
}

/* Keep the present state; where the snapshot ends. */
u8 *septum_keep(struct frame *f)
{
	u8 *at = f->snapshot;

	f->pages = septum_hot_used;
	f->objects = (u32)septum_objects_used;
	f->state = septum_state;
	at = septum_pages_keep(at);
	for (u32 t = 0; t < septum_engine.tasks; t++) {
		struct runner *r = &septum_runners[t];

		at = put(at, r, HEAD);
		at = put(at, r->blame, r->blames * sizeof(r->blame[0]));
		at = put(at, r->wait, r->waits * sizeof(r->wait[0]));
		at = put(at, r->attempt, r->attempts * sizeof(r->attempt[0]));
		if (r->where != AT_END)
			at = put(at, (void *)septum_tasks[t].rsp, stack_top(t) - septum_tasks[t].rsp);
	}
	at = put(at, septum_wseq, f->objects * sizeof(s32));
	return put(at, septum_dying, f->objects);
}

void septum_back(const struct frame *f)
{
	const u8 *at = septum_pages_back(f->snapshot, f->pages);
	u32 fresh = (u32)septum_objects_used - f->objects;

	for (u32 t = 0; t < septum_engine.tasks; t++) {
		struct runner *r = &septum_runners[t];

		at = get(at, r, HEAD);
		at = get(at, r->blame, r->blames * sizeof(r->blame[0]));
		at = get(at, r->wait, r->waits * sizeof(r->wait[0]));
		at = get(at, r->attempt, r->attempts * sizeof(r->attempt[0]));
		if (r->where != AT_END)
			at = get(at, (void *)septum_tasks[t].rsp, stack_top(t) - septum_tasks[t].rsp);
	}
	at = get(at, septum_wseq, f->objects * sizeof(s32));
	get(at, septum_dying, f->objects);
	memset(septum_wseq + f->objects, 0xff, fresh * sizeof(s32));
	memset(septum_dying + f->objects, 0, fresh);
	septum_state = f->state;
	septum_logged = f->logged;
	for (u32 t = 0; t < septum_engine.tasks; t++)
		if (septum_runners[t].where != AT_END)
			memset((void *)(septum_tasks[t].rsp - SCRUBBED), 0, SCRUBBED);
	septum_found_count = 0;
	septum_exploring = 1;
}

/* --- identity ------------------------------------------------------------------------------------- */

static u64 two(u64 a, u64 b)
{
	return septum_mix(septum_mix(0x5e97, a), b);
}

static int stale(const struct blamed *b)
{
	return b->at == -2 ? 2 : septum_wseq[b->object] > b->at;
}

/* What the engine keeps of a task; positions in the log only count as before or after. */
static u64 runner_hash(u32 task)
{
	struct runner *r = &septum_runners[task];
	u64 h = two(r->where | r->call << 8 | (u64)r->started << 40 | (u64)r->entered << 41,
		    r->where == AT_POINT || r->where == AT_AWAIT ? r->node : 0);
	u64 sum = 0;

	for (u32 n = 0; n < r->blames; n++)
		sum += two(r->blame[n].object, (u64)stale(&r->blame[n]) + 1);
	h = septum_mix(h, sum);
	if (r->where == AT_AWAIT || r->where == AT_C_AWAIT)
		for (u32 n = 0; n < r->waits; n++)
			sum += two(r->wait[n].object, (u64)stale(&r->wait[n]) + 5);
	for (u32 n = 0; n < r->attempts; n++) {
		struct attempt *a = &r->attempt[n];

		sum += septum_mix(two(a->addr, a->first), two(a->own, a->has));
	}
	if (r->where == AT_POINT || r->where == AT_AWAIT)
		for (u64 n = 0; n < septum_watched_used; n++)
			for (u32 k = 0; k < r->points; k++)
				if (septum_wseq[septum_watched[n]] > r->point_at[k])
					sum += two(n + 1, k + 0x100);
	return septum_mix(septum_mix(h, sum), r->has_seq ? r->seen_seq : 1ul << 40);
}

/* What the runtime keeps of a task. */
static u64 task_hash(u32 task)
{
	struct task *t = &septum_tasks[task];
	u64 h = two(t->bump, t->cpu << 32 | t->ipi_cpu), at, end = stack_top(task);

	h = septum_mix(h, t->rcu_depth << 32 | t->irq_off << 16 | t->held_count);
	for (u64 n = 0; n < t->held_count && n < HELD_MAX; n++)
		h = septum_mix(h, two(t->held[n].lock, t->held[n].shared));
	h = septum_mix(h, two(t->ev.kind, t->rsp));
	if (septum_runners[task].where == AT_C)
		h = septum_mix(h, septum_mix(two(t->ev.addr, t->ev.size), t->ev.type));
	if (t->ev.kind == SEPTUM_WAIT)
		h = septum_mix(h, two((u64)t->ready, (u64)t->ready_arg));
	for (at = t->rsp; at < end; at += 8)
		h = (h ^ *(u64 *)at) * 0x9fb21c651e98df25ul, h ^= h >> 32;
	return h;
}

/* Which freed blocks a task may still look at. */
static u64 grace_hash(const struct block *b, u64 at)
{
	u64 sum = two(at, b->state);

	for (u32 t = 0; t < septum_engine.tasks && b->state == GRACE; t++)
		if (septum_tasks[t].rcu_depth && septum_tasks[t].rcu_stamp < b->stamp)
			sum += two(at, t + 0x10);
	return sum;
}

/* Of a state in which all tasks have finished: memory, and what was given back. */
u64 septum_settled_hash(void)
{
	u64 sum = septum_memory_hash();

	for (u64 n = 0; n < septum_blocks_used; n++)
		if (septum_blocks[n].state != LIVE)
			sum += two(septum_blocks[n].addr, septum_blocks[n].state);
	return sum;
}

u64 septum_state_hash(void)
{
	u64 sum = septum_memory_hash() + septum_marks_hash() + two(septum_state, 0x57a7e), n;

	for (u32 t = 0; t < septum_engine.tasks; t++) {
		u64 h = runner_hash(t);

		if (septum_runners[t].where != AT_END)
			h = septum_mix(h, task_hash(t));
		sum += septum_mix(h, t + 1);
	}
	for (n = 0; n < septum_blocks_used; n++)
		if (septum_blocks[n].state != LIVE)
			sum += grace_hash(&septum_blocks[n], septum_blocks[n].addr);
	for (n = 0; n < septum_objects_used; n++)
		if (septum_dying[n])
			sum += two(n, 0xd1e);
	return sum ? sum : 1;
}
