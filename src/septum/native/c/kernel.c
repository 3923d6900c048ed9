// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel around KVM, as far as the compiled files need it: locks, SRCU, allocators, per-CPU
 * data, IPIs, files, the page cache.  Compiled with the headers of the kernel under test and
 * instrumented as its own files are; what is said here about a function is all that is modelled.
 */
#define pr_fmt(fmt) fmt
#include <linux/kvm_host.h>
#include <linux/anon_inodes.h>
#include <linux/fs.h>
#include <linux/file.h>
#include <linux/fs_context.h>
#include <linux/idr.h>
#include <linux/miscdevice.h>
#include <linux/mmu_notifier.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/pseudo_fs.h>
#include <linux/rcuwait.h>
#include <linux/slab.h>
#include <linux/srcu.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>
#include "septum.h"

#define M(name) septum_m_##name /* the linker drops the prefix: prototypes vary */

#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wmissing-declarations"

/* --- data that the kernel defines elsewhere ------------------------------------------------- */

DEFINE_PER_CPU_CACHE_HOT(struct task_struct *, current_task);
DEFINE_PER_CPU_CACHE_HOT(int, cpu_number);
DEFINE_PER_CPU_CACHE_HOT(unsigned long, this_cpu_off);
DEFINE_PER_CPU_CACHE_HOT(typeof(__preempt_count), __preempt_count);
DEFINE_PER_CPU(int, hardirqs_enabled);
DEFINE_PER_CPU(unsigned int, lockdep_recursion);
DEFINE_PER_CPU_READ_MOSTLY(struct cpuinfo_x86, cpu_info);
unsigned long __per_cpu_offset[NR_CPUS];
unsigned int nr_cpu_ids = NR_CPUS;
struct cpumask __cpu_possible_mask, __cpu_online_mask, __cpu_present_mask;
struct cpuinfo_x86 boot_cpu_data;
unsigned long page_offset_base, vmemmap_base, phys_base;
unsigned int pgdir_shift = 39, ptrs_per_p4d = 1;
int debug_locks = 1;
unsigned long volatile jiffies;
enum system_states system_state = SYSTEM_RUNNING;
struct lockdep_map rcu_lock_map, rcu_sched_lock_map;
u64 septum_memory_end;
static struct task_struct septum_task_struct;
static struct mm_struct septum_mm;

static struct cpumask *mask(struct cpumask *m) { return m; }

/* The image's memory is as loaded; `stride` is the distance of the per-CPU areas. */
void septum_kernel_setup(u64 offset_base, u64 map_base, u64 stride, u64 memory_end)
{
	int i, cpus = SEPTUM_CPUS;

	page_offset_base = offset_base;
	septum_memory_end = memory_end;
	vmemmap_base = map_base;
	nr_cpu_ids = cpus;
	boot_cpu_data.x86_phys_bits = 46;
	boot_cpu_data.x86_virt_bits = 48;
	boot_cpu_data.x86_vendor = X86_VENDOR_INTEL;
	for (i = 0; i < cpus; i++) {
		__per_cpu_offset[i] = stride * i;
		per_cpu(current_task, i) = &septum_task_struct;
		per_cpu(cpu_number, i) = i;
		per_cpu(this_cpu_off, i) = stride * i;
		per_cpu(hardirqs_enabled, i) = 1;
		per_cpu(__preempt_count, i) = PREEMPT_ENABLED;
		__cpumask_set_cpu(i, mask(&__cpu_possible_mask));
		__cpumask_set_cpu(i, mask(&__cpu_online_mask));
		__cpumask_set_cpu(i, mask(&__cpu_present_mask));
	}
	septum_task_struct.mm = &septum_mm;
}

/* --- locks ----------------------------------------------------------------------------------- */

