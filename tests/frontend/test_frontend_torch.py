"""Torch modules, by way of torch's ONNX export."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import closegap
from closegap.core.errors import ModelError, UnsupportedOpError
from closegap.frontend import torch_export
from closegap.runtime.replay import Replayer
from closegap.runtime.torch_network import TorchNetwork


class _Block(nn.Module):
    """Batch normalisation, a skip connection, a pool, and a reshape by the batch's size."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout()
        self.last = nn.Linear(4 * 4 * 4, 5)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x)))
        y = self.drop(self.pool(y + torch.tanh(y)))
        return self.last(y.view(x.size(0), -1))


def test_module_and_network_agree(rng):
    torch.manual_seed(0)
    module = _Block()
    module.norm.running_mean = torch.randn(4)
    module.norm.eval()
    network = closegap.from_torch(module, torch.zeros(1, 1, 8, 8))
    assert module.training
    assert not module.norm.training
    assert network.batch is None
    assert "_Block" in network.source
    inputs = torch.as_tensor(rng.normal(size=(6, 1, 8, 8)), dtype=torch.float32)
    wanted = module.eval()(inputs).detach()
    assert torch.allclose(TorchNetwork(network)(inputs), wanted, rtol=1e-4, atol=1e-5)
    replayed = torch.as_tensor(Replayer(network).outputs_float32(inputs.numpy()))
    assert torch.allclose(replayed, wanted, rtol=1e-4, atol=1e-5)


def test_unsupported_module_is_named():
    module = nn.Sequential(nn.Linear(3, 4), nn.GELU())
    with pytest.raises(UnsupportedOpError, match=r"Gelu|Erf"):
        closegap.from_torch(module, torch.zeros(1, 3))


class _Branching(nn.Module):
    """Of its two branches one would be lost in a file."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, inputs):
        outputs = self.layer(inputs)
        return outputs if outputs.sum() > 0 else -outputs


def test_a_module_that_branches_on_values_is_refused(monkeypatch):
    def fail(module, inputs):
        raise RuntimeError("this exporter branches neither")

    monkeypatch.setattr(torch_export, "_by_graph_capture", fail)
    with pytest.raises(ModelError, match="it branches on values of tensors"):
        closegap.from_torch(_Branching(), torch.zeros(1, 3))


def test_a_module_that_fails_on_the_example_is_not_exported():
    module = nn.Linear(3, 2)
    with pytest.raises(ModelError, match=r"fails on an input of shape \[1, 4\]: mat1 and mat2"):
        closegap.from_torch(module, torch.zeros(1, 4))
    assert closegap.from_torch(module, torch.zeros(1, 3, dtype=torch.float64)).input_size == 3


def test_the_second_exporter_steps_in(monkeypatch):
    def fail(module, inputs):
        raise RuntimeError("this exporter is gone")

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    saved = closegap.from_torch(module, torch.zeros(1, 3)).onnx_bytes
    monkeypatch.setattr(torch_export, "_by_trace", fail)
    monkeypatch.setattr(torch_export, "_by_graph_capture", lambda module, inputs: saved)
    assert closegap.from_torch(module, torch.zeros(1, 3)).output_size == 2
    monkeypatch.setattr(torch_export, "_by_graph_capture", fail)
    with pytest.raises(ModelError, match="this exporter is gone"):
        closegap.from_torch(module, torch.zeros(1, 3))
