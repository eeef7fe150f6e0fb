"""Trains LeNet on Fashion-MNIST on Spark with NetEstimator and with PyTorch's DDP under TorchDistributor, and writes
bench/results/<date>-spark.md.

Both have two executors of one core, a batch of 64 a worker, two epochs, the same net, solver and Parquet files. Every
run has a Spark of its own, whose executors and Python daemons are started before the clock is; a round runs each
contestant once, in an order that changes from round to round.
"""

import argparse
import datetime
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compare import BENCH, NOT_TO_QUOTE, QUIET, ROOT, machine, share_of_others, table_text, verdict, with_quartiles

WORKERS, BATCH, EPOCHS, TAU = 2, 64, 2, 10
MASTER = f"local-cluster[{WORKERS},1,4096]"
SOLVER, NET = ROOT / "models/lenet/solver.prototxt", ROOT / "models/lenet/net.prototxt"
OURS, NCHW, CHANNELS_LAST = CONTESTANTS = ["sparknet", "nchw", "channels_last"]
TITLES = {OURS: "NetEstimator", NCHW: "TorchDistributor, NCHW", CHANNELS_LAST: "TorchDistributor, channels-last"}
#: The least ratio of images a second, and of wall time.
GOAL = 3.0


def write_parquet(dataset: Path, folder: Path) -> None:
    """The dataset's halves as Parquet, `image binary, label int`: for each a file a worker, all of the same length."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    for half in ("train", "t10k"):
        pixels = gzip.decompress((dataset / f"{half}-images-idx3-ubyte.gz").read_bytes())[16:]
        labels = np.frombuffer(gzip.decompress((dataset / f"{half}-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
        images = [pixels[784 * row : 784 * (row + 1)] for row in range(len(labels))]
        (folder / half).mkdir()
        for part in range(WORKERS):
            own = {
                "image": pa.array(images[part::WORKERS], pa.binary()),
                "label": labels[part::WORKERS].astype("int32"),
            }
            pq.write_table(pa.table(own), folder / half / f"part-{part}.parquet")


def train_ddp(
    folder: str, batch: int, epochs: int, seed: int, channels_last: bool, lr: float, solver: dict[str, float]
) -> dict:
    """What TorchDistributor runs in each process: DDP over gloo, one thread, on the process's own Parquet files."""
    import time
    from pathlib import Path

    import numpy as np
    import pyarrow.parquet as pq
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()

    table = pq.read_table(sorted(Path(folder).glob("*.parquet"))[rank::world])
    pixels = np.frombuffer(b"".join(table["image"].to_pylist()), np.uint8).reshape(-1, 1, 28, 28)
    # Kept as floats in memory and indexed by a permutation: no DataLoader is faster.
    images = torch.from_numpy(pixels.astype(np.float32) / 256)
    labels = torch.from_numpy(table["label"].to_numpy().astype(np.int64))

    net = nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(inplace=True),
        nn.Linear(500, 10),
    )
    for name, parameter in net.named_parameters():
        # Caffe's xavier filler.
        bound = 0.0 if name.endswith("bias") else (3 / parameter[0].numel()) ** 0.5
        nn.init.uniform_(parameter, -bound, bound)
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    weights = [parameter for name, parameter in net.named_parameters() if name.endswith("weight")]
    biases = [parameter for name, parameter in net.named_parameters() if name.endswith("bias")]
    optimizer = torch.optim.SGD(
        [{"params": weights}, {"params": biases, "lr": 2 * lr}],
        lr=lr,
        momentum=solver["momentum"],
        weight_decay=solver["weight_decay"],
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda iteration: (1 + solver["gamma"] * iteration) ** -solver["power"]
    )
    ddp = DistributedDataParallel(net, gradient_as_bucket_view=True)

    dist.barrier()
    began = time.perf_counter()
    for _ in range(epochs):
        order = torch.randperm(len(labels))
        for start in range(0, len(labels), batch):
            picked = order[start : start + batch]
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(ddp(images[picked]), labels[picked])
            loss.backward()
            optimizer.step()
            schedule.step()
    dist.barrier()
    seconds = time.perf_counter() - began
    state = {name: value.contiguous().numpy() for name, value in net.state_dict().items()}
    dist.destroy_process_group()
    return {"images_per_s": epochs * len(labels) * world / seconds, "state": state, "torch": torch.__version__}


def fit_ddp(folder: Path, contestant: str, seed: int) -> tuple[float, dict]:
    """Seconds of the fit, and what it gave: `train_ddp`'s result with the accuracy on the test set."""
    from pyspark.ml.torch.distributor import TorchDistributor

    solver = {"momentum": 0.9, "weight_decay": 0.0005, "gamma": 0.0001, "power": 0.75}
    distributor = TorchDistributor(num_processes=WORKERS, local_mode=False, use_gpu=False)
    began = time.perf_counter()
    found = distributor.run(
        train_ddp, str(folder / "train"), BATCH, EPOCHS, seed, contestant == CHANNELS_LAST, 0.01, solver
    )
    fit_s = time.perf_counter() - began
    return fit_s, found


