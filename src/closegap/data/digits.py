"""scikit-learn's digits: 1797 images of 8 x 8 pixels, and how they are split.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (test part), UCI.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from closegap.core.errors import MissingDependencyError
from closegap.data.dataset import DataSet

__all__ = ["HELD_OUT", "DigitsSplit", "digits_split"]

#: How many images the packaged networks never saw.
HELD_OUT = 397
#: Of the permutation whose last images are held out. Another seed would leak training images.
_SPLIT_SEED = 0
#: Grey levels run from 0 to this.
_LEVELS = 16


class DigitsSplit(NamedTuple):
    """The two parts; their `indices` are positions in scikit-learn's order."""

    train: DataSet
    held_out: DataSet


def digits_split() -> DigitsSplit:
    """The digits, split into 1400 images for training and 397 held out.

    Images are `[M, 1, 8, 8]`. The order is that of one fixed permutation, whose last 397 images are
    held out; the packaged networks were trained on the others.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # heavy: only when asked for
    except ImportError:
        raise MissingDependencyError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from None
    raw = load_digits()
    pixels = (raw.images / _LEVELS).astype(np.float32)[:, None]
    labels = raw.target.astype(np.int64)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(pixels)).astype(np.int64)
    names = tuple(str(digit) for digit in range(10))
    train, held_out = (
        DataSet(pixels[part], labels[part], part, name, names)
        for name, part in (("digits-train", order[:-HELD_OUT]), ("digits", order[-HELD_OUT:]))
    )
    return DigitsSplit(train, held_out)
