// SPDX-License-Identifier: Apache-2.0
//
// Arguments and environment of process 1, by the policy's rules (threat-model T8): what the policy does not admit stops
// the start with a line that names it.

#include "attest/internal.h"

int (*attest_read_file)(const char *host_path, char **data, size_t *len);

struct strings { char **v; size_t n, cap; };

static int strings_add(struct strings *s, const char *text) {
  if (s->n + 1 >= s->cap) {
    size_t cap = s->cap ? s->cap * 2 : 32;
    char **v = kmalloc(cap * sizeof(*v), 0);
    if (!v) return -ENOMEM;
    if (s->n) memcpy(v, s->v, s->n * sizeof(*v));
    kfree(s->v);
    s->v = v;
    s->cap = cap;
  }
  char *copy = kstrdup(text);
  if (!copy) return -ENOMEM;
  s->v[s->n++] = copy;
  s->v[s->n] = NULL;
  return 0;
}

static void strings_free(struct strings *s) {
  for (size_t i = 0; i < s->n; i++) kfree(s->v[i]);
  kfree(s->v);
}

static size_t name_len(const char *entry) {
  const char *eq = strchr(entry, '=');
  return eq ? (size_t)(eq - entry) : strlen(entry);
}

// NAME=VALUE replaces an earlier value of the same name.
static int env_put(struct strings *env, const char *entry) {
  size_t len = name_len(entry);
  for (size_t i = 0; i < env->n; i++) {
    if (name_len(env->v[i]) != len || memcmp(env->v[i], entry, len) != 0) continue;
    char *copy = kstrdup(entry);
    if (!copy) return -ENOMEM;
    kfree(env->v[i]);
    env->v[i] = copy;
    return 0;
  }
  return strings_add(env, entry);
}

// A file of NUL-terminated strings.
static int add_from_file(const char *path, struct strings *out, bool env) {
  char *data;
  size_t len;
  int err = attest_read_file ? attest_read_file(path, &data, &len) : -ENOSYS;
  if (err) {
    printk(LOG_ERROR, "cannot read %s from file:%s: error %d\n", env ? "the environment" : "the arguments", path, err);
    return err;
  }
  if (len == 0 || data[len - 1] != 0) {
    printk(LOG_ERROR, "file:%s does not hold NUL-terminated strings\n", path);
    err = -EINVAL;
  }
  for (size_t at = 0; !err && at < len; at += strlen(data + at) + 1) {
    if (env && !strchr(data + at, '=')) err = -EINVAL;
    else err = env ? env_put(out, data + at) : strings_add(out, data + at);
  }
  kfree(data);
  return err;
}

static int build_argv(struct strings *argv) {
  if (policy.args_from == ARGS_FILE) return add_from_file(policy.args_file, argv, false);
  if (policy.args_from == ARGS_MANIFEST && invocation.argc) {
    printk(LOG_ERROR, "the manifest does not allow arguments from the command line (loader.insecure__use_cmdline_argv)\n");
    return -EPERM;
  }
  if (policy.args_from == ARGS_CMDLINE) {
    int err = strings_add(argv, policy.argc ? policy.argv[0] : policy.entrypoint);
    for (u32 i = 0; !err && i < invocation.argc; i++) err = strings_add(argv, invocation.argv[i]);
    return err;
  }
  int err = policy.argc ? 0 : strings_add(argv, policy.entrypoint);
  for (u32 i = 0; !err && i < policy.argc; i++) err = strings_add(argv, policy.argv[i]);
  return err;
}

static bool env_may_pass(const char *entry) {
  size_t len = name_len(entry);
  for (u32 i = 0; i < policy.env_pass_n; i++)
    if (strlen(policy.env_pass[i]) == len && !memcmp(policy.env_pass[i], entry, len)) return true;
  return policy.env_all;
}

static int build_env(struct strings *env) {
  int err = policy.env_file ? add_from_file(policy.env_file, env, true) : 0;
  for (u32 i = 0; !err && i < invocation.envc; i++) {
    if (env_may_pass(invocation.env[i])) {
      err = env_put(env, invocation.env[i]);
      continue;
    }
    printk(LOG_ERROR, "the manifest does not allow environment variable %.*s from the command line (loader.env)\n",
           (int)MIN(name_len(invocation.env[i]), (size_t)64), invocation.env[i]);
    return -EPERM;
  }
  for (u32 i = 0; !err && i < policy.env_set_n; i++) err = env_put(env, policy.env_set[i]); // the manifest has the last word
  return err;
}

int attest_build_args(char ***argv, char ***envp) {
  struct strings a = { 0 }, e = { 0 };
  int err = build_argv(&a);
  if (!err) err = build_env(&e);
  if (!err && !e.v) err = (e.v = kzalloc(sizeof(*e.v))) ? 0 : -ENOMEM;
  if (err) {
    strings_free(&a);
    strings_free(&e);
    return err;
  }
  *argv = a.v;
  *envp = e.v;
  return 0;
}
