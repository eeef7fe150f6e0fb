"""What CaffeOnSpark and Deeplearning4j assert of themselves, asserted of this system.

CaffeOnSpark trains its LeNet on MNIST; here printed digits stand for written ones.
"""

import numpy as np
import pytest
import sparknet
from local import in_order, shards_of
from pictures import digits, images
from pyspark.sql import functions as F
from sparknet.spark import NetEstimator
from sparknet.spark.data import FEATURES, LABEL
from test_fit import estimator

from golden import PROJECT

LENET = PROJECT / "models" / "lenet"


def lenet(**params):
    return NetEstimator(
        solver=str(LENET / "solver.prototxt"),
        net=str(LENET / "net.prototxt"),
        featuresCol="data",
        inputShape=[1, 28, 28],
        verbose=False,
        **params,
    )


@pytest.fixture(scope="module")
def digit_frame(spark):
    """1200 digits, of which each fifth ten is to test on."""
    pixels, labels = digits(1200)
    rows = [
        (f"{index:08}", bytearray(image.tobytes()), float(label), index % 50 < 10)
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True))
    ]
    return spark.createDataFrame(rows, "SampleID string, data binary, label float, is_test boolean").coalesce(1).cache()


@pytest.fixture(scope="module")
def trained(digit_frame):
    """CaffeOnSpark's trainWithValidation: 81 iterations, a test every 10."""
    return lenet(validationIndicatorCol="is_test", maxIter=81, testInterval=10, sync="allreduce").fit(digit_frame)


def test_caffeonspark_interleave_test(trained):
    """InterleaveTest: training and validation interleaved give a row a test, of which the last is good."""
    tests = [entry for entry in trained.summary.history if "accuracy" in entry]
    assert [entry["iteration"] for entry in tests] == [*range(0, 81, 10), 81]
    assert all(set(entry) == {"iteration", "accuracy", "loss"} for entry in tests)
    assert tests[-1]["accuracy"] > 0.8 and tests[-1]["loss"] < 0.5
    assert tests[0]["accuracy"] < 0.3, "the test shows training only if it begins with nothing learned"


def test_caffeonspark_python_api_test(trained, digit_frame, tmp_path):
    """PythonApiTest: the model is written; features have an id, and a column a blob; the test's accuracy is good."""
    path = tmp_path / "mnist.caffemodel"
    trained.saveCaffeModel(str(path))
    assert path.stat().st_size > 4 * 431_000

    features = trained.copy().setOutputBlobs(["ip1", "ip2"]).transform(digit_frame)
    # CaffeOnSpark repeats a batch's accuracy in all of its rows. A row's own is whether its class was found.
    features = features.withColumn("accuracy", (F.col("prediction") == F.col("label")).cast("float"))
    rows = features.select("SampleID", "accuracy", "ip1", "ip2").collect()
    assert len(rows) == 1200 > 100 and rows[0]["SampleID"] == "00000000"
    assert [row["SampleID"] for row in rows] == [f"{index:08}" for index in range(1200)]
    assert {(len(row["ip1"]), len(row["ip2"])) for row in rows} == {(500, 10)}

    found = trained.evaluate(digit_frame)
    assert found.accuracy > 0.9
    assert np.mean([row["accuracy"] for row in rows]) == pytest.approx(found.accuracy)
    validated = [entry for entry in trained.summary.history if "accuracy" in entry][-1]
    assert validated["accuracy"] > 0.8 and validated["loss"] < 0.5
    again = trained.evaluate(digit_frame.where("is_test"))
    assert again.accuracy == pytest.approx(validated["accuracy"]) and again.loss == pytest.approx(validated["loss"])


LAYERS = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {
  num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param {
  num_output: 4 weight_filler { type: "xavier" } } }
