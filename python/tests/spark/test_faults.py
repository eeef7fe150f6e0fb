"""What fails: training goes on from the last committed round, or says why not; it never hangs."""

import os
import signal
import socket
import threading
import time

import psutil
import pytest
from local import weights_of
from sparknet.spark import TrainingError
from sparknet.spark.link import Link, LinkError, LinkTimeoutError
from test_fit import estimator

#: Long enough that a fault meets a run in the middle: some seconds without any.
LONG = {"maxIter": 12_000, "commitInterval": 100, "display": 3000, "tau": 5}


@pytest.fixture
def after_a_commit(monkeypatch):
    """Gives a function that harms the workers' processes once, when iteration 500 is with the driver."""
    from sparknet.spark import driver

    take_part = driver.Driver._take_part
    done = threading.Event()

    def arm(harm):
        def watched(self, attempt, rank, iteration, *rest):
            take_part(self, attempt, rank, iteration, *rest)
            if iteration >= 500 and not done.is_set():
                done.set()
                processes = [psutil.Process(peer.process_id) for peer in attempt.peers.values()]
                threading.Thread(target=harm, args=(processes,), daemon=True).start()

        monkeypatch.setattr(driver.Driver, "_take_part", watched)
        return done

    return arm


@pytest.fixture(scope="module")
def undisturbed(solver, train):
    """The weights of a run that nothing happens to."""
    return weights_of(estimator(solver, **LONG), train)


@pytest.mark.parametrize("signal_sent", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_lost_worker_costs_a_round_and_not_the_job(solver, train, undisturbed, after_a_commit, signal_sent):
    done = after_a_commit(lambda processes: processes[0].send_signal(signal_sent))
    model = estimator(solver, heartbeatTimeout=5.0, **LONG).fit(train)
    assert done.is_set() and model.summary.restarts == 1
    assert model._parts["weights"] == undisturbed
    starts = [event["iteration"] for event in model.summary.events if event["event"] == "start"]
    assert starts[0] == 0 and starts[1] >= 450


def test_a_lost_executor_costs_a_round_and_not_the_job(solver, train, undisturbed, after_a_commit):
    def harm(processes):
        next(parent for parent in processes[0].parents() if "java" in parent.name()).kill()

    done = after_a_commit(harm)
    model = estimator(solver, heartbeatTimeout=10.0, **LONG).fit(train)
    assert done.is_set() and model.summary.restarts >= 1
    assert model._parts["weights"] == undisturbed


def test_past_the_last_restart_it_says_what_happened(solver, train, after_a_commit):
    after_a_commit(lambda processes: processes[0].kill())
    with pytest.raises(TrainingError, match=r"training failed 1 times, the last time after iteration \d+: worker \d"):
        estimator(solver, maxRestarts=0, **LONG).fit(train)


def test_strangers_and_garbage_change_nothing(solver, train, undisturbed, after_a_commit):
    """Whoever connects to the driver or to a worker without the token is turned away and delays nobody."""
    seen = []

    def harm(processes):
        ports = {
            connection.laddr.port
            for process in [psutil.Process(), *processes]
            for connection in process.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        for port in ports:
            for content in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\xff" * 100_000):
                with socket.socket() as stranger:
                    stranger.settimeout(2)
                    try:
                        stranger.connect(("127.0.0.1", port))
                        stranger.sendall(content)
                    except OSError:
                        pass
                    seen.append(port)

    done = after_a_commit(harm)
    model = estimator(solver, **LONG).fit(train)
    assert done.is_set() and seen and model.summary.restarts == 0
    assert model._parts["weights"] == undisturbed


def test_a_driver_that_cannot_be_reached_is_said_at_once(solver, train):
    began = time.monotonic()
    with pytest.raises(TrainingError, match=r"cannot reach the driver at 192\.0\.2\.99:\d+ .*set driverHost"):
        estimator(solver, driverHost="192.0.2.99").fit(train)
    assert time.monotonic() - began < 60


def links() -> tuple[Link, Link]:
    """Both ends of a connection: the worker's and the driver's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        worker = Link(socket.create_connection(server.getsockname()))
        return worker, Link(server.accept()[0])


@pytest.mark.parametrize("knows", ["neither", "worker", "both"])
def test_either_end_proves_that_it_knows_the_token_which_nobody_says(knows):
    token, other = "ab" * 32, "cd" * 32
    worker, driver = links()
    said, found = [], {}
    for link in (worker, driver):
        link.connection = Overheard(link.connection, said)

    def serve():
        try:
            driver.accept(token if knows != "worker" else other)
            found["driver"] = "let in"
        except LinkError as error:
            found["driver"] = str(error)
            driver.close()

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        worker.introduce(token if knows != "neither" else other)
        found["worker"] = "let in"
    except LinkError as error:
        found["worker"] = str(error)
    serving.join()
    if knows == "both":
        assert found == {"driver": "let in", "worker": "let in"}
    else:
        assert found["driver"] == "somebody who does not know the job's token connected"
        assert found["worker"] == "the connection was closed"
    assert all(bytes.fromhex(secret) not in b"".join(said) for secret in (token, other))
    assert token.encode() not in b"".join(said)
    worker.close()
    driver.close()


class Overheard:
    """A socket whose traffic is written down."""

    def __init__(self, connection, said):
        self._connection, self._said = connection, said

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def sendall(self, content):
        self._said.append(bytes(content))
        self._connection.sendall(content)


def test_a_driver_of_another_job_and_what_is_no_message_are_turned_away(monkeypatch):
    worker, driver = links()
    driver.connection.sendall(b"sparknet-driver-1" + bytes(32) + bytes(32))
    with pytest.raises(LinkError, match="the driver there is that of another job"):
        worker.introduce("ab" * 32)
    for content, sentence in [
        (b"HTTP", "a message's header has 1213486160 bytes: this is no sparknet job"),
        (b"\0\0\0\2{}", "a message cannot be read"),
        (b'\0\0\0\x0e{"sizes":[-1]}', "a message says that it is larger than any may be"),
        (b'\0\0\0\x1b{"sizes":[99999999999999999]}'[:31], "a message (cannot be read|says that it is larger)"),
    ]:
        worker, driver = links()
        driver.connection.sendall(content)
        with pytest.raises(LinkError, match=sentence):
            worker.receive(timeout_s=5.0)
    # Somebody who says a byte now and then does not keep a place for longer than a handshake may take.
    monkeypatch.setattr("sparknet.spark.link.HANDSHAKE_TIMEOUT_S", 0.6)
    worker, driver = links()
    is_over = threading.Event()

    def drip():
        while not is_over.wait(0.1):
            worker.connection.sendall(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    with pytest.raises(LinkTimeoutError):
        driver.accept("ab" * 32)
    is_over.set()
    dripping.join()


def test_who_waits_for_an_answer_waits_as_long_as_it_means_to():
    """Heartbeats, which have a timeout of their own, go over the same connection meanwhile."""
    worker, driver = links()
    beats = threading.Event()

    def beat():
        while not beats.wait(0.01):
            worker.send({"type": "beat"}, timeout_s=0.05)

    beating = threading.Thread(target=beat)
    beating.start()
    threading.Timer(0.5, lambda: driver.send({"type": "taken"})).start()
    try:
        assert worker.receive(timeout_s=60.0)[0]["type"] == "taken"
        with pytest.raises(LinkTimeoutError, match="nothing came for 0 s"):
            worker.receive(timeout_s=0.2)
    finally:
        beats.set()
        beating.join()
    worker.close()
    with pytest.raises(LinkError):
        worker.receive(timeout_s=60.0)
    driver.close()
