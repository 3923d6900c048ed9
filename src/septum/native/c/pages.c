// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory of the image as the explorer sees it: the start state, going back to it, states to go
 * back to, and their identity.
 *
 * What a snapshot holds is write-protected when it is taken.  The first write to a page traps
 * (septum_warm), its contents are kept, and from then on the page is *hot*: only hot pages are
 * copied and hashed.  A page that was never written is as it was, so nothing is left out.
 */
#include "runtime.h"

#define REGIONS_MAX 16
#define HOT_MAX 4096
#define PAGE 4096ul

struct region {
	u64 addr, size;
};
struct hot {
	u64 addr, base; /* base: hash of the kept contents, once known */
};

KEEP struct region septum_regions[REGIONS_MAX];
KEEP u64 septum_regions_used;
KEEP static struct hot hot[HOT_MAX];
KEEP u64 septum_hot_used;
KEEP u64 septum_hot_lost; /* more pages than HOT_MAX were written */

extern u8 septum_volatile[], septum_volatile_end[];

static long protect(u64 addr, u64 size, long how)
{
	long result;

	asm volatile("syscall" : "=a"(result) : "a"(10), "D"(addr), "S"(size), "d"(how)
		     : "rcx", "r11", "memory");
	return result;
}

static u8 *kept(u64 n)
{
	return (u8 *)septum_config.saved + n * PAGE;
}

/* A write to a protected page: keep it and let the write happen.  Called by the signal handler. */
int septum_warm(u64 addr)
{
	u64 page = addr & -PAGE, n;

	for (n = 0; n < septum_regions_used; n++)
		if (page - septum_regions[n].addr < septum_regions[n].size)
			break;
	if (n == septum_regions_used)
		return 0;
	for (n = 0; n < septum_hot_used; n++)
		if (hot[n].addr == page)
			return 0; /* it is writable: another kind of fault */
	if (septum_hot_used == HOT_MAX) {
		septum_hot_lost = 1;
	} else {
		memcpy(kept(septum_hot_used), (void *)page, PAGE);
		hot[septum_hot_used++] = (struct hot){ page, 0 };
	}
	protect(page, PAGE, 7);
	return 1;
}

/* The present state is the start state.  Called on the main stack with nobody running. */
void septum_save(void)
{
	septum_hot_used = septum_hot_lost = 0;
	for (u64 n = 0; n < septum_regions_used; n++)
		protect(septum_regions[n].addr, septum_regions[n].size, 5);
}

/* Memory may be written without being noticed. */
void septum_unprotect(void)
{
	for (u64 n = 0; n < septum_regions_used; n++)
		protect(septum_regions[n].addr, septum_regions[n].size, 7);
}

/* Back to the start state. */
void septum_restore(void)
{
	for (u64 n = 0; n < septum_hot_used; n++)
		memcpy((void *)hot[n].addr, kept(n), PAGE);
}

/* --- snapshots --- */

u64 septum_pages_size(void)
{
	return septum_hot_used * PAGE;
}

u8 *septum_pages_keep(u8 *to)
{
	for (u64 n = 0; n < septum_hot_used; n++, to += PAGE)
		memcpy(to, (void *)hot[n].addr, PAGE);
	return to;
}

/* `pages`: how many were hot then; the others were as in the start state. */
const u8 *septum_pages_back(const u8 *from, u64 pages)
{
	for (u64 n = 0; n < pages; n++, from += PAGE)
		memcpy((void *)hot[n].addr, from, PAGE);
	for (u64 n = pages; n < septum_hot_used; n++)
		memcpy((void *)hot[n].addr, kept(n), PAGE);
	return from;
}

/* Which of a table's entries are neither 0 nor `empty`: their indices. */
u64 septum_used_entries(u64 page, u64 empty, u32 *out)
{
	u64 *entry = (u64 *)page, n = 0;

	for (u32 i = 0; i < 512; i++)
		if (entry[i] && entry[i] != empty)
			out[n++] = i;
	return n;
}

/* --- identity ---------------------------------------------------------------------------------- */

static u64 mix(u64 h)
{
	h ^= h >> 32;
	h *= 0xd6e8feb86659fd93ul;
	h ^= h >> 29;
	h *= 0xd6e8feb86659fd93ul;
	return h ^ h >> 32;
}

