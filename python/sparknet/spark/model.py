"""`NetModel`: a trained net that predicts on DataFrames."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.ml import Model
from pyspark.ml.functions import array_to_vector
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReadable, MLReader, MLWritable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from sparknet import _native
from sparknet.spark import connect, data, files
from sparknet.spark.params import NetParams

#: Bytes of a part of a saved model: rows that no limit of Spark's on messages or on Parquet's pages minds.
PART_BYTES = 4 << 20


class TrainingSummary:
    """How a model was trained."""

    def __init__(self, events: list[dict[str, Any]], iteration: int, restarts: int, workers: list[Any]) -> None:
        #: Every event of the run, in order, as `sparknet train --json` writes them.
        self.events = events
        #: Iterations that were trained.
        self.totalIterations = iteration
        #: How often workers were lost and training went on from the last committed round.
        self.restarts = restarts
        #: Rows that each worker trained on.
        self.recordsPerWorker = [row["records"] for row in sorted(workers, key=lambda row: row["rank"])]
        #: Rows that were left out because they were bad, and what was wrong with the first of a worker.
        self.badRows = sum(row["bad_rows"] for row in workers)
        self.firstBadRow = next((row["first_bad"] for row in workers if row["first_bad"]), None)

    @property
    def history(self) -> list[dict[str, Any]]:
        """A dict for every loss (iteration, loss, lr, images_per_s) and every test (iteration and its scores)."""
        found = []
        for event in self.events:
            if event["event"] == "iteration":
                found.append({name: event[name] for name in ("iteration", "loss", "lr", "images_per_s")})
            elif event["event"] == "test":
                found.append({"iteration": event["iteration"], **event["scores"]})
        return found


@dataclass(frozen=True)
class Evaluation:
    """What a net makes of rows whose labels are known; each row counts once."""

    #: Rows.
    records: int
    #: The mean of each of the net's outputs, such as accuracy and loss.
    scores: dict[str, float]
    #: The share of rows whose class was found; None where the net has no classes.
    accuracy: float | None
    #: The mean loss; None where the net has none.
    loss: float | None
    #: Precision, recall and F1 of each class and over all, and the confusion matrix.
    details: dict[str, Any]
    #: The same for people.
    table: str

    def __str__(self) -> str:
        return self.table or json.dumps(self.scores)


@dataclass(frozen=True)
class NetSettings:
    """What a task needs to run the net."""

    net: bytes
    weights: connect.Content
    files: dict[str, bytes]
    rules: data.Rules
    threads: int
    scores: str
    needs_softmax: bool
    is_classifier: bool
    blobs: tuple[str, ...]


class NetModel(Model, NetParams, MLReadable, MLWritable):
    """A trained net. `transform` adds the class, the probabilities, and any blob as a column."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: dict[str, bytes] = {}
        self._summary: TrainingSummary | None = None

    @classmethod
    def _of(cls, job: Any, weights: bytes, seed: int) -> NetModel:
        model = cls()
        scores, needs_softmax, is_classifier = job.scores()
        about = {
            "scores": scores,
            "needs_softmax": needs_softmax,
            "is_classifier": is_classifier,
            "shape": job.shape,
            "color": job.color,
            "crop_size": job.crop_size,
            "columns": job.columns,
            "seed": seed,
        }
        model._parts = {
            "about": json.dumps(about).encode(),
            "net": job.test_net(with_labels=False),
            "net_with_labels": job.test_net(with_labels=True),
            "weights": weights,
        }
        for name, path in job.files:
            with open(path, "rb") as file:
                model._parts[f"file:{name}"] = file.read()
        return model

    @classmethod
    def fromCaffe(cls, net: str, weights: str, **params: Any) -> NetModel:
        """A net that was trained elsewhere: a .prototxt file on the driver, or its text, and a .caffemodel."""
        only_tested = 'max_iter: 1 base_lr: 0 lr_policy: "fixed" train_state { phase: TEST }'
        job = _native.PackedJob((only_tested, "the solver", ""), files.text(net, "net"), "", False)
        return cls._of(job, files.read(weights), seed=0)._set(**params)

    @property
    def summary(self) -> TrainingSummary:
        """How the model was trained; only where it was."""
        if self._summary is None:
            raise RuntimeError("this model was loaded: its training left no summary")
        return self._summary

    def _set_summary(self, summary: TrainingSummary) -> None:
        self._summary = summary

    def copy(self, extra: dict[Any, Any] | None = None) -> NetModel:
        """A model with other parameters and the same weights."""
        copied = super().copy(extra)
        copied._parts, copied._summary = self._parts, self._summary
        return copied

    def _about(self) -> dict[str, Any]:
        return dict(json.loads(self._parts["about"]))

    def _settings(self, spark: SparkSession, with_labels: bool) -> NetSettings:
        about = self._about()
        shape = self.getOrDefault(self.inputShape) if self.isDefined(self.inputShape) else about["shape"]
        named = {name.removeprefix("file:"): part for name, part in self._parts.items() if name.startswith("file:")}
        return NetSettings(
            net=self._parts["net_with_labels" if with_labels else "net"],
            weights=connect.content(spark, self._parts["weights"]),
            files=named,
            rules=data.Rules(
                shape=shape,
                color=about["color"],
                crop_size=about["crop_size"],
                skip_bad=self.getOrDefault(self.onBadRow) == "skip",
                memory_limit_bytes=1 << 62,
                # Models that were saved by older versions have none.
                columns=tuple((name, count) for name, count in about.get("columns", [])),
            ),
            threads=self.getOrDefault(self.threadsPerWorker),
            scores=about["scores"],
            needs_softmax=about["needs_softmax"],
            is_classifier=about["is_classifier"],
            blobs=tuple(self.getOrDefault(self.outputBlobs)),
        )

    def _transform(self, dataset: DataFrame) -> DataFrame:
        settings = self._settings(dataset.sparkSession, with_labels=False)
        prediction, probability = self.getOrDefault(self.predictionCol), self.getOrDefault(self.probabilityCol)
        added = [T.StructField(prediction, T.DoubleType())] if prediction else []
        if probability and settings.is_classifier:
            added.append(T.StructField(probability, T.ArrayType(T.DoubleType(), containsNull=False)))
        added += [T.StructField(blob, T.ArrayType(T.FloatType(), containsNull=False)) for blob in settings.blobs]
        taken = [field.name for field in added if field.name in dataset.columns]
        if taken:
            raise ValueError(f"the DataFrame has a column {taken[0]} already: drop it, or name the output otherwise")
        schema = T.StructType([*dataset.schema.fields, *added])
        if settings.rules.columns:
            # Nothing tells a CoSData layer's inputs from its labels, so it wants them all.
            found = data.inputs(dataset, settings.rules.columns, "", "")
            frame = dataset.withColumns(dict(zip((data.FEATURES, data.LABEL), found, strict=False)))
        else:
            frame = dataset.withColumn(data.FEATURES, data.features(dataset, self.getOrDefault(self.featuresCol)))
        names = (prediction or None, probability if settings.is_classifier and probability else None)
        out = frame.mapInArrow(partial(predict_partition, settings=settings, names=names), schema)
        vectors = [probability] if names[1] else []
        if self.getOrDefault(self.outputType) == "vector":
            vectors += settings.blobs
        return out.withColumns({name: _vector(name) for name in vectors}) if vectors else out

    def evaluate(self, dataset: DataFrame) -> Evaluation:
        """Tests the net on rows with labels, each row once, where they lie."""
        settings = self._settings(dataset.sparkSession, with_labels=True)
        names = self.getOrDefault(self.featuresCol), self.getOrDefault(self.labelCol)
        frame = dataset.select(*data.inputs(dataset, settings.rules.columns, *names))
        parts = frame.mapInArrow(partial(evaluate_partition, settings=settings), "part binary").collect()
        if not parts:
            raise ValueError("there are no rows to evaluate: give a DataFrame with some")
        found, table = _native.evaluation([bytes(row["part"]) for row in parts])
        result = json.loads(found)
        scores, details = result["scores"], result["evaluation"] or {}
        accuracy = details.get("accuracy", scores.get("accuracy"))
        losses = [score for name, score in scores.items() if "loss" in name]
        return Evaluation(
            records=result["records"],
            scores=scores,
            accuracy=accuracy,
            loss=losses[0] if losses else None,
            details=details,
            table=table,
        )

    def saveCaffeModel(self, path: str) -> None:
        """Writes the weights as a .caffemodel, on the driver, whole or not at all; Caffe reads it too."""
        files.write_whole(path, self._parts["weights"])

    def write(self) -> connect.Writer:
        """What saves the model: `model.write().overwrite().save(path)`."""
        return _Writer(self)

    @classmethod
    def read(cls) -> MLReader[NetModel]:
        """What loads a model: `NetModel.load(path)`."""
        return _Reader()


