"""One attack over a data set: what is found is replayed before it counts."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from closegap.attacks.activation.query_attack import Attack, QueryAttack, run_attack
from closegap.attacks.cascade import free_inputs
from closegap.attacks.outcome import AttackInterrupted, AttackOutcome
from closegap.core.bracket import Bracket
from closegap.core.budget import Budget
from closegap.core.verdict import Reason, Verdict
from closegap.data import DataSet
from closegap.evaluate.plan import Question
from closegap.graph.network import Network
from closegap.runtime.cache import compiled, replayer
from closegap.specs.query import Query, robustness
from closegap.store.records import Record

__all__ = ["AttackedImage", "attack_data"]

#: Images attacked side by side; their time is shared.
_BATCH = 64
#: Of what an attack found for an image, so many of the best are replayed.
_REPLAYED = 4
_ADVICE = {
    Reason.INCOMPLETE: "nothing was found, which proves nothing",
    Reason.TIME: "the time ran out",
    Reason.INTERRUPTED: "the attack was interrupted",
}


@dataclass(frozen=True, eq=False)
class AttackedImage:
    """What an attack came to on one image.

    Attributes:
        record: its verdict is falsified or unknown, for an attack proves nothing.
        bracket: with the replayed input of least margin, if any was replayed.
    """

    record: Record
    bracket: Bracket


def attack_data(
    network: Network, data: DataSet, question: Question, method: Attack, *, seed: int = 0
) -> Iterator[AttackedImage]:
    """Attack images in batches, and yield them in order.

    An image that is misclassified as it is counts as falsified by `clean` and is not attacked; nor
    is one whose region holds no other float32 input.

    Args:
        network: in whose input shape the images are.
        data: images and labels.
        question: radius, norm, and seconds an image; a batch has the sum.
        method: the attack.
        seed: of every random choice.

    Raises:
        KeyboardInterrupt: after the images under attack, with what was found of them.
    """
    import torch  # heavy, as everything that follows

    batch = 1 if isinstance(method, QueryAttack) else _BATCH
    for begin in range(0, len(data), batch):
        rows = range(begin, min(begin + batch, len(data)))
        started = time.monotonic()
        queries = [
            robustness(
                network, data.images[i], int(data.labels[i]), question.eps, norm=question.norm
            )
            for i in rows
        ]
        brackets = [_clean(query) for query in queries]
        open_ = _open(queries, brackets)
        budget = Budget.of_seconds(question.timeout * len(rows), seed=seed)
        stopped: AttackInterrupted | None = None
        try:
            outcomes = run_attack(
                compiled(network, torch.float32), [queries[n] for n in open_], method, budget
            )
        except AttackInterrupted as stop:
            stopped, outcomes = stop, stop.outcomes
        found = dict(zip(open_, outcomes, strict=True))
        ends = [
            _end(query, bracket, found.get(n), interrupted=stopped is not None)
            for n, (query, bracket) in enumerate(zip(queries, brackets, strict=True))
        ]
        seconds = (time.monotonic() - started) / len(rows)
        yield from _attacked(queries, ends, data.indices[begin : rows.stop].tolist(), seconds)
        if stopped is not None:
            raise stopped


def _clean(query: Query) -> Bracket:
    clean = query.reference.astype(np.float32)
    witness = replayer(query.network).witness(query, clean)
    return Bracket() if witness is None else Bracket().reduce_upper(witness, "clean")


def _open(queries: Sequence[Query], brackets: Sequence[Bracket]) -> list[int]:
    """Where there is something left to attack."""
    unknown = [n for n, bracket in enumerate(brackets) if bracket.verdict is Verdict.UNKNOWN]
    return [n for n in unknown if free_inputs(queries[n])]


def _end(
    query: Query, bracket: Bracket, outcome: AttackOutcome | None, *, interrupted: bool
) -> tuple[Bracket, Reason, tuple[str, ...]]:
    """The bracket after an attack, why it may be open, and what else there is to say."""
    if outcome is None:
        return bracket, Reason.INCOMPLETE, ()
    early = Reason.INTERRUPTED if interrupted else Reason.TIME
    reason = Reason.INCOMPLETE if outcome.finished else early
    return _replayed(query, bracket, outcome), reason, outcome.notes


def _replayed(query: Query, bracket: Bracket, outcome: AttackOutcome) -> Bracket:
    """The bracket after replaying the best candidates, until one breaks the property."""
    for point in outcome.points[:_REPLAYED]:
        witness = replayer(query.network).witness(query, np.asarray(point))
        if witness is not None:
            bracket = bracket.reduce_upper(witness, outcome.method)
        if bracket.verdict is Verdict.FALSIFIED:
            break
    return bracket


def _attacked(
    queries: Sequence[Query],
    ends: Sequence[tuple[Bracket, Reason, tuple[str, ...]]],
    indices: Sequence[int],
    seconds: float,
) -> Iterator[AttackedImage]:
    for query, (bracket, reason, notes), index in zip(queries, ends, indices, strict=True):
        broken = bracket.verdict is Verdict.FALSIFIED
        yield AttackedImage(
            Record(
                key=str(index),
                index=index,
                name="",
                label=query.prop.label,
                target=_target(query, bracket),
                verdict=bracket.verdict,
                reason=None if broken else reason,
                detail="; ".join([*([] if broken else [_ADVICE[reason]]), *notes]),
                lower=-math.inf,
                upper=bracket.upper,
                engine=bracket.upper_engine,
                seconds=seconds,
            ),
            bracket,
        )


def _target(query: Query, bracket: Bracket) -> str:
    """The class nearest to winning at the best input."""
    if bracket.witness is None or not query.prop.clauses:
        return ""
    outputs = bracket.witness.outputs_float64.reshape(1, -1)
    margins = query.prop.clause_values(query.prop.row_margins(outputs))[0]
    return query.prop.names[int(np.argmin(margins))]
