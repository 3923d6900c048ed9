// SPDX-License-Identifier: GPL-2.0-only
/*
 * Scheduling in C: a task runs from one announcement to the next, and what it did is logged as
 * `septum.native.driver` would (which stays the reference: whatever is not known here, or has
 * to be reported, ends in RUN_ASK, and Python runs the execution).
 */
#include "engine.h"

/* Kinds of accesses (septum.machine.dependency). */
enum { READ, WRITE, ADD, AWAIT, WAIT, SHARED, EXCL, SHARED_REL, EXCL_REL, TRY_SHARED, TRY_EXCL,
       FAIL_SHARED, FAIL_EXCL };

KEEP struct runner septum_runners[SEPTUM_TASKS];
KEEP u32 septum_state;
KEEP static s32 wseq[OBJECTS_MAX];
KEEP static u8 dying[OBJECTS_MAX];
KEEP s32 *septum_wseq = wseq;
KEEP u8 *septum_dying = dying;
KEEP u32 septum_why;

u64 septum_resume(u64 n);
u64 septum_can(u64 n);
void septum_spawn(u64 n, u64 cpu, u64 fn, u64 a, u64 b, u64 c, u64 d);

/* --- performed accesses ---------------------------------------------------------------------------------- */

/* Granule.changed() */
static u32 changed(u32 object, u64 before, u64 after)
{
	struct object *o = OBJECT(object);

	if (!o->dying)
		return o->flags & OBJ_COUNTER ? ADD : WRITE;
	if (before - after == 2) {
		septum_access(o->dying, WRITE);
		dying[o->dying] = 1;
		wseq[o->dying] = septum_now();
		return WRITE;
	}
	septum_access(o->dying, READ);
	return dying[o->dying] ? WRITE : ADD;
}

/* An entry was to change and did not: Python says whether it was a cmpxchg. */
static void lost(u64 pc)
{
	for (u64 n = 0; n < septum_lost_used; n++)
		if (septum_lost[n] == pc)
			return;
	if (septum_lost_used < 16)
		septum_lost[septum_lost_used++] = pc;
}

/* Notice.accessed() */
static int notice(u32 task, u32 object, u64 addr, u64 type, u64 before, u64 after)
{
	struct runner *r = &septum_runners[task];
	u32 flags = OBJECT(object)->flags;
	int writes = type & (SEPTUM_WRITE | SEPTUM_RMW);

	if (flags & OBJ_TABLE) {
		u64 words[] = { ASK_SPTE, task, addr, before, after };
		u32 where = r->where;
		int result;

		if (!writes) {
			if (before == septum_engine.frozen)
				septum_reached(SAID_FROZEN);
			return RUN_ON;
		}
		if (before == after) {
			lost(LOG(septum_logged - 1)->pc);
			return RUN_ON;
		}
		result = septum_answer(task, septum_ask(words, 5));
		r->where = where;
		return result;
	}
	if (flags & OBJ_PROGRESS && (u32)after > 1 && (u32)after > (u32)before)
		septum_reached(SAID_TWO);
	if (writes)
		return RUN_ON;
	if (flags & OBJ_PROGRESS && before & 0xffffffff && r->has_seq) {
		septum_reached(SAID_PROGRESS);
		septum_reached(SAID_SEQ);
	}
	if (flags & OBJ_SEQ) {
		if (!r->has_seq)
			r->seen_seq = (u32)before, r->has_seq = 1;
		else if (r->seen_seq != (u32)before)
			septum_reached(SAID_SEQ);
	}
	if (flags & OBJ_ZAP && septum_engine.zap && *(u8 *)septum_engine.zap &&
	    ((struct body *)septum_engine.bodies)[task].is_vcpu)
		septum_reached(SAID_ZAP);
	return RUN_ON;
}

