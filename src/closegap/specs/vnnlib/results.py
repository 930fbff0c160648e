"""VNN-COMP result files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from closegap.core.errors import OptionError
from closegap.core.verdict import Reason, Verdict

if TYPE_CHECKING:
    from closegap.core.bracket import Witness

__all__ = ["RESULT_WORDS", "result_word", "write_result"]

#: What the first line of a result file may say.
RESULT_WORDS: tuple[str, ...] = ("sat", "unsat", "timeout", "unknown", "error")

_WORDS = {Verdict.VERIFIED: "unsat", Verdict.FALSIFIED: "sat"}


def result_word(verdict: Verdict, reason: Reason | None = None) -> str:
    """VNN-COMP's word for a verdict: `timeout` where an unknown is for lack of time."""
    if verdict in _WORDS:
        return _WORDS[verdict]
    return "timeout" if reason is Reason.TIME else "unknown"


def write_result(verdict: str, witness: Witness | None = None) -> str:
    """The content of a result file.

    Args:
        verdict: one of `RESULT_WORDS`.
        witness: needed after `sat`, ignored otherwise. Its input and its outputs as onnxruntime
            gave them follow, flattened in row-major order, every float32 value exact.

    Raises:
        OptionError: the word is none of those, or `sat` comes without a witness.
    """
    if verdict not in RESULT_WORDS:
        raise OptionError(f"a result is one of {', '.join(RESULT_WORDS)}, not '{verdict}'")
    if verdict != "sat":
        return f"{verdict}\n"
    if witness is None:
        raise OptionError("a result 'sat' needs its witness")
    values = [
        f"({kind}_{index} {value!r})"
        for kind, array in (("X", witness.input), ("Y", witness.outputs_float32))
        for index, value in enumerate(array.reshape(-1).astype(float).tolist())
    ]
    return "sat\n(" + "\n ".join(values) + ")\n"
