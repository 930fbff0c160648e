"""closegap: find out exactly how robust a neural network is.

Attacks push the upper end of a bracket down, proofs push the lower end up, until the two meet.
Importing this package is light: torch and onnxruntime load when they are first used.

    import closegap as cg
    net = cg.load("model.onnx")
    query = cg.robustness(net, image, label, eps=0.3)
    result = cg.solve(query, timeout=60)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from closegap import attacks
    from closegap.frontend import from_torch, load
    from closegap.specs.query import robustness
    from closegap.strategy.solve import solve

__all__ = ["attacks", "from_torch", "load", "robustness", "solve"]

__version__ = "0.1.0"

_HOME = {
    "from_torch": "closegap.frontend",
    "load": "closegap.frontend",
    "robustness": "closegap.specs.query",
    "solve": "closegap.strategy.solve",
}


def __getattr__(name: str) -> Any:
    if name == "attacks":
        return import_module("closegap.attacks")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'closegap' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
