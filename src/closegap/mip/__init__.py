"""Linear and mixed-integer programs: a solver-neutral model, and one file for each solver.

Knows neither networks nor bounds. What a solver answers is a *claim*: callers replay points and
lower dual bounds before they believe them.
"""
