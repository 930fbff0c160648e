"""What a property loads, in both processes; as a program `_one_property.py MODEL SPEC`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from closegap.evaluate import WorkOptions, verify_file
from closegap.evaluate.work import default_solver

if TYPE_CHECKING:
    from closegap.core.budget import Budget
    from closegap.specs.query import Query
    from closegap.strategy.result import Result


def noting(query: Query, timeout: float, engines: tuple[str, ...], budget: Budget) -> Result:
    """The strategy's own answer; its detail names what the worker has loaded for this and CROWN."""
    result = default_solver(query, timeout, engines, budget)
    from closegap.strategy.engines import ENGINES

    ENGINES["crown"]()
    return replace(result, detail=json.dumps(sorted(sys.modules)))


def main() -> None:
    for name in ("main", "verify", "rows"):
        import_module(f"closegap.cli.{name}")
    import _one_property  # so that the worker finds the function

    model, spec = map(Path, sys.argv[1:])
    options = WorkOptions(solver=_one_property.noting)
    record = verify_file(model, spec, timeout=60.0, options=options)
    print(record.verdict, json.dumps(sorted(sys.modules)), record.detail, sep="\n")


if __name__ == "__main__":
    main()
