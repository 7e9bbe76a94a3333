// SPDX-License-Identifier: Apache-2.0
//
// hostfs, private to the fs room: what a mount of host files shows, and how far each inode is trusted. See hostfs.c.
#ifndef FS_HOSTFS_H
#define FS_HOSTFS_H
#include "fs/verify.h"
#include "fs/virtiofs.h"

enum host_right {
  RIGHT_NONE,    // not in the policy: exists for nobody
  RIGHT_BELOW,   // a directory above something allowed
  RIGHT_ALLOWED, // the host's, as it is
  RIGHT_TRUSTED, // known from the policy: the host cannot make it not exist
};
enum verify_state { VERIFY_NEW, VERIFY_BUSY, VERIFY_READY, VERIFY_BAD };

// What the host still has to hear of when a node is gone.
struct dead { struct list link; u64 nodeid, lookups, rd_fh, wr_fh; bool has_rd, has_wr; struct inode *parent; void *memory; };
struct hnode { // inode->priv; outlives the inode until the host has heard of its end
  struct inode *inode;
  struct super *super;
  const struct trusted_node *trusted; // NULL: nothing in the policy's tree
  bool allowed;                 // the path is allowed: names below it are the host's
  enum host_right right;        // as this object itself
  char *host_path;              // normalised; NULL for RIGHT_ALLOWED without a trusted part (its path may change)
  struct inode *parent;         // referenced, beside host_path; NULL: the mount's root
  struct list link;             // by node id, RIGHT_ALLOWED only; super's lock
  struct spinlock lock;         // RANK_OBJECT: guards what follows
  u64 nodeid, lookups;          // 0: not asked yet; how often the host counts us
  u64 attr_valid_until;
  u64 host_size; u64 host_mtime_ns; // as last seen there: a change means that somebody else wrote
  bool own_change;              // we wrote since
  u64 changed;                  // virtiofs_changes at our last change of it
  bool has_rd, has_wr, logged;
  u64 rd_fh, wr_fh;
  u32 writers;                  // open files that may write
  u32 pins;                     // requests under way that name wr_fh for somebody else than such a file
  enum verify_state vstate;
  struct verify verify;         // valid in VERIFY_READY
  struct waitq verify_wait;
  struct dead dead;
};
struct host_super { // super->priv
  const struct policy_mount *mount;
  u32 index;
  struct spinlock lock;         // RANK_OBJECT2: the table
  struct list table[256];
};

static inline struct hnode *hnode_of(const struct inode *i) { return i->priv; }
static inline struct host_super *host_super_of(const struct super *s) { return s->priv; }
// Something that was written is not on the host yet: dirty, or on its way. In this order: a write-back has wb_busy before
// it takes marks away, and until its WRITEs are answered.
static inline bool hostfs_unwritten(const struct inode *i) {
  return __atomic_load_n(&i->nr_dirty, __ATOMIC_ACQUIRE) || __atomic_load_n(&i->wb_busy, __ATOMIC_ACQUIRE);
}
// The host has answered to a change of ours. Before a write-back gives wb_busy back, or with i->lock held.
static inline void hostfs_changed(struct hnode *h) {
  spin_lock(&h->lock);
  h->changed = __atomic_add_fetch(&virtiofs_changes, 1, __ATOMIC_SEQ_CST);
  spin_unlock(&h->lock);
}
static inline u64 attr_time_ns(u64 sec, u32 nsec) { return sec * NS_PER_SEC + nsec; }

// hostfs.c
int hnode_resolve(struct hnode *h);                           // nodeid is known afterwards
void hnode_attr(struct inode *i, const struct host_entry *e); // takes what the host says; i->lock held or i not yet visible
int hostfs_refresh(struct inode *i, bool force);              // asks the host when its last answer is too old
void hnode_log(struct hnode *h, enum log_level level, const char *format); // once per inode; one %s: the path
#define NOT_ON_HOST "file:%s is in the manifest, but the host does not have it"
void hnode_forget_later(u64 nodeid, u64 lookups);
// hostfs_file.c
extern const struct file_ops hostfs_file_ops;
bool hostfs_pin(struct hnode *h, u64 *fh);                    // the handle for writing, kept open until unpin; false: no file has one
void hostfs_unpin(struct hnode *h);
int hostfs_open_regular(struct inode *i, struct file *f);
int hostfs_verify(struct hnode *h);                           // 0: VERIFY_READY; -EACCES, -EIO, -ERESTARTNOINTR...
int hostfs_read_pages(struct inode *i, struct page **pages, unsigned n, u64 index);
int hostfs_write_pages(struct inode *i, struct page **pages, unsigned n, u64 index);
int hostfs_read_host_file(const char *host_path, char **data, size_t *len);
// hostfs_dir.c
extern const struct file_ops hostfs_dir_ops;
enum host_right hostfs_right(const struct hnode *dir, const char *name, size_t len, const struct trusted_node **t, char **path);
#endif
