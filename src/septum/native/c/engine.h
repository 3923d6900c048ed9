/* SPDX-License-Identifier: GPL-2.0-only */
/* The scheduler in C: what its files share; `septum.native.engine` mirrors the structures. */
#ifndef SEPTUM_ENGINE_H
#define SEPTUM_ENGINE_H

#include "runtime.h"

typedef int s32;

/* --- answers.c: what Python would do ------------------------------------------------------- */

enum node_kind {
	NODE_UNKNOWN,	/* ask Python */
	NODE_KEY,	/* next word of the question */
	NODE_STATE,	/* id of the state of Python's cells */
	NODE_LOAD,	/* a: address, b: bytes */
	NODE_CALL,	/* a: function of the image, b: its argument */
	NODE_HELD,	/* a: task, b: lock: held for writing? */
	NODE_CHOICE,	/* a: name, b: number of options */
	NODE_POINT,	/* a: operation, b: object; then go on */
	NODE_AWAIT,	/* a: name; until something blamed changes, then go on */
	NODE_RETURN,
	NODE_PEEK,	/* a: address of a word that the task is noted to read */
};

enum op_code {
	OP_ACC = 1,	/* a: object, b: kind */
	OP_TOUCH,	/* a: object: written in this step */
	OP_BLAME,	/* a: object, b: BLAME_* */
	OP_CLEAR_BLAME,
	OP_CLEAR_ATTEMPT,
	OP_ENTERED,
	OP_REACH,	/* a: text */
	OP_STATE,	/* a: id of the state of Python's cells */
	OP_REGISTER,	/* a: number, b: value */
	OP_RESULT,	/* b: value */
	OP_LEAVE,	/* a: CPU */
	OP_SEEN,	/* a, b: numbers of the values before and after */
	OP_EVENTFUL,	/* a finding: Python has to run it */
	OP_POKE_AT,	/* b: address ... */
	OP_POKE,	/* b: ... and the value that is written there */
};

enum { BLAME_NOW, BLAME_CHANGED, BLAME_POINT }; /* BLAME_POINT + n: n points of the call ago */

struct node {
	u32 kind, nops;
	u64 ops, a, b;
};
struct op {
	u32 code, a;
	u64 b;
};
struct edge {
	u64 value;
	u32 node, child;
};

/* --- objects ------------------------------------------------------------------------------------ */

#define OBJECTS_MAX 16384
#define BUCKETS 65536

enum { OBJ_TABLE = 1, OBJ_COUNTER = 2, OBJ_REFERENCES = 4, OBJ_SEQ = 8, OBJ_PROGRESS = 16, OBJ_ZAP = 32 };

struct object {
	u32 flags, dying; /* dying: its own object, of reference counts */
};
struct bucket {
	u64 addr; /* 0: free */
	u32 object, pad;
};

/* --- tasks ---------------------------------------------------------------------------------------- */

#define BLAME_MAX 2048
#define ATTEMPT_MAX 2048
#define CALLS_MAX 64	/* operations of a task */
#define POINTS_MAX 64	/* points of one SEAMCALL that are remembered */

enum where { AT_START, AT_C, AT_POINT, AT_AWAIT, AT_C_AWAIT, AT_END };

struct blamed {
	u32 object;
	s32 at; /* -2: it has changed already */
};
struct attempt {
	u64 addr, first, own;
	u32 has; /* 1: first, 2: own */
	u32 pad;
};
struct runner {
	u32 where, node, call, started, count, entered;
	s32 off;
	u32 object;	/* of the announced access */
	u32 seen_seq, has_seq; /* mmu_invalidate_seq as the attempt read it first */
	u64 args;	/* registers of the running SEAMCALL */
	u32 variant, name;
	u32 points, blames, waits, attempts;
	s32 point_at[POINTS_MAX];
	struct blamed blame[BLAME_MAX], wait[BLAME_MAX];
	struct attempt attempt[ATTEMPT_MAX];
};

struct op_call {
	u64 fn, args[4];
	u32 cpu, loads; /* loads: the guest's program changes first */
};
struct body {
	u32 calls, is_vcpu;
	struct op_call call[CALLS_MAX];
};

/* --- the log ---------------------------------------------------------------------------------------- */

