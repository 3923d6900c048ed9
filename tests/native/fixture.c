// SPDX-License-Identifier: GPL-2.0-only
/*
 * Small concurrent programs, compiled with the instrumentation that the kernel's files get
 * (gcc -fsanitize=thread), so that runtime and driver are tested without a kernel tree.
 */
#include "septum.h"

typedef septum_u64 u64;

/* What septum.native.kernel asks an image for; there are no page tables here. */
struct septum_field { const char *name; u64 offset, size; } septum_fields[] = {
	{ "value.FROZEN_SPTE", 1, 8 },
	{ "value.SHADOW_NONPRESENT", 0, 8 },
	{ "value.EPT_SPTE_HOST_WRITABLE", 1ul << 53, 8 },
	{ "value.EPT_SPTE_MMU_WRITABLE", 1ul << 55, 8 },
	{ "value.SPTE_TDP_AD_DISABLED", 1ul << 60, 8 },
	{ "value.SHADOW_ACC_TRACK_SAVED_BITS_MASK", 0x405, 8 },
	{ "value.SHADOW_ACC_TRACK_SAVED_BITS_SHIFT", 52, 8 },
	{ "sizeof.kvm_mmu_page", 0, 184 },
	{ "sizeof.bug_entry", 0, 16 },
	{ "offset.bug_entry.flags", 12, 2 },
	{ "page.private", 40, 8 },
	{ "kvm_mmu_page.spt", 48, 8 },
	{ 0 },
};
u64 septum_sp_level(void *sp) { return 1; }
u64 septum_sp_mirror(void *sp) { return 0; }
u64 septum_sp_invalid(void *sp) { return 0; }
__attribute__((section(".data..percpu"))) u64 per_cpu_word = 7;

volatile u64 only_here;
u64 x, y, flag, lock_a, lock_b, *pointer;
struct callback_head { void *next; void (*func)(struct callback_head *); };
struct object { struct callback_head head; u64 value; } *object;
u64 *table; /* a page of 512 words */
extern void call_rcu(struct callback_head *, void (*)(struct callback_head *));
extern void __rcu_read_lock(void), __rcu_read_unlock(void);

u64 setup(void)
{
	object = septum_alloc(sizeof(*object), 16);
	object->value = 5;
	table = septum_alloc(4096, 4096);
	return 0;
}

u64 increment(void) { x = x + 1; return x; }
u64 atomic_increment(void) { return __atomic_fetch_add(&x, 1, __ATOMIC_SEQ_CST); }
u64 locked_increment(void)
{
	septum_lock(&lock_a, 0);
	x = x + 1;
	septum_unlock(&lock_a, 0);
	return 0;
}
u64 shared_read(void)
{
	u64 v;

	septum_lock(&lock_a, 1);
	v = x + y;
	septum_unlock(&lock_a, 1);
	return v;
}
u64 store_both(void) { __atomic_store_n(&x, 1, 5); return __atomic_load_n(&y, 5); }
u64 store_other(void) { __atomic_store_n(&y, 1, 5); return __atomic_load_n(&x, 5); }
u64 a_then_b(void)
{
	septum_lock(&lock_a, 0);
	septum_lock(&lock_b, 0);
	septum_unlock(&lock_b, 0);
	septum_unlock(&lock_a, 0);
	return 0;
}
u64 b_then_a(void)
{
	septum_lock(&lock_b, 0);
	septum_lock(&lock_a, 0);
	septum_unlock(&lock_a, 0);
	septum_unlock(&lock_b, 0);
	return 0;
}
u64 private_work(void)
{
	u64 *p = septum_alloc(512, 16), sum = 0;

	for (int i = 0; i < 64; i++)
		p[i] = (u64)i;
	for (int i = 0; i < 64; i++)
		sum += p[i];
	return sum;
}
u64 wait_for_flag(void)
{
	while (!__atomic_load_n(&flag, 5))
		septum_retry("wait_for_flag");
	return x;
}
u64 set_flag(void) { x = 9; __atomic_store_n(&flag, 1, 5); return 0; }
u64 claim(void)
{
	u64 zero = 0;

	return __atomic_compare_exchange_n(&flag, &zero, 1, 0, 5, 5);
}