void M(_raw_read_lock)(rwlock_t *l) { septum_lock(l, 1); }
void M(_raw_read_unlock)(rwlock_t *l) { septum_unlock(l, 1); }
int M(_raw_read_trylock)(rwlock_t *l) { return septum_trylock(l, 1); }
void M(_raw_write_lock)(rwlock_t *l)
{
	__preempt_count_add(1); /* rmaps ask for it, under mmu_lock */
	septum_lock(l, 0);
}
void M(_raw_write_unlock)(rwlock_t *l)
{
	septum_unlock(l, 0);
	__preempt_count_sub(1);
}
void M(_raw_spin_lock)(raw_spinlock_t *l) { septum_lock(l, 0); }
void M(_raw_spin_unlock)(raw_spinlock_t *l) { septum_unlock(l, 0); }
void M(_raw_spin_lock_irq)(raw_spinlock_t *l) { septum_lock(l, 0); }
void M(_raw_spin_unlock_irq)(raw_spinlock_t *l) { septum_unlock(l, 0); }
void M(_raw_spin_lock_bh)(raw_spinlock_t *l) { septum_lock(l, 0); }
void M(_raw_spin_unlock_bh)(raw_spinlock_t *l) { septum_unlock(l, 0); }
unsigned long M(_raw_spin_lock_irqsave)(raw_spinlock_t *l) { septum_lock(l, 0); return 0; }
void M(_raw_spin_unlock_irqrestore)(raw_spinlock_t *l, unsigned long f) { septum_unlock(l, 0); }
void M(mutex_lock_nested)(struct mutex *l, unsigned int s) { septum_lock(l, 0); }
int M(_mutex_lock_killable)(struct mutex *l, unsigned int s, struct lockdep_map *n)
{
	septum_lock(l, 0);
	return 0;
}
int M(mutex_lock_killable_nested)(struct mutex *l, unsigned int s) { septum_lock(l, 0); return 0; }
int M(mutex_trylock)(struct mutex *l) { return septum_trylock(l, 0); }
int M(_mutex_trylock_nest_lock)(struct mutex *l, struct lockdep_map *n) { return septum_trylock(l, 0); }
void M(mutex_unlock)(struct mutex *l) { septum_unlock(l, 0); }
void M(down_read)(struct rw_semaphore *l) { septum_lock(l, 1); }
void M(up_read)(struct rw_semaphore *l) { septum_unlock(l, 1); }
void M(down_write)(struct rw_semaphore *l) { septum_lock(l, 0); }
void M(up_write)(struct rw_semaphore *l) { septum_unlock(l, 0); }
void M(cpus_read_lock)(void) { }
void M(cpus_read_unlock)(void) { }

/* Statically initialised or zeroed locks are good as they are. */
void M(__rwlock_init)(rwlock_t *l, const char *n, struct lock_class_key *k) { }
void M(__raw_spin_lock_init)(raw_spinlock_t *l, const char *n, struct lock_class_key *k, short i) { }
void M(mutex_init_lockdep)(struct mutex *l, const char *n, struct lock_class_key *k) { }
void M(mutex_init_lockep)(struct mutex *l, const char *n, struct lock_class_key *k) { } /* 6.19 */
void M(__mutex_init)(struct mutex *l, const char *n, struct lock_class_key *k) { }
void M(__init_rwsem)(struct rw_semaphore *l, const char *n, struct lock_class_key *k) { }
void M(lockdep_init_map_type)(struct lockdep_map *m, const char *n, struct lock_class_key *k, int s,
			   u8 i, u8 o, u8 t) { }

int M(lock_is_held_type)(const struct lockdep_map *map, int read)
{
	if (map == &rcu_lock_map || map == &rcu_sched_lock_map)
		return 1;
	/* read: 0 for write, 1 for read, -1 for either (LOCK_STATE_*). */
	return septum_holds((void *)map, read);
}
void M(lock_acquire)(struct lockdep_map *m, unsigned int s, int t, int r, int c,
		  struct lockdep_map *n, unsigned long ip) { }
void M(lock_release)(struct lockdep_map *m, unsigned long ip) { }
int septum_is_running(void);
int M(debug_lockdep_rcu_enabled)(void) { return septum_is_running(); }
int M(rcu_read_lock_held)(void) { extern int septum_rcu_held(void); return septum_rcu_held(); }
bool M(rcu_is_watching)(void) { return true; }
void M(lockdep_rcu_suspicious)(const char *file, const int line, const char *s)
{
	septum_problem(SEPTUM_LOCKDEP, (u64)__builtin_return_address(0), 0, s);
}
void M(lockdep_hardirqs_on)(unsigned long ip) { this_cpu_write(hardirqs_enabled, 1); }
void M(lockdep_hardirqs_off)(unsigned long ip) { this_cpu_write(hardirqs_enabled, 0); }
void M(lockdep_hardirqs_on_prepare)(void) { }
void M(trace_hardirqs_on)(void) { this_cpu_write(hardirqs_enabled, 1); }
void M(trace_hardirqs_off)(void) { this_cpu_write(hardirqs_enabled, 0); }
void M(trace_hardirqs_off_finish)(void) { this_cpu_write(hardirqs_enabled, 0); }
void M(trace_hardirqs_on_prepare)(void) { }
void M(fs_reclaim_acquire)(gfp_t g) { }
void M(fs_reclaim_release)(gfp_t g) { }
void M(__might_fault)(const char *f, int l) { }
void M(preempt_schedule_thunk)(void) { }
void M(preempt_schedule_notrace_thunk)(void) { }

