"""The candidate pool: the best inputs found so far, with distinct activation patterns.

Every engine writes to it and every engine may read it: what candidates agree on is likely, what
they disagree on is worth searching. Source: `BaB-Attack` section 3.2, with the insert rule
corrected so that the worst entry leaves only when the newcomer stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, UInt64
from numpy.typing import NDArray

from closegap.attacks.patterns import activation_patterns, hamming, pack, unpack
from closegap.core.errors import OptionError
from closegap.runtime.torch_network import TorchNetwork

__all__ = ["DEFAULT_CAPACITY", "Candidate", "CandidatePool", "PatternOf"]

DEFAULT_CAPACITY = 100

PatternOf: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One input of the pool.

    Attributes:
        point: float32, in the network's input shape.
        margin: the property's margin there, as the engine that found it evaluated it.
        pattern: bool `[N]`, the phase of every neuron.
        engine: which engine found it.
    """

    point: NDArray[np.float32]
    margin: float
    pattern: NDArray[np.bool_]
    engine: str


@dataclass(frozen=True, eq=False)
class _Entry:
    point: NDArray[np.float32]
    margin: float
    words: NDArray[np.uint64]
    engine: str


class CandidatePool:
    """At most `capacity` inputs, the best by margin, no two with the same activation pattern.

    A newcomer is compared with its nearest entry (Hamming distance over the neurons in focus).
    Nearer than `threshold`, it replaces that entry iff its margin is lower. Otherwise its pattern
    is new: it is added, and the worst leaves when the pool is over capacity; in a full pool a
    newcomer no better than the worst is refused. All methods may be called from any thread.

    Args:
        pattern_of: computes patterns `[M, N]` of points `[M, *shape]` where a caller gives none.
        capacity: most entries kept.
        threshold: least Hamming distance between a new entry and its nearest one, at least 1.
    """

    def __init__(
        self,
        pattern_of: PatternOf | None = None,
        *,
        capacity: int = DEFAULT_CAPACITY,
        threshold: int = 1,
    ) -> None:
        if capacity < 1 or threshold < 1:
            raise OptionError(
                f"a pool's capacity and threshold must be at least 1, got {capacity}, {threshold}"
            )
        self.capacity = capacity
        self.threshold = threshold
        self._pattern_of = pattern_of
        self._lock = Lock()
        self._entries: list[_Entry] = []
        self._neurons: int | None = None
        self._focus: NDArray[np.bool_] | None = None
        self._mask: NDArray[np.uint64] | None = None

    @classmethod
    def for_network(
        cls, network: TorchNetwork, *, capacity: int = DEFAULT_CAPACITY, threshold: int = 1
    ) -> CandidatePool:
        """A pool that computes the patterns of this network itself."""
        return cls(
            lambda points: activation_patterns(network, points),
            capacity=capacity,
            threshold=threshold,
        )

    def __len__(self) -> int:
        """How many candidates there are now."""
        with self._lock:
            return len(self._entries)

    def add(
        self,
        points: Float[np.ndarray, "M ..."],
        margins: Sequence[float] | NDArray[np.floating],
        patterns: Bool[np.ndarray, "M N"] | None = None,
        *,
        engine: str,
    ) -> int:
        """Offer candidates.

        Args:
            points: float32 `[M, *shape]`; copied.
            margins: `[M]`; a candidate whose margin is not finite is refused.
            patterns: `[M, N]` phases of all neurons, or `None` to have them computed.
            engine: who found them.

        Returns:
            how many of them entered.

        Raises:
            ValueError: no patterns, and the pool cannot compute them; or lengths do not fit.
        """
        values = np.asarray(margins, dtype=np.float64)
        if values.shape != (len(points),):
            raise ValueError(f"{len(points)} points came with margins of shape {values.shape}")
        if not len(points):
            return 0
        given = self._patterns(points) if patterns is None else patterns
        if len(given) != len(points):
            raise ValueError(f"{len(points)} points came with {len(given)} patterns")
        words = pack(given)
        with self._lock:
            self._check_length(given.shape[1])
            return sum(
                self._insert(_Entry(points[i].copy(), float(values[i]), words[i], engine))
                for i in np.argsort(values, kind="stable")
                if np.isfinite(values[i])
            )

    def best(self, count: int | None = None) -> tuple[Candidate, ...]:
        """The `count` candidates of least margin (all by default), in ascending order."""
        entries, neurons = self._snapshot()
        return tuple(
            Candidate(e.point, e.margin, unpack(e.words[None], neurons)[0], e.engine)
            for e in entries[:count]
        )

    def apart(self, count: int, distance: int) -> tuple[Candidate, ...]:
        """The best candidates whose patterns differ in so many neurons; at most `count` of them.

        Each is the best of those that are far from all before it, so none of them is another's
        neighbour from the same minimum.
        """
        entries, neurons = self._snapshot()
        chosen: list[Candidate] = []
        far = np.ones(len(entries), dtype=np.bool_)
        words = np.stack([e.words for e in entries]) if entries else np.zeros((0, 0), np.uint64)
        while far.any() and len(chosen) < count:
            entry = entries[int(np.argmax(far))]
            pattern = unpack(entry.words[None], neurons)[0]
            chosen.append(Candidate(entry.point, entry.margin, pattern, entry.engine))
            far &= hamming(words, entry.words) >= max(1, distance)
        return tuple(chosen)

    def active_fraction(self) -> Float[np.ndarray, "N"]:
        """For every neuron the fraction of the pool in which it is active; 0.5 when empty."""
        entries, neurons = self._snapshot()
        if not entries:
            return np.full(neurons, 0.5)
        bits = unpack(np.stack([e.words for e in entries]), neurons)
        return np.asarray(bits.mean(axis=0), dtype=np.float64)

    def commonness(self) -> Float[np.ndarray, "N"]:
        """`max(p, 1 - p)` with p the active fraction: 1 where the pool is unanimous."""
        fraction = self.active_fraction()
        return np.asarray(np.maximum(fraction, 1.0 - fraction))

    def majority(self) -> Bool[np.ndarray, "N"]:
        """The phase that most of the pool has; active on a tie."""
        return np.asarray(self.active_fraction() >= 0.5)

    def focus(self, neurons: Bool[np.ndarray, "N"]) -> None:
        """Compare patterns over these neurons only (the unstable ones, say) from now on.

        The present entries are inserted anew, so those that differ nowhere in focus merge.
        """
        with self._lock:
            self._check_length(len(neurons))
            self._focus = neurons.copy()
            self._mask = pack(neurons[None])[0]
            entries, self._entries = self._entries, []
            for entry in entries:
                self._insert(entry)

    def _patterns(self, points: NDArray[np.float32]) -> NDArray[np.bool_]:
        if self._pattern_of is None:
            raise ValueError("this pool cannot compute patterns: give them with the points")
        return self._pattern_of(points)

    def _check_length(self, neurons: int) -> None:
        if self._neurons is None:
            self._neurons = neurons
        if neurons != self._neurons:
            raise ValueError(f"patterns have {neurons} neurons, those of the pool {self._neurons}")

    def _snapshot(self) -> tuple[list[_Entry], int]:
        with self._lock:
            return list(self._entries), self._neurons or 0

    def _insert(self, entry: _Entry) -> bool:
        """Insert under the lock; entries stay sorted by margin."""
        distances = self._distances(entry.words)
        nearest = int(np.argmin(distances)) if len(distances) else -1
        if nearest >= 0 and distances[nearest] < self.threshold:
            if entry.margin >= self._entries[nearest].margin:
                return False
            del self._entries[nearest]
        elif len(self._entries) >= self.capacity:
            if entry.margin >= self._entries[-1].margin:
                return False
            self._entries.pop()
        place = int(np.searchsorted([e.margin for e in self._entries], entry.margin, side="right"))
        self._entries.insert(place, entry)
        return True

    def _distances(self, word: UInt64[np.ndarray, "words"]) -> NDArray[np.int64]:
        if not self._entries:
            return np.zeros(0, dtype=np.int64)
        words = np.stack([e.words for e in self._entries])
        if self._mask is None:
            return hamming(words, word)
        return hamming(words & self._mask, word & self._mask)
