# needs: git tar
# SPDX-License-Identifier: Apache-2.0
# A history with a merge, packed, checked, cloned over a pipe, pushed back.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HOME=$work GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_DATE=2026-01-01T00:00:00Z GIT_COMMITTER_DATE=2026-01-01T00:00:00Z
git config --global user.name nobody
git config --global user.email nobody@example.org
git config --global init.defaultBranch main
git init -q first
cd first
for i in 1 2 3; do
  seq $((i * 100)) > numbers
  mkdir "d$i"
  echo "$i" > "d$i/file"
  git add -A
  git commit -q -m "change $i"
done
git checkout -q -b side HEAD~1
echo aside > aside
git add aside
git commit -q -m aside
git merge -q -m merge main
git log --graph --oneline
git gc -q
git fsck
git clone -q "file://$work/first" ../second
cd ../second
git status --short
git grep -c 99
echo more >> aside
git commit -q -a -m more
git push -q origin HEAD:new
git -C ../first log --oneline new | head -n 1
git archive HEAD | tar tf -
