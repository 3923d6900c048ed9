// SPDX-License-Identifier: GPL-2.0-only
/*
 * What monitors are told that no access shows: the kernel's own tracepoint of changed SPTEs
 * (I20), and that a VM was declared dead (I24).
 */
#include <linux/tracepoint.h>
#include "glue.h"

extern struct tracepoint __tracepoint_kvm_tdp_mmu_spte_changed;

/* Of every CPU; what the linker finds no definition of is neither kept nor hashed, so how
 * many lines there were tells no states apart. */
extern struct srcu_data __percpu septum_unkept;
struct srcu_struct tracepoint_srcu;

/* A line, as long as changes are told, too. */
static void line(void *data, int as_id, gfn_t gfn, int level, u64 old, u64 new)
{
	septum_u64 registers[8] = { SEPTUM_TRACED, gfn, level, old, new };

	if ((septum_exploring || septum_epilogue) &&
	    septum_is_watched(SPTE_INDEX(gfn << PAGE_SHIFT, level)))
		septum_told(registers);
}

static struct tracepoint_func lines[] = { { .func = line }, {} };

void septum_switch_lines_on(void)
{
	struct tracepoint *tp = &__tracepoint_kvm_tdp_mmu_spte_changed;

	tracepoint_srcu.sda = &septum_unkept;
	tracepoint_srcu.srcu_ctrp = septum_unkept.srcu_ctrs;
	RCU_INIT_POINTER(tp->funcs, lines);
	atomic_set(&tp->key.key.enabled, 1);
}

/* kvm_vm_dead() has returned (vm_dead.h). */
void septum_vm_dead(void)
{
	septum_u64 registers[8] = { SEPTUM_VM_DEAD };

	septum_told(registers);
}
