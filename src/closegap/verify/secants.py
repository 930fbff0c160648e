"""Lower ends of distances by secants through the image.

A neuron that may change its phase costs a triangle a constant, at the image as everywhere else, and
every such neuron costs it at once. But a change is spent once: what moves one neuron far leaves
others where they are, and near the image none has changed its phase at all. So each neuron's excess
over the image's linear piece (`linear_piece`) is bounded by a multiple of how far the input moves,

    excess  <=  share . (D . |d|),    share = (most - base) / most,

D a bound of how fast the neuron goes towards its other phase as each input rises or falls, `most`
the greatest value of `D . |d|` in the region, and `base` how far it is from changing at the image:
a secant of what is 0 up to `base`, for it is convex. With all excesses replaced so, a margin is
above `base - R . |d|`, and the distance at which that may be 0 is a knapsack. In balls of l1, where
corners change one input, secants of the first layer lose nothing.
Sources: bounds by the greatest slope in a region, Weng et al., Fast-Lip (2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array, hstack

from closegap.core.budget import Budget
from closegap.core.numerics import FLOAT64_UNIT, TINY, gamma
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import L1Distance, L1TvDistance, Objective, priced
from closegap.specs.region import Ball, Prices, Region, bounding_box
from closegap.verify.linear_piece import (
    LinearPiece,
    Matrix,
    PieceRows,
    added,
    positive,
    product,
    scaled_columns,
)

__all__ = ["Room", "Secants", "secant_floor"]

Array: TypeAlias = NDArray[np.float64]

#: Regions tried at most, and the ratio of what is proved and what stayed open that is near enough.
_ROUNDS, _CLOSE = 10, 1.02
#: The first region, as a share of the distance that the image's own slopes promise, and the least
#: and greatest ratio of a region to the last one while one end is unknown.
_FIRST, _FARTHEST = 0.25, 4.0
#: Entries among which those are sought that spend an l1 radius, and so many more for each unit.
_STEEPEST, _EACH = 32, 4


def secant_floor(
    query: DistanceQuery,
    budget: Budget,
    *,
    upper: float = math.inf,
    prove: Callable[[float], None] | None = None,
) -> float:
    """A lower bound of every counterexample's distance, in exact arithmetic.

    Args:
        query: whose counterexamples.
        budget: checked between layers and regions.
        upper: distances from here on are of no interest.
        prove: told of the bound after every region.

    Returns:
        at most `upper`; minus infinity where nothing is known.
    """
    secants = Secants(query, budget)
    low, high, best = -math.inf, upper, dict[float, float]()
    whole = query.objective.integral
    limit = secants.first()
    for _ in range(_ROUNDS):
        limit = min(limit, upper, query.farthest)
        limit = float(math.floor(limit)) if whole else limit
        if budget.expired or secants.missing or limit in best or not 0 <= limit < math.inf:
            break
        best[limit] = secants.reached(limit)
        low = max(low, min(best[limit], limit + 1 if whole else limit))
        if prove is not None and low > 0:
            prove(min(low, upper))
        high = min(high, max(limit, best[limit]))  # what is reached falls as regions grow
        if low > 0 and high <= _CLOSE * low:
            break
        limit = _next(best, low, high)
    return min(low, upper)


def _next(reached: dict[float, float], low: float, high: float) -> float:
    """Where reach and region meet, by the two regions nearest to it on a logarithmic scale."""
    known = sorted((limit, value) for limit, value in reached.items() if limit > 0 and value > 0)
    inside = [pair for pair in known if pair[1] >= pair[0]]
    beyond = [pair for pair in known if pair[1] < pair[0]]
    if not inside:
        return max(math.sqrt(max(low, 0.0) * high), high / _FARTHEST)
    limit, value = inside[-1]
    if not beyond:
        return min(math.sqrt(limit * min(value, _FARTHEST**2 * limit)), _FARTHEST * limit)
    first = min(math.log(value / limit), 1.0)
    last = max(math.log(beyond[0][1] / beyond[0][0]), -1.0)
    guess = limit * (beyond[0][0] / limit) ** (first / max(first - last, TINY))
    share = (high / low) ** (1 / 8)
    return float(min(max(guess, low * share), high / share))


@dataclass(frozen=True, eq=False)
class Room:
    """Differences from the image: boxes, perhaps a ball in it.

    Attributes:
        caps: how far each input rises, and how far it falls, rounded up `[2 D]`.
        norm, radius: of the ball; norm 0 for none.
        prices: of changes up, and down, in a ball of norm 1, rounded down `[2 D]`; `None` for 1.
    """

    caps: Float[np.ndarray, "C"]
    norm: int
    radius: float
    prices: Float[np.ndarray, "C"] | None = None

    @classmethod
    def of(cls, region: Region, image: Array, prices: Prices | None = None) -> Room:
        """Of a region around the image; of changes that cost no more than there is room."""
        box = bounding_box(region)
        caps = _far(image, (box.lower.reshape(-1), box.upper.reshape(-1)))
        if prices is not None:
            both = np.concatenate([prices.up, prices.down])
            return cls(caps, 1, float(np.nextafter(max(prices.room, 0.0), np.inf)), both)
        if isinstance(region, Ball):
            return cls(caps, region.norm, float(np.nextafter(region.radius, np.inf)))
        return cls(caps, 0, 0.0)

    def most(self, rows: Matrix) -> Array:
        """An upper bound of how far rows fall, from their rates as inputs rise and fall."""
        half = len(self.caps) // 2
        if self.norm == 1:
            caps = self.caps
            if self.prices is not None:  # what changes cost, in place of how far they go
                rows, caps = scaled_columns(rows, 1 / self.prices), caps * self.prices
            values, caps = _compact(rows, caps)
            found = self._spent(values, caps)
        elif self.norm == 2:
            values, caps = _compact(_either(rows), np.maximum(self.caps[:half], self.caps[half:]))
            found = self._round(values, caps)
        else:
            found = np.asarray(_either(scaled_columns(rows, self.caps)).sum(axis=1))
        found = found * (1 + 4 * gamma(2 * half + 16))
        return np.asarray(np.where(np.isnan(found), np.inf, found) + TINY)

    def _spent(self, values: Array, caps: Array) -> Array:
        """By a price of the l1 radius, above which the steepest entries spend it."""
        width = values.shape[1]
        count = min(width, _STEEPEST + int(_EACH * min(self.radius, width)))
        if count < width:
            steep = np.argpartition(values, width - count, axis=1)[:, width - count :]
            values = np.take_along_axis(values, steep, axis=1)
            caps = np.take_along_axis(caps, steep, axis=1)
        order = np.argsort(-values, axis=1)
        values, caps = (np.take_along_axis(a, order, axis=1) for a in (values, caps))
        last = (caps.cumsum(axis=1) < self.radius).sum(axis=1)
        price = np.take_along_axis(values, np.minimum(last, count - 1)[:, None], axis=1)
        if count == width:
            price = np.where(last[:, None] < count, price, 0.0)
        return np.asarray(price[:, 0] * self.radius + (np.maximum(values - price, 0) * caps).sum(1))

    def _round(self, values: Array, caps: Array) -> Array:
        """By two prices of half the squared radius: one for the ball alone, one for its box too."""
        length = np.sqrt((values**2).sum(axis=1))
        price = np.maximum(length / max(self.radius, TINY), TINY)
        step = np.minimum(values / price[:, None], caps)
        price = price * np.sqrt((step**2).sum(axis=1)) / max(self.radius, TINY)
        price = np.maximum(price, TINY)
        step = np.minimum(values / price[:, None], caps)
        boxed = (values * step - price[:, None] / 2 * step**2).sum(axis=1)
        size = (values * step).sum(axis=1) + price * self.radius**2
        boxed = boxed + price / 2 * self.radius**2 + 4 * gamma(values.shape[1] + 16) * size
        return np.asarray(np.fmin(self.radius * length, boxed))


def _far(image: Array, ends: tuple[Array, Array]) -> Array:
    """How far each input rises, and how far it falls, rounded up."""
    room = np.concatenate([ends[1] - image, image - ends[0]])
    return np.where(room > 0, np.nextafter(room, np.inf), 0.0)


def _compact(rows: Matrix, caps: Array) -> tuple[Array, Array]:
    """Each row's entries, and how far their inputs go."""
    if not isinstance(rows, csr_array):
        return rows, np.broadcast_to(caps, rows.shape)
    counts = np.diff(rows.indptr)
    place = np.arange(max(int(counts.max(initial=0)), 1))[None, :] < counts[:, None]
    values, far = np.zeros(place.shape), np.zeros(place.shape)
    values[place], far[place] = rows.data, caps[rows.indices]
    return values, far