static void free_object(struct callback_head *head) { septum_free(head); }
u64 unlink_rcu(void)
{
	struct object *old = object;

	__atomic_store_n(&object, (struct object *)0, 5);
	call_rcu(&old->head, free_object);
	return 0;
}
u64 unlink_now(void)
{
	struct object *old = object;

	__atomic_store_n(&object, (struct object *)0, 5);
	septum_free(old);
	return 0;
}
/* Whoever comes last uses the object and gives it back: never both. */
u64 last_frees(void)
{
	if (!__atomic_fetch_add(&x, 1, 5))
		return 0;
	object->value++;
	septum_free(object);
	return 1;
}
static u64 walk(u64 *p, u64 n)
{
	u64 sum = 0;

	for (u64 i = 0; p && i < n; i++)
		sum += __atomic_load_n(&p[i], 0);
	return sum;
}
u64 walk_locked(void)
{
	u64 sum;

	septum_lock(&lock_a, 1);
	sum = walk(table, 16);
	septum_unlock(&lock_a, 1);
	return sum;
}
u64 walk_on_unlocked(void)
{
	u64 *p, sum;

	septum_lock(&lock_a, 1);
	sum = walk(p = table, 8);
	septum_unlock(&lock_a, 1);
	return sum + walk(p, 16);
}
u64 walk_and_lock_between(void)
{
	u64 *p = __atomic_load_n(&table, 5), sum = walk(p, 8);

	septum_lock(&lock_b, 0);
	septum_unlock(&lock_b, 0);
	return sum + walk(p, 16);
}
u64 free_table(void)
{
	u64 *old;

	septum_lock(&lock_a, 0);
	old = table;
	table = 0;
	septum_unlock(&lock_a, 0);
	if (old)
		septum_free(old);
	return 0;
}
u64 write_table(void)
{
	septum_lock(&lock_a, 0);
	if (table)
		table[12] = 7;
	septum_unlock(&lock_a, 0);
	return 0;
}
/* An object with a lock in it, which nothing keeps from being freed. */
u64 lock_inside(void)
{
	struct object *o = __atomic_load_n(&object, 5);

	if (o) {
		septum_lock(&o->value, 0);
		septum_unlock(&o->value, 0);
	}
	return 0;
}
/* The only one that writes it looks at it again and again. */
u64 own_reads(void)
{
	u64 n, sum = 0;

	__atomic_store_n(&x, 1, 5);
	for (n = 0; n < 10; n++)
		sum += __atomic_load_n(&x, 0);
	return sum;
}
u64 observe(void) { return __atomic_load_n(&x, 5); }
u64 reader(void)
{
	struct object *o;
	u64 v = 0;

	__rcu_read_lock();
	o = __atomic_load_n(&object, 5);
	if (o)
		v = o->value;
	__rcu_read_unlock();
	return v;
}
u64 careless_reader(void)
{
	struct object *o = __atomic_load_n(&object, 5);

	return o ? o->value : 0;
}

u64 null_dereference(void) { return *(volatile u64 *)8; }
u64 bug(void) { __builtin_trap(); }
u64 endless(void) { for (;;) only_here++; }
u64 retry_for_ever(void) { for (;;) septum_retry("retry_for_ever"); }
u64 first_wins(void) { return septum_choose("which?", 3) + 1; }
/* As a walk of a whole table that may be interrupted at each entry, once. */
u64 may_stop_anywhere(void)
{
	u64 at;

	for (at = 0; at < 100; at++)
		if (septum_choose("stop?", 2))
			break;
	__atomic_store_n(&y, at, 5);
	return at;
}
u64 unlock_only(void) { septum_unlock(&lock_a, 0); return 0; }

/* BUG() and WARN(), as the kernel has them: ud2 and an entry of its bug table. */
#define TRAP(flags)                                                                             \
	asm volatile("1: ud2\n.pushsection __bug_table,\"aw\"\n2: .long 1b - 2b, 0, 0\n"        \
		     ".word " flags ", 0\n.popsection")
#define BUG() TRAP("0")
#define WARN() TRAP("1")

u64 set_x(void) { __atomic_store_n(&x, 1, 5); return 0; }
u64 bug_unless_x(void)
{
	if (!__atomic_load_n(&x, 5))
		BUG();
	__atomic_store_n(&flag, 2, 5);
	return 0;
}
u64 bug_with_lock(void)
{
	septum_lock(&lock_a, 0);
	if (!__atomic_load_n(&x, 5))
		BUG();
	septum_unlock(&lock_a, 0);
	return 0;
}
u64 warn_unless_x(void)
{
	if (!__atomic_load_n(&x, 5))
		WARN();
	__atomic_store_n(&flag, 3, 5);
	return 0;
}
u64 store_locked(void)
{
	__atomic_store_n(&y, 4, 5);
	septum_lock(&lock_a, 0);
	__atomic_store_n(&y, 5, 5);
	septum_unlock(&lock_a, 0);
	return 0;
}
u64 look_at_y(void) { return __atomic_load_n(&y, 5); }

u64 look_and_hand_back(void)
{
	u64 v = __atomic_load_n(&x, 5);

	septum_tell(SEPTUM_TELL_FREED, 0x48000, 0);
	return v;
}

/* The TDX Module's ABI: registers rcx, rdx, r8 to r13; septum.tdx answers. */
extern u64 __seamcall_ret(u64 leaf, u64 *args);
static u64 create(u64 page)
{
	u64 args[8] = { 0x40000000 + (page << 12), 32 };
	u64 status = __seamcall_ret(9, args); /* TDH.MNG.CREATE */

	if (status)
		__atomic_store_n(&y, status, 5);
	return status ? 1 : 0;
}
u64 create_td(void) { return create(0); }
u64 create_other_td(void) { return create(1); }
u64 create_until_it_works(void)
{
	u64 args[8] = { 0x40000000, 32 };

	while (__seamcall_ret(9, args) >> 32 == 0x80000200)
		septum_retry("create_until_it_works");
	return 0;
}

/* Raises its own flag, and takes it back if the other's is up: both may do so for ever. */
static u64 raised[8] __attribute__((aligned(64)));
u64 give_way(void)
{
	int me = septum_task(), other = !me;

	for (;;) {
		__atomic_store_n(&raised[me], 1, 5);
		if (!__atomic_load_n(&raised[other], 5))
			break;
		__atomic_store_n(&raised[me], 0, 5);
		septum_retry("give_way");
	}
	__atomic_store_n(&raised[me], 0, 5);
	return 0;
}