/* Reschedules that walks of page tables may meet: so many per task, each of them a choice. */
u64 septum_yields;
static struct {
	u64 used, due;
} septum_reschedule[SEPTUM_TASKS + 1];
u64 septum_recovering[SEPTUM_TASKS + 1];	/* the task runs the NX recovery worker */

bool septum_need_resched(void)
{
	int task = septum_task();

	if (!septum_exploring || septum_reschedule[task].used >= septum_yields ||
	    !septum_choose("yield?", 2))
		return false;
	septum_reschedule[task].used++;
	septum_reschedule[task].due = 1;
	return true;
}

static int resched(rwlock_t *l, int shared)
{
	int task = septum_task();

	if (!septum_reschedule[task].due)
		return 0;
	septum_reschedule[task].due = 0;
	septum_tell(SEPTUM_TELL_REACHED, septum_get(&septum_recovering[task]) ?
		    (u64)"NX recovery yielded mmu_lock" : (u64)"a walk yielded mmu_lock", 0);
	septum_unlock(l, shared);
	septum_lock(l, shared);
	return 1;
}
int M(__cond_resched_rwlock_read)(rwlock_t *l) { return resched(l, 1); }
int M(__cond_resched_rwlock_write)(rwlock_t *l) { return resched(l, 0); }

/* --- SRCU: a shared lock per index; synchronize waits for the readers it saw ------------------ */

int M(init_srcu_struct_lockdep)(struct srcu_struct *s, const char *n, struct lock_class_key *k)
{
	return 0;
}
int M(__init_srcu_struct)(struct srcu_struct *s, const char *n, struct lock_class_key *k) { return 0; }
void M(cleanup_srcu_struct)(struct srcu_struct *s) { }
void M(__srcu_check_read_flavor)(struct srcu_struct *s, int f) { }
int M(__srcu_read_lock)(struct srcu_struct *s) { septum_lock(s, 1); return 0; }
void M(__srcu_read_unlock)(struct srcu_struct *s, int i) { septum_unlock(s, 1); }

/* Stronger than the kernel's: also waits for sections that began later (docs/kernel.md). */
static void grace(struct srcu_struct *s)
{
	septum_lock(s, 0);
	septum_unlock(s, 0);
}
void M(synchronize_srcu)(struct srcu_struct *s) { grace(s); }
void M(synchronize_srcu_expedited)(struct srcu_struct *s) { grace(s); }
void M(srcu_barrier)(struct srcu_struct *s) { }
void M(call_srcu)(struct srcu_struct *s, struct rcu_head *h, rcu_callback_t f) { grace(s); f(h); }
void M(synchronize_rcu)(void) { }
void M(rcu_barrier)(void) { }

/* --- memory ------------------------------------------------------------------------------------ */

struct kmem_cache {
	unsigned int size, align;
	void (*ctor)(void *);
};

static struct kmem_cache septum_caches[64];
static int septum_caches_used;

struct kmem_cache *M(__kmem_cache_create_args)(const char *name, unsigned int size,
					    struct kmem_cache_args *args, slab_flags_t flags)
{
	struct kmem_cache *c = &septum_caches[septum_caches_used++];

	c->size = size;
	c->align = max(args->align, 16u);
	c->ctor = args->ctor;
	return c;
}
void M(kmem_cache_destroy)(struct kmem_cache *c) { }

/* How many allocations of caches and pages that may sleep may fail: each of them a choice. */
u64 septum_alloc_failures;

static bool fails(gfp_t flags)
{
	u64 *left = &septum_alloc_failures;

	if (!septum_exploring || !(flags & __GFP_DIRECT_RECLAIM) || flags & __GFP_NOFAIL ||
	    !READ_ONCE(*left) || !septum_choose("allocation fails?", 2))
		return false;
	septum_touch(left, 8, SEPTUM_RMW | SEPTUM_ATOMIC);
	if (!septum_get(left))
		return false; /* another task's failed meanwhile */
	septum_set(left, septum_get(left) - 1);
	septum_tell(SEPTUM_TELL_REACHED, (u64)"an allocation failed", 0);
	return true;
}