/* Driver._performed() */
static int performed(u32 task, u32 object, u64 addr, u64 type, u64 before, u64 after)
{
	struct runner *r = &septum_runners[task];
	struct object *o = OBJECT(object);
	int counter = o->flags & (OBJ_COUNTER | OBJ_REFERENCES), foreign;
	struct logged *l = LOG(septum_logged - 1);
	struct attempt *a = 0;
	struct blamed *b;

	l->before = before;
	l->after = after;
	if (!counter) {
		a = septum_attempt_of(r, addr);
		if (!a)
			goto full;
		if (!(a->has & 1))
			a->first = before, a->has |= 1;
	}
	if (type & SEPTUM_RCU) {
		septum_access(object, type & SEPTUM_WRITE ? ADD : READ);
		return RUN_ON;
	}
	if (before != after) {
		b = septum_blame_of(r, object);
		foreign = b && wseq[object] > b->at;
		septum_access(object, type & SEPTUM_RMW ? changed(object, before, after) : WRITE);
		wseq[object] = septum_now();
		if (!a)
			a = septum_attempt_of(r, addr);
		if (!a)
			goto full;
		a->own = after, a->has |= 2;
		if (b && !foreign)
			b->at = septum_now();
	} else {
		septum_access(object, READ);
		if (!counter && !septum_blamed(r, object, septum_now(), 1))
			goto full;
	}
	return notice(task, object, addr, type, before, after);
full:
	septum_why = WHY_FULL;
	return RUN_ASK;
}

/* --- announcements ------------------------------------------------------------------------------------------ */

static int announced(struct runner *r, u32 where)
{
	r->where = where;
	r->started = 1;
	r->off = -1;
	return RUN_ON;
}

static int unknown_object(void)
{
	septum_why = WHY_OBJECT;
	return RUN_ASK;
}

/* Machine.retry(): wait for what was blamed, unless it has changed already.  1: go on. */
static int retry(struct runner *r)
{
	u32 n;

	for (n = 0; n < r->blames; n++)
		if (r->blame[n].at == -2)
			break;
	if (n < r->blames || !r->blames) {
		r->blames = 0;
		return 1;
	}
	memcpy(r->wait, r->blame, r->blames * sizeof(struct blamed));
	r->waits = r->blames;
	r->blames = 0;
	announced(r, AT_C_AWAIT);
	septum_folded++;
	return 0;
}

static int freed(u64 addr, u64 size)
{
	for (u64 at = addr; at < addr + size; at += 8) {
		u32 object;

		if (!septum_is_shared(at))
			continue;
		object = septum_object_at(at);
		if (!object)
			return unknown_object();
		/* A lock in it: whoever takes or releases it has to be first. */
		septum_access(object, septum_is_lock(at) ? FAIL_EXCL : WRITE);
	}
	return RUN_ON;
}

static int seamcall(u32 task, struct septum_event *ev)
{
	struct runner *r = &septum_runners[task];
	u64 words[14] = { ASK_SEAMCALL, task, septum_tasks[task].cpu, ev->arg[0], ev->arg[2], r->started };

	memcpy(words + 6, (void *)ev->arg[1], 64);
	r->args = ev->arg[1];
	r->points = 0;
	r->where = AT_POINT;
	return septum_answer(task, septum_ask(words, 14));
}

static int told(u32 task, u64 what, u64 arg)
{
	struct runner *r = &septum_runners[task];
	u64 words[] = { ASK_FREED, task, r->started, arg };
	u32 object;

	switch (what) {
	case SEPTUM_TELL_FREED:
		return septum_answer(task, septum_ask(words, 4));
	case SEPTUM_TELL_REACHED:
		septum_reached_text(arg);
		break;
	case SEPTUM_TELL_LAST:
		object = septum_object_at(arg);
		if (!object)
			return unknown_object();
		object = OBJECT(object)->dying;
		if (object) {
			septum_access(object, WRITE);
			dying[object] = 1;
			wseq[object] = septum_now();
		}
		break;
	case SEPTUM_TELL_ROUND:
		if (r->entered || septum_own_doing(r)) {
			r->entered = 0;
			r->blames = 0;
		} else if (!retry(r)) {
			return RUN_ON;
		}
		break;
	}
	r->where = AT_C;
	return RUN_ON;
}

