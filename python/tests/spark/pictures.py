"""Small pictures to train on."""

import numpy as np

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
