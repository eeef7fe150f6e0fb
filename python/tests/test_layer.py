"""Layers that classes in Python compute."""

import threading

import layers_for_tests
import numpy as np
import pytest
import sparknet


def python(layer, param_str="", module="layers_for_tests"):
    return f'type: "Python" python_param {{ module: "{module}" layer: "{layer}" param_str: "{param_str}" }}'


def build(text, phase=sparknet.TRAIN):
    return sparknet.Net(sparknet.Message.parse("NetParameter", text), phase)


LOSS_NET = """
force_backward: true
layer {{ name: "data" type: "Input" top: "x" top: "y"
         input_param {{ shape {{ dim: 5 dim: 4 }} shape {{ dim: 5 dim: 3 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
         inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" {layer} bottom: "ip" bottom: "y" top: "loss" loss_weight: 0.7 }}
"""


def test_a_loss_in_python_is_the_engines():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
    found = []
    for layer in ('type: "EuclideanLoss"', python("EuclideanLoss")):
        sparknet.set_random_seed(4)
        net = build(LOSS_NET.format(layer=layer))
        loss = net.forward(x=x, y=y)["loss"].sum()
        net.backward()
        diffs = [net.blobs[name].diff.copy() for name in ("ip", "y", "x")]
        found.append([loss, *diffs, *(blob.diff.copy() for blob in net.params["ip"])])
    for ours, theirs in zip(*found, strict=True):
        assert np.allclose(ours, theirs, atol=1e-6) and np.any(ours)


def test_a_smaller_batch_reaches_the_layer():
    net = build(LOSS_NET.format(layer=python("EuclideanLoss")))
    net.blobs["x"].reshape(2, 4)
    net.blobs["y"].reshape(2, 3)
    net.forward(x=np.ones((2, 4)), y=np.zeros((2, 3)))
    ip = net.blobs["ip"].data
    assert np.allclose(net.blobs["loss"].data, (ip**2).sum() / 4)
    net.blobs["y"].reshape(3, 3)
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 3\) have no distance"):
        net.forward()


SCALED = f"""
layer {{ name: "in" type: "Input" top: "x" top: "y"
         input_param {{ shape {{ dim: 4 dim: 1 }} shape {{ dim: 4 dim: 1 }} }} }}
layer {{ name: "scaled" {python("Scaled", "0.5")} bottom: "x" top: "s" param {{ name: "w" }} }}
layer {{ name: "again" {python("Scaled", "9")} bottom: "s" top: "t" param {{ name: "w" }} }}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "t" bottom: "y" top: "loss" }}
"""


def test_parameters_are_learned_shared_and_saved(tmp_path):
    (tmp_path / "net.prototxt").write_text(SCALED)
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.05 lr_policy: "fixed" max_iter: 99 snapshot_after_train: false'
    )
    solver = sparknet.Solver(tmp_path / "solver.prototxt")
    weight = solver.net.params["scaled"][0]
    assert weight.data.tolist() == [0.5] and len(solver.net.params) == 2
    x = np.array([[1], [2], [-1], [0.5]])
    solver.net.blobs["x"].data[...] = x
    solver.net.blobs["y"].data[...] = 2.25 * x
    solver.step(80)
    assert np.allclose(weight.data, 1.5, atol=1e-3)
    solver.net.save(tmp_path / "w.caffemodel")
    net = sparknet.Net(tmp_path / "net.prototxt", tmp_path / "w.caffemodel", sparknet.TEST)
    assert np.allclose(net.forward(x=x, y=x)["loss"], ((1.25 * x) ** 2).sum() / 8, atol=1e-3)


def test_arrays_that_a_layer_keeps_stay_as_they_were():
    net = build(SCALED)
    for value in (1, 2):
        net.forward(x=np.full((4, 1), value), y=np.zeros((4, 1)))
        net.params["scaled"][0].data[...] = 7
    layer = next(i for i in layers_for_tests.Scaled.instances[-2:] if i.param_str == "0.5")
    del net
    (first, old_weight), (second, new_weight) = layer.kept
    assert (first == 1).all() and (second == 2).all()
    assert old_weight.tolist() == [0.5] and new_weight.tolist() == [7]
    with pytest.raises(ValueError, match="read-only"):
        first[...] = 3


