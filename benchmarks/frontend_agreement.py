"""Read every network of the data pack and compare it with onnxruntime on 100 random inputs.

    python benchmarks/frontend_agreement.py [FOLDER]

FOLDER is the data pack (CLOSEGAP_DATA, or ../shared/data). One row a network: seconds to read it
(the check at load included), size, largest difference relative to the largest output, and whether
every argmax is the same. Exit code 1 when one network fails.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from closegap.core.errors import ModelError
from closegap.core.numerics import IR_RELATIVE_TOLERANCE
from closegap.frontend import load
from closegap.frontend.parse import without_final_softmax
from closegap.graph.network import Network
from closegap.runtime.replay import Replayer
from closegap.runtime.torch_network import TorchNetwork

_INPUTS = 100
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class _Row:
    name: str
    seconds: float
    nodes: int
    activations: int
    error: float
    same_argmax: float
    problem: str = ""

    @property
    def agrees(self) -> bool:
        return not self.problem and self.error <= IR_RELATIVE_TOLERANCE and self.same_argmax == 1


def main() -> int:
    default = os.environ.get("CLOSEGAP_DATA", _ROOT.parent / "shared" / "data")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else default)
    paths = sorted(folder.glob("models/**/*.onnx"))
    paths += sorted(folder.glob("vnncomp/*/onnx/*.onnx*"))
    table = Table("network", "seconds", "nodes", "neurons", "relative error", "argmax", "agrees")
    rows = []
    for path in paths:
        row = _row(path, str(path.relative_to(folder)))
        rows.append(row)
        table.add_row(
            row.name,
            f"{row.seconds:.3f}",
            str(row.nodes),
            str(row.activations),
            f"{row.error:.1e}",
            f"{row.same_argmax:.2f}",
            "yes" if row.agrees else f"NO {row.problem}",
        )
    console = Console(width=150)
    console.print(table)
    good = sum(row.agrees for row in rows)
    console.print(f"{good} of {len(rows)} agree; {sum(row.seconds for row in rows):.1f} s to read")
    return 0 if good == len(rows) else 1


def _row(path: Path, name: str) -> _Row:
    start = time.perf_counter()
    try:
        network = load(path)
    except ModelError as error:
        return _Row(name, time.perf_counter() - start, 0, 0, np.inf, 0.0, str(error))
    seconds = time.perf_counter() - start
    inputs = np.random.default_rng(0).random((_INPUTS, *network.input_shape), dtype=np.float32)
    if "traffic_signs" in name:  # raw pixels: whole numbers, whose sums float32 computes exactly
        inputs = np.floor(256 * inputs)
    wanted = _onnxruntime(network, inputs)
    own = TorchNetwork(network)
    with torch.no_grad():
        parts = [own(own.tensor(part)).numpy() for part in np.array_split(inputs, 10)]
    got = np.concatenate(parts)
    return _Row(
        name,
        seconds,
        len(network.nodes),
        sum(network.nodes[i].size for i in network.activations),
        float(np.abs(got - wanted).max() / np.abs(wanted).max()),
        float((got.argmax(axis=1) == wanted.argmax(axis=1)).mean()),
    )


def _onnxruntime(network: Network, inputs: np.ndarray) -> np.ndarray:
    """Outputs of the file; before its Softmax where the network leaves that out."""
    if network.softmax_dropped:
        network = replace(network, onnx_bytes=without_final_softmax(network.onnx_bytes))
    return Replayer(network).outputs_float32(inputs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
