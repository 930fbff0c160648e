"""What a worker does for one image or one property: load, ask, write down.

Importing this file is light, for the process that waits imports it too; numpy, torch and the
engines load where the first task is prepared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from closegap.core.budget import DEFAULT_MEMORY_BYTES, Budget
from closegap.core.imports import import_all
from closegap.core.verdict import Verdict
from closegap.evaluate.models import LoadedModel, ModelCache, SpecCache
from closegap.evaluate.tasks import ImageTask, PropertyTask, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from closegap.specs.query import Query
    from closegap.store.records import Pictures, Record
    from closegap.store.snapshots import SnapshotFile, SnapshotFolder
    from closegap.strategy.result import Result

__all__ = ["ImageWork", "PropertyWork", "Solver", "WorkOptions", "default_solver"]

Solver: TypeAlias = "Callable[[Query, float, tuple[str, ...], Budget], Result]"


def default_solver(
    query: Query,
    timeout: float,
    engines: tuple[str, ...],
    budget: Budget,
    settings: Mapping[str, str] | None = None,
    snapshot: SnapshotFile | None = None,
    optimum: bool = False,
) -> Result:
    """The strategy's own `solve`."""
    from closegap.strategy.solve import DEFAULT_ENGINES, solve  # heavy: every engine

    names = engines or DEFAULT_ENGINES
    return solve(
        query,
        timeout=timeout,
        engines=names,
        budget=budget,
        settings=settings,
        snapshot=snapshot,
        optimum=optimum,
    )


@dataclass(frozen=True)
class WorkOptions:
    """How every query of a run is answered.

    Attributes:
        engines: names, in the order they run; none for the strategy's own choice.
        seed: of every random choice.
        threads: native threads each process may use.
        nodes: subproblems each tree engine may bound, or `None`.
        memory: bytes of working tensors.
        trees: where snapshots of long searches lie, or `None` for none.
        solver: what answers a query; a function of a module, so that it pickles.
        settings: fields of engines' options by key; handed to the solver as `settings` where there
            are any.
        optimum: ask for the least margin itself, not only for its sign.
    """

    engines: tuple[str, ...] = ()
    seed: int = 0
    threads: int = 1
    nodes: int | None = None
    memory: int = DEFAULT_MEMORY_BYTES
    trees: SnapshotFolder | None = None
    solver: Solver = default_solver
    settings: Mapping[str, str] = field(default_factory=dict)
    optimum: bool = False

    @property
    def limits(self) -> dict[str, object]:
        """Settings and limits besides time: part of a run's identity."""
        nodes = {} if self.nodes is None else {"nodes": self.nodes}
        memory = {} if self.memory == DEFAULT_MEMORY_BYTES else {"memory": self.memory}
        optimum = {"optimum": True} if self.optimum else {}
        return {**self.settings, **nodes, **memory, **optimum}

    def load(self) -> None:
        """Import what every answer needs, before any query's time runs, and limit the threads."""
        solver = ("closegap.strategy.solve",) if self.solver is default_solver else ()
        import_all(("torch", "closegap.frontend", "closegap.runtime.cache", *solver))
        import torch

        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)

    def ask(self, query: Query, seconds: float, key: str, case: int = 0) -> Result:
        """Answer one query within `seconds`.

        Args:
            query: what is asked.
            seconds: its time.
            key: of its record.
            case: its number, where a record has several.
        """
        budget = Budget.of_seconds(
            seconds, nodes=self.nodes, memory=self.memory, seed=self.seed, threads=self.threads
        )
        more: dict[str, Any] = {"settings": self.settings} if self.settings else {}
        if self.optimum:
            more["optimum"] = True
        if self.trees is not None:
            more["snapshot"] = self.trees.file(key, case)
        return partial(self.solver, **more)(query, seconds, self.engines, budget)


