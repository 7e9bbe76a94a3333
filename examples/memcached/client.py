# SPDX-License-Identifier: Apache-2.0
"""Talks memcached's text protocol to 127.0.0.1:PORT over several connections at once and prints the answers."""

import socket
import sys
import threading

port = int(sys.argv[1])


def converse(lines):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        file = connection.makefile("rwb")
        answers = []
        for line, last in lines:
            file.write(line)
            file.flush()
            while True:
                answer = file.readline().rstrip(b"\r\n")
                answers.append(answer.decode())
                if any(answer.startswith(word) for word in last):
                    break
        return answers


for answer in converse([
    (b"set greeting 0 0 5\r\nhello\r\n", [b"STORED"]),
    (b"get greeting\r\n", [b"END"]),
    (b"set counter 0 0 2\r\n41\r\n", [b"STORED"]),
    (b"incr counter 1\r\n", [b"42"]),
    (b"get nothing\r\n", [b"END"]),
    (b"delete greeting\r\n", [b"DELETED"]),
    (b"get greeting\r\n", [b"END"]),
]):
    print(answer)

CLIENTS, KEYS = 16, 50
failures = []


def client(number):
    value = (b"%d-" % number) * 100
    for key in range(KEYS):
        name = b"k%d-%d" % (number, key)
        converse([(b"set %s 0 0 %d\r\n%s\r\n" % (name, len(value), value), [b"STORED"])])
        if converse([(b"get %s\r\n" % name, [b"END"])])[1] != value.decode():
            failures.append(name)


threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(f"{CLIENTS} clients, {KEYS} keys each, {len(failures)} wrong")
