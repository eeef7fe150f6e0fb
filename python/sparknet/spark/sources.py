"""What lies at a path, as a DataFrame to train and predict on: Parquet, images, an LMDB, or Hadoop SequenceFiles.

Nothing is read on the driver beyond a look at the first record: an LMDB is cut into ranges of records, which tasks read
for themselves from storage that all machines see.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from sparknet import _native
from sparknet.spark import connect, failures, sequence_files, sequence_keys

FORMATS = ("parquet", "images", "lmdb", "sequence")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
#: The columns of sources that have none of their own.
ID, DATA, LABEL = "SampleID", "data", "label"
#: Where the features are looked for in Parquet files, CaffeOnSpark's name first.
FEATURE_NAMES = ("data", "image", "features")
#: Bytes that a task reads at once.
BATCH_BYTES = 32 << 20


class SourceError(ValueError):
    """Data that is missing or of no kind that is read."""


@dataclass(frozen=True)
class Source:
    """A DataFrame and what its columns are."""

    frame: DataFrame
    features: str
    #: None where rows have no label.
    label: str | None
    #: None where rows have no name.
    id: str | None
    #: (c, h, w) of rows of plain numbers, where the data says it.
    shape: list[int] | None = None
    #: Gives the first so many rows, where the data has an order.
    take: Callable[[int], DataFrame] | None = None

    def first(self, rows: int) -> DataFrame:
        """So many rows, or all if there are no more: the first, or where there is no order, those of the least hashes,
        which are of all kinds and the same each time."""
        if self.take:
            return self.take(rows)
        held = [name for name in (self.id, self.label, self.features) if name is not None]
        return self.frame.orderBy(F.xxhash64(*held)).limit(rows)


@dataclass(frozen=True)
class Columns:
    """Columns that were asked for by name."""

    features: str | None = None
    label: str | None = None
    id: str | None = None


def read(
    spark: SparkSession,
    path: str,
    form: str | None = None,
    list_file: str | None = None,
    columns: Columns | None = None,
) -> Source:
    """What lies at `path`, of a form out of `FORMATS` or of one that is found out.

    `list_file` names images and their labels, a path and a number a line, as Caffe's ImageData layer has it; without it
    a folder of images has a folder for each class.
    """
    # A relative path would begin in another folder on another machine.
    path = os.path.abspath(path) if "://" not in path and os.path.exists(path) else path
    form = form or ("images" if list_file else _form(spark, path))
    match form:
        case "parquet":
            return _parquet(spark, path, columns or Columns())
        case "images":
            return _images(spark, path, list_file)
        case "lmdb":
            return _lmdb(spark, path)
        case "sequence":
            return _sequence(spark, path)
    raise SourceError(f"{form} is no format of data: choose {', '.join(FORMATS)}")


def _form(spark: SparkSession, path: str) -> str:
    """Which format lies at `path`."""
    if os.path.isfile(os.path.join(path, "data.mdb")):
        return "lmdb"
    found = _files(spark, path).select("path", "length").limit(100).collect()
    names = [row["path"] for row in found]
    if not names:
        raise SourceError(f"{path} has no files: name a folder with data")
    if any(name.endswith("/data.mdb") for name in names):
        raise SourceError(
            f"{path} is an LMDB on storage that has no plain files: copy it to a folder that all machines mount"
        )
    for suffixes, form in (((".parquet",), "parquet"), (IMAGE_SUFFIXES, "images")):
        if any(name.lower().endswith(suffixes) for name in names):
            return form
    smallest = min(found, key=lambda row: (row["length"] < 4, row["length"]))["path"]
    begin = bytes(_files(spark, smallest).select(F.substring("content", 1, 4).alias("begin")).first()["begin"])
    if begin.startswith(b"SEQ"):
        return "sequence"
    if begin == b"PAR1":
        return "parquet"
    raise SourceError(
        f"{path} is neither Parquet, images, an LMDB nor SequenceFiles, as {os.path.basename(names[0])} shows: "
        "correct the path, or say what it is with --data-format"
    )


def _files(spark: SparkSession, path: str, **options: str) -> DataFrame:
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true").options(**options)
    try:
        frame = reader.load(path)
        _ = frame.columns  # Spark Connect looks only now.
        return frame
    except AnalysisException as error:
        raise _missing(path, error) from error


def _missing(path: str, error: AnalysisException) -> Exception:
    if "PATH_NOT_FOUND" in str(error):
        return SourceError(f"{path} does not exist: correct the path, or bring the data there")
    return SourceError(f"{path} cannot be read: {str(error).splitlines()[0]}")


def _parquet(spark: SparkSession, path: str, columns: Columns) -> Source:
    try:
        frame = spark.read.parquet(path)
        names = frame.columns
    except AnalysisException as error:
        raise _missing(path, error) from error
    features = columns.features or next((name for name in FEATURE_NAMES if name in names), None)
    if features is None:
        raise SourceError(
            f"{path} has the columns {', '.join(names)}, and none is called {' or '.join(FEATURE_NAMES)}: say which "
            "has the features with --features-col"
        )
    for given, flag in ((features, "--features-col"), (columns.label, "--label-col"), (columns.id, "--id-col")):
        if given is not None and given not in names:
            raise SourceError(f"{path} has no column {given}, but {', '.join(names)}: correct {flag}")
    label = columns.label or (LABEL if LABEL in names else None)
    identity = columns.id or next((name for name in (ID, "id") if name in names), None)
    if label is not None and isinstance(frame.schema[label].dataType, T.StringType):
        # CaffeOnSpark's labels are numbers in text.
        frame = frame.withColumn(label, F.col(label).try_cast("float"))
    return Source(frame, features, label, identity, _declared_shape(frame))


def _declared_shape(frame: DataFrame) -> list[int] | None:
    """The shape that CaffeOnSpark's columns say of raw pixels."""
    sizes = ["channels", "height", "width"]
    if not set(sizes) <= set(frame.columns):
        return None
    if "encoded" in frame.columns:
        frame = frame.where("not encoded")
    first = frame.select(*sizes).first()
    return [int(first[size]) for size in sizes] if first and all(first[size] for size in sizes) else None


