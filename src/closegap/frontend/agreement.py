"""Does the IR compute what the ONNX file computes? Asked once for every file that is loaded."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import ModelError
from closegap.core.numerics import FLOAT32_UNIT, IR_ABSOLUTE_TOLERANCE, IR_RELATIVE_TOLERANCE, gamma
from closegap.frontend.parse import without_final_softmax
from closegap.graph import ops
from closegap.graph.network import Network

__all__ = ["check_agreement", "random_inputs"]

#: Inputs around the unit box, around the origin, and as large as raw pixels.
_SCALES = (0.1, 1.0, 255.0)
_PER_SCALE = 3

_checked: set[str] = set()


def check_agreement(network: Network) -> None:
    """Evaluate the network and onnxruntime on random inputs of several scales.

    They agree on an input when their outputs differ by at most `IR_RELATIVE_TOLERANCE` times the
    largest output (plus `IR_ABSOLUTE_TOLERANCE`), or by no more than what float32 itself loses:
    ten times the distance of the IR's own float32 and float64 values. A network with signs jumps:
    there an input may also differ when a sign's pre-activation is zero within rounding, as long
    as most inputs agree. Files already checked in this process are not checked again.

    Raises:
        ModelError: onnxruntime cannot run the file, its outputs are finite nowhere, or the values
            differ.
    """
    if network.digest in _checked:
        return
    inputs = random_inputs(network)
    wanted, single = _outputs(network, inputs)
    finite = np.isfinite(wanted).all(axis=1)
    if not finite.any():
        raise ModelError(
            f"{network.source}: onnxruntime's outputs are not finite at any of {len(inputs)} "
            "random inputs; train or export it again"
        )
    scale = np.abs(wanted).max(axis=1, keepdims=True, initial=0.0)
    allowed = IR_RELATIVE_TOLERANCE * scale + IR_ABSOLUTE_TOLERANCE
    with np.errstate(invalid="ignore"):  # infinite outputs: left out below
        disagree = ~(np.abs(single - wanted) <= allowed).all(axis=1)
    disagree &= finite
    if disagree.any():
        _excuse_or_refuse(network, inputs[disagree], wanted[disagree], len(inputs))
    _checked.add(network.digest)


def random_inputs(network: Network, *, each: int = _PER_SCALE) -> NDArray[np.float32]:
    """Inputs `[B, *input_shape]`: for every scale `each` in a positive box and `each` normal ones.

    The generator's seed is fixed: a file is refused always or never.
    """
    rng = np.random.default_rng(prod(network.input_shape))
    shape = (each, *network.input_shape)
    parts = [scale * draw(size=shape) for scale in _SCALES for draw in (rng.random, rng.normal)]
    return np.concatenate(parts).astype(np.float32)


def _outputs(
    network: Network, inputs: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Outputs of onnxruntime and of the IR in float32, both `[B, C]`."""
    import torch  # heavy: only where a network is checked

    from closegap.runtime.replay import Replayer
    from closegap.runtime.torch_network import TorchNetwork

    wanted = Replayer(_reference(network)).outputs_float32(inputs).astype(np.float64)
    own = TorchNetwork(network, dtype=torch.float32)
    with torch.no_grad():
        single = own(own.tensor(inputs)).numpy().astype(np.float64)
    if wanted.shape != single.shape:
        raise ModelError(
            f"{network.source}: onnxruntime gives {wanted.shape[1]} outputs, the network "
            f"{single.shape[1]}; please report this model"
        )
    return wanted, single


def _reference(network: Network) -> Network:
    """The network with an ONNX file that ends before the Softmax that the IR leaves out.

    Probabilities of 0 and 1 would hide differences between large logits.
    """
    if not network.softmax_dropped:
        return network
    return replace(network, onnx_bytes=without_final_softmax(network.onnx_bytes))


def _excuse_or_refuse(
    network: Network, inputs: NDArray[np.float32], wanted: NDArray[np.float64], total: int
) -> None:
    import torch

    from closegap.runtime.torch_network import TorchNetwork

    exact, near_zero = [], []
    terms = _longest_sum(network)
    for dtype in (torch.float32, torch.float64):
        twin = TorchNetwork(network, dtype=dtype)
        with torch.no_grad():
            values = twin.values(twin.tensor(inputs))
        exact.append(values[-1].flatten(1).numpy().astype(np.float64))
        near_zero = [
            _touches_zero(values[network.nodes[i].inputs[0]].flatten(1).numpy(), terms)
            for i in network.activations
            if isinstance(network.nodes[i].op, ops.Sign)
        ]
    single, double = exact
    loss = 10 * np.abs(single - double).max()
    rounding = np.abs(double - wanted).max(axis=1) <= loss
    tied = np.any(near_zero, axis=0) if near_zero else np.zeros(len(inputs), dtype=bool)
    excused = rounding | tied
    if excused.all() and 2 * (tied & ~rounding).sum() < total:
        return
    worst = int(np.argmax(np.abs(double - wanted).max(axis=1)))
    raise ModelError(
        f"{network.source}: the network as read and onnxruntime differ by "
        f"{np.abs(double - wanted)[worst].max():.3g} where outputs reach "
        f"{np.abs(wanted[worst]).max():.3g}; please report this model"
    )


def _longest_sum(network: Network) -> int:
    """The greatest number of products that one neuron adds up."""
    weighted = ops.Linear | ops.Conv | ops.ConvTranspose
    kernels = [node.op.weight for node in network.nodes if isinstance(node.op, weighted)]
    return max((kernel[0].size for kernel in kernels), default=1)


def _touches_zero(pre_activation: NDArray[Any], terms: int) -> NDArray[np.bool_]:
    """For every input: is an entry so near zero that float32 may see it on the other side?"""
    scale = np.abs(pre_activation).max(axis=1, keepdims=True)
    return np.asarray((np.abs(pre_activation) <= gamma(terms, FLOAT32_UNIT) * scale).any(axis=1))
