// SPDX-License-Identifier: GPL-2.0-only
/*
 * Userspace's memory behind the memslots: the page tables of the process, which KVM walks itself
 * to find huge pages, get_user_pages(), and the MMU notifier around what takes pages away.
 */
#include <linux/mmu_notifier.h>
#include <linux/rcuwait.h>
#include "glue.h"

#define PAGES 16	/* pages of userspace that a scenario uses */
#define SMALL 64	/* pages per task that are made during an execution */
#define ENTRY (_PAGE_PRESENT | _PAGE_RW | _PAGE_USER)

struct host_page {
	u64 index;	/* number of the page in userspace, from SEPTUM_HVA on */
	u64 *pmd, *pte;	/* the table below the entry is made at once, used only without huge pages */
};

u64 septum_hva_pfn;	/* first PFN of this memory, which nothing backs */
u64 septum_hva_huge;	/* it is populated with 2M pages */
static struct host_page pages[PAGES];
static int pages_used;
static u64 small_used[SEPTUM_TASKS + 1], huge_used;
static struct mmu_notifier *notifier;

/* --- page tables ------------------------------------------------------------------------------ */

static u64 *table_of(u64 *entry)
{
	if (!septum_get(entry))
		septum_set(entry, __pa(septum_alloc(PAGE_SIZE, PAGE_SIZE)) | ENTRY);
	return __va(septum_get(entry) & PTE_PFN_MASK);
}

/* Make the tables above a page of userspace.  Before anybody explores. */
long septum_host_page(u64 index)
{
	struct host_page *p = &pages[pages_used++];
	u64 hva = SEPTUM_HVA + (index << PAGE_SHIFT);
	u64 *pgd = (u64 *)septum_kvm->mm->pgd, *pud;
	int i;

	if (!pgd) {
		pgd = septum_alloc(PAGE_SIZE, PAGE_SIZE);
		septum_kvm->mm->pgd = (pgd_t *)pgd;
	}
	pud = table_of(pgd + (hva >> PGDIR_SHIFT & 511));
	p->index = index;
	p->pmd = table_of(pud + (hva >> PUD_SHIFT & 511)) + (hva >> PMD_SHIFT & 511);
	for (i = 0; i < pages_used - 1; i++)
		if (pages[i].pmd == p->pmd)
			p->pte = pages[i].pte;
	if (!p->pte) {
		p->pte = septum_alloc(PAGE_SIZE, PAGE_SIZE);
		if (!septum_hva_huge)
			septum_set(p->pmd, __pa(p->pte) | ENTRY);
	}
	return 0;
}

static struct host_page *page_at(u64 hva)
{
	u64 index = hva - SEPTUM_HVA >> PAGE_SHIFT;
	int i;

	for (i = 0; i < pages_used; i++)
		if (pages[i].index == index)
			return &pages[i];
	return NULL;
}

/* A page that nobody can reach yet; the process's own reference counts twice, as that of the
 * page cache does (files.c). */
static u64 fresh(u64 pfn, u64 n)
{
	for (; n--; pfn++) {
		struct page *page = pfn_to_page(pfn);

		septum_set(page, BIT(PG_uptodate) | BIT(PG_dirty));
		septum_set((void *)((u64)&page->_refcount & ~7ul), 2ul << 32);
	}
	return pfn;
}

static u64 small_page(void)
{
	int task = septum_task();
	u64 pfn = septum_hva_pfn + task * SMALL + small_used[task]++;

	if (small_used[task] > SMALL)
		septum_die("the task's user memory is used up");
	fresh(pfn, 1);
	return pfn;
}

static u64 huge_page(void)
{
	u64 first = septum_hva_pfn + (SEPTUM_TASKS + 1) * SMALL;
	u64 pfn = (first + 511 & ~511ul) + 512 * huge_used++;

	fresh(pfn, 512);
	return pfn;
}

static u64 pfn_in(u64 entry) { return (entry & PTE_PFN_MASK) >> PAGE_SHIFT; }

/*
 * One step on the entry that maps the page, or would: the page with a reference.  Who clears the
 * entry puts the process's reference only after that, so taking one here is safe.
 */
static struct page *get_page_at(u64 hva, bool populate)
{
	struct host_page *p = page_at(hva);
	struct page *page;
	u64 pfn, v;

	if (!p)
		return NULL;
	septum_touch(p->pmd, 8, SEPTUM_RMW | SEPTUM_ATOMIC);
	v = septum_get(p->pmd);
	if (!v) {
		if (!populate)
			return NULL;
		v = huge_page() << PAGE_SHIFT | ENTRY | _PAGE_PSE;
		septum_set(p->pmd, v);
	}
	if (v & _PAGE_PSE) {
		pfn = pfn_in(v) + (p->index & 511);
	} else {
		u64 *pte = p->pte + (p->index & 511);

		septum_touch(pte, 8, SEPTUM_RMW | SEPTUM_ATOMIC);
		v = septum_get(pte);
		if (!v) {
			if (!populate)
				return NULL;
			v = small_page() << PAGE_SHIFT | ENTRY;
			septum_set(pte, v);
		}
		pfn = pfn_in(v);
	}
	page = pfn_to_page(pfn);
	asm volatile("incl %0" : "+m"(page->_refcount.counter));
	return page;
}

