// SPDX-License-Identifier: GPL-2.0-only
/*
 * Depth-first search over states.  A state that was met before is not explored again, whatever
 * led to it; it is known by a hash of 64 bits of all that decides what can follow
 * (snapshots.c).  Every step of every task is taken from every state, but for sleep sets:
 * a step that was explored from an earlier state, and that commutes with all since, is left out.
 * What sleeps is kept with the state; who comes again with a task awake that slept then has it
 * explored (P. Godefroid, LNCS 1032, 1996, section 5.4).
 */
#include "states.h"

KEEP static struct frame frames[FRAMES_MAX];
KEEP static u32 depth;
KEEP static u8 *end_of_frame[FRAMES_MAX];
/* Choices of the steps on the path: what was chosen, and of how many options. */
KEEP static u8 chosen[LOG_MAX], options_of[LOG_MAX];
KEEP static u32 choice_first, choice_count, choice_at;
KEEP static int here;	/* the memory is that of the last frame */
KEEP u32 septum_tolerates;	/* Python has noted what this step reports */

void septum_restore(void);
void septum_begin(void);
extern u32 septum_scrub;

/* --- states met ------------------------------------------------------------------------------------- */

#define TABLE_LEAST (1ul << 14)

struct met {
	u64 key, sleep; /* the tasks that nobody ran from there; bit 63: on the present path */
};
KEEP static struct met *table;
KEEP static u64 table_size;

static struct met *slot_of(u64 key)
{
	u64 i = key & (table_size - 1);

	while (table[i].key && table[i].key != key)
		i = (i + 1) & (table_size - 1);
	return &table[i];
}

/* Room for more; 0: there is none.  Two halves of the memory are used in turn. */
static int grow(void)
{
	struct met *old = table, *halves = (struct met *)septum_engine.visited;
	u64 size = table_size;

	if (size * 2 > septum_engine.visited_size)
		return 0;
	table = old == halves ? halves + septum_engine.visited_size : halves;
	table_size = size * 2;
	memset(table, 0, table_size * sizeof(*table));
	for (u64 n = 0; n < size; n++)
		if (old[n].key)
			*slot_of(old[n].key) = old[n];
	return 1;
}

/* --- choices of a step ------------------------------------------------------------------------------- */

int septum_chosen_here(u64 options, u32 *choice)
{
	if (choice_at == CHOICES_MAX)
		return 0;
	*choice = choice_at < choice_count ? chosen[choice_first + choice_at] : 0;
	options_of[choice_first + choice_at] = (u8)options;
	chosen[choice_first + choice_at++] = (u8)*choice;
	return 1;
}

/* The step that is taken now makes these choices, and then others. */
static void choose_as(const struct frame *f)
{
	choice_first = f->first;
	choice_count = f->choices;
	choice_at = 0;
}

/* The next combination of options of the last step; 0: there is none. */
static int other_choices(struct frame *f)
{
	while (f->choices) {
		u32 n = f->first + f->choices - 1;

		if (chosen[n] + 1 < options_of[n]) {
			chosen[n]++;
			return 1;
		}
		f->choices--;
	}
	return 0;
}

/* --- footprints ----------------------------------------------------------------------------------------- */

static u64 *pool(void)
{
	return (u64 *)septum_engine.acc + FOOT_POOL;
}

static u32 clashing(u32 mask)
{
	u32 out = 0;

	for (; mask; mask &= mask - 1)
		out |= ((u32 *)septum_engine.conflicts)[__builtin_ctz(mask)];
	return out;
}

static int clash(struct footprint a, struct footprint b)
{
	for (u32 i = 0; i < a.size; i++)
		for (u32 k = 0; k < b.size; k++) {
			u64 x = pool()[a.begin + i], y = pool()[b.begin + k];

			if (x >> 32 == y >> 32 && clashing((u32)x) & (u32)y)
				return 1;
		}
	return 0;
}