"""
INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } } }'
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }'


def parameters_of(workers, batch_size, momentum, frame, folder, **params):
    """All weights after training, in one array."""
    data = f"""layer {{ name: "data" type: "Data" top: "data" top: "label" transform_param {{ scale: 0.00390625 }}
      data_param {{ source: "rows" batch_size: {batch_size} }} }}"""
    solver = f'base_lr: 0.1 lr_policy: "fixed" weight_decay: 0.001 momentum: {momentum} max_iter: 1 random_seed: 3'
    given = {"tau": 1, "numWorkers": workers, **params}
    model = estimator(solver, net=data + LAYERS + LOSS, **given).fit(frame)
    weights, net = folder / "model.caffemodel", folder / "net.prototxt"
    model.saveCaffeModel(str(weights))
    net.write_text(INPUT + LAYERS)
    params = sparknet.Net(str(net), str(weights), phase=sparknet.TEST).params
    return np.concatenate([blob.data.reshape(-1) for blobs in params.values() for blob in blobs])


@pytest.mark.parametrize(("sync", "momentum"), [("average", 0.0), ("allreduce", 0.9)])
def test_deeplearning4j_workers_that_agree_each_step_are_one_with_all_their_batches(
    spark, solver, train, tmp_path, sync, momentum
):
    """TestCompareParameterAveragingSparkVsSingleMachine: 2 workers with batches of 10 are one machine with 20."""
    shards = shards_of(estimator(solver), train)
    # The one machine's batch k is the two workers' batches k, as long as these are full.
    iterations = min(map(len, shards)) // 10
    assert iterations >= 4
    rows = [row for k in range(iterations) for shard in shards for row in shard[10 * k : 10 * (k + 1)]]
    rows = [(bytearray(row[FEATURES]), row[LABEL]) for row in rows]
    united = spark.createDataFrame(rows, "image binary, label float").coalesce(1)

    two = parameters_of(2, 10, momentum, train, tmp_path, sync=sync, maxIter=iterations)
    with in_order():
        one = parameters_of(1, 20, momentum, united, tmp_path, sync=sync, maxIter=iterations)
    assert np.abs(two - one).max() < 1e-5
    # The comparison means something only if training moves the weights, and if not any two runs are alike.
    begun = parameters_of(1, 20, momentum, united, tmp_path, sync=sync, maxIter=1)
    assert np.abs(begun - one).max() > 1e-2
    seldom = parameters_of(2, 10, momentum, train, tmp_path, tau=4, maxIter=iterations)
    assert np.abs(seldom - one).max() > 1e-5


@pytest.mark.parametrize("tau", [1, 5, 10])
def test_deeplearning4j_counts_iterations_and_agreements(solver, train, tau):
    """TestTrainingStatsCollection: an agreement each tau iterations, with an entry for each worker."""
    summary = estimator(solver, maxIter=20, tau=tau).fit(train).summary
    rounds = [event for event in summary.events if event["event"] == "round"]
    assert summary.totalIterations == 20
    assert [event["iteration"] for event in rounds] == list(range(tau, 21, tau))
    assert all(len(event[field]) == 2 for event in rounds for field in ("compute_s", "data_s", "sync_s"))


def test_deeplearning4j_distributed_evaluation_is_the_local_one(spark, solver, train):
    """testDistributedEvaluation and testDistributedScoring: partitions do not change what an evaluation finds."""
    model = estimator(solver, maxIter=15).fit(train)
    pixels, labels = images(90, seed=5)
    rows = [(bytearray(image.tobytes()), int(label)) for image, label in zip(pixels, labels, strict=True)]
    frame = spark.createDataFrame(rows, "image binary, label int")
    one, three = model.evaluate(frame.coalesce(1)), model.evaluate(frame.repartition(3))
    assert one.records == three.records == 90 and one.details["confusion"] == three.details["confusion"]
    assert three.accuracy == pytest.approx(one.accuracy) and three.loss == pytest.approx(one.loss, abs=1e-5)
    predictions = [row["prediction"] for row in model.transform(frame.coalesce(1)).collect()]
    confusion = np.zeros((4, 4), int)
    np.add.at(confusion, (labels, np.array(predictions, int)), 1)
    assert confusion.tolist() == one.details["confusion"]
