"""What `sparse.py` says of pictures: how many attacks succeed, how sparse and how visible they are,
and how near attacks come to the least distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, median

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.registry import make_method
from closegap.attacks.minimal.attack import replayed
from closegap.attacks.minimal.grid import as_picture
from closegap.attacks.minimal.registry import make_minimal
from closegap.core.budget import Budget
from closegap.core.numerics import NEARER_SHARE
from closegap.data import DataSet
from closegap.evaluate import Question
from closegap.evaluate.attacking import attack_data
from closegap.evaluate.metrics import PictureMetrics, picture_metrics
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import Grid, ObjectiveOptions, make_objective
from closegap.strategy.distance import minimise_distance
from sparse_runs import cpu_seconds

__all__ = ["attack_rows", "point_row", "quality_row"]

#: By distance, the attacks that minimise it and the norm they are asked for.
RIVALS: dict[str, tuple[tuple[str, float], ...]] = {
    "l0": (("sigma-zero", 0.0), ("fmn", 0.0), ("sparsefool", 0.0)),
    "l1": tuple((name, 1.0) for name in ("ead", "fmn", "fab-nearest", "sparsefool", "deepfool")),
    "l2": tuple((name, 2.0) for name in ("cw", "fmn", "fab-nearest", "deepfool")),
    "linf": tuple((name, math.inf) for name in ("fmn", "fab-nearest", "deepfool")),
}
#: Lanes of those that go for each class by itself.
LANES = {"fab-nearest": 10}

Points = list[NDArray[np.float32] | None]


def attack_rows(
    model: str,
    asked: Sequence[DistanceQuery],
    distances: Sequence[str],
    eps: float,
    seconds: float,
    options: ObjectiveOptions,
) -> list[list[str]]:
    """A row for each attack and each distance.

    An attack succeeds on an image where its point, replayed, loses the label; and after rounding
    where an 8-bit picture of it does. Where the nearest levels keep the label others are tried:
    how many such pictures were repaired is said beside. Sparsity, invisibility, PSNR, SSIM and
    pixels are of these pictures, means over those that lose the label.

    Args:
        model: its name, for the rows.
        asked: of correctly classified images.
        distances: minimised exactly.
        eps: radius of FGSM and PGD.
        seconds: for one image and distance.
        options: of the distances.
    """
    bounded: dict[str, Callable[[], Points]] = {
        "FGSM": lambda: _bounded("fgsm", asked, eps, seconds),
        "PGD": lambda: _bounded("pgd", asked, eps, seconds),
        "C&W": lambda: _carlini_wagner(asked, seconds),
    }
    rows = []
    for name, run in bounded.items():
        began = cpu_seconds()
        rows.append(point_row(model, name, asked, run(), "-", cpu_seconds() - began))
    for name in distances:
        began = cpu_seconds()
        points, closed = _exact(name, asked, seconds, options)
        rows.append(point_row(model, f"exact {name}", asked, points, closed, cpu_seconds() - began))
    return rows


def _bounded(name: str, asked: Sequence[DistanceQuery], eps: float, seconds: float) -> Points:
    data = DataSet(
        np.stack([query.image for query in asked]),
        np.array([query.label for query in asked]),
        np.arange(len(asked)),
        "images",
    )
    question = Question(eps, timeout=seconds)
    found = attack_data(asked[0].network, data, question, make_method(name))
    witnesses = [image.bracket.witness for image in found]
    return [None if w is None or not w.breaks else w.input for w in witnesses]


def _carlini_wagner(asked: Sequence[DistanceQuery], seconds: float) -> Points:
    budget = Budget.of_seconds(seconds * len(asked))
    return [near.point for near in make_minimal("cw").run_all(asked, budget)]


def _exact(
    name: str, asked: Sequence[DistanceQuery], seconds: float, options: ObjectiveOptions
) -> tuple[Points, str]:
    points: Points = []
    closed = 0
    for query in asked:
        objective = make_objective(name, query.image, options=options)
        result = minimise_distance(replace(query, objective=objective), timeout=seconds)
        points.append(result.witness)
        closed += result.closed
    return points, f"{closed} of {len(asked)}"


def point_row(
    model: str,
    name: str,
    asked: Sequence[DistanceQuery],
    points: Points,
    closed: str,
    spent: float,
) -> list[str]:
    """Of one attack, from the points that it found."""
    judged = [
        (query, point)
        for query, point in zip(asked, points, strict=True)
        if point is not None and replayed(query)(point, query.distance(point))
    ]
    rounded = [(query, *as_picture(query, point)) for query, point in judged]
    measured = [_metrics(query, levels) for query, levels, _ in rounded if levels is not None]
    repaired = sum(levels is not None and bool(note) for _, levels, note in rounded)
    means = ["-"] * 5
    if measured:
        means = [
            f"{fmean(m.sparsity for m in measured):.1f}",
            f"{fmean(m.invisibility for m in measured):.1f}",
            f"{fmean(m.psnr for m in measured):.1f}",
            f"{fmean(m.ssim for m in measured):.3f}",
            f"{fmean(m.pixels for m in measured):.1f}",
        ]
    success = [f"{100 * len(held) / len(asked):.0f}" for held in (judged, measured)]
    return [model, name, *success, str(repaired), *means, closed, f"{spent / len(asked):.1f}"]


def _metrics(query: DistanceQuery, levels: UInt8[np.ndarray, "..."]) -> PictureMetrics:
    """Of an 8-bit picture beside the clean one's."""
    entries = Grid.of(query.network.input_shape).entries
    return picture_metrics(query.image.reshape(-1)[entries], levels.reshape(-1)[entries] / 255)


