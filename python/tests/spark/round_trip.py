"""Fit, transform, evaluate, save and load: a script for the kinds of Spark that have a process of their own.

It runs under spark-submit, or with REMOTE as a client of Spark Connect, and prints what it found as JSON.

    round_trip.py SOLVER FOLDER [REMOTE]
"""

import hashlib
import json
import sys

import numpy as np
import sparknet
from pictures import CLASSES, COLUMNS, images, rows
from pyspark.ml import Pipeline, PipelineModel
from pyspark.sql import SparkSession
from sparknet.spark import NetEstimator, NetModel, TrainingError, sources

#: 2 MB of weights: more than a message to the test's Spark Connect server may have.
WIDE_NET = """
name: "wide"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 10 dim: 1 dim: 8 dim: 8 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" inner_product_param {
  num_output: 8000 weight_filler { type: "xavier" } } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param {
  num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "ip2" top: "prob" }
"""


def small_model(spark: SparkSession, solver: str, folder: str) -> dict:
    """A training run and what is done with its model."""
    train = spark.createDataFrame(rows(120), COLUMNS).coalesce(1)
    estimator = NetEstimator(
        solver=solver, featuresCol="image", inputShape=[1, 8, 8], tau=5, seed=1, syncTimeout=60.0, verbose=False
    )
    model = estimator.fit(train)
    found = model.evaluate(train)
    predicted = model.setOutputBlobs(["ip1"]).transform(train).collect()
    path = f"{folder}/model"
    model.write().overwrite().save(path)
    model.write().overwrite().save(path)
    loaded = NetModel.load(path)
    estimator.write().overwrite().save(f"{folder}/estimator")
    Pipeline(stages=[NetEstimator.load(f"{folder}/estimator").setParams(maxIter=2)]).fit(
        train
    ).write().overwrite().save(f"{folder}/pipeline")
    return {
        "weights": hashlib.sha256(model._parts["weights"]).hexdigest(),
        "accuracy": found.accuracy,
        "hits": sum(row["prediction"] == row["label"] for row in predicted) / len(predicted),
        "blob_length": len(predicted[0]["ip1"]),
        "is_loaded_whole": loaded._parts == model._parts and loaded.transform(train).collect() == predicted,
        "pipeline_rows": PipelineModel.load(f"{folder}/pipeline").transform(train).count(),
        "events": [entry["iteration"] for entry in model.summary.history if "loss" in entry],
    }


def large_model(spark: SparkSession, folder: str) -> dict:
    """Weights that go to executors beside the plan."""
    with open(f"{folder}/wide.prototxt", "w") as file:
        file.write(WIDE_NET)
    net = sparknet.Net(f"{folder}/wide.prototxt", phase=sparknet.TEST)
    net.save(f"{folder}/wide.caffemodel")
    pixels, _ = images(10)
    net.blobs["data"].data[...] = pixels
    expected = net.forward()["prob"]
    model = NetModel.fromCaffe(f"{folder}/wide.prototxt", f"{folder}/wide.caffemodel", featuresCol="image")
    model.write().overwrite().save(f"{folder}/wide")
    frame = spark.createDataFrame(rows(10), COLUMNS).coalesce(1)
    found = []
    for each in (model, NetModel.load(f"{folder}/wide")):
        found.append([row["probability"].toArray() for row in each.transform(frame).collect()])
    return {
        "bytes": len(model._parts["weights"]),
        "is_the_same": bool(np.allclose(found, [expected, expected], atol=1e-6)) and found[0][0].shape == (CLASSES,),
    }


def refusal(spark: SparkSession, solver: str) -> str:
    """What is said where there are too few slots, which Spark Connect does not tell a client."""
    frame = spark.createDataFrame(rows(120), COLUMNS)
    try:
        NetEstimator(solver=solver, featuresCol="image", inputShape=[1, 8, 8], numWorkers=3, verbose=False).fit(frame)
    except TrainingError as error:
        return str(error)
    return "it trained"


def main(solver: str, folder: str, remote: str | None = None) -> None:
    """Runs both on one session."""
    builder = SparkSession.builder.appName("sparknet round trip")
    spark = builder.remote(remote).getOrCreate() if remote else builder.getOrCreate()
    found = {"small": small_model(spark, solver, folder), "large": large_model(spark, folder)}
    if remote:
        found["refusal"] = refusal(spark, solver)
        source = sources.read(spark, f"{folder}/sequence")
        found["sequence"] = [
            [row["SampleID"], bytes(row["data"]).decode(), row["label"]] for row in source.frame.collect()
        ]
    print(json.dumps(found))
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
