#!/usr/bin/env python3
"""Draws a training run from its events: loss and test accuracy against iterations, as an SVG.

    sparknet train --solver models/lenet/solver.prototxt --workers 2 --tau 10 --events events.jsonl
    python3 docs/training_run.py events.jsonl docs/training-run.svg

Needs Python 3 and nothing else.
"""

import json
import math
import sys
from html import escape

WIDTH, HEIGHT = 760, 452
LEFT, RIGHT = 64, 112
LOSS_PANEL = (84, 244)  # top and bottom
ACCURACY_PANEL = (288, 388)
INK, MUTED, GRID = "#1f2328", "#656d76", "#d8dee4"
TRAIN, TEST, ACCURACY = "#9ab8e0", "#1f5fae", "#b3541e"


def read_events(path):
    """The events of a run by kind. A resumed run's events follow in the same file; so do here its points."""
    events = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            event = json.loads(line)
            events.setdefault(event["event"], []).append(event)
    return events


def steps(low, high, count):
    """About `count` round numbers from `low` to `high`."""
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def scale(low, high, start, end):
    return lambda value: start + (value - low) / (high - low) * (end - start)


def text(x, y, words, color=MUTED, anchor="start", size=12, weight="normal"):
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )


def line(points, color, width=2):
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}" stroke-linejoin="round"/>'


def dots(points, color):
    return [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in points]


def horizontal_grid(ticks, y, form):
    out = []
    for tick in ticks:
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="{GRID}"/>')
        out.append(text(LEFT - 8, y(tick) + 4, format(tick, form), anchor="end"))
    return out


def draw(events):
    start = events["start"][0]
    train = [(e["iteration"], e["loss"]) for e in events["iteration"]]
    # Before training a net guesses; that point would flatten the rest.
    tests = [e for e in events["test"] if e["iteration"] > 0 and e["net"] == 0]
    test_loss = [(e["iteration"], e["scores"]["loss"]) for e in tests]
    accuracy = [(e["iteration"], e["scores"]["accuracy"]) for e in tests]
    end = train[-1][0]

    x = scale(0, end, LEFT, WIDTH - RIGHT)
    top_loss = max(loss for _, loss in train + test_loss) * 1.05
    y_loss = scale(0, top_loss, LOSS_PANEL[1], LOSS_PANEL[0])
    values = [value for _, value in accuracy]
    low = math.floor(min(values) * 20) / 20
    high = min(1, math.ceil(max(values) * 20 + 0.1) / 20)
    y_accuracy = scale(low, high, ACCURACY_PANEL[1], ACCURACY_PANEL[0])

    title = f"{start['net']}, {start['workers']} workers, {start['sync']}"
    facts = f"{start['records']} training records, batches of {start['batch_size']} a worker, seed {start['seed']}"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="system-ui, sans-serif" role="img">',
        f"<title>{escape(title)}: test accuracy {values[-1]:.4f} after {end} iterations</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 26, title, INK, size=15, weight="600"),
        text(LEFT, 45, facts),
        *horizontal_grid(steps(0, top_loss, 4), y_loss, ".1f"),
        *horizontal_grid(steps(low, high, 2), y_accuracy, ".2f"),
        text(LEFT, LOSS_PANEL[0] - 10, "loss", INK, weight="600"),
        text(LEFT, ACCURACY_PANEL[0] - 10, "test accuracy", INK, weight="600"),
    ]
    # A point a display interval; the time of an iteration is that of the first event at or after it.
    for tick in steps(0, end, 6):
        seconds = next((e["elapsed_s"] for e in events["iteration"] if e["iteration"] >= tick), 0) if tick else 0
        out.append(text(x(tick), ACCURACY_PANEL[1] + 20, f"{tick:.0f}", anchor="middle"))
        out.append(text(x(tick), ACCURACY_PANEL[1] + 36, f"{seconds:.0f} s", anchor="middle", size=11))
    out.append(text(WIDTH - RIGHT + 32, ACCURACY_PANEL[1] + 20, "iterations"))

    def placed(points, y):
        return [(x(iteration), y(value)) for iteration, value in points]

    for points, y, color in ((train, y_loss, TRAIN), (test_loss, y_loss, TEST), (accuracy, y_accuracy, ACCURACY)):
        out.append(line(placed(points, y), color))
    out += dots(placed(test_loss, y_loss), TEST) + dots(placed(accuracy, y_accuracy), ACCURACY)

    # Labels at the ends of their lines, kept apart where the lines meet.
    label_x = WIDTH - RIGHT + 12
    ends = [[y_loss(test_loss[-1][1]), f"test {test_loss[-1][1]:.3f}", TEST]]
    ends.append([y_loss(train[-1][1]), f"training {train[-1][1]:.3f}", "#5b84bd"])
    ends.sort(key=lambda end: end[0])
    ends[1][0] = max(ends[1][0], ends[0][0] + 16)
    ends.append([y_accuracy(values[-1]), f"{values[-1]:.4f}", ACCURACY])
    out += [text(label_x, y + 4, words, color, weight="600") for y, words, color in ends]
    return "\n".join(out + ["</svg>", ""])


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: training_run.py EVENTS.jsonl OUT.svg")
    picture = draw(read_events(sys.argv[1]))
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        out.write(picture)


if __name__ == "__main__":
    main()
