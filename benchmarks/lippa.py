"""LiPPA's second table: robust error of MNIST networks, the region walk and PGD beside it.

A break counts when onnxruntime confirms it; images that are misclassified as they are count as
errors, as in the paper. `closegap` is everything, proofs included: what it left open is a column of
its own, so the exact error lies between the two. Then the first table and figure 4: in how many
pieces random points of a ball lie, and how many ReLUs change sign among them. Answers go to a file
of JSON lines; a run that was cut off goes on behind the last. Run with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

import closegap as cg
from answers import Clock, Key, answered
from closegap.attacks.activation.query_attack import run_attack
from closegap.attacks.patterns import activation_patterns, pack
from closegap.attacks.registry import make_attack
from closegap.core.budget import Budget
from closegap.core.verdict import Verdict
from closegap.graph.network import Network
from closegap.runtime.cache import compiled, replayer
from closegap.specs.query import Query
from common import data_root, print_table

#: Network, radius, and the error that the LiPPA paper reports on the first 1000 images.
PUBLISHED = (
    ("NOR_MLP_B", 0.05, 63.3),
    ("ADV_MLP_B_0.1", 0.1, 20.4),
    ("LPD_MLP_B_0.2", 0.2, 36.3),
)
EVERYTHING = "closegap"
METHODS = ("mt-pgd", "lippa", "region-walk", EVERYTHING)
#: Networks of the first table and the pieces it reports of 6144 points; all within 0.05.
PIECES = {"NOR_MLP_B": 541, "ADV_MLP_B_0.05": 198, "ADV_MLP_B_0.1": 49, "LPD_MLP_B_0.1": 14}
PIECES_EPS = 0.05


@dataclass(frozen=True)
class Task:
    """One method on one image.

    Attributes:
        limit: seconds.
    """

    model: str
    radius: float
    method: str
    index: int
    limit: float

    @property
    def key(self) -> Key:
        """All of it."""
        return (self.model, self.radius, self.method, self.index, self.limit)


@dataclass(frozen=True)
class Answer:
    """What it came to.

    Attributes:
        model, radius, method, index, limit: what was asked.
        verdict: `clean` where the image is misclassified as it is.
        seconds, processor: that it took.
    """

    model: str
    radius: float
    method: str
    index: int
    limit: float
    verdict: str
    seconds: float
    processor: float

    @property
    def key(self) -> Key:
        """The task's."""
        return (self.model, self.radius, self.method, self.index, self.limit)


def images(network: Network, count: int) -> tuple[np.ndarray, list[int]]:
    archive = np.load(data_root() / "mnist/t10k.npz")
    pictures = archive["images"][:count].reshape(-1, *network.input_shape) / 255.0
    return pictures, archive["labels"][:count].astype(int).tolist()


def ask(method: str, query: Query, limit: float) -> str:
    """The verdict of one method on one query."""
    if method == EVERYTHING:
        return str(cg.solve(query, timeout=limit).verdict)
    network, budget = compiled(query.network, torch.float32), Budget.of_seconds(limit)
    (outcome,) = run_attack(network, [query], make_attack(method), budget)
    seen = (replayer(query.network).witness(query, point) for point in outcome.points[:4])
    broken = any(w is not None and w.breaks for w in seen)
    return str(Verdict.FALSIFIED if broken else Verdict.UNKNOWN)


def answer(task: Task) -> Answer:
    """Judge the image as it is, and attack it if that is right."""
    network = model(task.model)
    pictures, labels = images(network, task.index + 1)
    query = cg.robustness(network, pictures[-1], labels[-1], task.radius)
    clean = replayer(network).witness(query, pictures[-1].astype(np.float32))
    clock = Clock()
    wrong = clean is not None and clean.breaks
    verdict = "clean" if wrong else ask(task.method, query, task.limit)
    seconds, processor = clock.read()
    return Answer(**asdict(task), verdict=verdict, seconds=seconds, processor=processor)


@functools.cache
def model(name: str) -> Network:
    return cg.load(data_root() / f"models/lippa/{name}.onnx")


