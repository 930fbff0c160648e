"""Who works when, and for how much of the time that is left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from closegap.core.budget import Budget
from closegap.graph.ops import Conv, Relu
from closegap.strategy.session import Session

__all__ = ["turns"]

#: Two trees that take turns where cuts work, the one first that closes early what it closes.
_PAIR = ("bab", "cuts")
#: Time for both of them, round by round.
_ROUNDS = (2.0, 4.0, 8.0, 16.0)
#: Slow to tighten; where cuts work it waits for the last round, and gets so much time then.
_LATE, _LATE_ROUNDS = "cutoff", {3: 4.0}
#: Two trees on dense networks, one that bounds every layer again, one that visits many more nodes.
#: Which closes first shows early: the first of their rounds are short.
_LAYERS = ("layered", "bab")
_SHORT_ROUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
#: Before two of their rounds bounds of neurons are refined, for so much time; the trees begin again
#: with these. A little of it does for most networks; where it does not, one long sweep over the
#: layers gains more than several short ones.
_REFINE, _REFINED = "refine", {1: 8.0, 3: 40.0}
#: Convolutional networks take long to tighten, and a tree closes in seconds what is nearly proved:
#: it begins there, with this share of the time, and goes on after. So many more turns of this share
#: follow where it is expected to close in so much of what is left then.
_FIRST, _FIRST_SHARE = "bab", 0.3
_MORE, _MORE_SHARE, _SOON = 2, 0.4, 0.8
#: There tightening under a cutoff closes little that the tree would not close in the same time.
_LATE_SHARE = 0.15
#: With the bounds that it leaves, exact searches have their trial.
_BOUNDED = "alpha-crown"
#: It attacks between the turns of these once more, where the margin shrank; otherwise it returns
#: at once.
_AGAIN, _VERIFIERS = "near-attack", ("cutoff", "bab", "cuts", "mip")
#: These attack as long as they may: they leave this share to whoever comes after them.
_LONG, _LEFT = ("attack", "bab-attack", "lippa"), 0.5
#: What the slower of two trees gets of a round at least; beside branch and cut it may be less.
_LEAST, _LEAST_OF_PAIR = 0.2, 0.05


def turns(names: Sequence[str], session: Session, budget: Budget) -> Iterator[tuple[str, float]]:
    """The engines in order, and the share of the time that is left that each may use.

    On dense networks with more than one layer of hinges two trees take turns: one that bounds every
    layer again in every domain, and one that does not. Who is expected to close first, from how it
    grew so far, gets more of a round. Between rounds bounds of single neurons are refined.

    Where cuts work, branch and bound and branch and cut take turns on their trees, each turn twice
    as long as the one before, so neither costs the other more than half of the time. Who is
    expected to close first gets more of a round. On other convolutional networks of ReLUs branch
    and bound begins before bounds are tightened under a cutoff, has more turns there while it is
    expected to close soon, and most of what is left after. The attack that waits for near margins
    is asked again before each of their rounds, and before every other verifier. Attacks that would
    use all of the time, which nobody has in the default order, leave half of it to the others.

    Args:
        names: of engines; an engine after the pair runs when the pair's turns are over.
        session: read before every turn.
        budget: of all turns together.
    """
    raced = layered = False
    late = _LATE in names
    again = [(_AGAIN, 1.0)] * (_AGAIN in names)
    for name in names:
        if not layered and name in (*_LAYERS, _REFINE) and set(_LAYERS) <= set(names):
            suited = _suits_layers(session, budget)
            if name == _REFINE and suited:  # its turns are between those of the trees
                continue
            layered = name != _REFINE
            if layered and suited:
                refined = {_REFINE: _REFINED} if _REFINE in names else {}
                race = _Race(_LAYERS, _SHORT_ROUNDS, refined)
                yield from _run(race, again, session)
                continue
        paired = name in (*_PAIR, _LATE) and set(_PAIR) <= set(names) and _suits_cuts(session)
        if not paired:
            late = late and name != _LATE
            if name in _VERIFIERS:
                yield from again
            share = 1.0 - _LEFT * (name in _LONG and name != names[-1])
            if name == _LATE and _FIRST in names and _of_images(session):
                yield from _first(session, budget)
                share = _LATE_SHARE if _FIRST in names[names.index(name) :] else share
            yield name, share
            if name == _BOUNDED:
                yield from _early(names, session, budget)
        elif not raced:
            raced = True
            tightened = {_LATE: _LATE_ROUNDS} if late else {}
            yield from _run(_Race(_PAIR, _ROUNDS, tightened, _LEAST_OF_PAIR), again, session)


def _first(session: Session, budget: Budget) -> Iterator[tuple[str, float]]:
    """The tree's turns before bounds are tightened; more without any time where it would not close.

    There are always as many, so that a run that was cut off goes on in the right one.
    """
    yield _FIRST, _FIRST_SHARE
    for _ in range(_MORE):
        seconds = session.outlook.get(_FIRST)
        soon = seconds is not None and seconds <= _SOON * budget.remaining
        yield _FIRST, _MORE_SHARE if soon else 0.0


def _early(names: Sequence[str], session: Session, budget: Budget) -> Iterator[tuple[str, float]]:
    from closegap.strategy.early import early_turns  # not before its turn may come

    yield from early_turns(names, session, budget)


def _suits_layers(session: Session, budget: Budget) -> bool:
    from closegap.strategy.engines.layered import suits_layers  # not before its turn may come

    return suits_layers(session, budget)


def _suits_cuts(session: Session) -> bool:
    from closegap.strategy.engines.cuts import suits_cuts  # not before its turn may come

    return suits_cuts(session)


def _of_images(session: Session) -> bool:
    nodes = session.query.network.nodes
    hinges = all(isinstance(nodes[i].op, Relu) for i in session.query.network.activations)
    return hinges and any(isinstance(node.op, Conv) for node in nodes)


@dataclass(frozen=True)
class _Race:
    """Two trees in turns, round by round.

    Attributes:
        pair: their names.
        rounds: time for both of them in each.
        between: time for other engines, by name and by the round before which they come.
        least: what the slower gets of a round at least.
    """

    pair: tuple[str, str]
    rounds: tuple[float, ...]
    between: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    least: float = _LEAST


def _run(
    race: _Race, again: Sequence[tuple[str, float]], session: Session
) -> Iterator[tuple[str, float]]:
    left = sum(race.rounds) + sum(sum(times.values()) for times in race.between.values())
    for place, time in enumerate(race.rounds):
        yield from again
        for name, times in race.between.items():
            if place in times:
                yield name, times[place] / left
                left -= times[place]
        first = _sooner(race, session)
        for name, share in zip(race.pair, (first, 1 - first), strict=True):
            yield name, min(1.0, share * time / left)
            left -= share * time


def _sooner(race: _Race, session: Session) -> float:
    """What the first of two gets of a round, by the seconds until either is expected to close.

    Half where nobody can tell.
    """
    seconds = [session.outlook.get(name) for name in race.pair]
    rates = [1 / max(s, math.ulp(1.0)) for s in seconds if s is not None]
    if len(rates) < len(race.pair) or not sum(rates) > 0:
        return 0.5
    return min(max(rates[0] / sum(rates), race.least), 1 - race.least)
