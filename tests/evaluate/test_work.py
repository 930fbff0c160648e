"""Work on real networks, with the strategy's seam taken by solvers whose answers are known."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import closegap
from closegap.core.bracket import Bracket
from closegap.core.budget import Budget
from closegap.core.errors import ModelError
from closegap.core.verdict import Reason, Verdict
from closegap.data import DataSet, digits_split
from closegap.evaluate import (
    ModelFile,
    Question,
    SerialExecutor,
    WorkOptions,
    evaluate,
    plan_images,
)
from closegap.evaluate.models import ModelCache
from closegap.evaluate.recording import joined_record, result_record
from closegap.evaluate.tasks import PropertyTask
from closegap.evaluate.work import ImageWork, PropertyWork
from closegap.runtime.replay import Replayer
from closegap.specs.query import Query
from closegap.store import BracketEvent, RunStore
from closegap.strategy.result import Result

MLP = Path(closegap.__file__).parent / "demo" / "digits_mlp.onnx"


@pytest.fixture(scope="module")
def digest() -> str:
    return closegap.load(MLP).digest


def _images(count: int) -> DataSet:
    held = digits_split().held_out
    return replace(
        held, images=held.images[:count], labels=held.labels[:count], indices=held.indices[:count]
    )


def _result(lower: float, upper: float = math.inf, seconds: float = 1.0) -> Result:
    bracket = Bracket(lower=lower, upper=upper)
    return Result(
        bracket=bracket,
        reason=None if bracket.verdict is not Verdict.UNKNOWN else Reason.TIME,
        detail="",
        clause_lower=np.array([lower]),
        target="t",
        engine="crown",
        seconds=seconds,
        engine_seconds={"crown": seconds},
        history=(BracketEvent(seconds / 2, "crown", lower, upper),),
        counts={"nodes": 2},
    )


def breaking_solver(
    query: Query, timeout: float, engines: tuple[str, ...], budget: Budget
) -> Result:
    """Finds the region's lower corner, and says it breaks the property."""
    point = query.region.box.lower if hasattr(query.region, "box") else query.region.lower
    witness = Replayer(query.network).witness(query, point.astype(np.float32))
    assert witness is not None
    broken = replace(witness, breaks=True)
    return replace(_result(-1.0), bracket=Bracket().reduce_upper(broken, "corner"))


def test_a_falsified_image_keeps_its_pictures(tmp_path: Path, digest: str) -> None:
    data = _images(2)
    options = WorkOptions(("corner",), solver=breaking_solver)
    plan = plan_images(
        ModelFile(str(MLP), digest), data, Question(0.25), options, data_digest=data.digest
    )
    with RunStore.create_or_resume(tmp_path / "run.db", plan.header) as store:
        evaluate(plan, SerialExecutor(), store)
        records = {r.index: r for r in store.records()}
    replayer = Replayer(closegap.load(MLP))
    for image, index, label in zip(data.images, data.indices, data.labels, strict=True):
        record = records[int(index)]
        pictures = record.pictures
        assert pictures is not None
        assert (record.verdict, record.label, record.reason) == ("falsified", int(label), None)
        assert np.array_equal(pictures.clean, image.reshape(pictures.clean.shape))
        corner = np.maximum(pictures.clean.astype(float) - 0.25, 0)
        assert np.allclose(pictures.witness, corner, atol=1e-6)
        for picture, outputs in (
            (pictures.clean, pictures.clean_outputs),
            (pictures.witness, pictures.witness_outputs),
        ):
            assert np.array_equal(outputs, replayer.outputs_float32(picture[None])[0])
        assert np.allclose(pictures.witness_outputs, pictures.witness_outputs_float64, atol=1e-3)


def test_keys_tell_questions_apart(digest: str) -> None:
    data = _images(3)

    def keys(question: Question, options: WorkOptions) -> list[str]:
        made = plan_images(ModelFile("m", digest), data, question, options, data_digest=data.digest)
        assert [t.key for t in made.tasks()] == [t.key for t in made.tasks()]
        return [task.key for task in made.tasks()]

    base = keys(Question(0.1), WorkOptions(("crown",)))
    others = [
        keys(Question(0.2), WorkOptions(("crown",))),
        keys(Question(0.1, 2.0), WorkOptions(("crown",))),
        keys(Question(0.1, timeout=5.0), WorkOptions(("crown",))),
        keys(Question(0.1), WorkOptions(("pgd",))),
        keys(Question(0.1), WorkOptions(("crown",), seed=1)),
        keys(Question(0.1), WorkOptions(("crown",), settings={"bab.batch": "8"})),
        keys(Question(0.1), WorkOptions(("crown",), settings={"bab.batch": "9"})),
    ]
    assert len({key for part in (base, *others) for key in part}) == 24
    assert keys(Question(0.1), WorkOptions(("crown",), threads=2)) == base


def test_the_work_travels_without_its_networks(digest: str) -> None:
    work = ImageWork(str(MLP), digest, 0.1, math.inf, WorkOptions(("clean",)))
    small = len(pickle.dumps(work))
    work.models.get(str(MLP), digest)
    assert len(pickle.dumps(work)) == small < 2000
    copy = pickle.loads(pickle.dumps(work))
    assert copy == work and not copy.models._held


