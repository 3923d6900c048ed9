// SPDX-License-Identifier: GPL-2.0-only
/* WARN, BUG and crashes of the image, caught where they happen. */
#include "runtime.h"

/* --- traps: WARN and BUG are invalid opcodes, and some instructions are privileged --------------- */

struct septum_bug {
	u64 pc, flags; /* BUGFLAG_WARNING is bit 0 */
};

KEEP struct septum_bug *septum_bugs_table;
KEEP u64 septum_bugs_count;

enum { REG_DI = 8, REG_DX = 12, REG_AX = 13, REG_SP = 15, REG_IP = 16, REG_FLAGS = 17, REG_ERR = 19 };

static void die_at(u64 *regs, const char *why)
{
	regs[REG_DI] = (u64)why;
	regs[REG_IP] = (u64)septum_die;
	regs[REG_SP] = septum_config.stack + (septum_current + 1) * septum_config.stack_size -
		       4096 - 8;
}

static int modrm_length(const u8 *at)
{
	int mod = at[0] >> 6, rm = at[0] & 7, length = 1;

	if (mod == 3)
		return length;
	if (rm == 4)
		length++;
	if (mod == 1)
		return length + 1;
	return length + (mod == 2 || (!mod && rm == 5) ? 4 : 0);
}

/* Length of a privileged or absent instruction that may be left out, else 0. */
static int skip(const u8 *at, u64 *regs)
{
	if (at[0] == 0xfa || at[0] == 0xfb) /* cli, sti */
		return 1;
	if (at[0] == 0x0f && at[1] == 0x30) /* wrmsr */
		return 2;
	if (at[0] == 0x0f && at[1] == 0x32) { /* rdmsr */
		regs[REG_AX] = regs[REG_DX] = 0;
		return 2;
	}
	if (at[0] == 0x0f && at[1] == 0x01 && at[2] >= 0xca) { /* clac, stac, xsetbv, wrpkru */
		if (at[2] == 0xee)
			regs[REG_AX] = regs[REG_DX] = 0;
		return 3;
	}
	/* invept, invvpid and movdir64b only change what is not modelled */
	if (at[0] == 0x66 && at[1] == 0x0f && at[2] == 0x38) {
		regs[REG_FLAGS] &= ~0x41ul;
		return 4 + modrm_length(at + 4);
	}
	if (at[0] == 0x66 && (at[1] & 0xf0) == 0x40 && at[2] == 0x0f && at[3] == 0x38) {
		regs[REG_FLAGS] &= ~0x41ul;
		return 5 + modrm_length(at + 5);
	}
	return 0;
}

static void bug_at(u64 *regs, u64 pc)
{
	for (u64 i = 0; i < septum_bugs_count; i++) {
		if (septum_bugs_table[i].pc != pc)
			continue;
		if (septum_bugs_table[i].flags & 1) {
			septum_problem(SEPTUM_WARN, pc + 1, 0, 0);
			regs[REG_IP] += 2;
			return;
		}
		septum_problem(SEPTUM_BUG, pc + 1, 0, 0);
		die_at(regs, "BUG()");
		return;
	}
	septum_problem(SEPTUM_OOPS, pc + 1, 0, "invalid opcode");
	die_at(regs, "invalid opcode");
}

/* Places are given as return addresses are: one behind.
 * SIGILL, SIGSEGV, SIGBUS; siginfo's address at +16, the registers at +40 of the ucontext. */
KEEP int septum_trapped;

void septum_on_signal(int signal, void *info, void *context)
{
	u64 *regs = (u64 *)((char *)context + 40);
	u64 pc = regs[REG_IP];
	int length;

	if (signal == 11 && (regs[REG_ERR] & 2) && septum_warm(*(u64 *)((char *)info + 16)))
		return;
	if (pc - septum_config.image > septum_config.image_end - septum_config.image &&
	    pc - 0x60000000ul > 0x10000000ul) {
		/* Not ours: the interpreter itself crashed. */
		asm volatile("syscall" : : "a"(231), "D"(139) : "rcx", "r11", "memory");
	}
	septum_trapped++;
	if (signal == 4 && *(u8 *)pc == 0x0f && ((u8 *)pc)[1] == 0x0b) {
		bug_at(regs, pc);
		return;
	}
	if (signal == 4 && *(u8 *)pc == 0xd6) {
		bug_at(regs, pc);
		return;
	}
	if (*(u64 *)((char *)info + 16) != pc) {
		length = skip((const u8 *)pc, regs);
		if (length) {
			regs[REG_IP] += (u64)length;
			return;
		}
	} else if (signal == 4 && (length = skip((const u8 *)pc, regs))) {
		regs[REG_IP] += (u64)length;
		return;
	}
	septum_problem(SEPTUM_OOPS, pc + 1, *(u64 *)((char *)info + 16),
		       signal == 4 ? "invalid opcode" : "bad address");
	die_at(regs, "oops");
}

/* WARN() with a text, newer kernels: called, not trapped. */
void septum_warn_trap(void)
{
	septum_problem(SEPTUM_WARN, RET, 0, 0);
}

void refcount_warn_saturate(void *r, int t)
{
	septum_problem(SEPTUM_WARN, RET, (u64)r, "refcount_t saturated, or increment from 0");
}
