"""Hits of libCacheSim's S3-FIFO; a program of its own, because libcachesim lives in an environment of its own.

Usage: `simulate.py OBJECTS < keys`, one key a line, each of size 1.
"""

import sys

import libcachesim


def main() -> None:
    cache = libcachesim.S3FIFO(int(sys.argv[1]))
    numbers: dict[str, int] = {}
    hits = 0
    for key in sys.stdin:
        request = libcachesim.Request()
        request.obj_id, request.obj_size = numbers.setdefault(key, len(numbers) + 1), 1
        hits += cache.get(request)
    print(hits)


main()
