"""Which columns are taken, and what is said of rows that are not.

Rows are dealt by the hash of what they hold. Where weights are compared there is one worker, which keeps the
DataFrame's order.
"""

import io

import numpy as np
import pytest
from local import in_order
from pictures import images
from PIL import Image
from pyspark.ml.linalg import Vectors
from pyspark.sql import functions as F
from sparknet.spark import TrainingError, data
from sparknet.spark.data import ColumnError
from test_fit import estimator


def frame_of(spark, features, kind, labels, label_kind="int"):
    rows = list(zip(features, labels, strict=True))
    return spark.createDataFrame(rows, f"image {kind}, label {label_kind}").coalesce(1)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, format="PNG")
    return bytearray(file.getvalue())


def image_struct(image):
    return ("", 8, 8, 1, 0, bytearray(image.tobytes()))


STRUCT = "struct<origin: string, height: int, width: int, nChannels: int, mode: int, data: binary>"
FORMS = {
    "floats": (lambda image: image.reshape(-1).astype(float).tolist(), "array<float>", "double"),
    "doubles": (lambda image: image.reshape(-1).astype(float).tolist(), "array<double>", "bigint"),
    "png": (png, "binary", "tinyint"),
    "image": (image_struct, STRUCT, "float"),
}


def converted(labels, kind):
    return [float(label) if kind in ("double", "float") else int(label) for label in labels]


@pytest.fixture(scope="module")
def expected(spark, solver):
    pixels, labels = images(60)
    raw = frame_of(spark, [bytearray(image.tobytes()) for image in pixels], "binary", labels.tolist())
    with in_order():
        model = estimator(solver, maxIter=5, numWorkers=1).fit(raw)
    return model._parts["weights"], model.transform(raw).select("prediction").collect()


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_the_same_images_train_the_same_net(spark, solver, expected, form):
    make, kind, label_kind = FORMS[form]
    pixels, labels = images(60)
    frame = frame_of(spark, [make(image) for image in pixels], kind, converted(labels, label_kind), label_kind)
    with in_order():
        model = estimator(solver, maxIter=5, numWorkers=1).fit(frame)
    assert (model._parts["weights"], model.transform(frame).select("prediction").collect()) == expected


def test_vectors_pass_through(spark, solver, expected):
    pixels, labels = images(60)
    vectors = [Vectors.dense(image.reshape(-1).astype(float)) for image in pixels]
    frame = spark.createDataFrame(list(zip(vectors, labels.tolist(), strict=True)), ["image", "label"]).coalesce(1)
    with in_order():
        model = estimator(solver, maxIter=5, numWorkers=1).fit(frame)
    out = model.transform(frame)
    assert (model._parts["weights"], out.select("prediction").collect()) == expected
    assert out.first()["image"] == vectors[0]


def bad_rows(spark):
    pixels, labels = images(60)
    features = [bytearray(image.tobytes()) for image in pixels]
    labels = labels.tolist()
    features[3], features[20], labels[40] = None, features[20][:63], None
    features[50] = bytearray(b"\x89PNG\r\n\x1a\nthis is no image")
    return frame_of(spark, features, "binary", labels)


def test_bad_rows_are_skipped_and_counted_or_said(spark, solver):
    frame = bad_rows(spark)
    model = estimator(solver, maxIter=2, onBadRow="skip").fit(frame)
    assert model.summary.badRows == 4 and sum(model.summary.recordsPerWorker) == 56
    for output_type in ("array", "vector"):
        out = model.copy().setOutputBlobs(["ip1"]).setOutputType(output_type).transform(frame).collect()
        for column in ("prediction", "probability", "ip1"):
            assert [index for index, row in enumerate(out) if row[column] is None] == [3, 20, 50]
    with pytest.raises(TrainingError, match=r"worker \d: the DataFrame: record \d+ (is|has|cannot) "):
        estimator(solver, maxIter=2).fit(frame)