def fit_ours(spark, folder: Path, seed: int) -> tuple[float, object]:
    """Seconds of the fit, and the model."""
    from sparknet.spark import NetEstimator

    estimator = NetEstimator(
        solver=str(SOLVER),
        net=str(NET),
        featuresCol="image",
        inputShape=[1, 28, 28],
        numWorkers=WORKERS,
        tau=TAU,
        maxIter=-(-EPOCHS * 60_000 // (WORKERS * BATCH)),
        seed=seed,
        verbose=False,
    )
    # Spark runs a job for the files' schema here; the rows are read by fit, as TorchDistributor's are by run.
    frame = spark.read.parquet(str(folder / "train"))
    began = time.perf_counter()
    model = estimator.fit(frame)
    return time.perf_counter() - began, model


def images_per_s_of(events: list[dict]) -> float:
    """Of the whole run as the workers saw it, the last commit included."""
    finish = next(event for event in events if event["event"] == "finish")
    return WORKERS * BATCH * finish["iteration"] / finish["elapsed_s"]


def accuracy_of(state: dict, folder: Path) -> float:
    """The share of test images that a DDP run's net classifies."""
    import numpy as np
    import pyarrow.parquet as pq
    import torch
    import torch.nn.functional as F

    table = pq.read_table(folder / "t10k")
    pixels = np.frombuffer(b"".join(table["image"].to_pylist()), np.uint8).reshape(-1, 1, 28, 28)
    values = [torch.from_numpy(value) for value in state.values()]
    x = torch.from_numpy(pixels.astype(np.float32) / 256)
    x = F.max_pool2d(F.conv2d(x, values[0], values[1]), 2)
    x = F.max_pool2d(F.conv2d(x, values[2], values[3]), 2)
    x = F.linear(F.relu(F.linear(x.flatten(1), values[4], values[5])), values[6], values[7])
    return float((x.argmax(1).numpy() == table["label"].to_numpy()).mean())


def shapes_of_our_net() -> list[list[int]]:
    """Of each layer's weights and bias."""
    import sparknet

    text = NET.read_text()
    # Between the data layers, which want the LMDBs, and those that want labels.
    layers = text[text.index('layer {\n  name: "conv1"') : text.index('layer {\n  name: "accuracy"')]
    data = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 28 dim: 28 } } }'
    params = sparknet.Net(sparknet.Message.parse("NetParameter", data + layers), phase=sparknet.TEST).params
    return [list(blob.shape) for blobs in params.values() for blob in blobs]


