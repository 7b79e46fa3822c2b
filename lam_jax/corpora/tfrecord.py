"""TFRecord files of `SequenceExample`s without TensorFlow: the framing here, the messages by protobuf.

A record is its length (8 bytes, little endian), a checksum of that (4), the message, and a checksum of the message (4).
The first checksum is compared, so that a file of another kind is told at once; a packed file has its packer's own.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lam_jax.corpora.files import DAMAGED, damage_errors, open_unpacked
from lam_jax.data.readers import Drops
from lam_jax.data.schemas import DataError, Where

LONGEST = 1 << 30  # bytes of a message
Values = list[str] | list[int] | list[float]


def sequence_examples(path: Path, drops: Drops) -> Iterator[tuple[Where, dict[str, Values], dict[str, list[Values]]]]:
    """(place, context features, feature lists) of each record; bytes are decoded as UTF-8.

    Raises:
      DataError: the file cannot be opened or is no TFRecord file.
    """
    message_type, errors = _sequence_example()
    for number, (where, data) in enumerate(_frames(path, drops)):
        try:
            message = message_type.FromString(data)
            context = {entry.key: _values(entry.value) for entry in message.context.feature}
            lists = {e.key: [_values(f) for f in e.value.feature] for e in message.feature_lists.feature_list}
        except (*errors, UnicodeDecodeError) as error:
            drops.add("record that is no SequenceExample", where, f"record {number}: {error}")
            continue
        yield where, context, lists


def _frames(path: Path, drops: Drops) -> Iterator[tuple[Where, bytes]]:
    with open_unpacked(path) as file:
        number = 0
        while True:
            where = Where(str(path), number)
            try:
                head = file.read(12)
                if not head:
                    return
                length = int.from_bytes(head[:8], "little")
                if len(head) < 12 or masked_crc32c(head[:8]) != int.from_bytes(head[8:], "little") or length > LONGEST:
                    if number == 0:
                        raise DataError(where, None, f"{head[:8]!r} first", "a TFRecord file", "Correct the path.")
                    return drops.add(DAMAGED, where, "a length whose checksum is wrong")
                data = file.read(length + 4)
            except damage_errors() as error:
                return drops.add(DAMAGED, where, f"{type(error).__name__}: {error}")
            if len(data) < length + 4:
                return drops.add(DAMAGED, where, "the file ends within a record")
            yield where, data[:length]
            number += 1


def masked_crc32c(data: bytes) -> int:
    """CRC-32C of a few bytes, rotated and shifted as TFRecord stores it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _values(feature: Any) -> Values:
    kind = feature.WhichOneof("kind")
    if kind is None:
        return []
    values = getattr(feature, kind).value
    return [value.decode() for value in values] if kind == "bytes_list" else list(values)


@functools.cache
def _sequence_example() -> tuple[Any, tuple[type[Exception], ...]]:
    """The class of tf.train.SequenceExample, described by its published field numbers; and the errors of parsing."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="lam_jax_sequence_example.proto", package="lam_jax", syntax="proto3")

    def add(name: str, *fields: tuple[str, int, int, str | None, bool], oneof: str | None = None) -> None:
        described = file.message_type.add(name=name)
        if oneof:
            described.oneof_decl.add(name=oneof)
        for field, number, kind, of, repeated in fields:
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            entry = described.field.add(name=field, number=number, type=kind, label=label)  # pyright: ignore
            if of:
                entry.type_name = f".lam_jax.{of}"
            if oneof:
                entry.oneof_index = 0

    inner = kinds.TYPE_MESSAGE
    add("BytesList", ("value", 1, kinds.TYPE_BYTES, None, True))
    add("FloatList", ("value", 1, kinds.TYPE_FLOAT, None, True))
    add("Int64List", ("value", 1, kinds.TYPE_INT64, None, True))
    lists = (("bytes_list", 1, "BytesList"), ("float_list", 2, "FloatList"), ("int64_list", 3, "Int64List"))
    add("Feature", *((name, number, inner, of, False) for name, number, of in lists), oneof="kind")
    # A map on the wire is a repeated message of key and value.
    for entry, of in (("FeatureEntry", "Feature"), ("ListEntry", "FeatureList")):
        add(entry, ("key", 1, kinds.TYPE_STRING, None, False), ("value", 2, inner, of, False))
    add("FeatureList", ("feature", 1, inner, "Feature", True))
    add("Features", ("feature", 1, inner, "FeatureEntry", True))
    add("FeatureLists", ("feature_list", 1, inner, "ListEntry", True))
    add("SequenceExample", ("context", 1, inner, "Features", False), ("feature_lists", 2, inner, "FeatureLists", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    described = pool.FindMessageTypeByName("lam_jax.SequenceExample")
    return message_factory.GetMessageClass(described), (message.DecodeError,)
