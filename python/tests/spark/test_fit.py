"""Fit, transform, evaluate, save and load, and the tools of pyspark.ml around them."""

import numpy as np
import pytest
from local import weights_of
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder, TrainValidationSplit
from sparknet.spark import NetEstimator, NetModel


def estimator(solver, **params):
    given = {"featuresCol": "image", "inputShape": [1, 8, 8], "tau": 5, "verbose": False, "syncTimeout": 60.0}
    return NetEstimator(solver=solver, **{**given, **params})


def test_fit_transform_evaluate(spark, solver, train, tmp_path):
    model = estimator(solver, validationIndicatorCol="is_test").fit(train)
    summary = model.summary
    assert summary.totalIterations == 40 and summary.restarts == 0 and summary.badRows == 0
    assert sum(summary.recordsPerWorker) == 100
    assert [entry["iteration"] for entry in summary.history if "loss" in entry and "lr" in entry] == [10, 20, 30, 40]
    tests = [entry for entry in summary.history if "accuracy" in entry]
    assert [entry["iteration"] for entry in tests] == [0, 20, 40] and tests[-1]["accuracy"] > 0.9
    found = model.evaluate(train)
    assert found.records == 120 and found.accuracy > 0.9 and found.loss < 0.5
    assert np.sum(found.details["confusion"]) == 120
    out = model.setOutputBlobs(["ip1"]).transform(train).collect()
    assert len(out) == 120 and len(out[0]["ip1"]) == 6
    hits = sum(row["prediction"] == row["label"] for row in out)
    assert hits / 120 == found.accuracy
    assert all(abs(sum(row["probability"]) - 1) < 1e-6 for row in out)
    assert all(int(np.argmax(row["probability"].toArray())) == row["prediction"] for row in out)


@pytest.mark.parametrize("sync", ["average", "allreduce"])
def test_spark_and_one_process_end_with_the_same_bits(solver, train, sync):
    trained = estimator(solver, sync=sync, tau=7)
    assert trained.fit(train)._parts["weights"] == weights_of(trained, train)


def test_another_seed_gives_other_weights(solver, train):
    weights = [estimator(solver, seed=seed, maxIter=5).fit(train)._parts["weights"] for seed in (3, 3, 4)]
    assert weights[0] == weights[1] != weights[2]


def test_save_and_load(solver, train, tmp_path):
    model = estimator(solver, maxIter=10).fit(train)
    path = str(tmp_path / "model")
    model.setOutputBlobs(["ip2"]).write().overwrite().save(path)
    model.write().overwrite().save(path)
    loaded = NetModel.load(path)
    assert loaded._parts == model._parts and loaded.uid == model.uid
    assert loaded.transform(train).collect() == model.transform(train).collect()
    model.saveCaffeModel(str(tmp_path / "quarters.caffemodel"))
    weights = str(tmp_path / "quarters.caffemodel")
    # A learning rate of 0 leaves given weights as they are.
    assert estimator(solver, weights=weights, baseLr=0.0, maxIter=2).fit(train).evaluate(train) == model.evaluate(train)


def test_estimator_and_pipeline_are_saved_and_loaded(solver, train, tmp_path):
    path = str(tmp_path / "estimator")
    estimator(solver, maxIter=3, sync="allreduce").write().save(path)
    loaded = NetEstimator.load(path)
    assert loaded.getOrDefault("sync") == "allreduce" and loaded.getOrDefault("maxIter") == 3
    fitted = Pipeline(stages=[loaded]).fit(train)
    fitted.write().overwrite().save(str(tmp_path / "pipeline"))
    again = PipelineModel.load(str(tmp_path / "pipeline"))
    assert again.transform(train).collect() == fitted.transform(train).collect()


def test_blobs_feed_a_logistic_regression(solver, train, tmp_path):
    """CaffeOnSpark's MyMLPipeline: a net's features, and a classifier of MLlib's on top, in one Pipeline."""
    net = estimator(solver, maxIter=30, outputBlobs=["ip1"], outputType="vector", predictionCol="", probabilityCol="")
    classifier = LogisticRegression(featuresCol="ip1", labelCol="label", maxIter=30)
    model = Pipeline(stages=[net, classifier]).fit(train)
    out = model.transform(train)
    assert out.where("prediction = label").count() > 100
    features = model.stages[0].copy().setOutputType("array").transform(train)
    assert features.schema["ip1"].dataType.simpleString() == "array<float>"
    assert np.array_equal(out.first()["ip1"].toArray().astype(np.float32), features.first()["ip1"])
    model.write().overwrite().save(str(tmp_path / "pipeline"))
    assert PipelineModel.load(str(tmp_path / "pipeline")).transform(train).collect() == out.collect()


def test_cross_validator_picks_the_learning_rate_that_learns(solver, train):
    trained = estimator(solver, maxIter=80)
    grid = ParamGridBuilder().addGrid(trained.baseLr, [0.0, 0.1]).build()
    judge = MulticlassClassificationEvaluator(metricName="accuracy")
    found = CrossValidator(estimator=trained, estimatorParamMaps=grid, evaluator=judge, numFolds=2, seed=1).fit(train)
    assert found.avgMetrics[1] > 0.75 > 0.6 > found.avgMetrics[0]
    assert found.bestModel.getOrDefault("onBadRow") == "fail"
    split = TrainValidationSplit(estimator=trained, estimatorParamMaps=grid, evaluator=judge, seed=1).fit(train)
    assert split.validationMetrics[1] > split.validationMetrics[0]
