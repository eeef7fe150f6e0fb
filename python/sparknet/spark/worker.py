"""What runs in a Spark task: one worker of a training job."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import BarrierTaskContext

from sparknet import _native
from sparknet.spark import data
from sparknet.spark.link import Link, LinkError, LinkTimeoutError, derived_token

HEARTBEAT_S = 2.0
CONNECT_TIMEOUT_S = 10.0
#: What a worker tells Spark at its end.
SCHEMA = "rank int, records long, bad_rows long, first_bad string, has_to_spread boolean"
#: Shares are uneven where one has less than the mean by this factor.
UNEVEN = 2
#: Rows that hold the same are many where they are more than one of so many.
MANY = 20


class DriverUnreachableError(RuntimeError):
    """The driver's socket cannot be reached from an executor."""


class BadDataError(ValueError):
    """Rows, a net or a solver that no restart makes better."""


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker is sent; the same for all."""

    attempt: int
    #: Whether rows that hold the same went to all workers.
    is_spread: bool
    workers: int
    driver_hosts: list[str]
    driver_port: int
    token: str
    solver: bytes
    files: dict[str, bytes]
    rules: data.Rules
    batch_size: int
    has_test_rows: bool
    seed: int
    threads: int
    sync: str
    tau: int
    history: str
    compress: str
    timeout_s: float
    allow_nan: bool
    commit_interval: int


class DriverLink:
    """A worker's connection to its driver, with a heartbeat."""

    def __init__(self, settings: WorkerSettings, rank: int) -> None:
        self._rank = rank
        self._timeout_s = settings.timeout_s
        self._link = self._connect(settings)
        self._closed = threading.Event()
        self._link.send({"type": "hello", "rank": rank, "attempt": settings.attempt, "process": os.getpid()})
        self.start, self.start_payloads = self._link.receive(self._timeout_s)
        threading.Thread(target=self._beat, name="sparknet heartbeat", daemon=True).start()

    @property
    def host(self) -> str:
        """This machine's address, as it is reached from where the driver is."""
        host: str = self._link.connection.getsockname()[0]
        return host.removeprefix("::ffff:")

    def _connect(self, settings: WorkerSettings) -> Link:
        causes = []
        for host in settings.driver_hosts:
            try:
                connection = socket.create_connection((host, settings.driver_port), CONNECT_TIMEOUT_S)
                link = Link(connection)
                link.introduce(settings.token)
                return link
            except OSError as error:
                causes.append(f"{host}:{settings.driver_port} ({error})")
        raise DriverUnreachableError(
            f"worker {self._rank} cannot reach the driver at {' or '.join(causes)}: open the network between executors "
            "and driver, or set driverHost to a name that executors know"
        )

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT_S):
            try:
                self._link.send({"type": "beat"})
            except LinkError:
                return  # Whoever needs the driver next finds out.

    def event(self, line: str) -> None:
        """Sends an event of the run."""
        self._link.send({"type": "event", "line": line})

    def gather(self, mine: dict[str, Any]) -> list[dict[str, Any]]:
        """What all workers say of themselves, in order of rank.

        Not Spark's allGather, of which each caller looks for the answer once a second.
        """
        self._link.send({"type": "here", "mine": mine})
        try:
            answer, _ = self._link.receive(self._timeout_s)
        except LinkTimeoutError:
            raise TimeoutError(
                f"another worker did not come within {self._timeout_s:.0f} s: look at what holds it up, or raise "
                "syncTimeout"
            ) from None
        if answer.get("type") != "everyone":
            raise LinkError(f"the driver answered a worker that was there with {answer}")
        return list(answer["everyone"])

    def commit(self, iteration: int, finished: bool, of_all: tuple[bytes, bytes] | None, own: bytes) -> None:
        """Sends this worker's part of a round, and waits until the driver has it."""
        payloads = [*(of_all or ()), own]
        self._link.send({"type": "commit", "iteration": iteration, "finished": finished}, payloads)
        answer, _ = self._link.receive(self._timeout_s)
        if answer.get("type") != "taken":
            raise LinkError(f"the driver answered a commit with {answer}")

    def failed(self, reason: str, is_fatal: bool) -> None:
        """Tells why this worker ends. `is_fatal` where trying again would not help."""
        with contextlib.suppress(LinkError):  # Spark tells the driver too, in more words.
            self._link.send({"type": "failed", "reason": reason, "fatal": is_fatal})

    def done(self) -> None:
        """Tells that this worker has finished."""
        self._link.send({"type": "done"})

    def close(self) -> None:
        """Ends the connection."""
        self._closed.set()
        self._link.close()


