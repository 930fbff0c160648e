"""Least distances: brackets, beside the distances that published attacks reach.

MNIST images on an adversarially trained network. DeepFool, FMN, EAD and CW attacks come from
foolbox where it is installed; without it they are left out. Run with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median
from typing import Any

import click
import numpy as np
import torch

import closegap as cg
from closegap.graph.network import Network
from closegap.runtime.cache import compiled
from closegap.specs.distance import DistanceQuery
from closegap.strategy.distance import DistanceResult, minimise_distance
from common import data_root, print_table

NORMS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
#: By norm, the foolbox attacks that minimise it.
RIVALS: dict[str, tuple[str, ...]] = {
    "linf": ("LinfDeepFoolAttack", "LInfFMNAttack"),
    "l2": ("L2DeepFoolAttack", "L2CarliniWagnerAttack", "L2FMNAttack"),
    "l1": ("EADAttack", "L1FMNAttack"),
}
#: Ten thousand steps nine times over, their default, take minutes an image.
SIZES = {"steps": 1000, "binary_search_steps": 5}
SIZED = ("L2CarliniWagnerAttack", "EADAttack")


def rival(name: str, network: Network, query: DistanceQuery) -> float:
    """The distance one foolbox attack reaches; infinity where it fails."""
    import foolbox

    exact = compiled(network, torch.float32)
    wrapped = _Module(exact)
    model = foolbox.PyTorchModel(wrapped, bounds=(0, 1), device="cpu")
    attack: Callable[..., Any] = getattr(foolbox.attacks, name)(**(SIZES if name in SIZED else {}))
    image = torch.as_tensor(query.image).reshape(1, *network.input_shape)
    _, found, success = attack(model, image, torch.tensor([query.label]), epsilons=None)
    return query.distance(found[0].numpy()) if bool(success[0]) else math.inf


class _Module(torch.nn.Module):
    """The network as foolbox wants it."""

    def __init__(self, network: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._network = network
        self.eval()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs `[B, C]`."""
        return self._network(inputs)


def row(norm: str, queries: list[DistanceQuery], network: Network, seconds: float) -> list[str]:
    begun = time.process_time()
    results = [minimise_distance(query, timeout=seconds) for query in queries]
    spent = (time.process_time() - begun) / len(queries)
    closed = sum(result.closed for result in results)
    gap = median(result.lower / result.upper for result in results if result.upper > 0)
    beside = [_beside(name, queries, results, network) for name in RIVALS[norm]]
    return [
        norm,
        f"{closed} of {len(results)}",
        f"{median(result.upper for result in results):.4f}",
        f"{gap:.2f}",
        f"{spent:.1f}",
        "; ".join(beside),
    ]


def _beside(
    name: str, queries: list[DistanceQuery], results: list[DistanceResult], network: Network
) -> str:
    """How much farther a rival's points lie, and how often nearer."""
    if find_spec("foolbox") is None:
        return f"{name} -"
    reached = [rival(name, network, query) for query in queries]
    ratios = [d / r.upper for d, r in zip(reached, results, strict=True) if r.upper > 0]
    nearer = sum(ratio < 1 for ratio in ratios)
    return f"{name} x{median(ratios):.3f}, nearer {nearer}"


@click.command(help=__doc__)
@click.option("--limit", default=50, show_default=True, help="the first so many images")
@click.option("--seconds", default=60.0, show_default=True, help="for one image")
@click.option("--norm", type=click.Choice(list(NORMS)), help="only this one")
def main(limit: int, seconds: float, norm: str | None) -> None:
    torch.set_num_threads(1)
    network = cg.load(data_root() / "models/lippa/ADV_MLP_B_0.1.onnx")
    archive = np.load(data_root() / "mnist/t10k.npz")
    images = (archive["images"][:limit].reshape(-1, *network.input_shape) / 255.0).astype("f4")
    labels = archive["labels"][:limit].astype(int).tolist()
    rows = []
    for name in [norm] if norm else NORMS:
        queries = [
            DistanceQuery.of_norm(network, image, label, NORMS[name])
            for image, label in zip(images, labels, strict=True)
        ]
        rows.append(row(name, queries, network, seconds))
    title = f"least distances, ADV_MLP_B_0.1, first {limit} images, {seconds:g} s each"
    columns = ("norm", "closed", "median upper", "lower/upper", "cpu s", "rivals' distance")
    print_table(title, columns, rows)


if __name__ == "__main__":
    main()