def test_a_data_layer_in_python():
    text = f'layer {{ name: "count" {python("Counter")} top: "n" top: "phase" }}'
    for phase in (sparknet.TRAIN, sparknet.TEST):
        net = build(text, phase)
        found = [(net.forward()["n"].tolist(), float(net.blobs["phase"].data)) for _ in range(2)]
        assert found == [([[1], [1]], phase), ([[2], [2]], phase)]


def wrong(param_str):
    return build(f"""force_backward: true
        layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 2 }} }} }}
        layer {{ name: "bad" {python("Wrong", param_str)} bottom: "x" top: "y" }}
    """)


def run(param_str):
    net = wrong(param_str)
    net.forward()
    net.blobs["y"].diff[...] = 1
    net.backward()
    return net


def test_exceptions_come_out_as_they_were_raised():
    for place in ("setup", "reshape", "forward", "backward"):
        with pytest.raises(ZeroDivisionError, match=place) as caught:
            run(f"{place} raises")
        # The place in the class is shown.
        assert any(entry.name == "at" and "layers_for_tests" in str(entry.path) for entry in caught.traceback)
    with pytest.raises(KeyboardInterrupt):
        run("forward interrupts")
    assert run("").blobs["x"].diff.tolist() == [1, 1]


def test_what_a_layer_may_not_do():
    with pytest.raises(sparknet.InputError, match="its bottoms have the shapes"):
        run("bottom")
    with pytest.raises(sparknet.InputError, match=r"the shapes \[\(3,\)\], and the net was built for \[\(2,\)\]"):
        run("changes")
    with pytest.raises(sparknet.InputError, match=r"\(0, 3\) is no shape"):
        run("empty")
    with pytest.raises(ValueError, match="read-only"):
        run("writes")
    with pytest.raises(sparknet.InputError, match="call add_blob there"):
        run("late")
    text = 'layer {{ name: "x" {} top: "y" }}'
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        build(text.format(python("X", module="no_such_module")))
    for name in ("NotALayer", "Missing"):
        with pytest.raises(sparknet.InputError, match=f"layers_for_tests.{name} is no class that is derived from"):
            build(text.format(python(name)))
    with pytest.raises(sparknet.InputError, match=r"layer 'x' \(Python\): python_param.layer is missing"):
        build('layer { name: "x" type: "Python" top: "y" python_param { module: "m" } }')
    with pytest.raises(NotImplementedError, match="Layer has no method reshape"):
        build(text.format(python("Layer", module="sparknet")))


def test_a_solver_passes_exceptions_on_and_goes_on(tmp_path, monkeypatch):
    (tmp_path / "net.prototxt").write_text(SCALED)
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.05 lr_policy: "fixed" max_iter: 9 snapshot_after_train: false'
    )
    solver = sparknet.Solver(tmp_path / "solver.prototxt")
    solver.step(1)

    def fail(self, top, propagate_down, bottom):
        raise LookupError("in the backward pass")

    with monkeypatch.context() as patch:
        patch.setattr(layers_for_tests.Scaled, "backward", fail)
        with pytest.raises(LookupError, match="in the backward pass"):
            solver.step(1)
    assert solver.iter == 1
    solver.step(2)
    assert solver.iter == 3


def test_many_threads_and_nets_never_wait_for_each_other_for_ever(monkeypatch):
    """Layers in Python run on the engine's threads, and may run other nets themselves."""
    inner = build(LOSS_NET.format(layer=python("EuclideanLoss")))
    original = layers_for_tests.Scaled.forward
    busy = []

    def forward(self, bottom, top):
        # One of the nets is the layer's own, which is in use.
        for net in [inner, *nets]:
            try:
                if net is inner:
                    net.forward(x=np.ones((5, 4)), y=np.ones((5, 3)))
                assert net.blobs["x"].shape[1] in (1, 4)
            except sparknet.BusyError:
                busy.append(net)
        original(self, bottom, top)

    monkeypatch.setattr(layers_for_tests.Scaled, "forward", forward)
    nets = [build(SCALED) for _ in range(4)]
    errors = []

    def work(net):
        try:
            for _ in range(30):
                net._native.forward(None, None)
                net._native.backward(None, None)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(net,)) for net in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads) and not errors and busy
