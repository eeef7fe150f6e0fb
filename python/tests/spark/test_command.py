"""`sparknet --master …`: the flags and the output of a run without Spark, and its faults in a sentence each."""

import contextlib
import fcntl
import itertools
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sparknet
from clusters import STANDALONE_SETTINGS, environment, standalone
from PIL import Image
from pyspark.sql import SparkSession
from sparknet import _native

from golden import GOLDEN, PROJECT

BINARY = Path(os.environ.get("SPARKNET", PROJECT / "target/release/sparknet"))
LMDB = GOLDEN / "data" / "raw_lmdb"
CONF = ["--spark-conf", "spark.ui.enabled=false", "--spark-conf", "spark.sql.shuffle.partitions=2"]

NET = f"""
name: "tiny"
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TRAIN }}
  transform_param {{ scale: 0.00390625 }} data_param {{ source: "{LMDB}" backend: LMDB batch_size: 8 }} }}
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TEST }}
  transform_param {{ scale: 0.00390625 }} data_param {{ source: "{LMDB}" backend: LMDB batch_size: 20 }} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param {{ num_output: 20 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param {{ num_output: 10 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" include {{ phase: TEST }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }}
"""

SOLVER = """
net: "net.prototxt" base_lr: 0.05 lr_policy: "fixed" momentum: 0.9 max_iter: 100 display: 50 test_iter: 5
test_interval: 50 random_seed: 7 snapshot_prefix: "tiny"
"""


def command(folder, *args, **variables) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in (environment() | variables).items() if value is not None}
    words = [str(BINARY), *(str(arg) for arg in args)]
    return subprocess.run(words, cwd=folder, env=given, capture_output=True, text=True, timeout=600)


def succeeds(folder, *args) -> str:
    done = command(folder, *args)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr == ""
    return done.stdout


def fails(folder, *args, **variables) -> str:
    """The sentence of a command that fails, which is all that it says and all that it does."""
    before = sorted(path.name for path in folder.iterdir())
    done = command(folder, *args, **variables)
    assert done.returncode == 1 and done.stdout == "", done
    assert sorted(path.name for path in folder.iterdir()) == before
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("error: ").strip()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a net, and the weights and the output of a run on local[2]."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(SOLVER)
    flags = ["--workers", 2, "--threads", 2, "--tau", 5, "--events", "events.jsonl", "--log", "run.log"]
    evaluated = ["--evaluation-json", "evaluation.json"]
    out = succeeds(folder, "train", "--solver", "solver.prototxt", "--master", "local[2]", *flags, *evaluated, *CONF)
    (folder / "output.txt").write_text(out)
    return folder


TRAIN = ["train", "--solver", "solver.prototxt", "--workers", 2, "--threads", 2, "--tau", 5, "--quiet"]
TRAIN += ["--data", LMDB, "--test-data", LMDB]


@pytest.fixture(scope="module")
def begun(place, tmp_path_factory) -> Path:
    """The model of a run like `place`'s that ended at iteration 60 on local[2], with its state beside it."""
    model = tmp_path_factory.mktemp("begun") / "begun.caffemodel"
    out = succeeds(place, *TRAIN, "--master", "local[2]", *CONF, "--max-iter", 60, "--model", model)
    assert out.splitlines()[-1] == f"weights: {model}, to resume: {model.with_suffix('.solverstate')}"
    return model


def shapes(text: str) -> list[str]:
    """Lines without their numbers, so that runs can be compared."""
    return [re.sub(r"[-+]?\d[\d.e+-]*", "N", line).rstrip() for line in text.splitlines()]


