# SPDX-License-Identifier: Apache-2.0
"""Asks nginx for its page in several ways, and until both workers have answered. Usage: client.py PORT"""
import concurrent.futures
import gzip
import http.client
import sys


def get(path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


answer, page = get("/")
print(answer.status, answer.getheader("Content-Type"), page.decode().strip())
answer, body = get("/", Range="bytes=2-8")
print(answer.status, answer.getheader("Content-Range"), body)
answer, body = get("/", Accept_Encoding="gzip")
print(answer.status, answer.getheader("Content-Encoding"), gzip.decompress(body) == page)
answer, _ = get("/", If_None_Match=get("/")[0].getheader("ETag"))
print(answer.status)
print("through itself:", get("/again/index.html")[1] == page, get("/again/nothing")[0].status)

workers = set()
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    while len(workers) < 2:
        for answer, body in pool.map(get, ["/"] * 32):
            assert (answer.status, body) == (200, page)
            workers.add(answer.getheader("Worker"))
print("workers that answered:", len(workers))
