"""What `sparknet train|test|features --master …` runs under spark-submit.

The command starts spark-submit with this file and the path of a socket. Over that it says in a line of JSON what is to
be done, and gets lines of JSON back: events while a run goes on, and at the end its result or an error. The word `stop`
from the command, or its end, ends the job.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparknet.spark import failures, files, sources
from sparknet.spark.driver import Committed, Driver, TrainingStoppedError
from sparknet.spark.estimator import NetEstimator
from sparknet.spark.model import NetModel

#: Marks the rows to test on among those to train on.
IS_TEST = "sparknet_is_test"
#: The features, under a name that no blob has.
INPUT = "sparknet_input"


class Command:
    """The command's end of the socket."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._sending = threading.Lock()
        self._stop: Callable[[], None] = _interrupt
        self.is_stopped = False
        #: What is to be done.
        self.request: dict[str, Any] = json.loads(self._lines.readline())
        threading.Thread(target=self._listen, name="sparknet command", daemon=True).start()

    def say(self, **message: Any) -> None:
        """Sends a message."""
        with self._sending:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def event(self, line: str) -> None:
        """Sends an event of a run, a line of JSON."""
        with contextlib.suppress(OSError):  # The command is gone; the listener sees it too.
            self.say(event=json.loads(line))

    @contextlib.contextmanager
    def stopped_by(self, stop: Callable[[], None]) -> Any:
        """What a stop calls from another thread, instead of interrupting this process."""
        self._stop = stop
        try:
            yield
        finally:
            self._stop = _interrupt

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # A command that is killed resets the connection.
            for line in self._lines:
                if line.strip() == "stop":
                    self.is_stopped = True
                    self._stop()
        # Without the command nobody waits for this job, and nobody else ends it.
        os._exit(1)


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _source(spark: SparkSession, request: dict[str, Any], path: str, list_file: str | None) -> sources.Source:
    columns = sources.Columns(request["features_col"], request["label_col"], request["id_col"])
    return sources.read(spark, path, request["data_format"], list_file, columns)


def _labelled(source: sources.Source, path: str) -> str:
    if source.label is None:
        raise ValueError(f"{path} has no column {sources.LABEL}: say which one has the labels with --label-col")
    return source.label


def _shape(source: sources.Source) -> dict[str, Any]:
    return {} if source.shape is None else {"inputShape": source.shape}


def train(spark: SparkSession, request: dict[str, Any], command: Command) -> dict[str, Any]:
    """Trains, and writes the model."""
    source = _source(spark, request, request["data"], request["data_list"])
    label = _labelled(source, request["data"])
    frame: DataFrame = source.frame.select(source.features, label)
    if request["test_data"]:
        test = _source(spark, request, request["test_data"], request["test_data_list"])
        test_rows = test.frame.select(
            F.col(test.features).alias(source.features), F.col(_labelled(test, request["test_data"])).alias(label)
        )
        frame = frame.withColumn(IS_TEST, F.lit(False)).union(test_rows.withColumn(IS_TEST, F.lit(True)))
    given = {name: request[name] for name in ("tau", "history", "snapshot") if request[name] is not None}
    if request["max_iter"] is not None:
        given["maxIter"] = request["max_iter"]
    estimator = NetEstimator(
        solver=request["solver"],
        featuresCol=source.features,
        labelCol=label,
        validationIndicatorCol=IS_TEST if request["test_data"] else None,
        numWorkers=request["workers"],
        threadsPerWorker=request["threads_per_worker"],
        sync=request["sync"],
        compress=request["compress"],
        weights=",".join(request["weights"]) or None,
        stage=request["stages"],
        level=request["level"],
        allowNan=request["allow_nan"],
        syncTimeout=float(request["sync_timeout_s"]),
        onBadRow="skip" if request["skip_bad"] else "fail",
        verbose=False,
        **_shape(source),
        **given,
    )
    estimator._on_event = command.event
    snapshots = Snapshots(estimator, request, command)
    estimator._on_driver = snapshots.watch
    try:
        with command.stopped_by(snapshots.stop):
            summary = estimator.fit(frame).summary
    except TrainingStoppedError:
        return {"stopped": True, **snapshots.last()}
    found = {"bad_rows": summary.badRows, "first_bad": summary.firstBadRow}
    return {"stopped": False, **found, **snapshots.last()}


