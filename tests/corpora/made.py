"""Small files of the public sets' layouts, made by tests."""

import gzip
import io
import json
import struct
import tarfile
from pathlib import Path

from PIL import Image


def picture(width=32, height=24, colour=(200, 30, 30), kind="JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, kind)
    return out.getvalue()


def tar(path: Path, members: list[tuple[str, bytes]], links: tuple[tuple[str, str], ...] = ()) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            file.addfile(info)
    return path


def lines(path: Path, rows: list) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.name.endswith(".zst"):
        import zstandard

        data = zstandard.ZstdCompressor().compress(data)
    if path.name.endswith(".gz"):
        data = gzip.compress(data)
    path.write_bytes(data)
    return path


# The wire format of protobuf, written by hand: what the reader's messages are compared with.
def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def chunk(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def feature(values: list) -> bytes:
    if values and isinstance(values[0], int):
        return chunk(3, chunk(1, b"".join(map(varint, values))))
    return chunk(1, b"".join(chunk(1, value.encode()) for value in values))


def sequence_example(context: dict, lists: dict) -> bytes:
    entries = [chunk(1, chunk(1, key.encode()) + chunk(2, feature(values))) for key, values in context.items()]
    many = [
        chunk(1, chunk(1, key.encode()) + chunk(2, b"".join(chunk(1, feature(f)) for f in features)))
        for key, features in lists.items()
    ]
    return chunk(1, b"".join(entries)) + chunk(2, b"".join(many))


def crc(data: bytes) -> int:
    table = []
    for index in range(256):
        value = index
        for _ in range(8):
            value = value >> 1 ^ 0x82F63B78 * (value & 1)
        table.append(value)
    total = 0xFFFFFFFF
    for byte in data:
        total = table[(total ^ byte) & 255] ^ total >> 8
    total ^= 0xFFFFFFFF
    return ((total >> 15 | total << 17) + 0xA282EAD8) & 0xFFFFFFFF


def tfrecord(messages: list[bytes]) -> bytes:
    out = b""
    for message in messages:
        head = struct.pack("<Q", len(message))
        out += head + struct.pack("<I", crc(head)) + message + struct.pack("<I", crc(message))
    return out
