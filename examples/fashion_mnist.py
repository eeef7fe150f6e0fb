"""LeNet on Fashion-MNIST, trained on a DataFrame of images.

    spark-submit --master 'local-cluster[2,1,2048]' examples/fashion_mnist.py /usr/share/datasets/fashion-mnist

Anything that makes a DataFrame of images and labels will do; this one reads the four files of the dataset.
"""

import argparse
import gzip
import time
from pathlib import Path

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from sparknet.spark import NetEstimator

PROJECT = Path(__file__).resolve().parent.parent


def read(spark: SparkSession, folder: Path, half: str) -> DataFrame:
    """One half of the dataset, `train` or `t10k`: 784 bytes and a label a row."""
    pixels = gzip.decompress((folder / f"{half}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / f"{half}-labels-idx1-ubyte.gz").read_bytes())[8:]
    images = np.frombuffer(pixels, np.uint8).reshape(len(labels), 784)
    rows = [(bytearray(image.tobytes()), label) for image, label in zip(images, labels, strict=True)]
    return spark.createDataFrame(rows, "image binary, label int")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the dataset's .gz files are")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tau", type=int, default=10)
    arguments = parser.parse_args()

    spark = SparkSession.builder.appName("LeNet on Fashion-MNIST").getOrCreate()
    train = read(spark, arguments.folder, "train")
    test = read(spark, arguments.folder, "t10k")
    estimator = NetEstimator(
        solver=str(PROJECT / "models/lenet/solver.prototxt"),
        net=str(PROJECT / "models/lenet/net.prototxt"),
        featuresCol="image",
        inputShape=[1, 28, 28],
        numWorkers=arguments.workers,
        tau=arguments.tau,
        maxIter=arguments.iterations,
    )
    began = time.monotonic()
    model = estimator.fit(train)
    print(f"fit took {time.monotonic() - began:.1f} s")
    print(model.evaluate(test))
    spark.stop()


if __name__ == "__main__":
    main()
