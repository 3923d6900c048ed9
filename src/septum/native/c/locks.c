// SPDX-License-Identifier: GPL-2.0-only
/* Locks and waits: blocking ones disable the task until they can be had. */
#include "runtime.h"

static struct lock_state locks[LOCKS_MAX];

/* --- locks ---------------------------------------------------------------------------------- */

struct lock_state *septum_lock_state(u64 addr)
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

/* Called by Python and the scheduler, too: whether a word was ever used as a lock. */
u64 septum_is_lock(u64 addr)
{
	u64 i = (addr >> 3) % LOCKS_MAX, n;

	for (n = 0; n < LOCKS_MAX && locks[i].addr; n++, i = (i + 1) % LOCKS_MAX)
		if (locks[i].addr == addr)
			return 1;
	return 0;
}

int septum_can_take(struct lock_state *l, int shared)
{
	return !l->writer && (shared || !l->readers);
}

/* Whether an announced lock operation or wait can go on.  Called on the main stack. */
u64 septum_can(u64 n)
{
	struct task *t = &septum_tasks[n];

	if (t->ev.kind == SEPTUM_LOCK)
		return septum_can_take(septum_lock_state(t->ev.addr), t->ev.type & 1);
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
	struct lock_state *l = septum_lock_state(lock);

	if (l->writer == (u32)septum_current + 1)
		septum_problem(SEPTUM_LOCKDEP, pc, lock, "possible recursive locking");
	if (septum_exploring ? septum_granule(lock, USE_WRITE) || !septum_can_take(l, shared) : !septum_can_take(l, shared))
		septum_announce(SEPTUM_LOCK, lock, 8, (u64)shared, pc);
	septum_alive(lock, pc);
	take(l, shared);
}

void septum_lock(void *lock, int shared)
{
	lock_at((u64)lock, shared, RET);
}

int septum_trylock(void *lock, int shared)
{
	struct lock_state *l = septum_lock_state((u64)lock);

	if (septum_exploring && septum_granule((u64)lock, USE_WRITE))
		septum_announce(SEPTUM_LOCK, (u64)lock, 8, (u64)shared | 2, RET);
	septum_alive((u64)lock, RET);
	if (!septum_can_take(l, shared))
		return 0;
	take(l, shared);
	return 1;
}

static void unlock_at(u64 lock, int shared, u64 pc)
{
	struct lock_state *l = septum_lock_state(lock);
	struct task *t = ME;
	u64 i;

	if (shared ? !l->by[septum_current] : l->writer != (u32)septum_current + 1) {
		septum_problem(SEPTUM_LOCKDEP, pc, lock, "unlock without the lock");
		return;
	}
	if (septum_exploring && septum_granule(lock, USE_WRITE))
		septum_announce(SEPTUM_UNLOCK, lock, 8, (u64)shared, pc);
	septum_alive(lock, pc);
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
	return septum_lock_state(lock)->writer == n + 1;
}

void septum_wait(int (*ready)(void *), void *arg, void *word)
{
	struct task *t = ME;

	t->ready = ready;
	t->ready_arg = arg;
	if (septum_exploring ? septum_granule((u64)word, USE_READ) || !ready(arg) : !ready(arg))
		septum_announce(SEPTUM_WAIT, (u64)word, 8, 0, RET);
}
