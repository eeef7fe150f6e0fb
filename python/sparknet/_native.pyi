"""What of the package runs in Rust; use it through ``sparknet``."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__version__: str

def set_num_threads(threads: int | None) -> None:
    """How many threads nets and solvers compute on from now on; None for one a core."""

def set_random_seed(seed: int) -> None:
    """Fixes all randomness of nets and solvers that are built later, unless their solver has a random_seed."""

class Blob:
    """Values and gradients of a net: of a blob, or of a layer's parameters."""

    @property
    def data(self) -> npt.NDArray[np.float32]:
        """The values, as a writable array over the net's memory."""
    @property
    def diff(self) -> npt.NDArray[np.float32]:
        """The gradient, as a writable array over the net's memory."""
    @property
    def shape(self) -> tuple[int, ...]:
        """The extents, outermost first."""
    @property
    def count(self) -> int:
        """The number of values."""
    @property
    def num(self) -> int:
        """The first extent of four."""
    @property
    def channels(self) -> int:
        """The second extent of four."""
    @property
    def height(self) -> int:
        """The third extent of four."""
    @property
    def width(self) -> int:
        """The fourth extent of four."""
    def reshape(self, *dims: int | Sequence[int]) -> None:
        """Gives an input blob another shape; the others follow in Net.reshape or in the next forward pass."""

class Message:
    """A message of caffe.proto, such as a NetParameter; str() prints it as a prototxt.

    Fields are attributes; a field that is a message, or a list, is read as a copy and set as a whole.
    """

    def __new__(cls, type_name: str, **fields: Any) -> Message: ...
    @staticmethod
    def parse(type_name: str, text: str) -> Message:
        """Reads a message from its text form."""
    @staticmethod
    def decode(type_name: str, content: bytes) -> Message:
        """Reads a message from its binary form, a mean image's BlobProto say."""
    def with_fields(self, **fields: Any) -> Message:
        """A copy with these fields set."""
    def HasField(self, name: str) -> bool:
        """Whether a field is set."""
    def SerializeToString(self) -> bytes:
        """The binary form."""
    def __getattr__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, value: Any) -> None: ...

def layer(type_name: str, fields: Mapping[str, Any]) -> Message:
    """A LayerParameter of a type, with fields of the layer or of the type's own parameters."""

def enum_value(message: str, name: str) -> int:
    """The number of an enum's value, by the message that has the enum."""

class Net:
    """What sparknet.Net and a solver's nets are made of."""

    def __new__(
        cls,
        model: str | os.PathLike[str] | Message,
        weights: str | os.PathLike[str] | None,
        phase: int,
        level: int,
        stages: Sequence[str],
    ) -> Net: ...
    @property
    def name(self) -> str: ...
    @property
    def phase(self) -> int: ...
    @property
    def blob_names(self) -> list[str]: ...
    @property
    def inputs(self) -> list[str]: ...
    @property
    def outputs(self) -> list[str]: ...
    @property
    def layers(self) -> list[tuple[str, str, list[str], list[str], list[Blob], list[float]]]: ...
    def blob(self, name: str) -> Blob: ...
    def forward(self, start: int | None, end: int | None) -> float: ...
    def backward(self, start: int | None, end: int | None) -> None: ...
    def reshape(self) -> None: ...
    def clear_param_diffs(self) -> None: ...
    def save(self, path: str | os.PathLike[str]) -> None: ...
    def save_hdf5(self, path: str | os.PathLike[str], write_diff: bool) -> None: ...
    def copy_from(self, path: str | os.PathLike[str]) -> None: ...
    def share_with(self, other: Net) -> None: ...

class Solver:
    """What sparknet.Solver is made of."""

    def __new__(
        cls,
        path: str | os.PathLike[str],
        solver_type: str | None,
        allow_nan: bool,
        level: int,
        stages: Sequence[str],
    ) -> Solver: ...
    def net(self) -> Net: ...
    def test_nets(self) -> list[Net]: ...
    @property
    def iter(self) -> int: ...
    @property
    def max_iter(self) -> int: ...
    def step(self, iterations: int, on_event: Callable[[str], object] | None) -> None: ...
    def solve(self, on_event: Callable[[str], object] | None) -> None: ...
    def snapshot(self) -> os.PathLike[str]: ...
    def restore(self, path: str | os.PathLike[str]) -> None: ...
