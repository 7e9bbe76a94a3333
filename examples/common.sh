# SPDX-License-Identifier: Apache-2.0
#
# Sourced by the examples' run scripts. `./run` makes a manifest from the template and runs the program in a virtual
# machine, `./run --tdx` in a TD, `./run --simulate` in a simulated one; `./run --linux` runs the same program on this
# system, for comparison: the output is the same.

here=$(cd "$(dirname "$0")" && pwd)
linux=
launcher=gramine-vm mode=
case ${1:-} in
  '') ;;
  --linux) linux=1 ;;
  --tdx) launcher=gramine-tdx ;;
  --simulate) launcher=gramine-tdx mode=--simulate ;;
  *) echo "usage: $0 [--linux | --tdx | --simulate]" >&2; exit 64 ;;
esac
commands=$here/../../dist/cli
gramine_vm() { node "$commands/$launcher.js" $mode "$@"; }
gramine_manifest() { node "$commands/gramine-manifest.js" "$@"; }

# A folder for the manifest and what the run leaves behind; the launcher finds APP.manifest.tdx there.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# manifest APP [DEFINITIONS...]: renders the example's template to APP.manifest.tdx.
manifest() {
  app=$1
  shift
  gramine_manifest --quiet "$@" "$here/$app.manifest.template" "$app.manifest.tdx"
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