def run_once(contestant: str, folder: Path, seed: int) -> dict:
    """One fit on a Spark of its own."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    from pyspark.sql import SparkSession

    spark = (
        SparkSession.builder.master(MASTER)
        .appName(f"bench: {contestant}")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.executor.memory", "2g")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    # Both executors and their Python daemons are there when the clock starts.
    spark.range(0, WORKERS, 1, WORKERS).mapInArrow(lambda batches: batches, "id long", barrier=True).collect()
    if contestant == OURS:
        fit_s, model = fit_ours(spark, folder, seed)
        accuracy = model.evaluate(spark.read.parquet(str(folder / "t10k"))).accuracy
        import sparknet

        result = {"images_per_s": images_per_s_of(model.summary.events), "version": f"sparknet {sparknet.__version__}"}
    else:
        fit_s, found = fit_ddp(folder, contestant, seed)
        theirs = [list(value.shape) for value in found["state"].values()]
        if theirs != shapes_of_our_net():
            sys.exit(f"the two nets differ: {theirs} and {shapes_of_our_net()}")
        accuracy = accuracy_of(found["state"], folder)
        result = {"images_per_s": found["images_per_s"], "version": f"PyTorch {found['torch']}"}
    version = spark.version
    spark.stop()
    return {**result, "fit_s": fit_s, "accuracy": accuracy, "spark": version}


def measure(rounds: int, folder: Path, samples: dict[str, list[dict]]):
    """Runs the rounds, and yields after each the most of the processor that other programs have used so far."""
    others = 0.0
    for number in range(rounds):
        others = max(others, share_of_others())
        if others > QUIET:
            print(f"other programs use {others:.0%} of the processor: {NOT_TO_QUOTE}", flush=True)
        for contestant in CONTESTANTS[number % 3 :] + CONTESTANTS[: number % 3]:
            command = [sys.executable, __file__, "--one", contestant, "--folder", folder, "--seed", number + 1]
            done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode != 0:
                sys.exit(f"{contestant} failed with status {done.returncode}")
            # TorchDistributor copies what its processes print, so the result is the last line.
            samples[contestant].append(json.loads(done.stdout.splitlines()[-1]))
            last = samples[contestant][-1]
            print(
                f"round {number + 1} of {rounds}, {contestant}: {last['images_per_s']:.0f} images/s, "
                f"fit {last['fit_s']:.1f} s, accuracy {last['accuracy']:.4f}",
                flush=True,
            )
        yield others


def report(samples: dict[str, list[dict]], others: float) -> str:
    def values(contestant: str, field: str) -> list[float]:
        return [sample[field] for sample in samples[contestant]]

    def median(contestant: str, field: str) -> float:
        return statistics.median(values(contestant, field))

    rows = []
    for contestant in CONTESTANTS:
        accuracies = values(contestant, "accuracy")
        rows.append(
            [
                TITLES[contestant],
                with_quartiles(values(contestant, "images_per_s"), 0),
                with_quartiles(values(contestant, "fit_s"), 1),
                f"{statistics.mean(accuracies):.4f} ({min(accuracies):.4f}–{max(accuracies):.4f})",
            ]
        )
    speed = median(OURS, "images_per_s") / max(median(peer, "images_per_s") for peer in (NCHW, CHANNELS_LAST))
    wall = min(median(peer, "fit_s") for peer in (NCHW, CHANNELS_LAST)) / median(OURS, "fit_s")
    ours = statistics.mean(values(OURS, "accuracy"))
    theirs = max(statistics.mean(values(peer, "accuracy")) for peer in (NCHW, CHANNELS_LAST))
    ratios = [
        ["images/s in training, ours through the better peer's", f"{speed:.2f}", verdict(speed, GOAL)],
        ["wall time of fit, the better peer's through ours", f"{wall:.2f}", verdict(wall, GOAL)],
        ["mean accuracy, ours minus the better peer's", f"{ours - theirs:+.4f}", verdict(ours - theirs, 0)],
    ]
    first = {contestant: samples[contestant][0] for contestant in CONTESTANTS}
    busy = f". **{NOT_TO_QUOTE}**" if others > QUIET else ""
    parts = [
        f"# NetEstimator and TorchDistributor on Spark, {datetime.date.today()}",
        f"- machine: {machine()}\n- versions: {first[OURS]['version']}, {first[NCHW]['version']}, Spark "
        f"{first[OURS]['spark']}\n- other programs: at most {others:.0%} of the processor, seen before each "
        f"round{busy}\n- rounds: {len(samples[OURS])}",
        f"LeNet on Fashion-MNIST, {EPOCHS} epochs, `{MASTER}`: {WORKERS} workers with a thread each and batches of "
        f"{BATCH}, from the same Parquet files. NetEstimator averages weights every {TAU} iterations; TorchDistributor "
        "runs DDP over gloo, with the images as float tensors in memory. Same net, initialisation, learning rates, "
        "momentum and decay. Medians over the rounds with quartiles; the accuracy on the test set is the mean, with "
        "the least and the most. Images/s are those of the training loop alone; the wall time is that of `fit` or "
        "`run` on a Spark whose executors are up, until the weights are on the driver.",
        table_text(["", "images/s in training", "wall time s", "accuracy"], rows),
        table_text(["ratio of medians", "", "goal"], ratios),
    ]
    return "\n\n".join(parts) + "\n"


def result_path() -> Path:
    """bench/results/<date>-spark.md, or <date>-spark-2.md and so on: a run never replaces another."""
    date = datetime.date.today().isoformat()
    path, number = BENCH / "results" / f"{date}-spark.md", 1
    while path.exists():
        number += 1
        path = path.with_name(f"{date}-spark-{number}.md")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dataset", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--one", choices=CONTESTANTS, help="one fit, as JSON on standard output")
    parser.add_argument("--folder", type=Path, help="with --one: where the Parquet files are")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run_once(args.one, args.folder, args.seed)))
        return
    if not (args.dataset / "train-images-idx3-ubyte.gz").exists():
        parser.error(
            f"{args.dataset} has no train-images-idx3-ubyte.gz: install Debian's package dataset-fashion-mnist, or "
            "give --dataset a folder with the four files"
        )
    path = result_path()
    path.parent.mkdir(exist_ok=True)
    samples: dict[str, list[dict]] = {contestant: [] for contestant in CONTESTANTS}
    text = ""
    with tempfile.TemporaryDirectory() as folder:
        write_parquet(args.dataset, Path(folder))
        # After each round, so that whoever has no time for the rest has a report of those before.
        for others in measure(args.rounds, Path(folder), samples):
            text = report(samples, others)
            whole = path.with_suffix(".tmp")
            whole.write_text(text)
            whole.replace(path)
    print(f"\n{text}\nwritten to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
