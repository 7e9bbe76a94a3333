# needs: make gcc
# SPDX-License-Identifier: Apache-2.0
# make with four jobs and its token pipe; gcc, as and ld; the program that they make.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for i in 1 2 3 4; do echo "int f$i(int x) { return x * $i; }" > f$i.c; done
cat > main.c << 'C'
#include <stdio.h>
int f1(int), f2(int), f3(int), f4(int);
int main(void) { return printf("%d\n", f1(1) + f2(10) + f3(100) + f4(1000)) < 0; }
C
cat > Makefile << 'M'
program: main.o f1.o f2.o f3.o f4.o
	@gcc -o $@ $^
%.o: %.c
	@gcc -O2 -c -o $@ $<
M
make -s -j4
./program
make -j4
