"""A net's features under one of MLlib's classifiers, in one Pipeline: CaffeOnSpark's MyMLPipeline.

    spark-submit --master 'local-cluster[2,1,2048]' examples/features_pipeline.py /usr/share/datasets/fashion-mnist

A small LeNet is trained for a moment; its layer ip1 then describes each image by 500 numbers, on which a logistic
regression decides.
"""

import argparse
from pathlib import Path

from fashion_mnist import PROJECT, read
from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.sql import SparkSession
from sparknet.spark import NetEstimator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the dataset's .gz files are")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--rows", type=int, default=10_000)
    arguments = parser.parse_args()

    spark = SparkSession.builder.appName("features and a logistic regression").getOrCreate()
    train = read(spark, arguments.folder, "train").limit(arguments.rows)
    test = read(spark, arguments.folder, "t10k").limit(arguments.rows)
    net = NetEstimator(
        solver=str(PROJECT / "models/lenet/solver.prototxt"),
        net=str(PROJECT / "models/lenet/net.prototxt"),
        featuresCol="image",
        inputShape=[1, 28, 28],
        maxIter=arguments.iterations,
        # The classifier brings columns of these names itself.
        predictionCol="",
        probabilityCol="",
        outputBlobs=["ip1"],
        outputType="vector",
    )
    classifier = LogisticRegression(featuresCol="ip1", labelCol="label", maxIter=20)
    model = Pipeline(stages=[net, classifier]).fit(train)
    accuracy = MulticlassClassificationEvaluator(metricName="accuracy").evaluate(model.transform(test))
    print(f"accuracy {accuracy:.4f}")
    spark.stop()


if __name__ == "__main__":
    main()