@dataclass(frozen=True)
class ImageWork:
    """Is the label kept on every input within `eps` of the image?

    Attributes:
        model: path of the ONNX file.
        digest: SHA-256 of its uncompressed bytes, in hex.
        eps: radius, in input units.
        norm: 1, 2 or infinity.
        options: how queries are answered.
    """

    model: str
    digest: str
    eps: float
    norm: float
    options: WorkOptions
    models: ModelCache = field(default_factory=ModelCache, repr=False, compare=False)

    def prepare(self, task: Task) -> None:
        """Load the network and set the thread limit."""
        self.options.load()
        self.models.get(self.model, self.digest)

    def __call__(self, task: Task) -> Record:
        """The record of one image."""
        from closegap.evaluate.recording import result_record
        from closegap.specs.query import robustness

        assert isinstance(task, ImageTask)
        model = self.models.get(self.model, self.digest)
        query = robustness(model.network, task.image, task.label, self.eps, norm=self.norm)
        result = self.options.ask(query, task.timeout, task.key)
        return result_record(task, result, _pictures(model, task.image, result))


@dataclass(frozen=True)
class PropertyWork:
    """Can the property of a VNN-LIB file be broken?

    Attributes:
        options: how queries are answered.
    """

    options: WorkOptions
    models: ModelCache = field(default_factory=ModelCache, repr=False, compare=False)
    specs: SpecCache = field(default_factory=SpecCache, repr=False, compare=False)

    def prepare(self, task: Task) -> None:
        """Read the property, load the network and set the thread limit.

        The property comes first: what is wrong with it is told before anything heavy is loaded.
        """
        assert isinstance(task, PropertyTask)
        self.specs.read(task.spec)
        self.options.load()
        self.models.get(task.model, task.model_digest)

    def __call__(self, task: Task) -> Record:
        """The record of one property: its cases in order, until one is falsified.

        Where the least margin is asked for, all of them. Of many short ones those go first that an
        attack on all of them all but broke; what is proved at a first look is not asked again.

        Reading the file counts as part of the time. A case gets an equal share of what is left, so
        that one hard case does not keep the others from being falsified.
        """
        from closegap.evaluate.cases import first_look
        from closegap.evaluate.recording import joined_record
        from closegap.specs.vnnlib import queries

        assert isinstance(task, PropertyTask)
        spec, seconds = self.specs.take(task.spec)
        began = time.monotonic() - seconds
        model = self.models.get(task.model, task.model_digest)
        cases = list(queries(spec, model.network))
        left = max(0.0, task.timeout - (time.monotonic() - began))
        look = first_look(cases, self.options, left)
        results: list[Result] = list(look.proved.values())
        pictures = None
        for place, number in enumerate(look.order):
            query = cases[number]
            left = max(0.0, task.timeout - (time.monotonic() - began))
            share = left / (len(look.order) - place)
            results.append(self.options.ask(query, share, task.key, number))
            if results[-1].verdict is Verdict.FALSIFIED:
                if results[-1].bracket.upper == min(r.bracket.upper for r in results):
                    pictures = _pictures(model, query.reference, results[-1])
                if not self.options.optimum:
                    break
        seconds = max(time.monotonic() - began, sum(r.seconds for r in results))
        return joined_record(task, results, cases=len(cases), seconds=seconds, pictures=pictures)


def _pictures(model: LoadedModel, clean: NDArray[np.floating], result: Result) -> Pictures | None:
    """What a falsified query's page shows; `None` for every other verdict."""
    witness = result.witness
    if result.verdict is not Verdict.FALSIFIED or witness is None:
        return None
    import numpy as np

    from closegap.store.records import Pictures

    start = np.asarray(clean, dtype=np.float32).reshape(model.network.input_shape)
    return Pictures(
        clean=start,
        witness=witness.input,
        clean_outputs=model.outputs(start[None])[0].reshape(-1),
        witness_outputs=witness.outputs_float32.reshape(-1),
        witness_outputs_float64=witness.outputs_float64.reshape(-1),
    )
