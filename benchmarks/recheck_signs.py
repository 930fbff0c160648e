"""A second opinion on a proof about a traffic-sign network: ONNX weights, integers, enumeration.

Asks whether every image within `--eps` grey levels of image 8258 keeps its class on the network
with two binarized convolutions, and shares no code with closegap's proofs: the weights are read
from the ONNX file, the box from the VNN-LIB file of radius 3. Signs of the first convolution are
fixed where integers fix them; the second convolution's outputs are taken in square blocks, and of
each block the least contribution to every margin is found by enumerating the open signs it reads.
Their sum is below the margin of every input. `closegap verify` decides the same box
(tests/strategy/test_order.py); `--samples` images of the box go through onnxruntime.
"""

from __future__ import annotations

import gzip
import itertools
import re
from collections.abc import Iterator, Sequence

import click
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from common import data_root

Floats = NDArray[np.float64]
SIDE, CHANNELS, IMAGE, RADIUS = 30, 3, 8258, 3.0
#: Blocks that read more open signs than this are halved.
MOST_OPEN = 14
#: What the network does, besides turning axes: sign(x) is Sign(Sign(x) + 0.1), +1 at 0.
OPERATORS = ["Conv", "Sign", "Add", "Sign", "Conv", "Sign", "Add", "Sign", "MatMul", "Softmax"]


@click.command(help=__doc__)
@click.option("--eps", default=1.0, show_default=True, help="Grey levels.")
@click.option("--block", default=3, show_default=True, help="Side of a block of outputs.")
@click.option("--samples", default=4000, show_default=True, help="Images for onnxruntime.")
def main(eps: float, block: int, samples: int) -> None:
    """Print the least margin of every class that can be proved, and what sampling says."""
    folder = data_root() / "vnncomp" / "traffic_signs_recognition"
    model = gzip.decompress(next((folder / "onnx").glob("3_30_30*")).read_bytes())
    middle, label = centre(next((folder / "vnnlib").glob(f"model_30_idx_{IMAGE}_eps_3.0*")))
    first, second, dense = weights(model)
    sums = convolved(middle.reshape(SIDE, SIDE, CHANNELS).transpose(2, 0, 1), first)
    reach = eps * np.abs(first).sum(axis=(1, 2, 3))[:, None, None]
    signs = np.where(sums >= reach, 1, np.where(sums < -reach, -1, 0))  # sign(0) is +1; 0: open
    side = signs.shape[1] - 1
    gains = dense.reshape(side, side, len(second), -1)
    gains = gains[..., [label]] - np.delete(gains, label, axis=3)
    starts = range(0, side, block)
    places = (
        [(a, b) for a in range(i, min(i + block, side)) for b in range(j, min(j + block, side))]
        for i, j in itertools.product(starts, starts)
    )
    least = added([contribution(block_of, signs, second, gains) for block_of in places])
    print(f"first signs open: {(signs == 0).sum()} of {signs.size}")
    print(f"margins proved positive: {(least > 0).sum()} of {len(least)}, least {least.min():g}")
    session = onnxruntime.InferenceSession(model)
    name = session.get_inputs()[0].name
    kept = sum(
        int((session.run(None, {name: images})[0].argmax(axis=1) == label).sum())
        for images in sampled(middle, eps, samples)
    )
    print(f"samples that keep the class in onnxruntime: {kept} of {samples}")


def centre(path: object) -> tuple[Floats, int]:
    """The middle of the file's box, in its order, and the class that is to win."""
    with gzip.open(str(path), "rt") as file:
        text = file.read()
    lower, upper = np.zeros(SIDE * SIDE * CHANNELS), np.zeros(SIDE * SIDE * CHANNELS)
    for sign, index, value in re.findall(r"\(assert \((<=|>=) X_(\d+) ([-\d.e+]+)\)\)", text):
        (upper if sign == "<=" else lower)[int(index)] = float(value)
    assert (upper - lower == 2 * RADIUS).all()
    (label,) = set(re.findall(r"\(>= Y_\d+ Y_(\d+)\)", text))
    return (lower + upper) / 2, int(label)


def weights(model: bytes) -> tuple[Floats, Floats, Floats]:
    """The two convolutions' and the last layer's, of +1 and -1."""
    graph = onnx.load_from_string(model).graph
    moves = ("Transpose", "Reshape")
    assert [n.op_type for n in graph.node if n.op_type not in moves] == OPERATORS
    held = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in graph.initializer}
    first, second = (
        held[i] for n in graph.node if n.op_type == "Conv" for i in n.input if i in held
    )
    (dense,) = (held[i] for n in graph.node if n.op_type == "MatMul" for i in n.input if i in held)
    assert all(set(np.unique(w)) == {-1.0, 1.0} for w in (first, second, dense))
    return first, second, dense


def convolved(image: Floats, kernel: Floats) -> Floats:
    """`[C, H, W]` by `[O, C, K, K]`, without padding, by whole numbers."""
    size = kernel.shape[2]
    side = image.shape[1] - size + 1
    return added(
        [
            np.einsum("oc,cij->oij", kernel[:, :, a, b], image[:, a : a + side, b : b + side])
            for a, b in itertools.product(range(size), range(size))
        ]
    )


def added(terms: Sequence[Floats]) -> Floats:
    """Their sum, entry by entry."""
    return np.asarray(np.sum(terms, axis=0))


def contribution(
    places: Sequence[tuple[int, int]],
    signs: NDArray[np.int_],
    kernel: Floats,
    gains: Floats,
) -> Floats:
    """The least that these outputs of the second convolution add to each margin, `[margins]`."""
    read = {
        (channel, i + a, j + b)
        for (i, j), a, b in itertools.product(places, (0, 1), (0, 1))
        for channel in range(len(signs))
    }
    free = sorted(unit for unit in read if signs[unit] == 0)
    if len(free) > MOST_OPEN:
        if len(places) == 1:
            return np.asarray(-np.abs(gains[places[0]]).sum(axis=0))
        half = len(places) // 2
        parts = (places[:half], places[half:])
        return added([contribution(part, signs, kernel, gains) for part in parts])
    patterns = np.array(list(itertools.product((-1.0, 1.0), repeat=len(free))))
    total = np.zeros((len(patterns), gains.shape[-1]))
    for i, j in places:
        sums = np.full((len(patterns), len(kernel)), 0.0)
        for channel, a, b in itertools.product(range(len(signs)), (0, 1), (0, 1)):
            unit = (channel, i + a, j + b)
            column = patterns[:, free.index(unit)] if unit in free else float(signs[unit])
            sums += np.multiply.outer(column * np.ones(len(patterns)), kernel[:, channel, a, b])
        total += np.where(sums >= 0, 1.0, -1.0) @ gains[i, j]
    return np.asarray(total.min(axis=0))


def sampled(middle: Floats, eps: float, count: int) -> Iterator[NDArray[np.float32]]:
    """Corners and inner points of the box in turn, `[N, 30, 30, 3]`."""
    rng = np.random.default_rng(0)
    for start in range(0, count, 200):
        shape = (min(200, count - start), middle.size)
        inner = rng.uniform(-eps, eps, shape)
        moved = inner if start % 400 else eps * np.sign(inner)
        yield (middle + moved).astype(np.float32).reshape(-1, SIDE, SIDE, CHANNELS)


if __name__ == "__main__":
    main()
