"""What Spark's web UI says of a training job: its description, with iteration and loss while it runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from pyspark.sql import SparkSession

_DESCRIPTION = "spark.job.description"
#: How often a description is replaced at most: two dozen calls into the JVM, for which the worker's next event waits.
RETELL_S = 1.0


class JobPage:
    """The descriptions of this thread's jobs.

    Spark fixes a job's description when the job is submitted. What it shows then lies in the driver's status store, and
    there the description of a running job is replaced; where a Spark does not let us, the one of the beginning stays.
    Spark Connect has no such thing at all.
    """

    def __init__(self, spark: SparkSession) -> None:
        #: The jobs that are meant: those with a tag that contains this.
        self.tag: str | None = None
        self._context: Any = None
        self._is_closed_to_us = False
        self._told_at = -RETELL_S
        with contextlib.suppress(Exception):  # Spark Connect.
            self._context = spark.sparkContext

    @contextlib.contextmanager
    def described(self, text: str) -> Iterator[None]:
        """Jobs that this thread submits meanwhile have this description."""
        if self._context is None:
            yield
            return
        before = self._context.getLocalProperty(_DESCRIPTION)
        self._context.setLocalProperty(_DESCRIPTION, text)
        try:
            yield
        finally:
            self._context.setLocalProperty(_DESCRIPTION, before)

    def tell(self, text: str, is_last: bool) -> None:
        """Gives the running job and its running stage another description: not too often, but the last one always."""
        if self._context is None or self.tag is None or self._is_closed_to_us:
            return
        if time.monotonic() - self._told_at < RETELL_S and not is_last:
            return
        self._told_at = time.monotonic()
        try:
            self._tell(text, self.tag)
        except Exception:
            self._is_closed_to_us = True  # Another Spark. What shows progress must never end a run.

    def _tell(self, text: str, tag: str) -> None:
        spark = self._context._jsc.sc()
        status = spark.statusStore()
        description = self._context._jvm.scala.Option.apply(text)
        # The live ones are what Spark makes those in its store from again, with every heartbeat of an executor.
        listener = status.listener().get()
        live_jobs, live_stages = _field(listener, "liveJobs"), _field(listener, "liveStages")
        for job_id in spark.statusTracker().getActiveJobIds():
            job = status.job(job_id)
            if tag not in job.jobTags().mkString(" "):
                continue
            _set_description(live_jobs.get(job_id).get(), description)
            _set_description(job, description)
            for stage in live_stages.values():
                if stage.jobIds().contains(job_id):
                    _set_description(stage, description)
                    _set_description(status.lastStageAttempt(stage.info().stageId()), description)


def _field(owner: Any, name: str) -> Any:
    field = owner.getClass().getDeclaredField(name)
    field.setAccessible(True)
    return field.get(owner)


def _set_description(owner: Any, description: Any) -> None:
    field = owner.getClass().getDeclaredField("description")
    field.setAccessible(True)
    field.set(owner, description)