u64 septum_mix(u64 h, u64 value)
{
	return mix((h ^ value) * 0x9e3779b97f4a7c15ul + (h << 7 | h >> 57));
}

static inline u64 lane(u64 h, u64 word)
{
	h ^= word;
	return (h << 29 | h >> 35) * 0x9fb21c651e98df25ul;
}

/* Eight lanes side by side: a multiplication waits for the one before it in its own only. */
static u64 hash_page(const u64 *p, u64 seed)
{
	u64 h[8];

	for (u64 n = 0; n < 8; n++)
		h[n] = seed + n * 0x9e3779b97f4a7c15ul;
	for (int i = 0; i < 512; i += 8) {
		h[0] = lane(h[0], p[i]);
		h[1] = lane(h[1], p[i + 1]);
		h[2] = lane(h[2], p[i + 2]);
		h[3] = lane(h[3], p[i + 3]);
		h[4] = lane(h[4], p[i + 4]);
		h[5] = lane(h[5], p[i + 5]);
		h[6] = lane(h[6], p[i + 6]);
		h[7] = lane(h[7], p[i + 7]);
	}
	for (int n = 1; n < 8; n++)
		h[0] = mix(h[0] + (h[n] << 1 | h[n] >> 63));
	return h[0];
}

/* All that whoever looks at a whole page can have seen (septum.native.image.entries). */
u64 septum_page_hash(u64 page)
{
	return hash_page((u64 *)page, page);
}

/* Counters that only people read: a retry that counts itself is still the same retry. */
#define STATISTICS_MAX 16
KEEP struct region septum_statistics[STATISTICS_MAX];
KEEP u64 septum_statistics_used;
KEEP static u8 counted[STATISTICS_MAX * PAGE];

static void set_statistics_aside(void)
{
	u8 *to = counted;

	for (u64 n = 0; n < septum_statistics_used; n++) {
		struct region *r = &septum_statistics[n];

		memcpy(to, (void *)r->addr, r->size);
		memset((void *)r->addr, 0, r->size);
		to += r->size;
	}
}

static void put_statistics_back(void)
{
	u8 *from = counted;

	for (u64 n = 0; n < septum_statistics_used; n++) {
		memcpy((void *)septum_statistics[n].addr, from, septum_statistics[n].size);
		from += septum_statistics[n].size;
	}
}

/* The hash of a page in the start state, without statistics. */
static u64 base_of(u64 n)
{
	KEEP static u8 page[PAGE] __attribute__((aligned(8)));
	u64 addr = hot[n].addr;

	memcpy(page, kept(n), PAGE);
	for (u64 k = 0; k < septum_statistics_used; k++)
		for (u64 i = 0; i < septum_statistics[k].size; i++) {
			u64 at = septum_statistics[k].addr + i;

			if (at - addr < PAGE)
				page[at - addr] = 0;
		}
	return hash_page((u64 *)page, addr);
}

static u64 differs(u64 n)
{
	struct hot *h = &hot[n];

	if (!h->base)
		h->base = base_of(n);
	return hash_page((u64 *)h->addr, h->addr) - h->base;
}

/* Marks of candidates. */
static int marks(u64 addr)
{
	return addr >= septum_config.path_arena && addr - septum_config.shadow_arena < MARKS_SIZE;
}

/* What lies on pages that differ from the start state.  The runtime's own records of tasks,
 * blocks and time stamps (`.septum_volatile`) and its marks are left to those who know what
 * matters of them. */
u64 septum_memory_hash(void)
{
	u64 sum = 0;

	set_statistics_aside();
	for (u64 n = 0; n < septum_hot_used; n++)
		if (hot[n].addr - (u64)septum_volatile >= (u64)(septum_volatile_end - septum_volatile) &&
		    !marks(hot[n].addr))
			sum += differs(n);
	put_statistics_back();
	return sum;
}

/* What tasks did to the candidates for sharing. */
u64 septum_marks_hash(void)
{
	u64 sum = 0;

	for (u64 n = 0; n < septum_hot_used; n++)
		if (marks(hot[n].addr))
			sum += differs(n);
	return sum;
}
