"""CIFAR-10 quick on the dataset's binary files: AMPLab's CifarApp.

    curl -O https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz && tar xf cifar-10-binary.tar.gz
    spark-submit --master 'local-cluster[2,1,2048]' examples/cifar.py cifar-10-batches-bin

Spark reads the files itself, so they may lie wherever its executors reach them (HDFS, S3). The mean image, which the
net subtracts from every image, is computed where the records are.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import sparknet
from pyspark.sql import DataFrame, SparkSession
from sparknet.spark import NetEstimator

MODEL = Path(__file__).resolve().parent.parent / "models/cifar10_quick"
SHAPE = (3, 32, 32)
IMAGE_BYTES = 3 * 32 * 32


def read(spark: SparkSession, files: str) -> DataFrame:
    """A row for each record of the files: `label int, image binary`, the image's red, green and blue planes."""

    def split(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for content in batch.column("content").to_pylist():
                # A record is a byte that is the class, and the image.
                records = np.frombuffer(content, np.uint8).reshape(-1, 1 + IMAGE_BYTES)
                images = pa.array([record.tobytes() for record in records[:, 1:]], pa.binary())
                yield pa.RecordBatch.from_pydict({"label": records[:, 0].astype(np.int32), "image": images})

    return spark.read.format("binaryFile").load(files).select("content").mapInArrow(split, "label int, image binary")


def mean_of(frame: DataFrame) -> np.ndarray:
    """The mean image `(3, 32, 32)` of all rows."""

    def add_up(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            pixels = np.frombuffer(b"".join(batch.column("image").to_pylist()), np.uint8).reshape(-1, IMAGE_BYTES)
            yield pa.RecordBatch.from_pydict({"sum": [pixels.sum(axis=0, dtype=np.int64)], "count": [len(pixels)]})

    parts = frame.select("image").mapInArrow(add_up, "sum array<long>, count long").collect()
    total = np.sum([part["sum"] for part in parts], axis=0) / sum(part["count"] for part in parts)
    return total.reshape(SHAPE)


def write_mean(mean: np.ndarray, path: Path) -> None:
    """Writes a mean image as Caffe has it."""
    channels, height, width = mean.shape
    blob = sparknet.Message(
        "BlobProto", num=1, channels=channels, height=height, width=width, data=mean.reshape(-1).tolist()
    )
    path.write_bytes(blob.SerializeToString())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="where data_batch_*.bin and test_batch.bin are")
    parser.add_argument("--iterations", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tau", type=int, default=10)
    arguments = parser.parse_args()

    spark = SparkSession.builder.appName("CIFAR-10 quick").getOrCreate()
    train = read(spark, f"{arguments.folder}/data_batch_*.bin")
    test = read(spark, f"{arguments.folder}/test_batch.bin")
    with tempfile.TemporaryDirectory() as folder:
        mean_file = Path(folder) / "mean.binaryproto"
        write_mean(mean_of(train), mean_file)
        estimator = NetEstimator(
            solver=str(MODEL / "solver.prototxt"),
            # The net's data layers are fed from the columns; of its files only the mean is wanted.
            net=(MODEL / "net.prototxt").read_text().replace("data/mean.binaryproto", str(mean_file)),
            featuresCol="image",
            inputShape=list(SHAPE),
            numWorkers=arguments.workers,
            tau=arguments.tau,
            maxIter=arguments.iterations,
        )
        model = estimator.fit(train)
    print(model.evaluate(test))
    spark.stop()


if __name__ == "__main__":
    main()
