"""What `sparse.py` compares: networks, images, methods; what each came to, kept line by line."""

from __future__ import annotations

import json
import math
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from closegap.attacks.minimal.attack import replayed
from closegap.attacks.sparse.generic import GenericMip
from closegap.attacks.sparse.incumbent import Incumbent
from closegap.attacks.sparse.options import (
    OURS,
    PAPER,
    Branching,
    Curved,
    GroupOptions,
    Heuristic,
    Order,
    SparseOptions,
)
from closegap.attacks.sparse.starts import Starts
from closegap.attacks.sparse.tree import SparseTree
from closegap.core.budget import Budget
from closegap.core.tolerance import Tolerance
from closegap.frontend import load
from closegap.graph.network import Network
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import ObjectiveOptions, make_objective
from closegap.strategy.distance import minimise_distance
from common import data_root

__all__ = [
    "METHODS",
    "MODELS",
    "MORE",
    "PARTS",
    "Answer",
    "Outcome",
    "cpu_seconds",
    "measured",
    "queries",
]

#: By name, the ONNX file, and the archive of its images.
MODELS: dict[str, tuple[str, str]] = {
    "mnist 2x20": ("models/eran/toy_mnist_2_20.onnx", "mnist/t10k.npz"),
    "mnist 2x50": ("models/eran/mnist_2_50.onnx", "mnist/t10k.npz"),
    "mnist 6x100": ("models/eran/mnist_6_100.onnx", "mnist/t10k.npz"),
    "mnist 9x200": ("models/eran/mnist_9_200.onnx", "mnist/t10k.npz"),
    "mnist conv_small": ("models/eran/mnist_conv_small_nat.onnx", "mnist/t10k.npz"),
    "cifar conv_small": ("models/eran/cifar_conv_small_pgd.onnx", "cifar10/images.npz"),
}

#: Of the upper end, or of 1 if that is more, how near the ends of a closed bracket are.
CLOSED = 1e-3


@dataclass(frozen=True, eq=False)
class Answer:
    """A method's bracket of one distance.

    Attributes:
        lower: proved.
        upper: attained by `witness`; infinity without one.
        nodes: of its tree; 0 where it tells none.
        witness: as replayed.
    """

    lower: float
    upper: float
    nodes: int
    witness: NDArray[np.float32] | None

    @property
    def closed(self) -> bool:
        """Whether the ends meet within a thousandth, for every method alike."""
        if math.isinf(self.upper):  # then nothing was found: closed where nothing is there
            return self.lower == self.upper
        return self.upper - self.lower <= CLOSED * max(1.0, abs(self.upper))


@dataclass(frozen=True)
class Outcome:
    """One method on one image, without arrays.

    Attributes:
        model: its name in `MODELS`.
        distance: what was minimised.
        method: its name in `METHODS`.
        index: of the image.
        seconds: wall-clock.
        closed: see `Answer`.
        cpu: processor seconds, of solvers in other processes too.
        limit: seconds allowed.
    """

    model: str
    distance: str
    method: str
    index: int
    lower: float
    upper: float
    closed: bool
    nodes: int
    seconds: float
    cpu: float
    limit: float


#: What every method is asked for: it may stop once its bracket is closed.
_CLOSE = Tolerance(math.inf, CLOSED)

Method = Callable[[DistanceQuery, float], Answer]


def _tree(
    options: SparseOptions, query: DistanceQuery, seconds: float, *, start: bool = False
) -> Answer:
    budget, judge = Budget.of_seconds(seconds), replayed(query)
    options = replace(options, tolerance=_CLOSE)
    starts = _started(query, budget) if start else ()
    found = SparseTree(options).run(query, budget, judge, starts)
    return Answer(found.lower, found.upper, found.nodes, found.witness)