enum { LOG_POINT = 32, LOG_AWAIT, LOG_CHOICE }; /* else a septum_kind */

struct logged {
	u32 task, kind, object, acc, accs, wait, waits, enabled;
	s32 off;
	u32 choice, options, name, index, pad;
	u64 pc, type, before, after;
};

#define LOG_MAX 32768
#define CHOICES_MAX 1024	/* of a step: walks of whole tables may be interrupted at each entry */
#define LOG_ROOM (CHOICES_MAX + 64)	/* what a step may log */
#define FOOT_POOL (1u << 20) /* footprints of sleeping steps, behind the log's: u64 each */
#define FOOT_MAX (1u << 19)

/* How an execution ended. */
enum result {
	RUN_ON,
	RUN_COMPLETE,
	RUN_COVERED,
	RUN_DIVERGED,	/* arg: the task that could not run */
	RUN_ASK,	/* Python has to run it: an answer is missing, or something is to be reported */
	RUN_BLOCKED,	/* nobody can go on: Python has to run it */
};

struct foot {
	u32 task, size;
	u64 entries; /* object << 32 | mask of kinds */
};

#define IF_ASKED (1u << 31)	/* an option: the decisions end here if the task is not asked */

struct request {
	u32 decisions, sleeps, covereds, steps, lowest, known;
	u64 decision;	/* u32 each: task | choice << 8, and IF_ASKED */
	u64 sleep, covered; /* struct foot */
	/* out */
	u32 logged, folded, pending, why;
};

struct engine_config {
	u64 nodes, ops, edges, edges_size, objects, buckets, log, acc, waits, bodies, frozen;
	u64 tasks, conflicts; /* conflicts: per kind, a u32 of the kinds that it clashes with */
	u64 leave, zap;
	u64 visited, visited_size; /* two halves, of so many states */
	u64 snapshots, snapshots_size;
};

extern struct engine_config septum_engine;
extern struct runner septum_runners[SEPTUM_TASKS];
extern u32 septum_state; /* of Python's cells */
extern s32 *septum_wseq;
extern u8 *septum_dying;
extern u32 septum_why;
extern u32 septum_stateful, septum_tolerates;
extern u64 septum_lost[16], septum_lost_used; /* where an entry was to change and did not */
extern u32 septum_logged, septum_folded, septum_enabled;
extern u32 septum_runs;	/* the task whose step it is */
extern u8 septum_said[1024];
extern u64 septum_texts[64], septum_texts_used, septum_objects_used;

#define OBJECT(n) (((struct object *)septum_engine.objects) + (n))
#define NODE(n) (((struct node *)septum_engine.nodes) + (n))
#define LOG(n) (((struct logged *)septum_engine.log) + (n))

enum question { ASK_SEAMCALL = 1, ASK_SPTE, ASK_FREED, ASK_LOAD };
enum { SAID_FROZEN, SAID_SEQ, SAID_PROGRESS, SAID_ZAP, SAID_TWO, SAID_FIRST }; /* texts known by number */
enum why { WHY_UNKNOWN = 1, WHY_EVENTFUL, WHY_PROBLEM, WHY_OBJECT, WHY_LIMIT, WHY_FULL };

u32 septum_find(u32 node, u64 value);
u32 septum_ask(const u64 *words, u64 count);
int septum_answer(u32 task, u32 node);
void septum_access(u32 object, u32 kind);
int septum_chosen(u64 name, u64 options, u32 *choice);
int septum_chosen_here(u64 options, u32 *choice);
void septum_reached(u32 text);
int septum_blamed(struct runner *r, u32 object, s32 at, int keep);
s32 septum_now(void);
int septum_can_run(u32 task);
int septum_advance(u32 task);
void septum_engine_start(void);
int septum_begin_tasks(void);
struct logged *septum_log_event(u32 task, u32 kind);
int septum_ran(u32 task);
void septum_reached_text(u64 addr);
u32 septum_object_at(u64 addr);
int septum_is_shared(u64 addr);
struct blamed *septum_blame_of(struct runner *r, u32 object);
struct attempt *septum_attempt_of(struct runner *r, u64 addr);
int septum_own_doing(struct runner *r);

#endif
