"""Train and run Caffe's nets, on one machine or where the data is on Spark."""

from sparknet._native import __version__

__all__ = ["__version__"]
