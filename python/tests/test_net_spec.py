"""Nets written in Python."""

import pytest
import sparknet
from sparknet import NetSpec, to_proto
from sparknet import layers as L
from sparknet import params as P

from golden import PROJECT


def lenet(source, batch_size):
    learned = dict(param=[dict(lr_mult=1), dict(lr_mult=2)], weight_filler=dict(type="xavier"))
    n = NetSpec()
    n.data, n.label = L.Data(
        source=source, backend=P.Data.LMDB, batch_size=batch_size, transform_param=dict(scale=1 / 256), ntop=2
    )
    n.conv1 = L.Convolution(n.data, num_output=20, kernel_size=5, **learned)
    n.pool1 = L.Pooling(n.conv1, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    n.conv2 = L.Convolution(n.pool1, num_output=50, kernel_size=[5], **learned)
    n.pool2 = L.Pooling(n.conv2, pool="MAX", kernel_size=2, stride=2)
    n.ip1 = L.InnerProduct(n.pool2, num_output=500, **learned)
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.relu1, num_output=10, **learned)
    n.accuracy = L.Accuracy(n.ip2, n.label, include=dict(phase=sparknet.TEST))
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return n


def test_lenet_is_that_of_the_model(tmp_path):
    train = lenet("data/fashion_mnist_train_lmdb", 64).to_proto()
    test = lenet("data/fashion_mnist_test_lmdb", 100).to_proto()
    data = [
        proto.layer[0].with_fields(include=dict(phase=phase)) for proto, phase in [(train, "TRAIN"), (test, "TEST")]
    ]
    net = sparknet.Message("NetParameter", name="LeNet", layer=[*data, *train.layer[1:]])
    expected = sparknet.Message.parse("NetParameter", (PROJECT / "models/lenet/net.prototxt").read_text())
    assert net == expected
    assert str(net) == str(expected)
    assert sparknet.Message.parse("NetParameter", str(net)) == net


def test_names_in_place_and_several_tops():
    n = NetSpec()
    n.x = L.Input(shape=[dict(dim=[1, 2, 3, 4])])
    n.relu = L.ReLU(L.Convolution(n.x, num_output=3, kernel_h=1, kernel_w=2), in_place=True)
    n.a, n.b, rest = L.Slice(n.relu, slice_point=[1, 2], ntop=3)
    n.silence = L.Silence(rest, ntop=0)
    n["not a name"] = L.Eltwise(n.a, n.b, operation=P.Eltwise.SUM, coeff=[0.5, -1], loss_weight=2)
    net = n.to_proto()
    layers = {layer.name: (layer.type, layer.bottom, layer.top) for layer in net.layer}
    assert layers == {
        "x": ("Input", [], ["x"]),
        "Convolution1": ("Convolution", ["x"], ["Convolution1"]),
        "relu": ("ReLU", ["Convolution1"], ["Convolution1"]),
        "a": ("Slice", ["Convolution1"], ["a", "b", "Slice1"]),
        "silence": ("Silence", ["Slice1"], []),
        "not a name": ("Eltwise", ["a", "b"], ["not a name"]),
    }
    eltwise = net.layer[-1]
    assert (eltwise.eltwise_param.coeff, eltwise.loss_weight) == ([0.5, -1], [2])
    built = sparknet.Net(net, sparknet.TEST)
    assert built.blobs["not a name"].shape == (1, 1, 3, 3)


def test_deep_nets_and_loose_tops():
    top = L.Input(shape=dict(dim=[1]))
    for _ in range(3000):
        top = L.ReLU(top)
    net = to_proto(top)
    assert len(net.layer) == 3001 and net.layer[-1].name == "ReLU3000"
    assert top.to_proto() == net


def test_shared_weights():
    n = NetSpec()
    n.x, n.y = (L.Input(shape=dict(dim=[2, 3])) for _ in range(2))
    shared = dict(num_output=4, param=[dict(name="w"), dict(name="b")], weight_filler=dict(type="xavier"))
    n.p, n.q = L.InnerProduct(n.x, **shared), L.InnerProduct(n.y, **shared)
    net = sparknet.Net(n.to_proto(), sparknet.TRAIN)
    net.params["p"][0].data[...] = 5
    assert (net.params["q"][0].data == 5).all()


def test_mistakes_are_shown_where_they_are_written():
    x = L.Input(shape=dict(dim=[1, 1, 9, 9]))
    mistakes = [
        (lambda: L.Convolutoin(x), "layer type 'Convolutoin' does not exist: did you mean \"Convolution\"?"),
        (
            lambda: L.Convolution(x, kernel_sise=3),
            "Convolution has no field 'kernel_sise': did you mean 'kernel_size'?",
        ),
        (lambda: L.ReLU(x, nothing_like_it=3), "layer type ReLU has no field 'nothing_like_it'"),
        (lambda: L.Pooling(x, pool="MAXIMUM"), "wants one of MAX, AVE, STOCHASTIC, not 'MAXIMUM'"),
        (lambda: L.Pooling(x, pool=7), "wants one of MAX, AVE, STOCHASTIC, not 7"),
        (lambda: L.Convolution(x, num_output=2.5), "wants a whole number from 0 to 4294967295, not 2.5"),
        (lambda: L.Convolution(x, num_output=-1), "not -1"),
        (lambda: L.Convolution(x, weight_filler="xavier"), "wants a dict with fields of FillerParameter"),
        (lambda: L.Convolution(x, weight_filler=dict(tpye="xavier")), "FillerParameter has no field 'tpye'"),
        (lambda: L.Dropout(x, dropout_ratio="half"), "wants a number, not 'half'"),
    ]
    for call, sentence in mistakes:
        with pytest.raises(sparknet.InputError) as caught:
            call()
        assert sentence in str(caught.value)
    with pytest.raises(AttributeError, match="did you mean 'MAX'"):
        _ = P.Pooling.MAXX
    with pytest.raises(TypeError, match="bottom 0 of ReLU is no top but a str"):
        L.ReLU("x")
    with pytest.raises(TypeError, match="as many names as it has tops"):
        NetSpec().data = L.Input(shape=[dict(dim=[1]), dict(dim=[1])], ntop=2)
    net = to_proto(x)
    with pytest.raises(AttributeError, match="is a copy of a part"):
        net.layer[0].name = "lost"
    net.name = "kept"
    assert net.name == "kept"
    with pytest.raises(sparknet.InputError, match="a net is a NetParameter, and this is a LayerParameter"):
        sparknet.Net(net.layer[0], sparknet.TEST)
