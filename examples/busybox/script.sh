# SPDX-License-Identifier: Apache-2.0
# A shell with pipelines, background jobs, here documents and its own applets; /tmp is in memory.
set -e
cd /tmp
mkdir -p "box.$$" && cd "box.$$"
seq 1 1000 | awk '{ s += $1 } END { print "sum", s }'
seq 1 200 | sort -rn | head -n 3 | tr '\n' ' '; echo
printf 'b\na\nc\na\n' > letters
sort letters | uniq -c | sed 's/^ *//' | tee counted
(exit 5) || echo "subshell ended with $?"
for i in 1 2 3; do (echo "job $i" > "job.$i") & done
wait
cat job.1 job.2 job.3
dd if=/dev/zero bs=1k count=300 2>/dev/null | sha256sum
ln -s letters link && readlink link && cat link | wc -l
find . -type f | sort
tar cf - . | tar tf - | wc -l
yes | head -n 100000 | wc -c
cat <<END
here: $(echo document)
END
trap 'echo "trap"' EXIT
