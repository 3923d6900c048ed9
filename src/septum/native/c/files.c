// SPDX-License-Identifier: GPL-2.0-only
/*
 * Files as far as KVM's descriptors and guest_memfd need them: reference counts, release, the
 * pseudo file system's inodes, and the page cache.  Instrumented like kernel.c.
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


void *septum_kmalloc(size_t size);

/* --- files: guest_memfd and the three KVM descriptors ------------------------------------------------------ */

#define FILES 32
static struct file *septum_files[FILES];
static int septum_files_used = 3;

int M(get_unused_fd_flags)(unsigned int flags) { return septum_files_used++; }
void M(put_unused_fd)(unsigned int fd) { }
void M(fd_install)(unsigned int fd, struct file *file) { septum_files[fd] = file; }
struct file *septum_file(int fd) { return septum_files[fd]; }

static struct file *new_file(const struct file_operations *fops, void *priv)
{
	struct file *f = septum_kmalloc(sizeof(*f));

	f->f_op = fops;
	f->private_data = priv;
	file_ref_init(&f->f_ref, 1);
	return f;
}
struct file *M(anon_inode_getfile)(const char *n, const struct file_operations *fops, void *priv,
				int flags)
{
	return new_file(fops, priv);
}
struct file *M(anon_inode_getfile_fmode)(const char *n, const struct file_operations *fops,
				      void *priv, int flags, fmode_t mode)
{
	return new_file(fops, priv);
}
int M(anon_inode_getfd)(const char *n, const struct file_operations *fops, void *priv, int flags)
{
	int fd = get_unused_fd_flags(0);

	fd_install(fd, new_file(fops, priv));
	return fd;
}
struct file *M(fget)(unsigned int fd)
{
	struct file *f = septum_files[fd];

	if (f)
		file_ref_inc(&f->f_ref);
	return f;
}
/* The last reference goes: nobody may take one any more. */
bool M(__file_ref_put)(file_ref_t *ref, unsigned long cnt)
{
	if (cnt != FILE_REF_NOREF)
		return false;
	return atomic_long_cmpxchg(&ref->refcnt, cnt, FILE_REF_DEAD) == cnt;
}
struct file *M(get_file_active)(struct file **slot)
{
	struct file *f = READ_ONCE(*slot);

	return f && file_ref_get(&f->f_ref) ? f : NULL;
}
/* The last reference calls ->release() at once, not from task work. */
void M(fput)(struct file *f)
{
	if (!file_ref_put(&f->f_ref))
		return;
	if (f->f_op->release)
		f->f_op->release(f->f_inode, f);
	septum_free(f);
}

static struct super_block septum_sb;
static struct vfsmount septum_mnt = { .mnt_sb = &septum_sb };
static struct pseudo_fs_context septum_pseudo;

struct pseudo_fs_context *M(init_pseudo)(struct fs_context *fc, unsigned long magic)
{
	fc->fs_private = &septum_pseudo;
	return &septum_pseudo;
}
struct vfsmount *M(kern_mount)(struct file_system_type *type)
{
	static struct fs_context fc;

	type->init_fs_context(&fc);
	septum_sb.s_op = septum_pseudo.ops;
	return &septum_mnt;
}
void M(inode_init_once)(struct inode *inode)
{
	memset(inode, 0, sizeof(*inode));
	inode->i_mapping = &inode->i_data;
	inode->i_data.host = inode;
#ifdef SEPTUM_PRIVATE_LIST
	INIT_LIST_HEAD(&inode->i_data.i_private_list); /* address_space_init_once() */
#endif
	xa_init_flags(&inode->i_data.i_pages, XA_FLAGS_LOCK_IRQ);
}
static u64 septum_inodes;
struct inode *M(anon_inode_make_secure_inode)(struct super_block *sb, const char *n,
					   const struct inode *ctx)
{
	struct inode *inode = sb->s_op && sb->s_op->alloc_inode ? sb->s_op->alloc_inode(sb) :
								  NULL;

	if (!inode) {
		inode = septum_kmalloc(sizeof(*inode));
		inode_init_once(inode);
	}
	inode->i_mapping = &inode->i_data;
	inode->i_data.host = inode;
	inode->i_ino = septum_inodes++;	/* its share of the page cache below */
	return inode;
}
static struct file *file_of(struct inode *inode, const struct file_operations *fops, void *priv)
{
	struct file *f = new_file(fops, priv);

