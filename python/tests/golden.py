"""The project's golden files: what real Caffe computed."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).parents[2]
GOLDEN = PROJECT / "golden"


@dataclass
class Golden:
    """A safetensors file: its metadata and its tensors."""

    metadata: dict[str, str]
    tensors: dict[str, np.ndarray]


def read_golden(name: str) -> Golden:
    data = (GOLDEN / name).read_bytes()
    (header_length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + header_length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for key, entry in header.items():
        assert entry["dtype"] == "F32"
        begin, end = (8 + header_length + offset for offset in entry["data_offsets"])
        tensors[key] = np.frombuffer(data[begin:end], np.float32).reshape(entry["shape"])
    return Golden(metadata, tensors)