class Secants:
    """One query's linear piece, and what secants make of it in a region.

    Args:
        query: whose network and image.
        budget: of everything.
    """

    def __init__(self, query: DistanceQuery, budget: Budget) -> None:
        self._query = query
        self._piece = piece = LinearPiece(query.network, query.center, budget)
        self._rows: dict[int, PieceRows] = {}
        self._falls: dict[int, Matrix] = {}
        self._base: dict[int, Array] = {}
        image = query.center
        self._room = np.concatenate([1 - image, image]) > 0
        prop = query.within(0.0).prop
        for feed in query.network.pre_activations:
            if not piece.missing:
                signs = csr_array(eye_array(len(piece.signs[feed]), format="csr"))
                self._learn(feed, csr_array(scaled_columns(signs, piece.signs[feed])))
        if not piece.missing:
            self._learn(-1, prop.rows, query.network.output)
            off = 4 * FLOAT64_UNIT * (np.abs(self._base[-1]) + np.abs(prop.offsets))
            self._base[-1] = self._base[-1] + prop.offsets - off

    @property
    def missing(self) -> bool:
        """Whether nothing can be said: the network is too large, or time is up."""
        return self._piece.missing

    def _learn(self, name: int, rows: Matrix, start: int | None = None) -> None:
        """Rows of a node, and how fast they fall as each input rises or falls `[Q, 2 D]`."""
        known = self._piece.rows(name if start is None else start, rows)
        self._rows[name] = known
        early = np.zeros(len(known.base))
        for activation, through in known.through.items():
            lift = self._piece.lift(activation) * np.maximum(-self._base_of(activation), 0.0)
            if lift.any():
                early += positive(-through) @ lift
        count = sum(len(base) for base in self._base.values()) + 16
        self._base[name] = known.base - early * (1 + 4 * gamma(count))
        self._falls[name] = scaled_columns(_falls(known.slopes), self._room.astype(np.float64))

    def _base_of(self, activation: int) -> Array:
        return self._base[self._query.network.nodes[activation].inputs[0]]

    def first(self) -> float:
        """A region to begin with."""
        if self.missing:
            return 0.0
        near = self._distance(positive(self._falls[-1]), None)
        return _FIRST * near if math.isfinite(near) else self._query.farthest

    def reached(self, limit: float) -> float:
        """No counterexample of at most this distance is nearer."""
        if self.missing:
            return -math.inf
        network, region = self._query.network, self._query.within(limit).region
        room = Room.of(
            region, self._query.center, priced(self._query.objective, self._query.center, limit)
        )
        shares: dict[int, Array] = {}
        steep: dict[int, Matrix] = {}
        for feed in network.pre_activations:
            rows = self._steep(feed, shares, steep)
            base, most = self._base[feed], room.most(rows)
            with np.errstate(invalid="ignore", over="ignore"):
                share = (most - np.maximum(base, 0.0)) / most * (1 + 8 * FLOAT64_UNIT)
            share = np.where(np.isfinite(share), np.minimum(share, 1.0), 1.0)
            shares[feed], steep[feed] = np.where(most <= base, 0.0, share), rows
        return self._distance(self._steep(-1, shares, steep), region)

    def _steep(self, name: int, shares: dict[int, Array], steep: dict[int, Matrix]) -> Matrix:
        """How fast rows fall at most, `[Q, 2 D]`, by secants of all that they read."""
        total: Matrix | None = None
        terms = 16
        for activation, through in self._rows[name].through.items():
            feed = self._query.network.nodes[activation].inputs[0]
            share = shares[feed] * self._piece.lift(activation)
            if not share.any():
                continue
            terms += len(share)
            falling = scaled_columns(positive(-through), share)
            part = product(falling, steep[feed])[0]
            total = part if total is None else added(total, part)
        falls = self._falls[name]
        if total is not None:
            falls = added(falls, total * (1 + 4 * gamma(terms)))
        return positive(falls) * (1 + 4 * FLOAT64_UNIT)

    def _distance(self, steep: Matrix, region: Region | None) -> float:
        """The distance at which some clause's margins may all be 0."""
        query = self._query
        rows = steep.toarray() if isinstance(steep, csr_array) else steep
        rows = rows + TINY
        ends = np.zeros(query.center.size), np.ones(query.center.size)
        if region is not None:
            box = bounding_box(region)
            ends = box.lower.reshape(-1), box.upper.reshape(-1)
        each = _least(query.objective, query.center, rows, self._base[-1], ends)
        prop = query.within(0.0).prop
        each = np.where(np.isnan(each), -np.inf, each)
        return float(prop.clause_values(each[None]).min(initial=math.inf))


