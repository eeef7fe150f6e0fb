"""Times the nets of models/ in SparkNet and in PyTorch on this machine's CPU, and writes bench/results/<date>.md.

Everything runs in a process of its own, one after the other, and what is compared runs interleaved: a round runs each
net once with each of the contestants, and the order of these changes from round to round.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
SPARKNET = TARGET / "release" / "sparknet"

# What limits both sides to AVX2: ours, PyTorch's own kernels, oneDNN's and MKL's.
AVX2 = {
    "SPARKNET_SIMD": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
# These would decide in the contestants' place.
UNSET = [*AVX2, "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "DNNL_MAX_CPU_ISA", "OMP_PROC_BIND"]

OURS, NCHW, CHANNELS_LAST = CONTESTANTS = ["sparknet", "nchw", "channels_last"]

PYTORCH_GEMM = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
a, b, c = torch.randn(2048, 2048), torch.randn(2048, 2048), torch.empty(2048, 2048)
best = 1e9
for _ in range(12):
    start = time.perf_counter()
    torch.mm(a, b, out=c)
    best = min(best, time.perf_counter() - start)
print(2 * 2048**3 / best / 1e9)
"""

OUR_GEMM = """
layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2048 dim: 2048 } } }
layer {
  name: "c" type: "InnerProduct" bottom: "a" top: "c"
  inner_product_param { num_output: 2048 bias_term: false weight_filler { type: "xavier" } }
}
"""


@dataclass(frozen=True)
class Case:
    """One line of a table. Goals are the least ratio, and the least share of the GEMM peak, that count as reached."""

    net: str
    title: str
    batch: int
    shape: str
    classes: int
    iterations: int
    goal_ratio: float
    goal_share: float = 0.0
    phase: str = "train"

    @property
    def name(self):
        return f"{self.title} {self.batch}"


TRAINING = [
    Case("lenet", "LeNet", 64, "1,28,28", 10, 200, 2.0),
    Case("cifar10_quick", "CIFAR-10 quick", 100, "3,32,32", 10, 60, 1.5, 0.55),
    Case("cifar10_full", "CIFAR-10 full", 100, "3,32,32", 10, 60, 1.5, 0.55),
    Case("caffenet", "CaffeNet", 32, "3,227,227", 1000, 6, 1.5, 0.60),
    Case("googlenet", "GoogLeNet", 16, "3,224,224", 1000, 6, 1.3, 0.45),
    Case("squeezenet", "SqueezeNet 1.1", 16, "3,227,227", 1000, 12, 1.3, 0.45),
]
INFERENCE = [
    Case("caffenet", "CaffeNet", 1, "3,227,227", 1000, 30, 1.2, phase="test"),
    Case("googlenet", "GoogLeNet", 1, "3,224,224", 1000, 30, 1.2, phase="test"),
]
GOAL_SCALING = 1.8
GOAL_AVX2 = 1.0

# Other programs may use this share of the processor. PyTorch's threads spin while they wait for one another, so on a
# busy machine they lose far more time than ours, and the ratios flatter us.
QUIET = 0.05
NOT_TO_QUOTE = "these numbers mean nothing, stop those and run this again"


