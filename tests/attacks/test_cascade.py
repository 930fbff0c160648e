from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import closegap as cg
from closegap import attacks
from closegap.attacks.cascade import free_inputs, quick_stages, run_stages, thorough_stages
from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.hopping import Hopping
from closegap.attacks.gradient.loop import run
from closegap.attacks.images import ImageAttack, norm_value
from closegap.attacks.minimal.images import MinimalImageAttack
from closegap.attacks.modes import Subjects, least_likely, random_class
from closegap.attacks.outcome import AttackOutcome, merge_outcomes
from closegap.attacks.pool import CandidatePool
from closegap.core.budget import Budget
from closegap.core.errors import DataError, OptionError, SpecError
from closegap.graph.network import Network
from closegap.runtime.replay import Replayer
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.query import Query, robustness, targeted
from closegap.specs.region import Box, contains, lp_ball
from closegap.testing.enumeration import least_clause_margin
from closegap.testing.networks import random_conv, random_mlp, random_sign

WITHIN_A_RADIUS = [
    name for name in attacks.__all__ if isinstance(getattr(attacks, name), ImageAttack)
]


def test_importing_attacks_is_light() -> None:
    code = (
        "import sys, closegap, closegap.attacks; "
        "assert 'torch' not in sys.modules and 'onnxruntime' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there() -> None:
    assert set(dir(attacks)) == set(attacks.__all__)
    for name in attacks.__all__:
        assert isinstance(getattr(attacks, name), ImageAttack | MinimalImageAttack)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = attacks.Nonsense


@pytest.mark.parametrize("name", WITHIN_A_RADIUS)
@pytest.mark.parametrize("norm", ["inf", "2", "l1"])
def test_image_attacks_take_and_return_tensors(
    rng: np.random.Generator, name: str, norm: str
) -> None:
    network = random_conv(rng)
    images = torch.as_tensor(rng.random((5, *network.input_shape)), dtype=torch.float32)
    labels = torch.tensor([0, 1, 2, 0, 1])
    eps = {"inf": 0.1, "2": 0.4, "l1": 1.5}[norm]
    make = getattr(attacks, name)
    sizes = {"steps": 6, "restarts": 3} if name != "FGSM" else {}
    if name.startswith("AutoAttack"):
        sizes = {"steps": 1, "restarts": 2}
    attack = make(network, eps=eps, norm=norm, seed=3, **sizes)
    found = attack(images, labels)
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    for image, adversarial in zip(images.numpy(), found.numpy(), strict=True):
        assert contains(lp_ball(image, eps, norm=norm_value(norm)), adversarial)
    torch.testing.assert_close(attack(images, labels), found, rtol=0, atol=0)


def margins(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    own = labels[:, None]
    return outputs.gather(1, own)[:, 0] - outputs.scatter(1, own, -torch.inf).amax(dim=1)


@pytest.mark.parametrize("name", ["PGD", "ODSPGD", "MultiTargetedPGD", "HopPGD"])
def test_image_attacks_lower_margins(rng: np.random.Generator, name: str) -> None:
    network = random_conv(rng)
    images = torch.as_tensor(rng.random((6, *network.input_shape)), dtype=torch.float32)
    lens = TorchNetwork(network)
    labels = lens(images).argmax(dim=1)
    found = getattr(attacks, name)(network, eps=0.3, steps=6, restarts=3)(images, labels)
    assert (margins(lens(found), labels) < margins(lens(images), labels)).all()


def test_a_torch_module_is_attacked_through_its_export(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(16, 12), torch.nn.ReLU(), torch.nn.Linear(12, 4)
    ).eval()
    images = torch.as_tensor(rng.random((3, 1, 4, 4)), dtype=torch.float32)
    labels = module(images).argmax(dim=1)
    found = attacks.PGD(module, eps=0.5, steps=20, restarts=3)(images, labels)
    assert (margins(module(found), labels) < margins(module(images), labels) - 0.05).all()
    assert (found - images).abs().max() <= 0.5


def test_misuse_is_refused(rng: np.random.Generator) -> None:
    network = random_mlp(rng, [4, 6, 3])
    images, labels = torch.full((2, 4), 0.5), torch.tensor([0, 1])
    with pytest.raises(DataError, match="2 images came with 1 labels"):
        attacks.PGD(network, eps=0.1)(images, labels[:1])
    with pytest.raises(OptionError, match="norm must be"):
        attacks.PGD(network, eps=0.1, norm="3")(images, labels)
    with pytest.raises(OptionError, match="radius"):
        attacks.PGD(network, eps=-0.1)(images, labels)


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (torch.eye(2), r"not float32 of shape \[2, 2\]"),
        (torch.tensor([[0], [1]]), r"not int64 of shape \[2, 1\]"),
        (torch.tensor([True, False]), "not bool"),
        (torch.tensor([0.5, 1.0]), "label 0.5 is not a whole number"),
        (torch.tensor([0.0, math.nan]), "label nan is not a whole number"),
        (torch.tensor(0), r"not int64 of shape \[\]"),
    ],
)
@pytest.mark.parametrize("name", ["PGD", "FMN"])
def test_labels_are_one_whole_number_an_image(
    rng: np.random.Generator, name: str, labels: torch.Tensor, fault: str
) -> None:
    eps = {"eps": 0.1} if name == "PGD" else {}
    attack = getattr(attacks, name)(random_mlp(rng, [4, 6, 3]), **eps)
    with pytest.raises(DataError, match=fault):
        attack(torch.full((2, 4), 0.5), labels)


