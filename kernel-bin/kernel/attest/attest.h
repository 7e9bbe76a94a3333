// SPDX-License-Identifier: Apache-2.0
//
// attest: the launch record and what it proves: policy, measurement registers, event log. docs/launch-record.md has the
// format. Everything is parsed once at boot from a private copy, after it was measured; afterwards it is read-only.
#ifndef ATTEST_ATTEST_H
#define ATTEST_ATTEST_H
#include "task/task.h"
#include "host/host.h"

enum mount_type { MOUNT_CHROOT, MOUNT_TMPFS, MOUNT_ENCRYPTED, MOUNT_UNTRUSTED_SHM };
struct policy_mount { char *path; enum mount_type type; char *uri; char *key; bool rw; };
// The tree of trusted host paths. A directory has children; names sorted by bytes.
struct trusted_node {
  const char *name; u32 name_len;
  enum { TRUSTED_DIR, TRUSTED_FILE, TRUSTED_LINK } kind;
  struct trusted_node *parent, *children; u32 child_count; // children: an array
  u8 sha256[32];
  bool has_meta; u64 size; u32 mode; u8 root[32];
  const char *target; u32 target_len;                      // link
  const u8 *leaves; u64 leaf_count;                         // hint from the host, not yet checked; NULL
  u64 mtime_ns;                                             // the host's word, which nothing can check; 0: not given
  void *state;                                              // fs room: verification state
  u32 id;                                                   // unique, for inode numbers
};
struct policy {
  char *entrypoint;
  char **argv; u32 argc; enum { ARGS_MANIFEST, ARGS_CMDLINE, ARGS_FILE } args_from; char *args_file;
  char **env_set; u32 env_set_n;                            // "NAME=VALUE"
  char **env_pass; u32 env_pass_n; bool env_all; char *env_file;
  u32 uid, gid; char *cwd;
  struct policy_mount *mounts; u32 mount_count;
  struct trusted_node *trusted;                             // the root directory "/"; its child "." holds relative paths
  char **allowed; u32 allowed_n;
  bool allow_all_but_log;
  u64 stack_bytes, brk_bytes, fd_limit;
  struct { u16 port; bool udp; } *publish; u32 publish_n;
  char **outbound; u32 outbound_n;
  bool aslr, sigterm, subprocesses, flock, eventfd, domain_names; u32 log;
  struct { char *name; u8 key[16]; } *keys; u32 keys_n;
  struct { char *name; s64 ret; } *mock; u32 mock_n;
  bool dcap;
};
extern struct policy policy;
struct invocation { char **argv; u32 argc; char **env; u32 envc; };
extern struct invocation invocation;
// hostname and resolv_conf only where the policy asks for them (sys.enable_extra_runtime_domain_names_conf).
struct host_hints { u64 time_ns; bool tty; u16 rows, cols; char hostname[65]; char *resolv_conf; };
extern struct host_hints host_hints;
extern u64 vm_memory_bytes; extern u32 vm_cpus;

// The CFV's header (16 bytes, from anywhere): bytes of header and record together, at most `max`; 0: not a CFV. For the
// one copy that boot makes.
size_t attest_cfv_bytes(const void *header, size_t max);
// Before any allocator: finds `vm`. `cfv` is boot's private copy, header included; it stays where it is for ever, as
// strings of the policy point into it. -EINVAL (a line was logged).
int __must_check attest_early_vm(const void *cfv, size_t len, u64 *memory, u32 *cpu_total);
void attest_init(void);  // measures, parses; a record that does not parse stops the boot with a message
// Trusted tree and allow list, by normalised host path ("/usr/lib/x" or "./x"). NULL / false: not mentioned.
struct trusted_node *trusted_find(const char *path);
struct trusted_node *trusted_child(const struct trusted_node *dir, const char *name, size_t len);
bool allowed_path(const char *path);                 // the path itself, or below an allowed directory
bool allowed_below(const char *path);                // something below this directory may be allowed or trusted
// Final argv and envp for process 1 by the policy's rules. -EPERM with a line when the command line is not allowed.
// The arrays and strings are kmalloc'ed, NULL-terminated and the caller's. Call after the root mount when the policy takes
// arguments or environment from a file.
int __must_check attest_build_args(char ***argv, char ***envp);
// Installed by the fs room: reads a host file that the policy trusts or allows, whole; *data is kmalloc'ed.
extern int (*attest_read_file)(const char *host_path, char **data, size_t *len);

// --- measurement
void rtmr_read(unsigned index, u8 out[48]);
// Appends an event to the TCG2 log and extends the register. `data` is copied.
int __must_check measure_event(unsigned rtmr, u32 type, const char *what, const void *data, size_t len);
const u8 *event_log(size_t *len); // stays valid; grows at its end only
// --- proofs, and what else is behind /dev/attestation (fs/attestfs.c; docs/attestation.md)
#define ATTEST_DATA_BYTES 64
#define ATTEST_REPORT_BYTES 1024
#define ATTEST_KEY_BYTES 16
#define ATTEST_EVENT_MAX 4096 // bytes of one event of the program
const char *attest_type(void); // "none": there are no quotes; "dcap"; "dcap-simulated"
int __must_check attest_report(const u8 data[ATTEST_DATA_BYTES], u8 report[ATTEST_REPORT_BYTES]); // -ENODEV: no TD
// Asks the host and waits, with a limit. *quote is kmalloc'ed. -ENODEV: no TD, not asked for by the manifest, or the host
// has no quoting service; -ERESTARTSYS; -ETIMEDOUT; -EIO: a wrong answer (a line was logged). Process context, no locks.
int __must_check attest_quote(const u8 data[ATTEST_DATA_BYTES], u8 **quote, size_t *len);
// An event of the program's own in RTMR3: its digest is SHA-384 of the data. -ENOSPC: the log is full.
int __must_check attest_program_event(const void *data, size_t len);
int attest_key_find(const char *name);                            // index or -ENOENT
const char *attest_key_name(u32 index);                           // NULL past the last
bool attest_key_read(u32 index, u8 out[ATTEST_KEY_BYTES]);        // false: it has no value yet
void attest_key_write(u32 index, const u8 key[ATTEST_KEY_BYTES]);
#endif
