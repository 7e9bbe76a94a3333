# SPDX-License-Identifier: Apache-2.0
#
# Sourced by the examples' run scripts. `./run` runs the program in a virtual machine, `./run --linux` the same program on
# this system, for comparison: the output is the same. GRAMINE_VM replaces the launcher and adds options to it.

here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
if [ -z "${GRAMINE_VM:-}" ]; then
  if [ -e ../../dist/cli/gramine-vm.js ]; then GRAMINE_VM="node $here/../../dist/cli/gramine-vm.js"; else GRAMINE_VM="npx gramine-vm"; fi
fi
linux=
if [ "${1:-}" = --linux ]; then linux=1; fi

# vm [OPTIONS --] PROGRAM ARGS: in the machine; with --linux the options are dropped.
vm() {
  if [ -n "$linux" ]; then
    while [ "$1" != -- ]; do shift; done
    shift
    "$@"
  else
    # shellcheck disable=SC2086  # words
    $GRAMINE_VM -q "$@"
  fi
}

# await_line FILE TEXT: reads FILE (a fifo) until a line has TEXT; fails when it ends before. The rest is thrown away.
await_line() {
  exec 9< "$1"
  while read -r line <&9; do
    case $line in *"$2"*) cat <&9 > /dev/null & return 0 ;; esac
  done
  echo "$0: the server ended before it was ready" >&2
  return 1
}
