"""The driver's side of a training job: it listens to the workers, keeps the last committed round, and submits again."""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from sparknet.spark import connect, failures
from sparknet.spark.job_page import JobPage
from sparknet.spark.link import Link, LinkError

#: How long workers may come one after the other: Spark starts those of a barrier stage together.
START_TIMEOUT_S = 120.0
#: How long Spark may take until its first executor is there, and until the next one.
FIRST_SLOT_S, MORE_SLOTS_S = 60.0, 30.0
#: How long Spark is given to notice by itself that a worker is gone.
GONE_GRACE_S = 20.0
#: A driver that did not run for longer than twice this was asleep itself.
OWN_PAUSE_S = 2.0
#: How long the last events of workers that have ended may be on their way.
LAST_WORDS_S = 10.0
#: How many may be in their handshake at once.
MAX_GUESTS = 64


class TrainingError(RuntimeError):
    """Training that has failed for good; the sentence says why, and what to do."""


class TrainingStoppedError(RuntimeError):
    """Training that was asked to stop."""

    def __init__(self, committed: Committed | None) -> None:
        super().__init__("training was stopped")
        #: What all workers held last; None before the first round was committed.
        self.committed = committed


@dataclass
class Committed:
    """What all workers held after a round."""

    iteration: int
    is_finished: bool
    model: bytes
    state: bytes
    workers: list[bytes]


@dataclass
class _Peer:
    """What the driver knows of one worker of the current attempt."""

    heard_at: float
    process_id: int
    is_done: bool = False
    gone_at: float | None = None


@dataclass
class _Attempt:
    number: int
    begun_at: float
    first_at: float | None = None
    peers: dict[int, _Peer] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    fatal: str | None = None
    is_interrupted: bool = False
    parts: dict[int, dict[int, tuple[bool, list[bytes]]]] = field(default_factory=dict)
    #: What each worker says of itself, with the link that it waits on for the others'.
    here: dict[int, tuple[Any, Link]] = field(default_factory=dict)


