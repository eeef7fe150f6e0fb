"""Spark Connect and a standalone cluster give what local-cluster gives, to the bit."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import SPARK_HOME, STANDALONE_SETTINGS, connect_server, environment, standalone
from local import weights_of
from test_fit import estimator

SCRIPT = Path(__file__).with_name("round_trip.py")


@pytest.fixture(scope="module")
def expected(solver, train):
    """The digest of the weights of the same run with all workers in one process."""
    return hashlib.sha256(weights_of(estimator(solver, seed=1), train)).hexdigest()


def run(*command) -> dict:
    done = subprocess.run(
        [str(word) for word in command], env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(found: dict, expected: str) -> None:
    small, large = found["small"], found["large"]
    assert small["weights"] == expected
    assert small["accuracy"] > 0.9 and small["hits"] == small["accuracy"]
    assert small["blob_length"] == 6 and small["is_loaded_whole"] and small["pipeline_rows"] == 120
    assert small["events"] == [10, 20, 30, 40]
    assert large["bytes"] > 2_000_000 and large["is_the_same"]


def test_spark_connect(spark, solver, expected, tmp_path):
    """Among the rest, a model that is larger than what the server takes as a message, and SequenceFiles."""
    pairs = spark.sparkContext.parallelize([("a 3", bytearray(b"abc"))], 1)
    pairs.saveAsSequenceFile(str(tmp_path / "sequence"))
    with connect_server(tmp_path, max_message_bytes=1_500_000) as remote:
        found = run(sys.executable, SCRIPT, solver, tmp_path, remote)
    check(found, expected)
    assert found["sequence"] == [["a", "abc", 3.0]]
    assert found["refusal"].startswith("3 workers have to run at once, but Spark has slots for 2: ")


def test_spark_submit_to_a_standalone_cluster(solver, expected, tmp_path):
    settings = [word for name, value in STANDALONE_SETTINGS.items() for word in ("--conf", f"{name}={value}")]
    with standalone(tmp_path) as master:
        check(run(SPARK_HOME / "bin/spark-submit", "--master", master, *settings, SCRIPT, solver, tmp_path), expected)