def _images(spark: SparkSession, path: str, list_file: str | None) -> Source:
    files = _files(spark, path, pathGlobFilter="*.{jpg,jpeg,png,JPG,JPEG,PNG}")
    # Paths come back whole, file:/folder/class/name.jpg; what counts is what follows the folder.
    root = re.sub(r"^[a-z0-9]+:(//[^/]*)?", "", path).strip("/")
    start = F.instr("path", f"/{root}/") + F.lit(len(root) + 2)
    files = files.select(F.col("path").substr(start, F.lit(1 << 30)).alias(ID), F.col("content").alias(DATA))
    frame = _listed(spark, files, path, list_file) if list_file else _by_folder(files, path)
    return Source(frame, DATA, LABEL, ID)


def _by_folder(files: DataFrame, path: str) -> DataFrame:
    folder = F.regexp_extract(ID, r"^(.*)/[^/]*$", 1)
    classes = sorted(row["folder"] for row in files.select(folder.alias("folder")).distinct().collect())
    if not classes:
        raise SourceError(f"{path} has no images: name a folder with .jpg or .png files in it")
    if "" in classes:
        raise SourceError(
            f"images lie directly in {path}: put those of each class in a folder of their own, or name a list of "
            "images and labels with --data-list"
        )
    number = F.array_position(F.array(*[F.lit(name) for name in classes]), folder) - 1
    return files.select(ID, DATA, number.cast("float").alias(LABEL))