/* What the step did that was logged from `first` on, added to what its other choices did. */
static int note_footprint(struct frame *f, struct footprint *foot, u32 first)
{
	const u32 *acc = (const u32 *)septum_engine.acc;
	u32 from = LOG(first)->acc, to = LOG(septum_logged - 1)->acc + LOG(septum_logged - 1)->accs;

	if (!foot->size)
		foot->begin = f->pool;
	for (u32 n = from; n < to; n++) {
		u64 object = acc[n] >> 5, bit = 1ul << (acc[n] & 31);
		u32 k;

		for (k = 0; k < foot->size; k++)
			if (pool()[foot->begin + k] >> 32 == object)
				break;
		if (foot->begin + k == FOOT_MAX)
			return 0;
		if (k == foot->size) {
			pool()[foot->begin + k] = object << 32;
			foot->size++;
		}
		pool()[foot->begin + k] |= bit;
	}
	if (foot->begin + foot->size > f->pool)
		f->pool = foot->begin + foot->size;
	return 1;
}

/* --- the path -------------------------------------------------------------------------------------------- */

static void say_path(struct search *s, int pending)
{
	u32 *out = (u32 *)s->path, n = 0;

	for (; n < (depth ? frames[depth - 1].logged : 0); n++)
		out[n] = LOG(n)->task | LOG(n)->choice << 8;
	if (pending && depth) {
		struct frame *f = &frames[depth - 1];

		out[n++] = f->task;
		for (u32 k = 0; k < f->choices; k++)
			out[n++] = f->task | (u32)chosen[f->first + k] << 8;
	}
	s->steps = n;
	s->depth = depth;
	s->why = septum_why;
}

static u32 can_run(u32 *waiting)
{
	u32 mask = 0;

	*waiting = 0;
	for (u32 t = 0; t < septum_engine.tasks; t++) {
		if (septum_runners[t].where == AT_END)
			continue;
		if (septum_can_run(t))
			mask |= 1u << t;
		else
			*waiting = 1;
	}
	return mask;
}

/* Every task that could run all along the cycle did. */
static int fair(u32 first)
{
	u32 all = ~0u, ran = 0;

	for (u32 n = first; n < depth; n++) {
		all &= frames[n].enabled;
		ran |= 1u << frames[n].task;
	}
	return !(all & ~ran);
}

/* The state that a step led to: a frame of its own, if there is anything to explore from it. */
static int arrive(struct search *s, u32 sleep, struct footprint *feet)
{
	int result = SEARCH_TICK;
	struct frame *f = &frames[depth];
	struct met *slot;
	u64 key;
	u32 waiting, mask = can_run(&waiting), known = 0;

	if (!mask) {
		s->ends++;
		return waiting ? SEARCH_BLOCKED : SEARCH_JUDGE;
	}
	key = septum_state_hash();
	slot = slot_of(key);
	sleep &= mask;
	if (slot->key) {
		u32 slept = (u32)slot->sleep;

		for (u32 n = 0; n < depth && slot->sleep >> 63; n++)
			if (frames[n].key == key && fair(n)) {
				s->cycles++;
				s->cycle = frames[n].logged;
				result = SEARCH_CYCLE;
				break;
			}
		s->matched++;
		if (!(slept & ~sleep))
			return result;
		known = mask & ~(slept & ~sleep);
		sleep &= slept;
	} else {
		if (s->states * 2 > table_size) {
			if (!grow())
				return SEARCH_FULL;
			slot = slot_of(key);
		}
		s->states++;
		slot->key = key;
	}
	slot->sleep = sleep | 1ul << 63;
	if (depth == FRAMES_MAX || septum_logged > LOG_MAX - LOG_ROOM)
		return SEARCH_FULL;
	f->snapshot = depth ? end_of_frame[depth - 1] : (u8 *)septum_engine.snapshots;
	if (f->snapshot + septum_snapshot_size() > (u8 *)septum_engine.snapshots + septum_engine.snapshots_size)
		return SEARCH_FULL;
	f->key = key;
	f->logged = septum_logged;
	f->enabled = mask;
	f->sleep = sleep;
	f->todo = mask & ~sleep & ~known;
	f->done = f->choices = 0;
	f->first = depth ? frames[depth - 1].first + frames[depth - 1].choices : 0;
	f->task = ~0u;
	f->pool = depth ? frames[depth - 1].pool : 0;
	for (u32 t = 0; t < septum_engine.tasks; t++)
		f->foot[t] = sleep >> t & 1 ? feet[t] : (struct footprint){ 0, 0 };
	/* What is only gone on from needs no snapshot. */
	f->kept = !depth || f->todo & (f->todo - 1);
	end_of_frame[depth++] = f->kept ? septum_keep(f) : f->snapshot;
	if (depth > s->deepest)
		s->deepest = depth;
	here = 1;
	return result;
}

