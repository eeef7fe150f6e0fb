"""What runs in Spark's tasks where a trained net predicts or is evaluated."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sparknet import _native
from sparknet.spark import data


@dataclass(frozen=True)
class Content:
    """Bytes that tasks can read: `inline`, or else a file that Spark brings to them."""

    digest: str
    inline: bytes | None

    def read(self) -> bytes:
        """The bytes; in a task."""
        if self.inline is not None:
            return self.inline
        from pyspark import SparkFiles

        with open(SparkFiles.get(file_name(self.digest)), "rb") as file:
            return file.read()


def file_name(digest: str) -> str:
    return f"sparknet-{digest[:32]}"


@dataclass(frozen=True)
class NetSettings:
    """What a task needs to run the net."""

    net: bytes
    weights: Content
    files: dict[str, bytes]
    rules: data.Rules
    threads: int
    scores: str
    needs_softmax: bool
    is_classifier: bool
    blobs: tuple[str, ...]


@dataclass(frozen=True)
class Added:
    """The columns that predictions go in; None for what is not wanted."""

    prediction: str | None
    probability: str | None
    #: One a blob.
    blobs: tuple[str, ...]


_cached: tuple[str, tempfile.TemporaryDirectory[str], Any] | None = None


def _folder_of(settings: NetSettings) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="sparknet-")
    for name, content in settings.files.items():
        with open(os.path.join(folder.name, name), "wb") as file:
            file.write(content)
    return folder


def _predictor(settings: NetSettings, rows: Any) -> Any:
    """A net for rows of this shape; a Python process keeps the last one, because Spark gives it many partitions."""
    global _cached
    threads = _threads(settings)
    about = repr((settings.weights.digest, settings.rules, rows.shape, threads)).encode()
    key = hashlib.sha256(settings.net + about).hexdigest()
    if _cached is None or _cached[0] != key:
        folder = _folder_of(settings)
        predictor = _native.Predictor(settings.net, folder.name, settings.weights.read(), rows, threads)
        _cached = (key, folder, predictor)
    return _cached[2]


def _threads(settings: NetSettings) -> int:
    from pyspark import TaskContext

    context = TaskContext.get()
    return settings.threads or (context.cpus() if context else 1)


def predict_partition(
    batches: Iterator[pa.RecordBatch], settings: NetSettings, added: Added
) -> Iterator[pa.RecordBatch]:
    """Adds predictions and blobs to batches of rows."""
    blobs = [settings.scores, *settings.blobs]
    for batch in batches:
        kept = [name for name in batch.schema.names if name not in (data.FEATURES, data.LABEL)]
        found = _run(batch, settings, blobs)
        columns = [batch.column(name) for name in kept]
        scores, is_good = found[0]
        if added.prediction:
            values = np.argmax(scores, axis=1) if settings.is_classifier else scores[:, 0]
            columns.append(pa.array(values.astype(np.float64), mask=~is_good))
        if added.probability:
            columns.append(_lists(_softmax(scores) if settings.needs_softmax else scores.astype(np.float64), is_good))
        columns += [_lists(values, is_good) for values, is_good in found[1:]]
        names = [name for name in (added.prediction, added.probability, *added.blobs) if name]
        yield pa.RecordBatch.from_arrays(columns, names=[*kept, *names])


def _run(batch: pa.RecordBatch, settings: NetSettings, blobs: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each blob's values for all rows, and which rows have any."""
    writer = data.writer(settings.rules)
    is_good = np.ones(len(batch), bool)
    is_good[data.push(writer, batch)] = False
    if not is_good.any():
        return [(np.zeros((len(batch), 1), np.float32), is_good)] * len(blobs)
    rows = writer.finish()
    found = []
    for values in _predictor(settings, rows).run(rows, blobs):
        all_rows = np.zeros((len(batch), values.shape[1]), np.float32)
        all_rows[is_good] = values
        found.append((all_rows, is_good))
    return found


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _lists(values: np.ndarray, is_good: np.ndarray) -> pa.Array:
    """Rows of an array as an Arrow list each, null where a row is bad."""
    kind = pa.list_(pa.field("element", pa.from_numpy_dtype(values.dtype), nullable=False))
    offsets = np.concatenate([[0], np.cumsum(np.where(is_good, values.shape[1], 0))]).astype(np.int32)
    flat = pa.array(np.ascontiguousarray(values[is_good]).reshape(-1))
    return pa.ListArray.from_arrays(offsets, flat, type=kind, mask=pa.array(~is_good))


def evaluate_partition(batches: Iterator[pa.RecordBatch], settings: NetSettings) -> Iterator[pa.RecordBatch]:
    """Tests the net on batches of rows; a part of the evaluation for each."""
    with _folder_of(settings) as folder:
        weights = settings.weights.read()
        for batch in batches:
            writer = data.writer(settings.rules)
            bad = data.push(writer, batch)
            if len(bad) == len(batch):
                continue
            part = _native.evaluate_part(settings.net, folder, weights, writer.finish(), _threads(settings))
            yield pa.RecordBatch.from_pydict({"part": pa.array([part], pa.binary())})
