"""What is seen of a run while it runs: lines, a bar, a notebook's cell, and Spark's own page."""

import io
import json
import sys
import threading
import types
import urllib.request

import pytest
from sparknet.spark import job_page, progress
from sparknet.spark.job_page import JobPage
from sparknet.spark.progress import Bar, Lines, Notebook, Progress
from test_fit import estimator

START = {
    "event": "start", "net": "LeNet", "parameters": 431080, "workers": 2, "threads_per_worker": 1, "batch_size": 64,
    "sync": "average of weights every 10 iterations", "iteration": 0, "max_iter": 200,
}  # fmt: skip
EVENTS = [
    START,
    {"event": "test", "iteration": 0, "records": 50, "scores": {"accuracy": 0.125}},
    {"event": "round", "round": 1, "iteration": 10},
    {"event": "iteration", "iteration": 50, "loss": 0.51234, "lr": 0.01, "images_per_s": 1234.5},
    {"event": "finish", "iteration": 200, "elapsed_s": 4.56},
]


class Terminal(io.StringIO):
    """Where a bar is drawn; shows what stands in each line at the end of all writing."""

    def isatty(self):
        return True

    def lines(self):
        shown = self.getvalue().split("\n")
        return [line.rsplit("\x1b[K", 1)[-1] for line in shown]


@pytest.fixture
def told(monkeypatch):
    """Tells a run's events to a progress on this stream, the last left out if asked for; gives the stream."""

    def tell(stream, events=EVENTS):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(progress, "REDRAW_S", 0.0)
        changes = []
        shown = Progress(True, lambda text, is_last: changes.append((text, is_last)))
        for event in events:
            shown.event(json.dumps(event))
        return shown, changes

    return tell


def test_elsewhere_than_in_a_terminal_each_display_is_a_line(told):
    stream = io.StringIO()
    shown, changes = told(stream)
    assert isinstance(shown._screen, Lines)
    assert stream.getvalue().splitlines() == [
        "LeNet: 431080 parameters, 2 workers with 1 threads, average of weights every 10 iterations, batch 64",
        "iteration 0: test of 50 records: accuracy 0.1250",
        "iteration 50: loss 0.5123, lr 0.01, 1234 images/s",
        "trained to iteration 200 in 4.6 s",
    ]
    run = "LeNet, 2 workers, average of weights every 10 iterations: iteration"
    assert changes == [
        (f"{run} 0 of 200", False),
        (f"{run} 0 of 200, test accuracy 0.1250", False),
        (f"{run} 50 of 200, loss 0.5123, 1234 images/s, test accuracy 0.1250", False),
        (f"{run} 200 of 200, loss 0.5123, 1234 images/s, test accuracy 0.1250", True),
    ]


def test_what_is_no_number_is_said_to_be_none(told):
    stream = io.StringIO()
    told(stream, [START, {**EVENTS[1], "scores": {"accuracy": None}}, {**EVENTS[3], "loss": None}])
    assert stream.getvalue().splitlines()[1:] == [
        "iteration 0: test of 50 records: accuracy nan",
        "iteration 50: loss nan, lr 0.01, 1234 images/s",
    ]


def test_a_long_run_keeps_all_losses_and_some_rounds(monkeypatch):
    monkeypatch.setattr(progress, "MAX_ROUNDS", 10)
    kept = Progress(False)
    for number in range(1, 1001):
        kept.event(json.dumps({"event": "round", "round": number, "iteration": number}))
        if number % 100 == 0:
            kept.event(json.dumps({**EVENTS[3], "iteration": number}))
    losses = [event["iteration"] for event in kept.events if event["event"] == "iteration"]
    assert losses == list(range(100, 1001, 100))
    rounds = [event["iteration"] for event in kept.events if event["event"] == "round"]
    assert rounds == list(range(128, 1001, 128))
    assert [event["iteration"] for event in kept.events] == sorted(event["iteration"] for event in kept.events)


