"""Train and run Caffe's nets, on one machine or where the data is on Spark.

>>> import sparknet
>>> net = sparknet.Net("deploy.prototxt", "weights.caffemodel", phase=sparknet.TEST)  # doctest: +SKIP
>>> net.blobs["data"].data[...] = image  # doctest: +SKIP
>>> net.forward()["prob"].argmax()  # doctest: +SKIP
"""

from __future__ import annotations

from sparknet import io
from sparknet._native import Blob, Message, __version__, set_num_threads, set_random_seed
from sparknet.errors import BusyError, FileError, InputError, InternalError, MissingFileError, SparkNetError
from sparknet.layer import Layer, LayerBlob
from sparknet.net import TEST, TRAIN, Net, NetLayer, Phase
from sparknet.net_spec import NetSpec, layers, params, to_proto
from sparknet.solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    Solver,
    get_solver,
)

__all__ = [
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "BusyError",
    "FileError",
    "InputError",
    "InternalError",
    "Layer",
    "LayerBlob",
    "Message",
    "MissingFileError",
    "NesterovSolver",
    "Net",
    "NetLayer",
    "NetSpec",
    "Phase",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "SparkNetError",
    "__version__",
    "get_solver",
    "io",
    "layers",
    "params",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_num_threads",
    "set_random_seed",
    "to_proto",
]


def set_mode_cpu() -> None:
    """Computes on the CPU, as it always does; here for scripts written for pycaffe."""


def set_mode_gpu() -> None:
    """Refuses: there is no GPU engine yet."""
    raise InputError("SparkNet computes on the CPU only: call set_mode_cpu instead, or leave it out")


def set_device(device: int) -> None:
    """Refuses: there is no GPU engine yet."""
    raise InputError(f"there is no GPU {device}, as SparkNet computes on the CPU only: leave set_device out")
