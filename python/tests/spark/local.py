"""The run that a Spark run has to equal: the same shards, with all workers in one process and without Spark."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from unittest import mock

import pyarrow as pa
from pyspark.sql.functions import spark_partition_id
from sparknet import _native
from sparknet.spark import data


@contextlib.contextmanager
def in_order() -> Iterator[None]:
    """Meanwhile a lone worker goes through a DataFrame's rows in their order there."""

    def one_after_the_other(frame, workers, is_spread):
        assert workers == 1 and not is_spread
        return frame.repartition(1)  # Of the one partition that tests make.

    with mock.patch.object(data, "deal", one_after_the_other):
        yield


def shards_of(estimator, dataset):
    """The rows that Spark would give each of an estimator's workers, in their order."""
    workers = estimator.getOrDefault("numWorkers")
    frame = data.deal(estimator._prepared(dataset, estimator._packed()), workers)
    shards = defaultdict(list)
    for row in frame.withColumn("rank", spark_partition_id()).collect():
        shards[row["rank"]].append(row)
    return [shards[rank] for rank in range(workers)]


def weights_of(estimator, dataset):
    """The weights of an estimator's run over the shards that Spark would give its workers."""
    shards = shards_of(estimator, dataset)
    workers = len(shards)
    job = estimator._packed()
    rows = []
    for rank in range(workers):
        writer = data.writer(estimator.rules(job, 1 << 30))
        batch = pa.RecordBatch.from_pydict(
            {
                data.FEATURES: pa.array([bytes(row[data.FEATURES]) for row in shards[rank]], pa.binary()),
                data.LABEL: pa.array([row[data.LABEL] for row in shards[rank]], pa.float32()),
            }
        )
        data.push(writer, batch)
        rows.append(writer.finish())
    found = _native.train_in_process(
        solver=job.solver(),
        folder="",
        rows=rows,
        test_rows=[None] * workers,
        seed=job.seed,
        threads=1,
        sync=estimator.getOrDefault("sync"),
        tau=estimator.getOrDefault("tau"),
        history=estimator.getOrDefault("history"),
        timeout_s=60.0,
        weights=None,
        on_event=lambda line: None,
    )
    return found["model"]
