"""The Python face in a dozen lines, on what comes with the package.

python examples/quickstart.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from onnxruntime import InferenceSession

import closegap as cg
from closegap.data import digits_split

__all__ = ["main"]

EPS = 0.1


def main() -> None:
    """Attack a batch, then decide one query."""
    path = Path(cg.__file__).parent / "demo" / "digits_cnn.onnx"
    net = cg.load(path)
    digits = digits_split().held_out
    images, labels = torch.from_numpy(digits.images[:100]), torch.from_numpy(digits.labels[:100])

    adversarial = cg.attacks.PGD(net, eps=EPS)(images, labels)
    (outputs,) = InferenceSession(path).run(None, {"input": adversarial.numpy()})
    wrong = int((outputs.argmax(axis=1) != labels.numpy()).sum())
    print(f"PGD changes the class of {wrong} of {len(images)} images within {EPS}")

    result = cg.solve(cg.robustness(net, digits.images[0], int(digits.labels[0]), eps=EPS))
    print(f"{result.verdict} by {result.engine} in {result.seconds:.2f} s")
    print(f"margin between {result.bracket.lower:.3f} and {result.bracket.upper:.3f}")


if __name__ == "__main__":
    main()
