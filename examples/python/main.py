# SPDX-License-Identifier: Apache-2.0
"""Threads, sockets, json, hashlib and subprocess in one small script; the output is the same on every system."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

print("python", ".".join(map(str, sys.version_info[:2])))


def digest(number):
    return hashlib.sha256(str(number).encode() * 1000).hexdigest()


with ThreadPoolExecutor(8) as pool:
    digests = list(pool.map(digest, range(64)))
print("threads", hashlib.sha256("".join(digests).encode()).hexdigest())


def serve(listener):
    for _ in range(10):
        connection, _ = listener.accept()
        with connection:
            request = json.loads(connection.makefile().readline())
            connection.sendall((json.dumps({"sum": sum(request["numbers"])}) + "\n").encode())


listener = socket.create_server(("127.0.0.1", 0))
server = threading.Thread(target=serve, args=(listener,))
server.start()
sums = []
for i in range(10):
    with socket.create_connection(listener.getsockname()) as client:
        client.sendall((json.dumps({"numbers": list(range(i * 100))}) + "\n").encode())
        sums.append(json.loads(client.makefile().readline())["sum"])
server.join()
print("sockets", sums)

child = [sys.executable, "-c", "import sys; print(sys.stdin.read().upper(), end=''); sys.exit(3)"]
result = subprocess.run(child, input="from the child\n", capture_output=True, text=True)
print("subprocess", result.stdout.strip(), result.returncode)
print("shell", subprocess.run("echo one && echo two >&2; exit 4", shell=True, stderr=subprocess.STDOUT).returncode)

with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, "data.json")
    with open(path, "w") as file:
        json.dump({"list": list(range(1000))}, file)
    print("files", os.path.getsize(path), sorted(os.listdir(directory)))
print("random", len(os.urandom(32)), "time zone", __import__("time").strftime("%Z", __import__("time").gmtime(0)))
