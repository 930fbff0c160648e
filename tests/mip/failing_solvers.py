"""Solvers that overrun or crash. Light to import: workers load them."""

from __future__ import annotations

import os
import time

import numpy as np

from closegap.core.errors import OptionError
from closegap.mip.model import Capabilities, Claim, LinearSession, Model, SolveOptions, Status


class Deaf:
    """A solver that hears neither its limit nor a request to stop, after one point and bound."""

    name = "deaf"
    capabilities = Capabilities(
        linear=True,
        integer=True,
        warm_start=False,
        duals=False,
        streams_incumbents=True,
        killable=False,
    )

    def installed(self) -> bool:
        return True

    def session(self, model: Model) -> LinearSession:
        raise OptionError("none")

    def solve(self, model: Model, options: SolveOptions) -> Claim:
        assert options.on_incumbent is not None
        assert options.on_bound is not None
        print("noise on standard output")
        options.on_bound(-7.0)
        options.on_incumbent(np.arange(model.columns, dtype=np.float64), 5.0)
        time.sleep(60.0)
        return Claim(Status.OPTIMAL)


class Crashing(Deaf):
    """A solver whose native code ends the process."""

    def solve(self, model: Model, options: SolveOptions) -> Claim:
        os.abort()