def test_train_prints_and_writes_what_it_does_without_spark(place, tmp_path):
    for name in ("net.prototxt", "solver.prototxt"):
        (tmp_path / name).write_text((place / name).read_text())
    flags = ["--workers", 2, "--threads", 2, "--tau", 5, "--events", "events.jsonl", "--log", "run.log"]
    here = succeeds(tmp_path, "train", "--solver", "solver.prototxt", *flags, "--evaluation-json", "evaluation.json")
    there = (place / "output.txt").read_text()
    # Only a run without Spark has snapshots.
    progress = [[line for line in shapes(text) if not line.startswith("snapshot")] for text in (here, there)]
    ends = [lines.index("finished after N iterations in N s, N images/s") for lines in progress]
    assert progress[0][: ends[0]] == progress[1][: ends[1]] and ends[0] == 6
    for lines, end in zip(progress, ends, strict=True):
        assert ["class", "support", "precision", "recall", "FN"] in [line.split() for line in lines[end:]]
    assert there.splitlines()[-1] == "weights: tiny_iter_100.caffemodel, to resume: tiny_iter_100.solverstate"
    kinds = {}
    for name, folder in (("here", tmp_path), ("there", place)):
        lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        kinds[name] = [(line["event"], sorted(line)) for line in lines if line["event"] != "snapshot"]
        assert len((folder / "run.log").read_text().splitlines()) == len(lines)
        report = json.loads((folder / "evaluation.json").read_text())
        assert report["iteration"] == 100 and report["tests"][0]["records"] == 96
        assert report["tests"][0]["evaluation"]["accuracy"] > 0.7
    assert kinds["here"] == kinds["there"]


def test_test_and_features(place, tmp_path):
    weights = ["--model", "net.prototxt", "--weights", "tiny_iter_100.caffemodel"]
    here = succeeds(place, "test", *weights, "--json")
    there = succeeds(place, "test", *weights, "--json", "--master", "local[2]", "--workers", 3, *CONF)
    here, there = json.loads(here), json.loads(there)
    assert there["evaluation"] == here["evaluation"] and there["records"] == 96
    assert there["scores"] == pytest.approx(here["scores"], abs=1e-6)

    features = ["features", *weights, "--blobs", "ip1,ip2", "--master", "local[2]", *CONF]
    out = tmp_path / "features"
    assert succeeds(place, *features, "--output", out) == f"{out}: 96 records\n"
    rows = [json.loads(line) for part in sorted(out.glob("part-*")) for line in part.read_text().splitlines()]
    assert all(sorted(row) == ["SampleID", "ip1", "ip2"] for row in rows)
    net = sparknet.Net(str(place / "net.prototxt"), str(place / "tiny_iter_100.caffemodel"), phase=sparknet.TEST)
    net.forward()
    # The net's own batch has the records in the order of their keys.
    rows = sorted(rows, key=lambda row: row["SampleID"])
    for blob in ("ip1", "ip2"):
        expected = net.blobs[blob].data
        assert [row[blob] for row in rows[:20]] == [pytest.approx(values, rel=1e-5) for values in expected.tolist()]
    assert fails(place, *features, "--output", out) == f"{out} exists already: remove it, or name another --output"


@contextlib.contextmanager
def cluster(kind: str, folder: Path) -> Iterator[list[str]]:
    """Flags for a Spark of a kind."""
    small = ["--spark-conf", "spark.executor.memory=512m", "--spark-conf", "spark.driver.host=127.0.0.1"]
    if kind != "standalone":
        yield ["--master", kind, *CONF, *small]
        return
    # More parallelism, as on a larger cluster: data are read in other parts.
    settings = {**STANDALONE_SETTINGS, "spark.default.parallelism": "5"}
    with standalone(folder) as master:
        conf = [word for name, value in settings.items() for word in ("--spark-conf", f"{name}={value}")]
        yield ["--master", master, *conf]


@pytest.mark.parametrize("kind", ["local[2]", "local-cluster[2,1,1024]", "standalone"])
def test_a_run_goes_on_from_a_snapshot_to_the_same_bits_on_any_cluster(place, begun, tmp_path, kind):
    with cluster(kind, tmp_path) as spark:
        out = succeeds(
            place, *TRAIN, *spark, "--snapshot", begun.with_suffix(".solverstate"), "--model", tmp_path / "out"
        )
    assert out.splitlines()[-1] == f"weights: {tmp_path / 'out'}, to resume: {tmp_path / 'out'}.solverstate"
    assert (tmp_path / "out").read_bytes() == (place / "tiny_iter_100.caffemodel").read_bytes()


