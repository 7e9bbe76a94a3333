#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# check.sh APP DIR RELEASE.pub QUOTE REPORT-DATA COLLATERAL [OPTIONS...]: whether QUOTE comes from a TD that runs the APP
# released in DIR. RELEASE.pub is the key that you trust, not the copy in DIR. REPORT-DATA is what you asked the TD to put
# into its quote: a nonce, or the hash of its TLS key, in hexadecimal. Exit status: that of gramine-tdx-verify.
set -eu
[ $# -ge 6 ] || { echo "usage: check.sh APP DIR RELEASE.pub QUOTE REPORT-DATA COLLATERAL [OPTIONS...]" >&2; exit 2; }
app=$1 dir=$2 key=$3 quote=$4 report_data=$5 collateral=$6
shift 6

# Anybody with the manifest gets the same values: nothing has to be taken on trust but the manifest's own text.
(cd "$dir" && sha256sum --quiet --check SHA256SUMS)
gramine-tdx-measure "$dir/$app.manifest.tdx" --events "$dir/$app.again" > /dev/null
cmp -s "$dir/$app.again" "$dir/$app.events.json" || { echo "check.sh: the manifest gives other values" >&2; exit 1; }

exec gramine-tdx-verify --quote "$quote" --reference "$dir/$app.reference.json" --reference-key "$key" \
  --report-data "$report_data" --collateral "$collateral" "$@"
