"""Layers written in Python, as pycaffe has them.

    class Scaled(sparknet.Layer):
        def setup(self, bottom, top):
            self.factor = float(self.param_str)

        def reshape(self, bottom, top):
            top[0].reshape(*bottom[0].shape)

        def forward(self, bottom, top):
            top[0].data[...] = self.factor * bottom[0].data

        def backward(self, top, propagate_down, bottom):
            if propagate_down[0]:
                bottom[0].diff[...] = self.factor * top[0].diff

and in the net::

    layer { name: "scaled" type: "Python" bottom: "x" top: "y"
            python_param { module: "my_layers" layer: "Scaled" param_str: "0.5" } }
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sparknet.errors import InputError
from sparknet.net import Phase


class LayerBlob:
    """A bottom, a top or a parameter of a layer in Python.

    Its arrays are the layer's own: the net's values are there from the beginning of a call, and what the call leaves in
    a top's ``data``, or in ``diff``, is the net's from its end on.
    """

    def __init__(self, may_reshape: bool) -> None:
        self._shape: tuple[int, ...] = ()
        self._may_reshape = may_reshape
        self._data: np.ndarray | None = None
        self._diff: np.ndarray | None = None

    @property
    def data(self) -> np.ndarray:
        """The values; those of a bottom can be read only, and are zero in ``setup`` and the first ``reshape``."""
        self._data = _fitting(self._data, self._shape)
        return self._data

    @property
    def diff(self) -> np.ndarray:
        """The gradient; that of a top can be read only."""
        self._diff = _fitting(self._diff, self._shape)
        return self._diff

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents, outermost first."""
        return self._shape

    @property
    def count(self) -> int:
        """The number of values."""
        return int(np.prod(self._shape))

    def _legacy_dim(self, axis: int) -> int:
        if len(self._shape) > 4:
            raise InputError(f"num, channels, height and width are of at most 4 axes, not {self._shape}: use shape")
        return self._shape[axis] if axis < len(self._shape) else 1

    @property
    def num(self) -> int:
        """The first extent of four."""
        return self._legacy_dim(0)

    @property
    def channels(self) -> int:
        """The second extent of four."""
        return self._legacy_dim(1)

    @property
    def height(self) -> int:
        """The third extent of four."""
        return self._legacy_dim(2)

    @property
    def width(self) -> int:
        """The fourth extent of four."""
        return self._legacy_dim(3)

    def reshape(self, *dims: int | Sequence[int]) -> None:
        """Gives a top its shape; to be called in ``setup`` or ``reshape``."""
        if not self._may_reshape:
            raise InputError("a layer reshapes its tops; its bottoms have the shapes that other layers give them")
        flat = dims[0] if len(dims) == 1 and not isinstance(dims[0], (int, np.integer)) else dims
        shape = tuple(int(dim) for dim in flat)  # type: ignore[union-attr, arg-type]
        if any(dim < 1 for dim in shape):
            raise InputError(f"{shape} is no shape: give extents of at least 1")
        self._shape = shape

    def __repr__(self) -> str:
        return f"<LayerBlob {self._shape}>"


