// SPDX-License-Identifier: Apache-2.0
// What the files of this room share and nobody else sees.
#ifndef FILE_INTERNAL_H
#define FILE_INTERNAL_H
#include "file/file.h"
#include <asm/fcntl.h>
#include <linux/eventpoll.h>
#include <asm/poll.h>

void pipe_init(void);
void epoll_init(void);
#endif
