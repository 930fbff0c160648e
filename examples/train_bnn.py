"""Train binarized networks: weights and hidden activations are +1 or -1.

    python examples/train_bnn.py [SIZE ...] --data mnist --folder bnn
    python examples/train_bnn.py --packaged

A SIZE is DEPTHxWIDTH, 2x100 for two hidden layers of 100 signs; without any, the eight of Khalil,
Gupta and Dilkina (2019). Layers have no bias but batch normalisation, the one of the outputs
included, so that hardly any two classes tie. Signs and weights pass gradients straight through
(Hubara et al., Binarized Neural Networks, 2016), and latent weights are clipped to [-1, 1].

MNIST and Fashion-MNIST train on their training images where these lie beside the test images; else
on the first 8,000 test images, shifted about by a pixel, with the last 2,000 held out. --packaged
makes the network for scikit-learn's digits that closegap carries. One thread, fixed seeds, about a
minute of processor time for the largest.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import onnx
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import closegap
from closegap.core.errors import DataError
from closegap.data import DataSet, digits_split, load_data, load_training

__all__ = ["SIZES", "BinaryNetwork", "Recipe", "Split", "split_of", "train", "write_onnx"]

PACKAGED = Path(closegap.__file__).parent / "demo" / "digits_bnn.onnx"
#: Depth and width of the networks in the paper.
SIZES = ("2x100", "2x200", "2x300", "2x400", "2x500", "3x100", "4x100", "5x100")
#: Test images that train where there are no training images.
BORROWED = 8000
CLASSES = 10


@dataclass(frozen=True)
class Recipe:
    """How one network is built and trained.

    Attributes:
        widths: signs of the hidden layers.
        epochs: passes over the training images.
        batch: images a step.
        rate: peak learning rate of Adam.
        shift: pixels by which images of a batch are moved at most.
        seed: of weights, order and shifts.
    """

    widths: tuple[int, ...]
    epochs: int = 40
    batch: int = 100
    rate: float = 5e-3
    shift: int = 1
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Split:
    """Images to train on, images held out, and in words which they are."""

    train: DataSet
    held_out: DataSet
    words: str


class Straight(torch.autograd.Function):
    """The sign, +1 at 0; gradients pass where its argument is within [-1, 1]."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return torch.where(values >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return torch.where(values.abs() <= 1, gradient, 0.0)


def signs(values: Tensor) -> Tensor:
    """See `Straight`."""
    result = Straight.apply(values)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


