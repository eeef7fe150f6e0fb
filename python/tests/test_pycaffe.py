"""What scripts written for pycaffe call beside nets and solvers."""

import numpy as np
import pytest
import sparknet
from PIL import Image

MEMORY = """
layer { name: "data" type: "MemoryData" top: "x" top: "y"
        memory_data_param { batch_size: 2 channels: 3 height: 1 width: 1 } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 1 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "y" top: "loss" }
"""


def memory_net():
    return sparknet.Net(sparknet.Message.parse("NetParameter", MEMORY), sparknet.TRAIN)


def test_input_arrays_feed_batch_after_batch():
    net = memory_net()
    x = np.arange(12).reshape(4, 3, 1, 1)
    net.set_input_arrays(x, [5, 6, 7, 8])
    for begin in (0, 2, 0):
        net.forward()
        assert (net.blobs["x"].data == x[begin : begin + 2]).all()
        assert net.blobs["y"].data.tolist() == [5 + begin, 6 + begin]
    net.forward(start="ip")
    assert net.blobs["y"].data.tolist() == [5, 6], "only the beginning of the net takes a batch"
    net.set_input_arrays(x)
    net.forward()
    assert not net.blobs["y"].data.any()
    for data, labels, sentence in [
        (x[:3], None, "3 records are no whole number of batches of 2"),
        (x[:0], None, "0 records are no whole number"),
        (x, [1], "4 records and 1 labels"),
        (x.reshape(4, 1, 3, 1), None, r"have shape \(3, 1, 1\), and these \(1, 3, 1\)"),
    ]:
        with pytest.raises(sparknet.InputError, match=sentence):
            net.set_input_arrays(data, labels)
    other = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }'
    with pytest.raises(sparknet.InputError, match="no MemoryData layer"):
        sparknet.Net(sparknet.Message.parse("NetParameter", other), sparknet.TEST).set_input_arrays(x)


def test_a_solver_trains_on_input_arrays(tmp_path):
    (tmp_path / "net.prototxt").write_text(MEMORY)
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 300 snapshot_after_train: false'
    )
    solver = sparknet.SGDSolver(tmp_path / "solver.prototxt")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3, 1, 1))
    solver.net.set_input_arrays(x, x.reshape(40, 3) @ [1, -2, 3] + 4)
    solver.step(3)
    solver.solve()
    weight, bias = (blob.data for blob in solver.net.params["ip"])
    assert solver.iter == 300 and np.allclose(weight, [[1, -2, 3]], atol=1e-2) and np.allclose(bias, 4, atol=1e-2)


def test_the_class_says_the_type(make_solver):
    path = make_solver("solver", type='"SGDD"')
    with pytest.raises(sparknet.InputError, match='type "SGDD" does not exist'):
        sparknet.get_solver(path)
    assert isinstance(sparknet.SGDSolver(path), sparknet.Solver)
    # AdaGrad and its like want no momentum, as in Caffe.
    for name in ("Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"):
        assert getattr(sparknet, f"{name}Solver")._type == name


def test_images_on_their_way_into_a_net_and_back(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    loaded = sparknet.io.load_image(tmp_path / "image.png")
    assert loaded.shape == (6, 4, 3) and np.allclose(loaded * 255, image, atol=1e-4)
    assert sparknet.io.load_image(tmp_path / "image.png", color=False).shape == (6, 4, 1)

    transformer = sparknet.io.Transformer({"data": (1, 3, 6, 4)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_channel_swap("data", (2, 0, 1))
    transformer.set_raw_scale("data", 255)
    transformer.set_mean("data", np.array([10, 20, 30]))
    transformer.set_input_scale("data", 0.5)
    found = transformer.preprocess("data", loaded)
    for channel, (source, mean) in enumerate([(2, 10), (0, 20), (1, 30)]):
        assert np.allclose(found[channel], (image[:, :, source] - np.float32(mean)) / 2, atol=1e-4)
    assert np.allclose(transformer.deprocess("data", found[np.newaxis]), loaded, atol=1e-6)

    # A ramp stays one at twice the size, but for the edges.
    ramp = np.arange(5, dtype=np.float32).reshape(1, 5, 1).repeat(2, 0)
    wide = sparknet.io.resize_image(ramp, (2, 10))[0, :, 0]
    assert np.allclose(np.diff(wide)[1:-1], 0.5) and (wide[0], wide[-1]) == (0, 4)
    assert transformer.preprocess("data", np.ones((12, 9, 3))).shape == (3, 6, 4)

    crops = sparknet.io.oversample([image], (2, 3))
    assert crops.shape == (10, 2, 3, 3)
    assert (crops[3] == image[4:, 1:]).all() and (crops[9] == image[2:4, 0:3][:, ::-1]).all()

    (tmp_path / "text.png").write_text("no image")
    for path, error in [("text.png", sparknet.FileError), ("gone.png", FileNotFoundError)]:
        with pytest.raises(error, match=f"cannot read .*{path}"):
            sparknet.io.load_image(tmp_path / path)
    for call, sentence in [
        (lambda: transformer.set_mean("data", np.zeros(2)), r"a mean of shape \(2,\)"),
        (lambda: transformer.set_transpose("data", (0, 1)), "is no order of the axes"),
        (lambda: transformer.set_channel_swap("data", (0, 1)), "is no order of 3 channels"),
        (lambda: transformer.preprocess("dat", loaded), "'dat' is no input"),
        (lambda: sparknet.io.oversample([image], (7, 1)), "do not fit an image"),
    ]:
        with pytest.raises(sparknet.InputError, match=sentence):
            call()


def test_arrays_become_messages_and_come_back():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    datum = sparknet.io.array_to_datum(pixels, 5)
    assert (datum.channels, datum.height, datum.width, datum.label, datum.data) == (3, 2, 2, 5, pixels.tobytes())
    assert np.array_equal(sparknet.io.datum_to_array(datum), pixels)
    halves = sparknet.io.array_to_datum(pixels / 2)
    assert np.array_equal(sparknet.io.datum_to_array(halves), pixels / 2) and not halves.HasField("label")
    blob = sparknet.io.array_to_blobproto(pixels / 2, pixels / 4)
    again = sparknet.Message.decode("BlobProto", blob.SerializeToString())
    assert np.array_equal(sparknet.io.blobproto_to_array(again), pixels / 2)
    assert np.array_equal(sparknet.io.blobproto_to_array(again, return_diff=True), pixels / 4)
    old = sparknet.Message.parse("BlobProto", "num: 1 channels: 1 height: 1 width: 2 data: 3 data: 4")
    assert sparknet.io.blobproto_to_array(old).tolist() == [[[[3, 4]]]]
    for call, sentence in [
        (lambda: sparknet.io.array_to_datum(pixels[0]), r"a Datum is an image \(c, h, w\), and this array has shape"),
        (lambda: sparknet.io.datum_to_array(datum.with_fields(width=3)), "a Datum has 12 values, and its shape is"),
        (lambda: sparknet.io.blobproto_to_array(old.with_fields(width=3)), "a BlobProto has 2 values, and its shape"),
        (lambda: sparknet.Message.decode("BlobProto", b"\xff\xff"), "this is no BlobProto in binary form"),
    ]:
        with pytest.raises(sparknet.InputError, match=sentence):
            call()
