"""A second opinion on counterexamples: onnxruntime and the VNN-LIB text, and nothing of closegap.

The file's assertions are evaluated one by one on the input and on onnxruntime's outputs, in
float64, without tolerance. One allowance: an input whose bounds in the file are one number that no
float32 represents (0.1, say) may be the nearest float32.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

__all__ = ["holds"]

Tree: TypeAlias = "str | list[Tree]"


def holds(model: Path, spec: Path, point: NDArray[np.float32]) -> bool:
    """True iff the input and its outputs satisfy every assertion of the file.

    Args:
        model: ONNX file, gzipped or not.
        spec: VNN-LIB file, gzipped or not.
        point: float32, in any shape with the network's number of entries.
    """
    session = onnxruntime.InferenceSession(_read(model), providers=["CPUExecutionProvider"])
    tensor = session.get_inputs()[0]
    shape = [d if isinstance(d, int) else 1 for d in tensor.shape]
    outputs = session.run(None, {tensor.name: point.reshape(shape)})[0].reshape(-1)
    text = re.sub(r";.*", "", _read(spec).decode())
    values = {f"X_{i}": float(v) for i, v in enumerate(point.reshape(-1))}
    values |= {f"Y_{i}": float(v) for i, v in enumerate(outputs)}
    fixed = _fixed_inputs(text)
    values |= {name: fixed[name] for name, v in list(values.items())
               if name in fixed and v == np.float32(fixed[name])}  # fmt: skip
    return all(_true(tree[1], values) for tree in _parse(text) if tree[0] == "assert")


def _fixed_inputs(text: str) -> dict[str, float]:
    """Inputs that are compared with one number only, from both sides."""
    found: dict[str, set[tuple[str, float]]] = {}
    for sign, name, number in re.findall(r"\(([<>]=)\s+(X_\d+)\s+([-+.\deE]+)\s*\)", text):
        found.setdefault(name, set()).add((sign, float(number)))
    pairs = {name: {number for _, number in seen} for name, seen in found.items() if len(seen) == 2}
    return {name: numbers.pop() for name, numbers in pairs.items() if len(numbers) == 1}


def _read(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def _parse(text: str) -> list[Tree]:
    """The file's expressions as nested lists."""
    stack: list[list[Tree]] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", text):
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    return stack[0]


def _true(tree: Tree, values: dict[str, float]) -> bool:
    head, *rest = list(tree)
    if head == "and":
        return all(_true(part, values) for part in rest)
    if head == "or":
        return any(_true(part, values) for part in rest)
    left, right = (_number(part, values) for part in rest)
    return {"<=": left <= right, ">=": left >= right, "<": left < right, ">": left > right}[
        str(head)
    ]


def _number(tree: Tree, values: dict[str, float]) -> float:
    if isinstance(tree, str):
        return values[tree] if tree in values else float(tree)
    head, *rest = tree
    numbers = [_number(part, values) for part in rest]
    if head == "+":
        return sum(numbers)
    if head == "-":
        return -numbers[0] if len(numbers) == 1 else numbers[0] - sum(numbers[1:])
    return float(np.prod(numbers))
