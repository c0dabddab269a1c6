"""Losses of a run as a chart in characters, or as a picture. Draws points, and does nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

WIDTH, HEIGHT = 72, 16


def chart(points: Sequence[tuple[float, float]], *, width: int = WIDTH, height: int = HEIGHT) -> str:
    """Points (x, y) in a frame of characters, y rising upwards, with the ranges of both written beside it; raises ValueError when nothing is finite."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not finite:
        raise ValueError(f"none of {len(points)} points is finite; train first, then draw")
    left, right = min(x for x, _ in finite), max(x for x, _ in finite)
    low, high = min(y for _, y in finite), max(y for _, y in finite)
    cells = [[" "] * width for _ in range(height)]
    for x, y in finite:
        column = round((x - left) / (right - left) * (width - 1)) if right > left else 0
        row = round((high - y) / (high - low) * (height - 1)) if high > low else 0
        cells[row][column] = "*"
    labels = [f"{high:.4g}", *[""] * (height - 2), f"{low:.4g}"]
    margin = max(map(len, labels))
    lines = [f"{label:>{margin}} |{''.join(cell).rstrip()}" for label, cell in zip(labels, cells, strict=True)]
    axis = f"{left:g}".ljust(width - len(f"{right:g}")) + f"{right:g}"
    return "\n".join([*lines, f"{'':>{margin}} +{'-' * width}", f"{'':>{margin}}  {axis}"])


def picture(points: Sequence[tuple[float, float]], *, x: str, y: str, file: Path) -> None:
    """The same points as a picture (the suffix says which kind). Raises ImportError without matplotlib, OSError, ValueError for another suffix."""
    from matplotlib.figure import Figure  # an extra: only pictures need it

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.plot([x for x, _ in points], [y for _, y in points], marker=".", linewidth=1.5)
    axes.grid(alpha=0.3)
    figure.savefig(file)