class Snapshots:
    """Writes the rounds that a run's driver has: on the way as often as the solver says, and the last one."""

    def __init__(self, estimator: NetEstimator, request: dict[str, Any], command: Command) -> None:
        self._estimator = estimator
        self._request = request
        self._command = command
        self._driver: Driver | None = None
        self._written: Committed | None = None
        self._begin: Committed | None = None

    def watch(self, driver: Driver) -> None:
        """Keeps a run's driver in sight."""
        self._driver, self._begin = driver, driver.committed
        driver.on_commit = self._committed

    def stop(self) -> None:
        """Ends the run; where there is none yet, whatever goes on."""
        if self._driver:
            self._driver.stop()
        else:
            _interrupt()

    def last(self) -> dict[str, Any]:
        """Writes the last round, where this run had one, and says its iteration and its files."""
        committed = self._driver.committed if self._driver else None
        if committed is None or committed is self._begin:
            return {"iteration": committed.iteration if committed else 0, "model": None, "state": None}
        model, state = self._write(committed, self._request["model"])
        return {"iteration": committed.iteration, "model": model, "state": state}

    def _committed(self, committed: Committed) -> None:
        interval, before = self._request["snapshot_interval"], self._written or self._begin
        passed = (
            committed.iteration // interval > (before.iteration if before else 0) // interval if interval else False
        )
        if passed and not committed.is_finished:
            # A snapshot that cannot be written is no reason to end a run that may yet end well.
            with contextlib.suppress(OSError):
                self._write(committed, None)
                self._written = committed

    def _write(self, committed: Committed, model: str | None) -> tuple[str, str]:
        model = model or f"{self._request['snapshot_prefix']}_iter_{committed.iteration}.caffemodel"
        state = f"{model.removesuffix('.caffemodel')}.solverstate"
        # The model first, so that a state never names one that is not there.
        files.write_whole(model, committed.model)
        files.write_whole(state, self._estimator._state_of(committed, model))
        event = {"event": "snapshot", "iteration": committed.iteration, "model": model, "state": state}
        self._command.event(json.dumps(event))
        return model, state


def _model(source: sources.Source, request: dict[str, Any]) -> NetModel:
    return NetModel.fromCaffe(
        request["net"],
        ",".join(request["weights"]),
        request["stages"],
        request["level"],
        featuresCol=source.features,
        labelCol=source.label or sources.LABEL,
        onBadRow="skip" if request["skip_bad"] else "fail",
        threadsPerWorker=request["threads_per_worker"],
        **_shape(source),
    )


def test(spark: SparkSession, request: dict[str, Any], command: Command) -> dict[str, Any]:
    """Tests weights on every row, or on as many batches as asked for."""
    source = _source(spark, request, request["data"], request["data_list"])
    _labelled(source, request["data"])
    model = _model(source, request)
    frame = source.frame
    if request["iterations"]:
        frame = source.first(request["iterations"] * model._about()["batch_size"])
    if request["workers"]:
        frame = frame.repartition(request["workers"])
    found = model.evaluate(frame)
    return {"records": found.records, "scores": found.scores, "evaluation": found.details or None}


def features(spark: SparkSession, request: dict[str, Any], command: Command) -> dict[str, Any]:
    """Writes what blobs hold for each row."""
    source = _source(spark, request, request["data"], request["data_list"])
    frame = source.frame
    # Rows without names are numbered, in no order that means anything.
    name = F.col(source.id).cast("string") if source.id else F.monotonically_increasing_id().cast("string")
    frame = frame.select(name.alias(sources.ID), F.col(source.features).alias(INPUT))
    model = _model(source, request).setOutputBlobs(request["blobs"])
    model = model._set(featuresCol=INPUT, predictionCol="", probabilityCol="")
    found = model.transform(frame).select(sources.ID, *[F.col(f"`{blob}`") for blob in request["blobs"]])
    try:
        (found.write.json if request["format"] == "json" else found.write.parquet)(request["output"])
    except AnalysisException as error:
        if "PATH_ALREADY_EXISTS" not in str(error):
            raise
        raise ValueError(f"{request['output']} exists already: remove it, or name another --output") from error
    read = spark.read.json if request["format"] == "json" else spark.read.parquet
    return {"records": read(request["output"]).count(), "output": request["output"]}


def main(path: str) -> int:
    """Does what the command on the socket `path` asks for."""
    command = Command(path)
    request = command.request
    try:
        spark = SparkSession.builder.appName(request["name"]).getOrCreate()
        result = {"train": train, "test": test, "features": features}[request["command"]](spark, request, command)
        command.say(result=result)
        spark.stop()
    except BaseException as error:
        if command.is_stopped:
            untrained = {"stopped": True, "iteration": 0, "model": None}
            command.say(**({"result": untrained} if request["command"] == "train" else {"error": "stopped"}))
            return 0
        command.say(error=failures.sentence(error))
        raise
    return 0


if __name__ == "__main__":
    # spark-submit puts this file's folder first where modules are looked for; its modules are none of anybody's.
    sys.path[:] = [entry for entry in sys.path if entry != os.path.dirname(os.path.abspath(__file__))]
    sys.exit(main(sys.argv[1]))
