"""Images and their way into a net, as pycaffe's ``io`` has them; reading files wants Pillow."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np

from sparknet._native import Message
from sparknet.errors import FileError, InputError, MissingFileError


def array_to_blobproto(values: np.ndarray, diff: np.ndarray | None = None) -> Message:
    """An array as a BlobProto, and its gradient beside it."""
    fields = {} if diff is None else {"diff": np.asarray(diff, np.float32).ravel().tolist()}
    shape = Message("BlobShape", dim=list(values.shape))
    return Message("BlobProto", shape=shape, data=np.asarray(values, np.float32).ravel().tolist(), **fields)


def blobproto_to_array(blob: Message, return_diff: bool = False) -> np.ndarray:
    """What a BlobProto holds as an array, also one of old Caffe's with num, channels, height and width."""
    values = np.asarray(blob.diff if return_diff else (blob.data or blob.double_data), np.float32)
    legacy = any(blob.HasField(name) for name in ("num", "channels", "height", "width"))
    shape = [blob.num, blob.channels, blob.height, blob.width] if legacy else list(blob.shape.dim)
    if values.size != np.prod(shape, dtype=int):
        raise InputError(f"a BlobProto has {values.size} values, and its shape is {shape}: it is damaged")
    return values.reshape(shape)


def array_to_datum(pixels: np.ndarray, label: int | None = None) -> Message:
    """An image ``(c, h, w)`` as a Datum: bytes where it is uint8, and floats otherwise."""
    if pixels.ndim != 3:
        raise InputError(f"a Datum is an image (c, h, w), and this array has shape {pixels.shape}")
    channels, height, width = pixels.shape
    content = (
        {"data": pixels.tobytes()}
        if pixels.dtype == np.uint8
        else {"float_data": pixels.astype(float).flatten().tolist()}
    )
    labelled = {} if label is None else {"label": int(label)}
    return Message("Datum", channels=channels, height=height, width=width, **content, **labelled)


def datum_to_array(datum: Message) -> np.ndarray:
    """A Datum's image ``(c, h, w)``."""
    shape = (datum.channels, datum.height, datum.width)
    values = np.frombuffer(datum.data, np.uint8) if len(datum.data) else np.asarray(datum.float_data, float)
    if values.size != np.prod(shape, dtype=int):
        raise InputError(
            f"a Datum has {values.size} values, and its shape is {shape}: decode it first, or it is damaged"
        )
    return values.reshape(shape)


