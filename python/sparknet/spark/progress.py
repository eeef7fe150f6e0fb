"""What the driver tells of a run while it runs."""

from __future__ import annotations

import json
import sys
import threading
from typing import Any


class Progress:
    """Keeps the events of a run and prints a line for those that people want to see."""

    def __init__(self, verbose: bool) -> None:
        self.events: list[dict[str, Any]] = []
        self._verbose = verbose
        self._lock = threading.Lock()

    def event(self, line: str) -> None:
        """Takes an event, a line of JSON."""
        event = json.loads(line)
        with self._lock:
            self.events.append(event)
        told = self._told(event)
        if told:
            self._print(told)

    def message(self, message: str) -> None:
        """Tells what happened to the workers."""
        with self._lock:
            self.events.append({"event": "message", "message": message})
        self._print(message)

    def close(self) -> None:
        """Nothing more comes."""

    @staticmethod
    def _told(event: dict[str, Any]) -> str | None:
        match event["event"]:
            case "start":
                return (
                    f"{event['net']}: {event['parameters']} parameters, {event['workers']} workers with "
                    f"{event['threads_per_worker']} threads, {event['sync']}, batch {event['batch_size']}"
                )
            case "iteration":
                return (
                    f"iteration {event['iteration']}: loss {event['loss']:.4g}, lr {event['lr']:.4g}, "
                    f"{event['images_per_s']:.0f} images/s"
                )
            case "test":
                scores = ", ".join(f"{name} {score:.4f}" for name, score in event["scores"].items())
                return f"iteration {event['iteration']}: test of {event['records']} records: {scores}"
            case "finish":
                return f"trained to iteration {event['iteration']} in {event['elapsed_s']:.1f} s"
        return None

    def _print(self, line: str) -> None:
        if self._verbose:
            print(line, file=sys.stderr, flush=True)
