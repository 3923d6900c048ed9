// SPDX-License-Identifier: GPL-2.0-only
/*
 * What Python does between two scheduling points, remembered: SEAMCALLs (septum.tdx), what runs
 * in the guest, and what monitors see of a change of an SPTE.
 *
 * A question is a few words (which call, with which registers, by whom).  The answer is a path
 * through a tree: each node says what Python looked at next (the state of its cells, a word of
 * the image's memory, a choice), each edge what it found there.  Python is deterministic, so
 * equal paths lead to equal acts, which are the node's operations.  Where the tree ends,
 * Python runs the execution itself and adds to it (septum.native.answers).
 */
#include "engine.h"

u64 septum_held_write(u64 n, u64 lock);
void septum_poke(u64 task, u64 addr, u64 value);
u64 septum_peek(u64 task, u64 addr);

KEEP static u64 poke_at;

KEEP struct engine_config septum_engine;
KEEP u64 septum_edges_used;

static u64 slot_of(u32 node, u64 value)
{
	u64 h = (value ^ ((u64)node << 32 | node)) * 0x9e3779b97f4a7c15ul;

	return (h ^ h >> 29) & (septum_engine.edges_size - 1);
}

/* The node that an edge leads to; 0 if there is none. */
u32 septum_find(u32 node, u64 value)
{
	struct edge *edges = (struct edge *)septum_engine.edges;
	u64 i;

	for (i = slot_of(node, value); edges[i].child; i = (i + 1) & (septum_engine.edges_size - 1))
		if (edges[i].node == node && edges[i].value == value)
			return edges[i].child;
	return 0;
}

/* Called by Python.  Returns whether there was room. */
u64 septum_add_edge(u64 node, u64 value, u64 child)
{
	struct edge *edges = (struct edge *)septum_engine.edges;
	u64 i = slot_of((u32)node, value);

	if (septum_edges_used * 4 > septum_engine.edges_size * 3)
		return 0;
	while (edges[i].child)
		i = (i + 1) & (septum_engine.edges_size - 1);
	edges[i] = (struct edge){ value, (u32)node, (u32)child };
	septum_edges_used++;
	return 1;
}

/* The node that a question leads to; 0: it was never asked. */
u32 septum_ask(const u64 *words, u64 count)
{
	u32 node = 1;

	for (u64 n = 0; n < count && node; n++)
		node = septum_find(node, words[n]);
	return node;
}

static int perform(u32 task, const struct op *op)
{
	struct runner *r = &septum_runners[task];
	s32 at = septum_now();

	switch (op->code) {
	case OP_ACC:
		septum_access(op->a, (u32)op->b);
		break;
	case OP_POKE_AT:
		poke_at = op->b;
		break;
	case OP_POKE:
		septum_poke(task, poke_at, op->b);
		break;
	case OP_TOUCH:
		septum_wseq[op->a] = at;
		break;
	case OP_BLAME:
		if (op->b == BLAME_CHANGED)
			at = -2;
		else if (op->b >= BLAME_POINT)
			at = r->point_at[op->b - BLAME_POINT];
		return septum_blamed(r, op->a, at, 0);
	case OP_CLEAR_BLAME:
		r->blames = 0;
		break;
	case OP_CLEAR_ATTEMPT:
		r->attempts = 0;
		break;
	case OP_ENTERED:
		r->entered = 1;
		break;
	case OP_REACH:
		septum_reached(op->a);
		break;
	case OP_STATE:
		septum_state = op->a;
		break;
	case OP_REGISTER:
		((u64 *)r->args)[op->a] = op->b;
		break;
	case OP_RESULT:
		septum_tasks[task].ev.result = op->b;
		break;
	case OP_LEAVE:
		((u8 *)septum_engine.leave)[op->a] = 1;
		break;
	case OP_SEEN:
		LOG(at)->before = op->a;
		LOG(at)->after = op->b;
		break;
	default:
		return septum_tolerates != 0;
	}
	return 1;
}

static u64 load(u64 addr, u64 size)
{
	u64 value = 0;

	memcpy(&value, (void *)addr, size);
	return value;
}

/* Follow the tree from a node on.  RUN_ON: the answer is complete, or the task announced a
 * point (its `where` says which). */
int septum_answer(u32 task, u32 at)
{
	struct runner *r = &septum_runners[task];

	for (;;) {
		struct node *n = NODE(at);
		struct op *op = (struct op *)septum_engine.ops + n->ops;
		u32 choice;
		u64 value = 0;

		for (u32 i = 0; i < n->nops; i++)
			if (!perform(task, &op[i])) {
				septum_why = WHY_EVENTFUL;
				return RUN_ASK;
			}
		switch (n->kind) {
		case NODE_STATE:
			value = septum_state;
			break;
		case NODE_LOAD:
			value = load(n->a, n->b);
			break;
		case NODE_PEEK:
			value = septum_peek(task, n->a);
			break;
		case NODE_CALL:
			value = ((u64(*)(u64))n->a)(n->b);
			break;
		case NODE_HELD:
			value = septum_held_write(n->a, n->b);
			break;
		case NODE_CHOICE:
			if (!septum_chosen(n->a, n->b, &choice))
				return RUN_ASK;
			value = choice;
			break;
		case NODE_POINT:
			r->where = AT_POINT;
			r->node = at;
			r->off = -1;
			return RUN_ON;
		case NODE_AWAIT:
			memcpy(r->wait, r->blame, r->blames * sizeof(struct blamed));
			r->waits = r->blames;
			r->blames = 0;
			septum_folded++;
			r->where = AT_AWAIT;
			r->node = at;
			r->off = -1;
			return RUN_ON;
		case NODE_RETURN:
			r->where = AT_C;
			return RUN_ON;
		default:
			septum_why = WHY_UNKNOWN;
			return RUN_ASK;
		}
		at = septum_find(at, value);
		if (!at) {
			septum_why = WHY_UNKNOWN;
			return RUN_ASK;
		}
	}
}