def load_image(filename: str | os.PathLike[str], color: bool = True) -> np.ndarray:
    """Reads an image as RGB ``(h, w, 3)``, or without ``color`` as ``(h, w, 1)``, of floats from 0 to 1."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise InputError("load_image reads images with Pillow, which is not there: pip install pillow") from None
    try:
        with Image.open(filename) as image:
            pixels = np.asarray(image.convert("RGB" if color else "L"), np.float32) / 255
    except FileNotFoundError:
        raise MissingFileError(f"cannot read {os.fspath(filename)}: there is no such file") from None
    except (UnidentifiedImageError, OSError) as error:
        raise FileError(f"cannot read {os.fspath(filename)}: {error}") from None
    return pixels if color else pixels[:, :, np.newaxis]


def resize_image(image: np.ndarray, new_dims: Sequence[int]) -> np.ndarray:
    """An image ``(h, w, c)`` in another size ``(height, width)``, bilinear with the corners' centres in place."""
    height, width = (int(size) for size in new_dims)
    if image.ndim != 3 or min(height, width, *image.shape) < 1:
        raise InputError(
            f"an image (h, w, c) can be resized to (height, width), not {image.shape} to {tuple(new_dims)}"
        )
    resized = np.asarray(image, np.float32)
    for axis, size in enumerate((height, width)):
        old = resized.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, old - 1)
        share = (at - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        resized = resized.take(low, axis) * (1 - share) + resized.take(high, axis) * share
    return resized


def oversample(images: Iterable[np.ndarray], crop_dims: Sequence[int]) -> np.ndarray:
    """Ten crops of each image ``(h, w, c)``: the corners and the centre, and the same mirrored."""
    height, width = (int(size) for size in crop_dims)
    crops = []
    for image in images:
        rows, columns = image.shape[0] - height, image.shape[1] - width
        if rows < 0 or columns < 0:
            raise InputError(f"crops of {height} by {width} do not fit an image of shape {image.shape}")
        corners = [(row, column) for row in (0, rows) for column in (0, columns)]
        five = [
            image[row : row + height, column : column + width] for row, column in [*corners, (rows // 2, columns // 2)]
        ]
        crops += [*five, *(crop[:, ::-1] for crop in five)]
    return np.asarray(crops, np.float32)


class Transformer:
    """Makes of an image what an input blob takes, and back: transpose, swap of channels, scale, mean, scale.

    Args:
        inputs: The shape of each input blob: ``{"data": net.blobs["data"].data.shape}``.
    """

    def __init__(self, inputs: dict[str, Sequence[int]]) -> None:
        self.inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self.transpose: dict[str, tuple[int, ...]] = {}
        self.channel_swap: dict[str, tuple[int, ...]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def _check(self, name: str) -> tuple[int, ...]:
        if name not in self.inputs:
            raise InputError(f"'{name}' is no input of this Transformer: it has {', '.join(self.inputs)}")
        return self.inputs[name]

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """The order of the axes: ``(2, 0, 1)`` makes ``(h, w, c)`` to ``(c, h, w)``."""
        if sorted(order) != list(range(len(self._check(in_)) - 1)):
            raise InputError(f"{tuple(order)} is no order of the axes of a record of shape {self._check(in_)[1:]}")
        self.transpose[in_] = tuple(order)

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """The order of the channels: ``(2, 1, 0)`` makes RGB to BGR."""
        channels = self._check(in_)[1]
        if sorted(order) != list(range(channels)):
            raise InputError(f"{tuple(order)} is no order of {channels} channels")
        self.channel_swap[in_] = tuple(order)

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """A factor before the mean is taken away: 255 for images from 0 to 1."""
        self._check(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: np.ndarray) -> None:
        """What is taken away: a number a channel, or a record ``(c, h, w)``."""
        _, channels, *size = self._check(in_)
        mean = np.asarray(mean, np.float32)
        if mean.shape == (channels,):
            mean = mean[:, np.newaxis, np.newaxis]
        elif mean.shape != (channels, *size):
            raise InputError(f"a mean of shape {mean.shape} does not fit records of shape {(channels, *size)}")
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """A factor after the mean is taken away."""
        self._check(in_)
        self.input_scale[in_] = scale

    def preprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """Makes an image ``(h, w, c)`` what the blob takes; it is resized where it has to be."""
        shape = self._check(in_)
        record = np.asarray(data, np.float32)
        if record.shape[:2] != shape[-2:]:
            record = resize_image(record, shape[-2:])
        if in_ in self.transpose:
            record = record.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            record = record[list(self.channel_swap[in_])]
        record = record * np.float32(self.raw_scale.get(in_, 1))
        if in_ in self.mean:
            record = record - self.mean[in_]
        return record * np.float32(self.input_scale.get(in_, 1))

    def deprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """The image of what :meth:`preprocess` has made, in the blob's size."""
        shape, record = self._check(in_), np.asarray(data, np.float32)
        # A record, or a batch of one.
        record = record.reshape(record.shape[-len(shape) + 1 :]) / np.float32(self.input_scale.get(in_, 1))
        if in_ in self.mean:
            record = record + self.mean[in_]
        record = record / np.float32(self.raw_scale.get(in_, 1))
        if in_ in self.channel_swap:
            record = record[np.argsort(self.channel_swap[in_])]
        if in_ in self.transpose:
            record = record.transpose(np.argsort(self.transpose[in_]))
        return record
