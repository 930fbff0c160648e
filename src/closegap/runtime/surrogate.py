"""A derivative for the sign, whose own is zero: the straight-through estimator.

The value stays the true sign; only the backward pass pretends that the sign was a hard tanh. What
comes out is no gradient of anything, but it points where signs are about to flip.
Source: Hubara et al., Binarized Neural Networks (2016), section 1.3.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.core.numerics import TINY

__all__ = ["straight_through"]


def straight_through(
    pre_activation: Float[Tensor, "B ..."], signs: Float[Tensor, "B ..."], width: float
) -> Float[Tensor, "B ..."]:
    """`signs`, with the derivative of a hard tanh.

    Args:
        pre_activation: what the sign is taken of.
        signs: its exact signs; returned unchanged.
        width: where the hard tanh saturates, in units of the root mean square of one sample's
            pre-activations, so that one number fits layers of any scale.
    """
    per_sample = pre_activation.detach().flatten(1)
    scale = per_sample.square().mean(dim=1).sqrt().clamp(min=TINY) * width
    shape = (-1,) + (1,) * (pre_activation.ndim - 1)
    soft = torch.clamp(pre_activation / scale.reshape(shape), -1.0, 1.0)
    return signs.detach() + (soft - soft.detach())
