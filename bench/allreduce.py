"""Times the all-reduce of two processes over loopback in SparkNet and in PyTorch's gloo, and writes bench/results/.

A round runs each number of floats once with each contestant, one after the other, in an order that changes from round
to round. Each run starts two processes, and gives the median of its calls on worker 0; a barrier before each call is
not timed. First: cargo build --release -p sparknet-sync --example all_reduce
"""

import argparse
import datetime
import json
import os
import socket
import statistics
import subprocess
import sys
from dataclasses import dataclass

from compare import (
    BENCH,
    NOT_TO_QUOTE,
    QUIET,
    ROOT,
    TARGET,
    machine,
    share_of_others,
    table_text,
    verdict,
    with_quartiles,
)

EXAMPLE = TARGET / "release" / "examples" / "all_reduce"

GLOO = """
import os, statistics, sys, time
import torch
import torch.distributed as dist
rank, world, floats, rounds, port = (int(argument) for argument in sys.argv[1:6])
torch.set_num_threads(1)
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
values, seconds = torch.ones(floats), []
for number in range(3 + rounds):
    dist.barrier()
    begin = time.perf_counter()
    dist.all_reduce(values)
    if number >= 3:
        seconds.append(time.perf_counter() - begin)
    assert bool((values == world).all())
    values.fill_(1.0)
dist.barrier()
print('{"seconds": %g}' % statistics.median(seconds), flush=True)
os._exit(0)  # gloo's threads may abort a process that ends in the usual way
"""

SPARKNET, F16, GLOO_NAME = CONTESTANTS = ["sparknet", "sparknet, f16", "gloo"]


@dataclass(frozen=True)
class Case:
    """One line of the table. The goal is the least ratio of gloo's time to ours that counts as reached."""

    floats: int
    calls: int
    goal: float


CASES = [Case(60_965_224, 12, 1.3), Case(145_000, 1000, 1.0)]


def free_ports(count: int) -> int:
    """The first of some ports in a row of which nobody listens on the first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return min(port, 65535 - count)


def run_case(contestant: str, floats: int, calls: int) -> float:
    """Milliseconds of the median call of worker 0."""
    port = free_ports(2)
    commands = []
    for rank in (0, 1):
        arguments = [str(number) for number in (rank, 2, floats, calls, port)]
        if contestant == GLOO_NAME:
            commands.append([sys.executable, "-c", GLOO, *arguments])
        else:
            commands.append([str(EXAMPLE), *arguments, "f16" if contestant == F16 else "none"])
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    outputs = [worker.communicate()[0] for worker in workers]
    for worker in workers:
        if worker.returncode != 0:
            sys.exit(f"{contestant}, {floats} floats: a worker failed with status {worker.returncode}")
    return json.loads(outputs[0])["seconds"] * 1e3


def report(samples: dict, rounds: int, others: float) -> str:
    rows = []
    for case in CASES:
        times = {contestant: samples[case.floats, contestant] for contestant in CONTESTANTS}
        digits = 1 if case.floats > 1_000_000 else 3
        median = {contestant: statistics.median(values) for contestant, values in times.items()}
        rows.append(
            [f"{case.floats:,}"]
            + [with_quartiles(times[contestant], digits) for contestant in CONTESTANTS]
            + [f"{4 * case.floats / median[contestant] / 1e6:.2f}" for contestant in (SPARKNET, GLOO_NAME)]
            + [f"{median[GLOO_NAME] / median[contestant]:.2f}" for contestant in (SPARKNET, F16)]
            + [verdict(median[GLOO_NAME] / median[SPARKNET], case.goal)]
        )
    heads = ["floats", "sparknet ms", "f16 ms", "gloo ms", "sparknet GB/s", "gloo GB/s", "÷ gloo", "f16 ÷ gloo", "goal"]
    busy = f". **{NOT_TO_QUOTE}**" if others > QUIET else ""
    parts = [
        f"# All-reduce of two processes over loopback, {datetime.date.today()}",
        f"- machine: {machine()}\n- load when it ended: {os.getloadavg()[0]:.1f}; other programs: "
        f"at most {others:.0%} of the processor, seen before each round{busy}\n- rounds: {rounds}",
        "Milliseconds of a call: medians over the rounds of the runs' medians, with quartiles. GB/s count each "
        "float of a worker once. Ratios are gloo's time through ours, above 1 where SparkNet is faster; "
        "the goal is for the exact all-reduce, f16 is another thing.",
        table_text(heads, rows),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="3 rounds of few calls, nothing written")
    args = parser.parse_args()
    if not EXAMPLE.exists():
        parser.error(f"{EXAMPLE} is missing: cargo build --release -p sparknet-sync --example all_reduce")
    rounds = 3 if args.quick else args.rounds
    samples: dict = {}
    others = 0.0
    for number in range(rounds):
        others = max(others, share_of_others())
        if others > QUIET:
            print(f"other programs use {others:.0%} of the processor: {NOT_TO_QUOTE}", flush=True)
        order = CONTESTANTS[number % 3 :] + CONTESTANTS[: number % 3]
        for case in CASES:
            for contestant in order:
                calls = max(3, case.calls // 4) if args.quick else case.calls
                samples.setdefault((case.floats, contestant), []).append(run_case(contestant, case.floats, calls))
        print(f"round {number + 1} of {rounds} done", flush=True)
    text = report(samples, rounds, others)
    print(f"\n{text}")
    if not args.quick:
        path = BENCH / "results" / f"allreduce-{datetime.datetime.now():%Y-%m-%d-%H%M}.md"
        path.parent.mkdir(exist_ok=True)
        whole = path.with_suffix(".tmp")
        whole.write_text(text)
        whole.replace(path)
        print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
