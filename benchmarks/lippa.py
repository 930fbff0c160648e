"""LiPPA's second table: robust error of MNIST networks, the region walk and PGD beside it.

A break counts when onnxruntime confirms it. Then the first table: how many pieces random points of
a ball lie in, and how many ReLUs change sign among them. Run with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import click
import numpy as np
import torch

import closegap as cg
from closegap.attacks.activation.query_attack import run_attack
from closegap.attacks.patterns import activation_patterns, pack
from closegap.attacks.registry import make_attack
from closegap.core.budget import Budget
from closegap.graph.network import Network
from closegap.runtime.cache import compiled, replayer
from common import data_root, print_table

#: Network, radius, and the error that the LiPPA paper reports on the first 1000 images.
PUBLISHED = (
    ("NOR_MLP_B", 0.05, 63.3),
    ("ADV_MLP_B_0.1", 0.1, 20.4),
    ("LPD_MLP_B_0.2", 0.2, 36.3),
)
ATTACKS = ("mt-pgd", "lippa", "region-walk")


def images(network: Network, count: int) -> tuple[np.ndarray, list[int]]:
    archive = np.load(data_root() / "mnist/t10k.npz")
    pictures = archive["images"][:count].reshape(-1, *network.input_shape) / 255.0
    return pictures, archive["labels"][:count].astype(int).tolist()


def error(
    model: str, radius: float, wanted: float, name: str, limit: int, seconds: float
) -> list[str]:
    """A row: how many images lose their label, and the processor seconds of one attack."""
    network = cg.load(data_root() / f"models/lippa/{model}.onnx")
    spent: dict[bool, list[float]] = {True: [], False: []}
    wrong = 0
    for image, label in zip(*images(network, limit), strict=True):
        query = cg.robustness(network, image, label, radius)
        clean = replayer(network).witness(query, image.astype(np.float32))
        if clean is not None and clean.breaks:
            wrong += 1
            continue
        begun = time.process_time()
        attack, budget = make_attack(name), Budget.of_seconds(seconds)
        (outcome,) = run_attack(compiled(network, torch.float32), [query], attack, budget)
        seen = (replayer(network).witness(query, point) for point in outcome.points[:4])
        broken = any(w is not None and w.breaks for w in seen)
        spent[broken].append(time.process_time() - begun)
    total = 100 * (wrong + len(spent[True])) / limit
    times = (f"{median(spent[which]):.3f}" if spent[which] else "-" for which in (True, False))
    return [
        model,
        f"{radius}",
        name,
        f"{100 * wrong / limit:.1f}",
        f"{total:.1f}",
        f"{wanted}",
        *times,
    ]


def pieces(model: str, limit: int, samples: int) -> list[str]:
    """A row: means over images of the pieces found and of the ReLUs that change sign."""
    network = cg.load(data_root() / f"models/lippa/{model}.onnx")
    random = np.random.default_rng(0)
    found: Sequence[tuple[int, int]] = [
        _pieces(network, image, random, samples) for image in images(network, limit)[0]
    ]
    regions, changing = np.mean(np.array(found), axis=0)
    return [model, f"{changing:.1f}", f"{regions:.0f}"]


def _pieces(
    network: Network, image: np.ndarray, random: np.random.Generator, samples: int
) -> tuple[int, int]:
    noise = random.uniform(-0.05, 0.05, size=(samples, *image.shape))
    points = np.clip(image + noise, 0.0, 1.0).astype(np.float32)
    patterns = activation_patterns(compiled(network, torch.float32), points)
    changing = int((patterns.any(axis=0) & ~patterns.all(axis=0)).sum())
    return len(np.unique(pack(patterns), axis=0)), changing


@click.command(help=__doc__)
@click.option("--limit", default=100, show_default=True, help="the first so many images")
@click.option("--seconds", default=30.0, show_default=True, help="for one attack on one image")
@click.option("--samples", default=6144, show_default=True, help="points of the second table")
def main(limit: int, seconds: float, samples: int) -> None:
    torch.set_num_threads(1)
    rows = [error(*one, name, limit, seconds) for one in PUBLISHED for name in ATTACKS]
    columns = ("network", "eps", "attack", "clean %", "error %", "published %", "hit s", "miss s")
    print_table(f"robust error, first {limit} images, median cpu s", columns, rows)
    counted = [pieces(model, min(limit, 100), samples) for model, *_ in PUBLISHED]
    title = f"{samples} points within 0.05, means of {min(limit, 100)} images"
    print_table(title, ("network", "ReLUs that change", "pieces"), counted)


if __name__ == "__main__":
    main()
