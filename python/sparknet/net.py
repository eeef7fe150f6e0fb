"""Nets, as pycaffe has them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from sparknet import _native
from sparknet._native import Blob, Message
from sparknet.errors import InputError


class Phase(IntEnum):
    """Whether a net is trained or tested."""

    TRAIN = 0
    TEST = 1


TRAIN = Phase.TRAIN
TEST = Phase.TEST


@dataclass(frozen=True)
class NetLayer:
    """A layer of a net: its name, its type, and its parameters as blobs."""

    name: str
    type: str
    blobs: tuple[Blob, ...]


class Net:
    """A net in one phase.

    ``Net(model, phase)``, ``Net(model, weights, phase)`` and ``Net(model, weights=…, phase=…)`` are all understood.

    Data layers read their data, batch after batch and without end; Input layers, and MemoryData layers without a
    source, are filled by hand: ``net.blobs["data"].data[...] = x``.

    Args:
        model: The ``.prototxt``, or a NetParameter as :meth:`sparknet.NetSpec.to_proto` makes it.
        weights: A ``.caffemodel`` whose weights are taken over by layer name.
        phase: ``sparknet.TRAIN`` or ``sparknet.TEST``.
        level: The level for layers' ``include`` and ``exclude`` rules.
        stages: The stages for those rules.

    A net may be used by one thread at a time; a call while another computes raises
    :class:`sparknet.errors.BusyError`. Arrays over its blobs are not protected so: what another thread reads from one
    while the net computes may be half written.

    Where layers work in place on an Input layer's blob, ``.data`` of that blob is what was filled in, so that the net
    can run again; pycaffe shows what the last of those layers wrote.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Message,
        *args: Any,
        weights: str | os.PathLike[str] | None = None,
        phase: int | None = None,
        level: int = 0,
        stages: Sequence[str] | None = None,
    ) -> None:
        for given in args:
            if isinstance(given, (str, os.PathLike)) and weights is None:
                weights = given
            elif isinstance(given, int) and phase is None:
                phase = given
            else:
                raise TypeError(f"Net takes a model, weights and a phase, each once; {given!r} is one too many")
        if phase is None:
            raise TypeError("Net wants a phase: give phase=sparknet.TRAIN or phase=sparknet.TEST")
        self._wrap(_native.Net(model, weights, int(phase), level, list(stages or ())))

    @classmethod
    def _of(cls, native: _native.Net) -> Net:
        net = cls.__new__(cls)
        net._wrap(native)
        return net

    def _wrap(self, native: _native.Net) -> None:
        self._native = native
        self._arrays: tuple[list[str], np.ndarray, np.ndarray] | None = None
        self._next_record = 0
        self._layers = native.layers
        self._index = {layer[0]: index for index, layer in enumerate(self._layers)}
        self._blobs = OrderedDict((name, native.blob(name)) for name in native.blob_names)

    @property
    def name(self) -> str:
        """The net's name."""
        return self._native.name

    @property
    def phase(self) -> Phase:
        """The phase."""
        return Phase(self._native.phase)

    @property
    def blobs(self) -> OrderedDict[str, Blob]:
        """The blobs by name, in the order of the layers that write them."""
        return self._blobs

    @property
    def params(self) -> OrderedDict[str, list[Blob]]:
        """The parameters by layer: weights first, then the bias."""
        return OrderedDict((layer[0], list(layer[4])) for layer in self._layers if layer[4])

    @property
    def layers(self) -> list[NetLayer]:
        """The layers, in the order of the file."""
        return [NetLayer(layer[0], layer[1], tuple(layer[4])) for layer in self._layers]

    @property
    def layer_dict(self) -> OrderedDict[str, NetLayer]:
        """The layers by name."""
        return OrderedDict((layer.name, layer) for layer in self.layers)

    @property
    def _layer_names(self) -> list[str]:
        # Not public in pycaffe either, and yet in many scripts.
        return list(self._index)

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """What each layer reads."""
        return OrderedDict((layer[0], list(layer[2])) for layer in self._layers)

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """What each layer writes."""
        return OrderedDict((layer[0], list(layer[3])) for layer in self._layers)

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """How much each blob counts in the loss."""
        weights = OrderedDict((name, 0.0) for name in self._blobs)
        for layer in self._layers:
            weights.update(zip(layer[3], layer[5], strict=False))
        return weights

    @property
    def inputs(self) -> list[str]:
        """The blobs of Input layers."""
        return self._native.inputs

    @property
    def outputs(self) -> list[str]:
        """The blobs that no layer reads."""
        return self._native.outputs

    def forward(
        self,
        blobs: Iterable[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **inputs: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Computes the net, or its layers from ``start`` to ``end``, both included.

        Args:
            blobs: Blobs to return beside the outputs.
            start: The first layer; without it the net begins, and data layers take their next batches.
            end: The last layer, whose tops are then the outputs.
            inputs: Arrays by input blob; either none or all of them.

        Returns:
            Arrays over the values of the outputs, by name; ``.copy()`` what is to outlive the next pass.
        """
        first, last = self._position(start), self._position(end)
        if inputs:
            self._fill(inputs, self.inputs, "inputs", lambda blob: blob.data)
        if first is None:
            self._take_arrays()
        self._native.forward(first, last)
        outputs = self.outputs if end is None else self._layers[last][3]
        return {name: self._blob(name).data for name in [*outputs, *(blobs or ())]}

    def backward(
        self,
        diffs: Iterable[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **outputs: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Computes gradients back from the last layer, or from ``start``, to the first layer, or to ``end``.

        Gradients of parameters add up until :meth:`clear_param_diffs`. Layers that lie under no loss have no gradient
        unless the net says ``force_backward: true``.

        Args:
            diffs: Blobs to return beside the inputs.
            start: The layer to begin with.
            end: The layer to end with, whose bottoms' gradients are then returned in place of the inputs'.
            outputs: Gradients by output blob; either none or all of them.

        Returns:
            Arrays over the gradients, by name.
        """
        first, last = self._position(start), self._position(end)
        if outputs:
            names = self.outputs if start is None else self._layers[first][3]
            self._fill(outputs, names, "outputs", lambda blob: blob.diff)
        self._native.backward(first, last)
        wanted = self.inputs if end is None else self._layers[last][2]
        return {name: self._blob(name).diff for name in [*wanted, *(diffs or ())]}

    def forward_all(self, blobs: Iterable[str] | None = None, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Computes the net on as many records as the arrays hold, batch after batch.

        Args:
            blobs: Blobs to return beside the outputs.
            inputs: Arrays of records by input blob, all of one length.

        Returns:
            Arrays with a row a record, by name.
        """
        parts: dict[str, list[np.ndarray]] = {}
        for count, batch in self._batches("forward_all", inputs):
            self._collect(parts, self.forward(blobs, **batch), count)
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def forward_backward_all(
        self, blobs: Iterable[str] | None = None, diffs: Iterable[str] | None = None, **arrays: np.ndarray
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Computes the net and its gradients on as many records as the arrays hold, batch after batch.

        Args:
            blobs: Blobs to return beside the outputs.
            diffs: Blobs whose gradients to return beside the inputs'.
            arrays: Arrays of records by input blob, and of gradients by output blob, all of one length.

        Returns:
            Values and gradients: arrays with a row a record, by name.
        """
        values: dict[str, list[np.ndarray]] = {}
        gradients: dict[str, list[np.ndarray]] = {}
        for count, batch in self._batches("forward_backward_all", arrays):
            given = {name: batch.pop(name) for name in self.outputs if name in batch}
            # Values first: an output's array goes on to be what its gradient is computed from.
            self._collect(values, self.forward(blobs, **batch), count)
            self._collect(gradients, self.backward(diffs, **given), count)
        return tuple({name: np.concatenate(found) for name, found in each.items()} for each in (values, gradients))

    def _batches(self, caller: str, arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Batches of arrays of records, and how many records of each count."""
        lengths = {len(array) for array in arrays.values()}
        if len(lengths) != 1:
            raise InputError(f"{caller} wants arrays of one length, and these have {sorted(lengths)}")
        (length,) = lengths
        size = self._blob(self.inputs[0]).shape[0] if self.inputs else length
        for begin in range(0, length, max(size, 1)):
            batch = {name: np.asarray(array[begin : begin + size]) for name, array in arrays.items()}
            count = min(size, length - begin)
            if count < size:
                # The last batch is filled up with its first record, and cut again.
                batch = {name: np.concatenate([a, a[:1].repeat(size - count, 0)]) for name, a in batch.items()}
            yield count, batch

    def _collect(self, parts: dict[str, list[np.ndarray]], found: Mapping[str, np.ndarray], count: int) -> None:
        batch_size = self._blob(self.inputs[0]).shape[0] if self.inputs else count
        for name, values in found.items():
            if values.ndim == 0 or len(values) != batch_size:
                raise InputError(f"blob '{name}' of shape {values.shape} has no row a record: leave it to forward")
            parts.setdefault(name, []).append(values[:count].copy())

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray | None = None) -> None:
        """Feeds the net's MemoryData layer from arrays: each ``forward``, and each iteration of a solver whose net this
        is, takes the next batch, without end.

        Args:
            data: Records ``(n, c, h, w)``; n is a multiple of the layer's batch size.
            labels: A number a record; zeros without them.
        """
        tops = next((layer[3] for layer in self._layers if layer[1] == "MemoryData"), None)
        if tops is None:
            raise InputError("the net has no MemoryData layer: give forward the inputs, or fill their blobs")
        data = np.asarray(data, np.float32)
        labels = np.zeros(len(data), np.float32) if labels is None else np.asarray(labels, np.float32).reshape(-1)
        batch, *record = self._blob(tops[0]).shape
        if data.shape[1:] != tuple(record):
            raise InputError(f"records of layer MemoryData have shape {tuple(record)}, and these {data.shape[1:]}")
        if len(labels) != len(data):
            raise InputError(f"there are {len(data)} records and {len(labels)} labels: give one label a record")
        if len(data) == 0 or len(data) % batch:
            raise InputError(
                f"{len(data)} records are no whole number of batches of {batch}: leave some out or add some"
            )
        self._arrays, self._next_record = (tops, data, labels), 0

    def _take_arrays(self) -> None:
        if self._arrays is None:
            return
        tops, *arrays = self._arrays
        batch = self._blob(tops[0]).shape[0]
        for top, array in zip(tops, arrays, strict=False):
            self._blob(top).data[...] = array[self._next_record : self._next_record + batch]
        self._next_record = (self._next_record + batch) % len(arrays[0])

    def reshape(self) -> None:
        """Lets all layers follow the shapes that ``blobs[…].reshape`` gave the inputs; forward does it too.

        Arrays that were taken of blobs with another shape keep their values, and are no longer connected to the net.
        """
        self._native.reshape()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the net with its weights as a ``.caffemodel``, whole or not at all."""
        self._native.save(path)

    def save_hdf5(self, path: str | os.PathLike[str], write_diff: bool = False) -> None:
        """Writes the net's weights as a ``.caffemodel.h5``, whole or not at all.

        Args:
            path: The file to write.
            write_diff: Whether the file holds the gradients too.
        """
        self._native.save_hdf5(path, write_diff)

    def copy_from(self, path: str | os.PathLike[str]) -> None:
        """Takes the weights of a ``.caffemodel`` or ``.caffemodel.h5`` over, by layer name."""
        self._native.copy_from(path)

    def load_hdf5(self, path: str | os.PathLike[str]) -> None:
        """Takes the weights of a ``.caffemodel.h5`` over: pycaffe's name for :meth:`copy_from`."""
        self.copy_from(path)

    def share_with(self, other: Net) -> None:
        """Lets this net compute with the parameters of ``other`` from now on, by layer name.

        They are taken over before each pass, and before an array of a blob is taken: arrays of this net's parameters
        that were taken earlier show those of the last pass. What is written into them is lost.
        """
        self._native.share_with(other._native)

    def clear_param_diffs(self) -> None:
        """Sets the gradients of all parameters to zero."""
        self._native.clear_param_diffs()

    def _blob(self, name: str) -> Blob:
        if name not in self._blobs:
            raise InputError(f"the net has no blob '{name}': it has {', '.join(self._blobs)}")
        return self._blobs[name]

    def _position(self, layer: str | None) -> int | None:
        if layer is None:
            return None
        if layer not in self._index:
            raise InputError(f"the net has no layer '{layer}': it has {', '.join(self._index)}")
        return self._index[layer]

    def _fill(self, arrays: Mapping[str, np.ndarray], names: Sequence[str], what: str, part: Any) -> None:
        if set(arrays) != set(names):
            given, wanted = ", ".join(sorted(arrays)), ", ".join(names) or "none"
            raise InputError(f"the net's {what} are {wanted}, and {given} was given: give all of them, or none")
        for name, array in arrays.items():
            target, array = part(self._blob(name)), np.asarray(array)
            if array.shape != target.shape:
                raise InputError(
                    f"blob '{name}' has shape {target.shape}, and the array has {array.shape}: "
                    f"call net.blobs['{name}'].reshape or give another array"
                )
            target[...] = array

    def __repr__(self) -> str:
        return f"<Net '{self.name}' {self.phase.name}: {len(self._layers)} layers, {len(self._blobs)} blobs>"