def test_sparks_page_is_told_once_a_second_and_at_the_end(monkeypatch):
    page, told = JobPage(None), []
    page._context, page.tag = object(), "a tag"
    monkeypatch.setattr(page, "_tell", lambda text, tag: told.append(text))
    now = 100.0
    monkeypatch.setattr(job_page.time, "monotonic", lambda: now)
    for iteration in range(300):
        now += 0.01
        page.tell(str(iteration), False)
    page.tell("the end", True)
    assert told[0] == "0" and told[-1] == "the end" and 4 <= len(told) <= 5


def test_a_terminal_has_a_bar_below_what_happened(told, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    shown, _ = told(terminal, EVENTS[:-1])
    assert isinstance(shown._screen, Bar)
    *above, bar = terminal.lines()
    assert above[-1] == "iteration 0: test of 50 records: accuracy 0.1250" and len(above) == 2
    assert len(bar) == 79 and " 50 of 200, loss 0.5123, 1234 images/s, 0:0" in bar and bar.endswith(" left")
    done, left = bar.count("━"), bar.count("─")
    assert bar.startswith("━" * done + "─" * left) and abs(done / (done + left) - 0.25) < 0.05
    shown.message("worker 1 is gone")
    assert terminal.lines()[-2] == "worker 1 is gone" and terminal.lines()[-1].startswith("━")
    shown.event(json.dumps(EVENTS[-1]))
    shown.close()
    assert terminal.lines()[-2:] == ["trained to iteration 200 in 4.6 s", ""]


def test_a_narrow_terminal_is_not_overrun(told, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    terminal = Terminal()
    told(terminal, EVENTS[:-1])
    assert len(terminal.lines()[-1]) == 29


def test_a_notebook_has_one_output_that_changes(told, monkeypatch):
    shown = []

    class Handle:
        def update(self, content, raw):
            shown.append(content["text/plain"])

    def display(content, raw, display_id):
        shown.append(content["text/plain"])
        return Handle()

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    stream = io.StringIO()
    run, _ = told(stream)
    run.close()
    assert isinstance(run._screen, Notebook) and stream.getvalue() == ""
    assert "50 of 200, loss 0.5123" in shown[-3].splitlines()[-1]
    assert shown[-1].splitlines()[-1] == "trained to iteration 200 in 4.6 s" and "━" not in shown[-1]


def test_sparks_page_shows_iteration_and_loss_while_it_trains(spark, solver, train):
    """Through the REST interface, as Spark's own pages and monitoring read it."""
    context = spark.sparkContext
    url = f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}"
    seen, is_over = {"jobs": [], "stages": []}, threading.Event()

    def listed(kind):
        with urllib.request.urlopen(f"{url}/{kind}", timeout=60) as answer:
            return json.load(answer)

    def watch():
        while not is_over.wait(0.05):
            for kind, found in seen.items():
                running = [each for each in listed(kind) if each["status"] in ("RUNNING", "ACTIVE")]
                found += [each["description"] for each in running if each.get("description")]

    listed("jobs")  # The first answer takes Spark longest.
    watcher = threading.Thread(target=watch)
    context.setJobDescription("the user's own")
    watcher.start()
    try:
        estimator(solver, maxIter=100_000, display=500).fit(train)
    finally:
        is_over.set()
        watcher.join()
        own = context.getLocalProperty("spark.job.description")
        context.setJobDescription(None)
    assert own == "the user's own"
    # The job that deals the rows out is over before there is a loss.
    assert "quarters, 2 workers: taking rows in" in [job.get("description") for job in listed("jobs")]
    for kind, found in seen.items():
        losses = [text for text in dict.fromkeys(found) if "of 100000, loss " in text]
        assert len(losses) >= 2, (kind, found)
        assert losses[0].startswith("quarters, 2 workers, average of weights every 5 iterations: iteration "), losses