def test_what_cannot_train_is_said_in_a_sentence(spark, solver, train):
    for nothing in (train.limit(0), train.where("label > 9"), train.withColumn("is_test", F.lit(True))):
        with pytest.raises(TrainingError, match="there are no rows to train on: give"):
            estimator(solver, validationIndicatorCol="is_test").fit(nothing)
    with pytest.raises(
        TrainingError, match="there are 12 rows to train on, but all workers' batches together are 16: give more"
    ):
        estimator(solver).fit(train.limit(12))
    with pytest.raises(TrainingError, match="3 workers have to run at once, but Spark has slots for 2"):
        estimator(solver, numWorkers=3).fit(train)
    with pytest.raises(ColumnError, match="there is no column picture; the DataFrame has image, label, is_test"):
        estimator(solver, featuresCol="picture").fit(train)
    with pytest.raises(ColumnError, match="column is_test is boolean: features are"):
        estimator(solver, featuresCol="is_test").fit(train)
    with pytest.raises(TrainingError, match="64 values, but 1x9x9 are 81"):
        estimator(solver, inputShape=[1, 9, 9]).fit(train)
    with pytest.raises(ColumnError, match="column label is array<int>: a label is a number; several numbers a row go"):
        estimator(solver).fit(train.withColumn("label", F.array("label")))
    assert np.isfinite(estimator(solver, maxIter=1).fit(train).evaluate(train).loss)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"numWorkers": 0}, "numWorkers is 0: give at least 1"),
        ({"tau": 0}, "tau is 0"),
        ({"threadsPerWorker": -1}, "threadsPerWorker is -1: give at least 0"),
        ({"maxRestarts": -1}, "maxRestarts is -1"),
        ({"commitInterval": -1}, "commitInterval is -1"),
        ({"memoryPerWorkerMb": -1}, "memoryPerWorkerMb is -1"),
        ({"seed": -5}, "seed is -5"),
        ({"syncTimeout": float("nan")}, "syncTimeout is nan: give at least 1"),
        ({"syncTimeout": float("inf")}, "syncTimeout is inf"),
        ({"heartbeatTimeout": 0.5}, "heartbeatTimeout is 0.5: give at least 4"),
        ({"inputShape": [8, 8]}, r"inputShape is \[8, 8\]: give channels, height and width, each at least 1"),
        ({"inputShape": [1, 0, 8]}, r"inputShape is \[1, 0, 8\]: give"),
        ({"outputBlobs": ["ip1", "label"]}, "has no blob label without labels: it has data, conv, ip1, ip2"),
        (
            {"net": 'layer { name: "relu" type: "ReLU" bottom: "data" top: "x" }'},
            "the net has no layer that takes data in: begin it",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_parameters_are_said_before_anything_runs(solver, train, monkeypatch, params, sentence):
    monkeypatch.setattr("sparknet.spark.estimator.check_cluster", None)
    with pytest.raises(ValueError, match=sentence):
        estimator(solver, **params).fit(train)


COS_NET = """
layer { name: "data" type: "CoSData" top: "data" top: "hint" top: "label"
  cos_data_param { batch_size: 10
    top { name: "image" type: RAW_IMAGE channels: 1 height: 8 width: 8 transform_param { scale: 0.00390625 } }
    top { name: "hint" type: FLOAT_ARRAY channels: 4 sample_num_axes: 1 }
    top { name: "class" type: INT sample_num_axes: 0 } } }
layer { name: "flat" type: "Flatten" bottom: "data" top: "flat" }
layer { name: "both" type: "Concat" bottom: "flat" bottom: "hint" top: "both" }
layer { name: "ip" type: "InnerProduct" bottom: "both" top: "ip" inner_product_param { num_output: 4 } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_a_cos_data_layer_takes_a_column_a_top(spark, solver):
    # Only the hint tells the class.
    rows = [(bytearray(64), [int(place == i % 4) for place in range(4)], i % 4) for i in range(60)]
    rows[17] = (rows[17][0], [1, 0, 0], rows[17][2])
    rows[18] = (rows[18][0], None, rows[18][2])
    frame = spark.createDataFrame(rows, "image binary, hint array<int>, class int").coalesce(1)
    model = estimator(solver, net=COS_NET, numWorkers=1, onBadRow="skip").fit(frame)
    assert model.summary.badRows == 2
    found = model.evaluate(frame)
    assert (found.records, found.accuracy) == (58, 1.0)
    out = model.transform(frame).select("class", "prediction").collect()
    assert [row["prediction"] for row in out] == [None if i in (17, 18) else row["class"] for i, row in enumerate(out)]
    # CaffeOnSpark's label is a number written as text.
    text = frame.withColumn("class", frame["class"].cast("string"))
    model = estimator(solver, net=COS_NET.replace("INT ", "STRING "), numWorkers=1, onBadRow="skip").fit(text)
    assert model.evaluate(text).accuracy == 1.0
    with pytest.raises(ColumnError, match="there is no column hint; the DataFrame has image, class"):
        estimator(solver, net=COS_NET, numWorkers=1).fit(frame.drop("hint"))
    with pytest.raises(ColumnError, match="CoSData layer wants an array of 4 numbers"):
        estimator(solver, net=COS_NET, numWorkers=1).fit(frame.withColumn("hint", frame["class"]))


def test_whose_a_row_is_follows_from_what_it_holds_alone(spark, tmp_path):
    """However a frame is cut and ordered, each worker gets the same rows in the same order; and each row once."""
    pixels, labels = images(200)
    structs = [image_struct(image) for image in pixels]
    moved = [("hdfs://elsewhere/a.png", *rest) for _, *rest in structs]
    expected = None
    for values, step, parts in ((structs, 1, 1), (structs, -1, 3), (moved, 1, 7)):
        frame = frame_of(spark, values[::step], STRUCT, labels.tolist()[::step]).repartition(parts)
        frame = frame.select(data.features(frame, "image"), data.label(frame, "label"))
        dealt = data.deal(frame, 3).withColumn("rank", F.spark_partition_id()).collect()
        found = [[] for _ in range(3)]
        for row in dealt:
            found[row["rank"]].append((bytes(row[data.FEATURES]["data"]), row[data.LABEL]))
        expected = expected or found
        assert found == expected
    assert sorted(sum(expected, [])) == sorted(
        (i.tobytes(), float(label)) for i, label in zip(pixels, labels, strict=True)
    )
    assert all(len(rows) > 40 for rows in expected)
