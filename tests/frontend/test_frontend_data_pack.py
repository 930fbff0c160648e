"""Real networks: each is read, agrees with onnxruntime on random inputs, and can be inspected."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from closegap.core.numerics import IR_ABSOLUTE_TOLERANCE, IR_RELATIVE_TOLERANCE
from closegap.frontend import inspect_model, load
from closegap.runtime.replay import Replayer
from closegap.runtime.torch_network import TorchNetwork

#: Families of one architecture; `benchmarks/frontend_agreement.py` goes through all of them.
NEAR_COPIES = ("acasxu", "tllverifybench")


def _chosen(folder):
    """All networks of a folder, or a few of near copies."""
    files = sorted(folder.glob("*.onnx.gz" if "vnncomp" in str(folder) else "*.onnx"))
    return files[:3] if folder.parent.name in NEAR_COPIES else files


FAMILIES = [
    *(f"models/{name}" for name in ("bab_attack", "bnn", "eran", "lippa", "maxpool", "mn_bab")),
    *(
        f"vnncomp/{name}/onnx"
        for name in (
            "acasxu",
            "cgan",
            "cifar10_resnet",
            "collins_rul_cnn",
            "dist_shift",
            "eran_mnist_9_200",
            "marabou_bnn",
            "marabou_cifar10",
            "mnist_fc",
            "oval21",
            "reach_prob_density",
            "rl_benchmarks",
            "sri_resnet_a",
            "sri_resnet_b",
            "tllverifybench",
            "traffic_signs_recognition",
            "verivital",
        )
    ),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_agree_with_onnxruntime(family, data_path, rng):
    paths = _chosen(data_path(family))
    assert paths
    for path in paths:
        _assert_agrees(path, rng)


def _assert_agrees(path, rng):
    network = load(path)
    inputs = rng.random((100, *network.input_shape), dtype=np.float32)
    if "traffic" in str(path):  # raw pixels: whole numbers, whose sums float32 computes exactly
        inputs = np.floor(256 * inputs)
    wanted = Replayer(network).outputs_float32(inputs)
    own = TorchNetwork(network)
    with torch.no_grad():
        got = own(own.tensor(inputs)).numpy()
    assert (got.argmax(axis=1) == wanted.argmax(axis=1)).all(), path.name
    if network.softmax_dropped:
        return
    allowed = IR_RELATIVE_TOLERANCE * np.abs(wanted).max() + IR_ABSOLUTE_TOLERANCE
    assert np.abs(got - wanted).max() <= allowed, path.name


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_can_be_inspected(family, data_path):
    for path in _chosen(data_path(family))[:2]:
        inspection = inspect_model(path, check=False)
        assert inspection.supported
        assert inspection.unsupported == ()
        assert sum(inspection.neurons.values()) > 0
        assert inspection.parameters > 0
