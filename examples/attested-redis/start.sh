#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Runs in the TD, measured as part of the policy: makes a TLS key that never leaves it, asks for a quote whose report data
# is SHA-256, in 64 hexadecimal digits, of the public key and the client's NONCE, and becomes redis-server.
set -eu
cd /run
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=attested-redis \
  -keyout key.pem -out cert.pem 2> /dev/null
hash=$({ openssl pkey -in key.pem -pubout -outform DER && printf %s "$NONCE"; } | openssl dgst -sha256 -r)
# By the shell itself, as the report data is its process's; what it starts inherits it.
printf %s "${hash%% *}" > /dev/attestation/user_report_data
cat /dev/attestation/quote > /out/quote.bin
cat /dev/attestation/event_log > /out/event-log.bin
exec redis-server --save '' --port 0 --tls-port 6379 --tls-auth-clients no --protected-mode no \
  --tls-cert-file cert.pem --tls-key-file key.pem
