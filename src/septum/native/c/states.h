/* SPDX-License-Identifier: GPL-2.0-only */
/* The search over states: a state on the present path. */
#ifndef SEPTUM_STATES_H
#define SEPTUM_STATES_H

#include "engine.h"

#define FRAMES_MAX 8192

struct footprint {
	u32 begin, size; /* in the pool of footprints */
};
struct frame {
	u8 *snapshot;
	u64 pages, key;
	u32 objects, state, logged, said;
	u32 enabled;	/* tasks that can run */
	u32 todo;	/* and are still to be run from here */
	u32 sleep;	/* need not: what they do was, or will be, explored elsewhere */
	u32 done;	/* were run from here */
	u32 kept;	/* there is a snapshot */
	u32 task, pool;	/* the step to the next frame; where the pool of footprints ends */
	u32 choices, first; /* of the step: how many, and where they are in the lists */
	struct footprint foot[SEPTUM_TASKS]; /* of the next step of those done or asleep */
};

/* Why septum_search() came back. */
enum search_event {
	SEARCH_OVER,
	SEARCH_TICK,	/* some transitions later: is there time left? */
	SEARCH_JUDGE,	/* all tasks have finished in a state that was not judged yet */
	SEARCH_BLOCKED,	/* nobody can go on */
	SEARCH_ASK,	/* Python has to run the step at the end of the path */
	SEARCH_FULL,	/* memory for states or for the path is used up */
	SEARCH_CYCLE,	/* the path came back to one of its states, and nobody was left out */
};

struct search {
	u64 states, transitions, matched, ends, cycles;
	u64 path;	/* u32 each: task | choice << 8 */
	u32 steps, depth, deepest, cycle, why, tolerate;
};

u64 septum_snapshot_size(void);
u8 *septum_keep(struct frame *f);
void septum_back(const struct frame *f);
u64 septum_state_hash(void);
#endif
