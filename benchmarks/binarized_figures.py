"""Figures 2 to 6 of Khalil, Gupta and Dilkina (2019), of the answers that `binarized.py` has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from binarized_records import Flip

__all__ = ["draw"]

STEPS = ("iprop", "iprop-1", "iprop-2%", "iprop-5%", "iprop-10%")
STARTS = ("iprop", "iprop-warm")


def draw(found: Sequence[Flip], folder: Path) -> list[Path]:
    """One PNG a figure, of those attacks that were run.

    Returns:
        what was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ran = tuple(dict.fromkeys(a.attack for a in found))
    compared = tuple(name for name in ran if name == "iprop" or name not in STEPS)
    plots: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
        "flips": (_flips, compared),
        "objective": (_objective, tuple(n for n in compared if n != "milp")),
        "over_time": (_over_time, tuple(n for n in compared if n != "milp")),
        "steps": (_flips, tuple(n for n in ran if n in STEPS)),
        "starts": (_flips, tuple(n for n in ran if n in STARTS)),
    }
    return [
        _figure(found, names, plot, folder / f"{title}.png")
        for title, (plot, names) in plots.items()
        if len(names) > 1
    ]


def _figure(
    found: Sequence[Flip], names: Sequence[str], plot: Callable[..., None], path: Path
) -> Path:
    radii = sorted({a.eps for a in found})
    sizes = tuple(dict.fromkeys(a.size for a in found))
    figure = Figure(figsize=(3.2 * len(radii) + 1.2, 3.4), layout="constrained")
    every = figure.subplots(1, len(radii), sharey=True, squeeze=False)[0]
    for axes, eps in zip(every, radii, strict=True):
        plot(axes, [a for a in found if a.eps == eps], names, sizes)
        axes.set_title(f"eps {eps:g}", fontsize="medium")
    drawn, labels = every[-1].get_legend_handles_labels()
    if drawn:
        figure.legend(drawn, labels, loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=130)
    return path


def _flips(axes: Axes, found: Sequence[Flip], names: Sequence[str], sizes: Sequence[str]) -> None:
    """Share of images flipped, by network and attack."""
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        mine = [[a.flipped for a in found if (a.attack, a.size) == (name, s)] for s in sizes]
        shares = [float(np.mean(flips)) if flips else 0.0 for flips in mine]
        at = np.arange(len(sizes)) + (place - (len(names) - 1) / 2) * width
        axes.bar(at, shares, width, label=name)
    axes.set_xticks(range(len(sizes)), sizes, rotation=45, fontsize="small")
    axes.set_ylabel("share flipped")


def _objective(
    axes: Axes, found: Sequence[Flip], names: Sequence[str], sizes: Sequence[str]
) -> None:
    """Objectives as shares of the greatest that signs could have, by attack, all networks."""
    del sizes
    values = [[a.objective / a.scale for a in found if a.attack == name] for name in names]
    axes.boxplot(values, showmeans=True)
    axes.set_xticks(range(1, len(names) + 1), names, rotation=45, fontsize="small")
    axes.axhline(0.0, color="black", linewidth=0.6)
    axes.set_ylabel("objective, as a share")


def _over_time(
    axes: Axes, found: Sequence[Flip], names: Sequence[str], sizes: Sequence[str]
) -> None:
    """Mean objective after so many seconds, as a share, all networks."""
    del sizes
    stamps = np.linspace(0.0, max(a.limit for a in found), 100)
    for name in names:
        curves = [_curve(a, stamps) for a in found if a.attack == name]
        if curves:
            axes.plot(stamps, np.mean(curves, axis=0), label=name)
    axes.set_xlabel("processor seconds")
    axes.set_ylabel("mean objective, as a share")


def _curve(answer: Flip, stamps: np.ndarray) -> np.ndarray:
    best = np.full(len(stamps), answer.clean)
    for second, objective in answer.history:
        best = np.where(stamps >= second, np.maximum(best, objective), best)
    return np.asarray(best / answer.scale)
