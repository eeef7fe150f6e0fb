"""DataFrame columns on their way to a worker: which types are taken, and how their Arrow arrays get into Rust."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from sparknet import _native

#: The names that columns travel under.
FEATURES, LABEL, VALIDATION = "sparknet_features", "sparknet_label", "sparknet_validation"
#: What says where a row goes.
_KEY = "sparknet_key"
#: The how-manieth a row is of those that hold the same.
_TURN = "sparknet_turn"

_IMAGE_FIELDS = {"height", "width", "nChannels", "mode", "data"}
#: OpenCV's types of 8-bit images, as Spark's image schema has them.
_IMAGE_MODES = [0, 16, 24]


class ColumnError(ValueError):
    """A column that is missing or of a type that is not taken."""


@dataclass(frozen=True)
class Rules:
    """What rows have to be, from the nets and the estimator."""

    shape: list[int] | None
    color: str
    crop_size: int
    skip_bad: bool
    memory_limit_bytes: int
    #: The columns that feed a CoSData layer, and how many numbers each has: first the one that is transformed, of which
    #: the shape says the number. Empty where featuresCol and labelCol feed the net.
    columns: tuple[tuple[str, int], ...] = ()


def inputs(
    frame: DataFrame, columns: Sequence[tuple[str, int]], features_name: str, label_name: str | None
) -> list[Column]:
    """The columns that feed the net: features, and a label where it has one, or those that a CoSData layer names."""
    if not columns:
        return [features(frame, features_name), *([] if label_name is None else [label(frame, label_name)])]
    (first, _), *others = columns
    return [features(frame, first), *([numbers(frame, others)] if others else [])]


def numbers(frame: DataFrame, columns: Sequence[tuple[str, int]]) -> Column:
    """Columns of numbers, or of arrays of so many, one after the other in an array; null where one is bad."""
    parts = []
    for name, count in columns:
        column, kind = _column(frame, name)
        if isinstance(kind, T.NumericType | T.BooleanType) and count == 1:
            whole = column.cast("int") if isinstance(kind, T.BooleanType) else column
            parts.append(F.array(whole.cast("float")))
        elif isinstance(kind, T.StringType) and count == 1:
            parts.append(F.array(column.try_cast("float")))
        elif isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.NumericType):
            parts.append(F.when(F.size(column) == count, column.cast("array<float>")))
        else:
            wanted = "a number" if count == 1 else f"an array of {count} numbers"
            raise ColumnError(f"column {name} is {kind.simpleString()}: the net's CoSData layer wants {wanted}")
    return F.concat(*parts).alias(LABEL)


def features(frame: DataFrame, name: str) -> Column:
    """The feature column in a form that workers take: array<float>, binary, or an image struct."""
    column, kind = _column(frame, name)
    if type(kind).__name__ == "VectorUDT":
        from pyspark.ml.functions import vector_to_array

        return vector_to_array(column, dtype="float32").alias(FEATURES)
    if isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.NumericType):
        return column.cast("array<float>").alias(FEATURES)
    if isinstance(kind, T.BinaryType):
        return column.alias(FEATURES)
    if isinstance(kind, T.StructType) and set(kind.names) >= _IMAGE_FIELDS:
        return column.alias(FEATURES)
    raise ColumnError(
        f"column {name} is {kind.simpleString()}: features are an array of numbers, a vector, binary (raw bytes, "
        "JPEG or PNG), or an image as Spark's image source reads it"
    )


def label(frame: DataFrame, name: str) -> Column:
    """The label column as floats."""
    column, kind = _column(frame, name)
    if isinstance(kind, T.ArrayType):
        raise ColumnError(
            f"column {name} is {kind.simpleString()}: a label is a number; several numbers a row go through a CoSData "
            "layer, with a top for each column"
        )
    if not isinstance(kind, T.NumericType | T.BooleanType):
        raise ColumnError(
            f"column {name} is {kind.simpleString()}: a label is a number; index strings with StringIndexer"
        )
    return (column.cast("int") if isinstance(kind, T.BooleanType) else column).cast("float").alias(LABEL)


def validation(frame: DataFrame, name: str) -> Column:
    """The column that marks rows to test on."""
    column, kind = _column(frame, name)
    if not isinstance(kind, T.BooleanType):
        raise ColumnError(f"column {name} is {kind.simpleString()}: validationIndicatorCol is a column of booleans")
    return column.alias(VALIDATION)


def deal(frame: DataFrame, workers: int, is_spread: bool = False) -> DataFrame:
    """Gives each worker a partition of rows, as `inputs` made them: whose a row is, and its place among the others,
    follow from what it holds, and so are the same on any cluster and after any restart. Rows that hold the same are
    one worker's, one after the other; where they are many, `is_spread` gives them to all workers, at places far from
    each other, which costs a second way through the cluster.

    Spark's own `repartition(workers)` starts from the partitions that rows are read in, which differ with a cluster's
    cores, and a partition comes together in the order in which executors answer.
    """
    held: list[Column] = []
    for field in frame.schema:
        if isinstance(field.dataType, T.StructType):
            # An image's origin is a path, which may be another on another cluster.
            held += [F.col(f"{field.name}.{name}") for name in field.dataType.names if name != "origin"]
        else:
            held.append(F.col(field.name))
    keyed = frame.withColumn(_KEY, F.xxhash64(*held))
    if is_spread:
        # Which of several rows that hold the same is the first makes no difference.
        turn = F.row_number().over(Window.partitionBy(_KEY).orderBy(_KEY))
        keyed = keyed.withColumn(_TURN, turn).withColumn(_KEY, F.xxhash64(_KEY, _TURN)).drop(_TURN)
    return keyed.repartition(workers, _KEY).sortWithinPartitions(_KEY).drop(_KEY)


def _column(frame: DataFrame, name: str) -> tuple[Column, T.DataType]:
    """A column by its name, or a field of a struct as `struct.field`, and its type."""
    if frame.columns.count(name) > 1:
        raise ColumnError(f"the DataFrame has several columns {name}: drop or rename all but one")
    if name in frame.columns:
        return F.col(quoted(name)), frame.schema[name].dataType
    try:
        return F.col(name), frame.select(F.col(name)).schema[0].dataType
    except AnalysisException:
        raise ColumnError(f"there is no column {name}; the DataFrame has {', '.join(frame.columns)}") from None


def quoted(name: str) -> str:
    """A column's name as Spark's functions take it, whatever is in it."""
    return "`" + name.replace("`", "``") + "`"


def writer(rules: Rules) -> Any:
    """What takes rows in; larger ones than the limit go to the folder that Spark gives its Python workers."""
    return _native.RowsWriter(
        "the DataFrame",
        rules.shape,
        rules.color,
        rules.crop_size,
        rules.skip_bad,
        rules.memory_limit_bytes,
        tempfile.gettempdir(),
        sum(count for _, count in rules.columns[1:]),
    )


def push(to: Any, batch: pa.RecordBatch) -> list[int]:
    """Hands a batch's rows over; returns which of them are bad and were left out."""
    numbers_per_row = to.numbers_per_row
    column = batch.column(FEATURES)
    is_valid = np.asarray(column.is_valid().to_numpy(zero_copy_only=False)).astype(np.uint8)
    beside: np.ndarray | None = None
    if LABEL in batch.schema.names and pa.types.is_list(batch.schema.field(LABEL).type):
        labels = np.zeros(len(batch), np.float32)
        beside = _numbers(batch.column(LABEL), numbers_per_row)
    elif LABEL in batch.schema.names:
        labels = batch.column(LABEL).cast(pa.float32()).fill_null(float("nan")).to_numpy(zero_copy_only=False)
        labels = np.ascontiguousarray(labels, dtype=np.float32)
    else:
        labels = np.zeros(len(batch), np.float32)
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values = column.values
        if values.null_count:
            values = values.fill_null(float("nan"))
        floats = np.ascontiguousarray(values.to_numpy(zero_copy_only=False), dtype=np.float32)
        bad = to.push_floats(floats, _offsets(column.offsets), labels, is_valid, beside)
    elif pa.types.is_struct(kind):
        fields = dict(zip((field.name for field in kind), column.flatten(), strict=True))
        sizes = [fields[name].fill_null(0).to_numpy(zero_copy_only=False) for name in ("nChannels", "height", "width")]
        is_valid &= np.isin(fields["mode"].fill_null(-1).to_numpy(zero_copy_only=False), _IMAGE_MODES).astype(np.uint8)
        shapes = np.ascontiguousarray(np.stack(sizes, axis=1), dtype=np.int64).reshape(-1)
        content, offsets = _bytes(fields["data"])
        bad = to.push_bytes(content, offsets, labels, is_valid, shapes, beside)
    else:
        content, offsets = _bytes(column)
        bad = to.push_bytes(content, offsets, labels, is_valid, None, beside)
    return bad


def _numbers(column: pa.ListArray, per_row: int) -> np.ndarray:
    """The numbers of all rows, one row after the other; a row that is null is no numbers."""
    found = np.full((len(column), per_row), np.nan, np.float32)
    is_valid = column.is_valid().to_numpy(zero_copy_only=False).astype(bool)
    values = column.drop_null().flatten().fill_null(float("nan"))
    found[is_valid] = values.to_numpy(zero_copy_only=False).reshape(-1, per_row)
    return found.reshape(-1)


def _offsets(offsets: pa.Array) -> np.ndarray:
    return np.ascontiguousarray(offsets.to_numpy(zero_copy_only=False), dtype=np.int64)


def _bytes(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """A binary array's bytes, not copied, and its offsets."""
    _, offsets, content = column.buffers()
    width = np.int64 if pa.types.is_large_binary(column.type) else np.int32
    if len(column) == 0 or offsets is None:
        return np.empty(0, np.uint8), np.zeros(len(column) + 1, np.int64)
    found = np.frombuffer(offsets, dtype=width)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    # Arrow leaves the buffer out where all values are empty.
    taken = np.empty(0, np.uint8) if content is None else np.frombuffer(content, dtype=np.uint8)
    return taken, found
