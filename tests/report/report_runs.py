"""Runs of true records to make reports of: linear networks, whose brackets have a closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from closegap.core.verdict import Reason, Verdict
from closegap.store.records import BracketEvent, Pictures, Record, RunHeader

EPS = 0.1


def make_header(**changes: object) -> RunHeader:
    header = RunHeader(
        kind="evaluate",
        model="models/linear.onnx",
        model_digest="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        data="digits",
        data_digest="2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        eps=EPS,
        norm="inf",
        timeout=60.0,
        engines=("clean", "pgd", "crown", "alpha-crown", "mip"),
        settings={"pgd.steps": 40, "pgd.restarts": 3, "mip.solver": "highs", "target": None},
        seed=7,
        command="closegap evaluate models/linear.onnx --data digits --eps 0.1 --store run.db",
        versions={"closegap": "0.1.0", "python": "3.11.9", "numpy": "2.1.0", "torch": "2.6.0"},
        machine={"processor": "x86-64, 2 cores", "memory": "16 GiB", "device": "cpu"},
        started="2025-03-01T09:30:00Z",
        total=0,
        class_names=(),
    )
    return replace(header, **changes)


def make_record(index: int = 0, verdict: Verdict = Verdict.VERIFIED, **changes: object) -> Record:
    ends = {
        Verdict.VERIFIED: (0.5, 1.5),
        Verdict.FALSIFIED: (-math.inf, -0.25),
        Verdict.UNKNOWN: (-0.75, 0.5),
    }[verdict]
    record = Record(
        key=f"key-{index}",
        index=index,
        name="",
        label=index % 10,
        target=str((index + 1) % 10),
        verdict=verdict,
        reason=Reason.TIME if verdict is Verdict.UNKNOWN else None,
        detail="",
        lower=ends[0],
        upper=ends[1],
        engine={Verdict.FALSIFIED: "pgd", Verdict.VERIFIED: "crown"}.get(verdict, "mip"),
        seconds=1.0,
    )
    return replace(record, **changes)


def make_pictures(
    shape: tuple[int, ...], rng: np.random.Generator, *, classes: int = 10, label: int = 0
) -> Pictures:
    """A clean input of class `label` and a witness for the next class."""
    clean = rng.random(shape, dtype=np.float32)
    step = EPS * rng.choice([-1.0, 1.0], size=shape)
    witness = np.clip(clean + step, 0, 1).astype(np.float32)
    before, after = rng.normal(size=(2, classes)).astype(np.float32)
    before[label] = before.max() + 1
    after[(label + 1) % classes] = after.max() + 1
    return Pictures(clean, witness, before, after, after.astype(np.float64))


def linear_run(
    images: NDArray[np.float64], labels: NDArray[np.int64], eps: float, rng: np.random.Generator
) -> tuple[RunHeader, tuple[Record, ...]]:
    """The robustness of a fitted linear network at each image: exact least margins and witnesses.

    One record in six is reported as if only a weaker bound and attack had been run, so that some
    stay unknown.
    """
    weights, offsets = _fitted(images.reshape(len(images), -1), labels)
    records = tuple(
        _record(i, image.astype(np.float32), int(label), eps, weights, offsets, rng)
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    )
    header = make_header(total=len(records), eps=eps)
    return header, records


def _fitted(
    flat: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least squares with a ridge: enough of a classifier, and deterministic."""
    design = np.hstack([flat, np.ones((len(flat), 1))])
    goal = 2.0 * np.eye(10)[labels] - 1.0
    ridge = 8.0 * np.eye(design.shape[1])
    solution = np.linalg.solve(design.T @ design + ridge, design.T @ goal)
    return 6.0 * solution[:-1].T, 6.0 * solution[-1]


def _record(
    index: int,
    image: NDArray[np.float32],
    label: int,
    eps: float,
    weights: NDArray[np.float64],
    offsets: NDArray[np.float64],
    rng: np.random.Generator,
) -> Record:
    clean = image.ravel()
    outputs = weights @ clean + offsets
    rows = weights[label] - weights
    low, high = np.maximum(clean - eps, 0), np.minimum(clean + eps, 1)
    corners = np.where(rows > 0, low, high)
    margins = np.einsum("cd,cd->c", rows, corners) + offsets[label] - offsets
    margins[label] = np.inf
    target = int(margins.argmin())
    least = float(margins[target])
    clean_margin = float(outputs[label] - np.delete(outputs, label).max())
    fields = {"label": label, "target": str(target), "seconds": float(rng.lognormal(0.0, 1.4))}
    if least >= 0:
        return _proved(make_record(index, **fields), least, clean_margin, rng)
    witness, engine = corners[target].astype(np.float32), str(rng.choice(["pgd", "pgd", "mip"]))
    if clean_margin < 0:
        witness, engine, least = clean, "clean", clean_margin
        fields["target"] = str(int(outputs.argmax()))
    exact = weights @ witness.astype(np.float64) + offsets
    pictures = Pictures(
        clean=image,
        witness=witness.reshape(image.shape),
        clean_outputs=outputs.astype(np.float32),
        witness_outputs=exact.astype(np.float32),
        witness_outputs_float64=exact,
    )
    return _broken(make_record(index, Verdict.FALSIFIED, **fields), engine, least, pictures)


def _broken(record: Record, engine: str, least: float, pictures: Pictures) -> Record:
    spent = {"clean": 0.004} if engine == "clean" else {"clean": 0.004, "pgd": record.seconds}
    total = sum(spent.values())
    return replace(
        record,
        pictures=pictures,
        upper=least,
        engine=engine,
        engine_seconds=spent,
        seconds=total,
        history=(BracketEvent(total, engine, -math.inf, least),),
    )


def _proved(record: Record, least: float, clean: float, rng: np.random.Generator) -> Record:
    engine = str(rng.choice(["crown", "alpha-crown", "mip"]))
    record = replace(
        record,
        engine=engine,
        engine_seconds={"clean": 0.004, "pgd": 0.21, engine: record.seconds},
        lower=least,
        upper=clean,
        history=(
            BracketEvent(0.004, "clean", -math.inf, clean),
            BracketEvent(0.09, "crown", least - 2.0, clean),
            BracketEvent(record.seconds, engine, least, clean),
        ),
    )
    if record.index % 6:
        return record
    return replace(
        record,
        verdict=Verdict.UNKNOWN,
        lower=-clean - 0.1,
        seconds=60.0,
        reason=[Reason.TIME, Reason.INCOMPLETE, Reason.MEMORY][record.index // 6 % 3],
        detail="the MIP ended at its limit; a longer --timeout may close it",
        counts={"nodes": 1234 * (1 + record.index), "leaves": 17},
        history=record.history[:1],
    )