class Driver:
    """Listens for the workers of one job. Used as a context manager."""

    def __init__(
        self,
        world: int,
        weights: bytes | None,
        heartbeat_timeout_s: float,
        on_event: Callable[[str], None],
    ) -> None:
        self.world = world
        self.token = secrets.token_hex(32)
        #: Spark's tags of this driver's jobs begin so; no part of the token.
        self.tag = f"sparknet-{secrets.token_hex(8)}"
        self.committed: Committed | None = None
        self._weights = weights
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._on_event = on_event
        self._lock = threading.Lock()
        self._attempt = _Attempt(number=-1, begun_at=time.monotonic())
        self._interrupt: Callable[[], None] | None = None
        self.is_stopped = False
        #: Gets every round that is committed; its workers wait meanwhile.
        self.on_commit: Callable[[Committed], None] | None = None
        self._closed = threading.Event()
        self._guests = threading.Semaphore(MAX_GUESTS)
        self._links: set[Link] = set()
        if socket.has_dualstack_ipv6():
            self._server = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            self._server = socket.create_server(("", 0))
        self.port: int = self._server.getsockname()[1]

    def __enter__(self) -> Driver:
        for target in (self._accept, self._watch):
            threading.Thread(target=target, name=f"sparknet {target.__name__}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._server.close()
        with self._lock:
            links = list(self._links)
        for link in links:
            link.close()

    def begin(self, number: int, interrupt: Callable[[], None]) -> None:
        """Begins attempt `number`; `interrupt` ends its stage."""
        with self._lock:
            self._attempt = _Attempt(number=number, begun_at=time.monotonic())
            self._interrupt = interrupt

    def stop(self) -> None:
        """Ends the run early; what was committed stays. From any thread."""
        with self._lock:
            self.is_stopped = True
            interrupt = self._interrupt
        if interrupt:
            interrupt()

    def hear_out(self) -> None:
        """Waits for what workers said last: Spark may be faster to say that they have ended."""
        give_up_at = time.monotonic() + LAST_WORDS_S
        while time.monotonic() < give_up_at:
            with self._lock:
                if all(peer.is_done or peer.gone_at is not None for peer in self._attempt.peers.values()):
                    return
            time.sleep(0.01)

    def failure(self) -> tuple[str | None, str | None]:
        """Why the attempt failed, as seen from here: (what no restart would help with, anything else)."""
        give_up_at = time.monotonic() + 2.0
        while not (self._attempt.fatal or self._attempt.failures) and time.monotonic() < give_up_at:
            time.sleep(0.05)  # Spark may have been faster than the workers' own words.
        with self._lock:
            # The first to speak has seen the cause; the others only saw that one go.
            return self._attempt.fatal, next(iter(self._attempt.failures), None)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._server.accept()
            except OSError:
                if self._closed.wait(0.1):
                    return
                continue
            if not self._guests.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="sparknet worker", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        link = Link(connection)
        try:
            try:
                link.accept(self.token)
                hello, _ = link.receive()
            finally:
                self._guests.release()
            rank, number, process_id = int(hello["rank"]), int(hello["attempt"]), int(hello["process"])
            connection.settimeout(None)
        except (OSError, KeyError, TypeError, ValueError):
            connection.close()
            return
        with self._lock:
            self._links.add(link)
            attempt = self._attempt
            is_current = number == attempt.number and 0 <= rank < self.world
            if is_current:
                now = time.monotonic()
                attempt.first_at = attempt.first_at or now
                attempt.peers[rank] = _Peer(heard_at=now, process_id=process_id)
        try:
            if is_current:
                self._send_start(link, rank)
                self._listen(link, attempt, rank)
        except (OSError, KeyError, TypeError, ValueError) as error:
            self._gone(attempt, rank, error)
        finally:
            with self._lock:
                self._links.discard(link)
            link.close()

    def _send_start(self, link: Link, rank: int) -> None:
        committed = self.committed
        if committed:
            payloads = [committed.model, committed.state, committed.workers[rank]]
            link.send({"type": "resume", "iteration": committed.iteration}, payloads)
        elif self._weights is not None:
            link.send({"type": "weights"}, [self._weights])
        else:
            link.send({"type": "scratch"})

    def _listen(self, link: Link, attempt: _Attempt, rank: int) -> None:
        while True:
            message, payloads = link.receive()
            kind = message.get("type")
            with self._lock:
                if attempt is not self._attempt:
                    return
                peer = attempt.peers[rank]
                peer.heard_at = time.monotonic()
                if kind == "done":
                    peer.is_done = True
                elif kind == "failed":
                    reason = str(message["reason"])
                    if message["fatal"]:
                        attempt.fatal = attempt.fatal or reason
                    else:
                        attempt.failures.append(reason)
                elif kind == "commit":
                    before = self.committed
                    self._take_part(attempt, rank, int(message["iteration"]), bool(message["finished"]), payloads)
                    committed = self.committed
                elif kind == "here":
                    attempt.here[rank] = (message["mine"], link)
            if kind == "here":
                self._introduce(attempt)
            if kind == "commit":
                if self.on_commit and committed and committed is not before:
                    self.on_commit(committed)
                link.send({"type": "taken"})
            if kind == "event":
                self._on_event(str(message["line"]))

    def _introduce(self, attempt: _Attempt) -> None:
        """Tells each worker of all, once they are all there."""
        with self._lock:
            here = [attempt.here[rank] for rank in sorted(attempt.here)]
            if len(here) < self.world:
                return
            attempt.here = {}
        for _, link in here:
            with contextlib.suppress(LinkError):  # Who listens to that worker notices too.
                link.send({"type": "everyone", "everyone": [mine for mine, _ in here]})

    def _take_part(self, attempt: _Attempt, rank: int, iteration: int, finished: bool, payloads: list[bytes]) -> None:
        parts = attempt.parts.setdefault(iteration, {})
        parts[rank] = (finished, payloads)
        if len(parts) < self.world:
            return
        *of_all, _ = parts[0][1]
        if len(of_all) != 2:
            raise LinkError("worker 0's commit lacks the model")
        self.committed = Committed(
            iteration=iteration,
            is_finished=all(finished for finished, _ in parts.values()),
            model=of_all[0],
            state=of_all[1],
            workers=[parts[rank][1][-1] for rank in range(self.world)],
        )
        attempt.parts = {later: parts for later, parts in attempt.parts.items() if later > iteration}

    def _gone(self, attempt: _Attempt, rank: int, error: Exception) -> None:
        with self._lock:
            peer = attempt.peers.get(rank)
            if peer and not peer.is_done and attempt is self._attempt:
                peer.gone_at = time.monotonic()
                attempt.failures.append(
                    f"worker {rank} is gone ({error}): see its executor's log for why process {peer.process_id} ended"
                )

    def _watch(self) -> None:
        looked_at = time.monotonic()
        while not self._closed.wait(0.5):
            now, before = time.monotonic(), looked_at
            looked_at = now
            with self._lock:
                attempt, interrupt = self._attempt, self._interrupt
                if now - before > 2 * OWN_PAUSE_S:
                    # This process slept, and with it what it would have heard.
                    for peer in attempt.peers.values():
                        peer.heard_at = now
                reason = self._overdue(attempt, now)
                # A stop may have come just before the stage that it was to end.
                is_due = self.is_stopped or (reason is not None and not attempt.is_interrupted)
                if not is_due or interrupt is None:
                    continue
                attempt.is_interrupted = True
                if reason:
                    attempt.failures.append(reason)
            interrupt()

    def _overdue(self, attempt: _Attempt, now: float) -> str | None:
        """Why the attempt has to be ended from outside; empty where that is known already, None where it has not."""
        if attempt.first_at is None or attempt.number < 0:
            return None
        missing = [rank for rank in range(self.world) if rank not in attempt.peers]
        if missing and now - attempt.first_at > START_TIMEOUT_S:
            return (
                f"workers {missing} did not start within {START_TIMEOUT_S:.0f} s of the first: give Spark as many free "
                f"slots as workers, {self.world}"
            )
        for rank, peer in attempt.peers.items():
            if peer.is_done:
                continue
            if peer.gone_at is not None and now - peer.gone_at > GONE_GRACE_S:
                return ""
            silent_s = now - peer.heard_at
            if peer.gone_at is None and silent_s > self._heartbeat_timeout_s:
                return (
                    f"worker {rank} has been silent for {silent_s:.0f} s: its process is frozen or its machine is gone"
                )
        return None


def hosts(spark: SparkSession, given: str | None) -> list[str]:
    """Under which names workers may find this process, likeliest first."""
    if given:
        return [given]
    # Spark Connect's spark.driver.host is its server, but workers look for the client.
    found = [connect.address(spark) if connect.is_connect(spark) else spark.conf.get("spark.driver.host", None)]
    with contextlib.suppress(OSError):  # Not every machine knows its own name.
        found.append(socket.gethostbyname(socket.gethostname()))
    found.append("127.0.0.1")
    return list(dict.fromkeys(host for host in found if host))


def check_cluster(spark: SparkSession, workers: int) -> None:
    """Says early what Spark would say late or never: that the workers cannot all run at once."""
    if (spark.conf.get("spark.dynamicAllocation.enabled", "false") or "false").lower() == "true":
        raise TrainingError(
            "spark.dynamicAllocation.enabled is true, but all workers have to run at once: set it to false for training"
        )
    if connect.is_connect(spark):
        slots_now: Callable[[], int | None] = partial(connect.slots, spark)
        is_local = (spark.conf.get("spark.master", None) or "").startswith("local[")
    else:
        context = spark.sparkContext._jsc.sc()
        slots_now = partial(context.maxNumConcurrentTasks, context.resourceProfileManager().defaultResourceProfile())
        is_local = context.isLocal()
    slots, changed_at = slots_now(), time.monotonic()
    while slots is not None and slots < workers and not is_local:
        # Executors may still be starting, one after the other.
        if time.monotonic() - changed_at > (MORE_SLOTS_S if slots else FIRST_SLOT_S):
            break
        time.sleep(0.5)
        before, slots = slots, slots_now()
        if slots != before:
            changed_at = time.monotonic()
    if slots is not None and slots < workers:
        raise TrainingError(
            f"{workers} workers have to run at once, but Spark has slots for {slots}: give it more cores or "
            "executors, or lower numWorkers"
        )


class TaggedJobs:
    """Jobs that this thread submits, as a context, and that any thread can end."""

    def __init__(self, spark: SparkSession, tag: str) -> None:
        self._spark = spark
        self._tag = tag
        # A session of plain Spark looks for tags among those that the calling thread has set; its context does not.
        self._context = None if connect.is_connect(spark) else spark.sparkContext

    def __enter__(self) -> None:
        if self._context is None:
            self._spark.addTag(self._tag)
        else:
            self._context.addJobTag(self._tag)

    def __exit__(self, *_: object) -> None:
        if self._context is None:
            self._spark.removeTag(self._tag)
        else:
            self._context.removeJobTag(self._tag)

    def cancel(self) -> None:
        """Ends the jobs."""
        if self._context is None:
            self._spark.interruptTag(self._tag)
        else:
            self._context.cancelJobsWithTag(self._tag)


def run(
    spark: SparkSession,
    deal: Callable[[bool], DataFrame],
    driver: Driver,
    max_restarts: int,
    worker: Callable[[int, bool], Callable[..., Any]],
    schema: str,
    on_message: Callable[[str], None],
    page: JobPage,
    title: str,
) -> tuple[list[Any], int]:
    """Runs the workers until they have finished, again from the last committed round where they fail.

    `deal` gives each worker a partition of rows; those that hold the same are spread over all workers where it is told
    so, which happens once workers find that they are many. `worker` gives the function of an attempt, and is told the
    same. Returns the rows that the workers gave, and how often they were restarted. `title` is what Spark's UI says on
    `page` before there is a first loss.
    """
    frame, is_spread, restarts = deal(False), False, 0
    for attempt in itertools.count():
        tag = f"{driver.tag}-{attempt}"
        jobs = TaggedJobs(spark, tag)
        driver.begin(attempt, jobs.cancel)
        try:
            if driver.is_stopped:
                raise TrainingStoppedError(driver.committed)
            with jobs, page.described(title):
                rows = frame.mapInArrow(worker(attempt, is_spread), schema, barrier=True).collect()
            if not rows:
                raise TrainingError("there are no rows to train on: give a DataFrame with some")
            if rows[0]["has_to_spread"]:
                frame, is_spread = deal(True), True
                continue
            if driver.committed is None or not driver.committed.is_finished:
                raise TrainingError("the workers ended without handing over the model: please report this as a bug")
            driver.hear_out()
            return rows, restarts
        except (TrainingError, TrainingStoppedError):
            raise
        except KeyboardInterrupt:
            jobs.cancel()
            raise
        except Exception as error:
            if driver.committed and driver.committed.is_finished:
                return [], restarts  # A worker was lost when its work was done.
            if driver.is_stopped:
                raise TrainingStoppedError(driver.committed) from error
            fatal, reason = driver.failure()
            said = _said(error) or failures.missing_package(error)
            if fatal or (said and not reason):
                raise TrainingError(fatal or said) from error
            reason = reason or failures.sentence(error)
            iteration = driver.committed.iteration if driver.committed else 0
            if restarts == max_restarts:
                raise TrainingError(
                    f"training failed {restarts + 1} times, the last time after iteration {iteration}: {reason}"
                ) from error
            restarts += 1
            on_message(f"{reason}; training goes on from iteration {iteration} (restart {restarts} of {max_restarts})")
    raise AssertionError("unreachable")


def _said(error: Exception) -> str | None:
    """What a worker said that could not tell its driver."""
    found = re.search(r"(?:DriverUnreachableError|BadDataError): (.*)", str(error))
    return found.group(1).strip() if found else None
