"""`examples/train_bnn.py`: what it trains is binarized, and the exact form is the file."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from closegap.attacks.binarized.iprop import IProp, IPropOptions
from closegap.core.budget import Budget
from closegap.core.errors import DataError
from closegap.data import digits_split
from closegap.frontend import load
from closegap.graph.binarized.forward import BinarizedForward
from closegap.graph.network import Network
from closegap.runtime.cache import binarized
from closegap.runtime.replay import Replayer
from closegap.specs.query import robustness
from closegap.strategy.solve import solve
from examples import train_bnn


def exact_form(network: Network) -> BinarizedForward:
    form = binarized(network)
    assert isinstance(form, BinarizedForward)
    return form


def test_training_exports_what_it_trained(tmp_path: Path, rng: np.random.Generator) -> None:
    split = train_bnn.split_of("digits")
    recipe = train_bnn.Recipe((20, 16, 12), epochs=10, shift=0)
    model = train_bnn.train(recipe, split.train)
    path = tmp_path / "tiny.onnx"
    train_bnn.write_onnx(model, (1, 8, 8), path)
    network = load(path)
    assert network.batch is None and network.input_shape == (1, 8, 8)
    # Ties of the first layer included: grey levels are sixteenths, sums of them exact.
    levels = rng.integers(0, 17, size=(1000, 1, 8, 8)) / 16
    inputs = np.concatenate([split.held_out.images, levels, rng.random((1000, 1, 8, 8))])
    inputs = inputs.astype(np.float32)
    integer = exact_form(network)(inputs)
    with torch.no_grad():
        torch_logits = model(torch.from_numpy(inputs)).numpy()
    (file_logits,) = onnxruntime.InferenceSession(path).run(None, {"input": inputs})
    for floating in (torch_logits, file_logits, Replayer(network).outputs_float64(inputs)):
        np.testing.assert_allclose(integer, floating, atol=1e-4)
    assert train_bnn.accuracy(model, split.held_out) > 0.6
    again = train_bnn.train(recipe, split.train)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_latent_weights_stay_clipped() -> None:
    split = train_bnn.split_of("digits")
    model = train_bnn.train(train_bnn.Recipe((6,), epochs=1, rate=5.0, shift=1), split.train)
    assert all(float(latent.detach().abs().max()) == 1 for latent in model.latent)


def test_gradients_pass_signs_within_one() -> None:
    values = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.5], requires_grad=True)
    signs = train_bnn.signs(values)
    assert signs.tolist() == [-1, -1, -1, 1, 1, 1]
    signs.backward(torch.full((6,), 3.0))
    assert values.grad is not None and values.grad.tolist() == [0, 3, 3, 3, 3, 0]


@pytest.mark.parametrize("size", ["2", "x100", "2x", "0x5", "axb", "-1x3"])
def test_sizes_that_are_none(size: str) -> None:
    with pytest.raises(click.BadParameter, match="DEPTHxWIDTH"):
        train_bnn.widths_of(size)


def test_misuse_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()

    def nowhere(name: str) -> None:
        raise DataError(f"{name} is not on disk")

    folder = ["1x8", "--data", "digits", "--folder", str(tmp_path / "file" / "in")]
    assert CliRunner().invoke(train_bnn.main, folder).exit_code == 2
    monkeypatch.setattr(train_bnn, "split_of", nowhere)
    said = CliRunner().invoke(train_bnn.main, ["1x8"])
    assert said.exit_code == 2 and "mnist is not on disk" in said.output
    assert "not DEPTHxWIDTH" in CliRunner().invoke(train_bnn.main, ["1x8", "2x0"]).output


def test_images_are_shifted_with_zeros(rng: np.random.Generator) -> None:
    torch.manual_seed(int(rng.integers(2**31)))
    images = torch.tensor(rng.random((2, 1, 8, 8)), dtype=torch.float32)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    windows = [padded[..., i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    for _ in range(5):
        moved = train_bnn.shifted(images, 1)
        assert any(torch.equal(moved, window) for window in windows)
    assert train_bnn.shifted(images, 0) is images


def test_packaged_network() -> None:
    content = train_bnn.PACKAGED.read_bytes()
    assert len(content) < 20_000
    network = load(train_bnn.PACKAGED)
    held_out = digits_split().held_out
    outputs = exact_form(network)(held_out.images)
    assert (outputs.argmax(axis=1) == held_out.labels).mean() >= 0.95
    np.testing.assert_allclose(
        outputs, Replayer(network).outputs_float32(held_out.images), atol=1e-4
    )


def test_packaged_network_is_bracketed() -> None:
    """Some digits are proved, some broken, and what attacks break is never proved."""
    network, held_out = load(train_bnn.PACKAGED), digits_split().held_out
    seen = set()
    for index in range(6):
        query = robustness(network, held_out.images[index], int(held_out.labels[index]), 0.02)
        result = solve(
            query,
            budget=Budget.of_seconds(60.0, nodes=300),
            engines=("clean", "binarized"),
            settings={"binarized.attack_share": "0.005"},
        )
        attack = IProp(IPropOptions(rounds=3, targets=1))
        found = attack.attack_query(query, Budget.of_seconds(60.0))
        assert not (result.verdict == "verified" and found.margin < -1e-3)
        seen.add(str(result.verdict))
    assert {"verified"} <= seen
