"""VNN-LIB 1 files, VNN-COMP instance lists and result files.

    spec = load_vnnlib("prop_6.vnnlib.gz")
    for query in queries(spec, network):
        ...                                  # sat iff one of them is falsified

A file's assertions describe a counterexample. `Spec` holds them as cases: a box and a property
each. What is understood:

- `(declare-const X_i Real)` and `Y_i`, numbered from 0 without gaps; `declare-fun` without
  arguments; `set-logic`, `set-info`, `set-option`, `check-sat`, `get-model` and `exit` are skipped;
- `(assert F)`, where F is built by `and` and `or`, nested as you like, from `true`, `false` and
  comparisons `<=`, `>=`, `<`, `>`, `=` of two or more linear terms;
- linear terms of `+`, `-`, `*`, `/`, numbers (integer, decimal, scientific, `1/3`) and outputs;
  inputs may only be bounded one at a time: `(<= X_0 0.5)`.

Strict comparisons are read as their closed forms: the set of counterexamples grows by its border,
so a proof stays a proof. Literals are float64, and so is the arithmetic on them.

Source: the VNN-LIB standard 1.0 (https://www.vnnlib.org) and the rules of VNN-COMP 2021 to 2024.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from closegap.core.imports import lazily

if TYPE_CHECKING:
    from closegap.specs.vnnlib.asking import queries
    from closegap.specs.vnnlib.instances import Instance, load_instances
    from closegap.specs.vnnlib.load import load_vnnlib, parse_vnnlib
    from closegap.specs.vnnlib.results import result_word, write_result
    from closegap.specs.vnnlib.spec import Case, Spec
    from closegap.specs.vnnlib.writer import write_vnnlib

__all__ = [
    "Case",
    "Instance",
    "Spec",
    "load_instances",
    "load_vnnlib",
    "parse_vnnlib",
    "queries",
    "result_word",
    "write_result",
    "write_vnnlib",
]

_HOME = {
    "Case": "spec",
    "Instance": "instances",
    "Spec": "spec",
    "load_instances": "instances",
    "load_vnnlib": "load",
    "parse_vnnlib": "load",
    "queries": "asking",
    "result_word": "results",
    "write_result": "results",
    "write_vnnlib": "writer",
}

__getattr__, __dir__ = lazily(__name__, _HOME)