def _started(query: DistanceQuery, budget: Budget) -> tuple[NDArray[np.float32], ...]:
    """What the attack finds that `ours` begins with."""
    incumbent = Incumbent(query, replayed(query))
    Starts(replace(OURS, attack=None), query, budget, incumbent).quick()
    point = incumbent.best.point
    return () if point is None else (point,)


def _strategy(query: DistanceQuery, seconds: float) -> Answer:
    found = minimise_distance(query, timeout=seconds, tolerance=_CLOSE)
    nodes = int(getattr(found, "counts", {}).get("nodes", 0))
    return Answer(found.lower, found.upper, nodes, found.witness)


def _generic(solver: str, query: DistanceQuery, seconds: float, *, start: bool = False) -> Answer:
    budget, judge = Budget.of_seconds(seconds), replayed(query)
    starts = _started(query, budget) if start else ()
    found = GenericMip(solver, tolerance=_CLOSE).run(query, budget, judge, starts)
    if any("did not answer" in note for note in found.notes):
        click.echo(f"{found.notes[0]}: counted as open", err=True)
        return Answer(-math.inf, math.inf, 0, None)
    return Answer(found.lower, found.upper, found.nodes, found.witness)


_ALONE = replace(OURS, batch=0, order=Order.PLUNGE)
#: Ours with one part left out or exchanged. Parts of programs are left out of `programs`, which
#: bounds one node after the other.
PARTS: dict[str, SparseOptions] = {
    "cutoff": replace(OURS, cutoff=False),
    "rebound": replace(OURS, rebound=math.inf),
    "stages": replace(OURS, staged=False),
    "pixels": replace(OURS, pixels=False),
    "attacks": replace(OURS, attack=None, settle=False),
    "heuristic": replace(OURS, heuristic=Heuristic.CONSISTENT),
    "largest": replace(OURS, branching=Branching.LARGEST),
    "gains": replace(OURS, branching=Branching.GAINS),
    "plunge": replace(OURS, order=Order.PLUNGE),
    "programs": _ALONE,
    "programs-propagation": replace(_ALONE, propagate=False),
    "programs-tightening": replace(_ALONE, tighten=False),
    "programs-reduced-costs": replace(_ALONE, reduced_costs=False),
    "programs-heuristic": replace(_ALONE, heuristic=Heuristic.CONSISTENT),
    "programs-largest": replace(_ALONE, branching=Branching.LARGEST),
    "programs-gains": replace(_ALONE, branching=Branching.GAINS),
    "programs-depth-first": replace(_ALONE, order=Order.DEPTH),
    "programs-best-first": replace(_ALONE, order=Order.BEST),
}
#: Ours with a part more.
MORE: dict[str, SparseOptions] = {
    "rows": replace(OURS, groups=GroupOptions(after=128)),
    "programs-rows": replace(_ALONE, groups=GroupOptions(after=16)),
}
#: The paper's branch and bound, also with Clarabel for l2 and isotropic variation; this one;
#: everything together; mixed-integer programs as a whole; those of others with the counterexample
#: that ours begins with (`+start`);
#: `ours-` and a name of `PARTS`, `ours+` and a name of `MORE`.
METHODS: dict[str, Method] = {
    "paper": partial(_tree, PAPER),
    "paper-clarabel": partial(_tree, replace(PAPER, curved=Curved.CLARABEL)),
    "ours": partial(_tree, OURS),
    "strategy": _strategy,
    "highs": partial(_generic, "highs"),
    "scip": partial(_generic, "scip"),
    "gurobi": partial(_generic, "gurobi"),
    "paper+start": partial(_tree, PAPER, start=True),
    "highs+start": partial(_generic, "highs", start=True),
    "scip+start": partial(_generic, "scip", start=True),
    **{f"ours-{name}": partial(_tree, options) for name, options in PARTS.items()},
    **{f"ours+{name}": partial(_tree, options) for name, options in MORE.items()},
}


