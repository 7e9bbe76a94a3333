#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Builds the test TD: build.sh OUTPUT-FOLDER makes payload.img (64 KiB, ends at 4 GiB).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$1
mkdir -p "$out"
gcc -O1 -std=gnu17 -Wall -Wextra -Werror -Wno-unused-function -Wno-unused-parameter -ffreestanding -fno-pic -fno-pie -mno-red-zone -mgeneral-regs-only -fno-stack-protector \
  -fcf-protection=none -fno-asynchronous-unwind-tables -nostdlib -static -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
  -T "$here/payload.lds" -o "$out/payload.elf" "$here/start.S" "$here/payload.c"
objcopy -O binary -R .reset "$out/payload.elf" "$out/payload.raw"
objcopy -O binary -j .reset "$out/payload.elf" "$out/payload.reset"
cp "$out/payload.raw" "$out/payload.img"
truncate -s 61440 "$out/payload.img"
cat "$out/payload.reset" >> "$out/payload.img"