def run(command, limits=None):
    """A command's standard output, and the most memory that it held, in MiB."""
    environment = {key: value for key, value in os.environ.items() if key not in UNSET} | (limits or {})
    process = subprocess.Popen([*map(str, command)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    with process.stdout as pipe:
        output = pipe.read()
    # wait4 and not wait, for the memory of this one process.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: failed with status {process.returncode}")
    return output, usage.ru_maxrss / 1024


def run_case(case, contestant, threads, iterations, limits=None, layers=False):
    """One process's timing as a dictionary: ours and PyTorch's have the same names for the same things."""
    if contestant == OURS:
        command = [SPARKNET, "time", "--json", "--model", f"models/{case.net}/net.prototxt"]
    else:
        command = [sys.executable, BENCH / "torch_models.py", "--net", case.net, "--classes", case.classes]
        command += ["--format", contestant] + (["--layers"] if layers else [])
    command += ["--batch", case.batch, "--input-shape", case.shape, "--phase", case.phase]
    output, memory_mib = run([*command, "--threads", threads, "--iterations", iterations], limits)
    return json.loads(output) | {"peak_mib": memory_mib}


def check_nets_are_the_same(cases):
    """Ends the program if a net in PyTorch is not the net in models/: layer by layer, kind, parameters and shape."""
    for case in cases:
        theirs = run_case(case, NCHW, 2, 1, layers=True)
        ours = run_case(case, OURS, 2, 1)
        our_layers = [
            {"type": layer["type"], "parameters": layer["parameters"], "shape": layer["top_shapes"][0]}
            for layer in ours["layers"]
            if layer["type"] not in ("Input", "Concat", "SoftmaxWithLoss")
        ]
        if our_layers != theirs["layers"] or ours["parameters"] != theirs["parameters"]:
            differing = [pair for pair in zip(our_layers, theirs["layers"], strict=False) if pair[0] != pair[1]]
            first = differing[0] if differing else "one has layers that the other has not"
            sys.exit(f"{case.net}: the two nets differ: {first}")
        print(f"{case.net}: {len(our_layers)} layers alike, {ours['parameters']} parameters", flush=True)


def processor_ticks():
    """What all cores spent in work, and in all, since the machine started; (0, 0) where Linux does not tell."""
    stat = Path("/proc/stat")
    ticks = [int(field) for field in stat.read_text().splitlines()[0].split()[1:9]] if stat.exists() else [0] * 8
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def share_of_others():
    """How much of the processor other programs use: of three seconds in which this one sleeps."""
    busy, total = processor_ticks()
    time.sleep(3)
    busy_after, total_after = processor_ticks()
    return (busy_after - busy) / max(1, total_after - total)


class Samples:
    """What the rounds gave, by table, case, threads and contestant."""

    def __init__(self):
        self.results = {}
        self.share_of_others = 0.0

    def add(self, table, case, threads, contestant, result):
        self.results.setdefault((table, case.name, threads, contestant), []).append(result)

    def values(self, table, case, threads, contestant, field="step_ms"):
        return [result[field] for result in self.results[table, case.name, threads, contestant]]

    def median(self, table, case, threads, contestant, field="step_ms"):
        return statistics.median(self.values(table, case, threads, contestant, field))

    def better_format(self, table, case, threads):
        return min([NCHW, CHANNELS_LAST], key=lambda contestant: self.median(table, case, threads, contestant))

    def ratio(self, table, case, threads, contestant):
        """PyTorch's time through ours: of the medians."""
        return self.median(table, case, threads, contestant) / self.median(table, case, threads, OURS)


class Peaks:
    """The best that the machine was seen to do, in GFLOP/s, by kind and threads."""

    KINDS = ["multiply-adds in registers", "sgemm 2048³, sparknet", "sgemm 2048³, PyTorch"]

    def __init__(self, folder):
        self.best = {}
        self.fma = folder / "fma_peak"
        self.gemm = folder / "gemm.prototxt"
        self.gemm.write_text(OUR_GEMM)
        run(["rustc", "--edition", "2024", "-O", "-o", self.fma, BENCH / "fma_peak.rs"])

    def measure(self, threads):
        ours = [SPARKNET, "time", "--json", "--phase", "test", "--model", self.gemm]
        ours += ["--threads", threads, "--iterations", 10]
        layers = json.loads(run(ours)[0])["layers"]
        for kind, gflops in zip(
            self.KINDS,
            [
                float(run([self.fma, threads])[0]),
                layers[1]["gflops"],
                float(run([sys.executable, "-c", PYTORCH_GEMM, threads])[0]),
            ],
            strict=True,
        ):
            self.best[kind, threads] = max(gflops, self.best.get((kind, threads), 0.0))

    def fma_gflops(self, threads):
        return self.best[self.KINDS[0], threads]

    def gemm_gflops(self, threads):
        return max(self.best[kind, threads] for kind in self.KINDS[1:])


def measure(args, peaks, samples):
    """Runs the rounds, and yields after each."""
    training = [case for case in TRAINING if case.net in args.nets]
    inference = [case for case in INFERENCE if case.net in args.nets]
    for number in range(args.rounds):
        order = CONTESTANTS[number % 3 :] + CONTESTANTS[: number % 3]
        samples.share_of_others = max(samples.share_of_others, share_of_others())
        if samples.share_of_others > QUIET:
            print(f"other programs use {samples.share_of_others:.0%} of the processor: {NOT_TO_QUOTE}", flush=True)
        for threads in (1, 2):
            peaks.measure(threads)
        plan = [("train", case, threads, None) for case in training for threads in (1, 2)]
        plan += [("inference", case, threads, None) for case in inference for threads in (1, 2)]
        plan += [("avx2", case, 2, AVX2) for case in training + inference]
        for table, case, threads, limits in plan:
            iterations = max(2, case.iterations // 5) if args.quick else case.iterations
            for contestant in order:
                result = run_case(case, contestant, threads, iterations, limits)
                samples.add(table, case, threads, contestant, result)
        print(f"round {number + 1} of {args.rounds} done", flush=True)
        yield number + 1


def with_quartiles(values, digits):
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def milliseconds(samples, table, case, threads, contestant):
    values = samples.values(table, case, threads, contestant)
    return with_quartiles(values, 2 if statistics.median(values) < 100 else 0)


def verdict(value, goal):
    return f"≥ {goal} {'yes' if value >= goal else '**no**'}"


def ratio_cells(samples, table, case, threads, goal):
    """Ours, both of PyTorch's, the ratio to both, and the better one against its goal."""
    cells = [milliseconds(samples, table, case, threads, contestant) for contestant in CONTESTANTS]
    cells += [f"{samples.ratio(table, case, threads, contestant):.2f}" for contestant in (NCHW, CHANNELS_LAST)]
    better = samples.better_format(table, case, threads)
    ours, theirs = (samples.values(table, case, threads, contestant) for contestant in (OURS, better))
    by_round = [their_ms / our_ms for our_ms, their_ms in zip(ours, theirs, strict=True)]
    ratio = samples.ratio(table, case, threads, better)
    low, _, high = statistics.quantiles(by_round, n=4, method="inclusive") if len(by_round) > 1 else by_round * 3
    return [*cells, f"{ratio:.2f} ({low:.2f}–{high:.2f})", verdict(ratio, goal)]


RATIO_HEADS = ["sparknet ms", "NCHW ms", "channels-last ms", "÷ NCHW", "÷ c.-last", "÷ the better", "goal"]


def table_text(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def training_table(samples, peaks, cases, threads):
    rows = []
    for case in cases:
        gflops = samples.median("train", case, threads, OURS, "gflops")
        share = gflops / peaks.gemm_gflops(threads)
        rows.append(
            [case.name, *ratio_cells(samples, "train", case, threads, case.goal_ratio)]
            + [f"{gflops:.0f}", f"{share:.0%}", verdict(share, case.goal_share) if case.goal_share else "–"]
            + [f"{gflops / peaks.fma_gflops(threads):.0%}"]
        )
    heads = ["net, batch", *RATIO_HEADS, "GFLOP/s", "of GEMM peak", "goal", "of FMA peak"]
    return table_text(heads, rows)


def ratio_table(samples, table, cases, threads, goal=None):
    rows = []
    for case in cases:
        title = case.name + (", inference" if case.phase == "test" else "")
        cells = ratio_cells(samples, table, case, threads, goal if goal is not None else case.goal_ratio)
        rows.append([title, *cells])
    return table_text(["net, batch", *RATIO_HEADS], rows)


def scaling_table(samples, cases):
    rows = []
    for case in cases:
        scaling = {
            contestant: samples.median("train", case, 1, contestant) / samples.median("train", case, 2, contestant)
            for contestant in CONTESTANTS
        }
        rows.append([case.name, f"{scaling[OURS]:.2f}", verdict(scaling[OURS], GOAL_SCALING)])
        rows[-1] += [f"{scaling[NCHW]:.2f}", f"{scaling[CHANNELS_LAST]:.2f}"]
    return table_text(["net, batch", "sparknet", "goal", "NCHW", "channels-last"], rows)


def passes_table(samples, cases):
    rows = []
    for case in cases:
        better = samples.better_format("train", case, 2)
        fields = ["forward_ms", "backward_ms", "update_ms"]
        times = [[samples.median("train", case, 2, who, field) for field in fields] for who in (OURS, better)]
        rows.append([case.name, *(f"{ours:.2f} / {theirs:.2f}" for ours, theirs in zip(*times, strict=True)), better])
    return table_text(["net, batch", "forward", "backward", "update", "PyTorch's format"], rows)


def memory_table(samples, case):
    rows = []
    for contestant in CONTESTANTS:
        libraries = 0.0
        if contestant != OURS:
            memory = samples.values("train", case, 2, contestant, "memory_kib")
            libraries = statistics.median(sample["libraries"] for sample in memory) / 1024
        peak = samples.median("train", case, 2, contestant, "peak_mib")
        rows.append([contestant, f"{peak:.0f}", f"{libraries:.0f}" if libraries else "–", f"{peak - libraries:.0f}"])
    return table_text(["CaffeNet 32, 2 threads", "peak MiB", "libraries alone", "difference"], rows)


def first_line(command):
    return run(command)[0].splitlines()[0]


def machine():
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = {line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")}
    flags = next((line.split(":")[1].split() for line in info.splitlines() if line.startswith("flags")), [])
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    sets = [name for name in ("avx2", "fma", "avx512f", "avx512_bf16") if name in flags]
    return (
        f"{', '.join(models) or platform.processor()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB; {' '.join(sets)}; "
        f"{platform.system()} {platform.release()}"
    )


def versions(samples):
    capabilities = {}
    for (table, _, _, contestant), results in samples.results.items():
        if contestant != OURS:
            capabilities.setdefault("AVX2 runs" if table == "avx2" else "all others", results[0]["capability"])
    torch = next(results[0]["torch"] for key, results in samples.results.items() if key[3] != OURS)
    kernels = ", ".join(f"{name}: {value}" for name, value in sorted(capabilities.items()))
    commit = first_line(["git", "rev-parse", "--short", "HEAD"])
    changed = run(["git", "status", "--porcelain", "--untracked-files=no"])[0].strip()
    return (
        f"{first_line([SPARKNET, '--version'])} at {commit}{' with changes' if changed else ''}, "
        f"{first_line(['rustc', '--version'])}; PyTorch {torch} (its kernels: {kernels}), "
        f"Python {platform.python_version()}"
    )


def report(args, rounds, samples, peaks):
    training = [case for case in TRAINING if case.net in args.nets]
    inference = [case for case in INFERENCE if case.net in args.nets]
    parts = [
        f"# SparkNet and PyTorch on one CPU, {datetime.date.today()}",
        f"- machine: {machine()}\n- versions: {versions(samples)}\n"
        f"- other programs: at most {samples.share_of_others:.0%} of the processor, seen before each round"
        f"{f'. **{NOT_TO_QUOTE}**' if samples.share_of_others > QUIET else ''}\n"
        f"- rounds: {rounds}{', quick: too few to quote' if args.quick else ''}. In each round every contestant "
        "runs each net once, in a process of its own and in turn, and gives the median of its steps.",
        "Times are medians over the rounds, with their quartiles in brackets. A ratio is PyTorch's median time through "
        "ours, above 1 where SparkNet is faster; in brackets the quartiles of the ratios of single rounds. A step is "
        "forward, backward and SGD with momentum and weight decay (PyTorch's fused one), float32, on data that lie in "
        "memory. GFLOP count the multiply-adds of convolutions and inner products twice.",
    ]
    if training:
        parts += ["## A training step, 2 threads", training_table(samples, peaks, training, 2)]
        parts += ["## A training step, 1 thread", training_table(samples, peaks, training, 1)]
        parts += ["## 1 thread's time through 2 threads'", scaling_table(samples, training)]
        parts += ["## The passes of a step, 2 threads: ms of sparknet / PyTorch", passes_table(samples, training)]
    if inference:
        parts.append(
            "## Inference, batch 1\n\nPhase TEST of the same files: GoogLeNet computes its auxiliary classifiers, and "
            "both nets their losses, on both sides."
        )
        for threads in (2, 1):
            title = f"{threads} thread{'s' if threads > 1 else ''}"
            parts.append(f"### {title}\n\n{ratio_table(samples, 'inference', inference, threads)}")
    limits = " ".join(f"{key}={value}" for key, value in AVX2.items())
    parts.append(f"## Both limited to AVX2, 2 threads\n\n`{limits}`")
    parts.append(ratio_table(samples, "avx2", training + inference, 2, GOAL_AVX2))
    caffenet = [case for case in training if case.net == "caffenet"]
    if caffenet:
        parts.append(
            "## Peak memory of a process that trains\n\nru_maxrss. PyTorch's libraries are what it holds after `import "
            "torch`, CUDA's libraries included where its build brings them along."
        )
        parts.append(memory_table(samples, caffenet[0]))
    rows = [[kind, *(f"{peaks.best[kind, threads]:.0f}" for threads in (1, 2))] for kind in Peaks.KINDS]
    parts.append("## The machine's peaks\n\nThe best of all rounds. The GEMM peak is that of the better product.")
    parts.append(table_text(["GFLOP/s", "1 thread", "2 threads"], rows))
    return "\n\n".join(parts) + "\n"


def result_path(quick):
    """bench/results/<date>.md, or <date>-2.md and so on for further runs of a day: a run never replaces another."""
    if quick:
        return BENCH / "results" / "quick.md"
    date = datetime.date.today().isoformat()
    path, number = BENCH / "results" / f"{date}.md", 1
    while path.exists():
        number += 1
        path = path.with_name(f"{date}-{number}.md")
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds of few steps, into bench/results/quick.md")
    parser.add_argument("--rounds", type=int, help="7, or 2 with --quick")
    parser.add_argument("--nets", nargs="+", default=[case.net for case in TRAINING], help="only these, by folder")
    parser.add_argument("--check", action="store_true", help="only check that both sides have the same nets")
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.quick else 7)
    unknown = set(args.nets) - {case.net for case in TRAINING}
    if unknown:
        parser.error(f"no such net: {', '.join(sorted(unknown))}")

    check_nets_are_the_same([case for case in TRAINING if case.net in args.nets])
    if args.check:
        return
    path = result_path(args.quick)
    path.parent.mkdir(exist_ok=True)
    samples, text = Samples(), ""
    with tempfile.TemporaryDirectory() as folder:
        peaks = Peaks(Path(folder))
        # After each round, so that whoever has no time for the rest has a report of those before.
        for rounds in measure(args, peaks, samples):
            text = report(args, rounds, samples, peaks)
            whole = path.with_suffix(".tmp")
            whole.write_text(text)
            whole.replace(path)
    if not args.quick:
        text += "\n## What a worker waits for data\n\n" + run([sys.executable, BENCH / "data_wait.py"])[0]
        path.write_text(text)
    print(f"\n{text}\nwritten to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
