"""Training and prediction on Spark: `NetEstimator` and `NetModel`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparknet.spark.driver import TrainingError, TrainingStoppedError
    from sparknet.spark.estimator import NetEstimator
    from sparknet.spark.model import Evaluation, NetModel, TrainingSummary

__all__ = ["Evaluation", "NetEstimator", "NetModel", "TrainingError", "TrainingStoppedError", "TrainingSummary"]

_MODULES = {
    "Evaluation": "model",
    "NetEstimator": "estimator",
    "NetModel": "model",
    "TrainingError": "driver",
    "TrainingStoppedError": "driver",
    "TrainingSummary": "model",
}


# Only what is asked for: a Spark task comes through here to its worker, and pyspark.ml alone takes a third of a second.
def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'sparknet.spark' has no attribute '{name}'")
    return getattr(import_module(f"sparknet.spark.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
