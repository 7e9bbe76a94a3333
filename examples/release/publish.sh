#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# publish.sh APP KEY.pem DIR: what a release of APP consists of, in DIR: the manifest with its hashes, the values that a TD
# running it must report, signed with KEY (Ed25519, P-256 or P-384), and the public key. Runs beside APP.manifest.template,
# with the files that the manifest trusts in place. No TDX is needed: everything is computed from files.
set -eu
[ $# -eq 3 ] || { echo "usage: publish.sh APP KEY.pem DIR" >&2; exit 2; }
app=$1
key=$(realpath "$2")
mkdir -p "$3"
out=$(cd "$3" && pwd)

gramine-manifest --quiet --tdx "$app.manifest.template" "$out/$app.manifest.tdx"
cd "$out"
gramine-tdx-measure "$app.manifest.tdx" --sign "$key" \
  --json "$app.reference.json" --corim "$app.corim" --events "$app.events.json"
openssl pkey -in "$key" -pubout -out release.pub
sha256sum "$app.manifest.tdx" "$app.reference.json" "$app.corim" "$app.events.json" release.pub > SHA256SUMS
