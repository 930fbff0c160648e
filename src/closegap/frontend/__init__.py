"""ONNX files and torch modules in, networks out."""

from closegap.frontend.load import load, loads

__all__ = ["load", "loads"]