int M(get_user_pages_fast_only)(unsigned long at, int n, unsigned int flags, struct page **out)
{
	out[0] = get_page_at(at, false);
	return out[0] ? 1 : 0;
}
long M(get_user_pages_unlocked)(unsigned long at, unsigned long n, struct page **out,
				unsigned int flags)
{
	out[0] = get_page_at(at, true);
	return out[0] ? 1 : -EFAULT;
}

/* The page that backs a page of userspace now; 0: none.  For monitors. */
u64 septum_host_pfn(u64 index)
{
	struct host_page *p = NULL;
	u64 v;
	int i;

	for (i = 0; i < pages_used; i++)
		if (pages[i].index >> 9 == index >> 9)
			p = &pages[i];
	v = p ? septum_get(p->pmd) : 0;
	if (v & _PAGE_PSE)
		return pfn_in(v) + (index & 511);
	return v ? pfn_in(septum_get(p->pte + (index & 511))) : 0;
}

/* --- taking pages away ------------------------------------------------------------------------- */

static void put_host(u64 pfn)
{
	if (atomic_sub_and_test(2, &pfn_to_page(pfn)->_refcount))
		septum_tell(SEPTUM_TELL_FREED, pfn, 0);
}

/* A part of a huge page goes: the rest stays, in small pages. */
static u64 split(struct host_page *p, u64 huge)
{
	u64 gone = pfn_in(huge) + (p->index & 511);
	int i;

	for (i = 0; i < 512; i++)
		septum_set(p->pte + i, i == (p->index & 511) ? 0 :
			   (pfn_in(huge) + i) << PAGE_SHIFT | ENTRY);
	septum_set(p->pmd, __pa(p->pte) | ENTRY);
	return gone;
}

static void truncate(struct host_page *p)
{
	u64 *pte = p->pte + (p->index & 511);
	u64 v;

	septum_touch(p->pmd, 8, SEPTUM_RMW | SEPTUM_ATOMIC);
	v = septum_get(p->pmd);
	if (v & _PAGE_PSE) {
		put_host(split(p, v));
	} else if (v) {
		septum_touch(pte, 8, SEPTUM_RMW | SEPTUM_ATOMIC);
		v = septum_get(pte);
		septum_set(pte, 0);
		if (v)
			put_host(pfn_in(v));
	}
}

/* userspace's pages [start, end) are unmapped and freed. */
long septum_op_unmap_hva(u64 start, u64 end)
{
	struct mmu_notifier_range range = {
		.mm = septum_kvm->mm,
		.start = SEPTUM_HVA + (start << PAGE_SHIFT),
		.end = SEPTUM_HVA + (end << PAGE_SHIFT),
		.flags = MMU_NOTIFIER_RANGE_BLOCKABLE,
	};
	u64 before;
	int i;

	before = septum_get(&septum_kvm->mmu_invalidate_in_progress);
	notifier->ops->invalidate_range_start(notifier, &range);
	if (septum_get(&septum_kvm->mmu_invalidate_in_progress) == before)
		septum_tell(SEPTUM_TELL_REACHED, (u64)"a notifier found no slot", 0);
	septum_happened(SEPTUM_HANDED_OVER, 0, 0);
	for (i = 0; i < pages_used; i++)
		if (pages[i].index >= start && pages[i].index < end)
			truncate(&pages[i]);
	notifier->ops->invalidate_range_end(notifier, &range);
	return 0;
}

long septum_op_age(u64 start, u64 end)
{
	return notifier->ops->clear_young(notifier, septum_kvm->mm,
					  SEPTUM_HVA + (start << PAGE_SHIFT),
					  SEPTUM_HVA + (end << PAGE_SHIFT));
}

long septum_op_test_age(u64 start)
{
	return notifier->ops->test_young(notifier, septum_kvm->mm,
					 SEPTUM_HVA + (start << PAGE_SHIFT));
}

int M(mmu_notifier_register)(struct mmu_notifier *n, struct mm_struct *mm)
{
	notifier = n;
	return 0;
}
void M(mmu_notifier_unregister)(struct mmu_notifier *n, struct mm_struct *mm)
{
	n->ops->release(n, mm);
}
void M(gfn_to_pfn_cache_invalidate_start)(struct kvm *kvm, unsigned long start,
					  unsigned long end) { }
void M(kvm_arch_guest_memory_reclaimed)(struct kvm *kvm) { }

/* kvm_swap_active_memslots() is the only caller: until no notifier is between start and end. */
static int no_notifier(void *arg)
{
	return !septum_get(arg);
}
void M(schedule)(void)
{
	septum_tell(SEPTUM_TELL_REACHED, (u64)"a slot swap waited for a notifier", 0);
	septum_wait(no_notifier, &septum_kvm->mn_active_invalidate_count,
		    &septum_kvm->mn_active_invalidate_count);
}
