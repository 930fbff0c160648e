"""Products that skip zeros are the dense ones, and so are their gradients."""

from __future__ import annotations

import pytest
import torch

from closegap.bounds.constraints import CutPart, LinearCuts
from closegap.bounds.records import Interval
from closegap.bounds.sparse_rows import SparseRows

ROWS, WIDTHS = 300, (500, 90)


@pytest.fixture
def parts(rng):
    """Matrices of which few entries are not zero."""
    found = [torch.as_tensor(rng.standard_normal((ROWS, width))) for width in WIDTHS]
    return [part * torch.as_tensor(rng.random(part.shape) < 0.05) for part in found]


def held(rng, batch=5, rows=2):
    return torch.as_tensor(rng.standard_normal((batch, rows, ROWS)))


def test_products_and_gradients_are_those_of_dense_matrices(parts, rng):
    sparse = SparseRows.of([part.to_sparse() for part in parts])
    if sparse is None:
        pytest.skip("torch has no fast sparse products here")
    dense, skipping = held(rng).requires_grad_(), None
    skipping = dense.detach().clone().requires_grad_()
    weights = [torch.as_tensor(rng.standard_normal((5, 2, width))) for width in WIDTHS]
    for x, products in ((dense, [dense @ p for p in parts]), (skipping, sparse.mixed(skipping))):
        total = sum((w * y).sum() for w, y in zip(weights, products, strict=True))
        x.grad = torch.autograd.grad(total, x)[0]
    for one, other in zip(sparse.mixed(skipping), parts, strict=True):
        assert torch.allclose(one, skipping @ other, rtol=1e-12, atol=1e-12)
    for one, other in zip(sparse.sizes.mixed(skipping), parts, strict=True):
        assert torch.allclose(one, skipping @ other.abs(), rtol=1e-12, atol=1e-12)
    assert torch.allclose(skipping.grad, dense.grad, rtol=1e-12, atol=1e-12)


def test_full_or_small_matrices_stay_dense(parts):
    assert SparseRows.of([(part + 1.0).to_sparse() for part in parts]) is None
    assert SparseRows.of([part[:9].to_sparse() for part in parts]) is None


def test_rows_with_many_zeros_say_what_dense_ones_say(parts, rng, monkeypatch):
    places = [torch.as_tensor(rng.permutation(600)[:width]) for width in WIDTHS]
    cut_parts = tuple(
        CutPart.of(node, (600,), place, part)
        for node, place, part in zip((0, 2), places, parts, strict=True)
    )
    limits = torch.as_tensor(rng.standard_normal(ROWS))
    ends = torch.as_tensor(rng.random((1, 600)))
    values, multipliers = [Interval(-ends, ends)] * 3, held(rng)
    sparse = LinearCuts(cut_parts, limits)
    found = sparse.terms(multipliers, values)
    monkeypatch.setattr(SparseRows, "of", lambda parts: None)
    dense = LinearCuts(cut_parts, limits)
    true = dense.terms(multipliers, values)
    for node in (0, 2):
        gap = (found.coefficients[node] - true.coefficients[node]).abs().amax()
        assert float(gap) < 1e-12
    assert torch.equal(found.constant, true.constant)
    assert torch.allclose(found.rounding, true.rounding)
