"""A query prepared for attacks that go from cell to cell."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from closegap.attacks.activation.cells import UnitNetwork, unit_network
from closegap.attacks.activation.programs import PROGRAMS, CellProgram, Goal, Ground, Optimum
from closegap.attacks.projection import region_norm
from closegap.bounds.intermediate import NetworkBounds
from closegap.core.budget import Budget
from closegap.encode.reduced import ReducedNetwork, reduce_network
from closegap.graph.ops import LeakyRelu, Max, Relu
from closegap.graph.transform import max_to_relu
from closegap.specs.property import Property
from closegap.specs.query import Query
from closegap.specs.region import Ball, Box, bounding_box
from closegap.verify.incomplete import LinearVerifier

__all__ = ["UNSUITED", "RegionProblem", "piecewise_linear", "region_problem"]

#: Said where there is no problem though there was time.
UNSUITED = "without cells: the network is not piecewise linear, or too large to be written densely"


@dataclass(frozen=True, eq=False)
class RegionProblem:
    """The query in units and programs.

    Attributes:
        query: what is attacked, on a network without max pooling.
        bounds: of that network's activations' inputs.
        reduced: the network on the region.
        units: its layers.
        program: optimises over a cell.
        ground: the flat box.
        radius: of the ball around the ground's center; infinity for a box.
        goals: of each clause.
    """

    query: Query
    bounds: NetworkBounds
    reduced: ReducedNetwork
    units: UnitNetwork
    program: CellProgram
    ground: Ground
    radius: float
    goals: tuple[Goal, ...]

    @property
    def flat(self) -> Query:
        """The query about the reduced network, on flat inputs."""
        region = self.query.region
        box = bounding_box(region)
        flat = Box(box.lower.reshape(-1), box.upper.reshape(-1))
        if isinstance(region, Ball):
            around = replace(region, box=flat, center=region.center.reshape(-1))
            return Query(self.reduced.network, around, self.query.prop)
        return Query(self.reduced.network, flat, self.query.prop)

    def margins(self, point: Float[np.ndarray, "D"]) -> Float[np.ndarray, "K"]:
        """Every clause's margin at a flat point, in float64."""
        outputs = self.units.outputs(point)
        return np.array([goal.margin(outputs) for goal in self.goals])

    def lowering(self, clause: int, radius: float, budget: Budget) -> Optimum:
        """Of cells, the least margin of a clause within a radius of the ground's center."""
        goal = self.goals[clause]
        return lambda cell, near: self.program.least_margin(cell, goal, radius, near, budget)

    def gradient(
        self, clause: int, point: Float[np.ndarray, "D"], values: Float[np.ndarray, "U"]
    ) -> Float[np.ndarray, "D"]:
        """The derivative of a clause's margin by the flat input.

        Args:
            clause: whose.
            point: flat, where.
            values: of the units' pre-activations there.
        """
        goal = self.goals[clause]
        outputs = self.units.outputs_behind(point, values)
        worst = int(np.argmax(goal.rows @ outputs + goal.offsets))
        return self.units.gradient(values >= 0, goal.rows[worst])

    def inside(self, point: Float[np.ndarray, "D"]) -> Float[np.ndarray, "D"]:
        """The point moved into the box, then drawn towards the center until the ball holds it."""
        clipped = np.clip(point, self.ground.lower, self.ground.upper)
        reach = self.program.distance(clipped)
        if reach <= self.radius:
            return np.asarray(clipped)
        center = self.ground.center
        return np.asarray(center + (self.radius / reach) * (clipped - center))


def piecewise_linear(query: Query) -> bool:
    """True iff every activation is a ReLU, a leaky ReLU or max pooling."""
    nodes = query.network.nodes
    return all(isinstance(nodes[i].op, Relu | LeakyRelu | Max) for i in query.network.activations)


def region_problem(
    query: Query, budget: Budget, bounds: NetworkBounds | None = None
) -> RegionProblem | None:
    """Prepare a query.

    Args:
        query: any norm, any property.
        budget: for bounds on the activations, where none are known, and for composing.
        bounds: of the activations' inputs over the region, in float64.

    Returns:
        `None` where the network is not piecewise linear, too large to be written densely, or the
        budget ended before it was.
    """
    if not piecewise_linear(query):
        return None
    network = query.network
    if any(isinstance(network.nodes[i].op, Max) for i in network.activations):
        network, bounds = max_to_relu(network), None
        query = replace(query, network=network)
    if bounds is None:
        bounds = LinearVerifier(query).activations(budget)
    box = bounding_box(query.region)
    lower, upper = box.lower.reshape(-1), box.upper.reshape(-1)
    reach = np.maximum(np.abs(lower), np.abs(upper))
    reduced = reduce_network(network, bounds.flat(), reach, budget=budget)
    if reduced is None:
        return None
    ground = Ground(lower, upper, query.reference.reshape(-1))
    radius = float(query.region.radius) if isinstance(query.region, Ball) else math.inf
    program = PROGRAMS[region_norm(query.region)](ground)
    units, goals = unit_network(reduced), _goals(query.prop)
    return RegionProblem(query, bounds, reduced, units, program, ground, radius, goals)


def _goals(prop: Property) -> tuple[Goal, ...]:
    members = (prop.clause == clause for clause in range(prop.clauses))
    return tuple(Goal(prop.rows[which], prop.offsets[which]) for which in members)
