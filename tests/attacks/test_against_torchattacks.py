"""Gradient attacks beside those of torchattacks, where that is installed.

It asks for an old version of another package, so no extra of ours names it:
`pip install --no-deps torchattacks`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import closegap as cg
from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.fgsm import fgsm
from closegap.attacks.gradient.losses import CrossEntropyLoss
from closegap.attacks.gradient.momentum import momentum_fgsm
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.starts import CenterStart
from closegap.attacks.images import attack_images
from closegap.attacks.registry import make_attack
from closegap.graph.network import Network

torchattacks = pytest.importorskip(
    "torchattacks", reason="torchattacks is not installed", exc_type=ImportError
)


@cache
def subject() -> tuple[torch.nn.Module, Network, torch.Tensor, torch.Tensor]:
    """A module, its network, images away from the box's ends, and the classes it gives them."""
    torch.manual_seed(3)
    first, last = torch.nn.Linear(36, 30), torch.nn.Linear(30, 5)
    module = torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.ReLU(), last).eval()
    images = 0.3 + 0.4 * torch.rand(32, 1, 6, 6)
    with torch.no_grad():
        first.weight *= 3
        first.bias -= first.weight.sum(dim=1) / 2  # the middle of the box decides no class
        labels = module(images).argmax(dim=1)
    return module, cg.from_torch(module, images[:1]), images, labels


def margins(points: torch.Tensor) -> np.ndarray:
    module, _, _, labels = subject()
    with torch.no_grad():
        outputs = module(points)
    own = labels[:, None]
    others = outputs.scatter(1, own, -torch.inf).amax(dim=1)
    return np.asarray((outputs.gather(1, own)[:, 0] - others).numpy())


EPS, SIZE, STEPS = 0.002, 0.0005, 6
OURS: dict[str, Descent] = {
    "FGSM": replace(fgsm(AttackOptions()), loss=CrossEntropyLoss()),
    "PGD": Descent(
        "pgd",
        start=CenterStart(),
        loss=CrossEntropyLoss(),
        steps=STEPS,
        step_size=SIZE / EPS,
        last_step=SIZE / EPS,
    ),
    "MIFGSM": replace(
        momentum_fgsm(AttackOptions(steps=STEPS, step_size=SIZE / EPS)), loss=CrossEntropyLoss()
    ),
}


@pytest.mark.parametrize("name", OURS)
def test_without_chance_the_steps_are_the_same(name: str) -> None:
    """Ours keeps the best point of the way, so it is held against the other's after every step."""
    module, network, images, labels = subject()
    standing = margins(images) > 0.03  # in so small a ball they stay what they are
    best = margins(images)
    for steps in range(1, 2 if name == "FGSM" else STEPS + 1):
        sizes: dict[str, Any] = {"alpha": SIZE, "steps": steps} if name != "FGSM" else {}
        if name == "PGD":
            sizes["random_start"] = False
        theirs = getattr(torchattacks, name)(module, eps=EPS, **sizes)(images, labels)
        best = np.minimum(best, margins(theirs))
    found = attack_images(network, images, labels, OURS[name], eps=EPS)
    assert standing.sum() > 10
    np.testing.assert_allclose(margins(found)[standing], best[standing], atol=1e-5)


#: With as many steps, what theirs break ours break, but for one image.
SEARCHES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "apgd-ce": ("APGD", 20, {"steps": 20, "n_restarts": 1, "loss": "ce"}),
    "apgd-dlr": ("APGD", 20, {"steps": 20, "n_restarts": 1, "loss": "dlr"}),
    "apgd-t": ("APGDT", 20, {"steps": 20, "n_restarts": 1, "n_classes": 5}),
    "fab-t": ("FAB", 20, {"steps": 20, "n_restarts": 1, "multi_targeted": True, "n_classes": 5}),
    "square": ("Square", 300, {"n_queries": 300, "n_restarts": 1}),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_what_theirs_break_ours_break(name: str) -> None:
    module, network, images, labels = subject()
    other, steps, sizes = SEARCHES[name]
    theirs = margins(getattr(torchattacks, other)(module, eps=0.02, **sizes)(images, labels)) < 0
    attack = make_attack(name, AttackOptions(steps=steps, restarts=1))
    found = attack_images(network, images, labels, attack, eps=0.02)
    assert 4 < theirs.sum() < len(images)
    assert (theirs & (margins(found) >= 0)).sum() <= 1
