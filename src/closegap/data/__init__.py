"""Images and labels in, from disk; made to fit a network; chosen by index."""

from __future__ import annotations

from closegap.data.dataset import DataSet
from closegap.data.digits import DigitsSplit, digits_split
from closegap.data.fit import fit_to_network
from closegap.data.load import DATA_NAMES, load_data, load_training
from closegap.data.select import read_indices, select

__all__ = [
    "DATA_NAMES",
    "DataSet",
    "DigitsSplit",
    "digits_split",
    "fit_to_network",
    "load_data",
    "load_training",
    "read_indices",
    "select",
]
