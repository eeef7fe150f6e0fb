"""`NetModel`: a trained net that predicts on DataFrames."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyspark.errors import PySparkException
from pyspark.ml import Model
from pyspark.ml.functions import array_to_vector
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReadable, MLReader, MLWritable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from sparknet import _native
from sparknet.spark import connect, data, failures, files
from sparknet.spark.params import NetParams, check_blobs, net_state
from sparknet.spark.predict import Added, NetSettings, evaluate_partition, predict_partition

#: Bytes of a part of a saved model: rows that no limit of Spark's on messages or on Parquet's pages minds.
PART_BYTES = 4 << 20


class TrainingSummary:
    """How a model was trained."""

    def __init__(self, events: list[dict[str, Any]], iteration: int, restarts: int, workers: list[Any]) -> None:
        #: The events of the run, in order, as `sparknet train --events` writes them; of very many rounds not all.
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


class NetModel(Model, NetParams, MLReadable, MLWritable):
    """A trained net. `transform` adds the class, the probabilities, and any blob as a column."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: dict[str, bytes] = {}
        self._summary: TrainingSummary | None = None

    @classmethod
    def _of(cls, job: Any, weights: bytes, seed: int) -> NetModel:
        model = cls()
        scores, needs_softmax, is_classifier, has_probabilities = job.scores()
        about = {
            "scores": scores,
            "needs_softmax": needs_softmax,
            "is_classifier": is_classifier,
            "has_probabilities": has_probabilities,
            "has_labels": job.has_labels,
            "blobs": job.blobs,
            "shape": job.shape,
            "color": job.color,
            "crop_size": job.crop_size,
            "columns": job.columns,
            "batch_size": job.batch_size,
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
    def fromCaffe(cls, net: str, weights: str, stage: Sequence[str] = (), level: int = 0, **params: Any) -> NetModel:
        """A net that was trained elsewhere: a .prototxt file on the driver, or its text, and a .caffemodel, or several
        with commas between them. `stage` and `level` choose among layers with include or exclude rules."""
        state = net_state(stage, level)
        only_tested = (
            f'max_iter: 1 base_lr: 0 lr_policy: "fixed" train_state {{ phase: TEST {state} }} test_state {{ {state} }}'
        )
        job = _native.PackedJob((only_tested, "the solver", ""), files.text(net, "net"), "", False)
        return cls._of(job, bytes(job.united_weights(weights.split(","))), seed=0)._set(**params)

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
        about = dict(json.loads(self._parts["about"]))
        # Models that were saved by older versions say less.
        return {"columns": [], "has_labels": True, "blobs": None, "has_probabilities": about["is_classifier"], **about}

    def _settings(self, spark: SparkSession, with_labels: bool) -> NetSettings:
        about = self._about()
        shape = self._shape() or about["shape"]
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
                columns=tuple((name, count) for name, count in about["columns"]),
            ),
            threads=self.getOrDefault(self.threadsPerWorker),
            scores=about["scores"],
            needs_softmax=about["needs_softmax"],
            is_classifier=about["is_classifier"],
            blobs=tuple(self.getOrDefault(self.outputBlobs)),
        )

    def _transform(self, dataset: DataFrame) -> DataFrame:
        settings, about = self._settings(dataset.sparkSession, with_labels=False), self._about()
        check_blobs(settings.blobs, about["blobs"])
        prediction = self.getOrDefault(self.predictionCol)
        probability = self.getOrDefault(self.probabilityCol) if about["has_probabilities"] else ""
        given, new = dataset.columns, [name for name in (prediction, probability, *settings.blobs) if name]
        for name in new:
            if name in given:
                raise ValueError(f"the DataFrame has a column {name} already: drop it, or name the output otherwise")
            if new.count(name) > 1:
                raise ValueError(f"two columns are to be called {name}: name one otherwise")
        if settings.rules.columns:
            # Nothing tells a CoSData layer's inputs from its labels, so it wants them all.
            inputs = data.inputs(dataset, settings.rules.columns, "", "")
        else:
            inputs = [data.features(dataset, self.getOrDefault(self.featuresCol))]
        frame = dataset.withColumns(dict(zip((data.FEATURES, data.LABEL), inputs, strict=False)))
        # Meanwhile columns have names that mapInArrow takes: a user's may have a dot, or be there twice.
        old = [f"sparknet_column_{index}" for index in range(len(given))]
        names = iter(f"sparknet_new_{index}" for index in range(len(new)))
        added = Added(
            next(names) if prediction else None,
            next(names) if probability else None,
            tuple(next(names) for _ in settings.blobs),
        )
        floats = T.ArrayType(T.FloatType(), containsNull=False)
        fields = [
            T.StructField(name, field.dataType, field.nullable, field.metadata)
            for name, field in zip(old, dataset.schema.fields, strict=True)
        ]
        if added.prediction:
            fields.append(T.StructField(added.prediction, T.DoubleType()))
        if added.probability:
            fields.append(T.StructField(added.probability, T.ArrayType(T.DoubleType(), containsNull=False)))
        fields += [T.StructField(name, floats) for name in added.blobs]
        renamed = frame.toDF(*old, *frame.columns[len(old) :])
        out = renamed.mapInArrow(partial(predict_partition, settings=settings, added=added), T.StructType(fields))
        vectors = [added.probability] if added.probability else []
        if self.getOrDefault(self.outputType) == "vector":
            vectors += added.blobs
        if vectors:
            out = out.withColumns({name: _vector(name) for name in vectors})
        return out.toDF(*given, *new)

    def evaluate(self, dataset: DataFrame) -> Evaluation:
        """Tests the net on rows with labels, each row once, where they lie."""
        if dataset.isStreaming:
            raise ValueError("the DataFrame is a stream, which has no end: write it to a table and evaluate that")
        settings = self._settings(dataset.sparkSession, with_labels=True)
        label = self.getOrDefault(self.labelCol) if self._about()["has_labels"] else None
        columns = data.inputs(dataset, settings.rules.columns, self.getOrDefault(self.featuresCol), label)
        frame = dataset.select(*columns)
        try:
            parts = frame.mapInArrow(partial(evaluate_partition, settings=settings), "part binary").collect()
        except PySparkException as error:
            said = failures.of_rows(error)
            if said is None:
                raise
            raise ValueError(said) from error
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
        metadata = check_class(path, spark, NetModel)
        model = NetModel()
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        rows = spark.read.parquet(os.path.join(path, "data")).collect()
        for row in sorted(rows, key=lambda row: (row["name"], row["part"])):
            model._parts[row["name"]] = model._parts.get(row["name"], b"") + bytes(row["content"])
        return model


def check_class(path: str, spark: Any, wanted: type) -> dict[str, Any]:
    """What was saved at `path`; says where that is something else than what is loaded from it."""
    metadata = DefaultParamsReader.loadMetadata(path, _context(spark))
    found = str(metadata["class"]).rpartition(".")[2]
    if found != wanted.__name__:
        raise ValueError(f"{path} has a {found} and no {wanted.__name__}: load it with {found}.load")
    return dict(metadata)


def _vector(name: str) -> Any:
    """A column of arrays as vectors; a null, where a row was bad, stays one."""
    column = F.col(name)
    empty = F.array().cast("array<double>")
    return F.when(column.isNotNull(), array_to_vector(F.coalesce(column.cast("array<double>"), empty)))


def _context(spark: Any) -> Any:
    """What pyspark writes metadata with: the context, or where Spark Connect has none, the session."""
    try:
        return spark.sparkContext
    except Exception:
        return spark
