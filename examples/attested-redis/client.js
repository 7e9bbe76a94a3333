#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// Sends its secret only to a server that proved what it is. The TLS handshake says which key the server has; the quote,
// carried by anybody, must come from a TD of just the expected kernel, policy and resources, and name that key and our
// nonce. client.js PORT WORK NONCE: WORK has reference.json, out/quote.bin, out/event-log.bin and collateral/.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { appraise, MeasureError, parseReference, splitSignedJson, trustAnchor, verifyQuote } from 'gramine-tdx/measure';

const [port, work, nonce] = process.argv.slice(2);
const file = (...names) => readFileSync(join(work, ...names));
const secret = 'the launch code is 0000';

function judge(publicKey) {
  const text = (name) => file('collateral', name).toString();
  const collateral = {
    tcbInfo: splitSignedJson(text('tcb_info.json').trim(), 'tcbInfo'),
    tcbInfoChain: text('tcb_info_issuer_chain.pem'),
    qeIdentity: splitSignedJson(text('qe_identity.json').trim(), 'enclaveIdentity'),
    qeIdentityChain: text('qe_identity_issuer_chain.pem'),
    rootCrl: file('collateral', 'root_ca.crl'),
    pckCrl: file('collateral', 'pck.crl'),
  };
  // A simulated TD's root. On hardware leave the anchor away: Intel's is built in.
  const anchor = trustAnchor(file('collateral', 'root.pem'));
  const verdict = verifyQuote(file('out', 'quote.bin'), { collateral, at: Date.now(), anchor });
  const checks = appraise(verdict, {
    reference: parseReference(file('reference.json').toString()),
    reportData: Buffer.from(createHash('sha256').update(publicKey).update(nonce).digest('hex')),
    eventLog: file('out', 'event-log.bin'),
  });
  return checks.filter((check) => !check.ok).map((check) => `${check.name}: ${check.detail}`);
}

// The certificate is self-signed: the quote is what vouches for its key.
const socket = connect({ host: '127.0.0.1', port: Number(port), rejectUnauthorized: false }, () => {
  const { pubkey, asn1Curve } = socket.getPeerCertificate();
  let complaints;
  try {
    complaints = asn1Curve === undefined ? ['the server’s key is not the kind expected'] : judge(spki(pubkey));
  } catch (error) {
    if (!(error instanceof MeasureError)) throw error;
    complaints = [error.message];
  }
  if (complaints.length > 0) {
    for (const complaint of complaints) console.log(`refused: ${complaint}`);
    console.log('the secret stays here');
    process.exitCode = 1;
    socket.end();
    return;
  }
  console.log('the quote is good, and about this key: sending the secret');
  command('SET', 'secret', secret);
});
socket.on('data', (data) => {
  console.log(`the server: ${data.toString().trim()}`);
  socket.end();
});
socket.on('error', (error) => {
  console.log(`no connection: ${error.message}`);
  process.exitCode = 1;
});

function command(...words) {
  socket.write(`*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join('')}`);
}

/** SubjectPublicKeyInfo of a point on P-256, as `openssl pkey -pubout -outform DER` writes it. */
function spki(point) {
  return Buffer.concat([Buffer.from('3059301306072a8648ce3d020106082a8648ce3d030107034200', 'hex'), point]);
}
