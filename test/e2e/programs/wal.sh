# needs: sqlite3
# SPDX-License-Identifier: Apache-2.0
# Three processes write one database in WAL mode: locks on bytes of a file, shared writable mappings.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
sqlite3 shop.db 'PRAGMA journal_mode = WAL; CREATE TABLE sale(who, what)'
for who in 1 2 3; do
  for i in $(seq 20); do echo "INSERT INTO sale VALUES($who, $i);"; done | sqlite3 -cmd '.timeout 60000' shop.db &
  pids="${pids:-} $!"
done
for p in $pids; do wait "$p"; done
sqlite3 shop.db 'SELECT who, count(*), sum(what) FROM sale GROUP BY who; PRAGMA integrity_check; PRAGMA wal_checkpoint(TRUNCATE)'
ls
