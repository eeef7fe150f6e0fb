"""Solvers: the same training as the command's, step by step."""

import multiprocessing
import signal
import subprocess
import sys
import threading

import h5py
import numpy as np
import pytest
import sparknet


def weights(solver):
    return [blob.data.copy() for blobs in solver.net.params.values() for blob in blobs]


def same(some, others):
    return all((mine == theirs).all() for mine, theirs in zip(some, others, strict=True))


def test_trains_as_the_command_bit_for_bit(make_solver, command):
    theirs = make_solver("command")
    command("train", "--solver", theirs)
    events = []
    mine = make_solver("python")
    solver = sparknet.Solver(mine, on_event=events.append)
    assert (solver.iter, solver.max_iter) == (0, 12)
    solver.step(5)
    assert solver.iter == 5
    solver.solve()
    assert solver.iter == 12
    for iteration in (6, 12):
        name = f"snapshot_iter_{iteration}.caffemodel"
        assert (mine.parent / name).read_bytes() == (theirs.parent / name).read_bytes()
    kinds = [event["event"] for event in events]
    assert kinds.count("iteration") == 12 and kinds.count("start") == 1
    assert {event["iteration"] for event in events if event["event"] == "snapshot"} == {6, 12}
    # At 0, 4 and 8, and at the end.
    tests = [event for event in events if event["event"] == "test"]
    assert [(test["iteration"], test["records"]) for test in tests] == [(0, 96), (4, 96), (8, 96), (12, 96)]
    losses = [event["loss"] for event in events if event["event"] == "iteration"]
    assert losses[-1] < losses[0]


def test_goes_on_from_its_own_and_the_commands_snapshots(make_solver, command):
    whole = sparknet.Solver(make_solver("whole"))
    whole.step(12)
    theirs = make_solver("command", max_iter=6)
    command("train", "--solver", theirs)

    taken_up = sparknet.Solver(make_solver("taken_up"))
    view = taken_up.net.params["ip1"][0].data
    taken_up.step(3)
    taken_up.restore(theirs.parent / "snapshot_iter_6.solverstate")
    assert taken_up.iter == 6
    taken_up.step(6)
    assert same(weights(taken_up), weights(whole))
    assert (view == taken_up.net.params["ip1"][0].data).all(), "restoring moves no parameters"

    taken_up.restore(theirs.parent / "snapshot_iter_6.solverstate")
    taken_up.step(2)
    state = taken_up.snapshot()
    assert state.endswith("taken_up/snapshot_iter_8.solverstate")
    again = sparknet.Solver(make_solver("again"))
    again.solve(state)
    assert again.iter == 12 and same(weights(again), weights(whole))


def test_restore_brings_the_seed_of_a_run_without_one(make_solver):
    sparknet.set_random_seed(5)
    first = sparknet.Solver(make_solver("first", random_seed=None))
    first.step(6)
    state = first.snapshot()
    first.step(4)
    sparknet.set_random_seed(6)
    second = sparknet.Solver(make_solver("second", random_seed=None))
    second.restore(state)
    second.step(4)
    assert same(weights(first), weights(second))


def test_hdf5_snapshots_have_caffes_paths(make_solver):
    adam = {"type": '"Adam"', "momentum": 0.9, "snapshot_format": "HDF5", "average_loss": None}
    solver = sparknet.Solver(make_solver("adam", **adam))
    solver.step(3)
    state = solver.snapshot()
    assert state.endswith("adam/snapshot_iter_3.solverstate.h5")
    mine = weights(solver)
    with h5py.File(state) as file:
        assert (file["iter"][0], file["current_step"][0]) == (3, 0)
        learned_net = file["learned_net"][()].decode()
        # Two moments a parameter, those of one kind after each other.
        shapes = [file[f"history/{index}"].shape for index in range(2 * len(mine))]
        assert len(file["history"]) == len(shapes) and shapes == 2 * [values.shape for values in mine]
    with h5py.File(state.replace("solverstate", "caffemodel")) as file:
        assert file.filename.endswith(learned_net.rsplit("/", 1)[-1])
        params = solver.net.params
        theirs = [file[f"data/{name}/{index}"][:] for name in params for index in range(len(params[name]))]
        assert same(mine, theirs)


def test_views_of_the_train_net_follow_the_data(make_solver):
    solver = sparknet.Solver(make_solver("solver"))
    solver.step(1)
    first = solver.net.blobs["data"].data.copy()
    data, loss = solver.net.blobs["data"].data, solver.net.blobs["loss"].data
    other = sparknet.Solver(make_solver("other"))
    for _ in range(4):
        solver.step(1)
        other.step(1)
        assert (loss == solver.net.blobs["loss"].data).all() and np.isfinite(loss)
    other.step(1)
    assert (data != first).any(), "an array that was taken earlier shows the batch of the last step"
    assert np.shares_memory(data, solver.net.blobs["data"].data)
    assert same(weights(solver), weights(other)), "looking changes nothing"
    assert data.shape == (20, 1, 28, 28) and solver.net.blobs["data"].data is not data


