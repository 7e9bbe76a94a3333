// SPDX-License-Identifier: Apache-2.0
// For guest programs: self-checking, the same output on Linux and on our kernel. Exit status 0 or 1.
#ifndef CHECK_H
#define CHECK_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int check_failed;
#define CHECK(cond) do { if (!(cond)) { check_failed++; printf("FAIL %s:%d: %s (errno %d)\n", __func__, __LINE__, #cond, errno); fflush(stdout); } } while (0)
#define RUN(test) do { int before = check_failed; test(); if (check_failed == before) printf("ok %s\n", #test); fflush(stdout); } while (0)
#define FINISH() return check_failed != 0
#endif
