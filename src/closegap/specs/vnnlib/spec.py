"""What a VNN-LIB file says: boxes of inputs, and what breaks the property in each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from closegap.core.errors import SpecError
from closegap.specs.property import Property
from closegap.specs.region import Box

__all__ = ["Case", "Spec"]

_SUFFIXES = (".gz", ".vnnlib")


@dataclass(frozen=True, eq=False)
class Case:
    """One box and the property asked in it.

    Attributes:
        box: flat, float64 `[D]`, exactly as written; input i is entry i of the network's input in
            row-major order.
        prop: of the outputs; `strict` is False, for the file's comparisons are closed.
    """

    box: Box
    prop: Property


@dataclass(frozen=True, eq=False)
class Spec:
    """A file's assertions in disjunctive form: sat iff some case can be broken.

    Attributes:
        cases: at least one; no two have the same box.
        inputs: how many inputs the file declares (D).
        outputs: how many outputs (C).
        source: where it was read from, for messages.
        digest: SHA-256 of the (uncompressed) text, in hex.

    Raises:
        SpecError: there is no case, or one does not have `inputs` inputs and `outputs` outputs.
    """

    cases: tuple[Case, ...]
    inputs: int
    outputs: int
    source: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        if not self.cases:
            raise SpecError("a specification needs at least one case", source=self.source)
        for number, case in enumerate(self.cases):
            shape, count = case.box.lower.shape, case.prop.rows.shape[1]
            if shape != (self.inputs,) or count != self.outputs:
                raise SpecError(
                    f"case {number} has a box of shape {shape} and {count} outputs, wanted "
                    f"({self.inputs},) and {self.outputs}",
                    source=self.source,
                )

    @property
    def name(self) -> str:
        """The file's name without folder and suffixes."""
        name = PurePath(self.source).name
        for suffix in _SUFFIXES:
            name = name.removesuffix(suffix)
        return name