def test_a_network_is_loaded_once_while_it_is_needed(tmp_path: Path, digest: str) -> None:
    cache = ModelCache(capacity=1)
    first = cache.get(str(MLP), digest)
    assert cache.get(str(MLP), digest) is first
    other = tmp_path / "copy.onnx"
    other.write_bytes(MLP.read_bytes())
    cache.get(str(other), digest)
    assert cache.get(str(MLP), digest) is not first
    with pytest.raises(ModelError, match="the file changed since the run began"):
        cache.get(str(MLP), "0" * 64)


class _Recorder:
    """Answers the cases of a property one after another, and notes the time each was given."""

    def __init__(self, answers: list[Result], work: float = 0.0) -> None:
        self.answers = answers
        self.given: list[float] = []
        self._work = work

    def __call__(
        self, query: Query, timeout: float, engines: tuple[str, ...], budget: Budget
    ) -> Result:
        self.given.append(timeout)
        time.sleep(self._work)
        return self.answers[len(self.given) - 1]


@pytest.fixture
def boxes(tmp_path: Path) -> Callable[[int], Path]:
    """A property of the digits network with so many input boxes."""

    def write(count: int) -> Path:
        lines = [f"(declare-const X_{i} Real)" for i in range(64)]
        lines += [f"(declare-const Y_{i} Real)" for i in range(10)]
        lines += [f"(assert (and (>= X_{i} 0.0) (<= X_{i} 1.0)))" for i in range(1, 64)]
        parts = [f"(and (>= X_0 {n / 10}) (<= X_0 {n / 10 + 0.05}))" for n in range(count)]
        lines += [f"(assert (or {' '.join(parts)}))", "(assert (>= Y_0 Y_1))"]
        path = tmp_path / "boxes.vnnlib"
        path.write_text("\n".join(lines))
        return path

    return write


def _task(spec: Path, digest: str, timeout: float = 9.0) -> PropertyTask:
    return PropertyTask("k", 3, "boxes", timeout, str(MLP), digest, str(spec))


def test_cases_share_the_time_that_is_left(digest: str, boxes: Callable[[int], Path]) -> None:
    solver = _Recorder([_result(0.5), _result(0.25), _result(1.0)], work=0.3)
    record = PropertyWork(WorkOptions((), solver=solver))(_task(boxes(3), digest))
    first, second, third = solver.given
    assert first == pytest.approx(3.0, abs=0.3)
    assert second == pytest.approx((9 - 0.3) / 2, abs=0.3)
    assert third == pytest.approx(9 - 0.6, abs=0.3)
    assert (record.verdict, record.lower) == ("verified", 0.25)
    assert 0.9 < record.seconds < 5


def test_one_falsified_case_ends_the_property(digest: str, boxes: Callable[[int], Path]) -> None:
    work = PropertyWork(WorkOptions((), solver=breaking_solver))
    record = work(_task(boxes(3), digest))
    assert (record.verdict, record.lower) == ("falsified", -math.inf)
    assert record.pictures is not None
    assert record.pictures.clean.reshape(-1)[:2].tolist() == pytest.approx([0.025, 0.5])
    assert (record.index, record.name, record.label) == (3, "boxes", None)


def test_a_case_that_stays_open_keeps_the_property_open() -> None:
    task = PropertyTask("k", 0, "p", 9.0, "m", "d", "s")
    results = [_result(0.5, 2.0), _result(-1.0, 1.0), _result(0.25, 3.0)]
    record = joined_record(task, results, cases=3, seconds=3.5, pictures=None)
    assert (record.verdict, record.reason) == ("unknown", Reason.TIME)
    assert (record.lower, record.upper, record.seconds) == (-1.0, 1.0, 3.5)
    assert record.engine_seconds == {"crown": 3.0}
    assert record.counts == {"nodes": 6}
    assert [(e.seconds, e.lower, e.upper) for e in record.history] == [
        (0.5, -math.inf, 2.0),
        (1.5, -math.inf, 1.0),
        (2.5, -1.0, 1.0),
    ]


def test_counts_add_up_and_the_deepest_level_does_not() -> None:
    results = [
        replace(_result(0.5), counts={"nodes": nodes, "depth": depth})
        for nodes, depth in ((3, 1), (15, 4), (7, 2))
    ]
    task = PropertyTask("key", 0, "boxes", 10.0, "model", "digest", "spec")
    record = joined_record(task, results, cases=3, seconds=1.0, pictures=None)
    assert record.counts == {"nodes": 25, "depth": 4}


def test_cases_not_reached_prove_nothing() -> None:
    task = PropertyTask("k", 0, "p", 9.0, "m", "d", "s")
    record = joined_record(task, [_result(0.5)], cases=2, seconds=1.0, pictures=None)
    assert (record.verdict, record.reason, record.lower) == ("unknown", Reason.TIME, -math.inf)


def test_a_result_becomes_a_record_unchanged() -> None:
    task = PropertyTask("k", 7, "p", 9.0, "m", "d", "s")
    result = _result(-0.5, 0.5)
    record = result_record(task, result, None)
    assert (record.key, record.index, record.lower, record.upper) == ("k", 7, -0.5, 0.5)
    assert (record.history, record.seconds) == (result.history, 1.0)
    assert result_record(task, _result(0.1), None).reason is None
