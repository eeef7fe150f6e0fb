"""Nets, and the arrays over their blobs."""

import gc
import threading

import h5py
import numpy as np
import pytest
import sparknet

from golden import GOLDEN, PROJECT, read_golden

SMALL = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
force_backward: true
"""


def small_net(phase=sparknet.TEST):
    return sparknet.Net(sparknet.Message.parse("NetParameter", SMALL), phase)


def assert_close(found, expected, tolerance):
    # The golden files have a scalar as an array of one.
    assert found.shape == expected.shape or found.size == expected.size == 1
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize(
    "case",
    [
        "convolution_group",
        "inner_product_transpose",
        "lrn_across",
        "net_residual",
        "net_inception",
        "net_two_losses",
        "pooling_ave_pad",
        "softmax_loss_spatial_ignore",
    ],
)
def test_golden_layers_forward_and_backward(case, tmp_path):
    golden = read_golden(f"layers/{case}.safetensors")
    path = tmp_path / "net.prototxt"
    path.write_text(golden.metadata["prototxt"])
    net = sparknet.Net(path, getattr(sparknet, golden.metadata["phase"]))
    for name, values in golden.tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "param":
            layer, index = rest.rsplit("/", 1)
            net.params[layer][int(index)].data[...] = values
    parts = {kind: {} for kind in ("bottom", "top", "top_diff", "bottom_diff", "param_diff")}
    for name, values in golden.tensors.items():
        kind, _, rest = name.partition("/")
        parts.get(kind, {})[rest] = values
    net.forward(**parts["bottom"])
    for name, values in parts["top"].items():
        assert_close(net.blobs[name].data, values, 1e-5)
    for name, values in parts["top_diff"].items():
        net.blobs[name].diff[...] = values
    net.backward()
    for name, values in parts["bottom_diff"].items():
        assert_close(net.blobs[name].diff, values, 1e-5)
    for name, values in parts["param_diff"].items():
        layer, index = name.rsplit("/", 1)
        assert_close(net.params[layer][int(index)].diff, values, 1e-5)


def test_golden_lenet_loss_of_caffes_first_weights(tmp_path):
    text = (PROJECT / "models/lenet/net.prototxt").read_text()
    path = tmp_path / "net.prototxt"
    path.write_text(text.replace("data/fashion_mnist_train_lmdb", str(GOLDEN / "data/raw_lmdb")))
    net = sparknet.Net(path, GOLDEN / "lenet/init.caffemodel", sparknet.TRAIN)
    # The golden records are the first of the data that Caffe's LeNet was trained on.
    assert net.blobs["data"].shape == (64, 1, 28, 28)
    assert float(net.forward()["loss"]) == pytest.approx(
        read_golden("lenet/trajectory.safetensors").tensors["losses"][0], rel=1e-5
    )
    assert [blob.shape for blob in net.params["conv2"]] == [(50, 20, 5, 5), (50,)]
    assert list(net.blobs) == ["data", "label", "conv1", "pool1", "conv2", "pool2", "ip1", "ip2", "loss"]
    assert (net.inputs, net.outputs, net.layers[1].type) == ([], ["loss"], "Convolution")
    # The second batch wraps round the 96 records.
    first = net.blobs["data"].data[:32].copy()
    net.forward()
    assert (net.blobs["data"].data[32:] == first).all()


def test_arrays_are_the_nets_memory():
    net = small_net()
    data, weights = net.blobs["data"].data, net.params["ip1"][0].data
    assert data.flags.writeable and not data.flags.owndata
    data[...] = [[1, 2, 3], [-1, 0, 4]]
    weights[...] = np.arange(12).reshape(4, 3)
    net.params["ip1"][1].data[...] = 0.5
    out = net.forward(end="relu1")["ip1"]
    expected = np.maximum(data @ weights.T + np.float32(0.5), 0)
    assert np.allclose(out, expected)
    assert np.shares_memory(net.blobs["data"].data, data)
    data[0] = 0
    net.forward()
    assert np.allclose(out[0], 0.5), "an array taken earlier shows the new values"


def test_arrays_keep_their_net_alive():
    net = small_net()
    net.blobs["data"].data[...] = 1
    out, weights = net.forward()["ip2"], net.params["ip1"][0].data
    expected = out.copy(), weights.copy()
    del net
    gc.collect()
    # What would have been freed is written over.
    junk = [np.full(size, 7.0, np.float32) for size in (3, 6, 10, 12, 20, 32) for _ in range(100)]
    assert (out == expected[0]).all() and (weights == expected[1]).all() and junk


def test_reshape_leaves_older_arrays_their_values():
    net = small_net()
    rng = np.random.default_rng(0)
    old = net.blobs["data"].data
    old[...] = rng.normal(size=(2, 3))
    out = net.forward()["ip2"]
    kept = old.copy(), out.copy()
    net.blobs["data"].reshape(50, 3)
    assert net.blobs["data"].shape == (50, 3)
    assert net.blobs["ip2"].shape == (2, 5), "the others follow later"
    new = net.blobs["data"].data
    new[...] = 9
    net.forward()
    gc.collect()
    assert net.blobs["ip2"].data.shape == (50, 5)
    assert (old == kept[0]).all() and (out == kept[1]).all()
    assert not np.shares_memory(old, new)
    old[...] = 1
    assert (net.blobs["data"].data == 9).all()
    # The same shape again moves nothing.
    net.blobs["data"].reshape((50, 3))
    net.reshape()
    assert np.shares_memory(net.blobs["data"].data, new)
    # Gradients follow too.
    diff = net.blobs["ip2"].diff
    assert diff.shape == (50, 5)
    net.blobs["data"].reshape(3, 3)
    assert net.blobs["ip2"].diff.shape == (3, 5)
    assert diff.shape == (50, 5) and diff.sum() == 0
    net.blobs["ip2"].diff[...] = 1
    net.forward()
    assert net.backward()["data"].shape == (3, 3)


def test_a_shape_that_does_not_fit_is_an_error_until_one_does():
    net = small_net()
    net.forward()
    net.blobs["data"].reshape(2, 4)
    for call in (net.forward, net.reshape, net.backward, lambda: net.blobs["data"].diff):
        with pytest.raises(sparknet.InputError, match="layer 'ip1'"):
            call()
    net.blobs["data"].reshape(5, 3)
    assert net.forward()["ip2"].shape == (5, 5)


def test_save_and_copy_from_round_trip(tmp_path):
    net, other = small_net(), small_net()
    path = tmp_path / "weights.caffemodel"
    net.save(path)
    params = [blob.data for blobs in other.params.values() for blob in blobs]
    params[0][...] = 0
    other.copy_from(path)
    for name, blobs in net.params.items():
        for mine, theirs in zip(blobs, other.params[name], strict=True):
            assert (mine.data == theirs.data).all()
    assert params[0].any(), "parameters never move"
    assert (
        sparknet.Net(sparknet.Message.parse("NetParameter", SMALL), path, 1).params["ip1"][0].data == params[0]
    ).all()


def test_hdf5_weights_are_those_of_h5py(tmp_path):
    net, other = small_net(), small_net()
    net.backward(ip2=np.ones((2, 5), np.float32))
    path = tmp_path / "weights.caffemodel.h5"
    net.save_hdf5(path, write_diff=True)
    with h5py.File(path) as file:
        assert set(file["data"]) == {"data", "ip1", "relu1", "ip2"}
        for name, blobs in net.params.items():
            for index, blob in enumerate(blobs):
                assert (file[f"data/{name}/{index}"][:] == blob.data).all()
                assert (file[f"diff/{name}/{index}"][:] == blob.diff).all()
    other.load_hdf5(path)
    assert (other.params["ip2"][0].data == net.params["ip2"][0].data).all()
    # What h5py writes is read, packed too; Net takes it as it takes a .caffemodel.
    values = np.arange(12, dtype="f8").reshape(4, 3)
    with h5py.File(path, "w") as file:
        file.create_dataset("data/ip1/0", data=values, chunks=(3, 2), compression="gzip", shuffle=True)
        file["data/ip1/1"] = np.arange(4)
    other.copy_from(path)
    assert (other.params["ip1"][0].data == values).all()
    assert (other.params["ip1"][1].data == np.arange(4)).all()


def test_share_with_computes_with_the_others_parameters():
    net, other = small_net(), small_net()
    other.share_with(net)
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    for _ in range(2):
        net.params["ip2"][0].data[...] += 1
        assert (net.forward(data=x)["ip2"] == other.forward(data=x)["ip2"]).all()
    assert (other.params["ip2"][0].data == net.params["ip2"][0].data).all()


def test_parts_of_a_net():
    net = small_net()
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    whole = net.forward(["ip1"], data=x)
    ip2, ip1 = whole["ip2"].copy(), whole["ip1"].copy()
    net.blobs["ip1"].data[...] = 2 * ip1
    bias = net.params["ip2"][1].data
    assert np.allclose(net.forward(start="ip2")["ip2"] - bias, 2 * (ip2 - bias), atol=1e-6)
    diff = np.ones((2, 5), np.float32)
    found = net.backward(ip2=diff, end="ip2")
    assert list(found) == ["ip1"]
    assert np.allclose(found["ip1"], diff @ net.params["ip2"][0].data)
    assert not net.params["ip1"][1].diff.any() and net.params["ip2"][1].diff.tolist() == [2] * 5
    net.clear_param_diffs()
    assert not net.params["ip2"][1].diff.any()


def test_forward_all_takes_any_number_of_records():
    net = small_net()
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    found = net.forward_all(data=x)["ip2"]
    expected = [net.forward(data=x[[i, i]])["ip2"][0].copy() for i in range(5)]
    assert np.allclose(found, expected)


def test_forward_backward_all_is_a_pass_for_each_record(tmp_path):
    net = sparknet.Net(
        sparknet.Message.parse(
            "NetParameter",
            """force_backward: true
            layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 } } }
            layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
                    inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
            layer { name: "tanh" type: "TanH" bottom: "ip" top: "y" }""",
        ),
        sparknet.TEST,
    )
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(7, 3)).astype(np.float32), rng.normal(size=(7, 2)).astype(np.float32)
    values, gradients = net.forward_backward_all(blobs=["ip"], diffs=["ip"], x=x, y=dy)
    weight, bias = (blob.data for blob in net.params["ip"])
    y = np.tanh(x @ weight.T + bias)
    assert np.allclose(values["ip"], x @ weight.T + bias, atol=1e-5) and np.allclose(values["y"], y, atol=1e-5)
    d_ip = dy * (1 - y * y)
    assert np.allclose(gradients["ip"], d_ip, atol=1e-5) and np.allclose(gradients["x"], d_ip @ weight, atol=1e-5)
    with pytest.raises(sparknet.InputError, match="forward_backward_all wants arrays of one length, and these have"):
        net.forward_backward_all(x=x, y=dy[:3])


def test_dropout_draws_anew_in_each_pass_and_the_seed_fixes_it():
    text = SMALL + 'layer { name: "drop" type: "Dropout" bottom: "ip2" top: "drop" }'

    def passes():
        sparknet.set_random_seed(3)
        net = sparknet.Net(sparknet.Message.parse("NetParameter", text), sparknet.TRAIN)
        return [net.forward(data=np.ones((2, 3), np.float32))["drop"].copy() for _ in range(4)]

    first, again = passes(), passes()
    assert any((first[0] != other).any() for other in first[1:])
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


WIDE = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 64 dim: 1000 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" inner_product_param { num_output: 1500 } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param { num_output: 1500 } }
"""