void *M(kmem_cache_alloc_noprof)(struct kmem_cache *c, gfp_t flags)
{
	void *p;

	if (fails(flags))
		return NULL;
	p = septum_alloc(c->size, c->align);
	if (c->ctor)
		c->ctor(p);
	return p;
}
void *M(kmem_cache_alloc_lru_noprof)(struct kmem_cache *c, struct list_lru *l, gfp_t flags)
{
	return kmem_cache_alloc_noprof(c, flags);
}
void M(kmem_cache_free)(struct kmem_cache *c, void *p) { septum_free(p); }
void M(kfree)(const void *p) { septum_free((void *)p); }
void M(kvfree)(const void *p) { septum_free((void *)p); }
void M(vfree)(const void *p) { septum_free((void *)p); }

static struct kmem_cache septum_radix = { sizeof(struct xa_node), 64, NULL };
struct kmem_cache *radix_tree_node_cachep;

void M(radix_tree_node_rcu_free)(struct rcu_head *head)
{
	septum_free(container_of(head, struct xa_node, rcu_head));
}

/* Sized allocations: every variant of every version ends here (see septum.native.stubs).
 * Sizes that are powers of two are aligned to their size, as kmalloc() promises. */
void *septum_kmalloc(size_t size)
{
	size_t align = 64;

	while (align < size && align < PAGE_SIZE)
		align *= 2;
	return septum_alloc(size, align);
}

static struct page *page_of(void *p) { return virt_to_page(p); }

struct page *M(alloc_pages_node_noprof)(int nid, gfp_t gfp, unsigned int order)
{
	return page_of(septum_alloc(PAGE_SIZE << order, PAGE_SIZE << order));
}
struct page *M(__alloc_pages_noprof)(gfp_t gfp, unsigned int order)
{
	return page_of(septum_alloc(PAGE_SIZE << order, PAGE_SIZE << order));
}
struct page *M(alloc_pages_noprof)(gfp_t gfp, unsigned int order)
{
	return page_of(septum_alloc(PAGE_SIZE << order, PAGE_SIZE << order));
}
unsigned long M(get_free_pages_noprof)(gfp_t gfp, unsigned int order)
{
	return fails(gfp) ? 0 : (unsigned long)septum_alloc(PAGE_SIZE << order, PAGE_SIZE << order);
}
unsigned long M(get_zeroed_page_noprof)(gfp_t gfp) { return get_free_pages_noprof(gfp, 0); }

static void give_back(void *p)
{
	septum_tell(SEPTUM_TELL_FREED, __pa(p) >> PAGE_SHIFT, 0);
	septum_free(p);
}
void M(free_pages)(unsigned long addr, unsigned int order)
{
	if (addr)
		give_back((void *)addr);
}
void M(__free_pages)(struct page *page, unsigned int order)
{
	if (page)
		give_back(page_address(page));
}

void septum_memory_setup(void)
{
	radix_tree_node_cachep = &septum_radix;
}

void M(__mmdrop)(struct mm_struct *mm) { }
void M(mod_node_page_state)(struct pglist_data *p, enum node_stat_item i, long d) { }
void M(mark_page_accessed)(struct page *p) { }
unsigned long M(_copy_from_user)(void *to, const void __user *from, unsigned long n)
{
	memcpy(to, (void *)from, n);
	return 0;
}
unsigned long M(_copy_to_user)(void __user *to, const void *from, unsigned long n)
{
	memcpy((void *)to, from, n);
	return 0;
}
void *M(memdup_user)(const void __user *src, size_t len)
{
	return memcpy(septum_kmalloc(len), (void *)src, len);
}
void *M(vmemdup_user)(const void __user *src, size_t len) { return memdup_user(src, len); }

/* get_user(): the value comes back in rdx, 0 in rax, as asm/uaccess.h expects. */
asm(".text\n.globl __get_user_4\n__get_user_4: movl (%rax),%edx\nxorl %eax,%eax\nret\n"
    ".globl __get_user_8\n__get_user_8: movq (%rax),%rdx\nxorl %eax,%eax\nret\n"
    ".globl __put_user_4\n__put_user_4: movl %eax,(%rcx)\nxorl %ecx,%ecx\nret\n"
    ".globl __put_user_8\n__put_user_8: movq %rax,(%rcx)\nxorl %ecx,%ecx\nret\n"
    ".globl rep_movs_alternative\nrep_movs_alternative: rep movsb\nret\n");
