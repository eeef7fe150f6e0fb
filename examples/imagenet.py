"""A folder of JPEGs, one folder a class as ImageNet has them, and a small CaffeNet written in Python.

    spark-submit --master 'local-cluster[2,1,4096]' examples/imagenet.py /data/ILSVRC2012/train

JPEGs go to the workers as they are and are decoded there. While training, each is cropped at a random place, mirrored
every other time, and the channels' means are subtracted; tests crop the centre. CaffeNet itself is
`net="models/caffenet/net.prototxt"`.
"""

import argparse

from pyspark.ml.feature import StringIndexer
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sparknet import TEST, TRAIN, NetSpec
from sparknet import layers as L
from sparknet import params as P
from sparknet.spark import NetEstimator

SOLVER = """
base_lr: 0.01 lr_policy: "step" gamma: 0.1 stepsize: 10000 momentum: 0.9 weight_decay: 0.0005
max_iter: 30000 display: 20 test_interval: 1000 random_seed: 1
"""


def read(spark: SparkSession, folder: str) -> DataFrame:
    """`image binary` with the JPEG's bytes, `label` by the order of the classes' names, and `is_test` for a tenth."""
    files = spark.read.format("binaryFile").option("pathGlobFilter", "*.{jpg,jpeg,JPG,JPEG}").load(f"{folder}/*")
    rows = files.select(
        F.col("content").alias("image"),
        F.element_at(F.split("path", "/"), -2).alias("class"),
        # Of class and file name, so that an image is always on the same side, wherever the folder is.
        (F.pmod(F.xxhash64(F.substring_index("path", "/", -2)), F.lit(10)) == 0).alias("is_test"),
    )
    indexer = StringIndexer(inputCol="class", outputCol="label", stringOrderType="alphabetAsc").fit(rows)
    return indexer.transform(rows)


def net_of(classes: int, crop_size: int, batch_size: int) -> str:
    """CaffeNet's layers with fewer channels, as a prototxt."""

    def data(phase: int, mirror: bool) -> tuple:
        transform = dict(crop_size=crop_size, mirror=mirror, mean_value=[104, 117, 123], scale=0.017, force_color=True)
        # Rows take the source's place.
        return L.Data(
            source="rows", batch_size=batch_size, transform_param=transform, include=dict(phase=phase), ntop=2
        )

    xavier = dict(weight_filler=dict(type="xavier"))
    test = NetSpec()
    test.data, test.label = data(TEST, mirror=False)
    n = NetSpec()
    n.data, n.label = data(TRAIN, mirror=True)
    n.conv1 = L.Convolution(n.data, num_output=24, kernel_size=7, stride=2, **xavier)
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.pool1 = L.Pooling(n.relu1, pool=P.Pooling.MAX, kernel_size=3, stride=2)
    n.norm1 = L.LRN(n.pool1, local_size=5, alpha=1e-4, beta=0.75)
    n.conv2 = L.Convolution(n.norm1, num_output=64, kernel_size=5, pad=2, group=2, **xavier)
    n.relu2 = L.ReLU(n.conv2, in_place=True)
    n.pool2 = L.Pooling(n.relu2, pool=P.Pooling.MAX, kernel_size=3, stride=2)
    n.fc6 = L.InnerProduct(n.pool2, num_output=128, **xavier)
    n.relu6 = L.ReLU(n.fc6, in_place=True)
    n.drop6 = L.Dropout(n.relu6, dropout_ratio=0.5, in_place=True)
    n.fc8 = L.InnerProduct(n.drop6, num_output=classes, **xavier)
    n.loss = L.SoftmaxWithLoss(n.fc8, n.label)
    n.accuracy = L.Accuracy(n.fc8, n.label, include=dict(phase=TEST))
    return str(test.to_proto()) + str(n.to_proto())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="the folder with a folder of JPEGs for each class")
    parser.add_argument("--crop-size", type=int, default=112)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=30_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()

    spark = SparkSession.builder.appName("a small CaffeNet").getOrCreate()
    rows = read(spark, arguments.folder)
    classes = rows.select("class").distinct().count()
    estimator = NetEstimator(
        solver=SOLVER,
        net=net_of(classes, arguments.crop_size, arguments.batch_size),
        featuresCol="image",
        validationIndicatorCol="is_test",
        numWorkers=arguments.workers,
        maxIter=arguments.iterations,
        # Such datasets have a damaged file or one that is too small somewhere.
        onBadRow="skip",
    )
    model = estimator.fit(rows)
    print(f"{sum(model.summary.recordsPerWorker)} images trained on, {model.summary.badRows} bad ones left out")
    print(model.evaluate(rows.where("is_test")))
    spark.stop()


if __name__ == "__main__":
    main()
