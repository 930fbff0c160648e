"""The Python face in a dozen lines, on what comes with the package.

    python examples/quickstart.py
"""

from __future__ import annotations

from pathlib import Path

import torch

import closegap as cg
from closegap.data import digits_split

__all__ = ["main"]

EPS = 0.1


def main() -> None:
    """Attack a batch, then decide one query."""
    net = cg.load(Path(cg.__file__).parent / "demo" / "digits_cnn.onnx")
    digits = digits_split().held_out
    images, labels = torch.from_numpy(digits.images[:100]), torch.from_numpy(digits.labels[:100])

    adversarial = cg.attacks.PGD(net, eps=EPS)(images, labels)
    moved = float((adversarial - images).abs().max())
    print(f"PGD: {len(adversarial)} images, none moved by more than {moved:.4f}")

    result = cg.solve(cg.robustness(net, digits.images[0], int(digits.labels[0]), eps=EPS))
    print(f"{result.verdict} by {result.engine} in {result.seconds:.2f} s")
    print(f"margin between {result.bracket.lower:.3f} and {result.bracket.upper:.3f}")


if __name__ == "__main__":
    main()
