"""The examples, each run as a user runs it, on small data of the tests' own."""

import gzip
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyspark
import pytest
from pictures import digits
from PIL import Image
from pyspark.sql import SparkSession

from golden import PROJECT

EXAMPLES = PROJECT / "examples"


@pytest.fixture
def run(spark, monkeypatch, capsys):
    """Runs an example as a script on the tests' Spark, and gives what it printed; starting a Spark takes longest."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.setattr(SparkSession, "stop", lambda self: None)
        monkeypatch.syspath_prepend(str(EXAMPLES))
        found = runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out, found

    return run


@pytest.fixture(scope="module")
def fashion_mnist(tmp_path_factory):
    """A folder with files as Fashion-MNIST's, of digits."""
    folder = tmp_path_factory.mktemp("fashion-mnist")
    for half, count, seed in (("train", 1000, 1), ("t10k", 200, 2)):
        pixels, labels = digits(count, seed)
        for name, head, content in (
            ("images-idx3", np.array([2051, count, 28, 28], ">i4"), pixels),
            ("labels-idx1", np.array([2049, count], ">i4"), labels.astype(np.uint8)),
        ):
            (folder / f"{half}-{name}-ubyte.gz").write_bytes(gzip.compress(head.tobytes() + content.tobytes()))
    return folder


def test_fashion_mnist_through_spark_submit(fashion_mnist):
    submit = Path(pyspark.__file__).parent / "bin/spark-submit"
    command = [submit, "--master", "local[2]", "--conf", "spark.ui.enabled=false", "--driver-memory", "512m"]
    command += [EXAMPLES / "fashion_mnist.py", fashion_mnist, "--iterations", 100]
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # spark-submit sends what Python writes to either stream to its own standard output.
    assert "iteration 100: loss" in done.stdout and re.search(r"fit took \d+\.\d s", done.stdout)
    assert accuracy_in(done.stdout) > 0.8


def accuracy_in(text):
    return float(re.search(r"accuracy:? +(\d\.\d+)", text).group(1))


def test_the_readmes_first_example(spark, tmp_path, monkeypatch, capsys):
    pixels, labels = digits(600)
    rows = [(bytearray(image.tobytes()), int(label)) for image, label in zip(pixels, labels, strict=True)]
    frame = spark.createDataFrame(rows, "image binary, label int").coalesce(1)
    text = re.search(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL).group(1)
    assert text.count("tau=10") == 1
    (tmp_path / "models").symlink_to(PROJECT / "models")
    monkeypatch.chdir(tmp_path)
    exec(text.replace("tau=10", "tau=10, maxIter=60"), {"train_df": frame, "test_df": frame})
    assert accuracy_in(capsys.readouterr().out) > 0.8
    assert (tmp_path / "lenet.caffemodel").stat().st_size > 4 * 431_000


def test_features_pipeline(run, fashion_mnist):
    text, _ = run("features_pipeline.py", fashion_mnist, "--iterations", 40, "--rows", 600)
    assert accuracy_in(text) > 0.8


def test_the_notebook(spark, fashion_mnist, monkeypatch, capsys):
    """Its cells in order; Jupyter itself would only carry them to such a process and back."""
    monkeypatch.setattr(SparkSession, "stop", lambda self: None)
    notebook = json.loads((EXAMPLES / "fashion_mnist.ipynb").read_text())
    assert notebook["nbformat"] == 4
    names = {"__name__": "__main__"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == [] and cell["execution_count"] is None, "commit the notebook without outputs"
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", []):
            names |= {"folder": str(fashion_mnist), "project": str(PROJECT), "iterations": 60}
    tests = names["history"].dropna(subset=["accuracy"])
    assert list(tests["iteration"]) == [0, 15, 30, 45, 60]
    assert names["evaluation"].records == 200 and names["evaluation"].accuracy > 0.8
    assert "some of ip1" in capsys.readouterr().out


def test_cifar(run, spark, tmp_path):
    random = np.random.default_rng(1)
    records = {name: random.integers(0, 256, (count, 3073), np.uint8) for name, count in BATCHES.items()}
    for name, batch in records.items():
        batch[:, 0] %= 10
        (tmp_path / name).write_bytes(batch.tobytes())
    text, found = run("cifar.py", tmp_path, "--iterations", 3, "--tau", 2)
    assert 0 <= accuracy_in(text) <= 1 and "140" in text
    # Such noise teaches a net nothing, so what the net was given is looked at.
    train = found["read"](spark, f"{tmp_path}/data_batch_*.bin")
    rows = {(row["label"], bytes(row["image"])) for row in train.collect()}
    given = np.concatenate([records[name] for name in BATCHES if name.startswith("data")])
    assert rows == {(int(record[0]), record[1:].tobytes()) for record in given}
    assert np.allclose(found["mean_of"](train).reshape(-1), given[:, 1:].mean(axis=0))


BATCHES = {"data_batch_1.bin": 130, "data_batch_2.bin": 150, "test_batch.bin": 140}


def test_imagenet(run, tmp_path):
    """Three classes of JPEGs of several sizes, told apart by colour; two files are bad."""
    random = np.random.default_rng(1)
    for label, name in enumerate(("n01440764", "n01443537", "n01484850")):
        (tmp_path / name).mkdir()
        for number in range(30):
            pixels = random.integers(0, 120, (random.integers(40, 64), random.integers(40, 64), 3), np.uint8)
            pixels[:, :, label] += 120
            Image.fromarray(pixels).save(tmp_path / name / f"{name}_{number}.JPEG", quality=90)
    (tmp_path / "n01440764" / "damaged.JPEG").write_bytes(b"\xff\xd8\xff\xe0 this is no image")
    Image.new("RGB", (20, 60)).save(tmp_path / "n01443537" / "small.JPEG")
    text, _ = run("imagenet.py", tmp_path, "--crop-size", 32, "--batch-size", 8, "--iterations", 40)
    trained, bad = map(int, re.search(r"(\d+) images trained on, (\d+) bad ones", text).groups())
    assert bad == 2 and 65 < trained < 90
    assert accuracy_in(text) > 0.8
