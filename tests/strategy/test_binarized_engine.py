"""The engine of binarized networks inside `solve`, against enumeration."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from closegap.core.verdict import Reason, Verdict
from closegap.frontend import loads
from closegap.graph.network import Network
from closegap.runtime.cache import compiled, replayer
from closegap.specs.query import Query, robustness
from closegap.strategy.solve import solve
from closegap.testing.enumeration import least_clause_margin, linear_pieces
from closegap.testing.networks import onnx_model, random_mlp, random_sign


def tiny(seed: int, sizes: list[int], eps: float) -> Query:
    rng = np.random.default_rng(seed)
    net = random_sign(rng, sizes)
    image = rng.random(sizes[0]).astype(np.float32)
    with torch.no_grad():
        label = int(compiled(net, torch.float64)(torch.from_numpy(image[None]).double()).argmax())
    return robustness(net, image, label, eps)


def test_verdicts_are_those_of_enumeration() -> None:
    verdicts = set()
    for seed in range(4):
        q = tiny(seed, [6, 6, 3], 0.12)
        pieces = list(linear_pieces(q))
        least = min(least_clause_margin(q, k, pieces) for k in range(q.prop.clauses))
        result = solve(q, timeout=3, engines=["binarized"])
        expected = Verdict.VERIFIED if least > 0 else Verdict.FALSIFIED
        assert result.verdict is expected
        verdicts.add(result.verdict)
    assert len(verdicts) == 2


def test_a_proof_that_its_share_cut_off_asks_for_time() -> None:
    shares = {f"binarized.{part}_share": "1e-9" for part in ("attack", "tree", "program")}
    q = tiny(1, [60, 200, 200, 4], 0.005)
    found = solve(q, timeout=30, engines=["binarized"], settings=shares)
    assert found.verdict is Verdict.UNKNOWN
    assert found.reason is Reason.TIME


def test_the_sat_solver_gives_the_same_verdicts() -> None:
    pytest.importorskip("pysat")
    for seed in (0, 2):
        q = tiny(seed, [6, 6, 3], 0.12)
        settings = {"binarized.method": "sat"}
        found = solve(q, timeout=3, engines=["binarized"], settings=settings)
        assert found.verdict is solve(q, timeout=3, engines=["binarized"]).verdict


def pooling(rng: np.random.Generator) -> Network:
    """Six signs, eight sums of which two at a time are pooled, and their signs."""
    step = np.array([-1.0, 1.0])
    weights = {
        "w0": rng.normal(size=(6, 4)),
        "w1": rng.choice(step, size=(8, 6)),
        "b1": 2.0 * rng.integers(-1, 2, 8) + 1.0,  # no ties
        "w2": rng.normal(size=(3, 4)),
        "b2": rng.normal(size=3),
        "tenth": np.array(0.1),
        "pairs": np.array([-1, 1, 4, 2]),
    }
    steps = "Gemm input w0 a,Sign a s,Add s tenth s1,Sign s1 h,Gemm h w1 b1 q,Reshape q pairs r,"
    steps += "MaxPool r p,Flatten p f,Sign f t,Add t tenth t1,Sign t1 k,Gemm k w2 b2 output"
    attributes = {"Gemm": {"transB": 1}, "MaxPool": {"kernel_shape": [1, 2], "strides": [1, 2]}}
    parts = [step.split() for step in steps.split(",")]
    nodes = [
        helper.make_node(op, names, [out], **attributes.get(op, {})) for op, *names, out in parts
    ]
    return loads(onnx_model(nodes, weights, ["N", 4]))


@pytest.mark.parametrize("seed", [0, 4])
def test_hidden_pools_are_left_to_the_tree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = pooling(rng)
    image = rng.random(4).astype(np.float32)
    label = int(replayer(net).outputs_float64(image[None]).argmax())
    q = robustness(net, image, label, 0.3)
    pieces = list(linear_pieces(q))
    least = min(least_clause_margin(q, k, pieces) for k in range(q.prop.clauses))
    found = solve(q, timeout=3, engines=["binarized"])
    assert (found.verdict is Verdict.VERIFIED) == (least > 0)
    early = {"binarized.attack_share": "1e-9", "binarized.tree_share": "1e-9"}
    found = solve(q, timeout=3, engines=["binarized"], settings=early)
    assert found.bracket.lower <= least
    assert found.verdict is not Verdict.UNKNOWN or "pool sums" in found.detail


def test_other_networks_are_left_alone(rng: np.random.Generator) -> None:
    other = robustness(random_mlp(rng, [4, 5, 3]), np.full(4, 0.5), 0, 0.1)
    assert "binarized" not in solve(other, timeout=2, engines=["binarized"]).engine


def tied() -> Network:
    """Three signs times 0.1f, less 0.1f + 0.1f + 0.1f: zero in float32, below it exactly.

    Processors differ in what they make of it: for few inputs all signs are up.
    """
    tenth, kind = np.float32(0.1), np.float32
    edge = -(tenth + tenth + tenth)
    arrays = {
        "tenth": np.asarray(tenth),
        "w0": np.array([[1, 0, 0], [-1, 1, 0], [0, -1, 1]], dtype=kind),
        "w1": np.full((3, 2), tenth),
        "b1": np.array([edge, -0.05], dtype=kind),
        "w2": np.array([[2.0, 0.0], [0.0, 1.5]], dtype=kind),
    }
    steps = "MatMul x w0 a,Sign a s,Add s tenth s1,Sign s1 h,MatMul h w1 p,Add p b1 q,Sign q r,"
    steps += "Add r tenth r1,Sign r1 k,MatMul k w2 y"
    parts = [step.split() for step in steps.split(",")]
    graph = helper.make_graph(
        [helper.make_node(op, [*names], [out]) for op, *names, out in parts],
        "tied",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return loads(model.SerializeToString())


def test_what_float32_alone_condemns_is_no_witness() -> None:
    net, image = tied(), np.array([0.9, 0.6, 0.3], dtype=np.float32)
    judge = replayer(net)
    assert judge.outputs_float32(image[None]).argmax() == 0
    assert judge.outputs_float64(image[None]).argmax() == 1
    found = solve(robustness(net, image, 1, 0.1), timeout=3, engines=["clean", "binarized"])
    assert found.verdict is not Verdict.FALSIFIED
    assert found.bracket.upper > 0