def test_forward_releases_the_gil_and_is_exclusive():
    net = sparknet.Net(sparknet.Message.parse("NetParameter", WIDE), sparknet.TEST)
    stop = threading.Event()

    def compute():
        while not stop.is_set():
            net._native.forward(None, None)

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        # This thread can only see the net in use if it runs while the other computes.
        while True:
            try:
                assert net.blobs["data"].data.shape == (64, 1000)
            except sparknet.BusyError as error:
                assert "the net is in use by another call" in str(error)
                break
            assert thread.is_alive()
    finally:
        stop.set()
        thread.join()
    assert net.forward()["ip2"].shape == (64, 1500)


def test_errors_say_the_commands_sentence(tmp_path):
    text = tmp_path / "net.prototxt"
    text.write_text(SMALL.replace("num_output: 4", "num_outputs: 4"))
    with pytest.raises(sparknet.InputError, match=r'net.prototxt:4:.*has no field "num_outputs"') as caught:
        sparknet.Net(text, sparknet.TEST)
    assert isinstance(caught.value, (ValueError, sparknet.SparkNetError))
    with pytest.raises(FileNotFoundError, match="cannot read .*gone.prototxt") as caught:
        sparknet.Net(tmp_path / "gone.prototxt", sparknet.TEST)
    assert caught.value.errno == 2 and isinstance(caught.value, sparknet.SparkNetError)
    net = small_net()
    with pytest.raises(OSError, match="cannot write"):
        net.save(tmp_path / "gone" / "w.caffemodel")
    with pytest.raises(sparknet.InputError, match="not a whole NetParameter"):
        net.copy_from(text)
    with pytest.raises(sparknet.InputError, match="is no phase"):
        sparknet.Net(text, phase=7)
    with pytest.raises(TypeError, match="wants a phase"):
        sparknet.Net(text)
    with pytest.raises(KeyError):
        net.blobs["nothing"]
    with pytest.raises(sparknet.InputError, match="it has data, ip1, relu1, ip2"):
        net.forward(end="ip3")
    with pytest.raises(sparknet.InputError, match="the net's inputs are data, and dat was given"):
        net.forward(dat=np.zeros((2, 3)))
    with pytest.raises(sparknet.InputError, match=r"has shape \(2, 3\), and the array has \(3,\)"):
        net.forward(data=np.zeros(3))
    for dims in [(0,), (-1, 3), (1,) * 33, (2**40, 2**40)]:
        with pytest.raises(sparknet.InputError):
            net.blobs["data"].reshape(*dims)
    with pytest.raises(sparknet.InputError, match="reshape the net's inputs"):
        net.blobs["ip1"].reshape(1, 2)
    with pytest.raises(sparknet.InputError, match="on the CPU only"):
        sparknet.set_mode_gpu()
    sparknet.set_mode_cpu()
    assert net.forward()["ip2"].shape == (2, 5)
