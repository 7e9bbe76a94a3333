# needs: perl
# SPDX-License-Identifier: Apache-2.0
# bash's job control, traps, process substitution, coprocesses, limits.
set -m
(exit 3) & wait $!; echo "wait $?"
sleep 100 & p=$!
kill -STOP $p
until read -r _ _ state _ < /proc/$p/stat; [ "$state" = T ]; do :; done
jobs | tr -s ' '
kill -CONT $p
until read -r _ _ state _ < /proc/$p/stat; [ "$state" = S ]; do :; done
jobs | tr -s ' '
kill %1; wait %1 2> /dev/null; echo "killed $?"
trap 'echo USR1' USR1; kill -USR1 $$
trap 'echo end' EXIT
diff <(seq 3) <(seq 2 4)
coproc cat; echo through >&"${COPROC[1]}"; read -r line <&"${COPROC[0]}"; echo "$line"; kill "$COPROC_PID"; wait "$COPROC_PID" 2> /dev/null
for i in 1 2 3 4; do (exit $i) & done; sum=0; while wait -n; s=$?; [ $s != 127 ]; do sum=$((sum + s)); done; echo "statuses $sum"
yes | head -n 1000 | wc -l; echo "${PIPESTATUS[@]}"
timeout 0.2 sleep 100; echo "timeout $?"
mapfile -t lines < <(seq 1000); echo "${#lines[@]} lines"
(ulimit -f 1; dd if=/dev/zero of=/tmp/jobs.$$ bs=4k count=10 2> /dev/null; echo "limit $?") 2> /dev/null; rm -f /tmp/jobs.$$
perl -e 'use POSIX; $SIG{CHLD} = sub { while ((my $p = waitpid -1, WNOHANG) > 0) { $n++ } }; for (1 .. 20) { exit if !fork } select undef, undef, undef, 0.01 while $n < 20; print "reaped $n\n"'