def quality_row(title: str, asked: Sequence[DistanceQuery], seconds: float) -> list[str]:
    """How near the strategy comes, what of it is proved, and how far attacks stay.

    Of each attack also how often it came nearer, which is to be never. Of the strategy how many
    witnesses there are, how many of them lose the label as 8-bit pictures, and how many of these
    were repaired.

    Args:
        title: of the row.
        asked: queries of one distance.
        seconds: for one of them, for the strategy; attacks have it too.
    """
    began = cpu_seconds()
    results = [minimise_distance(query, timeout=seconds) for query in asked]
    spent = (cpu_seconds() - began) / len(asked)
    found = [result for result in results if math.isfinite(result.upper) and result.upper > 0]
    pictures = [
        as_picture(query, result.witness)
        for query, result in zip(asked, results, strict=True)
        if result.witness is not None
    ]
    lasting = [note for levels, note in pictures if levels is not None]
    beside = []
    for name, norm in RIVALS.get(asked[0].objective.name, ()):
        began = cpu_seconds()
        attack = make_minimal(name, AttackOptions(restarts=LANES.get(name)), norm)
        nearest = attack.run_all(asked, Budget.of_seconds(seconds * len(asked)), replayed)
        each = (cpu_seconds() - began) / len(asked)
        ratios = [
            near.distance / result.upper
            for near, result in zip(nearest, results, strict=True)
            if near.found and result.upper > 0
        ]
        farther = sum(ratio < 1 - NEARER_SHARE for ratio in ratios)
        text = f"x{median(ratios):.3f}" if ratios else "-"
        text += f", found {len(ratios)}, ours farther {farther}, {each:.1f} s"
        beside.append(f"{name} {text}")
    return [
        title,
        f"{sum(result.closed for result in results)} of {len(results)}",
        f"{len(pictures)}, {len(lasting)}, {sum(map(bool, lasting))}",
        f"{median(result.upper for result in found):.4g}" if found else "-",
        f"{median(result.lower / result.upper for result in found):.3f}" if found else "-",
        f"{spent:.1f}",
        "\n".join(beside) or "-",
    ]