def _falls(slopes: Matrix) -> Matrix:
    """Rates at which rows fall as inputs rise and as they fall."""
    if isinstance(slopes, csr_array):
        return csr_array(hstack([-slopes, slopes], format="csr"))
    return np.concatenate([-slopes, slopes], axis=1)


def _either(rows: Matrix) -> Matrix:
    """Of rates as inputs rise and as they fall, the greater ones."""
    half = rows.shape[1] // 2
    if isinstance(rows, csr_array):
        return csr_array(rows[:, :half].maximum(rows[:, half:]))
    return np.maximum(rows[:, :half], rows[:, half:])


def _least(
    objective: Objective, image: Array, steep: Array, need: Array, ends: tuple[Array, Array]
) -> Array:
    """Lower bounds of the distance of changes in a box.

    Rows fall by `need` at least `[Q]`, at rates as inputs rise and fall `[Q, 2 D]`. A norm is that
    of both kinds of changes apart; where one input may do both, so may no change.
    """
    either, count = np.asarray(_either(steep)), image.size
    far = _far(image, ends)
    if isinstance(objective, L1TvDistance):
        prices = objective.prices(image, 0.0)
        weights = L1Distance(np.concatenate([prices.up, prices.down]))
        apart = weights.least(np.zeros(2 * count), steep, -need, np.zeros(2 * count), far)
        with np.errstate(invalid="ignore"):  # infinite where nothing in reach falls so far
            lost = 4 * FLOAT64_UNIT * (np.abs(apart) + abs(prices.room))
            apart = np.where(np.isposinf(apart), np.inf, apart - prices.room - lost)
        return np.fmax(objective.least_moved(image, either, need, *ends), apart)
    most = np.maximum(far[:count], far[count:])
    found = objective.least(np.zeros(count), either, -need, np.zeros(count), most)
    if objective.norm is not None:
        apart = objective.least(np.zeros(2 * count), steep, -need, np.zeros(2 * count), far)
        found = np.fmax(found, apart)
    return found
