"""Small pictures to train on."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

#: 8x8 images of 4 classes: a bright quarter, and noise.
EDGE, CLASSES = 8, 4


def images(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Pixels `(count, 1, 8, 8)` and labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    pixels = random.integers(0, 120, (count, 1, EDGE, EDGE), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        row, column = (label // 2) * 4, (label % 2) * 4
        image[0, row : row + 4, column : column + 4] += 100
    return pixels, labels


def rows(count: int) -> list[tuple[bytearray, int, bool]]:
    """Raw images with labels, of which every 6th is to test on."""
    pixels, labels = images(count)
    return [
        (bytearray(image.tobytes()), int(label), index % 6 == 5)
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True))
    ]


#: The columns of `rows`.
COLUMNS = "image binary, label int, is_test boolean"


def digits(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Digits as MNIST has them, printed in place of written: pixels `(count, 1, 28, 28)` and labels, ten in turn."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    pixels = np.empty((count, 1, 28, 28), np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        canvas = Image.new("L", (28, 28))
        size, angle = random.integers(16, 25), random.uniform(-15, 15)
        place = (random.integers(4, 13), random.integers(-1, 6))
        ImageDraw.Draw(canvas).text(place, str(label), fill=255, font=ImageFont.load_default(size))
        noise = random.integers(0, 60, (28, 28))
        image[0] = np.clip(np.asarray(canvas.rotate(angle), np.int64) + noise, 0, 255)
    return pixels, labels