/* The next operation of a task's body, or its end. */
static int next_call(u32 task)
{
	struct runner *r = &septum_runners[task];
	struct body *b = (struct body *)septum_engine.bodies + task;
	struct op_call *c = &b->call[r->call];
	u64 words[] = { ASK_LOAD, task, r->started, r->call };

	if (r->call == b->calls) {
		r->where = AT_END;
		return RUN_ON;
	}
	r->call++;
	if (c->loads && septum_answer(task, septum_ask(words, 4)) != RUN_ON)
		return RUN_ASK;
	septum_spawn(task, c->cpu, c->fn, c->args[0], c->args[1], c->args[2], c->args[3]);
	r->where = AT_C;
	return RUN_ON;
}

/* One announcement of compiled code; `*on`: it asks for no decision. */
static int announce(u32 task, u64 kind, int *on)
{
	struct runner *r = &septum_runners[task];
	struct septum_event *ev = &septum_tasks[task].ev;
	u32 choice;
	int result;

	*on = 0;
	switch (kind) {
	case SEPTUM_ACCESS:
	case SEPTUM_LOCK:
	case SEPTUM_UNLOCK:
	case SEPTUM_WAIT:
		r->object = septum_object_at(ev->addr);
		return r->object ? announced(r, AT_C) : unknown_object();
	case SEPTUM_DIED:
		if (!r->started)
			return announced(r, AT_C);
		break;
	case SEPTUM_FREE:
		if (!ev->type) {
			r->object = septum_object_at(ev->addr);
			return r->object ? announced(r, AT_C) : unknown_object();
		}
		*on = 1;
		return freed(ev->addr, ev->size);
	case SEPTUM_CHOICE:
		if (!r->started)
			return announced(r, AT_C);
		*on = 1;
		if (!septum_chosen(ev->addr, ev->arg[0], &choice))
			return RUN_ASK;
		ev->result = choice;
		return RUN_ON;
	case SEPTUM_RETRY:
		r->has_seq = 0;
		if (septum_own_doing(r)) {
			r->blames = 0;
			*on = 1;
			return RUN_ON;
		}
		if (!r->blames)
			break;
		*on = retry(r);
		return RUN_ON;
	case SEPTUM_SEAMCALL:
		result = seamcall(task, ev);
		r->started |= result == RUN_ON && r->where != AT_C;
		*on = r->where == AT_C;
		return result;
	case SEPTUM_TELL:
		result = told(task, ev->arg[0], ev->arg[1]);
		*on = r->where == AT_C;
		return result;
	case SEPTUM_DONE:
		result = next_call(task);
		*on = r->where == AT_C;
		return result;
	}
	septum_why = WHY_EVENTFUL;
	return RUN_ASK;
}

/* Compiled code from where it is to its next point. */
int septum_ran(u32 task)
{
	struct runner *r = &septum_runners[task];
	struct septum_event *ev = &septum_tasks[task].ev;
	int result, on;

	for (;;) {
		u64 addr = ev->addr, type = ev->type, kind;
		u32 object = r->object;

		kind = septum_resume(task);
		if (ev->performed) {
			result = performed(task, object, addr, type, ev->before, ev->after);
			if (result != RUN_ON)
				return result;
		}
		if (septum_found_count && !septum_tolerates) {
			septum_why = WHY_PROBLEM;
			return RUN_ASK;
		}
		result = announce(task, kind, &on);
		if (result != RUN_ON || !on)
			return result;
	}
}

/* --- steps ---------------------------------------------------------------------------------------------------- */

