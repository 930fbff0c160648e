"""LiPPA's second table: robust error of MNIST networks, the region walk and PGD beside it.

A break counts when onnxruntime confirms it. `closegap` is everything, proofs included: what it left
open is a column of its own, so the exact error lies between the two. Then the first table: how many
pieces random points of a ball lie in, and how many ReLUs change sign among them. Answers go to a
file of JSON lines; a run that was cut off goes on behind the last. Run with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch

import closegap as cg
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


@dataclass(frozen=True)
class Answer:
    """One image, one method.

    Attributes:
        verdict: `clean` where the image is misclassified as it is.
        limit: seconds it was given.
        seconds, processor: that it took.
    """

    model: str
    method: str
    index: int
    limit: float
    verdict: str
    seconds: float
    processor: float


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


def answers(
    model: str, radius: float, method: str, limit: int, seconds: float, path: Path
) -> Iterator[Answer]:
    """The first images in order; what is in the file already is not asked again."""
    lines = path.read_text().splitlines() if path.exists() else []
    kept = (Answer(**json.loads(line)) for line in lines)
    known = {a.index: a for a in kept if (a.model, a.method, a.limit) == (model, method, seconds)}
    network = cg.load(data_root() / f"models/lippa/{model}.onnx")
    for index, (image, label) in enumerate(zip(*images(network, limit), strict=True)):
        if index not in known:
            query = cg.robustness(network, image, label, radius)
            clean = replayer(network).witness(query, image.astype(np.float32))
            wall, begun = time.perf_counter(), time.process_time()
            wrong = clean is not None and clean.breaks
            verdict = "clean" if wrong else ask(method, query, seconds)
            spent = time.perf_counter() - wall, time.process_time() - begun
            known[index] = Answer(model, method, index, seconds, verdict, *spent)
            with path.open("a") as file:
                file.write(json.dumps(asdict(known[index])) + "\n")
        yield known[index]


def row(found: Sequence[Answer], radius: float, wanted: float) -> list[str]:
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
        f"{radius}",
        found[0].method,
        f"{share * count['clean']:.1f}",
        f"{share * broken:.1f}",
        f"{share * count[Verdict.UNKNOWN]:.1f}" if proved else "-",
        f"{wanted}",
        *(f"{median(spent):.3f}" if spent else "-" for spent in times),
        f"{sum(a.processor for a in found):.0f}",
    ]


def pieces(model: str, limit: int, samples: int) -> list[str]:
    """A row: means over images of the pieces found and of the ReLUs that change sign."""
    network = cg.load(data_root() / f"models/lippa/{model}.onnx")
    random = np.random.default_rng(0)
    found: Sequence[tuple[int, int]] = [
        _pieces(network, image, random, samples) for image in images(network, limit)[0]
    ]
    regions, changing = np.mean(np.array(found), axis=0)
    return [model, f"{changing:.1f}", f"{regions:.0f}"]


def _pieces(
    network: Network, image: np.ndarray, random: np.random.Generator, samples: int
) -> tuple[int, int]:
    noise = random.uniform(-0.05, 0.05, size=(samples, *image.shape))
    points = np.clip(image + noise, 0.0, 1.0).astype(np.float32)
    patterns = activation_patterns(compiled(network, torch.float32), points)
    changing = int((patterns.any(axis=0) & ~patterns.all(axis=0)).sum())
    return len(np.unique(pack(patterns), axis=0)), changing


@click.command(help=__doc__)
@click.option("--limit", default=100, show_default=True, help="the first so many images")
@click.option("--seconds", default=10.0, show_default=True, help="for one method on one image")
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--samples", default=6144, show_default=True, help="points of the second table; or 0")
@click.option("--lines", type=click.Path(path_type=Path), default=Path("lippa.jsonl"))
def main(limit: int, seconds: float, methods: str, samples: int, lines: Path) -> None:
    torch.set_num_threads(1)
    chosen = methods.split(",")
    unknown = [name for name in chosen if name not in METHODS]
    if unknown:
        raise click.UsageError(f"--methods {unknown[0]}: known are {', '.join(METHODS)}")
    most = len(PUBLISHED) * len(chosen) * limit * seconds / 60
    click.echo(f"at most {most:.0f} minutes; answers in {lines}", err=True)
    rows = []
    for model, radius, wanted in PUBLISHED:
        for method in chosen:
            found = list(answers(model, radius, method, limit, seconds, lines))
            rows.append(row(found, radius, wanted))
            click.echo("  ".join(rows[-1]), err=True)
    columns = ("network", "eps", "method", "clean %", "error %", "open %", "published %", "hit s",
               "miss s", "all s")  # fmt: skip
    print_table(f"robust error, first {limit} images, median cpu s", columns, rows)
    if samples:
        counted = [pieces(model, min(limit, 100), samples) for model, *_ in PUBLISHED]
        title = f"{samples} points within 0.05, means of {min(limit, 100)} images"
        print_table(title, ("network", "ReLUs that change", "pieces"), counted)


if __name__ == "__main__":
    main()
