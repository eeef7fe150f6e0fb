"""What the driver tells of a run while it runs: a bar in a terminal or a notebook, elsewhere a line a display."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

#: How often a bar is drawn anew at most.
REDRAW_S = 0.1
#: How many rounds' events are kept at most; of more, each second, fourth, eighth … one is.
MAX_ROUNDS = 10_000


class Progress:
    """Keeps the events of a run and shows those that people want to see.

    `on_change` gets a line of where the run is, whenever there is a new loss or test, and whether it is the run's last.
    """

    def __init__(self, verbose: bool, on_change: Callable[[str, bool], None] | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self._rounds = 0
        #: Of rounds, those with a number that this divides are kept.
        self._every = 1
        self._status = Status()
        self._lock = threading.Lock()
        self._on_change = on_change
        self._screen = _screen() if verbose else None

    def event(self, line: str) -> None:
        """Takes an event, a line of JSON."""
        event = json.loads(line)
        with self._lock:
            self._keep(event)
            self._status.take(event)
            if self._screen:
                self._screen.show(event, self._status)
            is_last = event["event"] == "finish"
            changed = str(self._status) if is_last or event["event"] in ("start", "iteration", "test") else None
        if changed and self._on_change:
            self._on_change(changed, is_last)

    def _keep(self, event: dict[str, Any]) -> None:
        if event["event"] == "round":
            if event["round"] % self._every:
                return
            self._rounds += 1
        self.events.append(event)
        if self._rounds > MAX_ROUNDS:
            self._every *= 2
            self.events = [each for each in self.events if each["event"] != "round" or each["round"] % self._every == 0]
            self._rounds = sum(each["event"] == "round" for each in self.events)

    def message(self, message: str) -> None:
        """Tells what happened to the workers."""
        event = {"event": "message", "message": message}
        with self._lock:
            self.events.append(event)
            if self._screen:
                self._screen.show(event, self._status)

    def close(self) -> None:
        """Nothing more comes."""
        with self._lock:
            if self._screen:
                self._screen.close()


class Status:
    """Where a run is."""

    def __init__(self) -> None:
        self.iteration = 0
        self.max_iter = 0
        self._name = ""
        self._numbers: list[str] = []
        self._scores: dict[str, float] = {}
        self._began = (0, time.monotonic())

    def take(self, event: dict[str, Any]) -> None:
        """Goes on by an event."""
        match event["event"]:
            case "start":
                self._name = f"{event['net']}, {event['workers']} workers, {event['sync']}"
                self.iteration, self.max_iter = event["iteration"], event["max_iter"]
                self._began = (self.iteration, time.monotonic())
            case "iteration":
                self.iteration = event["iteration"]
                speed = _number(event["images_per_s"], ".0f")
                self._numbers = [f"loss {_number(event['loss'], '.4g')}", f"{speed} images/s"]
            case "test":
                self._scores = event["scores"]
            case "round" | "finish":
                self.iteration = event["iteration"]

    def __str__(self) -> str:
        parts = [f"{self._name}: iteration {self.iteration} of {self.max_iter}", *self._numbers]
        parts += [f"test {name} {_number(score, '.4f')}" for name, score in self._scores.items()]
        return ", ".join(parts)

    def bar(self, columns: int) -> str:
        """A line of this width at most."""
        text = ", ".join([f" {self.iteration} of {self.max_iter}", *self._numbers, *self._left()])
        width = max(0, columns - len(text))
        done = width * min(self.iteration, self.max_iter) // max(1, self.max_iter)
        return ("━" * done + "─" * (width - done) + text)[:columns]

    def _left(self) -> list[str]:
        iteration, since = self._began
        if self.iteration <= iteration:
            return []
        per_iteration_s = (time.monotonic() - since) / (self.iteration - iteration)
        left_s = round(per_iteration_s * (self.max_iter - self.iteration))
        return [f"{left_s // 60}:{left_s % 60:02} left"]


def _number(value: float | None, form: str) -> str:
    """A number of an event, in which null stands for one that is none."""
    return "nan" if value is None else format(value, form)


def sentence(event: dict[str, Any]) -> str | None:
    """An event for people, or None where it is none of theirs."""
    match event["event"]:
        case "start":
            return (
                f"{event['net']}: {event['parameters']} parameters, {event['workers']} workers with "
                f"{event['threads_per_worker']} threads, {event['sync']}, batch {event['batch_size']}"
            )
        case "iteration":
            loss, lr = _number(event["loss"], ".4g"), _number(event["lr"], ".4g")
            speed = _number(event["images_per_s"], ".0f")
            return f"iteration {event['iteration']}: loss {loss}, lr {lr}, {speed} images/s"
        case "test":
            scores = ", ".join(f"{name} {_number(score, '.4f')}" for name, score in event["scores"].items())
            return f"iteration {event['iteration']}: test of {event['records']} records: {scores}"
        case "finish":
            return f"trained to iteration {event['iteration']} in {event['elapsed_s']:.1f} s"
        case "message":
            return str(event["message"])
    return None


class Lines:
    """A line for each event, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, event: dict[str, Any], _: Status) -> None:
        """Shows an event."""
        line = sentence(event)
        if line:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing is left to take away."""


class Bar:
    """A terminal's last line is a bar; what happens is printed above it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn_at = 0.0

    def show(self, event: dict[str, Any], status: Status) -> None:
        """Shows an event, and where the run is."""
        moves = event["event"] in ("iteration", "round")
        line = None if moves else sentence(event)
        if event["event"] == "round" and time.monotonic() - self._drawn_at < REDRAW_S:
            return
        if line:
            self._stream.write(f"\r\x1b[K{line}\n")
        if event["event"] == "finish":
            self.close()
        elif status.max_iter:
            self._drawn_at = time.monotonic()
            self._stream.write(f"\r\x1b[K{status.bar(shutil.get_terminal_size().columns - 1)}")
            self._stream.flush()

    def close(self) -> None:
        """Takes the bar away."""
        self._stream.write("\r\x1b[K")
        self._stream.flush()


class Notebook:
    """A cell's output: what happened, and below it the bar, which is replaced in place."""

    COLUMNS = 100

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._handle: Any = None
        self._lines: list[str] = []
        self._drawn_at = 0.0

    def show(self, event: dict[str, Any], status: Status) -> None:
        """Shows an event, and where the run is."""
        if event["event"] == "round" and time.monotonic() - self._drawn_at < REDRAW_S:
            return
        line = None if event["event"] in ("iteration", "round") else sentence(event)
        if line:
            self._lines.append(line)
        self._drawn_at = time.monotonic()
        is_over = event["event"] == "finish" or not status.max_iter
        text = "\n".join([*self._lines, *([] if is_over else [status.bar(self.COLUMNS)])])
        if self._handle is None:
            self._handle = self._display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._handle.update({"text/plain": text}, raw=True)

    def close(self) -> None:
        """Leaves what happened, without the bar."""
        if self._handle is not None:
            self._handle.update({"text/plain": "\n".join(self._lines)}, raw=True)


def _screen() -> Lines | Bar | Notebook:
    """Where this process is looked at."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    # Of IPython's shells, notebooks have the one with a kernel; a terminal's is a terminal.
    if shell is not None and getattr(shell, "kernel", None) is not None:
        from IPython.display import display

        return Notebook(display)
    return Bar(sys.stderr) if sys.stderr.isatty() else Lines(sys.stderr)