static int perform_announced(u32 task)
{
	struct runner *r = &septum_runners[task];
	struct septum_event *ev = &septum_tasks[task].ev;
	struct logged *l = septum_log_event(task, ev->kind);
	int shared = ev->type & 1;
	u32 choice;

	l->object = r->object;
	l->pc = ev->pc;
	l->type = ev->type;
	l->before = ev->addr;
	switch (ev->kind) {
	case SEPTUM_LOCK:
		if (!(ev->type & 2)) {
			septum_access(r->object, shared ? SHARED : EXCL);
		} else if (septum_can(task)) {
			septum_access(r->object, shared ? TRY_SHARED : TRY_EXCL);
		} else {
			septum_access(r->object, shared ? FAIL_SHARED : FAIL_EXCL);
			if (!septum_blamed(r, r->object, septum_now(), 1)) {
				septum_why = WHY_FULL;
				return RUN_ASK;
			}
		}
		break;
	case SEPTUM_UNLOCK:
		septum_access(r->object, shared ? SHARED_REL : EXCL_REL);
		wseq[r->object] = septum_now();
		break;
	case SEPTUM_WAIT:
		septum_access(r->object, WAIT);
		break;
	case SEPTUM_FREE:
		if (freed(ev->addr, ev->size) != RUN_ON)
			return RUN_ASK;
		break;
	case SEPTUM_CHOICE:
		if (!septum_chosen(ev->addr, ev->arg[0], &choice))
			return RUN_ASK;
		ev->result = choice;
		break;
	case SEPTUM_DIED:
		septum_why = WHY_EVENTFUL;
		return RUN_ASK;
	}
	return septum_ran(task);
}

static void awaited(u32 task, u32 name)
{
	struct runner *r = &septum_runners[task];
	struct logged *l = septum_log_event(task, LOG_AWAIT);

	l->object = name;
	l->before = r->where == AT_C_AWAIT ? septum_tasks[task].ev.addr : 0;
	l->waits = r->waits;
	for (u32 n = 0; n < r->waits; n++) {
		((struct blamed *)septum_engine.waits)[l->wait + n] = r->wait[n];
		if (r->where == AT_C_AWAIT) /* else Python's answer says so */
			septum_access(r->wait[n].object, AWAIT);
	}
}

/* The announced step of a task, and on to its next announcement. */
int septum_advance(u32 task)
{
	struct runner *r = &septum_runners[task];
	u32 node = r->node;
	struct logged *l;
	int result;

	septum_runs = task;
	switch (r->where) {
	case AT_C:
		return perform_announced(task);
	case AT_C_AWAIT:
		awaited(task, 0);
		LOG(septum_logged - 1)->type = septum_tasks[task].ev.kind;
		return septum_ran(task);
	case AT_POINT:
		l = septum_log_event(task, LOG_POINT);
		l->name = (u32)NODE(node)->a;
		l->object = (u32)NODE(node)->b;
		break;
	default:
		awaited(task, (u32)NODE(node)->a);
		break;
	}
	if (r->points < POINTS_MAX)
		r->point_at[r->points++] = septum_now();
	node = septum_find(node, 0);
	result = septum_answer(task, node);
	return result == RUN_ON && r->where == AT_C ? septum_ran(task) : result;
}

int septum_can_run(u32 task)
{
	struct runner *r = &septum_runners[task];
	struct septum_event *ev = &septum_tasks[task].ev;

	switch (r->where) {
	case AT_C:
		return ev->kind == SEPTUM_LOCK && ev->type & 2 ? 1 : (int)septum_can(task);
	case AT_POINT:
		return 1;
	case AT_END:
		return 0;
	}
	for (u32 n = 0; n < r->waits; n++)
		if (wseq[r->wait[n].object] > r->wait[n].at)
			return 1;
	return 0;
}

/* --- beginning -------------------------------------------------------------------------------------------------- */

void septum_engine_start(void)
{
	u32 used = (u32)septum_objects_used;

	septum_logged = septum_folded = septum_why = 0;
	memset(septum_said, 0, sizeof(septum_said));
	septum_texts_used = 0;
	memset(wseq, 0xff, used * sizeof(wseq[0]));
	memset(dying, 0, used);
	for (u32 t = 0; t < septum_engine.tasks; t++)
		memset(&septum_runners[t], 0, __builtin_offsetof(struct runner, point_at));
	septum_state = 0;
	septum_exploring = 1;
}

/* Every task up to its first point. */
int septum_begin_tasks(void)
{
	for (u32 t = 0; t < septum_engine.tasks; t++) {
		struct runner *r = &septum_runners[t];
		int result;

		r->off = -1;
		septum_runs = t;
		result = next_call(t);
		if (result == RUN_ON && r->where == AT_C)
			result = septum_ran(t);
		if (result != RUN_ON)
			return result;
	}
	return RUN_ON;
}