	f->f_inode = inode;
	f->f_mapping = inode->i_mapping;
	return f;
}
struct file *M(alloc_file_pseudo)(struct inode *inode, struct vfsmount *m, const char *n, int flags,
			       const struct file_operations *fops)
{
	return file_of(inode, fops, NULL);
}
struct file *M(anon_inode_create_getfile)(const char *n, const struct file_operations *fops,
					  void *priv, int flags, const struct inode *ctx)
{
	return file_of(M(anon_inode_make_secure_inode)(&septum_sb, n, ctx), fops, priv);
}
int M(file_modified)(struct file *f) { return 0; }
void M(iput)(struct inode *inode) { }

/* --- the page cache of guest_memfd: one slot per index ------------------------------------------------------- */

#define CACHE_SLOTS 1024	/* pages of a file */
#define SEPTUM_INODES 2
#define FOLIOS 256	/* per task */
u64 septum_gmem_pfn;	/* first PFN of guest memory, which nothing backs */
static struct folio *septum_cache[SEPTUM_INODES * CACHE_SLOTS];
static u64 septum_folios[SEPTUM_TASKS + 1];

static struct folio **cache_slot(struct address_space *mapping, pgoff_t index)
{
	return &septum_cache[mapping->host->i_ino % SEPTUM_INODES * CACHE_SLOTS + index];
}

/* A page of the running task's share; never used twice in an execution. */
static struct folio *new_folio(struct address_space *mapping, pgoff_t index)
{
	int task = septum_task();
	u64 n = septum_folios[task]++;
	struct folio *f;

	if (n == FOLIOS)
		septum_die("the task's guest memory is used up");
	f = page_folio(pfn_to_page(septum_gmem_pfn + task * FOLIOS + n));
	/* Not yet reachable: plain stores, no points.  Of kernels that look at it only to clear the
	 * page, which has no contents, the flag never changes. */
#ifdef SEPTUM_GMEM_PREPARES
	septum_set(f, BIT(PG_dirty));
#else
	septum_set(f, BIT(PG_uptodate) | BIT(PG_dirty));
#endif
	septum_set(&f->mapping, (u64)mapping);
	septum_set(&f->index, index);
	/* the cache's two and the caller's; the four bytes before are the (zero) type */
	septum_set((void *)((u64)&f->page._refcount & ~7ul), 3ul << 32);
	return f;
}

/*
 * One step: find or make the page, with a reference.  Folio locks are not modelled: what runs
 * under them here (flags of the page) concerns nobody else (docs/kernel.md).
 * The cache's own reference counts twice, so that users' references commute.
 */
struct folio *septum_get_folio(struct address_space *mapping, pgoff_t index, fgf_t fgp)
{
	struct folio **slot = cache_slot(mapping, index), *f, *fresh = NULL;

	if (fgp & FGP_CREAT)
		fresh = new_folio(mapping, index);
	septum_touch(slot, 8, SEPTUM_RMW | SEPTUM_ATOMIC);
	f = (struct folio *)septum_get(slot);
	if (!f) {
		septum_set(slot, (u64)fresh);
		return fresh ?: ERR_PTR(-ENOENT);
	}
	atomic_inc(&f->page._refcount);
	return f;
}
struct folio *M(__filemap_get_folio_mpol)(struct address_space *mapping, pgoff_t index, fgf_t fgp,
				       gfp_t gfp, struct mempolicy *policy)
{
	return septum_get_folio(mapping, index, fgp);
}
struct folio *M(__filemap_get_folio)(struct address_space *mapping, pgoff_t index, fgf_t fgp,
				  gfp_t gfp)
{
	return septum_get_folio(mapping, index, fgp);
}
void M(folio_unlock)(struct folio *f) { }

/* The last reference is gone: the page is the host's again. */
void M(__folio_put)(struct folio *f)
{
	septum_tell(SEPTUM_TELL_FREED, folio_pfn(f), 0);
}
void M(truncate_inode_pages_range)(struct address_space *mapping, loff_t start, loff_t end)
{
	pgoff_t index, last = min_t(u64, end >> PAGE_SHIFT, CACHE_SLOTS - 1);

	for (index = start >> PAGE_SHIFT; index <= last; index++) {
		struct folio **slot = cache_slot(mapping, index), *f;

		septum_touch(slot, 8, SEPTUM_RMW | SEPTUM_ATOMIC);
		f = (struct folio *)septum_get(slot);
		septum_set(slot, 0);
		if (f && atomic_sub_and_test(2, &f->page._refcount))
			M(__folio_put)(f);
	}
}