def queries(
    model: str, distance: str, images: int, options: ObjectiveOptions
) -> Iterator[tuple[int, DistanceQuery]]:
    """The first so many correctly classified images of a network, with their indices.

    Raises:
        click.BadParameter: the network is unknown.
    """
    if model not in MODELS:
        raise click.BadParameter(f"'{model}' is none of {', '.join(MODELS)}")
    network = load(data_root() / MODELS[model][0])
    for index, image, label in _classified(network, MODELS[model][1], images):
        objective = make_objective(distance, image, options=options)
        yield index, DistanceQuery(network, image, label, objective)


def _classified(
    network: Network, archive: str, images: int
) -> Iterator[tuple[int, NDArray[np.float32], int]]:
    held = np.load(data_root() / archive)
    labels = held["labels"].astype(int)
    found = 0
    for index, label in enumerate(labels.tolist()):
        if found == images:
            return
        image = held["images"][index].astype(np.float32)
        image = (image / 255 if image.max() > 1 else image).astype(np.float32)
        if image.ndim == 3 and image.shape[-1] == 3:
            image = np.moveaxis(image, -1, 0)
        image = np.ascontiguousarray(image.reshape(network.input_shape))
        if int(replayer(network).outputs_float32(image[None])[0].argmax()) == label:
            found += 1
            yield index, image, label


def measured(
    grid: Iterable[tuple[str, str, str]],
    images: int,
    seconds: float,
    options: ObjectiveOptions,
    keep: Path | None = None,
) -> list[Outcome]:
    """Every (network, distance, method) of the grid on the first images.

    Args:
        grid: names.
        images: how many, correctly classified.
        seconds: wall-clock limit of one method on one image.
        options: of the distances.
        keep: a file of JSON lines; what it holds is not measured again.
    """
    known = {_name(outcome): outcome for outcome in _read(keep)}
    outcomes = []
    for model, distance, method in grid:
        for index, query in queries(model, distance, images, options):
            name = (model, distance, method, index, seconds)
            if name not in known:
                known[name] = _run(name, query)
                _append(keep, known[name])
                click.echo(_line(known[name]), err=True)
            outcomes.append(known[name])
    return outcomes


def _run(name: tuple[str, str, str, int, float], query: DistanceQuery) -> Outcome:
    model, distance, method, index, limit = name
    began, spent = time.monotonic(), cpu_seconds()
    answer = METHODS[method](query, limit)
    seconds, cpu = time.monotonic() - began, cpu_seconds() - spent
    return Outcome(
        model, distance, method, index,
        answer.lower, answer.upper, answer.closed, answer.nodes, seconds, cpu, limit,
    )  # fmt: skip


def _name(outcome: Outcome) -> tuple[str, str, str, int, float]:
    return outcome.model, outcome.distance, outcome.method, outcome.index, outcome.limit


def _line(outcome: Outcome) -> str:
    state = "closed" if outcome.closed else "open"
    return (
        f"{outcome.model}  {outcome.distance}  {outcome.method}  {outcome.index}  {state}  "
        f"[{outcome.lower:.5f}, {outcome.upper:.5f}]  {outcome.nodes} nodes  {outcome.cpu:.2f} s"
    )


def _read(keep: Path | None) -> list[Outcome]:
    if keep is None or not keep.exists():
        return []
    return [Outcome(**json.loads(line)) for line in keep.read_text().splitlines()]


def _append(keep: Path | None, outcome: Outcome) -> None:
    if keep is not None:
        with keep.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")


def cpu_seconds() -> float:
    """Processor time of this process and of all it started, living or waited for."""
    dead = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + dead.ru_utime + dead.ru_stime + _living(os.getpid())


def _living(parent: int) -> float:
    """Of the processes below one; 0 where the system does not tell (/proc)."""
    total = 0.0
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in children.read_text().split():
            try:
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            ticks = sum(int(fields[place]) for place in (11, 12, 13, 14))
            total += ticks / os.sysconf("SC_CLK_TCK") + _living(int(child))
    return total
