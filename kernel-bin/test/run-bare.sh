#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Boots a kernel without the launcher: [CFV with a minimal record][BFV], QEMU with emulation, serial on the terminal.
#   test/run-bare.sh [BFV] [QEMU options...]      default build/kernel.bfv
# CPU (max), MEMORY (MiB, 256), CPUS (2), RECORD (a file with a record of your own), ARGV0 (the entrypoint, /init), LOG (3).
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
bfv=$here/build/kernel.bfv
case "${1:-}" in *.bfv) bfv=$1; shift;; esac
memory=${MEMORY:-256} cpus=${CPUS:-2}
image=$(mktemp "${TMPDIR:-/tmp}/gramine-bare.XXXXXX")
trap 'rm -f "$image"' EXIT INT TERM
python3 - "$image" "$memory" "$cpus" "${RECORD:-}" "${ARGV0:-/init}" "${LOG:-3}" <<'PY'
import struct, sys
path, memory, cpus, record, entry, log = sys.argv[1:]
def head(major, n):
    for size, code in ((24, None), (1 << 8, 24), (1 << 16, 25), (1 << 32, 26), (1 << 64, 27)):
        if n < size:
            return bytes([major << 5 | n]) if code is None else bytes([major << 5 | code]) + n.to_bytes(1 << code - 24, "big")
def enc(v):
    if v is True or v is False: return b"\xf5" if v else b"\xf4"
    if isinstance(v, int): return head(0, v)
    if isinstance(v, bytes): return head(2, len(v)) + v
    if isinstance(v, str): return head(3, len(v.encode())) + v.encode()
    if isinstance(v, list): return head(4, len(v)) + b"".join(map(enc, v))
    return head(5, len(v)) + b"".join(k + enc(x) for k, x in sorted((enc(k), x) for k, x in v.items()))
policy = {"version": 1, "entrypoint": entry, "args": {"argv": [], "from": "manifest"},
  "env": {"set": [], "pass": [], "all": False}, "uid": 0, "gid": 0, "cwd": "/",
  "mounts": [{"path": "/", "type": "chroot", "uri": "/", "rw": True}], "trusted": [], "allowed": ["/"],
  "check": "allow_all_but_log", "limits": {"stack": 8 << 20, "brk": 1 << 30, "fds": 1024},
  "net": {"publish": [], "outbound": []},
  "flags": {"aslr": False, "sigterm": True, "subprocesses": True, "flock": True, "eventfd": True, "domain_names": True, "log": int(log)},
  "keys": {}, "mock": [], "attestation": "none"}
body = open(record, "rb").read() if record else enc({"policy": policy, "invocation": {"argv": [], "env": []},
  "vm": {"cpus": int(cpus), "memory": int(memory) << 20}, "host": {"time": 0, "tty": False, "rows": 24, "cols": 80, "log": int(log)}})
with open(path, "wb") as f:
    f.write(b"GTDXCFV1" + struct.pack("<II", len(body), 0) + body)
    f.truncate(4 << 20)
PY
cat "$bfv" >> "$image"
timeout "${TIMEOUT:-60}" qemu-system-x86_64 -accel tcg,thread=multi -machine q35 -cpu "${CPU:-max}" -m "$memory" -smp "$cpus" -bios "$image" \
  -nodefaults -no-user-config -display none -serial stdio -no-reboot "$@"