def row(found: Sequence[Answer], wanted: float) -> list[str]:
    """How many images lose their label, how many are open, and the processor seconds of one."""
    count = {name: sum(a.verdict == name for a in found) for name in ("clean", *Verdict)}
    share = 100 / len(found)
    broken = count["clean"] + count[Verdict.FALSIFIED]
    proved = found[0].method == EVERYTHING
    times = (
        [a.processor for a in found if a.verdict in names]
        for names in ((Verdict.FALSIFIED,), (Verdict.VERIFIED, Verdict.UNKNOWN))
    )
    return [
        found[0].model,
        f"{found[0].radius}",
        found[0].method,
        f"{share * count['clean']:.1f}",
        f"{share * broken:.1f}",
        f"{share * count[Verdict.UNKNOWN]:.1f}" if proved else "-",
        f"{wanted}",
        *(f"{median(spent):.3f}" if spent else "-" for spent in times),
        f"{sum(a.processor for a in found):.0f}",
    ]


def growth(name: str, limit: int, samples: int) -> tuple[NDArray[np.float64], float]:
    """Pieces found by the first 1, 2, 4, ... points, and ReLUs that change; means over images."""
    network, random = model(name), np.random.default_rng(0)
    found = [_growth(network, image, random, samples) for image in images(network, limit)[0]]
    return np.mean([pieces for pieces, _ in found], axis=0), float(np.mean([n for _, n in found]))


def _growth(
    network: Network, image: np.ndarray, random: np.random.Generator, samples: int
) -> tuple[list[int], int]:
    noise = random.uniform(-PIECES_EPS, PIECES_EPS, size=(samples, *image.shape))
    points = np.clip(image + noise, 0.0, 1.0).astype(np.float32)
    patterns = activation_patterns(compiled(network, torch.float32), points)
    changing = int((patterns.any(axis=0) & ~patterns.all(axis=0)).sum())
    _, first = np.unique(pack(patterns), axis=0, return_index=True)
    return [int((first < count).sum()) for count in counts(samples)], changing


def counts(samples: int) -> list[int]:
    """1, 2, 4, ... and all."""
    return [*(2**k for k in range(samples.bit_length()) if 2**k < samples), samples]


def draw(found: Mapping[str, NDArray[np.float64]], samples: int, path: Path) -> None:
    """Pieces against points, a line a network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, pieces in found.items():
        axes.plot(counts(samples), pieces, marker="o", markersize=3, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(f"random points within {PIECES_EPS}")
    axes.set_ylabel("pieces found")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def print_pieces(limit: int, samples: int, picture: Path) -> None:
    found = {name: growth(name, limit, samples) for name in PIECES}
    rows = [
        (name, f"{changing:.1f}", f"{pieces[-1]:.0f}", f"{PIECES[name]}")
        for name, (pieces, changing) in found.items()
    ]
    title = f"{samples} points within {PIECES_EPS}, means of {limit} images"
    print_table(title, ("network", "ReLUs that change", "pieces", "published"), rows)
    draw({name: pieces for name, (pieces, _) in found.items()}, samples, picture)


@click.command(help=__doc__)
@click.option("--limit", default=100, show_default=True, help="the first so many images")
@click.option("--seconds", default=10.0, show_default=True, help="for one method on one image")
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--samples", default=6144, show_default=True, help="points of the second table; or 0")
@click.option("--workers", default=1, show_default=True, help="processes")
@click.option("--lines", type=click.Path(path_type=Path), default=Path("lippa.jsonl"))
@click.option("--picture", type=click.Path(path_type=Path), default=Path("lippa.png"))
def main(limit: int, seconds: float, methods: str, samples: int, **options: Any) -> None:
    torch.set_num_threads(1)
    chosen = methods.split(",")
    unknown = [name for name in chosen if name not in METHODS]
    if unknown:
        raise click.UsageError(f"--methods {unknown[0]}: known are {', '.join(METHODS)}")
    lines, workers = options["lines"], options["workers"]
    most = len(PUBLISHED) * len(chosen) * limit * seconds / workers / 60
    click.echo(f"at most {most:.0f} minutes; answers in {lines}", err=True)
    rows = []
    for name, radius, wanted in PUBLISHED:
        for method in chosen:
            tasks = [Task(name, radius, method, index, seconds) for index in range(limit)]
            rows.append(row(answered(tasks, answer, Answer, lines, workers=workers), wanted))
            click.echo("  ".join(rows[-1]), err=True)
    columns = ("network", "eps", "method", "clean %", "error %", "open %", "published %", "hit s",
               "miss s", "all s")  # fmt: skip
    print_table(f"robust error, first {limit} images, median cpu s", columns, rows)
    if samples:
        print_pieces(min(limit, 100), samples, options["picture"])


if __name__ == "__main__":
    main()