def train_partition(batches: Iterator[pa.RecordBatch], settings: WorkerSettings) -> Iterator[pa.RecordBatch]:
    """A worker's whole life: data in, peers found, training, model handed over."""
    context = BarrierTaskContext.get()
    rank = context.partitionId()
    link = DriverLink(settings, rank)
    try:
        with tempfile.TemporaryDirectory(prefix="sparknet-") as folder:
            rows = _train(batches, settings, context, link, folder)
        link.done()
    except BadDataError as error:
        link.failed(str(error), is_fatal=True)
        raise
    except Exception as error:
        link.failed(f"worker {rank}: {error}", is_fatal=False)
        raise
    finally:
        link.close()
    yield pa.RecordBatch.from_pydict(
        {
            "rank": pa.array([rank], pa.int32()),
            "records": pa.array([len(rows) if rows else 0], pa.int64()),
            "bad_rows": pa.array([rows.bad_rows if rows else 0], pa.int64()),
            "first_bad": pa.array([rows.first_bad if rows else None], pa.string()),
            "has_to_spread": pa.array([rows is None], pa.bool_()),
        }
    )


def _train(
    batches: Iterator[pa.RecordBatch],
    settings: WorkerSettings,
    context: BarrierTaskContext,
    link: DriverLink,
    folder: str,
) -> Any:
    """The rows that were trained on; None where they have to be dealt again before."""
    rank = context.partitionId()
    problem, rows, test_rows = None, None, None
    try:
        rows, test_rows = take_in(batches, settings)
    except ValueError as error:
        problem = f"worker {rank}: {error}"
    listener = _native.Listener(link.host)
    mine = {
        "address": listener.address,
        "problem": problem,
        "rows": len(rows) if rows else 0,
        "repeats": rows.repeats if rows else 0,
        "test_rows": len(test_rows) if test_rows else 0,
        "shape": list(rows.shape) if rows else None,
    }
    everyone = link.gather(mine)
    check_rows(everyone, settings)
    if not settings.is_spread and has_to_spread(everyone):
        return None
    if rows is None:
        raise BadDataError(f"worker {rank}: it got no rows to train on: give more rows, or lower numWorkers")
    for name, content in settings.files.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
    weights, resume = None, None
    if link.start["type"] == "resume":
        resume = tuple(link.start_payloads)
    elif link.start["type"] == "weights":
        weights = os.path.join(folder, "given.caffemodel")
        with open(weights, "wb") as file:
            file.write(link.start_payloads[0])
    try:
        _native.train_worker(
            solver=settings.solver,
            folder=folder,
            listener=listener,
            rank=rank,
            peers=[each["address"] for each in everyone],
            token=derived_token(settings.token, f"peers of attempt {settings.attempt}"),
            rows=rows,
            test_rows=test_rows,
            seed=settings.seed,
            threads=settings.threads or context.cpus(),
            sync=settings.sync,
            tau=settings.tau,
            history=settings.history,
            compress=settings.compress,
            timeout_s=settings.timeout_s,
            allow_nan=settings.allow_nan,
            weights=weights,
            resume=resume,
            commit_interval=settings.commit_interval,
            on_event=link.event,
            on_commit=link.commit,
        )
    except ValueError as error:
        raise BadDataError(str(error)) from error
    return rows


def take_in(batches: Iterator[pa.RecordBatch], settings: WorkerSettings) -> tuple[Any, Any]:
    """All rows of a partition: those to train on, and those to test on; None where there are none."""
    train, test = data.writer(settings.rules), data.writer(settings.rules)
    for batch in batches:
        if settings.has_test_rows:
            is_test = batch.column(data.VALIDATION).fill_null(False)
            data.push(test, batch.filter(is_test))
            batch = batch.filter(pa.array(~np.asarray(is_test.to_numpy(zero_copy_only=False), dtype=bool)))
        data.push(train, batch)
    # All of them bad is an error that says so.
    has_rows = any(train.counts())
    return train.finish() if has_rows else None, test.finish() if test.counts()[0] > 0 else None


def check_rows(everyone: list[dict[str, Any]], settings: WorkerSettings) -> None:
    """Every worker finds the same that is wrong with the rows of all."""
    problems = [each["problem"] for each in everyone if each["problem"]]
    if problems:
        raise BadDataError(problems[0])
    if not any(each["rows"] for each in everyone):
        raise BadDataError("there are no rows to train on: give more rows, or mark fewer to test on")
    rows, at_once = sum(each["rows"] for each in everyone), settings.batch_size * settings.workers
    if rows < at_once:
        raise BadDataError(
            f"there are {rows} rows to train on, but all workers' batches together are {at_once}: give more rows, "
            "lower the batch_size of the data layer, or lower numWorkers"
        )
    if settings.has_test_rows and not any(each["test_rows"] for each in everyone):
        raise BadDataError("no row is true in validationIndicatorCol: mark rows to test on, or leave it unset")
    shapes = {tuple(each["shape"]) for each in everyone if each["shape"]}
    if len(shapes) > 1 and settings.rules.crop_size == 0:
        found = " and ".join("x".join(map(str, shape)) for shape in sorted(shapes))
        raise BadDataError(f"rows are of different sizes, {found}: make all of one size, or set crop_size")


def has_to_spread(everyone: list[dict[str, Any]]) -> bool:
    """Whether rows that hold the same are so many that batches are of little else, or that shares are uneven."""
    shares = [each["rows"] for each in everyone]
    is_uneven = min(shares) * len(shares) * UNEVEN < sum(shares)
    return is_uneven or sum(each["repeats"] for each in everyone) * MANY > sum(shares)