#: A layer of a stage, one of a level, and one that is always there; weights of the first and the last come from files.
STAGED = (
    NET
    + """
layer { name: "deep" type: "InnerProduct" bottom: "ip1" top: "deep" include { stage: "deep" }
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "deep_loss" type: "SoftmaxWithLoss" bottom: "deep" bottom: "label" top: "deep_loss"
  include { stage: "deep" } }
layer { name: "high" type: "InnerProduct" bottom: "ip1" top: "high" include { min_level: 2 }
  inner_product_param { num_output: 10 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "high_loss" type: "SoftmaxWithLoss" bottom: "high" bottom: "label" top: "high_loss"
  include { min_level: 2 } }
"""
)


@pytest.fixture
def staged(tmp_path) -> Path:
    """A folder with a net of stages, a solver that leaves weights alone, and two files with a layer's weights each."""
    (tmp_path / "net.prototxt").write_text(STAGED)
    still = SOLVER.replace("base_lr: 0.05", "base_lr: 0").replace("max_iter: 100", "max_iter: 2")
    (tmp_path / "solver.prototxt").write_text(still)
    for layer, seed in (("ip1", 1), ("ip2", 2)):
        (tmp_path / f"{layer}.prototxt").write_text(
            f'''layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 dim: 784 }} }} }}
            layer {{ name: "first" type: "InnerProduct" bottom: "data" top: "first"
              inner_product_param {{ num_output: 20 }} }}
            layer {{ name: "{layer}" type: "InnerProduct" bottom: "{"data" if layer == "ip1" else "first"}" top: "out"
              inner_product_param {{ num_output: {20 if layer == "ip1" else 10}
                weight_filler {{ type: "xavier" }} }} }}'''
        )
        sparknet.set_random_seed(seed)
        net = sparknet.Net(str(tmp_path / f"{layer}.prototxt"), phase=sparknet.TEST)
        net.save(str(tmp_path / f"{layer}.caffemodel"))
    return tmp_path


def test_weights_of_several_files_stages_and_levels(staged):
    chosen = ["--stage", "deep,unheard-of", "--level", 2, "--weights", "ip1.caffemodel,ip2.caffemodel"]
    train = ["train", "--solver", "solver.prototxt", "--workers", 2, "--quiet", *chosen]
    succeeds(staged, *train)
    succeeds(staged, *train, "--master", "local[2]", "--model", "there.caffemodel", *CONF)
    found = []
    for name in ("tiny_iter_2.caffemodel", "there.caffemodel"):
        net = sparknet.Net(
            str(staged / "net.prototxt"), str(staged / name), phase=sparknet.TEST, stages=["deep"], level=2
        )
        found.append({layer: blobs[0].data.tolist() for layer, blobs in net.params.items()})
    assert found[0] == found[1] and sorted(found[0]) == ["deep", "high", "ip1", "ip2"]
    for layer in ("ip1", "ip2"):
        net = sparknet.Net(str(staged / f"{layer}.prototxt"), str(staged / f"{layer}.caffemodel"), phase=sparknet.TEST)
        assert found[0][layer] == net.params[layer][0].data.tolist()

    # A test of some batches, of the net as it was trained.
    weights = ["--weights", "ip1.caffemodel,ip2.caffemodel,there.caffemodel", "--stage", "deep", "--level", 2]
    test = ["test", "--model", "net.prototxt", *weights, "--iterations", 2, "--json"]
    here = json.loads(succeeds(staged, *test))
    there = json.loads(succeeds(staged, *test, "--master", "local[2]", *CONF))
    assert there["records"] == here["records"] == 40 and there["evaluation"] == here["evaluation"]
    assert sorted(there["scores"]) == ["accuracy", "deep_loss", "high_loss", "loss"]
    assert there["scores"] == pytest.approx(here["scores"], abs=1e-6)


def test_a_loss_that_is_no_number_ends_a_run_unless_allowed(staged):
    endless = SOLVER.replace("base_lr: 0.05", "base_lr: 1e30").replace("max_iter: 100", "max_iter: 20")
    (staged / "solver.prototxt").write_text(endless)
    train = ["train", "--solver", "solver.prototxt", "--workers", 2]
    here = fails(staged, *train, "--quiet")
    train += ["--master", "local[2]", "--model", "out.caffemodel", *CONF]
    assert fails(staged, *train, "--quiet") == here and "--allow-nan" in here
    out = succeeds(staged, *train, "--allow-nan", "--events", "events.jsonl")
    assert re.search(r"^test at 20: accuracy [\d.]+, loss NaN", out, re.MULTILINE), out
    assert "finished after 20 iterations" in out and (staged / "out.caffemodel").exists()


