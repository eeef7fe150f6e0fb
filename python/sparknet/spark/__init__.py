"""Training and prediction on Spark: `NetEstimator` and `NetModel`."""

from sparknet.spark.driver import TrainingError, TrainingStoppedError
from sparknet.spark.estimator import NetEstimator
from sparknet.spark.model import Evaluation, NetModel, TrainingSummary

__all__ = ["Evaluation", "NetEstimator", "NetModel", "TrainingError", "TrainingStoppedError", "TrainingSummary"]
