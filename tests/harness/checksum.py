"""The checksums that S3 knows, as it writes them: base64 of the big-endian value."""

import base64
import hashlib
import zlib
from functools import cache


@cache
def _table(polynomial: int) -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (polynomial if value & 1 else 0)
        table.append(value)
    return table


def _reflected_crc(data: bytes, polynomial: int, bits: int) -> bytes:
    table, mask = _table(polynomial), (1 << bits) - 1
    crc = mask
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return (crc ^ mask).to_bytes(bits // 8, "big")


ALGORITHMS = {
    "crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "crc32c": lambda data: _reflected_crc(data, 0x82F63B78, 32),
    "crc64nvme": lambda data: _reflected_crc(data, 0x9A6C9329AC4BC9B5, 64),
    "sha1": lambda data: hashlib.sha1(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
}


def checksum(algorithm: str, data: bytes) -> str:
    return base64.b64encode(ALGORITHMS[algorithm](data)).decode()
