"""DataFrames as users have them: rows that hold the same, odd names, no labels, streams; and nets of all kinds."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import sparknet
from pictures import rows
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.sql import functions as F
from sparknet.spark import NetEstimator, NetModel, TrainingError, driver
from sparknet.spark.data import ColumnError
from test_fit import estimator

DATA = """layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 8 dim: 2 } shape { dim: 8 } } }"""
HIDDEN = """layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "tanh" type: "TanH" bottom: "ip1" top: "ip1" }"""


def trained(frame, loss, outputs=2, data=DATA, against="label", max_iter=400, also="", **params):
    """A small net with a loss that reads its last layer."""
    net = f"""{data} {HIDDEN} layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
      inner_product_param {{ num_output: {outputs} weight_filler {{ type: "xavier" }} }} }}
      layer {{ name: "loss" type: "{loss}" bottom: "ip2" bottom: "{against}" top: "loss" {also} }}"""
    solver = f'base_lr: 0.3 lr_policy: "fixed" momentum: 0.9 random_seed: 3 max_iter: {max_iter}'
    return NetEstimator(solver=solver, net=net, verbose=False, syncTimeout=60.0, **params).fit(frame)


@pytest.fixture(scope="module")
def xor(spark):
    """The four rows of an exclusive or, 50 times each, those of a kind one after the other."""
    table = [([float(a), float(b)], a ^ b) for a in (0, 1) for b in (0, 1) for _ in range(50)]
    return spark.createDataFrame(table, "features array<double>, label int").cache()


def test_rows_that_hold_the_same_are_spread_over_workers_and_batches(spark, xor, train):
    model = trained(xor, "SoftmaxWithLoss", max_iter=1000)
    assert model.evaluate(xor).accuracy == 1.0
    assert model.summary.restarts == 0 and sum(model.summary.recordsPerWorker) == 200
    again = trained(xor.repartition(5).orderBy(F.rand()), "SoftmaxWithLoss", max_iter=1000)
    assert again._parts["weights"] == model._parts["weights"]
    one = trained(
        xor.where("features[0] > features[1]").limit(1).crossJoin(spark.range(100)), "SoftmaxWithLoss", max_iter=1
    )
    assert sum(one.summary.recordsPerWorker) == 100 and min(one.summary.recordsPerWorker) > 30


@pytest.mark.parametrize(("loss", "outputs"), [("HingeLoss", 2), ("SigmoidCrossEntropyLoss", 1)])
def test_what_any_loss_reads_is_the_prediction(xor, loss, outputs):
    out = trained(xor, loss, outputs).transform(xor)
    assert "probability" not in out.columns
    for row in out.distinct().collect():
        found = row["prediction"] if outputs == 2 else float(row["prediction"] > 0)
        assert found == row["label"]


def test_an_infogain_matrix_goes_where_the_net_goes(xor, tmp_path):
    matrix = tmp_path / "infogain.binaryproto"
    blob = sparknet.io.array_to_blobproto(np.eye(2, dtype=np.float32).reshape(1, 1, 2, 2))
    matrix.write_bytes(blob.SerializeToString())
    named = f'infogain_loss_param {{ source: "{matrix}" }}'
    model = trained(xor, "InfogainLoss", also=named)
    matrix.unlink()
    found = model.evaluate(xor)
    assert found.loss < 0.1 and model.transform(xor).where("prediction = label").count() == 200
    with pytest.raises(ValueError, match="infogain.binaryproto: the infogain matrix does not exist: write it, or"):
        trained(xor, "InfogainLoss", also=named)


def test_a_regression_and_a_net_without_labels(spark, xor):
    frame = xor.withColumn("label", F.expr("3 * features[0] - features[1]"))
    model = trained(frame, "EuclideanLoss", 1, max_iter=600, baseLr=0.05)
    out = model.transform(frame)
    assert "probability" not in out.columns and RegressionEvaluator().evaluate(out) < 0.2
    found = model.evaluate(frame)
    assert found.accuracy is None and found.loss < 0.05 and json.loads(str(found)) == {"loss": found.loss}
    # An autoencoder reads none, so there may be no such column.
    alone = DATA.replace(' top: "label"', "")
    model = trained(frame.drop("label"), "EuclideanLoss", 2, alone, "data", outputBlobs=["ip1"], baseLr=0.05)
    assert model.evaluate(frame.drop("label")).loss < 0.1
    assert len(model.transform(frame.drop("label")).first()["ip1"]) == 8


def test_columns_of_any_name_and_depth(spark, solver, train, tmp_path):
    plain = train.select("image", "label")
    model = estimator(solver, maxIter=3).fit(plain)
    expected = [row["prediction"] for row in model.transform(plain).collect()]
    odd = plain.toDF("my.image", "the `label`")
    found = estimator(solver, maxIter=3, featuresCol="my.image", labelCol="the `label`").fit(odd)
    assert found._parts["weights"] == model._parts["weights"]
    out = found.setPredictionCol("a.b").setProbabilityCol("p q").setOutputBlobs(["ip1"]).transform(odd)
    assert out.columns == ["my.image", "the `label`", "a.b", "p q", "ip1"]
    assert [row["a.b"] for row in out.collect()] == expected
    deep = plain.select(F.struct("image", F.struct("label").alias("of")).alias("row"))
    found = estimator(solver, maxIter=3, featuresCol="row.image", labelCol="row.of.label").fit(deep)
    assert found._parts["weights"] == model._parts["weights"] and found.evaluate(deep) == model.evaluate(plain)
    # Columns that nobody asks for may be there twice; and what hangs on a column stays there.
    twice = plain.select("image", "label", F.lit(1).alias("label", metadata={"unit": "pixel"}))
    out = model.transform(twice)
    assert out.columns == ["image", "label", "label", "prediction", "probability"]
    assert out.schema.fields[2].metadata == {"unit": "pixel"} and out.count() == 120
    with pytest.raises(ColumnError, match="the DataFrame has several columns label: drop or rename all but one"):
        model.evaluate(twice)
    for output, sentence in [
        ({"predictionCol": "label"}, "has a column label already: drop it"),
        ({"predictionCol": "x", "probabilityCol": "x"}, "two columns are to be called x: name one otherwise"),
        ({"outputBlobs": ["ip1", "ip3"]}, "the net has no blob ip3 without labels: it has data, conv, ip1, ip2"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            model.copy()._set(**output).transform(plain)


def test_rows_that_cannot_be_evaluated_are_said_in_a_sentence(solver, train):
    model = estimator(solver, maxIter=2).fit(train)
    for frame, sentence in [
        (train.where("label > 9"), "^there are no rows to evaluate: give a DataFrame with some$"),
        (train.drop("label"), "^there is no column label; the DataFrame has image, is_test$"),
        (train.withColumn("label", F.lit("a")), "^column label is string: a label is a number; index strings"),
        (
            train.withColumn("label", F.col("label") + 4),
            r"^layer 'accuracy' \(Accuracy\): label \d at position \d is not",
        ),
        (
            train.withColumn("label", F.lit(None).cast("int")),
            r"^the DataFrame: record \d+ has no label \(a null, or no",
        ),
    ]:
        with pytest.raises(ValueError, match=sentence):
            model.evaluate(frame)
    assert model.transform(train.where("label > 9")).collect() == []


def test_a_stream_is_predicted_on_and_nothing_else(spark, solver, train, tmp_path):
    model = estimator(solver, maxIter=2).fit(train)
    train.drop("is_test").write.parquet(str(tmp_path / "rows"))
    stream = spark.readStream.schema("image binary, label int").parquet(str(tmp_path / "rows"))
    query = model.transform(stream).writeStream.trigger(availableNow=True)
    query = query.format("parquet").option("checkpointLocation", str(tmp_path / "checkpoint"))
    assert query.start(str(tmp_path / "out")).awaitTermination(120)
    found = spark.read.parquet(str(tmp_path / "out")).select("image", "prediction")
    assert sorted(found.collect()) == sorted(model.transform(train).select("image", "prediction").collect())
    for call in (estimator(solver).fit, model.evaluate):
        with pytest.raises(ValueError, match="the DataFrame is a stream, which has no end: write it to a table"):
            call(stream)


def test_parameters_as_pyspark_ml_has_them(solver, train, tmp_path):
    trained = estimator(solver, maxIter=2)
    values = {"numWorkers": 1, "sync": "allreduce", "baseLr": 0.5, "stage": ["a"], "validationIndicatorCol": "is_test"}
    for name, value in values.items():
        assert getattr(trained.copy(), f"set{name[0].upper()}{name[1:]}")(value).getOrDefault(name) == value
    for parameter in trained.params:
        name = parameter.name[0].upper() + parameter.name[1:]
        assert callable(getattr(trained, f"set{name}"))
        if trained.isDefined(parameter):
            assert getattr(trained, f"get{name}")() == trained.getOrDefault(parameter)
    copied = trained.copy({trained.maxIter: 3})
    assert (copied.getMaxIter(), trained.getMaxIter()) == (3, 2)
    grid = [{trained.maxIter: 3}, {trained.maxIter: 4, trained.sync: "allreduce"}]
    assert [model.summary.totalIterations for model in trained.fit(train, grid)] == [3, 4]
    assert {at: model.summary.totalIterations for at, model in trained.fitMultiple(train, grid)} == {0: 3, 1: 4}
    model = trained.fit(train, {trained.maxIter: 1})
    assert "p" in model.transform(train, {model.predictionCol: "p"}).columns
    for call in (lambda: NetEstimator(weightCol="w"), lambda: trained.setParams(weightCol="w")):
        with pytest.raises(TypeError, match="NetEstimator has no parameter weightCol: explainParams"):
            call()
    with pytest.raises(TypeError, match="fit takes a DataFrame of Spark's, and this is a builtins.list"):
        trained.fit(rows(3))
    model.save(str(tmp_path / "model"))
    trained.save(str(tmp_path / "estimator"))
    with pytest.raises(
        ValueError, match="estimator has a NetEstimator and no NetModel: load it with NetEstimator.load"
    ):
        NetModel.load(str(tmp_path / "estimator"))
    with pytest.raises(ValueError, match="model has a NetModel and no NetEstimator: load it with NetModel.load"):
        NetEstimator.load(str(tmp_path / "model"))
    with pytest.raises(OSError, match="/nowhere/x.caffemodel cannot be written"):
        model.saveCaffeModel("/nowhere/x.caffemodel")


def test_what_is_asked_for_reaches_the_workers(spark, solver, train, monkeypatch):
    """Parameters that no result shows: what the workers are sent has them."""
    sent = []
    monkeypatch.setattr(
        "sparknet.spark.estimator.run",
        lambda spark, deal, driver, restarts, worker, *_: (
            sent.append((restarts, worker(4, True).keywords["settings"])),
            ([], 0),
        )[1],
    )
    given = {"memoryPerWorkerMb": 3, "compress": "f16", "threadsPerWorker": 2, "history": "average", "tau": 6}
    given |= {"syncTimeout": 77.0, "allowNan": True, "commitInterval": 9, "maxRestarts": 8, "seed": 5}
    with pytest.raises(TrainingError, match="handed over no model"):
        estimator(solver, driverHost="here", onBadRow="skip", **given).fit(train)
    ((restarts, settings),) = sent
    assert (settings.attempt, settings.is_spread, restarts, settings.driver_hosts) == (4, True, 8, ["here"])
    assert settings.rules.memory_limit_bytes == 3 << 20 and settings.rules.skip_bad
    assert (settings.compress, settings.threads, settings.history, settings.tau) == ("f16", 2, "average", 6)
    assert (settings.timeout_s, settings.allow_nan, settings.commit_interval, settings.seed) == (77.0, True, 9, 5)


def test_neither_memory_nor_a_file_changes_a_run_and_f16_hardly_does(solver, train):
    runs = [{}, {"memoryPerWorkerMb": 0}, {"compress": "f16"}]
    plain, spilled, rounded = (estimator(solver, **run).fit(train) for run in runs)
    assert spilled._parts["weights"] == plain._parts["weights"] != rounded._parts["weights"]
    assert abs(rounded.evaluate(train).loss - plain.evaluate(train).loss) < 0.01


def test_a_cluster_that_grows_is_waited_for_and_one_that_comes_and_goes_is_refused(monkeypatch):
    slots = iter([0, 0, 1, 1, 2])
    context = SimpleNamespace(
        maxNumConcurrentTasks=lambda profile: next(slots),
        resourceProfileManager=lambda: SimpleNamespace(defaultResourceProfile=lambda: None),
        isLocal=lambda: False,
    )
    settings: dict[str, str] = {}
    spark = SimpleNamespace(conf=settings, sparkContext=SimpleNamespace(_jsc=SimpleNamespace(sc=lambda: context)))
    now = [0.0]
    monkeypatch.setattr(
        driver, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + 25))
    )
    driver.check_cluster(spark, 2)
    assert now == [100.0]
    slots = itertools.chain([0, 1], itertools.repeat(1))
    with pytest.raises(TrainingError, match="2 workers have to run at once, but Spark has slots for 1: give it more"):
        driver.check_cluster(spark, 2)
    settings["spark.dynamicAllocation.enabled"] = "true"
    with pytest.raises(TrainingError, match="spark.dynamicAllocation.enabled is true, but all workers have to run at"):
        driver.check_cluster(spark, 2)
