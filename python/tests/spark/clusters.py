"""Sparks of their own processes: a Spark Connect server, and a standalone master with a worker."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyspark

SPARK_HOME = Path(pyspark.__file__).parent
#: How long a server may take to come up on a machine that is busy with other tests.
START_TIMEOUT_S = 120.0


def environment() -> dict[str, str]:
    """This process's environment, with one Python for all of Spark, and no session of this process's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    return {
        **kept,
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
    }


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def server(log: Path, *command: str) -> Iterator[subprocess.Popen]:
    """A process of Spark's, which goes with all that it started."""
    with open(log, "w") as file:
        process = subprocess.Popen(
            [str(SPARK_HOME / "bin" / command[0]), *command[1:]],
            stdout=file,
            stderr=file,
            env=environment(),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(process: subprocess.Popen, log: Path, text: str) -> None:
    """Waits until a server's log has `text`."""
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while text not in log.read_text(errors="replace"):
        assert process.poll() is None and time.monotonic() < give_up_at, log.read_text(errors="replace")[-2000:]
        time.sleep(0.2)


@contextlib.contextmanager
def connect_server(folder: Path, max_message_bytes: int) -> Iterator[str]:
    """A Spark Connect server that refuses longer messages; gives its address."""
    port, log = free_port(), folder / "connect.log"
    settings = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": port,
        "spark.connect.grpc.maxInboundMessageSize": max_message_bytes,
        "spark.sql.shuffle.partitions": 2,
        "spark.ui.enabled": "false",
        "spark.sql.warehouse.dir": folder / "warehouse",
    }
    conf = [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
    server_class = "org.apache.spark.sql.connect.service.SparkConnectServer"
    with server(
        log, "spark-submit", "--master", "local[2]", *conf, "--class", server_class, "spark-internal"
    ) as process:
        wait_for(process, log, "Spark Connect server started")
        yield f"sc://127.0.0.1:{port}"


@contextlib.contextmanager
def standalone(folder: Path) -> Iterator[str]:
    """A master and a worker with two cores; gives the master's address."""
    port = free_port()
    url = f"spark://127.0.0.1:{port}"
    at = ["--host", "127.0.0.1", "--webui-port", "0"]
    master_log, worker_log = folder / "master.log", folder / "worker.log"
    master = ["spark-class", "org.apache.spark.deploy.master.Master", *at, "--port", str(port)]
    worker = ["spark-class", "org.apache.spark.deploy.worker.Worker", *at, "--cores", "2", "--memory", "1g"]
    with server(master_log, *master) as process:
        wait_for(process, master_log, "New state: ALIVE")
        with server(worker_log, *worker, "--work-dir", str(folder / "work"), url) as process:
            wait_for(process, worker_log, "Successfully registered with master")
            yield url


#: Two executors of one core each, for a cluster of `standalone`.
STANDALONE_SETTINGS = {
    "spark.executor.cores": "1",
    "spark.executor.memory": "450m",
    "spark.driver.host": "127.0.0.1",
    "spark.sql.shuffle.partitions": "2",
    "spark.ui.enabled": "false",
}