def test_a_terminal_has_a_bar_that_moves_with_every_round(place, tmp_path):
    words = ["train", "--solver", "solver.prototxt", "--workers", 2, "--tau", 5, "--data", LMDB, "--master", "local[2]"]
    words += ["--max-iter", 20_000, "--model", tmp_path / "out", *CONF]
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER.replace("display: 50", "display: 0"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    words = [str(word) for word in [BINARY, *words]]
    variables = {**environment(), "TERM": "xterm"}
    with subprocess.Popen(words, cwd=tmp_path, env=variables, stdin=theirs, stdout=theirs, stderr=theirs) as running:
        os.close(theirs)
        shown = b""
        # A terminal that nobody has open any more is an error to read from.
        with contextlib.suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:
            while part := terminal.read(4096):
                shown += part
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown.decode())
    assert running.returncode == 0, text
    places = {int(place) for place in re.findall(r"[━─] (\d+) of 20000", text)}
    assert len([place for place in places if 0 < place < 20_000]) >= 3, places
    assert "training tiny for 20000 iterations" in text and "finished after 20000 iterations" in text
    assert text.splitlines()[-1].startswith("weights: ")


def test_ctrl_c_keeps_what_was_committed(place, tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    # A run without an end that says little: nobody reads its output before it is over.
    endless = SOLVER.replace("max_iter: 100", "max_iter: 100000000").replace("display: 50", "display: 5000")
    (tmp_path / "solver.prototxt").write_text(endless.replace("test_interval: 50", "test_interval: 100000000"))
    words = [BINARY, "train", "--solver", "solver.prototxt", "--master", "local[2]", "--workers", "2", *CONF]
    words += ["--tau", "200", "--events", "events.jsonl", "--model", "kept.caffemodel", "--no-progress"]
    running = subprocess.Popen(
        [str(word) for word in words],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        events, give_up_at = tmp_path / "events.jsonl", time.monotonic() + 600
        # The driver keeps a round about every ten seconds.
        while not events.exists() or events.read_text().count('"round"') < 1 or not committed(events):
            assert running.poll() is None and time.monotonic() < give_up_at
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        out, error = running.communicate(timeout=300)
    finally:
        running.kill()
    assert running.returncode == 0, error
    found = re.search(r"stopped after (\d+) iterations; to go on: sparknet train (.*)", out)
    assert (
        found and int(found[1]) > 0 and "--snapshot kept.solverstate" in found[2] and "--master 'local[2]'" in found[2]
    )
    sparknet.Net(str(tmp_path / "net.prototxt"), str(tmp_path / "kept.caffemodel"), phase=sparknet.TEST)


def committed(events: Path) -> bool:
    lines = [json.loads(line) for line in events.read_text().splitlines() if line.endswith("}")]
    return any(line["event"] == "iteration" and line["elapsed_s"] > 12 for line in lines)


def test_faults_are_said_in_a_sentence(place, tmp_path):
    train = ["train", "--solver", "solver.prototxt", "--master", "local[2]", *CONF]
    assert fails(place, *train, "--data", "nowhere") == (
        "nowhere does not exist: correct the path, or bring the data there"
    )
    assert fails(place, *train, "--data", LMDB, "--test-data", LMDB, "--spark-conf", "spark") == (
        "--spark-conf spark has no value: write KEY=VALUE, as in spark.executor.memory=4g"
    )
    assert fails(place, *train, "--workers", 3).startswith("3 workers have to run at once, but Spark has slots for 2")


def test_executors_without_the_package_are_said_in_a_sentence(place, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        """import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name == "sparknet":
            raise ModuleNotFoundError("No module named 'sparknet'", name=name)
sys.meta_path.insert(0, Without())
"""
    )
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}:$PYTHONPATH exec {sys.executable} "$@"\n')
    bare.chmod(0o755)
    conf = [*CONF, "--spark-conf", f"spark.pyspark.python={bare}"]
    # The driver has it: only executors are given another Python.
    assert fails(place, *TRAIN[:-4], "--master", "local[2]", *conf).startswith(
        "the executors' Python has no package sparknet: install sparknet's wheel there, or send them an environment"
    )


def test_a_wrong_column_is_said_in_a_sentence(place, tmp_path, spark: SparkSession):
    spark.createDataFrame([("a", 1)], "data string, label int").write.parquet(str(tmp_path / "table"))
    train = ["train", "--solver", "solver.prototxt", "--master", "local[2]", "--data", tmp_path / "table", *CONF]
    assert fails(place, *train).startswith("column data is string: features are an array of numbers")


def test_every_kind_of_data_and_its_flags(place, tmp_path, spark: SparkSession):
    """The same images as Parquet with other columns and a bad row, as files in a list, and as SequenceFiles."""
    source = _native.Lmdb(str(LMDB))
    keys, labels, values, offsets = source.read(0, len(source), 1 << 30)
    images = [values[start:end] for start, end in itertools.pairwise(offsets)]
    rows = [(key, bytearray(image), int(label)) for key, image, label in zip(keys, images, labels, strict=True)]
    bad = ("bad", bytearray(b"\x89PNG\r\n\x1a\nno image"), 0)
    spark.createDataFrame([*rows, bad], "name string, picture binary, kind int").write.parquet(str(tmp_path / "table"))
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(images):
        Image.frombytes("L", (28, 28), image).save(folder / f"{number}.png")
    (tmp_path / "list.txt").write_text("".join(f"{number}.png {int(label)}\n" for number, label in enumerate(labels)))
    pairs = [(f"{key} {label}", image) for key, image, label in rows]
    spark.sparkContext.parallelize(pairs, 2).saveAsSequenceFile(str(tmp_path / "sequence"))

    weights = ["--model", "net.prototxt", "--weights", "tiny_iter_100.caffemodel"]
    here = json.loads(succeeds(place, "test", *weights, "--json"))
    table = ["--data", tmp_path / "table", "--features-col", "picture", "--label-col", "kind", "--skip-bad"]
    listed = ["--data", folder, "--data-list", tmp_path / "list.txt"]
    for flags in (table, listed):
        there = json.loads(succeeds(place, "test", *weights, "--json", "--master", "local[2]", *flags, *CONF))
        assert there["records"] == 96 and there["evaluation"] == here["evaluation"]
    features = ["features", *weights, "--blobs", "ip2", "--master", "local[2]", *CONF, "--format", "parquet"]
    found = []
    for name, flags in [("sequence", []), ("table", ["--features-col", "picture", "--id-col", "name", "--skip-bad"])]:
        out = tmp_path / f"features of {name}"
        flags = [*flags, *(["--data-format", "sequence"] if name == "sequence" else [])]
        succeeds(place, *features, "--data", tmp_path / name, *flags, "--output", out)
        found.append({row["SampleID"]: row["ip2"] for row in spark.read.parquet(str(out)).collect()})
    assert found[1].pop("bad") is None
    assert (
        found[0] == found[1] and sorted(found[0]) == sorted(keys) and all(len(row) == 10 for row in found[0].values())
    )


def submitted(folder, *args, **variables) -> tuple[list[str], dict[str, str]]:
    """What spark-submit is given by a command: its arguments and its environment."""
    home = folder / "spark"
    (home / "bin").mkdir(parents=True, exist_ok=True)
    program = home / "bin" / "spark-submit"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/args\nenv > {folder}/env\necho the log\nexit 7\n')
    program.chmod(0o755)
    done = command(folder, *args, SPARK_HOME=str(home), **variables)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("the log\nerror: spark-submit ended (exit status: 7) without a word"), done.stderr
    lines = (folder / "env").read_text().splitlines()
    return (folder / "args").read_text().splitlines(), dict(line.split("=", 1) for line in lines if "=" in line)


def test_what_spark_submit_is_given_on_yarn_and_kubernetes(place, tmp_path):
    """The driver runs where the command does, on its Python and its files; executors may have another Python."""
    for name in ("net.prototxt", "solver.prototxt"):
        (tmp_path / name).write_text((place / name).read_text())
    executors = ["spark.executor.instances=4", "spark.pyspark.python=./env/bin/python"]
    conf = [word for setting in executors for word in ("--spark-conf", setting)]
    train = ["train", "--solver", "solver.prototxt", "--data", "hdfs:///digits", "--workers", 4, *conf]
    train += ["--archives", "hdfs:///env.tar.gz#env", "--jars", "a.jar,b.jar"]
    main = str(Path(sparknet.__file__).parent / "spark" / "main.py")
    given = ["--conf", f"spark.pyspark.driver.python={sys.executable}", "--conf", executors[0], "--conf", executors[1]]
    image = "spark.kubernetes.container.image=spark-sparknet:4"
    for master, more, added in (
        ("yarn", [], []),
        ("k8s://https://host:6443", ["--spark-conf", image], ["--conf", image]),
    ):
        found, env = submitted(tmp_path, *train, "--master", master, *more, HADOOP_CONF_DIR=str(tmp_path))
        *found, socket = found
        begin = ["--master", master, "--deploy-mode", "client", "--name", "sparknet train"]
        files = ["--jars", "a.jar,b.jar", "--archives", "hdfs:///env.tar.gz#env"]
        assert found == [*begin, *given, *added, *files, main] and socket.endswith("/command")
        assert env["PYSPARK_PYTHON"] == env["PYSPARK_DRIVER_PYTHON"] == sys.executable
        assert env["HADOOP_CONF_DIR"] == str(tmp_path) and env["SPARK_HOME"] == str(tmp_path / "spark")
    # An image may stand in Spark's own settings.
    (tmp_path / "spark" / "conf").mkdir()
    (tmp_path / "spark" / "conf" / "spark-defaults.conf").write_text("spark.kubernetes.executor.container.image  x\n")
    submitted(tmp_path, *train, "--master", "k8s://https://host:6443")


def test_what_a_cluster_cannot_be_found_without(place):
    train = ["train", "--solver", "solver.prototxt", "--data", "hdfs:///digits"]
    nothing = {"HADOOP_CONF_DIR": None, "YARN_CONF_DIR": None}
    assert fails(place, *train, "--master", "yarn", **nothing) == (
        "--master yarn finds the cluster by its settings: set HADOOP_CONF_DIR to the folder with its core-site.xml and "
        "yarn-site.xml"
    )
    assert fails(place, *train, "--master", "yarn", HADOOP_CONF_DIR=None, YARN_CONF_DIR="/nowhere").startswith(
        "/nowhere: this folder does not exist: set HADOOP_CONF_DIR"
    )
    assert fails(place, *train, "--master", "k8s://https://host:6443").startswith(
        "--master k8s://… starts executors from an image: give one with Spark and the package sparknet"
    )
    elsewhere = "--spark-conf spark.submit.deployMode=cluster"
    assert fails(place, *train, "--master", "local[2]", *elsewhere.split()) == (
        f"{elsewhere} puts the driver elsewhere, but this command talks to it: leave it out"
    )


def test_what_is_missing_is_said_before_spark_starts(place, tmp_path):
    train = ["train", "--solver", "solver.prototxt", "--master", "local[2]"]
    bare = {"SPARK_HOME": None, "PYSPARK_PYTHON": None, "PYSPARK_DRIVER_PYTHON": None}
    (tmp_path / "bin").mkdir()
    assert fails(place, *train, PATH=str(tmp_path / "bin"), JAVA_HOME=None) == (
        "java is missing, which Spark needs: install Java 17 or newer, or set JAVA_HOME"
    )
    assert fails(place, *train, JAVA_HOME=str(tmp_path)).startswith("JAVA_HOME has no bin/java: ")
    (tmp_path / "bin" / "java").touch()
    path = {"PATH": str(tmp_path / "bin"), "JAVA_HOME": None}
    assert fails(place, *train, "--python", "/nowhere/python", **path).startswith("/nowhere/python cannot be started (")
    other = tmp_path / "other"
    other.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    other.chmod(0o755)
    assert f"{other} has no package sparknet: install its wheel" in fails(
        place, *train, "--python", other, **bare, **path
    )
    assert fails(place, *train, SPARK_HOME=str(tmp_path)) == (
        f"{tmp_path}/bin/spark-submit: this file does not exist: set SPARK_HOME to a Spark, or unset it"
    )
    assert fails(place, "train", "--solver", "solver.prototxt", "--data", "x").startswith(
        "--data is for Spark: give --master"
    )
