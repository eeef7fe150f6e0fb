"""What the tests share: the command, and small data to train on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from golden import GOLDEN, PROJECT

MLP = """
layer {{ name: "data" type: "Data" top: "data" top: "label" transform_param {{ scale: 0.00390625 mirror: true }}
        data_param {{ source: "{source}" backend: LMDB batch_size: 20 }} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
        inner_product_param {{ num_output: 30 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }}
layer {{ name: "drop1" type: "Dropout" bottom: "ip1" top: "ip1" }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
        inner_product_param {{ num_output: 10 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" include {{ phase: TEST }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }}
"""

SOLVER = {
    "net": '"net.prototxt"',
    "base_lr": 0.05,
    "lr_policy": '"inv"',
    "gamma": 0.01,
    "power": 0.75,
    "momentum": 0.9,
    "weight_decay": 0.001,
    "max_iter": 12,
    "display": 1,
    "snapshot": 6,
    "test_iter": 5,
    "test_interval": 4,
    "random_seed": 7,
}


@pytest.fixture
def make_solver(tmp_path):
    """Writes a solver of a small net on 96 records of Fashion-MNIST into a folder of its own; returns its path."""

    def make(folder: str, **fields: object) -> Path:
        path = tmp_path / folder
        path.mkdir()
        (path / "net.prototxt").write_text(MLP.format(source=GOLDEN / "data" / "raw_lmdb"))
        prefix = {"snapshot_prefix": f'"{path / "snapshot"}"'}
        # A field that is None is left out.
        given = {name: value for name, value in (SOLVER | prefix | fields).items() if value is not None}
        text = "".join(f"{name}: {value}\n" for name, value in given.items())
        (path / "solver.prototxt").write_text(text)
        return path / "solver.prototxt"

    return make


@pytest.fixture
def command():
    """Runs the command `sparknet`."""
    binary = Path(os.environ.get("SPARKNET", PROJECT / "target/release/sparknet"))
    assert binary.exists(), f"{binary} is not there: run `make test-python`, which builds it"

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([binary, *map(str, args)], check=True, capture_output=True, text=True, timeout=300)

    return run
