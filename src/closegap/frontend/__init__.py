"""ONNX files and torch modules in, networks out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from closegap.frontend.inspect import Inspection, inspect_model
from closegap.frontend.load import load, loads

if TYPE_CHECKING:
    from closegap.frontend.torch_export import from_torch

__all__ = ["Inspection", "from_torch", "inspect_model", "load", "loads"]


def __getattr__(name: str) -> Any:
    if name == "from_torch":  # torch is heavy: only where a module is exported
        from closegap.frontend.torch_export import from_torch

        return from_torch
    raise AttributeError(f"module 'closegap.frontend' has no attribute '{name}'")
