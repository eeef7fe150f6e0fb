"""Where Spark Connect differs: no SparkContext, messages of limited size, and a client that is the driver's place.

Large weights go to its server as a file (an artifact) once a session, and its executors open that file. Plain Spark
broadcasts what a function refers to, whatever its size, so there they travel with the function.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from typing import Any

from pyspark.ml.util import MLWriter
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from sparknet.spark.predict import Content, file_name

#: What goes as a file; far below the 128 MB that a message of Spark Connect may have.
MAX_INLINE_BYTES = 1 << 20
#: Of sessions, by their ids: the files that their servers have.
_sent: set[tuple[str, str]] = set()


def is_connect(spark: SparkSession) -> bool:
    """Whether a session is one of Spark Connect."""
    return type(spark).__module__.startswith("pyspark.sql.connect.")


def content(spark: SparkSession, of: bytes) -> Content:
    """Makes bytes known to the tasks of a session."""
    digest = hashlib.sha256(of).hexdigest()
    if not is_connect(spark) or len(of) <= MAX_INLINE_BYTES:
        return Content(digest, of)
    key = (spark.session_id, digest)
    if key not in _sent:
        with tempfile.TemporaryDirectory(prefix="sparknet-") as folder:
            path = os.path.join(folder, file_name(digest))
            with open(path, "wb") as file:
                file.write(of)
            spark.addArtifacts(path, file=True)
        _sent.add(key)
    return Content(digest, None)


def address(spark: SparkSession) -> str | None:
    """This machine's address as its Spark Connect server sees it: executors are likely to reach it by the same way."""
    host = str(spark.client.host).strip("[]")
    try:
        for family, kind, protocol, _, where in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
            # Nothing is sent: to connect a datagram socket is to look up the route.
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(where)
                found: str = probe.getsockname()[0]
                return found
    except OSError:
        pass
    return None


def slots(spark: SparkSession) -> int | None:
    """How many tasks a Spark Connect server runs at once, as far as it can be told from outside; None where not."""
    if spark.conf.get("spark.default.parallelism", None):
        return None
    # Spark cuts a range into as many partitions as it has cores.
    cores = spark.range(1 << 16).select(F.spark_partition_id().alias("part")).agg(F.max("part")).first()[0] + 1
    return int(cores) // int(spark.conf.get("spark.task.cpus", "1") or 1)


class Writer(MLWriter):
    """A writer of pyspark.ml that overwrites on Spark Connect too."""

    def _handleOverwrite(self, path: str) -> None:
        spark: Any = self.sparkSession
        if not is_connect(spark):
            super()._handleOverwrite(path)
            return
        from pyspark.ml.connect.readwrite import RemoteMLWriter

        RemoteMLWriter.handleOverwrite(path, True)
