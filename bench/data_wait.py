"""Measures the share of its time that a worker waits for data: LeNet on Fashion-MNIST, and CaffeNet on JPEG files.

The JPEG files are made here: 256 x 256 pixels of smooth noise, quality 90, about as large as ImageNet's at that size.
Prints a table. compare.py runs it at its end; alone: bench/.venv/bin/python bench/data_wait.py
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
SPARKNET = TARGET / "release" / "sparknet"
GOAL = 0.02
IMAGES = 320

SOLVER = """
net: "{net}"
base_lr: 0.0001 lr_policy: "fixed" momentum: 0.9 max_iter: {iterations} display: {display}
snapshot_after_train: false
"""


def make_jpegs(folder):
    """A list of files with labels, as `sparknet convert` wants it."""
    random = np.random.default_rng(1)
    lines = []
    for number in range(IMAGES):
        layers = [random.integers(0, 256, (size, size, 3), np.uint8) for size in (4, 16, 64, 256)]
        planes = [np.asarray(Image.fromarray(layer).resize((256, 256), Image.BICUBIC), np.float32) for layer in layers]
        pixels = sum(plane * weight for plane, weight in zip(planes, (0.5, 0.25, 0.17, 0.08), strict=True))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
        lines.append(f"{number}.jpg {number % 1000}\n")
    (folder / "list.txt").write_text("".join(lines))
    return sum(file.stat().st_size for file in folder.glob("*.jpg")) / IMAGES / 1024


def with_data(net, source, batch):
    """The net's text with its training data from an LMDB, and without a mean file."""
    text = (ROOT / "models" / net / "net.prototxt").read_text()
    text = re.sub(r'mean_file: "[^"]*"', "mean_value: 104 mean_value: 117 mean_value: 123", text)
    return re.sub(
        r'source: "[^"]*train[^"]*" backend: LMDB batch_size: \d+',
        f'source: "{source}" backend: LMDB batch_size: {batch}',
        text,
    )


def measure(title, folder, text, iterations, workers):
    """Trains and returns the share of all workers' time in which they waited for data."""
    (folder / "net.prototxt").write_text(text)
    solver = SOLVER.format(net=folder / "net.prototxt", iterations=iterations, display=iterations)
    (folder / "solver.prototxt").write_text(solver)
    events = folder / "events.jsonl"
    events.unlink(missing_ok=True)
    command = [SPARKNET, "train", "--solver", folder / "solver.prototxt", "--workers", str(workers), "--events", events]
    run = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{title}: {run.stderr}")
    rounds = [event for event in map(json.loads, events.read_text().splitlines()) if event["event"] == "round"]
    # The first round waits for the readers to start.
    spent = {key: sum(sum(event[key]) for event in rounds[1:]) for key in ("compute_s", "data_s", "sync_s")}
    share = spent["data_s"] / sum(spent.values())
    verdict = "yes" if share < GOAL else "**no**"
    print(f"| {title} | {workers} | {share:.2%} | < {GOAL:.0%} {verdict} |", flush=True)


def main():
    print("| net, data | workers | waits for data | goal |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fashion = ROOT / "data" / "fashion_mnist_train_lmdb"
        if fashion.exists():
            for workers in (1, 2):
                text = (ROOT / "models" / "lenet" / "net.prototxt").read_text()
                measure("LeNet 64, Fashion-MNIST", folder, text, 400, workers)
        else:
            print("LeNet: data/fashion_mnist_train_lmdb is missing: run make demo first", file=sys.stderr)
        images = folder / "jpeg"
        images.mkdir()
        kib = make_jpegs(images)
        lmdb = folder / "jpeg_lmdb"
        command = [SPARKNET, "convert", "--encoded", images, images / "list.txt", lmdb]
        subprocess.run([*map(str, command)], check=True, capture_output=True)
        for workers in (1, 2):
            measure(f"CaffeNet 32, JPEGs of {kib:.0f} KiB", folder, with_data("caffenet", lmdb, 32), 30, workers)


if __name__ == "__main__":
    main()
