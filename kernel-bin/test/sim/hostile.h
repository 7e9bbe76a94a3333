// SPDX-License-Identifier: Apache-2.0
//
// What the program (hostile_devices.c), the lying devices (liar.c) and the policy (hostile.js, which makes the same bytes)
// agree on: the files of /t.
#ifndef HOSTILE_H
#define HOSTILE_H
#include <stdint.h>
enum { FILE_DATA, FILE_PLAIN, FILE_ALLOWED, FILES }; // trusted with its tree; trusted by its hash alone; the host's
#define ALLOWED_MAX 65536u
static const char *const file_names[FILES] = { "data", "plain", "allowed" };
static const uint32_t file_bytes[FILES] = { 40000, 9000, 0 };
static inline uint8_t file_byte(unsigned file, uint32_t i) { return (uint8_t)(i * 7 + (i >> 8) * 13 + file * 101 + 1); }
#endif
