"""What a run is to answer: its header, its tasks and the work each of them needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from closegap.core.errors import OptionError
from closegap.data import DataSet
from closegap.evaluate import provenance
from closegap.evaluate.tasks import ImageTask, Task, Work
from closegap.evaluate.work import ImageWork, WorkOptions
from closegap.store import RunHeader, query_key

__all__ = ["EvaluationPlan", "ModelFile", "Question", "plan_images"]


@dataclass(frozen=True, eq=False)
class EvaluationPlan:
    """One run.

    Attributes:
        header: what goes into the store; decides whether a store can be continued.
        tasks: gives the tasks from the beginning each time it is called.
        work: what is done for each.
        one_model: every task needs the same network, so that bad input ends the run; otherwise it
            is the answer of the one task.
    """

    header: RunHeader
    tasks: Callable[[], Iterator[Task]]
    work: Work
    one_model: bool


@dataclass(frozen=True)
class Question:
    """What is asked of every image.

    Attributes:
        eps: radius in input units; 0 asks for the clean check only.
        norm: 1, 2 or infinity.
        timeout: seconds an image.

    Raises:
        OptionError: a value is outside its range.
    """

    eps: float
    norm: float = math.inf
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise OptionError(f"eps must be finite and not negative, got {self.eps}")
        if self.norm not in (1, 2, math.inf):
            raise OptionError(f"norm must be 1, 2 or inf, got {self.norm}")
        if not (math.isfinite(self.timeout) and self.timeout >= 0):
            raise OptionError(f"timeout must be finite and not negative, got {self.timeout}")

    @property
    def norm_name(self) -> str:
        """`"1"`, `"2"` or `"inf"`."""
        return "inf" if self.norm == math.inf else str(int(self.norm))


@dataclass(frozen=True)
class ModelFile:
    """A network's file: path as given, and SHA-256 of its uncompressed bytes."""

    path: str
    digest: str


def plan_images(
    model: ModelFile,
    data: DataSet,
    question: Question,
    options: WorkOptions,
    *,
    data_digest: str,
    command: str = "",
    settings: Mapping[str, object] | None = None,
) -> EvaluationPlan:
    """The run that asks one question of every image.

    Args:
        model: the network.
        data: images that fit it.
        question: radius, norm and timeout.
        options: engines, seed, threads.
        data_digest: of the whole data set, so that a run can be continued with more of its images.
        command: the command line, for the report.
        settings: whatever else can change an answer, JSON values; part of the run's identity, as
            the engines' own settings are.
    """
    extra = {**options.limits, **(settings or {})}
    header = RunHeader(
        kind="evaluate",
        model=model.path,
        model_digest=model.digest,
        data=data.name,
        data_digest=data_digest,
        eps=question.eps,
        norm=question.norm_name,
        timeout=question.timeout,
        engines=options.engines,
        settings=extra,
        seed=options.seed,
        command=command,
        versions=provenance.versions(),
        machine=provenance.machine(),
        started=provenance.now(),
        total=len(data),
        class_names=data.class_names,
    )
    work = ImageWork(model.path, model.digest, question.eps, question.norm, options)
    return EvaluationPlan(header, lambda: _tasks(header, data), work, one_model=True)


def _tasks(header: RunHeader, data: DataSet) -> Iterator[Task]:
    """A task for each image; its key holds everything the header says that can change an answer."""
    settings = {
        **header.settings,
        "engines": list(header.engines),
        "timeout": header.timeout,
        "seed": header.seed,
    }
    for image, label, index in zip(data.images, data.labels, data.indices, strict=True):
        asked = {"index": int(index), "label": int(label), "eps": header.eps, "norm": header.norm}
        key = query_key(
            model=header.model_digest, inputs=image.tobytes(), query=asked, settings=settings
        )
        yield ImageTask(key, int(index), int(label), header.timeout, image)
