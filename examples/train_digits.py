"""Train the networks that closegap carries: a small CNN and an MLP on scikit-learn's digits.

    python examples/train_digits.py [FOLDER]

Both are trained against linf perturbations: most of the loss is taken at adversarial images (PGD),
a share at the worst case that interval arithmetic allows, with a radius that grows from zero. That
share keeps most ReLUs from changing sign inside the ball, which is what makes a network easy to
verify. Sources: Madry et al. 2018 (PGD training), Gowal et al. 2018 (interval bounds).

Runs on one thread with fixed seeds, about a minute in all.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor, nn

import closegap
from closegap.data import digits_split

__all__ = ["RECIPES", "Recipe", "train"]

PACKAGED = Path(closegap.__file__).parent / "demo"
Interval: TypeAlias = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Recipe:
    """How one network is built and trained.

    Attributes:
        build: makes the untrained network.
        eps: the linf radius it is trained for, in pixel units of [0, 1].
        interval_share: weight of the interval loss once the radius has grown.
        epochs: passes over the training images.
        warm_up: share of the epochs in which radius and weight grow from 0.
        batch: images a step.
        rate: peak learning rate of Adam.
        seed: of weights, order and starting points.
    """

    build: Callable[[], nn.Sequential]
    eps: float = 0.1
    interval_share: float = 0.02
    epochs: int = 150
    warm_up: float = 0.5
    batch: int = 100
    rate: float = 5e-3
    seed: int = 0


def cnn() -> nn.Sequential:
    """Two strided convolutions and two dense layers: 192 + 96 + 48 ReLUs."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 48),
        nn.ReLU(),
        nn.Linear(48, 10),
    )


def mlp() -> nn.Sequential:
    """Three dense layers: 64 + 32 ReLUs."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


RECIPES: dict[str, Recipe] = {"digits_cnn": Recipe(cnn), "digits_mlp": Recipe(mlp)}


def ball(images: Tensor, eps: float) -> Interval:
    """The linf ball around each image, inside [0, 1]: two tensors like `images`."""
    return (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)


def through(layer: nn.Module, box: Interval) -> Interval:
    """Interval bounds of the layer's output from those of its input."""
    low, high = box
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        return layer(low), layer(high)  # monotone: ReLU, Flatten
    middle, radius = layer((low + high) / 2), (high - low) / 2
    if isinstance(layer, nn.Linear):
        spread = F.linear(radius, layer.weight.abs())
    else:
        spread = F.conv2d(radius, layer.weight.abs(), stride=layer.stride, padding=layer.padding[0])
    return middle - spread, middle + spread


def worst_logits(model: nn.Sequential, box: Interval, labels: Tensor) -> Tensor:
    """`[B, 10]`: least output at the label, greatest ones elsewhere, by interval arithmetic."""
    for layer in model:
        box = through(layer, box)
    low, high = box
    return torch.where(F.one_hot(labels, low.shape[1]).bool(), low, high)


def adversarial(model: nn.Sequential, box: Interval, labels: Tensor, steps: int = 7) -> Tensor:
    """Images in the box found by `steps` of projected gradient ascent on the cross-entropy."""
    low, high = box
    images = low + (high - low) * torch.rand_like(low)
    stride = 2.5 * (high - low) / 2 / steps
    for _ in range(steps):
        images.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(images), labels), images)
        images = (images.detach() + stride * gradient.sign()).clamp(low, high)
    return images


def train(recipe: Recipe, images: Tensor, labels: Tensor) -> nn.Sequential:
    """Train one network.

    Args:
        recipe: what and how.
        images: `[B, 1, 8, 8]` in [0, 1].
        labels: `[B]`.
    """
    torch.manual_seed(recipe.seed)
    model = recipe.build()
    batches = -(-len(images) // recipe.batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, epochs=recipe.epochs, steps_per_epoch=batches
    )
    for epoch in range(recipe.epochs):
        growth = min(1.0, epoch / (recipe.warm_up * recipe.epochs))
        for chosen in torch.randperm(len(images)).split(recipe.batch):
            loss = _loss(model, recipe, growth, (images[chosen], labels[chosen]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _loss(
    model: nn.Sequential, recipe: Recipe, growth: float, batch: tuple[Tensor, Tensor]
) -> Tensor:
    images, labels = batch
    box = ball(images, growth * recipe.eps)
    share = growth * recipe.interval_share
    attacked = F.cross_entropy(model(adversarial(model, box, labels)), labels)
    proved = F.cross_entropy(worst_logits(model, box, labels), labels)
    return (1 - share) * attacked + share * proved


def measure(model: nn.Sequential, images: Tensor, labels: Tensor, eps: float) -> dict[str, float]:
    """Shares of images: right; right under attack; proved right by interval arithmetic alone."""
    box = ball(images, eps)
    attacked = model(adversarial(model, box, labels, steps=50))
    with torch.no_grad():
        guesses = {
            "clean": model(images),
            "under attack": attacked,
            "interval": worst_logits(model, box, labels),
        }
    return {k: float((v.argmax(1) == labels).float().mean()) for k, v in guesses.items()}


def write_onnx(model: nn.Sequential, path: Path) -> None:
    """Export with a free batch dimension, weights inside, and no trace of the machine."""
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8),),
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch exported nothing")
    proto = program.model_proto
    values = [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.initializer, *values):
        part.ClearField("metadata_props")
    path.write_bytes(proto.SerializeToString())


def main(folder: Path) -> None:
    """Train, measure and write every network."""
    torch.set_num_threads(1)
    train_set, held_out = (
        (torch.from_numpy(part.images), torch.from_numpy(part.labels)) for part in digits_split()
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, recipe in RECIPES.items():
        began = time.perf_counter()
        model = train(recipe, *train_set)
        seconds = time.perf_counter() - began
        write_onnx(model, folder / f"{name}.onnx")
        shares = measure(model, *held_out, recipe.eps)
        words = ", ".join(f"{key} {100 * value:.1f} %" for key, value in shares.items())
        print(f"{name}: {words} at eps {recipe.eps}; trained in {seconds:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGED)
