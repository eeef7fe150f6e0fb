"""Solvers, as pycaffe has them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from sparknet import _native
from sparknet.errors import InputError
from sparknet.net import Net


class Solver:
    """Trains a net as ``sparknet train`` with one worker does: the same files give the same weights, bit for bit.

    Tests and snapshots happen where the solver's file says so. Data layers read their data; Input layers may be filled
    through ``solver.net.blobs``.

    Args:
        path: The solver's ``.prototxt``.
        on_event: Called between two iterations with each event of the run, as a dict: what ``--events`` of the command
            writes. An exception that it raises ends the call, between two iterations.
        allow_nan: Whether training goes on when the loss is not a number any more.
        level: The level for layers' ``include`` and ``exclude`` rules.
        stages: The stages for those rules.

    ``step`` and ``solve`` let other Python threads run meanwhile, and raise KeyboardInterrupt on Ctrl-C at the end of
    the iteration; training can go on from there.
    """

    _type: str | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        on_event: Callable[[dict[str, Any]], object] | None = None,
        allow_nan: bool = False,
        level: int = 0,
        stages: Sequence[str] | None = None,
    ) -> None:
        self._native = _native.Solver(path, self._type, allow_nan, level, list(stages or ()))
        self._on_event = None if on_event is None else lambda event: on_event(json.loads(event))
        self._net = Net._of(self._native.net())
        self._test_nets = [Net._of(net) for net in self._native.test_nets()]

    @property
    def net(self) -> Net:
        """The net that is trained; its ``forward`` takes a batch of the training data, as in pycaffe."""
        return self._net

    @property
    def test_nets(self) -> list[Net]:
        """The nets that are tested; each takes the train net's parameters over before it computes."""
        return list(self._test_nets)

    @property
    def iter(self) -> int:
        """Iterations done; another thread may read it while one trains."""
        return self._native.iter

    @property
    def max_iter(self) -> int:
        """The iteration where :meth:`solve` ends."""
        return self._native.max_iter

    def step(self, iterations: int) -> None:
        """Runs so many iterations, also beyond ``max_iter``."""
        if iterations < 0:
            raise InputError(f"{iterations} iterations cannot be run: give 0 or more")
        if self._net._arrays is None:
            self._native.step(iterations, self._on_event)
            return
        for _ in range(iterations):
            self._net._take_arrays()
            self._native.step(1, self._on_event)

    def solve(self, resume_file: str | os.PathLike[str] | None = None) -> None:
        """Runs the iterations that are left until ``max_iter``, then the last snapshot and test.

        Args:
            resume_file: A ``.solverstate`` to go on from.
        """
        if resume_file is not None:
            self.restore(resume_file)
        if self._net._arrays is not None:
            self.step(max(self.max_iter - self.iter, 0))
        self._native.solve(self._on_event)

    def snapshot(self) -> str:
        """Writes a ``.caffemodel`` and a ``.solverstate`` and returns the path of the latter."""
        return str(self._native.snapshot())

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Goes on from a ``.solverstate``, and from the ``.caffemodel`` beside it."""
        self._native.restore(path)

    def __repr__(self) -> str:
        return f"<Solver of '{self._net.name}' at iteration {self.iter} of {self.max_iter}>"


class SGDSolver(Solver):
    """Stochastic gradient descent with momentum, whatever ``type`` the file says; the others are so, too."""

    _type = "SGD"


class NesterovSolver(Solver):
    """Nesterov's accelerated gradient."""

    _type = "Nesterov"


class AdaGradSolver(Solver):
    """AdaGrad."""

    _type = "AdaGrad"


class RMSPropSolver(Solver):
    """RMSProp."""

    _type = "RMSProp"


class AdaDeltaSolver(Solver):
    """AdaDelta."""

    _type = "AdaDelta"


class AdamSolver(Solver):
    """Adam."""

    _type = "Adam"


def get_solver(path: str | os.PathLike[str]) -> Solver:
    """The solver that a file describes."""
    return Solver(path)