def _listed(spark: SparkSession, files: DataFrame, path: str, list_file: str) -> DataFrame:
    list_file = os.path.abspath(list_file) if "://" not in list_file and os.path.exists(list_file) else list_file
    try:
        lines = spark.read.text(list_file).where(F.length(F.trim("value")) > 0)
    except AnalysisException as error:
        raise _missing(list_file, error) from error
    line = r"^\s*(.*\S)\s+(\S+)\s*$"
    listed = lines.select(
        "value",
        F.regexp_extract("value", line, 1).alias(ID),
        F.regexp_extract("value", line, 2).try_cast("float").alias(LABEL),
    )
    bad = listed.where(F.col(LABEL).isNull()).first()
    if bad:
        raise SourceError(f"{list_file} has the line {bad['value']!r}: a line is an image's path and its label")
    listed = listed.drop("value")
    missing = listed.join(files.select(ID), ID, "left_anti").first()
    if missing:
        raise SourceError(f"{list_file} names {missing[ID]}, which is not in {path}: correct the list or the folder")
    return files.join(F.broadcast(listed), ID)


def _lmdb(spark: SparkSession, path: str) -> Source:
    found = _native.Lmdb(path)
    kind = "array<float>" if found.has_floats else "binary"
    schema = f"{ID} string, {DATA} {kind}, {LABEL} float"

    def take(rows: int) -> DataFrame:
        return spark.range(min(rows, len(found))).mapInArrow(partial(read_lmdb, path=path), schema)

    return Source(take(len(found)), DATA, LABEL, ID, found.shape, take)


def read_lmdb(batches: Iterator[pa.RecordBatch], path: str) -> Iterator[pa.RecordBatch]:
    """The records of an LMDB that have the numbers of a task's rows: a range, because Spark cuts ranges so."""
    source = None
    for batch in batches:
        numbers = batch.column(0).to_numpy(zero_copy_only=False)
        if len(numbers) == 0:
            continue
        if source is None:
            source = _native.Lmdb(path)
        start, end = int(numbers[0]), int(numbers[-1]) + 1
        if end - start != len(numbers):
            raise RuntimeError("Spark did not cut a range into ranges: please report this as a bug")
        while start < end:
            keys, labels, values, offsets = source.read(start, end - start, BATCH_BYTES)
            columns = [pa.array(keys), _column(values, offsets, source.has_floats), pa.array(labels)]
            yield pa.RecordBatch.from_arrays(columns, names=[ID, DATA, LABEL])
            start += len(keys)


def _column(values: bytes, offsets: np.ndarray, has_floats: bool) -> pa.Array:
    if has_floats:
        floats = pa.Array.from_buffers(pa.float32(), len(values) // 4, [None, pa.py_buffer(values)])
        return pa.ListArray.from_arrays(pa.array(offsets // 4, pa.int32()), floats)
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(values)])


def _sequence(spark: SparkSession, path: str) -> Source:
    if connect.is_connect(spark):
        return sequence_by_files(spark, path)
    pairs = spark.sparkContext.sequenceFile(path)
    first = pairs.take(1)
    if not first:
        raise SourceError(f"{path} has no records: name SequenceFiles with images in them")
    key, value = first[0]
    if not isinstance(value, bytes | bytearray):
        raise SourceError(f"the values of {path} are {type(value).__name__}, not bytes: write images as BytesWritable")
    shape = sequence_keys.parse(key).shape
    frame = spark.createDataFrame(pairs.map(_row), f"{ID} string, {DATA} binary, {LABEL} float")
    return Source(frame, DATA, LABEL, ID, None if shape is None else list(shape))


def sequence_by_files(spark: SparkSession, path: str) -> Source:
    """SequenceFiles where Spark has no reader of its own: whole files, which tasks take apart."""
    files = _files(spark, path).select("content")
    frame = files.mapInArrow(sequence_files.read_files, sequence_files.SCHEMA)
    try:
        first = frame.select("shape").first()
    except PySparkException as error:
        said = failures.of_rows(error)
        raise SourceError(
            f"{path}: {said}" if said else f"{path} cannot be read: {failures.sentence(error)}"
        ) from error
    if first is None:
        raise SourceError(f"{path} has no records: name SequenceFiles with images in them")
    return Source(frame.drop("shape"), DATA, LABEL, ID, first["shape"])


def _row(pair: tuple[Any, Any]) -> tuple[str, bytearray, float]:
    key = sequence_keys.parse(pair[0])
    return key.id, bytearray(pair[1]), key.label
