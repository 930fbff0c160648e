"""How the tree searches; every part can be left out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from closegap.attacks.activation.nearest import NearestAttack
from closegap.bounds.multineuron.vertices import GREATEST_GROUP
from closegap.core.errors import OptionError
from closegap.core.tolerance import Tolerance

__all__ = [
    "OURS",
    "PAPER",
    "Branching",
    "Curved",
    "GroupOptions",
    "Heuristic",
    "Order",
    "SparseOptions",
]


class Branching(StrEnum):
    """Which undecided neuron is split.

    `LARGEST`: the one with the greatest activation in the relaxed solution (the paper's); of nodes
    bounded together, where the plane below the margin is least.
    `GAP`: the one whose relaxed activation is farthest off, times what its triangle is worth; of
    nodes bounded together, the one whose triangle costs the plane most.
    `GAINS`: the one whose splits raised bounds most so far. Unknown ones are tried first; of nodes
    bounded together none is tried, and unknown ones are taken for mean ones.
    """

    LARGEST = "largest"
    GAP = "gap"
    GAINS = "gains"


class Order(StrEnum):
    """Which node comes next.

    `DEPTH`: the newest. `BEST`: the least bound. `PLUNGE`: a child as long as there is one, then
    the least bound; of nodes bounded together, one half are the newest and one the least bounds.
    """

    DEPTH = "depth-first"
    BEST = "best-first"
    PLUNGE = "plunge"


class Heuristic(StrEnum):
    """Where counterexamples come from.

    `CONSISTENT`: from relaxed solutions that are exact. `EVERY`: the relaxed image of every node,
    and now and then the nearest point of its cell; of nodes bounded together, where their planes
    are least, drawn in towards the image, and the cell of the nearest.
    """

    CONSISTENT = "consistent"
    EVERY = "every"


class Curved(StrEnum):
    """Who solves programs whose distance is not linear: l2, and isotropic total variation.

    `PLAIN`: PIQP the quadratic ones, HiGHS those of lengths of gradients, under tangents.
    `CLARABEL`: Clarabel both, where it is installed.
    """

    PLAIN = "plain"
    CLARABEL = "clarabel"


@dataclass(frozen=True)
class GroupOptions:
    """Which undecided neurons are bounded together, by rows over their hulls.

    Attributes:
        size: neurons a group, from two to four.
        units: of each layer, those considered: where the bounds lose most.
        groups: a layer, at most.
        rows: of each layer in each round, at most (one for each of `points` at least).
        points: nodes at which rows cut off what the bounds rest on.
        rounds: of rows that cut off what the bounds rest on.
        steps: of the ascent after each round, for one node.
        worth: rows stay where they win at least this share of what planes of open nodes are below
            zero: with them every node is dearer.
        after: rows are looked for once so many nodes were bounded; `None` for never.

    Raises:
        OptionError: groups of another size.
    """

    size: int = 3
    units: int = 25
    groups: int = 50
    rows: int = 50
    points: int = 8
    rounds: int = 2
    steps: int = 30
    worth: float = 0.1
    after: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.size <= GREATEST_GROUP:
            raise OptionError(f"groups have 2 to {GREATEST_GROUP} neurons, got {self.size}")


@dataclass(frozen=True)
class SparseOptions:
    """The parts.

    Attributes:
        branching: see `Branching`.
        order: see `Order`.
        on_first: the child with the neuron on comes first, not the one the relaxed image is in;
            children of nodes bounded together come together.
        heuristic: see `Heuristic`.
        cutoff: bound the neurons within the best distance, and anew whenever it shrinks to
            `shrunk`; not on the whole box.
        shrunk: see `cutoff`; networks of few neurons are bounded anew sooner.
        propagate: bound nodes by linear propagation before any program of theirs.
        reduced_costs: fix phases whose opposite the same multipliers of a program exclude. Those of
            an ascent cost as much with either phase, so they exclude none that is open: see
            `rebound` for nodes bounded together.
        sweeps: over a node's units at most, before and after each program; over a ground's where
            total variation counts. Nodes bounded together are not swept, but `rebound`.
        tighten: sweep with the planes that programs prove, too.
        quick: look for a counterexample to start with, where none is given.
        attack: looks for near counterexamples once the tree has grown long; `None` for none.
        attack_share: of the time for either.
        settle: bring the nearest counterexample to the nearest point of its linear region, and of
            those beside it, at the end.
        tried: units whose children are bounded before one is chosen (`GAINS`), of programs.
        reliable: a unit whose gains were seen so often on both sides is not tried again.
        batch: how many nodes are bounded together, by ascent on slopes, and split; programs are
            left the nodes without an open phase. 0 for programs alone.
        steps: of the ascent, for one node.
        rebound: nodes with a bound of at least this share of the best distance bound their units
            again when they are split; infinity for none. What is gained further up is less: there
            the margins' planes hardly cut the region.
        groups: rows over groups of neurons.
        tolerance: a node this close to the best distance is closed.
        within: only inputs nearer than this count; no greater bound is proved.
        climb: steps on the slopes of each neuron's bounds within such a distance; 0 for none.
        staged: where the tree has grown long, first trees within smaller distances, which are
            shorter by far.
        pixels: where pixels are counted, choices of them are cut up beside phases, in turns.
        secants: where no lower end is known, one by secants through the image before all others.
        known: a lower end that is proved already. A tree that has not passed it in a fifth of its
            time gives up: its bounds are too weak for this network.
        curved: see `Curved`.
    """

    branching: Branching = Branching.GAP
    order: Order = Order.BEST
    on_first: bool = False
    heuristic: Heuristic = Heuristic.EVERY
    cutoff: bool = True
    shrunk: float = 0.9
    propagate: bool = True
    reduced_costs: bool = True
    sweeps: int = 4
    tighten: bool = True
    quick: bool = True
    attack: NearestAttack | None = field(default_factory=NearestAttack)
    attack_share: float = 0.1
    settle: bool = True
    tried: int = 6
    reliable: int = 4
    batch: int = 64
    steps: int = 8
    rebound: float = 0.2
    groups: GroupOptions = field(default_factory=GroupOptions)
    tolerance: Tolerance = field(default_factory=Tolerance)
    within: float = math.inf
    climb: int = 0
    staged: bool = True
    pixels: bool = True
    secants: bool = True
    known: float = -math.inf
    curved: Curved = Curved.PLAIN


#: The default.
OURS = SparseOptions()

#: The branch and bound of Ben Mhenni, Ibn Khedher and Canu (2024): triangles over the whole box,
#: the largest activation, depth first with the neuron on, counterexamples from exact relaxations.
PAPER = SparseOptions(
    branching=Branching.LARGEST,
    order=Order.DEPTH,
    on_first=True,
    heuristic=Heuristic.CONSISTENT,
    cutoff=False,
    propagate=False,
    reduced_costs=False,
    tighten=False,
    batch=0,
    quick=False,
    attack=None,
    settle=False,
    staged=False,
    pixels=False,
    secants=False,
)
