"""Layers in Python that test_layer.py names in its nets."""

from __future__ import annotations

import numpy as np
import sparknet


class EuclideanLoss(sparknet.Layer):
    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise ValueError("two inputs are needed for a distance")

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise ValueError(f"{bottom[0].shape} and {bottom[1].shape} have no distance")
        self.difference = np.zeros_like(bottom[0].data)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.difference[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = (self.difference**2).sum() / bottom[0].num / 2

    def backward(self, top, propagate_down, bottom):
        for i, sign in enumerate([1, -1]):
            if propagate_down[i]:
                bottom[i].diff[...] = sign * top[0].diff[0] * self.difference / bottom[i].num


class Scaled(sparknet.Layer):
    """`y = w x`, with one weight that begins as param_str says."""

    instances: list[Scaled] = []

    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[...] = float(self.param_str)
        self.kept = []
        Scaled.instances.append(self)

    def reshape(self, bottom, top):
        top[0].reshape(bottom[0].shape)

    def forward(self, bottom, top):
        self.kept.append((bottom[0].data, self.blobs[0].data))
        top[0].data[...] = self.blobs[0].data * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += (top[0].diff * bottom[0].data).sum()
        if propagate_down[0]:
            bottom[0].diff[...] = self.blobs[0].data * top[0].diff


class Counter(sparknet.Layer):
    """A data layer: the numbers of its passes, with the phase in a second top."""

    def reshape(self, bottom, top):
        top[0].reshape(2, 1)
        top[1].reshape()

    def setup(self, bottom, top):
        self.passes = 0

    def forward(self, bottom, top):
        self.passes += 1
        top[0].data[...] = self.passes
        top[1].data[...] = self.phase


class Wrong(sparknet.Layer):
    """Does what param_str says in the method of that name."""

    def at(self, place, blobs=()):
        if self.param_str == f"{place} raises":
            raise ZeroDivisionError(place)
        if self.param_str == f"{place} interrupts":
            raise KeyboardInterrupt

    def setup(self, bottom, top):
        self.at("setup")

    def reshape(self, bottom, top):
        self.at("reshape")
        top[0].reshape(*bottom[0].shape)
        if self.param_str == "bottom":
            bottom[0].reshape(1)
        if self.param_str == "changes":
            self.rows = getattr(self, "rows", 1) + 1
            top[0].reshape(self.rows)
        if self.param_str == "empty":
            top[0].reshape(0, 3)

    def forward(self, bottom, top):
        self.at("forward")
        if self.param_str == "writes":
            bottom[0].data[...] = 1
        if self.param_str == "late":
            self.blobs.add_blob(1)
        top[0].data[...] = bottom[0].data

    def backward(self, top, propagate_down, bottom):
        self.at("backward")
        bottom[0].diff[...] = top[0].diff


class NotALayer:
    pass
