"""Pictures of an evaluation: confusion matrix, reliability diagram, risk against coverage, as PNG files.

Draws what evaluate.py found; reckons nothing. Needs matplotlib (the extra curves).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from experts.durable import ensure_folder, write_bytes
from routing.evaluate import ABSTAINED, Evaluation

INCHES = (6.0, 5.0)


def draw(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write confusion.png, reliability.png and risk_coverage.png into folder, made if need be. Raises ValueError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("pictures need matplotlib; install it: pip install \"branchwise[curves]\"") from error
    ensure_folder(folder)
    files = []
    for name, painter in PICTURES.items():
        figure = Figure(figsize=INCHES, layout="constrained")
        painter(figure.add_subplot(), evaluation)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=120)
        files.append(folder / f"{name}.png")
        write_bytes(files[-1], picture.getvalue())
    return files


def confusion_shares(evaluation: Evaluation) -> tuple[list[str], list[str], Any]:
    """Labels, answers, and the share of each label's rows (one row a label) that each answer got."""
    labels = list(evaluation.confusion)
    answers = [*(label for label in labels if any(label in row for row in evaluation.confusion.values())),
               *sorted({answer for row in evaluation.confusion.values() for answer in row} - {*labels, ABSTAINED}), ABSTAINED]
    table = np.array([[evaluation.confusion[label].get(answer, 0) for answer in answers] for label in labels], dtype=np.float64)
    return labels, answers, table / table.sum(axis=1, keepdims=True)


def _confusion(axes: Any, evaluation: Evaluation) -> None:
    labels, answers, shares = confusion_shares(evaluation)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(answers)), answers, rotation=30, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    for row in range(len(labels)):
        for column in range(len(answers)):
            share = shares[row, column]
            if share:
                axes.text(column, row, f"{share:.1%}", ha="center", va="center", fontsize=8, color="white" if share > 0.5 else "black")
    axes.set_xlabel("decided")
    axes.set_ylabel("label")
    axes.set_title(f"accuracy {evaluation.accuracy:.1%} on {evaluation.n - evaluation.n_ood} prompts of the domains")


def _reliability(axes: Any, evaluation: Evaluation) -> None:
    bins = evaluation.reliability
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="as sure as right")
    axes.plot([part["confidence"] for part in bins], [part["accuracy"] for part in bins], marker="o", label="router")
    axes.bar([part["confidence"] for part in bins], [part["share"] for part in bins], width=0.03, alpha=0.3, label="share of the prompts")
    axes.set_xlabel("mean confidence of a bin")
    axes.set_ylabel("accuracy")
    axes.set_title(f"expected calibration error {evaluation.ece:.3f}")
    axes.legend()


def _risk_coverage(axes: Any, evaluation: Evaluation) -> None:
    curve = evaluation.risk_coverage
    axes.plot([point["coverage"] for point in curve], [point["risk"] for point in curve], marker=".")
    axes.axvline(evaluation.coverage, color="grey", linestyle=":", label=f"threshold in force: coverage {evaluation.coverage:.1%}")
    axes.set_xlabel("coverage")
    axes.set_ylabel("risk: share of errors among what is covered")
    axes.set_ylim(bottom=0)
    axes.set_title("risk against coverage")
    axes.legend()


PICTURES: MappingProxyType[str, Callable[[Any, Evaluation], None]] = MappingProxyType(
    {"confusion": _confusion, "reliability": _reliability, "risk_coverage": _risk_coverage})
