"""Verdicts and least margins of random tiny networks against enumeration.

Every question is asked twice: for its least margin, and for a verdict with the least margin moved
close to zero, by engines drawn at random. `wrong` must be zero; `open` is what was not decided.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import click
import numpy as np

from closegap.strategy.result import Result
from closegap.strategy.solve import solve
from closegap.testing.completeness import (
    KINDS,
    Question,
    judge_optimum,
    judge_verdict,
    random_question,
)
from common import print_table

#: What is asked, by which engines, and whether for the optimum.
_Asked = tuple[Question, tuple[str, ...], bool]

_OPTIMUM = ("pgd", "alpha-crown", "region-walk", "bab")
_CHAINS: dict[str, tuple[str, ...]] = {
    "bab": ("crown", "bab"),
    "input-split": ("input-split", "bab"),
    "refine": ("crown", "refine", "bab"),
    "layered": ("crown", "layered", "bab"),
    "cutoff": ("crown", "cutoff", "bab"),
    "cuts": ("crown", "cuts", "bab"),
    "mip": ("crown", "mip", "bab"),
}
_GAPS = (1e-4, 1e-3, 1e-2, 0.1)


@click.command()
@click.option("--count", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the first question.")
@click.option("--timeout", type=float, default=20.0, show_default=True, help="Seconds a question.")
def main(count: int, seed: int, timeout: float) -> None:
    """Ask COUNT questions and print how many answers are right, open and wrong."""
    tally: Counter[tuple[str, str]] = Counter()
    spent: defaultdict[str, float] = defaultdict(float)
    kinds = list(KINDS)
    for number in range(seed, seed + count):
        rng, kind = np.random.default_rng(number), kinds[number % len(kinds)]
        began = time.process_time()
        question = random_question(rng, kind)
        spent["enumeration"] += time.process_time() - began
        asked: dict[str, _Asked] = {"optimum": (question, _OPTIMUM, True)}
        chain = str(rng.choice(list(_CHAINS)))
        gap = float(rng.choice(_GAPS)) * float(rng.choice([-1, 1]))
        asked[chain] = (question.moved_to(gap), _CHAINS[chain], False)
        for name, (moved, engines, optimum) in asked.items():
            began = time.process_time()
            result = solve(moved.query, timeout=timeout, engines=engines, optimum=optimum)
            seconds = time.process_time() - began
            spent[name] += seconds
            spent[kind] += seconds
            word = (judge_optimum if optimum else judge_verdict)(moved, result)
            tally[name, word] += 1
            tally[kind, word] += 1
            if word != "right":
                _tell(number, kind, name, word, moved, result)
    _print(tally, spent, [*KINDS, "optimum", *_CHAINS])


def _tell(number: int, kind: str, name: str, word: str, question: Question, result: Result) -> None:
    bracket = result.bracket
    click.echo(
        f"{number} {kind} {name}: {word}; least margin {question.least:.9g}, "
        f"bracket [{bracket.lower:.9g}, {bracket.upper:.9g}], {result.seconds:.1f} s; "
        f"{result.detail}",
        err=True,
    )


def _print(
    tally: Counter[tuple[str, str]], spent: Mapping[str, float], names: Sequence[str]
) -> None:
    words = ("right", "open", "wrong")
    rows = [
        (name, *(str(tally[name, word]) for word in words), f"{spent[name]:.1f}") for name in names
    ]
    rows.append(("enumeration", "", "", "", f"{spent['enumeration']:.1f}"))
    print_table("answers against enumeration", ("", *words, "processor seconds"), rows)


if __name__ == "__main__":
    main()
