"""The parameters of `NetEstimator` and `NetModel`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasFeaturesCol, HasLabelCol, HasPredictionCol, HasProbabilityCol


def _text_or_none(value: Any) -> str | None:
    return None if value is None else TypeConverters.toString(value)


class _OneOf:
    """Converts to one of some words."""

    def __init__(self, *choices: str) -> None:
        self._choices = choices

    def __call__(self, value: Any) -> str:
        if value not in self._choices:
            raise TypeError(f"{value!r} is none of {', '.join(self._choices)}")
        return str(value)


def _param(name: str, doc: str, converter: Any) -> Any:
    return Param(Params._dummy(), name, doc, typeConverter=converter)


def _accessors(name: str) -> tuple[Any, Any]:
    """The methods that set and get a parameter."""

    def set_it(self: Any, value: Any) -> Any:
        return self._set(**{name: value})

    def get_it(self: Any) -> Any:
        return self.getOrDefault(name)

    set_it.__doc__, get_it.__doc__ = f"Sets {name}.", f"{name} as it was set, or its default."
    return set_it, get_it


def check_blobs(names: Sequence[str], known: Sequence[str] | None) -> None:
    """Says which of the blobs that are asked for the net has not, where its blobs are known."""
    unknown = [name for name in names if known is not None and name not in known]
    if unknown:
        raise ValueError(f"the net has no blob {unknown[0]} without labels: it has {', '.join(known or ())}")


def net_state(stage: Sequence[str], level: int) -> str:
    """What of a net is included beyond its phase, as fields of a NetState."""
    # JSON's quotes are the prototxt's.
    return " ".join([*(f"stage: {json.dumps(each, ensure_ascii=False)}" for each in stage), f"level: {level}"])


class NetParams(HasFeaturesCol, HasLabelCol, HasPredictionCol, HasProbabilityCol):
    """What an estimator and its models have in common."""

    inputShape: Param[list[int]] = _param(
        "inputShape",
        "channels, height and width of a row of numbers, where the prototxt does not say them",
        TypeConverters.toListInt,
    )
    onBadRow: Param[str] = _param(
        "onBadRow",
        "what becomes of rows with nulls, undecodable images or wrong sizes: fail, or skip (left out and counted in "
        "training; null in predictions)",
        _OneOf("fail", "skip"),
    )
    outputBlobs: Param[list[str]] = _param(
        "outputBlobs", "blobs of the net that transform adds as columns", TypeConverters.toListString
    )
    outputType: Param[str] = _param(
        "outputType",
        "what outputBlobs' columns are: array (of floats), or vector, as MLlib's stages want their features",
        _OneOf("array", "vector"),
    )
    threadsPerWorker: Param[int] = _param(
        "threadsPerWorker", "threads that a worker computes with; 0 for its task's cpus", TypeConverters.toInt
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(
            featuresCol="features",
            labelCol="label",
            predictionCol="prediction",
            probabilityCol="probability",
            onBadRow="fail",
            outputBlobs=[],
            outputType="array",
            threadsPerWorker=0,
        )

    def _set(self, **given: Any) -> Any:
        for name in given:
            if not self.hasParam(name):
                raise TypeError(f"{type(self).__name__} has no parameter {name}: explainParams() says which it has")
        return super()._set(**given)

    def _shape(self) -> list[int] | None:
        """inputShape, checked; None where it is not set."""
        shape = self.getOrDefault(self.inputShape) if self.isDefined(self.inputShape) else None
        if shape is not None and (len(shape) != 3 or min(shape) < 1):
            raise ValueError(f"inputShape is {shape}: give channels, height and width, each at least 1")
        return shape

    setFeaturesCol, getFeaturesCol = _accessors("featuresCol")
    setLabelCol, getLabelCol = _accessors("labelCol")
    setPredictionCol, getPredictionCol = _accessors("predictionCol")
    setProbabilityCol, getProbabilityCol = _accessors("probabilityCol")
    setOutputBlobs, getOutputBlobs = _accessors("outputBlobs")
    setOutputType, getOutputType = _accessors("outputType")
    setOnBadRow, getOnBadRow = _accessors("onBadRow")
    setInputShape, getInputShape = _accessors("inputShape")
    setThreadsPerWorker, getThreadsPerWorker = _accessors("threadsPerWorker")


class TrainParams(NetParams):
    """What says how a net is trained."""

    solver: Param[str] = _param(
        "solver", "the solver: a .prototxt file on the driver, or its text", TypeConverters.toString
    )
    net: Param[str | None] = _param(
        "net",
        "the net, instead of the one that the solver names: a .prototxt file on the driver, or its text",
        _text_or_none,
    )
    weights: Param[str | None] = _param(
        "weights",
        "a .caffemodel on the driver to begin with, or several with commas between them; the solver's own unless given",
        _text_or_none,
    )
    snapshot: Param[str | None] = _param(
        "snapshot",
        "a .solverstate on the driver to go on from, with as many workers that agree in the same way",
        _text_or_none,
    )
    numWorkers: Param[int] = _param(
        "numWorkers", "workers, each a Spark task with rows of its own", TypeConverters.toInt
    )
    sync: Param[str] = _param(
        "sync",
        "average (of weights, every tau iterations) or allreduce (of gradients)",
        _OneOf("average", "allreduce"),
    )
    tau: Param[int] = _param("tau", "iterations that a worker trains alone", TypeConverters.toInt)
    history: Param[str] = _param(
        "history", "what averaging does to momentum: keep, average or reset", _OneOf("keep", "average", "reset")
    )
    compress: Param[str] = _param("compress", "what workers send: none (float32) or f16", _OneOf("none", "f16"))
    maxIter: Param[int] = _param("maxIter", "iterations, instead of the solver's max_iter", TypeConverters.toInt)
    testInterval: Param[int] = _param(
        "testInterval", "iterations between two tests, instead of the solver's test_interval", TypeConverters.toInt
    )
    baseLr: Param[float] = _param(
        "baseLr", "the learning rate, instead of the solver's base_lr", TypeConverters.toFloat
    )
    momentum: Param[float] = _param("momentum", "instead of the solver's momentum", TypeConverters.toFloat)
    weightDecay: Param[float] = _param("weightDecay", "instead of the solver's weight_decay", TypeConverters.toFloat)
    display: Param[int] = _param(
        "display", "iterations between two losses, instead of the solver's", TypeConverters.toInt
    )
    seed: Param[int] = _param("seed", "of all randomness, instead of the solver's random_seed", TypeConverters.toInt)
    validationIndicatorCol: Param[str | None] = _param(
        "validationIndicatorCol", "a column of booleans: rows to test on and not to train on", _text_or_none
    )
    maxRestarts: Param[int] = _param(
        "maxRestarts",
        "how often training goes on from the last committed round when workers are lost",
        TypeConverters.toInt,
    )
    commitInterval: Param[int] = _param(
        "commitInterval",
        "iterations between two rounds that the driver keeps; 0 for one about every 10 seconds",
        TypeConverters.toInt,
    )
    syncTimeout: Param[float] = _param("syncTimeout", "seconds that a worker waits for another", TypeConverters.toFloat)
    heartbeatTimeout: Param[float] = _param(
        "heartbeatTimeout", "seconds of silence after which a worker counts as lost", TypeConverters.toFloat
    )
    driverHost: Param[str | None] = _param(
        "driverHost", "the name under which executors find the driver, where Spark's own does not do", _text_or_none
    )
    memoryPerWorkerMb: Param[int] = _param(
        "memoryPerWorkerMb",
        "megabytes of rows that a worker keeps in memory; more go to a local file",
        TypeConverters.toInt,
    )
    stage: Param[list[str]] = _param(
        "stage", "stages of the train net, for layers with include or exclude rules", TypeConverters.toListString
    )
    level: Param[int] = _param(
        "level", "level of the train net, for layers with include or exclude rules", TypeConverters.toInt
    )
    allowNan: Param[bool] = _param(
        "allowNan", "whether training goes on when the loss is not a number any more", TypeConverters.toBoolean
    )
    verbose: Param[bool] = _param("verbose", "whether the driver prints how training goes", TypeConverters.toBoolean)

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(
            net=None,
            weights=None,
            snapshot=None,
            numWorkers=2,
            sync="average",
            tau=10,
            history="keep",
            compress="none",
            validationIndicatorCol=None,
            maxRestarts=3,
            commitInterval=0,
            syncTimeout=600.0,
            heartbeatTimeout=60.0,
            driverHost=None,
            memoryPerWorkerMb=1024,
            stage=[],
            level=0,
            allowNan=False,
            verbose=True,
        )

    setSolver, getSolver = _accessors("solver")
    setNet, getNet = _accessors("net")
    setWeights, getWeights = _accessors("weights")
    setSnapshot, getSnapshot = _accessors("snapshot")
    setNumWorkers, getNumWorkers = _accessors("numWorkers")
    setSync, getSync = _accessors("sync")
    setTau, getTau = _accessors("tau")
    setHistory, getHistory = _accessors("history")
    setCompress, getCompress = _accessors("compress")
    setMaxIter, getMaxIter = _accessors("maxIter")
    setTestInterval, getTestInterval = _accessors("testInterval")
    setBaseLr, getBaseLr = _accessors("baseLr")
    setMomentum, getMomentum = _accessors("momentum")
    setWeightDecay, getWeightDecay = _accessors("weightDecay")
    setDisplay, getDisplay = _accessors("display")
    setSeed, getSeed = _accessors("seed")
    setValidationIndicatorCol, getValidationIndicatorCol = _accessors("validationIndicatorCol")
    setMaxRestarts, getMaxRestarts = _accessors("maxRestarts")
    setCommitInterval, getCommitInterval = _accessors("commitInterval")
    setSyncTimeout, getSyncTimeout = _accessors("syncTimeout")
    setHeartbeatTimeout, getHeartbeatTimeout = _accessors("heartbeatTimeout")
    setDriverHost, getDriverHost = _accessors("driverHost")
    setMemoryPerWorkerMb, getMemoryPerWorkerMb = _accessors("memoryPerWorkerMb")
    setStage, getStage = _accessors("stage")
    setLevel, getLevel = _accessors("level")
    setAllowNan, getAllowNan = _accessors("allowNan")
    setVerbose, getVerbose = _accessors("verbose")

    def overrides(self) -> str:
        """The parameters that replace fields of the solver, as its prototxt would have them."""
        fields = {
            "max_iter": self.maxIter,
            "test_interval": self.testInterval,
            "base_lr": self.baseLr,
            "momentum": self.momentum,
            "weight_decay": self.weightDecay,
            "display": self.display,
            "random_seed": self.seed,
        }
        given = {name: self.getOrDefault(param) for name, param in fields.items() if self.isDefined(param)}
        stage, level = self.getOrDefault(self.stage), self.getOrDefault(self.level)
        state = [f"train_state {{ {net_state(stage, level)} }}"] if stage or level else []
        return "\n".join([*(f"{name}: {value}" for name, value in given.items()), *state])
