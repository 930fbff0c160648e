"""Which neuron to split next: one scorer a file."""

from closegap.branching.evidence import Evidence, Scorer
from closegap.branching.options import FILTERS, SCORERS, BranchingOptions

__all__ = ["FILTERS", "SCORERS", "BranchingOptions", "Evidence", "Scorer"]