def test_images_of_any_real_kind_become_float32(rng: np.random.Generator) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    images, labels = torch.tensor([[0.0, 1.0, 1.0, 0.0]]), torch.tensor([1.0])
    for kind in (torch.float64, torch.float16, torch.bfloat16, torch.uint8):
        found = attacks.PGD(module, eps=0.1, steps=2)(images.to(kind), labels)
        assert found.dtype == torch.float32
        assert (found - images).abs().max() <= 0.1
    network = random_mlp(rng, [4, 6, 3])
    assert attacks.PGD(network, eps=0.1)(images[:0], labels[:0]).shape == (0, 4)
    for bad in (torch.tensor(0.5), images * 1j):
        with pytest.raises(DataError, match="images must be real, with a batch axis"):
            attacks.PGD(network, eps=0.1)(bad, labels)


def winners(network: Network, images: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(Replayer(network).outputs_float32(images.numpy()).argmax(axis=1))


TARGETED = "PGD", "CrossEntropyPGD", "GAMAPGD", "APGDDLR", "FABT", "LiPPA", "BaBAttack", "MIPAttack"


@pytest.mark.parametrize("name", TARGETED)
def test_a_target_is_reached_where_enumeration_says_so(rng: np.random.Generator, name: str) -> None:
    """Gradients may fail now and then, complete attacks may not, and nobody goes beyond."""
    network = random_mlp(rng, [2, 5, 4])
    count = 2 if name == "BaBAttack" else 6
    images = torch.as_tensor(rng.random((6, 2))[:count], dtype=torch.float32)
    targets = torch.as_tensor(rng.integers(4, size=6)[:count])
    optima = [
        least_clause_margin(targeted(network, image, int(target), 0.3), 0)
        for image, target in zip(images.numpy(), targets, strict=True)
    ]
    attack = getattr(attacks, name)(network, eps=0.3, steps=30, restarts=3)
    attack.set_mode_targeted_by_label()
    found = attack(images, targets)
    reached = (winners(network, found) == targets).numpy()
    assert ((found - images).abs() <= 0.3 + 1e-6).all()
    possible = np.array(optima) < -1e-4
    assert possible.any()
    assert not (reached & (np.array(optima) > 1e-4)).any()
    assert (reached | ~possible).mean() >= (1.0 if name == "MIPAttack" else 0.8)


@pytest.mark.parametrize("name", ["FMN", "CW", "DeepFool"])
def test_nearest_images_of_a_target_have_its_class(rng: np.random.Generator, name: str) -> None:
    network = random_mlp(rng, [6, 12, 4])
    images = torch.as_tensor(rng.random((4, 6)), dtype=torch.float32)
    labels = winners(network, images)
    attack = getattr(attacks, name)(network, steps=30)
    attack.set_mode_targeted_least_likely(kth_min=3)  # the runner-up
    found = attack(images, labels)
    outputs = torch.as_tensor(Replayer(network).outputs_float32(images.numpy()))
    second = outputs.argsort(dim=1)[:, -2]
    moved = (found != images).any(dim=1)
    assert moved.sum() >= 3
    assert (winners(network, found)[moved] == second[moved]).all()


def test_modes_say_which_class_each_image_shall_become(rng: np.random.Generator) -> None:
    network = random_mlp(rng, [6, 12, 4])
    images = torch.as_tensor(rng.random((20, 6)), dtype=torch.float32)
    labels = winners(network, images)
    attack = attacks.PGD(network, eps=1.0, steps=30, restarts=4, seed=4)
    assert attack.get_mode() == "default"
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def following(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        asked.append((images, labels))
        return (labels + 1) % 4

    attack.set_mode_targeted_by_function(following)
    reached = winners(network, attack(images, labels))
    assert attack.get_mode() == "targeted(custom)"
    assert ((reached == (labels + 1) % 4) | (reached == labels)).float().mean() > 0.9
    torch.testing.assert_close(asked[0], (images, labels))
    subjects = Subjects(TorchNetwork(network), images, labels, seed=4)
    drawn, again = (random_class().targets(subjects) for _ in range(2))
    assert (drawn != labels).all()
    assert set(drawn.tolist()) == {0, 1, 2, 3}
    assert torch.equal(drawn, again)
    ranked = TorchNetwork(network)(images).argsort(dim=1)
    least, others = least_likely().targets(subjects), least_likely(3).targets(subjects)
    assert torch.equal(least, ranked[:, 0])
    assert torch.equal(others, ranked[:, 2])
    attack.set_mode_targeted_random()
    attack.set_mode_default()
    default = attacks.PGD(network, eps=1.0, steps=30, restarts=4, seed=4)(images, labels)
    torch.testing.assert_close(attack(images, labels), default, rtol=0, atol=0)


def test_targets_that_are_none_are_refused(rng: np.random.Generator) -> None:
    network = random_mlp(rng, [4, 6, 3])
    images, labels = torch.full((2, 4), 0.5), torch.tensor([0, 1])
    attack = attacks.PGD(network, eps=0.1, steps=2)
    attack.set_mode_targeted_by_label()
    with pytest.raises(SpecError, match=r"target 7 is not a class: the network has outputs 0..2"):
        attack(images, torch.tensor([0, 7]))
    attack.set_mode_targeted_by_function(lambda images, labels: labels[:1])
    with pytest.raises(DataError, match="2 images came with 1 targets"):
        attack(images, labels)
    for rank in (0, -1):
        with pytest.raises(OptionError, match="kth_min must be at least 1"):
            attack.set_mode_targeted_least_likely(rank)
    attack.set_mode_targeted_least_likely(3)
    with pytest.raises(OptionError, match="2 other classes than the label, not 3"):
        attack(images, labels)
    attack.set_mode_targeted_least_likely()
    with pytest.raises(SpecError, match="label 9 is not a class"):
        attack(images, torch.tensor([0, 9]))
    with pytest.raises(SpecError, match="does not fit the network's input"):
        attack(torch.full((2, 5), 0.5), labels)


@pytest.mark.parametrize("norm", ["2", 2, 2.0, "l2", "L2", "2.0"])
def test_norms_have_many_spellings(norm: str | float) -> None:
    assert norm_value(norm) == 2.0
    assert norm_value(math.inf) == norm_value("Linf") == math.inf


@pytest.mark.parametrize("stages", [quick_stages, thorough_stages])
@pytest.mark.parametrize("build", [random_mlp, random_sign])
def test_cascades_fill_the_pool_with_members(
    rng: np.random.Generator,
    stages: Callable[..., tuple[object, ...]],
    build: Callable[..., object],
) -> None:
    network = build(rng, [30, 10, 10, 3])
    assert isinstance(network, cg.graph.network.Network)
    lens = TorchNetwork(network)
    center = rng.random(30)
    label = int(lens(lens.tensor(center[None])).argmax())
    query = robustness(network, center, label, 0.02)
    pool = CandidatePool.for_network(lens)
    found = run_stages(lens, query, stages(query), Budget(), pool=pool)
    assert len(found.points) > 0
    assert all(contains(query.region, p) for p in found.points)
    assert pool.best(1)[0].margin == found.margin
    assert {c.engine for c in pool.best()} <= {"pgd", "ods-pgd", "mt-pgd", "gama-pgd", "hop-pgd"}
    replayer = Replayer(network)
    witness = replayer.witness(query, found.points[0])
    assert witness is not None
    assert witness.margin == pytest.approx(found.margin, abs=1e-4)


def test_a_cascade_keeps_its_deadline(rng: np.random.Generator) -> None:
    network = random_conv(rng, channels=3, side=12)
    lens = TorchNetwork(network)
    image = np.full(network.input_shape, 0.5)
    label = int(lens(lens.tensor(image[None])).argmax())
    query = robustness(network, image, label, 1e-4)
    began = time.monotonic()
    run_stages(lens, query, thorough_stages(query), Budget.of_seconds(0.5), rounds=None)
    assert 0.4 < time.monotonic() - began < 1.5
    none = run_stages(lens, query, quick_stages(query), Budget.of_seconds(0))
    assert none.best is None
    assert not none.finished


def test_fixed_inputs_are_not_free(rng: np.random.Generator) -> None:
    network = random_mlp(rng, [4, 6, 3])
    prop = robustness(network, np.full(4, 0.5), 0, 0.1).prop
    box = Box(np.array([0.1, 0, 1e9, 0]), np.array([0.1, 1, 1e9 + 1, 2]))
    assert free_inputs(Query(network, box, prop)) == 2


def test_outcomes_merge_in_order() -> None:
    def outcome(margins: list[float], *, finished: bool) -> AttackOutcome:
        points = np.array(margins, np.float32)[:, None]
        return AttackOutcome("a", points, np.array(margins), 10, finished)

    both = merge_outcomes(
        [outcome([1.0, 3.0], finished=True), outcome([2.0], finished=False)], "both"
    )
    assert both.margins.tolist() == [1, 2, 3]
    assert both.points[:, 0].tolist() == [1, 2, 3]
    assert (both.evaluations, both.finished, both.method) == (20, False, "both")
    assert both.best_of(2).margins.tolist() == [1, 2]
    with pytest.raises(ValueError, match="no outcome"):
        merge_outcomes([], "none")


def test_hopping_beats_restarts_on_a_real_network(data_path: Callable[[str], Path]) -> None:
    """An image that is hard to break, with the same number of evaluations for both."""
    network = cg.load(data_path("models/bab_attack/A_mnist_madry_tiny.onnx"))
    archive = np.load(data_path("mnist/t10k.npz"))
    image = archive["images"][758].reshape(network.input_shape) / 255.0
    query = robustness(network, image, int(archive["labels"][758]), 0.3)
    lens = TorchNetwork(network)
    restarts, hops = (
        run(lens, [query], method, Budget())[0]
        for method in (
            Descent("ods-pgd", steps=60, restarts=48, diversify=8),
            Hopping(hops=4, restarts=18),
        )
    )
    assert abs(hops.evaluations - restarts.evaluations) < 100
    assert hops.margin < restarts.margin
    witness = Replayer(network).witness(query, hops.points[0])
    assert witness is not None
    assert witness.margin == pytest.approx(hops.margin, abs=1e-3)