class _Writer(connect.Writer):
    def __init__(self, model: NetModel) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        spark = self.sparkSession
        DefaultParamsWriter.saveMetadata(self._model, path, _context(spark))
        rows = [
            (name, start // PART_BYTES, bytearray(part[start : start + PART_BYTES]))
            for name, part in self._model._parts.items()
            for start in range(0, max(1, len(part)), PART_BYTES)
        ]
        frame = spark.createDataFrame(rows, "name string, part int, content binary")
        frame.coalesce(1).write.mode("overwrite").parquet(os.path.join(path, "data"))


class _Reader(MLReader[NetModel]):
    def load(self, path: str) -> NetModel:
        spark = self.sparkSession
        metadata = DefaultParamsReader.loadMetadata(path, _context(spark))
        model = NetModel()
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        rows = spark.read.parquet(os.path.join(path, "data")).collect()
        for row in sorted(rows, key=lambda row: (row["name"], row["part"])):
            model._parts[row["name"]] = model._parts.get(row["name"], b"") + bytes(row["content"])
        return model


def _vector(name: str) -> Any:
    """A column of arrays as vectors; a null, where a row was bad, stays one."""
    column = F.col(data.quoted(name))
    empty = F.array().cast("array<double>")
    return F.when(column.isNotNull(), array_to_vector(F.coalesce(column.cast("array<double>"), empty)))


def _context(spark: Any) -> Any:
    """What pyspark writes metadata with: the context, or where Spark Connect has none, the session."""
    try:
        return spark.sparkContext
    except Exception:
        return spark


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
    batches: Iterator[pa.RecordBatch], settings: NetSettings, names: tuple[str | None, str | None]
) -> Iterator[pa.RecordBatch]:
    """Adds predictions and blobs to batches of rows."""
    blobs = [settings.scores, *settings.blobs]
    for batch in batches:
        kept = [name for name in batch.schema.names if name not in (data.FEATURES, data.LABEL)]
        found = _run(batch, settings, blobs)
        columns = [batch.column(name) for name in kept]
        scores, is_good = found[0]
        if names[0]:
            values = np.argmax(scores, axis=1) if settings.is_classifier else scores[:, 0]
            columns.append(pa.array(values.astype(np.float64), mask=~is_good))
        if names[1]:
            columns.append(_lists(_softmax(scores) if settings.needs_softmax else scores.astype(np.float64), is_good))
        columns += [_lists(values, is_good) for values, is_good in found[1:]]
        added = [*(name for name in names if name), *settings.blobs]
        yield pa.RecordBatch.from_arrays(columns, names=[*kept, *added])


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
