"""What the gradient attacks break, and in what time. Run with OMP_NUM_THREADS=1.

Four tables: steps and restarts against robust accuracy; every registered attack and the cascade;
the sat properties of VNN-COMP by family; images that published gradient attacks miss. A break
counts when onnxruntime confirms it.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch

import closegap as cg
from closegap.attacks.cascade import Stage, quick_stages, run_stages, thorough_stages
from closegap.attacks.gradient.loop import run
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.registry import METHODS, make_method
from closegap.attacks.outcome import AttackOutcome
from closegap.core.budget import Budget
from closegap.graph.network import Network
from closegap.runtime.replay import Replayer
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.query import Query
from closegap.specs.vnnlib import load_vnnlib, queries
from common import data_root, print_table

Work = Callable[[], Sequence[AttackOutcome]]
Choice = Callable[[Query], tuple[Stage, ...]]

MODELS = (("bab_attack/A_mnist_madry_tiny.onnx", 0.3), ("lippa/ADV_MLP_B_0.1.onnx", 0.1))
HARD = (
    ("bab_attack/A_mnist_madry_tiny.onnx", "A_mip_unsafe.txt"),
    ("bab_attack/B_mnist_cnn_a_adv.onnx", "B_mip_unsafe.txt"),
)
SIZES = ((10, 1), (50, 1), (200, 1), (20, 5), (50, 5), (50, 20))
IMAGE_COLUMNS = ("attack", "steps", "restarts", "robust", "mean margin left", "s", "cpu s")


@dataclass(frozen=True)
class Settings:
    limit: int
    seconds: float
    seed: int


@dataclass(frozen=True)
class Subject:
    """A network, the queries asked of it, and what runs it.

    Attributes:
        indices: of the queries' images in the test set; empty for VNN-LIB properties.
    """

    network: Network
    asked: list[Query]
    torch_network: TorchNetwork
    replayer: Replayer
    indices: tuple[int, ...] = ()

    @classmethod
    def of_images(cls, model: str, which: Sequence[int], eps: float) -> Subject:
        """Robustness of those of these MNIST test images that are classified correctly."""
        network = cg.load(data_root() / "models" / model)
        archive = np.load(data_root() / "mnist/t10k.npz")
        images = archive["images"][list(which)].reshape(-1, *network.input_shape) / 255.0
        labels = archive["labels"][list(which)].astype(int)
        replayer = Replayer(network)
        predicted = replayer.outputs_float32(images.astype(np.float32)).argmax(axis=1)
        correct = np.flatnonzero(predicted == labels).tolist()
        asked = [cg.robustness(network, images[i], int(labels[i]), eps) for i in correct]
        indices = tuple(which[i] for i in correct)
        return cls(network, asked, TorchNetwork(network), replayer, indices)

    def breaks(self, query: Query, outcome: AttackOutcome) -> bool:
        """Whether one of the best candidates breaks the property on the ONNX file."""
        witnesses = (self.replayer.witness(query, point) for point in outcome.points[:4])
        return any(w is not None and w.breaks for w in witnesses)

    def row(
        self, label: Sequence[object], work: Callable[[], Sequence[AttackOutcome]]
    ) -> list[str]:
        wall, processor = time.perf_counter(), time.process_time()
        found = work()
        seconds = (time.perf_counter() - wall, time.process_time() - processor)
        left = [
            outcome.margin
            for query, outcome in zip(self.asked, found, strict=True)
            if not self.breaks(query, outcome)
        ]
        mean = float(np.mean(left)) if left else 0.0
        return [*map(str, label), str(len(left)), *(f"{v:.3f}" for v in (mean, *seconds))]

    def attack(self, name: str, options: AttackOptions, seed: int) -> list[str]:
        method, budget = make_method(name, options), Budget(seed=seed)
        return self.row(
            (name, options.steps or "-", options.restarts or "-"),
            lambda: run(self.torch_network, self.asked, method, budget),
        )

    def cascade(
        self, name: str, choose: Callable[[Query], tuple[Stage, ...]], seed: int
    ) -> list[str]:
        budget = Budget(seed=seed)
        return self.row(
            (name, "-", "-"),
            lambda: [run_stages(self.torch_network, q, choose(q), budget) for q in self.asked],
        )


def image_subjects(limit: int) -> Iterator[tuple[str, Subject]]:
    for model, eps in MODELS:
        subject = Subject.of_images(model, range(limit), eps)
        title = f"{model}, eps {eps}: {len(subject.asked)} of the first {limit} images are correct"
        yield title, subject


def sizes(settings: Settings) -> None:
    for title, subject in image_subjects(settings.limit):
        rows = [
            subject.attack(name, AttackOptions(steps + 10, restarts), settings.seed)
            for name in ("pgd", "ods-pgd", "gama-pgd", "mt-pgd")
            for steps, restarts in SIZES
        ]
        print_table(title, IMAGE_COLUMNS, rows)


def methods(settings: Settings) -> None:
    stages = {"cascade, quick": quick_stages, "cascade, thorough": thorough_stages}
    for title, subject in image_subjects(settings.limit):
        rows = [subject.attack(name, AttackOptions(), settings.seed) for name in METHODS]
        for name, choose in stages.items():
            rows.append(subject.cascade(name, choose, settings.seed))
        print_table(title, IMAGE_COLUMNS, rows)


def both_cascades(network: TorchNetwork, query: Query, budget: Budget) -> AttackOutcome:
    quick = run_stages(network, query, quick_stages(query), budget)
    if query.prop.broken_by(quick.margin) or budget.expired:
        return quick
    return run_stages(network, query, thorough_stages(query), budget, rounds=None)


def sat_properties(folder: Path) -> Iterator[tuple[str, Subject]]:
    loaded: dict[str, Network] = {}
    with (folder / "instances.csv").open() as file:
        for row in csv.DictReader(file):
            if row["verdict"] != "sat":
                continue
            network = loaded.setdefault(row["onnx"], cg.load(folder / row["onnx"]))
            asked = list(queries(load_vnnlib(folder / row["vnnlib"]), network))
            yield row["vnnlib"], Subject(network, asked, TorchNetwork(network), Replayer(network))


def family(folder: Path, settings: Settings) -> list[str] | None:
    times: list[float] = []
    missed: list[str] = []
    for name, subject in sat_properties(folder):
        began = time.perf_counter()
        share = settings.seconds / len(subject.asked)
        broken = any(
            subject.breaks(
                query,
                both_cascades(
                    subject.torch_network, query, Budget.of_seconds(share, seed=settings.seed)
                ),
            )
            for query in subject.asked
        )
        if broken:
            times.append(time.perf_counter() - began)
        else:
            missed.append(Path(name).name)
    if not times and not missed:
        return None
    middle, most = (float(np.median(times)), max(times)) if times else (np.nan, np.nan)
    found = f"{len(times)} of {len(times) + len(missed)}"
    return [folder.name, found, f"{middle:.3f}", f"{most:.3f}", " ".join(missed)]


def vnncomp(settings: Settings) -> None:
    folders = sorted(p for p in (data_root() / "vnncomp").iterdir() if p.is_dir())
    rows = [row for folder in folders if (row := family(folder, settings))]
    columns = ("family", "broken", "median s", "most s", "missed")
    print_table(f"sat properties, {settings.seconds:g} s each", columns, rows)


def hard(settings: Settings) -> None:
    for model, names in HARD:
        which = [int(x) for x in (data_root() / "hard_instances" / names).read_text().split()]
        subject = Subject.of_images(model, which, 0.3)
        rows = []
        for index, query in zip(which, subject.asked, strict=True):
            budget = Budget.of_seconds(settings.seconds, seed=settings.seed)
            wall, processor = time.perf_counter(), time.process_time()
            found = both_cascades(subject.torch_network, query, budget)
            spent = (time.perf_counter() - wall, time.process_time() - processor)
            broken = "broken" if subject.breaks(query, found) else "open"
            rows.append([str(index), broken, *(f"{v:.4f}" for v in (found.margin, *spent))])
        title = f"{model}, {names}, eps 0.3, {settings.seconds:g} s each"
        print_table(title, ("image", "answer", "margin", "s", "cpu s"), rows)


TABLES = {"sizes": sizes, "methods": methods, "vnncomp": vnncomp, "hard": hard}


@click.command(help=__doc__)
@click.argument("table", type=click.Choice(list(TABLES)))
@click.option("--limit", default=100, show_default=True, help="images of the first two tables")
@click.option("--seconds", default=2.0, show_default=True, help="for one property or hard image")
@click.option("--seed", default=0, show_default=True)
def main(table: str, limit: int, seconds: float, seed: int) -> None:
    torch.set_num_threads(1)
    TABLES[table](Settings(limit, seconds, seed))


if __name__ == "__main__":
    main()