/* Called with registers of their own: only rax, rcx and rdi may change.  Guest memory has no
 * contents. */
asm(".text\n.globl __clear_pages_unrolled\n__clear_pages_unrolled:\n"
    "cmp septum_memory_end(%rip),%rdi\njae 1f\nrep stosb\n1: ret\n"
    ".globl clear_page_orig\nclear_page_orig: movl $4096,%ecx\nxorl %eax,%eax\n"
    "jmp __clear_pages_unrolled\n");
void M(clflush_cache_range)(void *p, unsigned int n) { }

/* --- bits and strings ---------------------------------------------------------------------------- */

unsigned long M(_find_next_bit)(const unsigned long *p, unsigned long n, unsigned long at)
{
	for (; at < n; at++)
		if (p[at / 64] >> (at % 64) & 1)
			return at;
	return n;
}
unsigned long M(_find_first_bit)(const unsigned long *p, unsigned long n)
{
	return _find_next_bit(p, n, 0);
}
void M(__bitmap_set)(unsigned long *p, unsigned int at, int n)
{
	for (; n > 0; n--, at++)
		p[at / 64] |= 1ul << (at % 64);
}
void M(__bitmap_clear)(unsigned long *p, unsigned int at, int n)
{
	for (; n > 0; n--, at++)
		p[at / 64] &= ~(1ul << (at % 64));
}
unsigned long M(__sw_hweight64)(u64 w);
unsigned int M(__sw_hweight32)(unsigned int w) { return M(__sw_hweight64)(w); }
unsigned long M(__sw_hweight64)(u64 w)
{
	unsigned long n = 0;

	for (; w; w &= w - 1)
		n++;
	return n;
}
bool M(sysfs_streq)(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}
void *M(memchr_inv)(const void *p, int c, size_t n)
{
	const u8 *at = p;

	for (; n; n--, at++)
		if (*at != (u8)c)
			return (void *)at;
	return NULL;
}
int M(snprintf)(char *buf, size_t n, const char *fmt, ...)
{
	if (n)
		buf[0] = 0;
	return 0;
}
int M(_printk)(const char *fmt, ...) { return 0; }
int M(___ratelimit)(struct ratelimit_state *rs, const char *func) { return 0; }
unsigned long M(__msecs_to_jiffies)(const unsigned int ms) { return ms / (1000 / HZ); }
ktime_t M(ktime_get)(void) { return 0; }

/* --- CPUs and IPIs ---------------------------------------------------------------------------------- */

void septum_ipi(int cpu, void (*func)(void *), void *info, bool wait);

int M(smp_call_function_single)(int cpu, void (*func)(void *), void *info, int wait)
{
	septum_ipi(cpu, func, info, wait);
	return 0;
}
void M(smp_call_function_many)(const struct cpumask *m, void (*func)(void *), void *info, bool wait)
{
	int cpu;

	for_each_cpu(cpu, m)
		if (cpu != smp_processor_id())
			septum_ipi(cpu, func, info, wait);
}
void M(on_each_cpu_cond_mask)(smp_cond_func_t cond, void (*func)(void *), void *info, bool wait,
			   const struct cpumask *m)
{
	int cpu;

	for_each_cpu(cpu, m) {
		if (cond && !cond(cpu, info))
			continue;
		if (cpu == smp_processor_id())
			func(info);
		else
			septum_ipi(cpu, func, info, wait);
	}
}
struct septum_call {
	int (*func)(void *);
	void *arg;
	int ret;
};
static void septum_called(void *arg)
{
	struct septum_call *c = arg;

	c->ret = c->func(c->arg);
}
int M(smp_call_on_cpu)(unsigned int cpu, int (*func)(void *), void *arg, bool phys)
{
	struct septum_call c = { func, arg, 0 };

	septum_on_cpu(cpu, septum_called, &c);
	return c.ret;
}
void M(wbinvd_on_all_cpus)(void) { }
void M(finish_rcuwait)(struct rcuwait *w) { rcu_assign_pointer(w->task, NULL); }

/* --- identifiers --------------------------------------------------------------------------------------- */

int M(ida_alloc_range)(struct ida *ida, unsigned int min, unsigned int max, gfp_t gfp) { return min; }
void M(ida_free)(struct ida *ida, unsigned int id) { }
void M(__module_put_and_kthread_exit)(struct module *m, long c) { }

/* --- registration of things that nobody uses here ------------------------------------------------------------- */

int M(misc_register)(struct miscdevice *m) { return 0; }
