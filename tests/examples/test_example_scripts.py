"""The scripts of `examples/` and what they made: trained networks, property files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import closegap
from closegap.data import digits_split
from closegap.frontend import load
from examples import quickstart, train_digits, write_properties

EXAMPLES = Path(train_digits.__file__).parent
MODELS = Path(closegap.__file__).parent / "demo"


@pytest.mark.parametrize("name", sorted(train_digits.RECIPES))
def test_packaged_network(name: str) -> None:
    path = MODELS / f"{name}.onnx"
    assert path.stat().st_size < 60_000
    assert not any(trace in path.read_bytes() for trace in (b"site-packages", b".py", b"/home"))
    network = load(path)
    assert network.batch is None
    assert network.input_shape == (1, 8, 8)
    held_out = digits_split().held_out
    (outputs,) = onnxruntime.InferenceSession(path).run(None, {"input": held_out.images})
    assert (outputs.argmax(axis=1) == held_out.labels).mean() >= 0.95


def test_interval_loss_is_a_bound(rng: np.random.Generator) -> None:
    """No point of the ball beats the worst logits that training relies on."""
    torch.manual_seed(int(rng.integers(2**31)))
    model = train_digits.cnn()
    images = torch.tensor(rng.random((4, 1, 8, 8)), dtype=torch.float32)
    labels = torch.tensor([3, 0, 9, 3])
    low, high = box = train_digits.ball(images, 0.1)
    with torch.no_grad():
        worst = train_digits.worst_logits(model, box, labels)
        share = torch.tensor(rng.random((500, *images.shape)), dtype=torch.float32)
        corners = (share > 0.5).float()
        own = torch.nn.functional.one_hot(labels, 10).bool()
        for part in (share, corners):
            points = low + (high - low) * part
            logits = model(points.flatten(0, 1)).unflatten(0, points.shape[:2])
            gap = torch.where(own, logits - worst, worst - logits)
            assert gap.min() > -1e-4


def test_adversarial_images_stay_in_the_ball(rng: np.random.Generator) -> None:
    model = train_digits.mlp()
    images = torch.tensor(rng.random((8, 1, 8, 8)), dtype=torch.float32)
    labels = torch.tensor(rng.integers(0, 10, 8))
    low, high = box = train_digits.ball(images, 0.2)
    found = train_digits.adversarial(model, box, labels)
    assert ((found >= low) & (found <= high)).all()
    loss = torch.nn.functional.cross_entropy
    assert loss(model(found), labels) > loss(model(images), labels)


def test_training_learns_and_repeats() -> None:
    train_set = digits_split().train
    images, labels = torch.from_numpy(train_set.images), torch.from_numpy(train_set.labels)
    recipe = replace(train_digits.RECIPES["digits_mlp"], epochs=6)
    first, second = (train_digits.train(recipe, images, labels) for _ in range(2))
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert (first(images).argmax(dim=1) == labels).float().mean() > 0.7


def test_property_files_are_what_the_script_writes(tmp_path: Path) -> None:
    write_properties.main(tmp_path)
    written = sorted(tmp_path.iterdir())
    assert len(written) == 3
    for path in written:
        assert path.read_text() == (EXAMPLES / path.name).read_text()


def test_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    quickstart.main()
    attack, verdict, margin = capsys.readouterr().out.splitlines()
    assert 3 <= int(attack.split()[5]) <= 15
    assert verdict.startswith("verified by")
    lower, upper = (float(word) for word in margin.split() if word[0].isdigit())
    assert 0 < lower <= upper