class BinaryNetwork(nn.Module):
    """Dense layers of weights +1 and -1, each batch-normalised, with signs between them.

    Args:
        inputs: pixels of an image.
        widths: of the hidden layers.
    """

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        sizes = [inputs, *widths, CLASSES]
        self.latent = nn.ParameterList(
            torch.empty(after, before).uniform_(-0.1, 0.1) for before, after in pairwise(sizes)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(size) for size in sizes[1:])

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, 10]`."""
        values = images.flatten(1)
        for place, (latent, norm) in enumerate(zip(self.latent, self.norms, strict=True)):
            values = norm(F.linear(signs(values) if place else values, signs(latent)))
        return values

    @torch.no_grad()
    def clip(self) -> None:
        """Clip the latent weights: beyond 1 they would only forget their sign more slowly."""
        for latent in self.latent:
            latent.clamp_(-1, 1)


def shifted(images: Tensor, most: int) -> Tensor:
    """All images of a batch moved by the same random pixels; what comes in is 0."""
    if not most:
        return images
    down, right = torch.randint(0, 2 * most + 1, (2,)).tolist()
    height, width = images.shape[-2:]
    padded = F.pad(images, (most, most, most, most))
    return padded[..., down : down + height, right : right + width]


def train(recipe: Recipe, data: DataSet) -> BinaryNetwork:
    """Train one network; the rate rises and falls over all steps."""
    torch.manual_seed(recipe.seed)
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    model = BinaryNetwork(images[0].numel(), recipe.widths)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.rate)
    batches = -(-len(images) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, epochs=recipe.epochs, steps_per_epoch=batches
    )
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(len(images)).split(recipe.batch):
            loss = F.cross_entropy(model(shifted(images[chosen], recipe.shift)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            model.clip()
    return model.eval()


def accuracy(model: BinaryNetwork, data: DataSet) -> float:
    """Share of images whose greatest logit is at their label."""
    with torch.no_grad():
        guessed = model(torch.from_numpy(data.images)).argmax(dim=1)
    return float((guessed == torch.from_numpy(data.labels)).float().mean())


def write_onnx(model: BinaryNetwork, shape: tuple[int, ...], path: Path) -> None:
    """Products, batch normalisations and signs, as ONNX has them.

    ONNX has sign(0) = 0: a comparison with 0 that chooses between 1 and -1 is the sign with
    sign(0) = +1.

    Args:
        model: trained.
        shape: of an image; the batch dimension is free.
        path: of the file.
    """
    nodes = [helper.make_node("Flatten", ["input"], ["x0"])]
    tensors = {"zero": torch.zeros(()), "one": torch.ones(()), "minus": -torch.ones(())}
    value, last = "x0", len(model.latent) - 1
    for place, (latent, norm) in enumerate(zip(model.latent, model.norms, strict=True)):
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None and norm.running_var is not None
        parts = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        names = [f"{kind}{place}" for kind in ("factor", "offset", "mean", "variance")]
        tensors |= dict(zip(names, parts, strict=True))
        tensors[f"weight{place}"] = signs(latent).T
        summed, normal, positive = f"sum{place}", f"normal{place}", f"positive{place}"
        after = "logits" if place == last else normal
        nodes += [
            helper.make_node("MatMul", [value, f"weight{place}"], [summed]),
            helper.make_node("BatchNormalization", [summed, *names], [after], epsilon=norm.eps),
        ]
        if place < last:
            value = f"sign{place}"
            nodes += [
                helper.make_node("GreaterOrEqual", [normal, "zero"], [positive]),
                helper.make_node("Where", [positive, "one", "minus"], [value]),
            ]
    _write(nodes, tensors, shape, path)


def _write(
    nodes: list[onnx.NodeProto], tensors: dict[str, Tensor], shape: tuple[int, ...], path: Path
) -> None:
    graph = helper.make_graph(
        nodes,
        "binarized",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(t.detach().contiguous().numpy(), n) for n, t in tensors.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def split_of(name: str) -> Split:
    """What to train on and what to hold out; see the top of this file.

    Raises:
        DataError: the set is not on disk; says where to put it.
    """
    if name == "digits":
        parts = digits_split()
        return Split(parts.train, parts.held_out, "the 1400 digits that are not held out")
    test, training = load_data(name), load_training(name)
    if training is not None:
        return Split(training, test, f"the {len(training.images)} training images")
    ends = slice(None, BORROWED), slice(BORROWED, None)
    first, rest = (
        DataSet(test.images[s], test.labels[s], test.indices[s], test.name, test.class_names)
        for s in ends
    )
    words = f"the first {BORROWED} test images (no training images on disk)"
    return Split(first, rest, words)


def widths_of(size: str) -> tuple[int, ...]:
    """The widths of DEPTHxWIDTH.

    Raises:
        click.BadParameter: that is not two positive numbers with an x between them.
    """
    depth, cross, width = size.partition("x")
    if not (cross and depth.isdecimal() and width.isdecimal() and int(depth) * int(width)):
        raise click.BadParameter(f"'{size}' is not DEPTHxWIDTH, such as 2x100")
    return int(depth) * (int(width),)


def make(name: str, recipe: Recipe, split: Split, path: Path) -> None:
    """Train, measure and write one network."""
    began = time.process_time()
    model = train(recipe, split.train)
    seconds = time.process_time() - began
    write_onnx(model, split.train.images.shape[1:], path)
    shares = [100 * accuracy(model, part) for part in (split.train, split.held_out)]
    click.echo(
        f"{name}: {shares[1]:.1f} % right of {len(split.held_out.images)} held out, "
        f"{shares[0]:.1f} % of those trained on, {seconds:.0f} s of processor time; {path}"
    )


@click.command(help=__doc__)
@click.argument("sizes", nargs=-1, metavar="[SIZE]...")
@click.option("--data", default="mnist", show_default=True,
              type=click.Choice(["mnist", "fashion-mnist", "digits"]))  # fmt: skip
@click.option("--folder", type=click.Path(path_type=Path), default=Path("bnn"), show_default=True)
@click.option("--epochs", default=Recipe.epochs, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=Recipe.seed, show_default=True, type=click.IntRange(min=0))
@click.option("--packaged", is_flag=True, help="Only the network that closegap carries.")
def main(
    sizes: tuple[str, ...], data: str, folder: Path, epochs: int, seed: int, packaged: bool
) -> None:
    torch.set_num_threads(1)
    if packaged:
        make("digits_bnn", Recipe((32, 32), epochs=150, shift=0), split_of("digits"), PACKAGED)
        return
    recipes = {size: Recipe(widths_of(size), epochs, seed=seed) for size in sizes or SIZES}
    try:
        split = split_of(data)
        folder.mkdir(parents=True, exist_ok=True)
    except (DataError, OSError) as error:
        raise click.UsageError(str(error)) from None
    click.echo(f"{data}: trains on {split.words}")
    for size, recipe in recipes.items():
        make(f"bnn_{size}", recipe, split, folder / f"{data}_{size}.onnx")


if __name__ == "__main__":
    main()