def _fitting(array: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    return array if array is not None and array.shape == shape else np.zeros(shape, np.float32)


class LayerBlobs:
    """The parameters of a layer in Python: learned, shared, saved and loaded like those of any other."""

    def __init__(self) -> None:
        self._blobs: list[LayerBlob] = []
        self._is_open = True

    def add_blob(self, *dims: int | Sequence[int]) -> LayerBlob:
        """Adds one of this shape; to be called in ``setup``, which may fill it: ``self.blobs[0].data[...] = 1``."""
        if not self._is_open:
            raise InputError("a layer's parameters are added in setup: call add_blob there")
        blob = LayerBlob(may_reshape=True)
        blob.reshape(*dims)
        blob._may_reshape = False
        self._blobs.append(blob)
        return blob

    def __getitem__(self, index: int) -> LayerBlob:
        return self._blobs[index]

    def __len__(self) -> int:
        return len(self._blobs)

    def __iter__(self) -> Iterator[LayerBlob]:
        return iter(self._blobs)


class Layer:
    """What layers of ``type: "Python"`` are derived from.

    An exception that a method raises comes out of the call that ran the net. Each net, and so each worker, has an
    object of its own, also where ``share_in_parallel`` is set.

    Attributes:
        param_str: What the file gives the layer as ``param_str``.
        phase: ``sparknet.TRAIN`` or ``sparknet.TEST``.
        blobs: The layer's parameters.
    """

    param_str: str
    phase: Phase
    blobs: LayerBlobs

    def setup(self, bottom: list[LayerBlob], top: list[LayerBlob]) -> None:
        """Called once, with the bottoms' shapes: reads ``param_str``, adds parameters."""

    def reshape(self, bottom: list[LayerBlob], top: list[LayerBlob]) -> None:
        """Called when the net is built or reshaped, and before each ``forward``: gives each top its shape."""
        raise NotImplementedError(f"{type(self).__name__} has no method reshape: give each top its shape there")

    def forward(self, bottom: list[LayerBlob], top: list[LayerBlob]) -> None:
        """Writes ``data`` of every top."""
        raise NotImplementedError(f"{type(self).__name__} has no method forward")

    def backward(self, top: list[LayerBlob], propagate_down: list[bool], bottom: list[LayerBlob]) -> None:
        """Writes ``diff`` of each bottom where ``propagate_down`` says so, and adds to ``diff`` of ``self.blobs``."""
        raise NotImplementedError(
            f"{type(self).__name__} has no method backward: set propagate_down: false or write it"
        )


class _Runner:
    """What the engine calls: it gives and takes flat arrays, the class sees blobs."""

    def __init__(self, module: str, layer: str, param_str: str, phase: int, bottoms: int, tops: int) -> None:
        found = getattr(importlib.import_module(module), layer, None)
        if not (isinstance(found, type) and issubclass(found, Layer)):
            raise InputError(f"{module}.{layer} is no class that is derived from sparknet.Layer: see python_param")
        self.name = f"{module}.{layer}"
        self.bottom = [LayerBlob(may_reshape=False) for _ in range(bottoms)]
        self.top = [LayerBlob(may_reshape=True) for _ in range(tops)]
        # Before __init__, which may look at them.
        self.layer = found.__new__(found)
        self.layer.param_str = param_str
        self.layer.phase = Phase(phase)
        self.layer.blobs = LayerBlobs()
        self.layer.__init__()  # type: ignore[misc]

    def reshape(self, shapes: list[list[int]]) -> list[tuple[int, ...]]:
        for blob, shape in zip(self.bottom, shapes, strict=True):
            blob._shape = tuple(shape)
            blob._data = None
        if self.layer.blobs._is_open:
            self.layer.setup(self.bottom, self.top)
            self.layer.blobs._is_open = False
        self.layer.reshape(self.bottom, self.top)
        return [blob.shape for blob in self.top]

    def params(self) -> list[tuple[tuple[int, ...], np.ndarray]]:
        return [(blob.shape, _flat(blob.data)) for blob in self.layer.blobs]

    def forward(self, bottoms: list[np.ndarray], params: list[np.ndarray]) -> list[np.ndarray]:
        self._take(bottoms, params)
        planned = [blob.shape for blob in self.top]
        # As Caffe does before each forward; data layers load their batch there.
        self.layer.reshape(self.bottom, self.top)
        if [blob.shape for blob in self.top] != planned:
            found = [blob.shape for blob in self.top]
            for blob, shape in zip(self.top, planned, strict=True):
                blob._shape = shape
            raise InputError(
                f"{self.name} gives its tops the shapes {found}, and the net was built for {planned}: "
                "a layer's tops may change their shapes only when its bottoms do"
            )
        self.layer.forward(self.bottom, self.top)
        return [_flat(blob.data) for blob in self.top]

    def backward(
        self,
        bottoms: list[np.ndarray],
        top_diffs: list[np.ndarray],
        propagate_down: list[bool],
        params: list[np.ndarray],
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        self._take(bottoms, params)
        for blob, diff in zip(self.top, top_diffs, strict=True):
            blob._diff = _read_only(diff, blob.shape)
        for blob in [*self.bottom, *self.layer.blobs]:
            blob._diff = np.zeros(blob.shape, np.float32)
        self.layer.backward(self.top, propagate_down, self.bottom)
        return [_flat(blob.diff) for blob in self.bottom], [_flat(blob.diff) for blob in self.layer.blobs]

    def _take(self, bottoms: list[np.ndarray], params: list[np.ndarray]) -> None:
        for blob, values in zip([*self.bottom, *self.layer.blobs], [*bottoms, *params], strict=True):
            blob._data = _read_only(values, blob.shape)


def _read_only(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    array = values.reshape(shape)
    array.flags.writeable = False
    return array


def _flat(array: Any) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32).reshape(-1)
