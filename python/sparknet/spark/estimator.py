"""`NetEstimator`: trains a Caffe net on a DataFrame, where it lies."""

from __future__ import annotations

import os
import secrets
from functools import partial
from typing import Any

from pyspark import keyword_only
from pyspark.ml import Estimator
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame

from sparknet import _native
from sparknet.spark import data, worker
from sparknet.spark.driver import Driver, TrainingError, check_cluster, hosts, run
from sparknet.spark.model import NetModel, TrainingSummary
from sparknet.spark.params import TrainParams
from sparknet.spark.progress import Progress


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
        self._set(**self._input_kwargs)

    @keyword_only
    def setParams(self, **_: Any) -> NetEstimator:
        """Sets parameters by their names."""
        return self._set(**self._input_kwargs)

    def _fit(self, dataset: DataFrame) -> NetModel:
        spark = dataset.sparkSession
        workers = self.getOrDefault(self.numWorkers)
        self._check()
        job = self._packed()
        frame = self._prepared(dataset, job)
        weights = _read(self.getOrDefault(self.weights)) if self.getOrDefault(self.weights) else None
        check_cluster(spark, workers)
        progress = Progress(self.getOrDefault(self.verbose))
        seed = self.getOrDefault(self.seed) if self.isDefined(self.seed) else job.seed
        seed = secrets.randbelow(1_000_000_007) if seed is None else seed
        with Driver(workers, weights, self.getOrDefault(self.heartbeatTimeout), progress.event) as driver:
            given = self.getOrDefault(self.driverHost)
            settings = partial(
                worker.WorkerSettings,
                workers=workers,
                driver_hosts=hosts(spark, given),
                driver_port=driver.port,
                token=driver.token,
                solver=job.solver(),
                files={name: _read(path) for name, path in job.files},
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
                commit_interval=self.getOrDefault(self.commitInterval),
            )
            rows, restarts = run(
                frame.repartition(workers),
                driver,
                self.getOrDefault(self.maxRestarts),
                lambda attempt: partial(worker.train_partition, settings=settings(attempt=attempt)),
                worker.SCHEMA,
                progress.message,
            )
            progress.close()
            committed = driver.committed
        if committed is None:
            raise TrainingError("the workers handed over no model: please report this as a bug")
        model = NetModel._of(job, committed.model, seed)
        self._copyValues(model)
        model._set_summary(TrainingSummary(progress.events, committed.iteration, restarts, rows))
        return model._resetUid(self.uid.replace("NetEstimator", "NetModel"))

    def _check(self) -> None:
        at_least_one = ("numWorkers", "tau")
        for name in at_least_one:
            if self.getOrDefault(name) < 1:
                raise ValueError(f"{name} is {self.getOrDefault(name)}: give at least 1")
        if not self.isDefined(self.solver):
            raise ValueError("there is no solver: give solver, a .prototxt file or its text")

    def _prepared(self, dataset: DataFrame, job: Any) -> DataFrame:
        names = self.getOrDefault(self.featuresCol), self.getOrDefault(self.labelCol)
        columns = data.inputs(dataset, job.columns, *names)
        validation = self.getOrDefault(self.validationIndicatorCol)
        if validation is not None:
            columns.append(data.validation(dataset, validation))
        return dataset.select(*columns)

    def _packed(self) -> Any:
        net = self.getOrDefault(self.net)
        return _native.PackedJob(
            _text(self.getOrDefault(self.solver), "solver"),
            None if net is None else _text(net, "net"),
            self.overrides(),
            self.getOrDefault(self.validationIndicatorCol) is not None,
        )

    def rules(self, job: Any, memory_limit_bytes: int) -> data.Rules:
        """What rows have to be."""
        shape = self.getOrDefault(self.inputShape) if self.isDefined(self.inputShape) else job.shape
        return data.Rules(
            shape=None if shape is None else list(shape),
            color=job.color,
            crop_size=job.crop_size,
            skip_bad=self.getOrDefault(self.onBadRow) == "skip",
            memory_limit_bytes=memory_limit_bytes,
            columns=tuple(job.columns),
        )


def _text(given: str, what: str) -> tuple[str, str, str]:
    """A prototxt's text, its name for messages, and the folder that its paths begin in."""
    if "\n" in given or "{" in given or ":" in given and not os.path.exists(given):
        return given, f"the {what}", ""
    try:
        with open(given, encoding="utf-8") as file:
            return file.read(), given, os.path.dirname(given)
    except OSError as error:
        raise ValueError(
            f"{what} {given} cannot be read ({error.strerror}): name a file on the driver, or give its text"
        ) from error


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): name a file on the driver") from error
