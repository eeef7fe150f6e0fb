"""Hadoop's SequenceFiles, read without Hadoop: for Spark Connect, which has no reader of them.

The format is that of org.apache.hadoop.io.SequenceFile, version 6: a header that names the classes of keys and values,
then records, or blocks of records, with a marker (sync) between them now and then.
"""

from __future__ import annotations

import bz2
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from sparknet.errors import InputError
from sparknet.spark import sequence_keys

#: What `read_files` gives.
SCHEMA = "SampleID string, data binary, label float, shape array<int>"
#: Bytes of values in a batch.
BATCH_BYTES = 32 << 20

_SYNC_BYTES = 16
_CODECS: dict[str, Callable[[bytes], bytes]] = {
    "DefaultCodec": zlib.decompress,
    "DeflateCodec": zlib.decompress,
    "GzipCodec": lambda content: zlib.decompress(content, 31),
    "BZip2Codec": bz2.decompress,
}


class _Bytes:
    """What is read from the beginning to the end."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._at = 0

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._content)

    def take(self, count: int) -> memoryview:
        if not 0 <= count <= len(self._content) - self._at:
            raise ValueError("it is cut off")
        self._at += count
        return self._content[self._at - count : self._at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def variable_number(self) -> int:
        """WritableUtils.readVInt: one byte, or a byte that says the sign and the number of those that follow."""
        first = int(self.number(">b"))
        if first >= -112:
            return first
        is_negative = first < -120
        value = int.from_bytes(self.take(-120 - first if is_negative else -112 - first), "big")
        return ~value if is_negative else value

    def text(self) -> str:
        return bytes(self.take(self.variable_number())).decode()

    def counted(self) -> memoryview:
        return self.take(self.variable_number())


def _name(class_name: str) -> str:
    return class_name.rpartition(".")[2]


def _key(kind: str, content: memoryview) -> Any:
    """A key as PySpark would hand it over."""
    form = {"IntWritable": ">i", "LongWritable": ">q", "FloatWritable": ">f", "DoubleWritable": ">d"}.get(kind)
    stream = _Bytes(content)
    if form:
        return stream.number(form)
    match kind:
        case "Text":
            return stream.text()
        case "BytesWritable":
            return bytes(stream.take(stream.number(">i")))
        case "VIntWritable" | "VLongWritable":
            return stream.variable_number()
    raise InputError(f"the keys of a SequenceFile are {kind}: write them as Text or BytesWritable")


def records(content: memoryview) -> Iterator[tuple[Any, memoryview]]:
    """Keys and values of a file.

    Raises:
        InputError: The file is damaged, or of classes or a codec that are not read here.
    """
    try:
        yield from _records(_Bytes(content))
    except InputError:
        raise
    except (ValueError, struct.error, zlib.error, OSError, EOFError) as error:
        raise InputError(f"a SequenceFile cannot be read ({error}): copy or write it anew") from error


def _records(stream: _Bytes) -> Iterator[tuple[Any, memoryview]]:
    if bytes(stream.take(4)) != b"SEQ\x06":
        raise ValueError("it does not begin with SEQ and version 6")
    key_kind, value_kind = _name(stream.text()), _name(stream.text())
    if value_kind != "BytesWritable":
        raise InputError(f"the values of a SequenceFile are {value_kind}: write images as BytesWritable")
    is_compressed, is_in_blocks = stream.number(">?"), stream.number(">?")
    expand: Callable[[bytes], bytes] = bytes
    if is_compressed:
        codec = _name(stream.text())
        if codec not in _CODECS:
            raise InputError(
                f"a SequenceFile is compressed by {codec}, which is not read on Spark Connect: run without Spark "
                f"Connect, or write it with one of {', '.join(_CODECS)}"
            )
        expand = _CODECS[codec]
    for _ in range(stream.number(">i")):
        stream.counted()  # Notes: a name,
        stream.counted()  # and what it says.
    sync = bytes(stream.take(_SYNC_BYTES))
    while not stream.is_at_end:
        length = int(stream.number(">i"))
        if length == -1:
            if bytes(stream.take(_SYNC_BYTES)) != sync:
                raise ValueError("a marker between its records is damaged")
            if not is_in_blocks:
                continue
            count = stream.variable_number()
            parts = [_Bytes(memoryview(expand(bytes(stream.counted())))) for _ in range(4)]
            key_lengths, keys, value_lengths, values = parts
            for _ in range(count):
                key = keys.take(key_lengths.variable_number())
                yield _key(key_kind, key), _value(values.take(value_lengths.variable_number()))
        elif is_in_blocks:
            raise ValueError("a block of records has no marker")
        else:
            key_length = int(stream.number(">i"))
            key, value = stream.take(key_length), stream.take(length - key_length)
            yield _key(key_kind, key), _value(memoryview(expand(bytes(value))) if is_compressed else value)


def _value(content: memoryview) -> memoryview:
    stream = _Bytes(content)
    return stream.take(stream.number(">i"))


def read_files(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The records of whole files, each a value of the one column of `batches`."""
    for batch in batches:
        for content in batch.column(0):
            rows: list[tuple[str, memoryview, float, Any]] = []
            size = 0
            for raw_key, value in records(memoryview(content.as_buffer())):
                key = sequence_keys.parse(raw_key)
                rows.append((key.id, value, key.label, key.shape))
                size += len(value)
                if size >= BATCH_BYTES:
                    yield _batch(rows)
                    rows, size = [], 0
            if rows:
                yield _batch(rows)


def _batch(rows: list[tuple[str, memoryview, float, Any]]) -> pa.RecordBatch:
    names, values, labels, shapes = zip(*rows, strict=True)
    columns = [
        pa.array(names, pa.string()),
        pa.array([bytes(value) for value in values], pa.binary()),
        pa.array(labels, pa.float32()),
        pa.array(shapes, pa.list_(pa.int32())),
    ]
    return pa.RecordBatch.from_arrays(columns, names=["SampleID", "data", "label", "shape"])