static void leave(void)
{
	slot_of(frames[--depth].key)->sleep &= ~(1ul << 63);
	here = 0;
}

/* Back to the last frame, from the last one that has a snapshot. */
static int back(void)
{
	u32 n = depth - 1;

	while (!frames[n].kept)
		n--;
	septum_back(&frames[n]);
	septum_tolerates = 1;
	for (; n < depth - 1; n++) {
		choose_as(&frames[n]);
		if (septum_advance(frames[n].task) != RUN_ON)
			return 0;
		septum_found_count = 0;
	}
	septum_tolerates = 0;
	return 1;
}

/* --- steps ------------------------------------------------------------------------------------------------- */

static int step(struct search *s, struct frame *f)
{
	struct footprint feet[SEPTUM_TASKS];
	u32 t = f->task, sleep = 0, others, first = f->logged;
	int result, tolerates = (int)septum_tolerates;

	if (!here && !back())
		return SEARCH_FULL;
	septum_tolerates = (u32)tolerates;
	here = 0;
	choose_as(f);
	septum_why = 0;
	result = septum_advance(t);
	if (result == RUN_ASK) {
		f->choices = choice_at;
		return SEARCH_ASK;
	}
	f->choices = choice_at;
	septum_tolerates = 0;
	septum_found_count = 0;
	s->transitions++;
	if (!note_footprint(f, &f->foot[t], first))
		return SEARCH_FULL;
	others = (f->sleep | f->done) & ~(1u << t);
	for (u32 o = 0; o < septum_engine.tasks; o++)
		if (others >> o & 1 && f->foot[o].size && !clash(f->foot[o], f->foot[t])) {
			sleep |= 1u << o;
			feet[o] = f->foot[o];
		}
	return arrive(s, sleep, feet);
}

/* Choose what to take from a frame next; 0: nothing is left. */
static int choose_step(struct frame *f)
{
	if (f->task != ~0u) {
		if (other_choices(f))
			return 1;
		f->done |= 1u << f->task;
	}
	f->choices = 0;
	if (!f->todo)
		return 0;
	f->task = (u32)__builtin_ctz(f->todo);
	f->todo &= f->todo - 1;
	f->foot[f->task] = (struct footprint){ 0, 0 };
	return 1;
}

/* From the start state. */
u64 septum_search_start(struct search *s)
{
	struct footprint none[SEPTUM_TASKS] = { { 0, 0 } };
	int result;

	depth = 0;
	septum_scrub = 1;
	septum_lost_used = 0;
	table = (struct met *)septum_engine.visited;
	table_size = TABLE_LEAST;
	memset(table, 0, table_size * sizeof(*table));
	septum_tolerates = s->tolerate;
	septum_restore();
	septum_begin();
	septum_engine_start();
	septum_stateful = septum_among_states = 1;
	result = septum_begin_tasks();
	if (result != RUN_ON) {
		say_path(s, 0);
		return SEARCH_ASK;
	}
	septum_found_count = 0;
	result = arrive(s, 0, none);
	say_path(s, 0);
	return (u64)result;
}

/* Go on.  `again`: the step at the end of the path once more, now that Python has run it; 2: it
 * ended the execution there. */
u64 septum_search(struct search *s, u64 again, u64 most)
{
	u64 until = s->transitions + most;

	septum_stateful = 1;
	septum_exploring = 1;
	while (depth) {
		struct frame *f = &frames[depth - 1];
		int result;

		if (again == 1) {
			septum_tolerates = s->tolerate;
		} else if (!choose_step(f)) {
			again = 0;
			leave();
			continue;
		}
		again = 0;
		result = step(s, f);
		if (result != SEARCH_TICK) {
			say_path(s, result == SEARCH_ASK);
			if (result == SEARCH_JUDGE || result == SEARCH_BLOCKED || result == SEARCH_CYCLE) {
				u32 *out = (u32 *)s->path;

				for (s->steps = 0; s->steps < septum_logged; s->steps++)
					out[s->steps] = LOG(s->steps)->task | LOG(s->steps)->choice << 8;
			}
			return (u64)result;
		}
		if (s->transitions >= until)
			return SEARCH_TICK;
	}
	septum_stateful = 0;
	septum_exploring = 0;
	septum_scrub = 0;
	return SEARCH_OVER;
}
