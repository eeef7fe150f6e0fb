"""`NetEstimator`: trains a Caffe net on a DataFrame, where it lies."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from pyspark import keyword_only
from pyspark.ml import Estimator
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsReader, DefaultParamsWritable, DefaultParamsWriter
from pyspark.sql import DataFrame

from sparknet import _native
from sparknet.spark import connect, data, files, worker
from sparknet.spark.driver import Committed, Driver, TrainingError, check_cluster, hosts, run
from sparknet.spark.job_page import JobPage
from sparknet.spark.model import NetModel, TrainingSummary, check_class
from sparknet.spark.params import TrainParams, check_blobs
from sparknet.spark.progress import Progress

#: The least values of parameters that are numbers.
_LEAST = {
    "numWorkers": 1,
    "tau": 1,
    "threadsPerWorker": 0,
    "maxRestarts": 0,
    "commitInterval": 0,
    "memoryPerWorkerMb": 0,
    "seed": 0,
    "syncTimeout": 1,
    "heartbeatTimeout": 2 * worker.HEARTBEAT_S,
}


class NetEstimator(Estimator, TrainParams, DefaultParamsReadable, DefaultParamsWritable):
    """Trains the net of a Caffe solver on the rows of a DataFrame.

    estimator = NetEstimator(solver="lenet_solver.prototxt", featuresCol="image", numWorkers=2, tau=10)
    model = estimator.fit(train)

    The prototxt's data layers are fed from the columns, whatever source they name; batch_size and transform_param stay
    theirs.
    """

    @keyword_only
    def __init__(self, **_: Any) -> None:
        """Takes every parameter by its name; see `explainParams()`."""
        super().__init__()
        #: Who gets every event of a run, a line of JSON, beside the summary; and who gets the run's driver.
        self._on_event: Callable[[str], None] | None = None
        self._on_driver: Callable[[Driver], None] | None = None
        self._set(**self._input_kwargs)

    def write(self) -> connect.Writer:
        """What saves the estimator: `estimator.write().overwrite().save(path)`."""
        return _Writer(self)

    @classmethod
    def read(cls) -> DefaultParamsReader[NetEstimator]:
        """What loads an estimator: `NetEstimator.load(path)`."""
        return _Reader(cls)

    @keyword_only
    def setParams(self, **_: Any) -> NetEstimator:
        """Sets parameters by their names."""
        return self._set(**self._input_kwargs)

    def _fit(self, dataset: DataFrame) -> NetModel:
        if not isinstance(dataset, DataFrame):
            raise TypeError(
                f"fit takes a DataFrame of Spark's, and this is a {type(dataset).__module__}.{type(dataset).__name__}"
            )
        if dataset.isStreaming:
            raise ValueError("the DataFrame is a stream, which has no end: write it to a table and train on that")
        spark = dataset.sparkSession
        workers = self.getOrDefault(self.numWorkers)
        self._check()
        job = self._packed()
        if job.batch_size == 0:
            raise ValueError("the net has no layer that takes data in: begin it with an Input or a Data layer")
        check_blobs(self.getOrDefault(self.outputBlobs), job.blobs)
        frame = self._prepared(dataset, job)
        weights = self._weights(job)
        check_cluster(spark, workers)
        seed = self.getOrDefault(self.seed) if self.isDefined(self.seed) else job.seed
        begin, begin_seed = self._snapshot()
        seed = begin_seed if seed is None else seed
        seed = secrets.randbelow(1_000_000_007) if seed is None else seed
        page = JobPage(spark)
        progress = Progress(self.getOrDefault(self.verbose), page.tell)
        on_event, on_message = self._heard_by(progress)
        with (
            contextlib.closing(progress),
            Driver(workers, weights, self.getOrDefault(self.heartbeatTimeout), on_event) as driver,
        ):
            page.tag = driver.tag
            driver.committed = begin
            if self._on_driver:
                self._on_driver(driver)
            given = self.getOrDefault(self.driverHost)
            settings = partial(
                worker.WorkerSettings,
                workers=workers,
                driver_hosts=hosts(spark, given),
                driver_port=driver.port,
                token=driver.token,
                solver=job.solver(),
                files={name: files.read(path) for name, path in job.files},
                rules=self.rules(job, self.getOrDefault(self.memoryPerWorkerMb) << 20),
                batch_size=job.batch_size,
                has_test_rows=self.getOrDefault(self.validationIndicatorCol) is not None,
                seed=seed,
                threads=self.getOrDefault(self.threadsPerWorker),
                sync=self.getOrDefault(self.sync),
                tau=self.getOrDefault(self.tau),
                history=self.getOrDefault(self.history),
                compress=self.getOrDefault(self.compress),
                timeout_s=self.getOrDefault(self.syncTimeout),
                allow_nan=self.getOrDefault(self.allowNan),
                commit_interval=self.getOrDefault(self.commitInterval),
            )
            rows, restarts = run(
                spark,
                partial(data.deal, frame, workers),
                driver,
                self.getOrDefault(self.maxRestarts),
                lambda attempt, is_spread: partial(
                    worker.train_partition, settings=settings(attempt=attempt, is_spread=is_spread)
                ),
                worker.SCHEMA,
                on_message,
                page,
                f"{job.net_name or 'a net'}, {workers} workers: taking rows in",
            )
            committed = driver.committed
        if committed is None:
            raise TrainingError("the workers handed over no model: please report this as a bug")
        model = NetModel._of(job, committed.model, seed)
        self._copyValues(model)
        model._set_summary(TrainingSummary(progress.events, committed.iteration, restarts, rows))
        return model._resetUid(self.uid.replace("NetEstimator", "NetModel"))

    def _heard_by(self, progress: Progress) -> tuple[Callable[[str], None], Callable[[str], None]]:
        """What takes events and messages: the progress, and whoever listens beside it."""
        listener = self._on_event
        if listener is None:
            return progress.event, progress.message

        def on_event(line: str) -> None:
            progress.event(line)
            listener(line)

        def on_message(message: str) -> None:
            progress.message(message)
            listener(json.dumps({"event": "message", "message": message}))

        return on_event, on_message

    def _weights(self, job: Any) -> bytes | None:
        """What training begins with, as a .caffemodel."""
        if self.getOrDefault(self.snapshot) is not None:
            return None
        given = self.getOrDefault(self.weights)
        paths = given.split(",") if given else job.weights
        return bytes(job.united_weights(paths)) if paths else None

    def _sync(self) -> dict[str, Any]:
        """How workers agree, as `_native` takes it."""
        return {name: self.getOrDefault(name) for name in ("sync", "tau", "history")}

    def _snapshot(self) -> tuple[Committed | None, int | None]:
        """What a run goes on from, as if it had been committed, and the seed that it had."""
        path, workers = self.getOrDefault(self.snapshot), self.getOrDefault(self.numWorkers)
        if path is None:
            return None, None
        if self.getOrDefault(self.weights) is not None:
            raise ValueError("weights and snapshot are both given: a snapshot has weights, so leave weights out")
        found = _native.read_snapshot(path, workers=workers, **self._sync())
        iteration, seed, model, state, parts = found
        return Committed(iteration, is_finished=False, model=model, state=state, workers=parts), seed

    def _state_of(self, committed: Committed, model_path: str) -> bytes:
        """The .solverstate of what was committed, to lie beside the model's file."""
        parts = {"model": model_path, "state": committed.state, "workers": committed.workers}
        return bytes(_native.solverstate(**parts, **self._sync()))

    def _check(self) -> None:
        for name, least in _LEAST.items():
            value = self.getOrDefault(name) if self.isDefined(name) else least
            # A NaN is not at least anything.
            if not least <= value < float("inf"):
                raise ValueError(f"{name} is {value}: give at least {least}")
        self._shape()
        if not self.isDefined(self.solver):
            raise ValueError("there is no solver: give solver, a .prototxt file or its text")

    def _prepared(self, dataset: DataFrame, job: Any) -> DataFrame:
        label = self.getOrDefault(self.labelCol) if job.has_labels else None
        columns = data.inputs(dataset, job.columns, self.getOrDefault(self.featuresCol), label)
        validation = self.getOrDefault(self.validationIndicatorCol)
        if validation is not None:
            columns.append(data.validation(dataset, validation))
        return dataset.select(*columns)

    def _packed(self) -> Any:
        net = self.getOrDefault(self.net)
        return _native.PackedJob(
            files.text(self.getOrDefault(self.solver), "solver"),
            None if net is None else files.text(net, "net"),
            self.overrides(),
            self.getOrDefault(self.validationIndicatorCol) is not None,
        )

    def rules(self, job: Any, memory_limit_bytes: int) -> data.Rules:
        """What rows have to be."""
        shape = self._shape() or job.shape
        return data.Rules(
            shape=None if shape is None else list(shape),
            color=job.color,
            crop_size=job.crop_size,
            skip_bad=self.getOrDefault(self.onBadRow) == "skip",
            memory_limit_bytes=memory_limit_bytes,
            columns=tuple(job.columns),
        )


class _Writer(connect.Writer, DefaultParamsWriter):
    """Parameters alone."""


class _Reader(DefaultParamsReader[NetEstimator]):
    def load(self, path: str) -> NetEstimator:
        check_class(path, self.sparkSession, NetEstimator)
        return super().load(path)
