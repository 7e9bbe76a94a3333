// SPDX-License-Identifier: Apache-2.0
//
// The host's resolver configuration, for a policy that asks for it (sys.enable_extra_runtime_domain_names_conf). The text is
// the host's: lines of the three keywords that Gramine takes are written anew from words that were checked, and everything
// else is dropped, as Gramine does. Which servers they name stays the host's word: DNS proves nothing to a program.

#include "attest/internal.h"

#define RESOLV_MAX 4096 // of the host's text, and so of ours

struct words { const char *at, *end; }; // of one line

static size_t next_word(struct words *w, const char **word) {
  while (w->at < w->end && (*w->at == ' ' || *w->at == '\t')) w->at++;
  *word = w->at;
  while (w->at < w->end && *w->at != ' ' && *w->at != '\t') w->at++;
  return (size_t)(w->at - *word);
}

static bool is_one_of(const char *word, size_t len, const char *const *list, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (strlen(list[i]) == len && !memcmp(list[i], word, len)) return true;
  return false;
}

static bool is_alnum(char c) { return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z'); }

static bool is_address(const char *word, size_t len) {
  if (len == 0 || len > 45) return false;
  for (size_t i = 0; i < len; i++)
    if (word[i] != '.' && word[i] != ':' && !(word[i] >= '0' && word[i] <= '9') && !((word[i] | 32) >= 'a' && (word[i] | 32) <= 'f')) return false;
  return true;
}

static bool is_domain(const char *word, size_t len) {
  if (len == 0 || len > 253) return false;
  for (size_t i = 0; i < len; i++)
    if (!is_alnum(word[i]) && word[i] != '-' && word[i] != '_' && word[i] != '.') return false;
  return true;
}

static bool is_option(const char *word, size_t len) {
  static const char *const options[] = { "edns0", "inet6", "rotate", "use-vc" };
  return is_one_of(word, len, options, ARRAY_SIZE(options));
}

// Writes a line's keyword and its good words to `out`, if there are any; returns how many bytes, never more than the line
// had, with its newline.
static size_t clean_line(struct words line, char *out) {
  static const struct { const char *name; bool (*good)(const char *word, size_t len); bool one; } keywords[] = {
    { "nameserver", is_address, true }, { "search", is_domain, false }, { "options", is_option, false },
  };
  const char *word;
  size_t len = next_word(&line, &word), n = 0;
  for (size_t k = 0; k < ARRAY_SIZE(keywords); k++) {
    if (strlen(keywords[k].name) != len || memcmp(keywords[k].name, word, len) != 0) continue;
    memcpy(out, word, len);
    size_t at = len, size;
    while ((size = next_word(&line, &word)) > 0 && !(keywords[k].one && n)) {
      if (!keywords[k].good(word, size)) continue;
      out[at++] = ' ';
      memcpy(out + at, word, size);
      at += size;
      n++;
    }
    if (!n) return 0;
    out[at] = '\n';
    return at + 1;
  }
  return 0;
}

int names_parse_resolv(struct parser *p) {
  char *text;
  int err = parse_text(p, &text);
  if (err) return err;
  size_t len = strlen(text), at = 0;
  if (len > RESOLV_MAX) return parse_fail(p, "%zu bytes, more than %u", len, RESOLV_MAX);
  char *clean = arena_alloc(len + 2); // a last line may have no newline
  if (!clean) return parse_fail(p, "out of memory");
  for (const char *line = text, *end; line < text + len; line = end + 1) {
    end = strchr(line, '\n');
    if (!end) end = text + len;
    at += clean_line((struct words){ line, end }, clean + at);
  }
  clean[at] = 0;
  host_hints.resolv_conf = clean;
  return 0;
}
