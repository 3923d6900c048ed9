// SPDX-License-Identifier: GPL-2.0-only
/* The engine's books: the log of an execution, objects by address, what attempts saw. */
#include "engine.h"

KEEP u64 septum_objects_used;
KEEP u32 septum_logged, septum_folded, septum_enabled, septum_runs;
KEEP u8 septum_said[1024];
KEEP u64 septum_texts[64], septum_texts_used;
KEEP u64 septum_lost[16], septum_lost_used;

/* --- the log ------------------------------------------------------------------------------------- */

s32 septum_now(void)
{
	return (s32)septum_logged - 1;
}

struct logged *septum_log_event(u32 task, u32 kind)
{
	struct logged *l = LOG(septum_logged), *before = l - 1;
	struct runner *r = &septum_runners[task];

	*l = (struct logged){ .task = task, .kind = kind, .enabled = septum_enabled,
			      .off = r->off, .index = r->count };
	if (septum_logged) {
		l->acc = before->acc + before->accs;
		l->wait = before->wait + before->waits;
	}
	septum_logged++;
	r->count++;
	return l;
}

void septum_access(u32 object, u32 kind)
{
	struct logged *l;

	if (!septum_logged)
		return;
	l = LOG(septum_logged - 1);
	((u32 *)septum_engine.acc)[l->acc + l->accs++] = object << 5 | kind;
}

void septum_reached(u32 text)
{
	septum_said[text] = 1;
}

void septum_reached_text(u64 addr)
{
	for (u64 n = 0; n < septum_texts_used; n++)
		if (septum_texts[n] == addr)
			return;
	if (septum_texts_used < 64)
		septum_texts[septum_texts_used++] = addr;
}

/* --- objects ---------------------------------------------------------------------------------------- */

static u64 granule_of(u64 addr)
{
	u64 structs = septum_config.arena + septum_config.arena_task * (SEPTUM_TASKS + 1);

	return addr >= structs && addr < septum_config.arena + septum_config.arena_size ?
		       addr & ~3ul : addr & ~7ul;
}

static struct bucket *bucket_of(u64 addr)
{
	struct bucket *b = (struct bucket *)septum_engine.buckets;
	u64 i = (addr >> 2) * 0x9e3779b97f4a7c15ul >> 48 & (BUCKETS - 1);

	while (b[i].addr && b[i].addr != addr)
		i = (i + 1) & (BUCKETS - 1);
	return &b[i];
}

/* Called by Python. */
void septum_name_object(u64 addr, u64 object)
{
	*bucket_of(addr) = (struct bucket){ addr, (u32)object, 0 };
}

/* The object that an address belongs to; 0: Python has not named it yet. */
u32 septum_object_at(u64 addr)
{
	struct bucket *b = bucket_of(granule_of(addr));

	return b->addr ? b->object : 0;
}

int septum_is_shared(u64 addr)
{
	struct septum_config *c = &septum_config;
	u8 s = 0;

	if (addr - c->arena < c->arena_size)
		s = ((u8 *)c->shared_arena)[(addr - c->arena) >> 3];
	else if (addr - c->image < c->image_end - c->image)
		s = ((u8 *)c->shared_image)[(addr - c->image) >> 3];
	return s == GRANULE_SHARED || s & GRANULE_WAS_BY || (s & (GRANULE_BY | GRANULE_NEW)) == GRANULE_BY;
}

/* --- what an attempt saw ------------------------------------------------------------------------------ */

struct blamed *septum_blame_of(struct runner *r, u32 object)
{
	for (u32 n = 0; n < r->blames; n++)
		if (r->blame[n].object == object)
			return &r->blame[n];
	return 0;
}

/* `keep`: an older entry stays. */
int septum_blamed(struct runner *r, u32 object, s32 at, int keep)
{
	struct blamed *b = septum_blame_of(r, object);

	if (b) {
		if (!keep)
			b->at = at;
		return 1;
	}
	if (r->blames == BLAME_MAX)
		return 0;
	r->blame[r->blames++] = (struct blamed){ object, at };
	return 1;
}

struct attempt *septum_attempt_of(struct runner *r, u64 addr)
{
	for (u32 n = 0; n < r->attempts; n++)
		if (r->attempt[n].addr == addr)
			return &r->attempt[n];
	if (r->attempts == ATTEMPT_MAX)
		return 0;
	r->attempt[r->attempts] = (struct attempt){ addr, 0, 0, 0, 0 };
	return &r->attempt[r->attempts++];
}

/* Driver._own_doing(): whether the task left a word other than its attempt found it. */
int septum_own_doing(struct runner *r)
{
	int changed = 0;

	for (u32 n = 0; n < r->attempts; n++) {
		struct attempt *a = &r->attempt[n];

		changed |= a->has == 3 && a->first != a->own;
	}
	r->attempts = 0;
	return changed;
}
