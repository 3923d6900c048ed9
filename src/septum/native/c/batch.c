// SPDX-License-Identifier: GPL-2.0-only
/*
 * One call, one execution: decisions go in, the log comes out.  Scheduling beyond the decisions
 * is `Machine._schedule()`'s: stay with the running task, leave out what sleeps.
 */
#include "engine.h"

KEEP static u32 mask_of[OBJECTS_MAX];	/* footprint of the last step */
KEEP static u64 stamp_of[OBJECTS_MAX], stamp;
KEEP static u32 previous[LOG_MAX];	/* decisions of the last execution */
KEEP static u32 previous_used;

void septum_restore(void);
void septum_begin(void);

KEEP static struct request *asked;
KEEP u32 septum_stateful;	/* choices are the search's over states */

/* The option of a choice; 0: the decisions name one that there is not. */
int septum_chosen(u64 name, u64 options, u32 *choice)
{
	u32 task = septum_runs, at = septum_logged;
	struct logged *l;

	*choice = 0;
	if (septum_stateful && !septum_chosen_here(options, choice))
		return 0;
	if (asked && at < asked->decisions)
		*choice = (((u32 *)asked->decision)[at] & ~IF_ASKED) >> 8;
	if (*choice >= options) {
		septum_why = WHY_LIMIT;
		return 0;
	}
	l = septum_log_event(task, LOG_CHOICE);
	l->choice = *choice;
	l->options = (u32)options;
	l->before = name;
	l->enabled = 0;
	return 1;
}

/* Machine._last_step(): the last step with its choices. */
static void mark_last_step(void)
{
	u32 n = septum_logged;
	const u32 *acc = (const u32 *)septum_engine.acc;

	stamp++;
	while (n > 0) {
		struct logged *l = LOG(--n);

		for (u32 i = l->acc; i < l->acc + l->accs; i++) {
			u32 object = acc[i] >> 5;

			if (stamp_of[object] != stamp)
				stamp_of[object] = stamp, mask_of[object] = 0;
			mask_of[object] |= 1u << (acc[i] & 31);
		}
		if (l->kind != LOG_CHOICE)
			break;
	}
}

static u32 conflicts(u32 mask)
{
	u32 out = 0;

	for (; mask; mask &= mask - 1)
		out |= ((u32 *)septum_engine.conflicts)[__builtin_ctz(mask)];
	return out;
}

/* Whether a footprint does not commute with the marked step. */
static int clashes(struct foot *f)
{
	u64 *entry = (u64 *)f->entries;

	for (u32 n = 0; n < f->size; n++) {
		u32 object = (u32)(entry[n] >> 32);

		if (stamp_of[object] == stamp && conflicts((u32)entry[n]) & mask_of[object])
			return 1;
	}
	return 0;
}

static u32 can_run(u32 *waiting)
{
	u32 mask = 0;

	*waiting = 0;
	for (u32 t = 0; t < septum_engine.tasks; t++) {
		struct runner *r = &septum_runners[t];

		if (r->where == AT_END)
			continue;
		if (septum_can_run(t))
			mask |= 1u << t;
		else
			r->off = (s32)septum_logged, *waiting = 1;
	}
	return mask;
}

static u32 remember(struct request *q)
{
	u32 known = 0, n;

	for (n = 0; n < septum_logged; n++) {
		u32 now = LOG(n)->task | LOG(n)->choice << 8;

		if (known == n && n < previous_used && n < q->decisions && previous[n] == now)
			known = n + 1;
		previous[n] = now;
	}
	previous_used = septum_logged;
	return known;
}

/* Python ran an execution meanwhile. */
void septum_forget_last(void)
{
	previous_used = 0;
}

static int schedule(struct request *q)
{
	struct foot *sleep = (struct foot *)q->sleep, *covered = (struct foot *)q->covered;
	u32 waiting, current = 0, chosen, judge = q->covereds, result;

	for (;;) {
		u32 at = septum_logged, mask;

		septum_enabled = mask = can_run(&waiting);
		if (at < q->decisions && ((u32 *)q->decision)[at] & IF_ASKED)
			q->decisions = at;	/* nobody asked for that option */
		if (at < q->decisions) {
			chosen = ((u32 *)q->decision)[at] & 0xff;
			if (!(mask >> chosen & 1))
				return RUN_DIVERGED;
		} else {
			if (judge || q->sleeps)
				mark_last_step();
			for (u32 n = 0; n < judge; n++)
				if (!clashes(&covered[n]))
					return RUN_COVERED;
			judge = 0;
			if (!mask)
				return waiting ? RUN_BLOCKED : RUN_COMPLETE;
			if (at >= q->steps) {
				septum_why = WHY_LIMIT;
				return RUN_ASK;
			}
			for (u32 n = q->sleeps; n-- > 0;)
				if (clashes(&sleep[n]))
					sleep[n] = sleep[--q->sleeps];
			for (u32 n = 0; n < q->sleeps; n++)
				mask &= ~(1u << sleep[n].task);
			if (!mask) {
				septum_why = WHY_LIMIT;
				return RUN_ASK; /* held */
			}
			chosen = mask >> current & 1 ? current : (u32)__builtin_ctz(mask);
		}
		current = chosen;
		if (septum_logged > LOG_MAX - LOG_ROOM) {
			septum_why = WHY_FULL;
			return RUN_ASK;
		}
		result = septum_advance(chosen);
		if (result != RUN_ON)
			return result;
	}
}

u64 septum_execute(struct request *q)
{
	int result;

	septum_restore();
	septum_begin();
	septum_engine_start();
	asked = q;
	septum_stateful = septum_tolerates = 0;
	result = septum_begin_tasks();
	if (result == RUN_ON)
		result = schedule(q);
	asked = 0;
	septum_exploring = 0;
	q->logged = septum_logged;
	q->folded = septum_folded;
	q->why = septum_why;
	q->known = result == RUN_COMPLETE || result == RUN_COVERED ? remember(q) : 0;
	return (u64)result;
}
