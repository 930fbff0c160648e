"""HiGHS's own object: made, given options and a program, run."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from closegap.core.errors import MissingDependencyError, OptionError
from closegap.core.numerics import SMALL_COEFFICIENT
from closegap.mip.model import SEEDS, Array, Model, SolveOptions

__all__ = [
    "common_options",
    "floats",
    "highspy_module",
    "new_native",
    "pass_model",
    "run_native",
    "set_options",
]

_ROWWISE = 2
#: HiGHS takes no coefficient as large as this.
_LARGE_COEFFICIENT = 1e15
_MINIMISE = 1


def highspy_module() -> ModuleType:
    """The library.

    Raises:
        MissingDependencyError: it is not there.
    """
    try:
        import highspy  # native and slow to load: only where something is solved
    except ImportError as error:
        raise MissingDependencyError(f"highspy cannot be imported ({error})") from None
    return highspy


def new_native() -> Any:
    """An object that prints nothing."""
    native = highspy_module().Highs()
    native.silent()
    return native


def run_native(native: Any) -> str:
    """Run, and return the name of the model's status."""
    status = native.run()
    if status.name == "kError" and native.getModelStatus().name == "kNotset":
        # HiGHS fixes its thread count at a thread's first solve, and refuses another one after it.
        type(native).resetGlobalScheduler(True)
        native.run()
    return str(native.getModelStatus().name)


def common_options(options: SolveOptions) -> dict[str, object]:
    """What linear and mixed-integer solves are both given."""
    return {
        "threads": options.threads,
        "random_seed": options.seed % SEEDS,
        "primal_feasibility_tolerance": options.feasibility,
        "dual_feasibility_tolerance": options.feasibility,
    }


def set_options(native: Any, values: dict[str, object]) -> None:
    """Set what HiGHS calls by these names.

    Raises:
        OptionError: it refuses one.
    """
    for name, value in values.items():
        if native.setOptionValue(name, value).name == "kError":
            raise OptionError(f"HiGHS refuses {name} = {value}")


def pass_model(native: Any, model: Model) -> str:
    """Hand the arrays over; returns why that cannot be, or an empty string."""
    flaw = model.flaw() or ("HiGHS knows no cones" if model.cones else "")
    if flaw:
        return flaw
    set_options(native, {"small_matrix_value": SMALL_COEFFICIENT})
    status = native.passModel(
        model.columns,
        model.rows,
        model.matrix.nnz,
        _ROWWISE,
        _MINIMISE,
        model.constant,
        floats(model.cost),
        floats(model.lower),
        floats(model.upper),
        floats(model.row_lower),
        floats(model.row_upper),
        model.matrix.indptr[:-1].astype(np.int32),
        model.matrix.indices.astype(np.int32),
        floats(model.matrix.data),
        model.integer.astype(np.int32),
    )
    if status.name == "kError":
        largest = float(np.abs(model.matrix.data).max(initial=0.0))
        return (
            f"HiGHS refused the model, whose largest coefficient is {largest:.0e}; "
            f"it takes none of {_LARGE_COEFFICIENT:.0e} or more"
        )
    return ""


def floats(values: Any) -> Array:
    """As HiGHS reads them."""
    return np.ascontiguousarray(values, dtype=np.float64)