def test_test_nets_compute_with_the_trained_parameters(make_solver):
    solver = sparknet.Solver(make_solver("solver"))
    (test_net,) = solver.test_nets
    assert test_net.phase is sparknet.TEST and solver.net.phase is sparknet.TRAIN
    solver.step(3)
    out = test_net.forward()
    assert set(out) == {"accuracy", "loss"}
    assert (test_net.params["ip2"][0].data == solver.net.params["ip2"][0].data).all()
    x = test_net.blobs["data"].data.reshape(20, -1)
    (w1, b1), (w2, b2) = ([blob.data for blob in solver.net.params[name]] for name in ("ip1", "ip2"))
    scores = np.maximum(x @ w1.T + b1, 0) @ w2.T + b2
    assert np.allclose(test_net.blobs["ip2"].data, scores, atol=1e-4)
    # The solver's own tests end with a batch of 16, for which the net moves on to other memory.
    ip2 = test_net.blobs["ip2"].data
    solver.step(2)
    assert test_net.blobs["ip2"].data.shape == (16, 10)
    kept = ip2.copy()
    test_net.forward()
    assert test_net.blobs["ip2"].data.shape == (20, 10) and (ip2 == kept).all()


def test_input_layers_are_fed_by_hand(tmp_path):
    (tmp_path / "net.prototxt").write_text("""
        layer { name: "x" type: "Input" top: "x" top: "y"
                input_param { shape { dim: 8 dim: 3 } shape { dim: 8 dim: 1 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
                inner_product_param { num_output: 1 weight_filler { type: "xavier" } } }
        layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "y" top: "loss" }
    """)
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1000 snapshot_after_train: false'
    )
    sparknet.set_random_seed(1)
    solver = sparknet.Solver(tmp_path / "solver.prototxt")
    rng = np.random.default_rng(0)
    for _ in range(300):
        x = rng.normal(size=(8, 3))
        solver.net.blobs["x"].data[...] = x
        solver.net.blobs["y"].data[...] = x @ [[1], [-2], [3]] + 4
        solver.step(1)
    weight, bias = (blob.data for blob in solver.net.params["ip"])
    assert np.allclose(weight, [[1, -2, 3]], atol=1e-3) and np.allclose(bias, 4, atol=1e-3)


def test_other_threads_run_during_a_step_and_another_step_is_refused(make_solver):
    stop = threading.Event()

    class Stopped(Exception):
        pass

    def look(event):
        if stop.is_set():
            raise Stopped

    solver = sparknet.Solver(make_solver("solver", snapshot=0, test_interval=None, test_iter=None), on_event=look)
    caught = []

    def train():
        try:
            solver.step(10**9)
        except Stopped:
            caught.append(solver.iter)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        begun = solver.iter
        while solver.iter < begun + 3:
            assert thread.is_alive()
        with pytest.raises(sparknet.BusyError, match="the solver is in use by another call"):
            solver.step(1)
        with pytest.raises(sparknet.BusyError):
            solver.snapshot()
    finally:
        stop.set()
        thread.join()
    assert caught == [solver.iter]
    stop.clear()
    solver.step(1)
    assert solver.iter == caught[0] + 1


def test_a_callback_may_look_at_the_net(make_solver):
    seen = []

    def look(event):
        if event["event"] == "iteration":
            seen.append(float(solver.net.blobs["loss"].data))

    solver = sparknet.Solver(make_solver("solver"), on_event=look)
    solver.step(3)
    assert len(seen) == 3 and seen[0] != seen[1]


def test_ctrl_c_raises_keyboard_interrupt_between_iterations(make_solver):
    path = make_solver("solver", snapshot=0, test_interval=None, test_iter=None)
    script = f"""if True:
        import sparknet, threading, time
        solver = sparknet.Solver({str(path)!r})
        def tell():
            while solver.iter < 3:
                time.sleep(0.001)
            print("running", flush=True)
        threading.Thread(target=tell).start()
        # The main thread runs no Python between iterations: only the solver can see the signal.
        try:
            solver.step(10**9)
        except KeyboardInterrupt:
            done = solver.iter
            solver.step(1)
            print("stopped", done > 0, solver.iter == done + 1, flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=120)[0].split("\n")[-2] == "stopped True True"
        assert process.returncode == 0
    finally:
        process.kill()


def _in_child(solver, net, queue):
    try:
        solver.step(1)
    except sparknet.InputError as error:
        queue.put(str(error))
    x = np.ones((2, 3), np.float32)
    queue.put(net.forward(data=x)["ip"].copy())


def test_a_forked_process_computes_with_threads_of_its_own(make_solver):
    text = """layer { name: "x" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
              layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
                      inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }"""
    net = sparknet.Net(sparknet.Message.parse("NetParameter", text), sparknet.TEST)
    solver = sparknet.Solver(make_solver("solver"))
    solver.step(1)
    expected = net.forward(data=np.ones((2, 3), np.float32))["ip"].copy()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(solver, net, queue))
    child.start()
    try:
        assert "did not survive the fork" in queue.get(timeout=120)
        assert (queue.get(timeout=120) == expected).all()
    finally:
        child.kill()
    solver.step(1)


def test_errors(make_solver, tmp_path):
    path = make_solver("solver")
    with pytest.raises(FileNotFoundError, match="cannot read"):
        sparknet.Solver(tmp_path / "gone.prototxt")
    solver = sparknet.Solver(path)
    with pytest.raises(FileNotFoundError):
        solver.restore(tmp_path / "gone.solverstate")
    with pytest.raises(sparknet.InputError, match="SolverState"):
        solver.restore(path)
    with pytest.raises(sparknet.InputError, match="give 0 or more"):
        solver.step(-1)
    solver.step(1)
    path.write_text(path.read_text().replace("max_iter: 12", "max_iters: 12"))
    with pytest.raises(sparknet.InputError, match='has no field "max_iters"'):
        sparknet.Solver(path)
    diverging = make_solver("diverging", base_lr="1e30", test_interval=None, test_iter=None)
    solver = sparknet.Solver(diverging)
    with pytest.raises(sparknet.InputError, match="lower base_lr"):
        solver.step(12)
    sparknet.Solver(diverging, allow_nan=True).step(6)
